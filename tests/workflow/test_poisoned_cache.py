"""Whoever writes a whole cache, with all that it says of itself, gets an image from it, and no clean audit."""

from __future__ import annotations

import shutil

from test_tampered import Audits
from world import World

from kbuild.cache.tree import SEEN, tree_digest
from kbuild.workflow.build import build_image
from kbuild.workflow.delivery import Delivery


def test_a_file_of_a_package_that_a_restored_cache_brought_is_found(world: World) -> None:
    build_image(world.request(), Delivery(record=False), world.tools)
    cache = world.tools.cache
    (file,) = (cache / "wheels").glob("*/opt/env/lib/python*/site-packages/one/__init__.py")
    tree = next(each for each in file.parents if each.parent.name == "wheels")
    file.chmod(0o644)
    file.write_text("VALUE = 2\n")
    (cache / "seals" / "wheels" / tree.name).write_text(str(tree_digest(tree, times=False)))
    (cache / "seals" / "wheels" / f"{tree.name}{SEEN}").unlink(missing_ok=True)
    shutil.rmtree(cache / "layers")
    shutil.rmtree(cache / "images")
    image = build_image(world.request(), Delivery(record=False), world.tools).image
    told = [each for each in Audits(world).report(image).findings if each.check == "image"]
    assert [each.id for each in told] == ["image-layer"]
    assert "/site-packages/one/__init__.py" in told[0].evidence and "locked wheels" in told[0].evidence


def test_without_the_locked_wheels_nothing_vouches_for_what_the_cache_says(world: World) -> None:
    image = build_image(world.request(), Delivery(record=False), world.tools).image
    assert not [each for each in Audits(world).report(image).unchecked if each.check == "image"]
    for wheel in (world.tools.cache / "downloads").glob("*/two-1-*.whl"):
        wheel.unlink()
    (unproved,) = (each for each in Audits(world).report(image).unchecked if each.check == "image")
    assert "the locked files of two are not in the cache" in unproved.reason
    assert "kbuild verify --rebuild" in unproved.remedy
