"""Layers against the wheels that the lock names: what PyPA's installer makes of a wheel is what a layer may hold."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from installer import install
from installer.destinations import SchemeDictionaryDestination
from installer.sources import WheelFile

from kbuild.audit.image_layers import ImageLayer, LayerMember
from kbuild.audit.planned import PlannedLayer
from kbuild.cache.notes import reading_all
from kbuild.digest import Digest, digest_bytes
from kbuild.environment.lockfile import LockedPackage
from kbuild.image.packages import wheels as image_wheels
from kbuild.image.packages.wheels import WheelTarget
from kbuild.plan.split import PackageGroup
from kbuild.platform import Platform
from kbuild.workflow.audit import wheels
from kbuild.workflow.audit.wheels import compare_wheels, prove_wheels

TARGET = WheelTarget(python="3.11.7", platform=Platform("linux", "amd64"), prefix="/opt/env")
SITE = "opt/env/lib/python3.11/site-packages"
FILES = {
    "shop/__init__.py": b"VALUE = 1\n",
    "shop/data.bin": bytes(range(256)),
    "shop-1.data/scripts/shop-tool": b"#!python\nprint('shop')\n",
    "shop-1.data/scripts/shop.sh": b"#!/bin/sh\necho shop\n",
    "shop-1.data/data/share/shop/readme.txt": b"read me\n",
    "shop-1.data/platlib/shop/fast.so": b"\x7fELF",
    "shop-1.data/headers/shop.h": b"int shop;\n",
    "shop-1.dist-info/METADATA": b"Metadata-Version: 2.1\nName: shop\nVersion: 1\n",
    "shop-1.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "shop-1.dist-info/entry_points.txt": b"[console_scripts]\nshop = shop:main\n[gui_scripts]\nshop-ui = shop:ui\n",
}
DIFF_ID = Digest("d" * 64)


def record(data: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    return tmp_path / "downloads"


@pytest.fixture
def package(downloads: Path) -> LockedPackage:
    """A wheel with something for every scheme, in the cache by its sha256."""
    return lay_down(downloads, FILES)


def lay_down(downloads: Path, files: dict[str, bytes], name: str = "shop", **more: str) -> LockedPackage:
    wheel = downloads.parent / f"{name}-1-py3-none-any.whl"
    lines = {entry: record(data) for entry, data in files.items()} | {f"{name}-1.dist-info/RECORD": ""} | more
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("a folder/", b"")
        for entry, data in files.items():
            archive.writestr(entry, data)
        archive.writestr(f"{name}-1.dist-info/RECORD", "".join(f"{entry},{told},\n" for entry, told in lines.items()))
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (downloads / sha256).mkdir(parents=True)
    wheel.rename(downloads / sha256 / wheel.name)
    return LockedPackage(
        name=name, version="1", manager="pip", platform=TARGET.platform, sha256=sha256,
        url=f"https://index.example/{wheel.name}",
    )  # fmt: skip


@pytest.fixture
def members(package: LockedPackage, downloads: Path, tmp_path: Path) -> list[LayerMember]:
    """As the package's layer has them, from what ``installer`` writes."""
    root = tmp_path / "root"
    places = {name: f"{root}{place}" for name, place in TARGET.schemes("shop").items()}
    destination = SchemeDictionaryDestination(places, "/opt/env/bin/python", "posix", bytecode_optimization_levels=[])
    with WheelFile.open(downloads / package.sha256 / package.filename) as source:
        install(source, destination, {"INSTALLER": b"anybody"})
    found = [LayerMember(path="opt", kind="folder")]
    for path in sorted(root.rglob("*")):
        inside = str(path.relative_to(root))
        if path.is_dir():
            found.append(LayerMember(path=inside, kind="folder"))
        else:
            found.append(LayerMember(path=inside, kind="file", digest=digest_bytes(path.read_bytes())))
    cache = f"{SITE}/shop/__pycache__/__init__.cpython-311.pyc"
    return [*found, LayerMember(path=cache, kind="file", digest=Digest("c" * 64))]


Compare = Callable[..., tuple[tuple[str, ...], tuple[str, ...]]]


@pytest.fixture
def compare(package: LockedPackage, downloads: Path) -> Compare:
    def call(members: list[LayerMember], *packages: LockedPackage) -> tuple[tuple[str, ...], tuple[str, ...]]:
        group = PackageGroup(name="dependencies", packages=packages or (package,))
        found = compare_wheels(group, members, TARGET, downloads=downloads)
        return found.lacking, found.other

    return call


def test_what_an_installer_writes_is_the_wheel(compare: Compare, members: list[LayerMember]) -> None:
    paths = {member.path for member in members}
    assert {f"{SITE}/shop/fast.so", "opt/env/bin/shop", "opt/env/bin/shop-ui", "opt/env/bin/shop-tool"} <= paths
    assert {"opt/env/share/shop/readme.txt", "opt/env/include/python3.11/shop/shop.h"} <= paths
    assert compare(members) == ((), ())


@pytest.mark.parametrize(
    "path",
    [
        f"{SITE}/shop/__init__.py", f"{SITE}/shop/fast.so", f"{SITE}/shop-1.dist-info/METADATA", "opt/env/bin/shop",
        "opt/env/bin/shop-ui", "opt/env/bin/shop-tool", "opt/env/bin/shop.sh", "opt/env/share/shop/readme.txt",
        "opt/env/include/python3.11/shop/shop.h",
    ],
)  # fmt: skip
def test_a_file_with_other_bytes_is_told(compare: Compare, members: list[LayerMember], path: str) -> None:
    changed = [replace(each, digest=Digest("e" * 64)) if each.path == path else each for each in members]
    assert changed != members and compare(changed) == ((), (f"/{path}",))


def test_records_of_the_installing_may_be_any(compare: Compare, members: list[LayerMember]) -> None:
    free = [f"{SITE}/shop-1.dist-info/{name}" for name in ("RECORD", "INSTALLER")]
    changed = [replace(each, digest=Digest("e" * 64)) if each.path in free else each for each in members]
    assert changed != members and compare(changed) == ((), ())


def test_a_script_of_another_language_is_started_as_it_says(compare: Compare, members: list[LayerMember]) -> None:
    """Installers write the interpreter into scripts of ``#!python`` alone (PEP 427)."""
    path = "opt/env/bin/shop.sh"
    for text, told in ((b"#!/bin/sh\necho shop\n", ()), (b"#!/opt/env/bin/python\necho shop\n", (f"/{path}",))):
        changed = [replace(each, digest=digest_bytes(text)) if each.path == path else each for each in members]
        assert compare(changed) == ((), told)


@pytest.mark.parametrize(
    ("path", "kind", "told"),
    [
        (f"{SITE}/shop/more.py", "file", True),
        (f"{SITE}/shop/__init__.pyc", "file", True),  # beside its source Python takes it for a module
        (f"{SITE}/shop/__pycache__/other.cpython-311.pyc", "file", True),
        (f"{SITE}/shop/__pycache__/__init__.cpython-311.so", "file", True),
        (f"{SITE}/shop/__pycache__/__init__.cpython-311.opt-1.pyc", "file", False),
        (f"{SITE}/__pycache__/__init__.cpython-311.pyc", "file", True),
        (f"{SITE}/shop/link", "link", True),
        (f"{SITE}/shop/device", "device", True),
        (f"{SITE}/empty", "folder", False),
    ],
)
def test_what_no_wheel_brings_is_told(
    compare: Compare, members: list[LayerMember], path: str, kind: str, told: bool
) -> None:
    more = LayerMember(path=path, kind=kind, digest=Digest("f" * 64) if kind == "file" else None)  # type: ignore[arg-type]
    assert compare([*members, more]) == ((), (f"/{path}",) if told else ())


def test_a_hard_link_is_what_it_is_linked_to(compare: Compare, members: list[LayerMember]) -> None:
    source, others = f"{SITE}/shop/data.bin", [each for each in members if each.path != "opt/env/bin/shop.sh"]
    good = next(each for each in members if each.path == "opt/env/bin/shop.sh")
    moved = replace(good, path="opt/env/bin/elsewhere")
    linked = LayerMember(path=good.path, kind="hard link", link=f"./{moved.path}")
    assert compare([*others, moved, linked]) == ((), (f"/{moved.path}",)), "the file is there under another name too"
    wrong = LayerMember(path=good.path, kind="hard link", link=source)
    assert compare([*others, wrong]) == ((), (f"/{good.path}",))
    gone = LayerMember(path=good.path, kind="hard link", link="opt/env/bin/nowhere")
    assert compare([*others, gone]) == ((), (f"/{good.path}",))


def test_a_wheel_that_is_not_here_or_is_another_file_proves_nothing(
    compare: Compare, members: list[LayerMember], package: LockedPackage, downloads: Path
) -> None:
    absent = replace(package, name="absent", sha256="0" * 64)
    assert compare(members, absent) == (("absent",), ())
    assert compare(members, package, absent) == (("absent",), ())
    path = downloads / package.sha256 / package.filename
    path.write_bytes(path.read_bytes() + b"!")
    assert compare(members) == (("shop",), ())


@pytest.mark.parametrize(
    "files",
    [
        {"broken-1.dist-info/WHEEL": b""},  # without METADATA and RECORD's own entries
        {**{name.replace("shop", "broken"): data for name, data in FILES.items()}, "broken-1.data/nowhere/x": b"x"},
    ],
    ids=["no metadata", "a scheme that there is none of"],
)
def test_a_wheel_that_cannot_be_read_proves_nothing(compare: Compare, downloads: Path, files: dict[str, bytes]) -> None:
    if len(files) == 1:
        sha256 = hashlib.sha256(b"no zip").hexdigest()
        (downloads / sha256).mkdir(parents=True, exist_ok=True)
        (downloads / sha256 / "broken-1-py3-none-any.whl").write_bytes(b"no zip")
        broken = LockedPackage(
            name="broken", version="1", manager="pip", platform=TARGET.platform, sha256=sha256,
            url="https://index.example/broken-1-py3-none-any.whl",
        )  # fmt: skip
    else:
        broken = lay_down(downloads, files, "broken")
    assert compare([], broken) == (("broken",), ())


def test_of_a_file_that_record_does_not_name_its_own_bytes_count(downloads: Path, compare: Compare) -> None:
    files = {name.replace("shop", "more"): data for name, data in FILES.items()}
    package = lay_down(downloads, files, "more", **{"more/data.bin": ""})
    path = f"{SITE}/more/data.bin"
    good = LayerMember(path=path, kind="file", digest=digest_bytes(FILES["shop/data.bin"]))
    assert compare([good], package) == ((), ())
    assert compare([replace(good, digest=Digest("1" * 64))], package) == ((), (f"/{path}",))


def prove(package: LockedPackage, members: list[LayerMember], downloads: Path, *planned: PlannedLayer) -> object:
    layer = ImageLayer(
        digest=DIFF_ID, diff_id=DIFF_ID, stated=DIFF_ID, created_by="", members=tuple(members)
    )  # fmt: skip
    groups = (PackageGroup(name="dependencies", packages=(package,)),)
    return prove_wheels(planned, groups, (layer,), TARGET, cache=downloads.parent)


def test_a_layer_of_packages_counts_where_it_holds_the_wheels(
    package: LockedPackage, members: list[LayerMember], downloads: Path
) -> None:
    layer = PlannedLayer(name="dependencies", diff_id=DIFF_ID)
    model = PlannedLayer(name="model", diff_id=DIFF_ID)
    absent = PlannedLayer(name="dependencies", diff_id=Digest("9" * 64))
    # A layer that was proved once is known by its digest: the one with more in it comes first here.
    extra = LayerMember(path="opt/env/bin/extra", kind="file", digest=DIFF_ID)
    assert prove(package, [*members, extra], downloads, layer) == (
        (replace(layer, other=("/opt/env/bin/extra",)),), None
    )  # fmt: skip
    assert prove(package, members, downloads, layer, model) == ((layer, model), None)
    assert prove(package, members, downloads, absent) == ((absent,), None), "an image without it is told elsewhere"


@pytest.mark.parametrize("changed", ["rules", "installer"])
def test_what_other_rules_proved_is_proved_again(
    package: LockedPackage, members: list[LayerMember], downloads: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    layer = PlannedLayer(name="dependencies", diff_id=DIFF_ID)
    assert prove(package, members, downloads, layer) == ((layer,), None)
    extra = [*members, LayerMember(path="opt/env/bin/extra", kind="file", digest=DIFF_ID)]
    assert prove(package, extra, downloads, layer) == ((layer,), None), "it is remembered"
    wheels._rules.cache_clear()
    if changed == "rules":
        other = downloads / "other.py"
        other.write_text("# other rules")
        monkeypatch.setattr(image_wheels, "__file__", str(other))
    else:
        monkeypatch.setattr(wheels, "version", lambda name: f"another of {name}")
    try:
        assert prove(package, extra, downloads, layer) == ((replace(layer, other=("/opt/env/bin/extra",)),), None)
    finally:
        wheels._rules.cache_clear()


def test_who_has_all_read_is_told_nothing_that_was_proved_before(
    package: LockedPackage, members: list[LayerMember], downloads: Path
) -> None:
    layer = PlannedLayer(name="dependencies", diff_id=DIFF_ID)
    assert prove(package, members, downloads, layer) == ((layer,), None)
    extra = [*members, LayerMember(path="opt/env/bin/extra", kind="file", digest=DIFF_ID)]
    with reading_all():
        assert prove(package, extra, downloads, layer) == ((replace(layer, other=("/opt/env/bin/extra",)),), None)


def test_where_it_cannot_be_known_the_fault_says_why(
    package: LockedPackage, members: list[LayerMember], downloads: Path
) -> None:
    layer = PlannedLayer(name="dependencies", diff_id=DIFF_ID)
    gone = replace(package, sha256="0" * 64)
    (unproved,), fault = prove(gone, members, downloads, layer)  # type: ignore[misc]
    assert unproved.diff_id is None and fault == "the locked files of shop are not in the cache"
    five = PackageGroup(name="many", packages=tuple(replace(gone, name=f"p{number}") for number in range(5)))
    seen = ImageLayer(digest=DIFF_ID, diff_id=DIFF_ID, stated=DIFF_ID, created_by="", members=())
    many = PlannedLayer(name="many", diff_id=DIFF_ID)
    _, fault = prove_wheels((many,), (five,), (seen,), TARGET, cache=downloads.parent)
    assert fault == "the locked files of p0, p1, p2 and 2 more are not in the cache"
    # A template of the user's own may have other layers than those that packages are split into.
    whole = PlannedLayer(name="everything", diff_id=DIFF_ID)
    elsewhere = PlannedLayer(name="other", diff_id=Digest("9" * 64))
    (first, second), fault = prove(package, members, downloads, whole, elsewhere)  # type: ignore[misc]
    assert (first.diff_id, second.diff_id) == (None, elsewhere.diff_id)
    assert fault == "which of its layers hold the locked wheels is not known here"


def test_a_record_tells_the_sha256_of_files_and_of_no_others() -> None:
    """PyPA's "Recording installed projects": path, hash and size; a hash is of urlsafe base64 without its padding."""
    digest = hashlib.sha256(b"x").digest()
    encoded = base64.urlsafe_b64encode(digest).decode().rstrip("=")
    record = f'a.py,sha256={encoded},1\n"b, c.py",sha256={encoded},1\nd.py,md5=00,1\ne-1.dist-info/RECORD,,\nf.py\n'
    record += f"no size.py,sha256={encoded}\n"
    assert wheels._recorded(record) == {name: Digest(digest.hex()) for name in ("a.py", "b, c.py", "no size.py")}
