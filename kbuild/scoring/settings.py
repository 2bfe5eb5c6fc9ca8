"""The options of a batch, and what the archive says of itself."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from kbuild.errors import ConfigurationError

ON_ERROR = ("fail", "null", "reject")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what both ``kbuild score`` and the archive's own starter take."""
    from kbuild.scoring.parts import PART_ROWS

    parser.add_argument("--workers", "-j", type=_count, help="processes; one a processor by default")
    parser.add_argument("--on-error", choices=ON_ERROR, default="fail", help="what becomes of a row that fails")
    parser.add_argument("--keep", default="all", help="columns of IN to write beside the answer: all, none, or a,b")
    parser.add_argument("--format", choices=("parquet", "csv"), help="of the answers; the input's by default")
    parser.add_argument("--params", help="parameters of the model, as a JSON object")
    parser.add_argument("--overwrite", action="store_true", help="remove what an earlier batch wrote to OUT")
    parser.add_argument("--part-rows", type=_count, default=PART_ROWS, help="rows that are one piece of work")
    parser.add_argument("--batch-rows", type=_count, default=50_000, help="rows that the model is asked at once")
    parser.add_argument("--progress", choices=("plain", "json", "none"), default="plain", help=argparse.SUPPRESS)
    # For who lets others score the parts: say which there are, score those that come, put together what they made.
    parser.add_argument("--only", choices=("plan", "finish"), help=argparse.SUPPRESS)
    parser.add_argument("--pipe", action="store_true", help=argparse.SUPPRESS)


def _count(text: str) -> int:
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of 1 or more")
    return number


def model_folder() -> Path:
    """Where the archive's model lies."""
    return Path(os.environ.get("KBUILD_MODEL", "/opt/model"))


def facts() -> dict[str, Any]:
    """What the archive says of itself: the model's, the lock's and the plan's digests."""
    found: dict[str, Any] = json.loads((model_folder().parent / "archive.json").read_text("utf-8"))
    return found


def parse_keep(text: str) -> list[str] | None:
    """The columns to keep, None for all."""
    if text == "all":
        return None
    return [] if text == "none" else list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def parse_params(text: str | None) -> dict[str, Any]:
    """The parameters of the model; raises ConfigurationError."""
    if text is None:
        return {}
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ConfigurationError(f"--params is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ConfigurationError("--params is not a JSON object", hint='such as {"threshold": 0.5}')
    return found
