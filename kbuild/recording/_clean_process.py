"""Run as a script, isolated, in an empty folder: load a model and answer its example, as an image would.

Argument: a JSON file with ``model`` (a folder), ``request`` (a file name in it, or null), ``blocked`` (top-level
modules that the image would not have), ``shipped`` (those that must come from the model's own code) and ``answer``
(where to write). Writes ``{"response": text}``, or ``{"error": text, "missing": module or null}``.

It stands alone: no kbuild is importable here but the model's own.
"""

import importlib.abc
import importlib.machinery
import json
import logging
import sys
import traceback
from pathlib import Path
from typing import Any


class ShippedImports(importlib.abc.MetaPathFinder):
    """Finds the modules that the model ships, in the model's own code."""

    def __init__(self, code: Path, shipped: list[str]) -> None:
        self._code = [str(code)]
        self._shipped = set(shipped)

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """The spec of a shipped top-level module, None for any other."""
        if path is not None or fullname not in self._shipped:
            return None
        return importlib.machinery.PathFinder.find_spec(fullname, self._code)


class HiddenImports:
    """Another finder, which no longer finds certain top-level modules: as if they were not installed."""

    def __init__(self, finder: Any, hidden: set[str]) -> None:
        self._finder = finder
        self._hidden = hidden

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """What the other finder says, None for what is hidden."""
        if path is None and fullname in self._hidden:
            return None
        found: importlib.machinery.ModuleSpec | None = self._finder.find_spec(fullname, path, target)
        return found

    def __getattr__(self, name: str) -> Any:
        # importlib.metadata looks for distributions through these finders too.
        return getattr(self._finder, name)


def answer(task: dict[str, Any]) -> dict[str, Any]:
    """Load and predict; errors become the answer, since the caller is another process."""
    model_folder = Path(task["model"])
    hidden = {*task["blocked"], *task["shipped"]}
    shipped = ShippedImports(model_folder / "code", task["shipped"])
    sys.meta_path[:] = [shipped, *(HiddenImports(finder, hidden) for finder in sys.meta_path)]
    try:
        import mlflow.pyfunc
        from mlflow.pyfunc import scoring_server

        model = mlflow.pyfunc.load_model(str(model_folder))
        if task["request"] is None:
            return {"response": None}
        response = scoring_server.invocations(
            (model_folder / task["request"]).read_text(encoding="utf-8"),
            "application/json",
            model,
            model.metadata.get_input_schema(),
        )
    except BaseException as error:  # noqa: BLE001 - told to the caller, whatever it is
        return {"error": describe(error), "missing": find_missing(error), "traceback": traceback.format_exc()}
    if response.status != 200:
        return {"error": response.response, "missing": None, "traceback": ""}
    return {"response": response.response}


def describe(error: BaseException) -> str:
    """The innermost cause in one line."""
    last = error
    while last.__cause__ or last.__context__:
        last = last.__cause__ or last.__context__  # type: ignore[assignment]
    return " ".join([f"{type(last).__name__}: {last}", *getattr(last, "__notes__", [])]).strip()


def find_missing(error: BaseException | None) -> str | None:
    """The top-level module whose import failed, if that is the cause."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name:
            return error.name.partition(".")[0]
        error = error.__cause__ or error.__context__
    return None


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(job["answer"]).write_text(json.dumps(answer(job)), encoding="utf-8")
