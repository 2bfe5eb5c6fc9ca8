"""Tables of Parquet in models, weighed before they are read, as the server does it."""

from __future__ import annotations

from kbuild.serving.answer.parquet import Expanded, NoParquet, measure

_COLUMNS = 100_000


def fits(data: bytes, most: int) -> bool:
    """Whether a table takes no more than ``most`` bytes of memory; what is none does not fit."""
    try:
        measure(data, _COLUMNS, most)
    except (Expanded, NoParquet, ImportError):
        return False
    return True
