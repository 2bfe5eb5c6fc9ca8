"""Benchmark of predicting, without a server: ``nox -s bench -- predict [--seconds 4] [--json FILE] [--model FOLDER]``.

What KedroPipelineModel.predict and MLflow's PyFuncModel.predict add to the node functions called directly, on the
demo's model; whether that depends on the size of an artifact; and a chain of identities, where everything is overhead,
against kedro-mlflow's KedroPipelineModel with its logging off. Ways are taken in turn, so that what else the machine
does falls on all of them; medians are told, of processor time of all threads.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
# name: (where it is found, what it may be at most or must be at least)
AT_MOST = {"predict / direct": 1.03, "pyfunc / direct": 1.3, "62 MB - 4 KB, ms": 1.0}
AT_LEAST = {"peer overhead / ours": 200.0}


def same(value: Any) -> Any:
    """A node that does nothing."""
    return value


def use(table: Any, artifact: Any) -> Any:
    """A node that has an artifact and does next to nothing with it."""
    return len(artifact)


def take_turns(ways: Mapping[str, Callable[[], object]], seconds: float, calls: int = 1) -> dict[str, float]:
    """The median of each way's milliseconds a call; ``calls`` are timed together where one is too short to time."""
    for way in ways.values():
        way()
    taken: dict[str, list[float]] = {name: [] for name in ways}
    end = time.monotonic() + seconds
    gc.collect()
    gc.disable()
    while time.monotonic() < end or len(next(iter(taken.values()))) < 5:
        for name, way in ways.items():
            begun = time.process_time()
            for _ in range(calls):
                way()
            taken[name].append(1000 * (time.process_time() - begun) / calls)
    gc.enable()
    return {name: statistics.median(times) for name, times in taken.items()}


def measure_demo(model: Path, seconds: float) -> list[dict[str, Any]]:
    """The demo's model at 1 and 10,000 rows: nodes called directly, KedroPipelineModel and PyFuncModel."""
    import mlflow.pyfunc
    from scoring import question_of

    loaded = mlflow.pyfunc.load_model(str(model))
    inner = loaded.unwrap_python_model()
    steps, inputs, output = inner._steps, dict(inner.loaded_inputs), inner.output_names[0]

    def direct(table: Any) -> Any:
        values = {**inputs, inner.input_name: table}
        for step in steps:
            names = [step.inputs] if isinstance(step.inputs, str) else step.inputs
            values[step.outputs] = step.func(*[values[name] for name in names])
        return values[output]

    params = json.loads(loaded.metadata.signature.to_dict()["params"] or "[]")
    defaults = {param["name"]: param["default"] for param in params}
    found = []
    for rows in (1, 10_000):
        split = json.loads(question_of(model, rows))["dataframe_split"]
        table = pd.DataFrame(split["data"], columns=split["columns"])
        assert direct(table).equals(inner.predict(None, table)) and direct(table).equals(loaded.predict(table))
        ways = {
            "direct": lambda table=table: direct(table),
            "predict": lambda table=table: inner.predict(None, table, params=defaults),
            "pyfunc": lambda table=table: loaded.predict(table),
        }
        ms = take_turns(ways, seconds)
        # What lies around the nodes is a small part: it is measured by itself, with nodes that know their answers.
        real, plan = steps, inner._plan
        steps = with_known_answers(real, {**inputs, inner.input_name: table})
        names = [inner.input_name, *inner.sources]
        inner._plan = type(plan)(steps, inputs=names, outputs=inner.output_names, copy_mode=inner.copy_mode)
        bare = take_turns(ways, seconds / 2, calls=20)
        steps, inner._plan = real, plan
        added = {name: bare[name] - bare["direct"] for name in ("predict", "pyfunc")}
        told = {f"{name} adds": value for name, value in added.items()}
        ratios = {f"{name} / direct": 1 + value / ms["direct"] for name, value in added.items()}
        found.append({"what": f"demo, {rows} rows", **ms, **told, **ratios})
    return found


def with_known_answers(steps: list[Any], values: dict[str, Any]) -> list[Any]:
    """The same steps, each giving what it gave for ``values`` at once."""
    stubs = []
    for step in steps:
        names = [step.inputs] if isinstance(step.inputs, str) else step.inputs
        values[step.outputs] = answer = step.func(*[values[name] for name in names])
        stubs.append(replace(step, func=lambda *args, answer=answer: answer))
    return stubs


def make_ours(pipeline: Any, catalog: Any, folder: Path) -> Any:
    """Our model of a pipeline with its artifacts loaded."""
    from kbuild.training.pyfunc import KedroPipelineModel

    model = KedroPipelineModel(pipeline=pipeline, catalog=catalog, input_name="table")
    model.load_artifacts(model.extract_pipeline_artifacts(folder))
    return model


def make_theirs(pipeline: Any, catalog: Any, artifacts: dict[str, Path], site: Path) -> Any:
    """kedro-mlflow's model of the same; ``site`` is where it is installed."""
    if str(site) not in sys.path:
        sys.path.append(str(site))
    from kedro_mlflow.mlflow.kedro_pipeline_model import KedroPipelineModel

    model = KedroPipelineModel(pipeline=pipeline, catalog=catalog, input_name="table")
    model.load_context(SimpleNamespace(artifacts={name: str(path) for name, path in artifacts.items()}))
    return model


def measure_sizes(folder: Path, site: Path | None, seconds: float) -> dict[str, Any]:
    """One node with an artifact of 4 KB and with one of 62 MB."""
    from kedro.io import DataCatalog
    from kedro.pipeline import Pipeline, node
    from kedro_datasets.pickle import PickleDataset

    table = pd.DataFrame({"x": [1.0]})
    ways: dict[str, Callable[[], object]] = {}
    pipeline = Pipeline([node(use, ["table", "artifact"], "size", name="use")])
    for size, count in (("4 KB", 500), ("62 MB", 7_750_000)):
        file = folder / f"{count}.pkl"
        dataset = PickleDataset(filepath=str(file))
        dataset.save([np.zeros(count // 10) for _ in range(10)])
        catalog = DataCatalog({"artifact": dataset})
        ours = make_ours(pipeline, catalog, folder / str(count))
        ways[f"ours, {size}"] = lambda ours=ours: ours.predict(None, table)
        if site is not None:
            theirs = make_theirs(pipeline, catalog, {"artifact": file}, site)
            ways[f"kedro-mlflow, {size}"] = lambda theirs=theirs: theirs.predict(None, table)
    ms = take_turns(ways, seconds)
    return {"what": "size of an artifact", **ms, "62 MB - 4 KB, ms": ms["ours, 62 MB"] - ms["ours, 4 KB"]}


def measure_identities(folder: Path, site: Path | None, seconds: float) -> dict[str, Any]:
    """Four nodes that do nothing: all that is measured is overhead."""
    from kedro.io import DataCatalog
    from kedro.pipeline import Pipeline, node

    names = ["table", "a", "b", "c", "d"]
    pipeline = Pipeline([node(same, one, other, name=other) for one, other in pairwise(names)])
    table = pd.DataFrame({"x": [1.0]})
    ours = make_ours(pipeline, DataCatalog({}), folder / "identities")
    quick: dict[str, Callable[[], object]] = {
        "direct": lambda: same(same(same(same(table)))),
        "ours": lambda: ours.predict(None, table),
    }
    ms = take_turns(quick, seconds, calls=200)
    found: dict[str, Any] = {"what": "4 identities", **ms}
    if site is not None:
        theirs = make_theirs(pipeline, DataCatalog({}), {}, site)
        found |= take_turns({"kedro-mlflow": lambda: theirs.predict(None, table)}, seconds)
        overhead = found["kedro-mlflow"] - found["direct"]
        found["peer overhead / ours"] = overhead / (found["ours"] - found["direct"])
    return found


def find_misses(found: list[dict[str, Any]]) -> list[str]:
    """What is above or below its bound."""
    values = [(each["what"], name, value) for each in found for name, value in each.items()]
    return [f"{what}: {name} is {value:.3f}" for what, name, value in values if is_missed(name, value)]


def is_missed(name: str, value: Any) -> bool:
    """Whether a value is out of its bounds."""
    return (name in AT_MOST and value > AT_MOST[name]) or (name in AT_LEAST and value < AT_LEAST[name])


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each group of ways")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--model", type=Path, help="the folder of the demo's model, trained anew if not given")
    options = parser.parse_args()
    from peers import KEDRO_MLFLOW, install
    from scoring import train

    model = options.model or train()
    # The model's copy of kbuild comes first on the path once it is loaded, and has no part that trains.
    import_module("kbuild.training.artifacts")
    # The peer logs each node of each request.
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="kbuild-bench-") as name:
        folder = Path(name)
        site = install(folder / "site", KEDRO_MLFLOW)
        found = [
            *measure_demo(model, options.seconds),
            measure_sizes(folder, site, options.seconds),
            measure_identities(folder, site, options.seconds),
        ]
    for each in found:
        print(f"\n{each['what']}")
        for key, value in each.items():
            if key != "what":
                unit = "" if "/" in key or key.endswith("ms") else " ms"
                print(f"  {key:<28}{value:>12.4f}{unit}")
    misses = find_misses(found)
    print("\n" + ("\n".join(misses) or "all within bounds"))
    if options.json:
        options.json.write_text(json.dumps({"predict": found, "misses": misses}, indent=1) + "\n")


if __name__ == "__main__":
    main()
