from __future__ import annotations

import errno
import gzip
import hashlib
import io
import json
import lzma
import os
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from kbuild.cache.tree import tree_digest
from kbuild.errors import BaseImageError, HashMismatch, OutputError, ProgramNotFound
from kbuild.image.base.debian.debs import Mirrors, base_record, glibc_version, parse_base_record, resolve_debs_base
from kbuild.image.base.debian.suites import Suite
from kbuild.plan.base import BasePackage, ResolvedBase
from kbuild.platform import Platform
from kbuild.process import Completed

AMD64 = Platform.parse("linux/amd64")
MIRROR = "http://m/debian http://m/security"
GOOD = "".join(
    f"[GNUPG:] {line}\n"
    for line in ("NEWSIG", "ERRSIG ABC 1 8", "NO_PUBKEY ABC", "GOODSIG DEF archive", "VALIDSIG DEF 2026")
)


def make_deb(name: str, version: str) -> bytes:
    def tar(path: str, data: bytes) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            member = tarfile.TarInfo(path)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        return gzip.compress(buffer.getvalue(), mtime=0)

    out = b"!<arch>\n"
    control = f"Package: {name}\nVersion: {version}\n".encode()
    for member, data in (
        ("control.tar.gz", tar("./control", control)),
        ("data.tar.gz", tar(f"./usr/share/{name}/version", version.encode())),
    ):
        out += (
            f"{member:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
        )
    return out


@dataclass
class Mirror:
    """A fake of both sides of the network: what lies at each uri, and what was asked for."""

    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def __call__(self, uri: str) -> bytes | None:
        self.asked.append(uri)
        return self.files.get(uri)

    def publish(self, uri: str, pocket: str, packages: Mapping[str, str], *, by_hash: bool = True) -> None:
        index = ""
        for name, version in packages.items():
            deb = make_deb(name, version)
            filename = f"pool/{name}_{version}.deb"
            self.files[f"{uri}/{filename}"] = deb
            sha256 = hashlib.sha256(deb).hexdigest()
            index += f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nDescription: x\n more: of it\n"
            index += f"Filename: {filename}\nSHA256: {sha256}\n\n"
        packed = lzma.compress(index.encode())
        digest = hashlib.sha256(packed).hexdigest()
        folder = f"{uri}/dists/{pocket}/main/binary-amd64"
        self.files[f"{folder}/by-hash/SHA256/{digest}" if by_hash else f"{folder}/Packages.xz"] = packed
        release = f"Codename: {pocket}\nAcquire-By-Hash: {'yes' if by_hash else 'no'}\nSHA256:\n"
        release += f" {digest} {len(packed)} main/binary-amd64/Packages.xz\n"
        text = f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n{release}-----BEGIN PGP SIGNATURE-----\n\nx\n"
        self.files[f"{uri}/dists/{pocket}/InRelease"] = text.encode()


@dataclass
class Notes:
    lines: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.lines.append(text)

    tell = made = note

    def count(self, done: int, total: int | None, unit: str = "bytes") -> None: ...


@dataclass
class Gpgv:
    """A fake of gpgv: writes the text between the armour lines as the signed one."""

    status: str = GOOD

    def __call__(self, argv: Any, **_: Any) -> Completed:
        words = list(argv)
        content = Path(words[-1]).read_text(encoding="utf-8")
        text = content.partition("\n\n")[2].partition("-----BEGIN PGP SIGNATURE")[0]
        Path(words[words.index("--output") + 1]).write_text(text, encoding="utf-8")
        return Completed(tuple(words), 2, self.status, "gpgv: Can't check signature: No public key\n")


def no_gpgv(argv: Any, **_: Any) -> Completed:
    raise ProgramNotFound("gpgv is not installed")


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    keyring = tmp_path / "keyring.gpg"
    keyring.touch()
    return Suite(
        distribution="debian",
        name="bookworm",
        version="12",
        glibc="2.36",
        packages=("libc6", "tzdata"),
        components=("main",),
        keyring=keyring,
        separate_security=True,
    )


@pytest.fixture
def mirror() -> Mirror:
    mirror = Mirror()
    mirror.publish("http://m/debian", "bookworm", {"libc6": "2.36-9", "tzdata": "2026a-0", "libc6-dev": "2.36-9"})
    mirror.publish("http://m/security", "bookworm-security", {"libc6": "2.36-9+deb12u1"}, by_hash=False)
    return mirror


def resolve(suite: Suite, mirror: Mirror, cache: Path, **options: Any) -> ResolvedBase:
    recorded = options.pop("recorded", None)
    arguments = {"run": Gpgv(), "progress": Notes(), **options}
    mirrors = Mirrors(mirror=MIRROR, cache=cache, fetch=mirror, **arguments)
    return resolve_debs_base(suite, AMD64, mirrors, recorded=recorded)


def lists_asked(mirror: Mirror) -> list[str]:
    return [uri for uri in mirror.asked if "Packages" in uri or "by-hash" in uri]


def test_lists_that_did_not_change_are_not_read_again(suite: Suite, mirror: Mirror, tmp_path: Path) -> None:
    first = resolve(suite, mirror, tmp_path / "c")
    assert len(lists_asked(mirror)) == 2
    mirror.asked.clear()
    assert resolve(suite, mirror, tmp_path / "c") == first
    assert [uri.rpartition("/")[2] for uri in mirror.asked if "dists" in uri if "updates" not in uri] == [
        "InRelease"
    ] * 2
    assert lists_asked(mirror) == []
    mirror.publish("http://m/security", "bookworm-security", {"libc6": "2.36-9+deb12u2"}, by_hash=False)
    changed = resolve(suite, mirror, tmp_path / "c")
    assert [p.version for p in changed.packages] == ["2.36-9+deb12u2", "2026a-0"]
    assert len(lists_asked(mirror)) == 1


def test_a_signature_is_checked_though_the_lists_are_known(suite: Suite, mirror: Mirror, tmp_path: Path) -> None:
    resolve(suite, mirror, tmp_path / "c")
    with pytest.raises(BaseImageError, match="signature"):
        resolve(suite, mirror, tmp_path / "c", run=Gpgv(status="[GNUPG:] BADSIG ABC\n"))


@pytest.mark.parametrize("damage", [b"", b"[{}]", b"{", b'[{"name": 1}]', b"null"])
def test_kept_lists_that_are_damaged_are_read_anew(suite: Suite, mirror: Mirror, tmp_path: Path, damage: bytes) -> None:
    first = resolve(suite, mirror, tmp_path / "c")
    for kept in (tmp_path / "c" / "package-lists").iterdir():
        kept.write_bytes(damage)
    assert resolve(suite, mirror, tmp_path / "c") == first


def test_the_newest_of_all_pockets_is_unpacked(suite: Suite, mirror: Mirror, tmp_path: Path) -> None:
    base = resolve(suite, mirror, tmp_path / "c")
    assert [(p.name, p.version) for p in base.packages] == [("libc6", "2.36-9+deb12u1"), ("tzdata", "2026a-0")]
    assert (base.kind, base.name, base.glibc) == ("debs", "debian:bookworm", "2.36")
    assert base.path is not None
    assert (base.path / "usr/share/libc6/version").read_text() == "2.36-9+deb12u1"
    assert (base.path / "var/lib/dpkg/status.d/tzdata").is_file()


def test_a_poisoned_package_or_base_of_the_cache_is_not_taken(suite: Suite, mirror: Mirror, tmp_path: Path) -> None:
    first = resolve(suite, mirror, tmp_path / "c")
    assert first.path is not None
    clean = tree_digest(first.path)
    for deb in (tmp_path / "c/debs").iterdir():
        deb.write_bytes(deb.read_bytes()[:-1] + b"!")
    poisoned = first.path / "usr/share/libc6/version"
    poisoned.chmod(0o644)
    poisoned.write_text("2.36-9+deb12u9")
    os.utime(poisoned, (0, 0))
    seal = tmp_path / "c/seals/bases" / first.path.name
    seal.write_text(str(tree_digest(first.path, times=False)))
    again = resolve(suite, mirror, tmp_path / "c", recorded=parse_base_record(base_record(first)))
    assert again.path is not None and tree_digest(again.path) == clean


def test_a_record_brings_the_same_base_back(suite: Suite, mirror: Mirror, tmp_path: Path) -> None:
    first = resolve(suite, mirror, tmp_path / "c")
    record = json.loads(json.dumps(base_record(first)))
    recorded = parse_base_record(record)
    assert recorded == replace(first, path=None)
    mirror.publish("http://m/security", "bookworm-security", {"libc6": "2.36-9+deb12u2"})
    mirror.asked.clear()
    again = resolve(suite, mirror, tmp_path / "other", recorded=recorded)
    assert not [uri for uri in mirror.asked if "/dists/" in uri]
    assert again.digest == first.digest
    assert again.path is not None and first.path is not None
    assert tree_digest(again.path) == tree_digest(first.path)
    assert resolve(suite, mirror, tmp_path / "c").digest != first.digest


def test_what_is_cached_is_not_fetched(suite: Suite, mirror: Mirror, tmp_path: Path) -> None:
    first = resolve(suite, mirror, tmp_path / "c")
    mirror.asked.clear()
    assert resolve(suite, mirror, tmp_path / "c", recorded=first) == first
    assert mirror.asked == []


def test_a_bad_signature_stops(suite: Suite, mirror: Mirror, tmp_path: Path) -> None:
    for status in ("[GNUPG:] BADSIG ABC x\n", "[GNUPG:] NO_PUBKEY ABC\n", f"{GOOD}[GNUPG:] BADSIG ABC x\n", ""):
        with pytest.raises(BaseImageError, match="signature of http://m/debian bookworm does not hold"):
            resolve(suite, mirror, tmp_path / "c", run=Gpgv(status))


def test_a_signature_that_cannot_be_checked_stops_unless_that_is_allowed_and_recorded(
    suite: Suite, mirror: Mirror, tmp_path: Path
) -> None:
    without = replace(suite, keyring=tmp_path / "none-keyring.gpg")
    for wanted, run, fault in ((suite, no_gpgv, "gpgv is not installed"), (without, Gpgv(), "none-keyring.gpg is not")):
        with pytest.raises(BaseImageError, match=f"debian bookworm cannot be checked: .*{fault}") as caught:
            resolve(wanted, mirror, tmp_path / "a", run=run)
        assert caught.value.hint is not None and "--allow-unsigned-base" in caught.value.hint
        notes = Notes()
        base = resolve(wanted, mirror, tmp_path / "a", run=run, progress=notes, allow_unsigned=True)
        assert base.unsigned and any("taken all the same" in line for line in notes.lines)
        assert parse_base_record(json.loads(json.dumps(base_record(base)))).unsigned
        again = resolve(suite, mirror, tmp_path / "a", recorded=base)
        assert again.unsigned  # the same packages are no better for being built on again
    assert not resolve(suite, mirror, tmp_path / "b").unsigned
    assert "unsigned" not in base_record(resolve(suite, mirror, tmp_path / "b"))


def edit(mirror: Mirror, pocket: str, old: bytes, new: bytes) -> None:
    (uri,) = (uri for uri in mirror.files if uri.endswith(f"/{pocket}/InRelease"))
    mirror.files[uri] = mirror.files[uri].replace(old, new, 1)


def test_a_release_file_that_has_expired_stops(suite: Suite, mirror: Mirror, tmp_path: Path) -> None:
    edit(mirror, "bookworm-security", b"Codename", b"Valid-Until: Sat, 03 Jan 2099 21:03:35 UTC\nCodename")
    assert not resolve(suite, mirror, tmp_path / "a").unsigned
    edit(mirror, "bookworm-security", b"2099", b"2015")
    with pytest.raises(BaseImageError, match="bookworm-security was valid until Sat, 03 Jan 2015") as caught:
        resolve(suite, mirror, tmp_path / "b")
    assert caught.value.hint is not None and "KBUILD_DEBIAN_MIRROR" in caught.value.hint
    assert resolve(suite, mirror, tmp_path / "b", allow_unsigned=True).unsigned
    edit(mirror, "bookworm-security", b"Sat, 03 Jan 2015 21:03:35 UTC", b"for ever")
    with pytest.raises(BaseImageError, match="not a date"):
        resolve(suite, mirror, tmp_path / "c")


def test_a_signed_release_file_of_another_suite_stops(suite: Suite, mirror: Mirror, tmp_path: Path) -> None:
    edit(mirror, "bookworm", b"Codename: bookworm", b"Codename: bullseye")
    with pytest.raises(BaseImageError, match="gives the Release file of bullseye for bookworm"):
        resolve(suite, mirror, tmp_path / "a")


def test_whose_signature_it_is_is_told(suite: Suite, mirror: Mirror, tmp_path: Path) -> None:
    notes = Notes()
    resolve(suite, mirror, tmp_path / "a", progress=notes)
    assert any(line.startswith("http://m/debian bookworm is signed by ") for line in notes.lines)


def test_the_signed_text_counts_and_nothing_around_it(suite: Suite, mirror: Mirror, tmp_path: Path) -> None:
    uri = "http://m/debian/dists/bookworm/InRelease"
    mirror.files[uri] = mirror.files[uri] + b"\nSHA256:\n " + b"0" * 64 + b" 1 main/binary-amd64/Packages.xz\n"
    assert resolve(suite, mirror, tmp_path / "c").packages


def test_wrong_bytes_are_refused(suite: Suite, mirror: Mirror, tmp_path: Path) -> None:
    mirror.files["http://m/security/pool/libc6_2.36-9+deb12u1.deb"] += b"x"
    with pytest.raises(HashMismatch, match=r"http://m/security/pool/libc6_2\.36-9\+deb12u1\.deb has sha256"):
        resolve(suite, mirror, tmp_path / "c")
    assert not (tmp_path / "c/bases").exists() or not list((tmp_path / "c/bases").iterdir())
    mirror.files["http://m/security/dists/bookworm-security/main/binary-amd64/Packages.xz"] = b"x"
    with pytest.raises(HashMismatch, match=r"Packages\.xz has sha256"):
        resolve(suite, mirror, tmp_path / "d")


def test_a_full_disk_leaves_nothing_half_written(
    suite: Suite, mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.replace

    def full(source: Path, target: Path) -> None:
        if target.suffix == ".deb":
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match=r"cannot write the base image: the cache /.* GB\): No space left"):
        resolve(suite, mirror, tmp_path / "c")
    left = [path.relative_to(tmp_path / "c") for path in (tmp_path / "c").rglob("*") if path.is_file()]
    assert {path.parts[0] for path in left} == {"package-lists"}


def test_what_is_missing_is_named(suite: Suite, mirror: Mirror, tmp_path: Path) -> None:
    with pytest.raises(BaseImageError, match="debian:bookworm has no zlib1g for amd64"):
        resolve(replace(suite, packages=("libc6", "zlib1g")), mirror, tmp_path / "c")
    with pytest.raises(BaseImageError, match="http://m/debian has no suite trixie"):
        resolve(replace(suite, name="trixie"), mirror, tmp_path / "c")
    del mirror.files["http://m/debian/pool/tzdata_2026a-0.deb"]
    with pytest.raises(BaseImageError, match="no mirror has tzdata 2026a-0 any more"):
        resolve(suite, mirror, tmp_path / "c")


def test_a_release_without_inline_signature_is_read(suite: Suite, mirror: Mirror, tmp_path: Path) -> None:
    for uri in [uri for uri in mirror.files if uri.endswith("/InRelease")]:
        text = mirror.files.pop(uri).partition(b"\n\n")[2].partition(b"-----BEGIN")[0]
        mirror.files[uri.replace("InRelease", "Release")] = text
    with pytest.raises(BaseImageError, match="debian bookworm is not signed"):
        resolve(suite, mirror, tmp_path / "c")
    assert resolve(suite, mirror, tmp_path / "c", allow_unsigned=True).unsigned


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "disk"}, "base.kind"),
        ({"digest": "x"}, "base.digest"),
        ({"name": None}, "base.name: missing"),
        ({"packages": {}}, "base.packages: not a list"),
        ({"packages": [1]}, r"base.packages\[0\]: not a table"),
        ({"packages": [{"name": "x", "sha256": "0"}]}, r"base.packages\[0\].sha256"),
        ({"packages": [{"sha256": "0" * 64}]}, r"base.packages\[0\].name: missing"),
    ],
)
def test_a_damaged_record_names_its_place(change: dict[str, object], message: str) -> None:
    good: dict[str, object] = {"kind": "debs", "name": "debian:bookworm", "digest": f"sha256:{'0' * 64}"}
    parse_base_record(good)
    with pytest.raises(BaseImageError, match=message):
        parse_base_record({**good, **change})


@pytest.mark.parametrize(("version", "glibc"), [("2.36-9+deb12u14", "2.36"), ("1:2.41-12", "2.41"), ("x", None)])
def test_glibc(version: str, glibc: str | None) -> None:
    package = BasePackage(name="libc6", version=version, architecture="amd64", sha256="0" * 64, filename="x")
    assert glibc_version([package]) == glibc
