"""The files that ``kbuild init`` writes into a project: made from templates, compared, and written."""

from __future__ import annotations

import datetime
import difflib
import json
import re
import shlex
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jinja2
import yaml

from kbuild.digest import digest_bytes
from kbuild.errors import ConfigurationError, OutputError
from kbuild.project.config import read_schema

CI_KINDS = ("github", "gitlab", "shell", "jenkins", "azure", "argo", "airflow")
USUAL = ("github", "gitlab", "shell")
"""The jobs that are written where none are named."""
CONFIG = "conf/base/kbuild.yml"
SCRIPT = "ci/kbuild.sh"
GITHUB = ".github/workflows/kbuild.yml"
GITLAB = ".gitlab/kbuild.yml"
GITLAB_CI = ".gitlab-ci.yml"
GITIGNORE = ".gitignore"
_OTHERS = {
    "jenkins": ("ci/Jenkinsfile", "jenkins.j2"),
    "azure": ("ci/azure-pipelines.yml", "azure.yml.j2"),
    "argo": ("ci/argo-workflow.yml", "argo.yml.j2"),
    "airflow": ("ci/kbuild_dag.py", "airflow.py.j2"),
}
"""Where the job of a system is written, and its template."""
JOBS = (GITHUB, GITLAB, *(path for path, _ in _OTHERS.values()))
"""Those that install kbuild."""
_LEFT_BEHIND = ("mlflow.db", "mlartifacts/", "mlruns/", ".kbuild/", "kbuild-output/")
"""What MLflow, kbuild and the generated jobs leave in a project that keeps its runs itself."""
_TEMPLATES = Path(__file__).with_name("templates")
_MARK = re.compile(r"(?:#|//) kbuild init: (sha256:[0-9a-f]{64})\n\Z")
_WIDTH = 110
_EXPIRES = re.compile(r"^[# ]*expires: (\d{4}-\d{2}-\d{2})$", re.MULTILINE)
_IGNORED = "".join(["# Runs and models, which MLflow and kbuild keep here.\n", *(f"{line}\n" for line in _LEFT_BEHIND)])
Action = Literal["created", "updated", "unchanged", "kept"]


@dataclass(frozen=True, kw_only=True, slots=True)
class InitRequest:
    """What is to be written. ``push`` is a reference with placeholders; ``install`` what pip is to install.

    ``project`` are the arguments of pip that install the project itself, for its checks. ``expires`` is the last day on
    which the policy of the audit accepts what it does; without ``policy`` it is a comment.
    """

    push: str | None
    trigger: str
    python: str
    install: str
    expires: datetime.date
    project: tuple[str, ...]
    policy: bool
    kinds: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class FileChange:
    """What becomes of one file; ``diff`` is what is or would be changed, empty where nothing is."""

    path: str
    action: Action
    content: str
    diff: str
    advice: str = "--force overwrites it"


def make_files(request: InitRequest) -> dict[str, str]:
    """Content by path in the project. Pure. Raises ConfigurationError for values that no job could use."""
    if not re.fullmatch(r"3\.\d{1,2}", request.python):
        raise ConfigurationError(f"--python {request.python!r} is not a version such as 3.11")
    for name, value in (("push", request.push or ""), ("install", request.install)):
        if not value.isprintable():
            raise ConfigurationError(f"--{name} holds a line break or another control character")
    registry = _registry(request.push)
    values: dict[str, Any] = {
        "script": SCRIPT,
        "gitlab": GITLAB,
        "push": request.push,
        "registry": registry,
        "ghcr": registry == "ghcr.io",
        "python": request.python,
        "install": request.install,
        # pip asks for it, and Python's images of the kind "slim" have none.
        "git": bool(re.search(r"\bgit\+", request.install)),
        "project": "".join(f"{each} " for each in request.project),
    }
    files = {CONFIG: make_config(request), SCRIPT: _render("job.sh.j2", values)}
    if "github" in request.kinds:
        files[GITHUB] = _render("github.yml.j2", values)
    if "gitlab" in request.kinds:
        files[GITLAB] = _render("gitlab.yml.j2", values)
        files[GITLAB_CI] = _render("gitlab-ci.yml.j2", values)
    files |= {path: _render(template, values) for kind, (path, template) in _OTHERS.items() if kind in request.kinds}
    return {path: _marked(path, content) for path, content in files.items()} | {GITIGNORE: _IGNORED}


def make_config(request: InitRequest) -> str:
    """kbuild.yml: every key of the schema with its description; what is not stated is a comment with its default."""
    stated = {"trigger": request.trigger, **({} if request.push is None else {"push": request.push})}
    schema = read_schema()
    lines = ['# Written by "kbuild init". What kbuild does with the models of this project.', "#"]
    lines += _comment(schema["description"])
    for name, value in schema["properties"].items():
        lines += ["", *_comment(_describe(value, schema))]
        if name == "audit":
            lines += _policy(request)
        elif name in stated:
            lines.append(_line(name, stated[name]))
        elif "properties" in value:
            lines.append(f"# {name}:")
            for inner, part in value["properties"].items():
                lines += [f"#   {text}" for text in _comment(_describe(part, schema))]
                lines.append(f"#   {_line(inner, _default(part, schema))}")
        else:
            lines.append(f"# {_line(name, _default(value, schema))}")
    return "\n".join(lines) + "\n"


def accepted_until(root: Path) -> datetime.date | None:
    """The day that the policy of an earlier ``kbuild init`` names, so that another one does not put it off."""
    try:
        found = _EXPIRES.search((root / CONFIG).read_text(encoding="utf-8"))
        return None if found is None else datetime.date.fromisoformat(found[1])
    except (OSError, ValueError):
        return None


def _policy(request: InitRequest) -> list[str]:
    lines = _render("audit.yml.j2", {"expires": request.expires.isoformat()}).splitlines()
    return lines if request.policy else [f"# {line}" for line in lines]


def plan_changes(root: Path, files: Mapping[str, str], *, force: bool) -> list[FileChange]:
    """Compare with what is there. A file that differs and was edited since kbuild wrote it is kept without ``force``.

    Raises OutputError for files that cannot be read.
    """
    return [_plan(root, path, content, force=force) for path, content in files.items()]


def apply(root: Path, changes: list[FileChange]) -> None:
    """Write what is to be created or updated, each file whole or not at all; raises OutputError."""
    for change in changes:
        if change.action not in ("created", "updated"):
            continue
        path = root / change.path
        temporary = path.with_name(f".{path.name}.new")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(change.content, encoding="utf-8")
            temporary.chmod(0o755 if path.suffix == ".sh" else 0o644)
            temporary.replace(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def _plan(root: Path, path: str, content: str, *, force: bool) -> FileChange:
    try:
        old = (root / path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return FileChange(path=path, action="created", content=content, diff=_diff("", content, path))
    except (OSError, UnicodeDecodeError) as error:
        raise OutputError(f"cannot read {root / path}: {error}") from error
    if old == content:
        return FileChange(path=path, action="unchanged", content=content, diff="")
    if path == GITLAB_CI:
        # The project's own pipeline: it takes one line more, and is never replaced.
        if GITLAB in old:
            return FileChange(path=path, action="unchanged", content=old, diff="")
        advice = f"add to it: include: [{{local: {GITLAB}}}]"
        return FileChange(path=path, action="kept", content=old, diff=_diff(old, content, path), advice=advice)
    if path == GITIGNORE:
        whole = _ignore(old)
        action: Action = "unchanged" if whole == old else "updated"
        return FileChange(path=path, action=action, content=whole, diff=_diff(old, whole, path))
    action = "updated" if force or is_as_written(old) else "kept"
    return FileChange(path=path, action=action, content=content, diff=_diff(old, content, path))


def _ignore(old: str) -> str:
    """The project's own file with the lines that it lacks; a pattern with a slash before it means the same here."""
    there = {line.strip().strip("/") for line in old.splitlines()}
    missing = [line for line in _LEFT_BEHIND if line.strip("/") not in there]
    if not missing:
        return old
    ended = old if not old or old.endswith("\n") else f"{old}\n"
    return ended + ("\n" if old else "") + "".join(f"{line}\n" for line in (_IGNORED.splitlines()[0], *missing))


def _marked(path: str, content: str) -> str:
    sign = "//" if path.endswith("Jenkinsfile") else "#"
    return f"{content}{sign} kbuild init: {digest_bytes(content.encode())}\n"


def is_as_written(text: str) -> bool:
    """Whether nobody has edited a file that ``make_files`` made."""
    found = _MARK.search(text)
    return found is not None and str(digest_bytes(text[: found.start()].encode())) == found[1]


def _diff(old: str, new: str, path: str) -> str:
    before = "/dev/null" if not old else f"a/{path}"
    lines = difflib.unified_diff(old.splitlines(keepends=True), new.splitlines(keepends=True), before, f"b/{path}")
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)


def _render(name: str, values: Mapping[str, Any]) -> str:
    # GitHub's own ${{ }} must stay, so the templates' marks are others.
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701 - shell and YAML; every value goes through a filter for its place
        variable_start_string="[[",
        variable_end_string="]]",
        block_start_string="[%",
        block_end_string="%]",
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"shell": lambda text: shlex.quote(str(text)), "json": json.dumps}
    environment.filters |= {"python": repr, "groovy": _groovy}
    return environment.get_template(name).render(values)


def _groovy(text: str) -> str:
    """A string in which Groovy fills in nothing."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _registry(push: str | None) -> str | None:
    if push is None:
        return None
    first, slash, _ = push.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost"):
        return "docker.io"
    if not re.fullmatch(r"[A-Za-z0-9.:\[\]-]+", first):
        raise ConfigurationError(f"--push: {first!r} is not a registry")
    return first


def _describe(part: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    text = str(part.get("description") or _resolve(part, schema).get("description", ""))
    choices = part.get("enum")
    return f"{text} One of {', '.join(choices)}." if choices and ":" not in text and "," not in text else text


def _default(part: Mapping[str, Any], schema: Mapping[str, Any]) -> Any:
    found = part.get("default", _resolve(part, schema).get("default"))
    if found is None and part.get("type") in ("array", "object"):
        return [] if part["type"] == "array" else {}
    return found


def _resolve(part: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = part.get("$ref", "")
    found: Mapping[str, Any] = schema["$defs"][reference.rpartition("/")[2]] if reference else part
    return found


def _line(name: str, value: Any) -> str:
    if value is None:
        return f"{name}:"
    text = yaml.safe_dump(value, default_flow_style=True, width=1000, allow_unicode=True)
    return f"{name}: {text.removesuffix('...' + chr(10)).rstrip()}"


def _comment(text: str) -> Iterator[str]:
    return (f"# {line}" for line in textwrap.wrap(text, _WIDTH, break_long_words=False))
