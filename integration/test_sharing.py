"""Layers that builders share through a real registry: what a machine with an empty disk makes of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from engines import start_registry
from small_models import write_small
from tool import SHARED, Tool, cold

PACKAGES = ("downloads", "wheels", "interpreters")
# What the model's run would bring: a folder has none.
LOCKED = ("locks", "channel", "base-records")


def made(tool: Tool) -> set[str]:
    """What was fetched and laid out in a cache."""
    return {name for name in PACKAGES if any((tool.cache / name).glob("*"))}


def stored(folder: Path) -> int:
    return sum(path.stat().st_size for path in (folder / "data").rglob("data") if path.is_file())


def test_an_empty_machine_builds_the_same_image_from_layers_that_another_packed(
    tool: Tool, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    one, two = write_small(tmp_path / "one", 1), write_small(tmp_path / "two", 2)
    with start_registry(tmp_path / "registry") as registry:
        place = f"{registry.address}/team/cache"
        first = tool("image", one, "--cache-to", place, "--json").json
        held = stored(tmp_path / "registry")
        assert held < first["size"] + 20_000
        # Pushed beside it, the layers are mounted: the model, config and manifest alone are sent.
        tool("image", one, "--push", f"{registry.address}/team/model:1", "--cache-to", place)
        assert stored(tmp_path / "registry") < first["size"] + 40_000

        empty = cold(tool, tmp_path / "empty", keep=LOCKED)
        begin = time.monotonic()
        there = empty("image", one, "--cache-from", place, "--json")
        took = time.monotonic() - begin
        assert there.json["digest"] == first["digest"]
        assert made(empty) == set(), there.err
        assert "left out" not in there.err
        # Another model of that environment, whose own layer nobody packed.
        assert empty("image", two, "--cache-from", place, "--json").json["digest"] != first["digest"]
        assert made(empty) == set()

    # With the registry gone, the same again alone; what it takes to download is not counted.
    alone = cold(tool, tmp_path / "alone", keep=SHARED)
    begin = time.monotonic()
    made_here = alone("image", one, "--cache-from", place, "--json")
    other = time.monotonic() - begin
    assert made_here.json["digest"] == first["digest"]
    assert made(alone) == set(PACKAGES)
    assert made_here.err.count("left out") == 1
    seconds = {"with what another packed": f"{took:.1f}", "alone, packages downloaded before": f"{other:.1f}"}
    record_property("table:an empty disk, seconds", seconds)
