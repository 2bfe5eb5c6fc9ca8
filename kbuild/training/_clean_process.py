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


class ImageImports(importlib.abc.MetaPathFinder):
    """Hides what the image would not have, and finds what the model ships nowhere but in the model."""

    def __init__(self, code: Path, shipped: list[str], blocked: list[str]) -> None:
        self._code = [str(code)]
        self._shipped = set(shipped)
        self._blocked = set(blocked)

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """The model's own module, an error for a hidden one, None to let the other finders look."""
        if path is not None:
            return None
        if fullname in self._blocked:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        if fullname not in self._shipped:
            return None
        found = importlib.machinery.PathFinder.find_spec(fullname, self._code)
        if found is None:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        return found


def answer(task: dict[str, Any]) -> dict[str, Any]:
    """Load and predict; errors become the answer, since the caller is another process."""
    model_folder = Path(task["model"])
    sys.meta_path.insert(0, ImageImports(model_folder / "code", task["shipped"], task["blocked"]))
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
