"""Images that only a registry has: each command on a machine with an empty cache, and what it fetches."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import requests
from engines import Registry
from small_models import write_small
from tool import Done, Tool, Trained, served

from kbuild.image.oci.layout import read_manifest
from kbuild.image.store.pack import image_in


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """Two images of one run in a registry, as ``--push`` printed them, which differ in a label alone."""

    image: str
    other: str
    built: dict[str, Any]


@pytest.fixture(scope="module")
def pushed(tool: Tool, trained: Trained, registry: Registry) -> Pushed:
    names = []
    for number in range(2):
        more = ("--label", "number=other") if number else ()
        argv = ("image", trained.run_id, "--push", f"{registry.address}/team/model:{number}", *more, "--json")
        built = tool(*argv, cwd=trained.folder).json
        names.append(f"{registry.address}/team/model@{built['digest']}")
    first = tool("image", trained.run_id, "--json", cwd=trained.folder).json
    assert names[0].endswith(first["digest"])
    return Pushed(image=names[0], other=names[1], built=first)


@pytest.fixture
def machine(tool: Tool, tmp_path: Path) -> Iterator[Tool]:
    """kbuild with an empty cache."""
    yield replace(tool, cache=tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)


def pulled(done: Done) -> int:
    """How many layers were fetched, as a command with -v says."""
    return done.err.count("pulling sha256:")


def layers_of(built: dict[str, Any]) -> int:
    layout = Path(built["layout"])
    return len(read_manifest(layout, image_in(layout, engine="x").digest).layers)


def test_inspect_fetches_no_layer(machine: Tool, pushed: Pushed) -> None:
    done = machine("inspect", "-v", pushed.image, "--json")
    assert done.json["digest"] == pushed.built["digest"]
    assert done.json["labels"]["io.kbuild.lock.digest"] == pushed.built["lock_digest"]
    assert pulled(done) == 0
    held = sum(path.stat().st_size for path in machine.cache.rglob("*") if path.is_file())
    assert held < 100_000
    # A tag behind a registry's name means what it means there now.
    assert machine("inspect", "-v", pushed.image.partition("@")[0] + ":1", "--json").json["digest"] in pushed.other


def test_diff_fetches_what_differs_alone(machine: Tool, pushed: Pushed) -> None:
    done = machine("diff", "-v", pushed.image, pushed.other, "--json")
    assert {change["name"] for change in done.json["config"]} >= {"config.Labels.number"}
    assert pulled(done) == 0 and done.json["files"] == []


def test_audit_says_of_it_what_it_says_of_the_one_built_here(
    machine: Tool, tool: Tool, trained: Trained, pushed: Pushed
) -> None:
    def audited(with_tool: Tool, reference: str) -> tuple[Done, dict[str, Any]]:
        argv = ("audit", "-v", reference, "--offline", "--no-record", "--today", "2026-11-28", "--format", "json")
        done = with_tool(*argv, cwd=trained.folder, code=None)
        assert done.code in (0, 51, 52), done.err
        return done, {**done.json, "reference": ""}

    there, here = audited(machine, pushed.image), audited(tool, str(pushed.built["layout"]))
    # But for one thing: a machine that has built nothing has nothing to compare it with.
    (unproved,) = [each for each in there[1]["unchecked"] if each["check"] == "image"]
    assert "kbuild verify --rebuild" in unproved["remedy"]
    there[1]["unchecked"].remove(unproved)
    assert here[1].pop("notes") and there[1].pop("notes") == []  # of what was compared with its own building alone
    assert there[1] == here[1]
    assert pulled(there[0]) == layers_of(pushed.built)
    # Of a model whose image is in a registry.
    done = machine(
        "audit", "-v", trained.run_id, "--image", pushed.image, "--offline", "--no-record", "--format", "json",
        cwd=trained.folder, code=None,
    )  # fmt: skip
    assert done.json["digests"]["image"] == pushed.built["digest"] and pulled(done) == 0


def test_verify_and_run(machine: Tool, trained: Trained, pushed: Pushed) -> None:
    done = machine("verify", "-v", pushed.image, cwd=trained.folder)
    assert done.out.strip() == pushed.built["digest"]
    assert pulled(done) == layers_of(pushed.built)
    # What is unpacked already is not fetched for another image that has it.
    again = machine("verify", "-v", pushed.other, cwd=trained.folder)
    assert pulled(again) == 0
    with served(machine, pushed.image, trained.folder) as url:
        assert requests.get(f"{url}/ping", timeout=10).status_code == 200


def test_rebuild_fetches_no_layer_of_what_comes_out_the_same(machine: Tool, trained: Trained, pushed: Pushed) -> None:
    done = machine("verify", "-v", "--rebuild", pushed.image, "--json", cwd=trained.folder)
    assert done.json["verdict"] == "same" and pulled(done) == 0


def test_rebuild_of_a_folders_image(machine: Tool, tool: Tool, registry: Registry, tmp_path: Path) -> None:
    model = write_small(tmp_path / "model", 1)
    lock = tmp_path / "conda-lock.yml"
    tool("lock", model, "-o", lock)
    name = f"{registry.address}/team/small"
    built = tool("image", model, "--lockfile", lock, "--push", f"{name}:1", "--json").json
    reference = f"{name}@{built['digest']}"
    done = machine("verify", "-v", "--rebuild", "--model", model, "--lockfile", lock, reference, "--json")
    assert done.json["verdict"] == "same" and pulled(done) == 0


@pytest.mark.parametrize("command", ["inspect", "run", "verify", "audit", "diff"])
def test_what_a_registry_does_not_have_is_one_line(
    machine: Tool, registry: Registry, trained: Trained, command: str
) -> None:
    name = f"{registry.address}/team/none@sha256:{'0' * 64}"
    done = machine(command, name, *([name] if command == "diff" else []), cwd=trained.folder, code=43)
    assert f"has no {name}" in done.error_lines[0] and "Traceback" not in done.err
