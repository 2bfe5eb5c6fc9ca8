"""What pip is configured to, asked of pip once a process: each answer is a start of Python, and many tests ask."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

from kbuild.environment.index import package_indexes
from kbuild.process import Runner

_ASKED: dict[object, dict[str, str]] = {}


@contextmanager
def asked_once() -> Iterator[None]:
    """For as long as the block: pip itself is tested in ``tests/environment/test_pip_settings.py``."""
    real = package_indexes.read_pip_settings

    def remembered(run: Runner, environ: Mapping[str, str]) -> dict[str, str]:
        decides = ("PIP_", "HOME", "XDG_", "VIRTUAL_ENV")
        key = tuple(sorted((name, value) for name, value in environ.items() if name.startswith(decides)))
        if key not in _ASKED:
            _ASKED[key] = real(run, environ)
        return dict(_ASKED[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(package_indexes, "read_pip_settings", remembered)
        patch.setattr(package_indexes, "kept_pip_settings", remembered)
        yield
