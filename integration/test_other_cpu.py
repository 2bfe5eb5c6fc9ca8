"""A model trained where the numeric library chose other kernels is verified here: a last bit is no difference."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tool import BIN, PROJECT, Done, Tool, copy_project

_FLIGHTS = PROJECT.parent / "flights"
_KERNELS = "Haswell"
# Of the same sum in another order; the last of a double's 53 bits is 1.1e-16 of it.
_NOISE = 1e-12


@dataclass(frozen=True, kw_only=True)
class Flights:
    """A trained project and what its model is called."""

    folder: Path
    model: str

    @property
    def files(self) -> Path:
        [found] = (self.folder / "mlartifacts" / "models").glob("*/artifacts")
        return found


def write_tables(folder: Path) -> None:
    """Three raw tables of 400 shuttles: enough columns that kernels sum them in different orders."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(4)
    ids = np.arange(400)
    values = random.normal(size=(400, 16))
    price = 1500 + values @ random.normal(scale=90, size=16) + random.normal(size=400)
    names = [f"x{number:02}" for number in range(16)]
    table = pd.DataFrame(values, columns=names)
    shuttles = table[names[:8]].assign(shuttle_id=ids, company_id=ids % 20, price=price)
    shuttles.to_csv(folder / "shuttles.csv", index=False)
    table[names[8:]].assign(shuttle_id=ids).to_csv(folder / "reviews.csv", index=False)
    pd.DataFrame({"company_id": range(20), "rating": 1.0}).to_csv(folder / "companies.csv", index=False)


@pytest.fixture(scope="module")
def flights(tool: Tool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flights]:
    folder = copy_project(tmp_path_factory.mktemp("flights") / "project", _FLIGHTS)
    write_tables(folder / "data" / "01_raw")
    done = tool.run([BIN / "kedro", "run"], cwd=folder, PYTHONWARNINGS="ignore", OPENBLAS_CORETYPE=_KERNELS)
    assert done.code == 0, done.err + done.out
    # Rich may break the line anywhere.
    found = re.search(r"models:/m-[0-9a-f]{32}", "".join((done.out + done.err).split()))
    assert found is not None, done.out + done.err
    yield Flights(folder=folder, model=found[0])


def verify(tool: Tool, folder: Path, model: str | Path, tag: str, *options: str, code: int) -> Done:
    tool("image", model, "--tag", tag, cwd=folder)
    return tool("verify", tag, "--json", *options, cwd=folder, code=code)


def numbers(model: Path) -> list[float]:
    return [row["price"] for row in json.loads((model / "recorded_prediction.json").read_text())["predictions"]]


def test_a_last_bit_passes_and_is_told(tool: Tool, flights: Flights) -> None:
    report = verify(tool, flights.folder, flights.model, "flights:1", code=0).json
    assert report["compared"]
    served = [row["price"] for row in report["prediction"]["predictions"]]
    recorded = numbers(flights.files)
    # numpy measures what kbuild tells: |a - b| over the larger of both.
    off = np.abs(np.subtract(served, recorded)) / np.maximum(np.abs(served), np.abs(recorded))
    if not off.any():
        pytest.skip(f"this processor's own kernels give the bits of {_KERNELS}'s: nothing to see")
    assert off.max() < _NOISE
    assert report["largest"]["relative"] == off.max()
    assert report["largest"]["path"] == f"predictions[{off.argmax()}].price"
    refused = tool("verify", "flights:1", "--exact", cwd=flights.folder, code=None)
    assert refused.code != 0
    assert "relative)" in refused.err


def test_a_thousandth_fails_and_is_told(tool: Tool, flights: Flights, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(flights.files, model)
    recorded = json.loads((model / "recorded_prediction.json").read_text())
    recorded["predictions"][1]["price"] *= 1.001
    (model / "recorded_prediction.json").write_text(json.dumps(recorded))
    tool("image", model, "--tag", "tampered:1", cwd=flights.folder)
    refused = tool("verify", "tampered:1", cwd=flights.folder, code=None)
    assert refused.code != 0
    assert "predictions[1].price: expected" in refused.err
    assert "(0.000999 relative)" in refused.err
