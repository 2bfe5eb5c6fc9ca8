"""A package that is called as a function of its name is: ``kbuild.audit("models:/churn/1")``.

Importing a package binds it to its name in the package above, whatever else had that name.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Called(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        home, _, name = self.__dict__["_called"].partition(":")
        return getattr(import_module(home), name)(*args, **kwargs)


def make_callable(module: str, function: str) -> None:
    """Have the ``module`` that is being imported call ``function``, ``package.module:name``, imported then."""
    found = sys.modules[module]
    found.__class__ = _Called
    found.__dict__["_called"] = function
