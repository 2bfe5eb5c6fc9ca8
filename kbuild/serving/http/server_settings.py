"""What the scoring server takes from its environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kbuild.errors import ConfigurationError
from kbuild.serving.pages.limits import ToldLimits
from kbuild.serving.process.cpus import count_cpus

_LEVELS = ("critical", "error", "warning", "info", "debug")
# Ours, Vertex AI's, and that of Cloud Run, Heroku and others.
_PORTS = ("KBUILD_PORT", "AIP_HTTP_PORT", "PORT")
_IMPORTS = ("lazy", "background", "eager")
_HUNG = "KBUILD_HUNG_AFTER"
_YES = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False, "": False}


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """``port`` is a TCP port; ``timeout``, ``grace`` and ``keep_alive`` are seconds; ``token`` is never shown.

    ``workers`` are processes, ``threads`` predict in each of them, and ``queue`` requests wait in each of them.
    Up to ``max_batch`` requests are answered by one call of the model, which waits ``max_delay`` seconds for them.
    A worker none of whose threads has ended a prediction for ``hung`` seconds is replaced, never where it is None.
    ``root_path`` is a path that requests may begin with, and ``origins`` those of pages that browsers let ask.
    ``import_mlflow`` is lazy, background or eager, see ``kbuild.serving.answer.model.load_model``.
    """

    model: Path
    host: str
    port: int
    log_level: str
    workers: int = 1
    threads: int = 1
    queue: int = 64
    max_batch: int = 1
    max_delay: float = 0.0
    timeout: float = 60.0
    hung: float | None = 120.0
    grace: float = 30.0
    keep_alive: float = 75.0
    max_body: int = 32 * 2**20
    max_depth: int = 100
    max_rows: int = 1_000_000
    max_columns: int = 10_000
    import_mlflow: str = "lazy"
    access_log: bool = False
    stack_traces: bool = False
    token: str | None = field(default=None, repr=False)
    root_path: str = ""
    origins: tuple[str, ...] = ()
    certificate: Path | None = None
    key: Path | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """Read the ``KBUILD_…`` variables; raises ConfigurationError naming the one that is wrong."""
        level = environment.get("KBUILD_LOG_LEVEL", "warning").lower()
        if level not in _LEVELS:
            raise ConfigurationError(f"KBUILD_LOG_LEVEL is {level!r}, not one of {', '.join(_LEVELS)}")
        import_mlflow = environment.get("KBUILD_IMPORT_MLFLOW", "lazy").lower()
        if import_mlflow not in _IMPORTS:
            raise ConfigurationError(f"KBUILD_IMPORT_MLFLOW is {import_mlflow!r}, not one of {', '.join(_IMPORTS)}")
        certificate, key = (_file(environment, name) for name in ("KBUILD_TLS_CERT", "KBUILD_TLS_KEY"))
        if (certificate is None) != (key is None):
            raise ConfigurationError("KBUILD_TLS_CERT and KBUILD_TLS_KEY go together")
        # The variable that mlflow models serve --timeout sets counts where ours does not.
        timeout = "KBUILD_TIMEOUT" if "KBUILD_TIMEOUT" in environment else "MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT"
        patience = _seconds(environment, timeout, 60.0)
        return cls(
            model=Path(environment.get("KBUILD_MODEL", "/opt/model")),
            host=environment.get("KBUILD_HOST", "0.0.0.0"),  # noqa: S104  a container is reached from outside
            port=read_port(environment),
            log_level=level,
            workers=_whole(environment, "KBUILD_WORKERS", None, 1, 1024) or count_cpus(),
            threads=_whole(environment, "KBUILD_THREADS", 1, 1, 1024),
            queue=_whole(environment, "KBUILD_MAX_QUEUE", 64, 0, 1_000_000),
            max_batch=_whole(environment, "KBUILD_MAX_BATCH", 1, 1, 10_000),
            max_delay=_whole(environment, "KBUILD_MAX_DELAY_MS", 0, 0, 60_000) / 1000,
            timeout=patience,
            # Twice the time after which the client was told that nothing comes.
            hung=None if environment.get(_HUNG) == "0" else _seconds(environment, _HUNG, min(2 * patience, 86400.0)),
            grace=_seconds(environment, "KBUILD_GRACE", 30.0),
            # Longer than what stands in front keeps a connection (nginx and most balancers: 60 s). Whoever closes
            # first loses a request that the other sends just then, and only the client knows that it may send it again.
            keep_alive=_seconds(environment, "KBUILD_KEEP_ALIVE", 75.0),
            max_body=_whole(environment, "KBUILD_MAX_BODY_BYTES", 32 * 2**20, 1, 2**40),
            max_depth=_whole(environment, "KBUILD_MAX_DEPTH", 100, 1, 100_000),
            max_rows=_whole(environment, "KBUILD_MAX_ROWS", 1_000_000, 1, 2**40),
            max_columns=_whole(environment, "KBUILD_MAX_COLUMNS", 10_000, 1, 2**40),
            import_mlflow=import_mlflow,
            access_log=_flag(environment, "KBUILD_ACCESS_LOG"),
            stack_traces=_flag(environment, "KBUILD_STACK_TRACES"),
            token=_token(environment),
            root_path=_root_path(environment),
            origins=_origins(environment),
            certificate=certificate,
            key=key,
        )


def limits_of(settings: Settings) -> ToldLimits:
    """What the pages tell of a server's limits."""
    at_once = settings.workers * settings.threads
    batch = f"{settings.max_batch}, which wait {settings.max_delay * 1000:g} ms" if settings.max_batch > 1 else "1"
    told = (
        ("Bytes of a request", f"{settings.max_body:,}", "KBUILD_MAX_BODY_BYTES"),
        ("Rows of a request", f"{settings.max_rows:,}", "KBUILD_MAX_ROWS"),
        ("Columns of a request", f"{settings.max_columns:,}", "KBUILD_MAX_COLUMNS"),
        ("Levels of nested JSON", f"{settings.max_depth:,}", "KBUILD_MAX_DEPTH"),
        ("Seconds for an answer", f"{settings.timeout:g}", "KBUILD_TIMEOUT"),
        ("Predictions at the same time", f"{at_once:,}", "KBUILD_WORKERS, KBUILD_THREADS"),
        ("Requests that may wait, a worker", f"{settings.queue:,}", "KBUILD_MAX_QUEUE"),
        ("Requests that are answered together", batch, "KBUILD_MAX_BATCH, KBUILD_MAX_DELAY_MS"),
    )
    address = f"{'http' if settings.certificate is None else 'https'}://localhost:{settings.port}{settings.root_path}"
    token = settings.token is not None
    return ToldLimits(rows=settings.max_rows, body=settings.max_body, told=told, address=address, token=token)


def read_port(environment: Mapping[str, str] = os.environ) -> int:
    """The first of _PORTS that is set, default 8080; raises ConfigurationError for what is no port."""
    name = next((name for name in _PORTS if environment.get(name)), _PORTS[0])
    text = environment.get(name, "8080")
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise ConfigurationError(f"{name} is {text!r}, not a port from 1 to 65535")
    return int(text)


def _whole(environment: Mapping[str, str], name: str, default: int | None, lowest: int, highest: int) -> int:
    text = environment.get(name)
    if text is None:
        return default or 0
    if not text.isascii() or not text.isdigit() or len(text) > 20 or not lowest <= int(text) <= highest:
        raise ConfigurationError(f"{name} is {text!r}, not a whole number from {lowest} to {highest}")
    return int(text)


def _seconds(environment: Mapping[str, str], name: str, default: float) -> float:
    text = environment.get(name)
    try:
        value = default if text is None else float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 86400:
        raise ConfigurationError(f"{name} is {text!r}, not a number of seconds up to 86400")
    return value


def _flag(environment: Mapping[str, str], name: str) -> bool:
    text = environment.get(name, "")
    if text.lower() not in _YES:
        raise ConfigurationError(f"{name} is {text!r}, not 1 or 0")
    return _YES[text.lower()]


def _root_path(environment: Mapping[str, str]) -> str:
    text = environment.get("KBUILD_ROOT_PATH", "").rstrip("/")
    if text and not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", text):
        raise ConfigurationError(f"KBUILD_ROOT_PATH is {text!r}, not a path such as /models/churn")
    return text


def _origins(environment: Mapping[str, str]) -> tuple[str, ...]:
    found = tuple(filter(None, map(str.strip, environment.get("KBUILD_CORS_ORIGINS", "").split(","))))
    for each in found:
        if each != "*" and not re.fullmatch(r"https?://[A-Za-z0-9.:\[\]-]+", each):
            raise ConfigurationError(f"KBUILD_CORS_ORIGINS has {each!r}, not * or an origin: https://app.example")
    return found


def _file(environment: Mapping[str, str], name: str) -> Path | None:
    text = environment.get(name)
    if not text:
        return None
    if not os.access(text, os.R_OK) or not Path(text).is_file():
        raise ConfigurationError(f"{name} names {text}, which is not a file that can be read")
    return Path(text)


def _token(environment: Mapping[str, str]) -> str | None:
    file = _file(environment, "KBUILD_TOKEN_FILE")
    token = environment.get("KBUILD_TOKEN")
    if file is not None and token is not None:
        raise ConfigurationError("KBUILD_TOKEN and KBUILD_TOKEN_FILE are both set; which counts?")
    if file is not None:
        token = file.read_text("utf-8", "replace").strip()
    # An empty token is a mistake that would leave the door open.
    if token is not None and (not token or not token.isascii() or any(c.isspace() for c in token)):
        raise ConfigurationError("the token is empty, or has characters that no HTTP header carries")
    return token
