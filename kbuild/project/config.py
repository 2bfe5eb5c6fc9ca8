"""What a project sets: ``[tool.kbuild]`` of pyproject.toml and ``conf/<env>/kbuild.yml``, the same keys in both.

The one place of precedence. Each top-level key is taken from the first that has it: conf/<env>/kbuild.yml,
conf/base/kbuild.yml, pyproject.toml. Options of the command line win over all of them. Of ``audit`` the keys below it
are taken so, and what kbuild.yml and pyproject.toml ignore counts together. The keys are documented in
kbuild.schema.json.
"""

from __future__ import annotations

import json
import os
import tomllib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from kbuild.answers import Tolerance
from kbuild.errors import ConfigurationError
from kbuild.project.model_settings import TrainingSettings
from kbuild.project.tracking_settings import TrackingSettings, make_tracking
from kbuild.trigger.trigger_settings import RemoteTrigger, Trigger, make_remotes, make_trigger
from kbuild.untrusted import BrokenText, parse_yaml, read_text, why

CONFIG_KEY = "kbuild"
"""What ``config_loader[...]`` of a Kedro session is asked for."""
CONFIG_PATTERNS = ("kbuild.yml", "kbuild.yaml")
DEFAULT_ENV = "local"
_BASE_ENV = "base"
_LARGEST = 1 << 20  # bytes
_CONF = "conf"
_SCHEMA = Path(__file__).with_name("kbuild.schema.json")
_MAX_LINES = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class ProjectConfig:
    """What a project sets, defaults where it says nothing. Options of the command line win over these.

    ``root`` is the project's folder, None outside of any; ``env`` the Kedro environment that was asked for. ``audit``
    are the places of audit's policy with what they state, the one that wins first. ``conda_names`` is a file, or pairs.
    """

    root: Path | None = None
    env: str | None = None
    training: TrainingSettings = field(default_factory=TrainingSettings)
    tracking: TrackingSettings = field(default_factory=TrackingSettings)
    base: str | None = None
    template: Path | None = None
    channels: tuple[str, ...] = ()
    conda_names: Path | tuple[tuple[str, str], ...] = ()
    interpreter: str = "auto"
    debian_mirror: str | None = None
    compression: Literal["zstd", "gzip"] = "zstd"
    slim: bool = False
    verify: bool = True
    labels: tuple[tuple[str, str], ...] = ()
    tag: str | None = None
    push: str | None = None
    cache_from: str | None = None
    cache_to: str | None = None
    audit: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    trigger: Trigger | None = None
    remotes: Mapping[str, RemoteTrigger] = field(default_factory=dict)
    state: Path = Path(".kbuild")


def read_config(root: Path, *, env: str | None = None, loader: Any = None) -> ProjectConfig:
    """The configuration of the project in ``root``.

    ``loader`` is the config loader of a Kedro session, which knows the environment, globals and runtime parameters;
    without one, conf/base and conf/``env`` (default: local) are read as Kedro would. Raises ConfigurationError with
    one line for each fault, naming file and key.
    """
    pyproject = read_pyproject(root).get("kbuild", {})
    stated = _ask_session(loader) if loader is not None else _read_conf(root, env)
    faults = [
        *_find_faults(pyproject, "pyproject.toml, [tool.kbuild]"),
        *_find_faults(stated, "kbuild.yml"),
    ]
    if faults:
        shown = faults[:_MAX_LINES] + ([f"… and {len(faults) - _MAX_LINES} more"] if len(faults) > _MAX_LINES else [])
        raise ConfigurationError("; ".join(shown), hint="every key is documented in kbuild.schema.json beside kbuild")
    policies: list[tuple[str, Mapping[str, Any]]] = []
    if stated.get("audit"):
        policies.append((f"{_place(root, env, 'audit')}, audit", stated["audit"]))
    if pyproject.get("audit"):
        policies.append(("pyproject.toml, [tool.kbuild.audit]", pyproject["audit"]))
    return replace(_make_config(root, env, {**pyproject, **stated}), audit=tuple(policies))


def find_project(start: Path) -> Path | None:
    """The nearest folder upwards whose pyproject.toml has a ``[tool.kedro]`` or a ``[tool.kbuild]``, else None."""
    return next((each for each in (start, *start.parents) if {"kbuild", "kedro"} & read_pyproject(each).keys()), None)


def read_pyproject(root: Path, table: str = "tool") -> dict[str, Any]:
    """``[tool]`` or another table of a folder's pyproject.toml, empty without one; raises ConfigurationError."""
    path = root / "pyproject.toml"
    try:
        text = read_text(path)
    except FileNotFoundError:
        return {}
    except (OSError, BrokenText) as error:
        raise ConfigurationError(f"{path} cannot be read: {why(error)}") from error
    try:
        tool = tomllib.loads(text).get(table, {})
    except RecursionError as error:
        raise ConfigurationError(f"{path} is not valid TOML: it is nested too deeply") from error
    except ValueError as error:  # of tomllib, and of a number with more digits than Python reads
        raise ConfigurationError(f"{path} is not valid TOML: {error}") from error
    return tool if isinstance(tool, dict) else {}


def read_schema() -> dict[str, Any]:
    """The JSON Schema of kbuild.yml and of ``[tool.kbuild]``."""
    schema: dict[str, Any] = json.loads(_SCHEMA.read_text(encoding="utf-8"))
    return schema


def _make_config(root: Path, env: str | None, table: Mapping[str, Any]) -> ProjectConfig:
    template = table.get("template")
    training = dict(table.get("training", {}))
    tags = {str(name): _text(value) for name, value in training.pop("tags", {}).items()}
    ship = tuple(root / each for each in training.pop("ship", ()))
    names = table.get("conda-names", {})
    tolerance = Tolerance.from_json(training.pop("tolerance", None))
    return ProjectConfig(
        root=root,
        env=env,
        training=TrainingSettings(**training, tags=tags, ship=ship, tolerance=tolerance, base=table.get("base")),
        tracking=make_tracking(table.get("tracking") or {}),
        base=table.get("base"),
        template=None if template is None else root / template,
        channels=tuple(table.get("channels", ())),
        conda_names=root / names if isinstance(names, str) else tuple(sorted(names.items())),
        interpreter=table.get("interpreter", "auto"),
        debian_mirror=table.get("debian-mirror"),
        compression=table.get("compression", "zstd"),
        slim=table.get("slim", False),
        verify=table.get("verify", True),
        labels=tuple(sorted(table.get("labels", {}).items())),
        tag=table.get("tag"),
        push=table.get("push"),
        cache_from=table.get("cache-from"),
        cache_to=table.get("cache-to"),
        trigger=make_trigger(table),
        remotes=make_remotes(table),
        state=root / table.get("state_folder", ".kbuild"),
    )


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _ask_session(loader: Any) -> dict[str, Any]:
    patterns = getattr(loader, "config_patterns", None)
    if patterns is None:
        raise ConfigurationError(
            f"the project's config loader {type(loader).__name__} has no config_patterns, so kbuild.yml cannot be read"
        )
    patterns.setdefault(CONFIG_KEY, list(CONFIG_PATTERNS))
    return _load(loader)


def _read_conf(root: Path, env: str | None) -> dict[str, Any]:
    conf = root / _CONF
    if env is not None and not (conf / env).is_dir():
        raise ConfigurationError(f"there is no environment {env!r}: {conf / env} is no folder")
    chosen = env or (DEFAULT_ENV if (conf / DEFAULT_ENV).is_dir() else _BASE_ENV)
    # For Kedro's loader a base that is not there means that nothing is: such a project names another one as base_env.
    base = _BASE_ENV if (conf / _BASE_ENV).is_dir() else chosen
    places = [conf / folder / name for folder in (_BASE_ENV, chosen) for name in CONFIG_PATTERNS]
    there = [path for path in places if os.path.lexists(path)]
    if not there:
        return {}
    for path in there:  # Kedro's loader reads whatever it is, to its end
        try:
            _check_keys(path, parse_yaml(read_text(path, largest=_LARGEST)))
        except (OSError, BrokenText) as error:
            raise ConfigurationError(f"{path} cannot be read: {why(error)}") from error
    from kedro.config import OmegaConfigLoader

    patterns = {CONFIG_KEY: list(CONFIG_PATTERNS)}
    with warnings.catch_warnings():
        # Kedro calls its libraries by names that they deprecate.
        warnings.simplefilter("ignore")
        return _load(OmegaConfigLoader(str(conf), env=chosen, base_env=base, config_patterns=patterns))


def _check_keys(path: Path, stated: object) -> None:
    """Kedro's loader takes for granted what these are; an empty file states nothing."""
    if not isinstance(stated, dict | None):
        raise ConfigurationError(f"{path} is no table of keys, but a {type(stated).__name__}")
    for key in stated or ():
        if not isinstance(key, str):
            raise ConfigurationError(f"{path}: the key {key} is no text", hint=f'in quotation marks it is one: "{key}"')


def _place(root: Path, env: str | None, key: str) -> str:
    """Which kbuild.yml states a key, for messages; just the name where that cannot be told."""
    for folder in (env or DEFAULT_ENV, _BASE_ENV):
        for name in CONFIG_PATTERNS:
            try:
                stated = parse_yaml(read_text(root / _CONF / folder / name))
            except (OSError, BrokenText):
                continue
            if isinstance(stated, dict) and key in stated:
                return f"{_CONF}/{folder}/{name}"
    return CONFIG_PATTERNS[0]


def _load(loader: Any) -> dict[str, Any]:
    from kedro.config import MissingConfigException
    from omegaconf.errors import OmegaConfBaseException

    try:
        found = loader[CONFIG_KEY]
    except MissingConfigException:
        return {}
    # ValueError: Kedro found a key twice, AttributeError: one that is no text. YAML errors and OmegaConf's are told in
    # their first line.
    except (OmegaConfBaseException, ValueError, AttributeError, OSError, RecursionError) as error:
        raise ConfigurationError(f"kbuild.yml cannot be read: {_first_lines(error)}") from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "yaml":
            raise
        raise ConfigurationError(f"kbuild.yml cannot be read: {_first_lines(error)}") from error
    return dict(found)


def _first_lines(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def _find_faults(table: object, source: str) -> Iterator[str]:
    """One line for each fault: ``kbuild.yml: webhook.timeout: 'soon' is not of type 'number'``."""
    if not table:
        return
    from jsonschema import Draft202012Validator

    for error in sorted(Draft202012Validator(read_schema()).iter_errors(table), key=lambda error: list(error.path)):
        where = _path(error.absolute_path)
        if error.validator == "additionalProperties" and isinstance(error.validator_value, bool):
            known = error.schema.get("properties", {})
            for name in sorted(set(error.instance) - set(known)):
                key = f"{where}.{name}" if where else str(name)
                yield f"{source}: {key} is unknown (known: {', '.join(known)})"
        elif str(where).endswith("_env") and error.validator == "pattern":
            # What stands there may be the secret itself, so it is not shown.
            yield f"{source}: {where}: has to be the name of an environment variable, in capitals, not what it holds"
        else:
            yield f"{source}: {where}: {error.message}" if where else f"{source}: {error.message}"


def _path(parts: Any) -> str:
    """``labels.owner`` or ``channels[2]``."""
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text
