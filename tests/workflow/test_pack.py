"""A model's archive: the same bytes anywhere, no day and nobody in it, and what the image has."""

from __future__ import annotations

import errno
import gzip
import io
import os
import shutil
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
import zstandard
from world import HOST, MODEL, RUN_ID, SHORT, WHEELS, World, copy_world

from kbuild.cache.damage import damaged
from kbuild.errors import BaseImageError, OutputError, PlatformError
from kbuild.image.engines.archive import archive_entries
from kbuild.platform import Platform
from kbuild.shipped import archive_files
from kbuild.workflow.batch.packing import PackResult, pack_model, unpacked_model
from kbuild.workflow.once import Shared


def pack(world: World, output: Path, *, reuse: bool = True) -> PackResult:
    return pack_model(world.request(), replace(world.tools, shared=Shared()), output=output, reuse=reuse)


@pytest.mark.slow
def test_two_machines_pack_the_same_bytes(world: World, built_world: World, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        other = copy_world(built_world, tmp_path / "another/place")
        one, two = pack(world, tmp_path / "one.tar.gz"), pack(other, tmp_path / "another/two.tgz", reuse=False)
    finally:
        os.umask(before)
    assert (one.digest, one.size) == (two.digest, two.size)
    data = one.path.read_bytes()
    assert (
        data == two.path.read_bytes() and data[:10] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
    )  # RFC 1952: no time
    again = pack(world, tmp_path / "three.tar.gz")
    assert again.reused and again.digest == one.digest and not one.reused
    assert not any("stage" in note for note in world.heard.notes[world.heard.notes.index("lock:", 5) :])
    world.store.kept.clear()
    anew = pack(world, tmp_path / "anew.tar.gz", reuse=False)
    assert world.store.kept == [False], "nothing of before is taken"
    assert not anew.reused and anew.digest == one.digest
    stored = pack(world, tmp_path / "a new folder/four.tar")
    assert stored.path.read_bytes() == gzip.decompress(data)
    zipped = pack(world, tmp_path / "five.tar.zst").path.read_bytes()
    assert zstandard.ZstdDecompressor().decompressobj().decompress(zipped) == stored.path.read_bytes()
    kept = next((world.tools.cache / "packs/sha256").iterdir())
    assert list(damaged(world.tools.cache, lambda path: False)) == []
    kept.write_bytes(b"other")
    assert [path for path, _ in damaged(world.tools.cache, lambda path: False)] == [kept]
    with tarfile.open(fileobj=io.BytesIO(stored.path.read_bytes())) as archive:
        members = archive.getmembers()
    assert {(member.mtime, member.uid, member.gid, member.uname) for member in members} == {(0, 0, 0, "")}
    names = [member.name.encode().split(b"/") for member in members]
    assert names == sorted(names) and len({*map(tuple, names)}) == len(names)
    assert {member.name.split("/")[0] for member in members} >= {"archive.json", "bin", "env", "kbuild", "model"}
    assert "kbuild/kbuild/scoring/__main__.py" in {member.name for member in members}


@pytest.mark.slow
def test_unpacked_anywhere_it_starts_its_own_python(world: World, tmp_path: Path) -> None:
    pack(world, tmp_path / "m.tar")
    place = tmp_path / "a place"
    with tarfile.open(tmp_path / "m.tar") as archive:
        archive.extractall(place, filter="tar")
    moved = shutil.move(place, tmp_path / "moved here")
    assert (Path(moved) / "model/model.txt").read_bytes() == MODEL["model.txt"]
    site = Path(moved) / f"env/lib/python{SHORT}/site-packages"
    assert (site / "two.py").read_text() == WHEELS["two"]["two.py"]
    world.store.kept.clear()
    with unpacked_model(world.request(), replace(world.tools, shared=Shared())) as unpacked:
        assert world.store.kept == [True], "what was fetched before serves again"
        folder = unpacked.folder
        files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        # Spark unpacks it by its name: what it is sent is the same as .tar.gz.
        sent = unpacked.archive()
        assert sent == unpacked.archive() and sent.name.endswith(".tar.gz")
        with tarfile.open(sent, "r:gz") as archive, tarfile.open(tmp_path / "m.tar") as packed:
            assert archive.getnames() == packed.getnames()
    assert files == {
        str(path.relative_to(moved)): path.read_bytes() for path in Path(moved).rglob("*") if path.is_file()
    }
    (Path(moved) / "env/bin/python").symlink_to(f"python{SHORT}")  # the small world's has none
    (tmp_path / "link").symlink_to(f"{moved}/bin/python")
    code = "import os, sys; print(os.environ['KBUILD_MODEL'], os.environ['PYTHONPATH'].split(':')[0])"
    done = subprocess.run([tmp_path / "link", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{moved}/model {moved}/kbuild"
    (tmp_path / "argparse.py").write_text("raise SystemExit('a module of the caller')")
    starter = Path(moved) / "bin/kbuild-score"
    done = subprocess.run([starter, "--help"], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.startswith("usage: kbuild-score")


def test_links_stay_inside_and_libraries_of_the_base_come_after_the_environments_own(tmp_path: Path) -> None:
    tree, base = tmp_path / "tree", tmp_path / "base"
    for path in (tree / "opt/env/lib/libz.so.1", base / "usr/lib/x/libz.so.1", base / "usr/lib/x/libgomp.so.1.0"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(path))
    (base / "usr/lib/x/libgomp.so.1").symlink_to("libgomp.so.1.0")
    (base / "usr/lib/x/libc.so.6").write_text("the machine's own is taken")
    (tree / "opt/env/lib/absolute").symlink_to("/opt/env/lib/libz.so.1")
    (tree / "opt/env/lib/outside").symlink_to("/etc/hosts")
    zones = base / "usr/share/zoneinfo"
    (zones / "Antarctica").mkdir(parents=True)
    (zones / "Auckland").write_bytes(b"TZif")
    (zones / "Antarctica/South_Pole").symlink_to("../Auckland")
    (zones / "posix").mkdir()
    (zones / "posix/Antarctica").symlink_to("../Antarctica")
    os.link(tree / "opt/env/lib/libz.so.1", tree / "opt/env/lib/same")
    config = type("Config", (), {"env": (("LANG", "C.UTF-8"), ("HOME", "/tmp"), ("SAID", "it's $HOME"))})
    plan = type("Plan", (), {"config": config})
    entries = {entry.name.decode(): entry for entry in archive_entries([(tree,)], base, {}, b"{}", plan)}  # type: ignore[arg-type]
    assert entries["env/lib/absolute"].link == b"libz.so.1"
    assert entries["env/lib/outside"].link == b"/etc/hosts"
    assert entries["share/zoneinfo/Antarctica/South_Pole"].kind == entries["share/zoneinfo/Auckland"].kind == b"0"
    assert entries["share/zoneinfo/Antarctica/South_Pole"].size == 4
    assert not [entry.name for entry in entries.values() if b".." in entry.link]
    assert entries["env/lib/same"].link == b"env/lib/libz.so.1"
    assert {name for name in entries if name.startswith("lib/")} == {"lib/libgomp.so.1", "lib/libgomp.so.1.0"}
    source = entries["bin/kbuild-score"].source
    assert isinstance(source, bytes) and b"export SAID='it'\"'\"'s $HOME'\n" in source and b"export HOME" not in source


@pytest.mark.slow
def test_what_no_archive_can_be_is_said_before_anything_is_fetched(world: World, tmp_path: Path) -> None:
    world.store.down = True
    with pytest.raises(OutputError, match="does not say how"):
        pack(world, tmp_path / "model.zip")
    (tmp_path / "folder.tar").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        pack(world, tmp_path / "folder.tar")
    both = replace(world.lock_request(), platforms=(Platform("linux", "amd64"), Platform("linux", "arm64")))
    with pytest.raises(PlatformError, match="one platform"):
        pack_model(world.request(lock=both), world.tools, output=tmp_path / "m.tar")
    world.store.down = False
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        pack(world, tmp_path / "file/m.tar")


@pytest.mark.slow
def test_where_the_output_has_no_room_that_is_where_room_is_made(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """copyfile of a full disk raises with the name of what it reads, here the cache's."""

    copy = shutil.copyfile

    def full(source: Path, target: Path, **how: Any) -> Any:
        if Path(target).parent == tmp_path:
            Path(target).write_bytes(b"as far as there was room")
            raise OSError(errno.ENOSPC, "No space left on device", str(source))
        return copy(source, target, **how)

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OutputError) as caught:
        pack(world, tmp_path / "m.tar")
    assert caught.value.message == f"cannot write {tmp_path}/m.tar: No space left on device"
    assert caught.value.hint == "make room there, or name another place with --output"
    assert not list(tmp_path.glob("*m.tar*")), "what was written is in nobody's way"


@pytest.mark.slow
def test_another_scorer_makes_another_archive(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = pack(world, tmp_path / "one.tar")
    other = tmp_path / "other.py"
    other.write_text("# another scorer\n")
    files = {**archive_files(), "kbuild/scoring/other.py": other}
    monkeypatch.setattr("kbuild.workflow.batch.packing.archive_files", lambda: files)
    two = pack(world, tmp_path / "two.tar")
    assert not two.reused and two.digest != one.digest
    with tarfile.open(two.path) as archive:
        member = archive.extractfile("kbuild/kbuild/scoring/other.py")
        assert member is not None and member.read() == b"# another scorer\n"


@pytest.mark.slow
def test_the_base_that_it_took_libraries_from_is_recorded(world: World, tmp_path: Path) -> None:
    recorded = f"kbuild/bases-{HOST.conda_subdir}.json"
    assert (RUN_ID, recorded) not in world.store.files
    pack(world, tmp_path / "m.tar")
    assert (RUN_ID, recorded) in world.store.files


@pytest.mark.slow
def test_what_the_base_cannot_run_is_not_packed(world: World, tmp_path: Path) -> None:
    """Also where the base is known, and everything is in the cache."""
    pack(world, tmp_path / "m.tar")
    text = world.lockfile.read_text("utf-8")
    document = yaml.safe_load(text)
    document["package"][0]["dependencies"] = {"__glibc": ">=99.1"}
    world.lockfile.write_text(yaml.safe_dump(document), "utf-8")
    with pytest.raises(BaseImageError, match=r"99\.1"):
        pack_model(world.request(labels=(("team", "x"),)), world.tools, output=tmp_path / "m.tar")


def test_another_machines_archive_is_not_started_here(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Platform("linux", "arm64" if HOST.architecture == "amd64" else "amd64")
    monkeypatch.setattr("kbuild.workflow.batch.packing.host_platform", lambda: other)
    with (
        pytest.raises(PlatformError, match=f"this machine is {other}, and runs nothing of {HOST}"),
        unpacked_model(world.request(), world.tools),
    ):
        pass
