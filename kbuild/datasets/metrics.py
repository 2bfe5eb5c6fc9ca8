"""Kedro datasets that are metrics of an MLflow run: one number, the history of one, many at once.

Catalog files name them by ``kbuild.io.metrics``. Names, arguments and what is saved and loaded are kedro-mlflow's. A
metric without a ``key``, and many without a ``prefix``, are named as their entry in the catalog.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kedro.io.core import DatasetError

from kbuild.datasets.loading import copy_arguments, one_line_errors
from kbuild.datasets.points import (
    MODES,
    Point,
    find_history,
    from_mode,
    log_points,
    make_number,
    make_step,
    parse_many,
    to_mode,
)
from kbuild.datasets.stores import open_store
from kbuild.datasets.tracked import TrackedDataset, check_run_id

_SAVED = "the metric cannot be saved"
_LOADED = "the metric cannot be loaded"


class _OneMetric(TrackedDataset):
    """A metric of one name."""

    def __init__(
        self,
        key: str | None = None,
        run_id: str | None = None,
        load_args: dict[str, Any] | None = None,
        save_args: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self._key = key
        self._run_id = check_run_id(run_id)
        self._load_args = copy_arguments("load_args", load_args)
        self._save_args = copy_arguments("save_args", save_args)
        self.metadata = metadata
        self._check()

    def _check(self) -> None:
        """Raises DatasetError for arguments that cannot be meant."""

    def _get_key(self) -> str:
        key = self._key or self.entry
        if key is None:
            raise DatasetError("the metric has no name; give it a key")
        return key

    def _load_history(self) -> list[Point]:
        key = self._get_key()
        with open_store() as client:
            run_id = self.find_run(ended=True)
            history = find_history(client, run_id, key)
        if not history:
            raise DatasetError(f"run {run_id} has no metric {key!r}")
        return history

    def _exists(self) -> bool:
        try:
            self._load_history()
        except DatasetError:
            return False
        return True

    def _describe(self) -> dict[str, Any]:
        return {
            "key": self._key or self.entry,
            "run_id": self._run_id,
            "load_args": self._load_args,
            "save_args": self._save_args,
        }


class MlflowMetricDataset(_OneMetric):
    """One number.

    Args:
        key: the metric's name; default: that of the catalog's entry.
        run_id: a run, instead of the one under way.
        load_args: ``step``, the one to load; default: the newest.
        save_args: ``step``, the one to save; ``mode``: ``overwrite``, the default, saves as step 0, ``append`` as the
            step after the last.
        metadata: the user's own, ignored.
    """

    def _check(self) -> None:
        _refuse_others("load_args", self._load_args, ("step",))
        _refuse_others("save_args", self._save_args, ("step", "mode"))
        if self._save_args.get("mode") not in (None, "overwrite", "append"):
            raise DatasetError(f"save_args: mode {self._save_args['mode']!r} is unknown; it is overwrite or append")
        for arguments in (self._load_args, self._save_args):
            if arguments.get("step") is not None:
                arguments["step"] = make_step(arguments["step"])

    def load(self) -> float:
        """The number; raises DatasetError where the run has none of that name or step."""
        with one_line_errors(self, _LOADED):
            history = self._load_history()
            step = self._load_args.get("step")
            if step is None:
                return max(enumerate(history), key=lambda each: (each[1].step, each[0]))[1].value
            found = [point for point in history if point.step == step]
            if not found:
                steps = ", ".join(str(each) for each in sorted({point.step for point in history})[:10])
                raise DatasetError(f"the metric {self._get_key()!r} has no step {step}; it has {steps}")
            return found[-1].value

    def save(self, data: Any) -> None:
        """Log a number; raises DatasetError for anything else, and without a run."""
        if self.off:
            return
        with one_line_errors(self, _SAVED), open_store() as client:
            key, run_id = self._get_key(), self.find_run()
            step = self._save_args.get("step")
            if step is None:
                appended = self._save_args.get("mode") == "append"
                history = find_history(client, run_id, key) if appended else []
                step = max((point.step for point in history), default=-1) + 1
            log_points(client, run_id, [(key, Point(step=step, value=make_number(key, data)))])


class MlflowMetricHistoryDataset(_OneMetric):
    """The history of one number.

    Args:
        key, run_id, metadata: as of MlflowMetricDataset.
        load_args, save_args: ``mode``: ``list``, the default, of numbers, a step each; ``dict`` from step to number;
            ``history``, a list of mappings with ``step``, ``value`` and ``timestamp`` (in milliseconds).
    """

    def _check(self) -> None:
        for name, arguments in (("load_args", self._load_args), ("save_args", self._save_args)):
            _refuse_others(name, arguments, ("mode",))
            if arguments.get("mode", "list") not in MODES:
                raise DatasetError(f"{name}: mode {arguments['mode']!r} is unknown; it is {', '.join(MODES)}")

    def load(self) -> Any:
        """The history, in the mode of ``load_args``."""
        with one_line_errors(self, _LOADED):
            return to_mode(self._load_args.get("mode", "list"), self._load_history())

    def save(self, data: Any) -> None:
        """Log a history in the mode of ``save_args``; raises DatasetError for anything else, and without a run."""
        if self.off:
            return
        with one_line_errors(self, _SAVED):
            key = self._get_key()
            points = from_mode(self._save_args.get("mode", "list"), key, data)
            with open_store() as client:
                log_points(client, self.find_run(), [(key, point) for point in points])


class MlflowMetricsHistoryDataset(TrackedDataset):
    """Many metrics, of a mapping or a table.

    What is saved is a mapping from a metric's name to ``{"value": …, "step": …}``, to a list of such, to a number, or
    to a list of numbers; or a table, whose columns are metrics and whose rows are steps. What is loaded is a mapping of
    the first two kinds, by the names that the metrics have in the run.

    Args:
        run_id: a run, instead of the one under way.
        prefix: stands before each name, with a dot; default: the name of the catalog's entry.
        metadata: the user's own, ignored.
    """

    def __init__(
        self, run_id: str | None = None, prefix: str | None = None, metadata: dict[str, Any] | None = None
    ) -> None:
        self._run_id = check_run_id(run_id)
        self._prefix = prefix
        self.metadata = metadata

    def load(self) -> dict[str, Any]:
        """All metrics of that prefix; raises DatasetError where the run has none."""
        with one_line_errors(self, "the metrics cannot be loaded"), open_store() as client:
            run_id = self.find_run(ended=True)
            names = self._find_names(client, run_id)
            if not names:
                raise DatasetError(f"run {run_id} has no metrics{self._told('that begin with ')}")
            found = {}
            for name in names:
                points = [{"step": point.step, "value": point.value} for point in find_history(client, run_id, name)]
                found[name] = points if len(points) > 1 else points[0]
            return found

    def save(self, data: Any) -> None:
        """Log them; raises DatasetError for what is no metrics, and without a run."""
        if self.off:
            return
        with one_line_errors(self, "the metrics cannot be saved"):
            start = self._get_start()
            points = [(f"{start}{name}", point) for name, point in parse_many(data)]
            with open_store() as client:
                log_points(client, self.find_run(), points)

    def _get_start(self) -> str:
        prefix = self.entry if self._prefix is None else self._prefix
        return f"{prefix}." if prefix else ""

    def _told(self, words: str) -> str:
        start = self._get_start()
        return f" {words}{start!r}" if start else ""

    def _find_names(self, client: Any, run_id: str) -> list[str]:
        metrics: Mapping[str, float] = client.get_run(run_id).data.metrics
        return sorted(name for name in metrics if name.startswith(self._get_start()))

    def _exists(self) -> bool:
        try:
            with open_store() as client:
                return bool(self._find_names(client, self.find_run(ended=True)))
        except DatasetError:
            return False

    def _describe(self) -> dict[str, Any]:
        return {"prefix": self.entry if self._prefix is None else self._prefix, "run_id": self._run_id}


def _refuse_others(name: str, arguments: Mapping[str, Any], known: tuple[str, ...]) -> None:
    if other := sorted(map(str, arguments.keys() - set(known))):
        raise DatasetError(f"{name} has {', '.join(other)}, which nothing reads (known: {', '.join(known)})")
