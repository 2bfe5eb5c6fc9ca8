"""Logs as JSON objects, one a line, on stderr."""

from __future__ import annotations

import datetime
import json
import logging
import sys
from typing import Any

LOGGER = "kbuild.serving"


class JsonFormatter(logging.Formatter):
    """``{"time", "level", "logger", "message"}``, what was given as ``extra={"fields": {…}}``, and tracebacks."""

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON."""
        moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        entry: dict[str, Any] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


def configure_logging(level: str, *, access: bool) -> None:
    """All loggers write JSON to stderr from ``level`` on; the access log only if asked for."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    # A line of Python's own for each warning of each package is no news of this server.
    logging.getLogger("py.warnings").setLevel(logging.ERROR)
    logging.getLogger(f"{LOGGER}.access").setLevel(logging.INFO if access else logging.CRITICAL)


def quieten_packages(level: str) -> None:
    """Undo what importing Kedro and MLflow did to logging: handlers of their own, and lines for every request."""
    for name in ("kedro", "mlflow", "uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level.upper()]))
