"""One lock, two platforms, one index; the foreign image is assembled here without running any of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from engines import Registry, require
from foreign import make_channel
from tool import Tool, Trained

from kbuild.environment.captured.elf import is_elf
from kbuild.image.run.unpack import unpacked_image
from kbuild.platform import Platform, host_platform
from kbuild.progress import Silent

BOTH = ("linux/amd64", "linux/arm64")
AARCH64 = 183  # e_machine of the ELF header (System V ABI, "EM_AARCH64")


@dataclass(frozen=True, kw_only=True)
class Built:
    """What ``kbuild image --json`` said, the options it was given and the layout it wrote."""

    said: dict[str, object]
    options: tuple[str, ...]
    layout: Path

    def digest(self, platform: str) -> str:
        return str(self.said["platforms"][platform]["digest"])  # type: ignore[index]


@pytest.fixture(scope="module")
def channel(tool: Tool, trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A channel with python for arm64."""
    require(host_platform() == Platform("linux", "amd64"), "arm64 is foreign on amd64 machines")
    lines = next(trained.folder.rglob("python_env.yaml")).read_text().splitlines()
    version = next(line.removeprefix("python: ") for line in lines if line.startswith("python: "))
    require(version.startswith("3.11."), "Debian 12 has Python 3.11")
    return make_channel(tmp_path_factory.mktemp("foreign"), version, tool.cache)


@pytest.fixture(scope="module")
def index(
    tool: Tool, trained: Trained, channel: str, registry: Registry, tmp_path_factory: pytest.TempPathFactory
) -> Built:
    """The demo's model for both platforms, pushed and written to a folder."""
    layout = tmp_path_factory.mktemp("index") / "layout"
    options = ("--interpreter", "captured", "--channel", channel)
    name = f"{registry.address}/both:1"
    said = tool(
        "image", trained.run_id, "--platform", ",".join(BOTH), *options, "--tag", "both:1", "--output", layout,
        "--push", name, "--json", cwd=trained.folder,
    ).json  # fmt: skip
    return Built(said=said, options=options, layout=layout)


def test_an_image_alone_has_the_digest_that_it_has_in_the_index(tool: Tool, trained: Trained, index: Built) -> None:
    assert list(index.said["platforms"]) == list(BOTH)  # type: ignore[call-overload]
    alone = tool("image", trained.run_id, "--platform", BOTH[0], *index.options, "--json", cwd=trained.folder).json
    assert alone["digest"] == index.digest(BOTH[0])
    here = tool("verify", "both:1", "--json", cwd=trained.folder).json
    assert here["digest"] == index.digest(BOTH[0])
    assert tool("diff", index.layout, f"both@{alone['digest']}").out.startswith("the same image")
    assert "linux/arm64" in tool("run", "both:1", "--platform", BOTH[1], cwd=trained.folder, code=45).err


def test_the_registry_has_the_index_under_the_tag(index: Built, registry: Registry) -> None:
    from urllib.request import Request, urlopen

    kind = "application/vnd.oci.image.index.v1+json"
    request = Request(f"http://{registry.address}/v2/both/manifests/1", headers={"Accept": kind})
    with urlopen(request) as answer:  # noqa: S310 - a registry of ours
        assert answer.headers["Docker-Content-Digest"] == index.said["digest"]
        entries = json.load(answer)["manifests"]
    assert [f"{entry['platform']['os']}/{entry['platform']['architecture']}" for entry in entries] == list(BOTH)
    assert [entry["digest"] for entry in entries] == [index.digest(platform) for platform in BOTH]


def test_everything_in_the_foreign_image_is_of_its_platform_and_compiled(index: Built, tmp_path: Path) -> None:
    from kbuild.digest import Digest

    digest = Digest.parse(index.digest(BOTH[1]))
    with unpacked_image(index.layout, digest=digest, cache=tmp_path, progress=Silent()) as image:
        elves = [path for path in image.root.rglob("*") if is_elf(path)]
        machines = {path: int.from_bytes(path.read_bytes()[18:20], "little") for path in elves}
        assert len(elves) > 100 and set(machines.values()) == {AARCH64}
        library = image.root / "opt/env/lib/python3.11"
        for module in ("os", "site-packages/sklearn/base", "site-packages/numpy/__init__"):
            source = library / f"{module}.py"
            assert (source.parent / "__pycache__" / f"{source.stem}.cpython-311.pyc").is_file()


def test_what_a_platform_lacks_is_told_before_anything_is_built(tool: Tool, trained: Trained) -> None:
    done = tool(
        "image",
        trained.run_id,
        "--platform",
        BOTH[1],
        "--channel",
        "http://127.0.0.1:9/none",
        cwd=trained.folder,
        code=34,
    )
    assert "an image for linux/arm64 cannot be assembled here: no interpreter" in done.error_lines[0]
    assert "--channel" in done.error_lines[1]
