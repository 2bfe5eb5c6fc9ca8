"""Wheels that bring one file with different contents, as many on the package indexes do (``tests/__init__.py``, two
builds of one library): what there is then is asked of pip itself."""

from __future__ import annotations

import subprocess
import sys
import venv
from dataclasses import replace
from pathlib import Path

import pytest
from conda_packages import SHORT, make_interpreter
from test_rootfs import HOST, lock, make_wheel

from kbuild.audit.image_layers import LayerMember
from kbuild.digest import digest_bytes, digest_file
from kbuild.environment.lockfile import LockedPackage
from kbuild.errors import LockfileInvalid
from kbuild.image.packages.environment import PREFIX, Environment
from kbuild.image.packages.wheel_facts import split_wheels
from kbuild.image.packages.wheels import WheelTarget
from kbuild.image.slim.packages import keep_groups
from kbuild.plan.left_out import NOTHING, LeftOut
from kbuild.plan.split import PackageGroup, group_json, read_group
from kbuild.process import run
from kbuild.progress import Silent
from kbuild.workflow.audit.wheels import compare_wheels

pytest.importorskip("rattler")
SITE = f"lib/python{SHORT}/site-packages"
NEEDS = {"able": ["zulu"], "baker": [], "zulu": []}


class Told(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def tell(self, text: str) -> None:
        self.lines.append(text)


class Laid:
    """The three wheels in a lock: all bring ``tests/__init__.py``, two of them a script of one name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.wheels = [
            make_wheel(
                folder,
                name,
                {f"{name}.py": "", "tests/__init__.py": f"of = {name!r}\n", **more},
                needs=NEEDS[name],
                script=script,
            )
            for name, more, script in (
                ("able", {"LICENSE": "able's"}, "tool"),
                ("baker", {"LICENSE": "able's", "tests/baker.py": ""}, "baker"),
                ("zulu", {"tests/zulu.py": ""}, "tool"),
            )
        ]
        lockfile, downloads = lock(make_interpreter(folder), *self.wheels)
        needing = {
            package: replace(package, dependencies=tuple((each, "") for each in NEEDS.get(package.name, ())))
            for package in downloads
        }
        self.lockfile = replace(lockfile, packages=tuple(needing.values()))
        self.downloads = {needing[package]: path for package, path in downloads.items()}
        pips = tuple(package for package in self.lockfile.packages if package.manager == "pip")
        self.groups = split_wheels(pips, cache=folder / "cache", download=lambda: self.downloads)
        self.told = Told()

    def lay(self, name: str, left_out: LeftOut = NOTHING) -> Path:
        environment = Environment(self.lockfile, HOST, cache=self.folder / "cache", run=run)
        groups = keep_groups(self.groups, left_out)
        trees = environment.wheels(groups, self.downloads, into=self.folder / name, progress=self.told)
        ((root,),) = trees.values()
        return root / PREFIX.lstrip("/")


@pytest.fixture
def laid(tmp_path: Path) -> Laid:
    return Laid(tmp_path)


def contents(root: Path) -> dict[str, str]:
    """What lies there but bytecode, what each installer notes, and the first line of scripts, which names a Python."""
    found = {
        str(path.relative_to(root)): path.read_text(errors="replace")
        for path in root.rglob("*")
        if path.suffix != ".pyc" and path.is_file()
    }
    names = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")
    return {
        path: text.partition("\n")[2] if path.startswith("bin/") else text
        for path, text in found.items()
        if path.rpartition("/")[2] not in names
    }


@pytest.mark.slow
def test_the_file_of_who_pip_installs_later_is_there(laid: Laid) -> None:
    root = laid.lay("a")
    there = laid.folder / "venv"
    venv.create(there, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", str(there / "bin/python"), "--isolated", "install", "-q"]
    options = ["--no-index", "--find-links", str(laid.folder), "--no-compile"]
    subprocess.run([*pip, *options, "able", "baker", "zulu"], check=True)
    ours = contents(root)
    pips = contents(there)
    assert {path: pips[path] for path in ours if not path.startswith("bin/")} == {
        path: text for path, text in ours.items() if not path.startswith("bin/")
    }
    assert "from able import main" in pips["bin/tool"] and "from able import main" in ours["bin/tool"]
    assert ours[f"{SITE}/tests/__init__.py"] == "of = 'able'\n"
    bytecode = list((root / SITE / "tests/__pycache__").glob("__init__*.pyc"))
    assert len(bytecode) == 1 and b"able" in bytecode[0].read_bytes(), "that of the source that is there"
    assert laid.told.lines == [
        "baker 1 and able 1 bring tests/__init__.py; able's counts, for pip installs it later",
        "zulu 1 and able 1 bring bin/tool and 1 more; able's counts, for pip installs it later",
    ]


@pytest.mark.slow
def test_without_who_came_last_the_one_before_counts(laid: Laid) -> None:
    """As a slim image is without it."""
    assert (laid.lay("a", LeftOut(packages=("able",))) / SITE / "tests/__init__.py").read_text() == "of = 'baker'\n"
    others = laid.lay("b", LeftOut(packages=("able", "baker")))
    assert (others / SITE / "tests/__init__.py").read_text() == "of = 'zulu'\n"


def test_what_is_known_of_a_lock_says_it_too(laid: Laid) -> None:
    pips = tuple(package for package in laid.lockfile.packages if package.manager == "pip")
    again = split_wheels(pips, cache=laid.folder / "cache", download=lambda: pytest.fail("the cache knows it"))
    assert again == laid.groups
    (group,) = laid.groups
    assert {each.path: [one.name for one in each.packages] for each in group.overlaps} == {
        "bin/tool": ["zulu", "able"],
        "site/tests/__init__.py": ["zulu", "baker", "able"],
    }
    assert read_group(group_json(group), {each.sha256: each for each in pips}) == group


@pytest.mark.slow
def test_only_the_file_that_counts_is_a_wheels(laid: Laid) -> None:
    """An image in which another package's file was put in its place is none of this lock."""
    root = laid.lay("a").parents[1]
    members = [
        LayerMember(path=str(path.relative_to(root)), kind="file", digest=digest_file(path))
        for path in root.rglob("*")
        if path.is_file()
    ]
    target = WheelTarget(
        python=next(p.version for p in laid.lockfile.packages if p.name == "python"), platform=HOST, prefix=PREFIX
    )
    downloads = laid.folder / "downloads"
    for wheel in laid.wheels:
        place = downloads / digest_file(wheel).hex / wheel.name
        place.parent.mkdir(parents=True)
        place.write_bytes(wheel.read_bytes())
    (group,) = laid.groups
    assert compare_wheels(group, members, target, downloads=downloads).other == ()
    path = f"{PREFIX}/{SITE}/tests/__init__.py"
    changed = [
        replace(each, digest=digest_bytes(b"of = 'zulu'\n")) if f"/{each.path}" == path else each for each in members
    ]
    assert compare_wheels(group, changed, target, downloads=downloads).other == (path,)


@pytest.mark.slow
def test_a_file_where_another_has_a_folder_stays_refused(tmp_path: Path) -> None:
    """pip stops there too."""
    wheels = [
        make_wheel(tmp_path, "able", {"thing": "a file"}),
        make_wheel(tmp_path, "zulu", {"thing/inside.py": "", "LICENSE": "z"}),
    ]
    lockfile, downloads = lock(make_interpreter(tmp_path), *wheels)
    pips: tuple[LockedPackage, ...] = tuple(package for package in lockfile.packages if package.manager == "pip")
    groups: tuple[PackageGroup, ...] = split_wheels(pips, cache=tmp_path / "cache", download=lambda: downloads)
    environment = Environment(lockfile, HOST, cache=tmp_path / "cache", run=run)
    with pytest.raises(LockfileInvalid, match="both bring"):
        environment.wheels(groups, downloads, into=tmp_path / "a", progress=Silent())
