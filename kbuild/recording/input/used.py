"""The signature "used": of the columns that the inference pipeline reads, and which inputs have none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kbuild.errors import RecordingError


def is_used(value: Any) -> bool:
    """Whether a signature is to be of the columns that the pipeline reads."""
    return isinstance(value, str) and value == "used"


def _kind_name(kind: type) -> str:
    """A DataFrame of another library is told from pandas' own."""
    library = kind.__module__.partition(".")[0]
    return kind.__name__ if library in ("builtins", "pandas", "numpy") else f"{kind.__name__} of {library}"


def refuse_used(name: str, kind: type) -> RecordingError:
    """What is told of the signature "used" for an input that is no table."""
    return RecordingError(
        f"log_model_kwargs signature 'used' is for tables of pandas, and {name!r} is a {_kind_name(kind)}",
        hint="leave the signature out, or say 'auto' there",
    )


def refuse_used_for(names: Sequence[str]) -> RecordingError:
    """The same for several inputs, whose columns nothing leaves out of a request."""
    return RecordingError(
        f"log_model_kwargs signature 'used' is for one table, and this model has the inputs {', '.join(names)}",
        hint="leave the signature out; datasets of the columns that inference reads ask a request for no others",
    )
