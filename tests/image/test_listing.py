"""What ``kbuild list`` finds, beside what was put there."""

import json
import os
import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from plans import EMPTY, Bytes

from kbuild.cli.list import command
from kbuild.image.engine import BuiltImage, EngineOutput, RawLayer
from kbuild.image.oci.image_reference import ImageReference
from kbuild.image.store.listing import list_here
from kbuild.image.store.local import LocalImages
from kbuild.image.store.pack import pack
from kbuild.image.store.verdicts import Verdicts
from kbuild.platform import Platform
from kbuild.progress import Silent


def add(images: LocalImages, text: bytes, built: float, run: str = "") -> BuiltImage:
    config = {"config": {"Labels": {"io.kbuild.run.id": run}}} if run else {}
    output = EngineOutput(layers=(RawLayer(content=Bytes(text), created_by="COPY"),), config=config)
    image = images.add(lambda layout: pack(output, EMPTY, layout, engine="native", progress=Silent()))
    os.utime(image.layout / "index.json", (built, built))
    return image


def test_images_are_listed_newest_first_with_all_their_names(tmp_path: Path) -> None:
    images = LocalImages(tmp_path / "images")
    old, new = add(images, b"old", 1000), add(images, b"new", 2000)
    for name in ("churn:1", "registry.example/churn:latest"):
        images.name(old, ImageReference.parse(name))
    found = list_here(images.root)
    assert [each.digest for each in found] == [new.digest, old.digest]
    assert [each.names for each in found] == [(), ("churn:1", "registry.example/churn:latest")]
    blobs = old.layout / "blobs" / "sha256"
    assert found[1].size == sum(path.stat().st_size for path in blobs.iterdir())
    assert found[1].platforms == (str(EMPTY.platform),)


def test_of_an_index_all_platforms_are_told(tmp_path: Path) -> None:
    images = LocalImages(tmp_path / "images")
    one, other = add(images, b"one", 1), add(images, b"other", 2)
    index = images.add_index({Platform("linux", "amd64"): one, Platform("linux", "arm64"): other})
    assert {each.digest: len(each.platforms) for each in list_here(images.root)}[index.digest] == 2


def test_a_damaged_image_says_so_and_the_others_are_listed(tmp_path: Path) -> None:
    images = LocalImages(tmp_path / "images")
    whole, damaged = add(images, b"whole", 1), add(images, b"damaged", 2)
    (damaged.layout / "blobs" / "sha256" / damaged.digest.hex).write_text("{")
    found = {each.digest: each for each in list_here(images.root)}
    assert found[whole.digest].damaged is None and found[damaged.digest].damaged
    done = CliRunner().invoke(command, env={"KBUILD_CACHE_DIR": str(tmp_path)})
    assert done.exit_code == 0 and "damaged: " in done.stdout.splitlines()[1]


def test_the_command_prints_a_table_or_json(tmp_path: Path) -> None:
    environment = {"KBUILD_CACHE_DIR": str(tmp_path), "TZ": "UTC"}
    empty = CliRunner().invoke(command, env=environment)
    assert (empty.exit_code, empty.stdout) == (0, "") and "kbuild image" in empty.stderr
    images = LocalImages(tmp_path / "images")
    image = add(images, b"x" * 100, 86400)
    images.name(image, ImageReference.parse("churn:1"))
    title, row = CliRunner().invoke(command, env=environment).stdout.splitlines()
    assert title.split() == [
        "IMAGE", "MODEL", "DIGEST", "PLATFORM", "SIZE", "BUILT", "RUN", "VERIFIED", "REBUILT", "AUDIT", "PUSHED",
    ]  # fmt: skip
    assert row.split()[:3] == ["churn:1", "-", str(image.digest)[:19]] and row.split()[-4:] == ["-"] * 4
    (facts,) = json.loads(CliRunner().invoke(command, ["--json"], env=environment).stdout)
    assert facts["built"] == "1970-01-02T00:00:00+00:00" and facts["digest"] == str(image.digest)
    assert [facts[key] for key in ("models", "verified", "rebuilt", "audit", "audit_date", "pushed")] == [
        [], None, None, None, None, [],
    ]  # fmt: skip


def test_what_commands_said_of_an_image_is_told(tmp_path: Path) -> None:
    images = LocalImages(tmp_path / "images")
    image, verdicts = add(images, b"x" * 100, 86400), Verdicts(images.root)
    verdicts.add(image.digest, pushed=["registry.example/churn:1"], models=["churn/1"])
    verdicts.add(image.digest, pushed=["registry.example/churn:new"], models=["churn/1", "churn/2"])
    verdicts.write(image.digest, "passed")
    verdicts.write_rebuild(image.digest, "same")
    verdicts.write_audit(image.digest, "findings", "2026-11-29")
    verdicts.write_audit(image.digest, "clean", "2026-11-30")
    assert verdicts.read(image.digest) == "passed"
    environment = {"KBUILD_CACHE_DIR": str(tmp_path)}
    _, row = CliRunner().invoke(command, env=environment).stdout.splitlines()
    cells = re.split("  +", row)
    assert (cells[1], cells[-4:-1]) == ("churn/1, churn/2", ["passed", "same", "clean"])
    assert cells[-1] == "registry.example/churn:1, registry.example/churn:new"
    (facts,) = json.loads(CliRunner().invoke(command, ["--json"], env=environment).stdout)
    assert facts["models"] == ["churn/1", "churn/2"] and len(facts["pushed"]) == 2
    assert (facts["verified"], facts["rebuilt"]) == ("passed", "same")
    assert (facts["audit"], facts["audit_date"]) == ("clean", "2026-11-30")


def test_a_verdict_on_some_images_of_an_index_says_on_how_many(tmp_path: Path) -> None:
    images = LocalImages(tmp_path / "images")
    one, other = add(images, b"one", 1), add(images, b"other", 2)
    index = images.add_index({Platform("linux", "amd64"): one, Platform("linux", "arm64"): other})
    verdicts = Verdicts(images.root)
    verdicts.write(one.digest, "passed")
    for image in (one, other):
        verdicts.write_audit(image.digest, "clean", "2026-11-30")
    verdicts.add(index.digest, pushed=["registry.example/both:1"])
    (said,) = [each.said for each in list_here(images.root) if each.digest == index.digest]
    assert (said.verdict, said.audit, said.pushed) == ("1/2 passed", "clean", ("registry.example/both:1",))


def test_a_digest_can_be_shortened_as_it_is_shown(tmp_path: Path) -> None:
    images = LocalImages(tmp_path / "images")
    image = add(images, b"x", 1)
    text = str(image.digest)
    assert images.beginning_with(text[:19]) == images.beginning_with(text) == image.digest
    other = ("0" if text[7] != "0" else "1") + text[8:15]
    assert images.beginning_with(text[:14]) is images.beginning_with(f"sha256:{other}") is None
    assert images.beginning_with(text[7:19]) == images.beginning_with(text[7:]) == image.digest, "as people copy it"
    assert images.beginning_with(text[7:14]) is None and images.beginning_with("") is None
    (images.root / f"{text[7:15]}{'0' * 56}").mkdir()
    assert images.beginning_with(text[:15]) is images.beginning_with(text[7:15]) is None


def test_in_a_narrow_terminal_names_stand_below(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = LocalImages(tmp_path / "images")
    built = add(images, b"x", 1000)
    names = ("model:latest", "spaceflights:1", "spaceflights:latest")
    for name in names:
        images.name(built, ImageReference.parse(name))
    verdicts = Verdicts(images.root)
    verdicts.add(built.digest, pushed=["registry.example/spaceflights:1"], models=["spaceflights/1"])
    verdicts.write(built.digest, "nothing to ask")
    verdicts.write_audit(built.digest, "incomplete", "2026-11-30")
    verdicts.write_rebuild(built.digest, "same")
    monkeypatch.setenv("KBUILD_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    command.main([], standalone_mode=False)
    title, first, *others = capsys.readouterr().out.splitlines()
    assert max(map(len, (title, first))) <= 80
    assert " 1970-01-01 " in first, "the day as ISO 8601 writes it"
    assert first.endswith("no example  incomplete")
    more = ["of models:/spaceflights/1", "built again: same", "pushed to registry.example/spaceflights:1"]
    assert others == [f"  {each}" for each in [*names, *more]]
    (short,) = [word for word in first.split() if word.startswith("sha256:")]
    assert images.beginning_with(short) == built.digest
    monkeypatch.setenv("COLUMNS", "160")
    command.main([], standalone_mode=False)
    title, first, *rest = capsys.readouterr().out.splitlines()
    assert title.split() == ["IMAGE", "MODEL", *title.split()[2:]] and max(map(len, (title, first, *rest))) <= 160
    assert first.startswith("model:latest ") and "spaceflights/1 " in first
    assert first.endswith(" same     incomplete  registry.example/spaceflights:1")
    assert [line.split() for line in rest] == [[names[1]], [names[2]]]
    monkeypatch.setenv("COLUMNS", "300")
    command.main([], standalone_mode=False)
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_names_that_leave_no_room_stand_below_their_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = LocalImages(tmp_path / "images")
    built = add(images, b"x", 1000)
    add(images, b"y", 2000)
    names = ("127.0.0.1:5000/same/twin:1", "registry.example.com/team/customers/churn:2026-11-29")
    for name in names:
        images.name(built, ImageReference.parse(name))
    monkeypatch.setenv("KBUILD_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    command.main([], standalone_mode=False)
    title, newest, *lines = capsys.readouterr().out.splitlines()
    assert max(map(len, (title, newest, *lines))) <= 80
    assert title.split() == ["DIGEST", "PLATFORM", "SIZE", "BUILT", "RUN", "VERIFIED", "AUDIT"] and "sha256:" in newest
    assert lines[0].startswith(str(built.digest)[:15]) and lines[1:] == [f"  {name}" for name in names]
