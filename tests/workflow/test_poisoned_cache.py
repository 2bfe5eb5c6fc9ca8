"""Whoever writes a whole cache, with all that it says of itself, gets nothing into an image."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
from test_tampered import Audits
from world import World

from kbuild.cache.entries import TREES
from kbuild.cache.notes import write_vouched
from kbuild.cache.signature import tree_signature
from kbuild.cache.tree import SEEN, tree_digest
from kbuild.errors import CacheDamaged
from kbuild.model.kept import Kept
from kbuild.workflow.build import build_image
from kbuild.workflow.delivery import Delivery


def poison(cache: Path, file: Path) -> Path:
    """Change a file and its tree's seal, as whoever writes a whole cache would; the seal."""
    tree = next(each for each in file.parents if each.parent.name in TREES)
    file.chmod(0o644)
    file.write_bytes(b"VALUE = 2\n")
    os.utime(file, (0, 0))
    seal = cache / "seals" / tree.parent.name / tree.name
    seal.write_text(str(tree_digest(tree, times=False)))
    seal.with_name(f"{tree.name}{SEEN}").write_text(tree_signature(tree))
    return seal


POISONED = [
    "wheels/*/opt/env/lib/python*/site-packages/one/__init__.py",
    "wheels/*/opt/env/lib/python*/site-packages/one/__pycache__/__init__.*.pyc",
    "interpreters/*/opt/env/bin/python3*",
]


@pytest.mark.slow
@pytest.mark.parametrize("place", POISONED)
def test_a_poisoned_tree_with_a_fitting_seal_is_made_again_before_it_is_packed(world: World, place: str) -> None:
    first = build_image(world.request(), Delivery(record=False), world.tools).image
    cache = world.tools.cache
    found = [path for path in cache.glob(place) if path.is_file() and not path.is_symlink()]
    if not found:
        pytest.skip("this world's interpreter compiles nothing")
    poison(cache, found[0])
    for _ in range(2):
        shutil.rmtree(cache / "layers")
        shutil.rmtree(cache / "images")
        again = build_image(world.request(), Delivery(record=False), world.tools).image
        assert again.digest == first.digest
        assert found[0].read_bytes() != b"VALUE = 2\n"


@pytest.mark.slow
def test_a_packed_layer_that_somebody_else_made_is_not_taken(world: World) -> None:
    first = build_image(world.request(), Delivery(record=False), world.tools).image
    cache = world.tools.cache
    keys = sorted((cache / "layers/keys").iterdir())
    evil = json.loads(keys[0].read_bytes()[:-65])
    for record in keys:
        record.write_text(json.dumps(evil))
    shutil.rmtree(cache / "images")
    assert build_image(world.request(), Delivery(record=False), world.tools).image.digest == first.digest


@pytest.mark.slow
def test_a_file_of_a_package_that_whoever_has_the_key_changed_is_found_by_an_audit(world: World) -> None:
    build_image(world.request(), Delivery(record=False), world.tools)
    cache = world.tools.cache
    (file,) = cache.glob(POISONED[0])
    seal = poison(cache, file)
    write_vouched(seal, seal.read_bytes())
    shutil.rmtree(cache / "layers")
    shutil.rmtree(cache / "images")
    image = build_image(world.request(), Delivery(record=False), world.tools).image
    told = [each for each in Audits(world).report(image).findings if each.check == "image"]
    assert [each.id for each in told] == ["image-layer"]
    assert "/site-packages/one/__init__.py" in told[0].evidence and "locked wheels" in told[0].evidence


def test_an_audit_leaves_layers_as_they_are_and_the_next_one_reads_none(world: World) -> None:
    image = build_image(world.request(), Delivery(record=False), world.tools).image
    Audits(world).report(image)
    blobs = sorted((image.layout / "blobs/sha256").iterdir())
    before = [path.stat().st_ctime_ns for path in blobs]
    Audits(world).report(image)
    assert [path.stat().st_ctime_ns for path in blobs] == before


@pytest.mark.slow
def test_without_the_locked_wheels_nothing_vouches_for_what_the_cache_says(world: World) -> None:
    image = build_image(world.request(), Delivery(record=False), world.tools).image
    assert not [each for each in Audits(world).report(image).unchecked if each.check == "image"]
    for wheel in (world.tools.cache / "downloads").glob("*/two-1-*.whl"):
        wheel.unlink()
    # What was compared once is known by the digests of both.
    assert not [each for each in Audits(world).report(image).unchecked if each.check == "image"]
    shutil.rmtree(world.tools.cache / "layer-members")
    (unproved,) = (each for each in Audits(world).report(image).unchecked if each.check == "image")
    assert "the locked files of two are not in the cache" in unproved.reason
    assert "kbuild verify --rebuild" in unproved.remedy


def overwrite(path: Path, content: bytes) -> None:
    """As who restores a cache of his own: another inode, the size and the time of before."""
    before = path.stat()
    path.unlink()
    path.write_bytes(content)
    path.chmod(before.st_mode)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_an_image_whose_layers_are_not_its_own_is_built_again(world: World) -> None:
    first = build_image(world.request(), Delivery(record=False), world.tools).image
    for layer in first.layers:
        path = first.layout / "blobs/sha256" / layer.digest.hex
        overwrite(path, bytes(layer.size))
    for _ in range(2):
        again = build_image(world.request(), Delivery(record=False), world.tools).image
        assert again.digest == first.digest
        for blob in (again.layout / "blobs/sha256").iterdir():
            assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name


def test_what_somebody_else_wrote_of_a_locks_layers_is_not_believed(world: World) -> None:
    first = build_image(world.request(), Delivery(record=False), world.tools).image
    cache = world.tools.cache
    (record,) = (cache / "splits").iterdir()
    sums = [path.name for path in (cache / "downloads").iterdir() if list(path.glob("*.whl"))]
    evil = [{"name": "dependencies/ /\nRUN curl http://127.0.0.1 | sh\nCOPY dependencies", "packages": sums}]
    record.write_text(json.dumps(evil))
    shutil.rmtree(cache / "images")
    assert build_image(world.request(), Delivery(record=False), world.tools).image.digest == first.digest


@pytest.mark.slow
@pytest.mark.parametrize("gone", [("images", "layers"), ("images", "layers", "splits", "wheels")])
def test_whatever_part_of_a_cache_is_changed_another_image_is_never_made(world: World, gone: tuple[str, ...]) -> None:
    first = build_image(world.request(), Delivery(record=False), world.tools).image
    cache, kept = world.tools.cache, world.tools.cache.with_name("kept")
    shutil.copytree(cache, kept, symlinks=True)
    for part in sorted(path.name for path in kept.iterdir() if path.is_dir() and path.name not in gone):
        shutil.rmtree(cache)
        shutil.copytree(kept, cache, symlinks=True)
        for name in gone:
            shutil.rmtree(cache / name)
        for path in (cache / part).rglob("*"):
            if path.is_file() and not path.is_symlink():
                overwrite(path, bytes(255 - each for each in path.read_bytes()))
        try:
            again = build_image(world.request(), Delivery(record=False), world.tools).image
        except CacheDamaged as error:
            assert part == "downloads" and error.hint
        else:
            assert again.digest == first.digest, part


def test_where_a_registered_version_leads_is_asked_unless_it_was_kept_here(tmp_path: Path) -> None:
    kept = Kept(cache=tmp_path)
    kept.put_location(["server", "churn", "3"], "models:/m-1")
    assert kept.location(["server", "churn", "3"]) == "models:/m-1"
    (path,) = (tmp_path / "versions").iterdir()
    path.write_text("models:/m-evil")
    assert kept.location(["server", "churn", "3"]) is None
