"""What conda packages bring, and that nothing of it is read or written outside of their prefix."""

from __future__ import annotations

import bz2
import io
import json
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from conda_packages import HOST, SHORT, VERSION, listed, make_conda, make_interpreter, make_tar, paths_json

from kbuild.digest import digest_file
from kbuild.environment.lockfile import LockedPackage
from kbuild.errors import BuildFailed
from kbuild.image.packages.conda import install_conda_packages
from kbuild.process import run

pytest.importorskip("rattler")


@pytest.fixture
def link(tmp_path: Path) -> Callable[..., Path]:
    """Links conda packages as a build does, in a folder beside which ``outside`` must stay as it is."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("of this machine")

    def go(*packages: Path) -> Path:
        root, scratch = tmp_path / "root", tmp_path / "scratch"
        scratch.mkdir(exist_ok=True)
        locked = {
            LockedPackage(
                name=path.name.removesuffix(".conda").removesuffix(".tar.bz2").rsplit("-", 2)[0],
                version="1",
                manager="conda",
                platform=HOST,
                url=f"https://x/{HOST.conda_subdir}/{path.name}",
                sha256=digest_file(path).hex,
            ): path
            for path in packages
        }
        try:
            install_conda_packages(locked, root=root, prefix="/opt/env", scratch=scratch, run=run)
        finally:
            assert [path.name for path in (tmp_path / "outside").iterdir()] == ["secret"]
            assert (tmp_path / "outside/secret").read_text() == "of this machine"
            assert (tmp_path / "outside/secret").stat().st_nlink == 1
            assert not (tmp_path / "out").exists()
        return root / "opt/env"

    return go


@pytest.mark.parametrize("suffix", [".tar.bz2", ".conda"])
def test_what_counts_is_the_list_that_was_unpacked_last(suffix: str, link: Callable[..., Path], tmp_path: Path) -> None:
    """A tar archive may have a member twice; who unpacks it has the last one."""
    up = "../../../outside/secret"  # both from where it is unpacked and from where it goes
    members = [("info/paths.json", paths_json(listed("share/plain"), listed(up)))]
    package = make_conda(tmp_path, "twice", {"share/plain": "x"}, members=members, suffix=suffix)
    with pytest.raises(BuildFailed, match=rf"twice-1-0\S+ lists {re.escape(up)}"):
        link(package)


OUTSIDE = "../../../../outside"  # from root/opt/env/share
PLACEHOLDER = {"prefix_placeholder": "/built", "file_mode": "text"}


@pytest.mark.parametrize(
    ("members", "paths", "message"),
    [
        pytest.param([], ["share\\..\\..\\out"], "lists share", id="backslashes"),
        pytest.param([], ["./share/plain"], "lists ./share/plain", id="dot"),
        pytest.param([("d", "share")], ["d/plain"], "lists d/plain", id="below a link that nobody lists"),
        pytest.param([("d", OUTSIDE)], ["d", "d/secret"], "lists d to be copied", id="below a link called a file"),
        pytest.param([("share/s", "{outside}/secret")], [("share/s", {"no_link": True})], "leads out", id="copied"),
        pytest.param([("share/s", "{outside}/secret")], [("share/s", PLACEHOLDER)], "leads out", id="patched"),
        pytest.param(
            [("share/s", "plain")],
            [("share/s", {"path_type": "softlink"}), ("share/s", PLACEHOLDER)],
            "lists share/s twice",
            id="written through itself",
        ),
        pytest.param(
            [("conda-meta", "{outside}")], [("conda-meta", {"path_type": "softlink"})], "conda-meta", id="records"
        ),
        pytest.param(
            [("conda-meta/x.json", "{outside}/secret")],
            [("conda-meta/x.json", {"path_type": "softlink"})],
            "only the installer",
            id="a record",
        ),
        pytest.param(
            [("lib/__pycache__", "{outside}")], [("lib/__pycache__", {"path_type": "softlink"})], None, id="bytecode"
        ),
        pytest.param(
            [("__clobbers__", "{outside}")],
            [("__clobbers__", {"path_type": "softlink"})],
            "only the installer",
            id="clobbers",
        ),
        pytest.param([("info/paths.json", "{outside}/paths")], [], "info/paths.json", id="a link for a list"),
        pytest.param([("info", "{outside}"), ("info/new", b"x")], [], None, id="a link for info"),
        pytest.param([("d", "{outside}"), ("d/new", b"x")], ["share/plain"], None, id="unpacked through a link"),
        pytest.param([("../" * 9 + "{outside}/new", b"x")], ["share/plain"], None, id="unpacked above"),
        pytest.param([("{outside}/new", b"x")], ["share/plain"], None, id="unpacked at the root"),
    ],
)  # fmt: skip
def test_nothing_of_a_conda_package_is_read_or_written_outside(
    members: list[tuple[str, str | bytes]],
    paths: list[str | tuple[str, dict[str, object]]],
    message: str | None,
    link: Callable[..., Path],
    tmp_path: Path,
) -> None:
    outside = str(tmp_path / "outside")
    placed = [
        (path.replace("{outside}", outside), each.replace("{outside}", outside) if isinstance(each, str) else each)
        for path, each in members
    ]
    entries = [listed(each) if isinstance(each, str) else listed(each[0]) | each[1] for each in paths]
    package = make_conda(tmp_path, "bad", {"share/plain": "x"}, entries, members=placed)
    try:
        prefix = link(package)
    except BuildFailed as error:
        assert (message or "") in error.message
        assert "\n" not in error.message
    else:
        assert message is None
        assert not any("of this machine" in each.read_text() for each in prefix.rglob("*") if each.is_file())


@pytest.mark.slow
def test_a_list_of_before_2017_is_held_to_the_same(link: Callable[..., Path], tmp_path: Path) -> None:
    package = tmp_path / "old-1-0.tar.bz2"
    index = {"name": "old", "version": "1", "build": "0", "build_number": 0, "depends": [], "subdir": HOST.conda_subdir}
    members = [("info/index.json", json.dumps(index).encode()), ("share/plain", b"x")]
    for path in ("share/plain", "../../../out", "/out", "d/secret"):
        more: list[tuple[str, str | bytes]] = [("d", str(tmp_path / "outside")), ("info/files", f"{path}\n".encode())]
        package.write_bytes(bz2.compress(make_tar([*members, *more])))
        if path == "share/plain":
            assert (link(package) / path).read_text() == "x"
            shutil.rmtree(tmp_path / "root")
        else:
            with pytest.raises(BuildFailed, match=rf"old-1-0\.tar\.bz2 lists {re.escape(path)}"):
                link(package)
            shutil.rmtree(tmp_path / "root", ignore_errors=True)
            shutil.rmtree(tmp_path / "scratch")


@pytest.mark.slow
@pytest.mark.parametrize(
    "second", ["below", "through another", "entry point", "entry points below", "as site-packages"]
)
def test_two_conda_packages_lead_nobody_out_together(second: str, link: Callable[..., Path], tmp_path: Path) -> None:
    outside = str(tmp_path / "outside")
    python = make_interpreter(tmp_path)
    at, more = {
        "below": ("share/d", [make_conda(tmp_path, "four", {"share/d/new": "x"})]),
        "through another": (
            "share/d/new",
            [
                make_conda(tmp_path, "two", {}, [listed("e", "softlink")], members=[("e", "share/d")]),
                make_conda(tmp_path, "three", {"e/new": "/built"}, [listed("e/new", **PLACEHOLDER)]),
            ],
        ),
        "entry point": ("bin/tool", [make_tool(tmp_path)]),
        "entry points below": ("bin", [make_tool(tmp_path)]),
        "as site-packages": (f"lib/python{SHORT}/site-packages", [make_tool(tmp_path)]),
    }[second]
    first = make_conda(tmp_path, "one", {}, [listed(at, "softlink")], members=[(at, f"{outside}/new")])
    with pytest.raises(BuildFailed, match=r"\.tar\.bz2 brings ") as caught:
        link(python, first, *more)
    assert ("two" if second == "through another" else "one") + "-1-0.tar.bz2 brings" in caught.value.message


def make_tool(folder: Path, command: str = "tool") -> Path:
    link_json = {
        "noarch": {"type": "python", "entry_points": [f"{command} = tool:main"]},
        "package_metadata_version": 1,
    }
    members = [("info/link.json", json.dumps(link_json).encode())]
    return make_conda(folder, "tool", {"site-packages/tool.py": ""}, members=members, noarch="python")


def test_links_within_the_prefix_are_linked_as_they_are(link: Callable[..., Path], tmp_path: Path) -> None:
    one = make_conda(tmp_path, "one", {"share/info/a": "a"}, [listed("share/info/a"), listed("lib/info", "softlink")],
                     members=[("lib/info", "../share/info")])  # fmt: skip
    tool = make_tool(tmp_path)
    prefix = link(make_interpreter(tmp_path), one, tool)
    assert (prefix / "lib/info").readlink() == Path("../share/info")
    assert (prefix / "bin/tool").is_file()
    assert (prefix / f"lib/python{SHORT}/site-packages/tool.py").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("command", ["../../../../out", "/out", "..\\out"])
def test_entry_points_have_no_folders(command: str, link: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match="conda packages cannot be installed"):
        link(make_interpreter(tmp_path), make_tool(tmp_path, command))


@pytest.mark.parametrize(
    "index",
    [{"name": "../../out"}, {"build": "/../../../../../out"}, {"python_site_packages_path": "../../../out"}],
    ids=["name", "build", "site-packages"],
)
def test_what_a_conda_package_calls_itself_leads_nowhere(
    index: dict[str, object], link: Callable[..., Path], tmp_path: Path
) -> None:
    whole = {"name": "python", "version": VERSION, "build": "0", "build_number": 0, "depends": [], **index}
    package = make_conda(
        tmp_path, "python", {"bin/python": ""}, members=[("info/index.json", json.dumps(whole).encode())]
    )
    packages = [package, make_tool(tmp_path)] if "python_site_packages_path" in index else [package]
    with pytest.raises(BuildFailed, match="conda packages cannot be installed"):
        link(*packages)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["{outside}/secret", "../../../outside/secret"])
def test_a_hard_link_to_a_file_of_this_machine_is_not_unpacked(
    target: str, link: Callable[..., Path], tmp_path: Path
) -> None:
    package = make_conda(tmp_path, "hard", {"share/plain": ""}, [listed("share/s")])
    file = io.BytesIO(bz2.decompress(package.read_bytes()))
    with tarfile.open(fileobj=file, mode="a") as archive:
        member = tarfile.TarInfo("share/s")
        member.type, member.linkname = tarfile.LNKTYPE, target.replace("{outside}", str(tmp_path / "outside"))
        archive.addfile(member)
    package.write_bytes(bz2.compress(file.getvalue()))
    with pytest.raises(BuildFailed, match="conda packages cannot be installed"):
        link(package)


@pytest.mark.slow
def test_a_list_too_large_to_be_read_is_refused(link: Callable[..., Path], tmp_path: Path) -> None:
    members = [("info/paths.json", b" " * (1 << 28))]
    with pytest.raises(BuildFailed, match=r"bomb-1-0.conda has an info/paths\.json of 268 MB"):
        link(make_conda(tmp_path, "bomb", {"share/plain": ""}, members=members, suffix=".conda"))


def test_a_package_that_calls_itself_otherwise_than_locked_is_refused(
    link: Callable[..., Path], tmp_path: Path
) -> None:
    package = make_conda(tmp_path, "other", {"share/plain": ""})
    with pytest.raises(BuildFailed, match="calls itself other, by which name the lock has none"):
        link(package.rename(tmp_path / "mine-1-0.tar.bz2"))
