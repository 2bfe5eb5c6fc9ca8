"""What functions of the API are given: a model's folder as a path where a text is meant, a file's name as a text where
a path is."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
_TEXTS, _PATHS = ("str", "str | None"), ("Path", "Path | None")


def take_either(function: Callable[P, R]) -> Callable[P, R]:
    """Have texts and paths stand for each other in the arguments of ``function``, whose annotations are texts.

    It raises TypeError, with the argument's name, for what is neither of both.
    """
    signature = inspect.signature(function)
    wanted = {name: each.annotation for name, each in signature.parameters.items()}

    @functools.wraps(function)
    def taking(*args: P.args, **kwargs: P.kwargs) -> R:
        given = signature.bind(*args, **kwargs)
        for name, value in given.arguments.items():
            if wanted[name] in (*_TEXTS, *_PATHS) and value is not None:
                given.arguments[name] = _convert(f"{function.__name__}: {name}", value, path=wanted[name] in _PATHS)
        return function(*given.args, **given.kwargs)

    return taking


def _convert(name: str, value: Any, *, path: bool) -> str | Path:
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str):
        raise TypeError(f"{name} is a text or a path, not {value!r}")
    return Path(text) if path else text
