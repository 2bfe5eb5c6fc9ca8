"""Reading a Debian archive: Release files and their signatures, package indexes, packages by hash.

Format: the Debian repository format (wiki.debian.org/DebianRepository/Format).
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

from kbuild.cache.notes import write_whole
from kbuild.digest import digest_file
from kbuild.errors import BaseImageError, HashMismatch, ProgramNotFound
from kbuild.files import mark_used
from kbuild.image.base.debian.sources import Archive, read_fields
from kbuild.plan.base import BasePackage
from kbuild.process import Runner
from kbuild.progress import Progress
from kbuild.urls.credentials import without_user

Fetch = Callable[[str], bytes | None]
"""The bytes at a uri, None where there is nothing; raises BaseImageError when the mirror does not answer."""

_UNPACK: Mapping[str, Callable[[bytes], bytes]] = {".xz": lzma.decompress, ".gz": gzip.decompress, "": bytes}
_TIMEOUT = (15, 120)
_LARGEST = 128 << 20  # bytes of a package, or of a suite's index
_ARMOUR = "-----BEGIN PGP SIGNED MESSAGE-----"


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """A Release file that was checked: the sha256 of each index by its path, and whether a signature was verified."""

    archive: Archive
    files: Mapping[str, str]
    by_hash: bool
    signed: bool


def fetch(uri: str) -> bytes | None:
    """The real ``Fetch``: http, https and file."""
    parts = urlsplit(uri)
    if parts.scheme == "file":
        path = Path(unquote(parts.path))
        return path.read_bytes() if path.is_file() else None
    import requests  # a base that was recorded is here already

    from kbuild.http import patient_session, reason_of

    try:
        with patient_session(largest=_LARGEST) as session:
            answer = session.get(uri, timeout=_TIMEOUT)
    except requests.RequestException as error:
        raise BaseImageError(
            f"the mirror does not answer: {without_user(uri)} ({reason_of(error)})",
            hint="check the network and the proxy, or set KBUILD_DEBIAN_MIRROR to another mirror",
        ) from error
    if answer.status_code in (404, 410):
        return None
    if not answer.ok:
        raise BaseImageError(f"{without_user(uri)}: the mirror answers {answer.status_code}")
    return answer.content


def read_release(
    archive: Archive, *, fetch: Fetch, run: Runner, progress: Progress, allow_unsigned: bool = False
) -> Release | None:
    """The archive's Release file, its signature, its validity and whose it is checked.

    None where an archive that is not required does not exist. Raises BaseImageError for a bad signature, and for one
    that nothing here can check or that has expired unless ``allow_unsigned``.
    """
    base = f"{archive.uri}/dists/{archive.pocket}"
    content = fetch(f"{base}/InRelease")
    detached = None
    if content is None:
        content, detached = fetch(f"{base}/Release"), fetch(f"{base}/Release.gpg")
    if content is None:
        if archive.required:
            raise BaseImageError(
                f"{without_user(archive.uri)} has no suite {archive.pocket}",
                hint="set KBUILD_DEBIAN_MIRROR to a mirror that has it",
            )
        progress.tell(f"no {archive.pocket} on {without_user(archive.uri)}")
        return None
    verified = _verify(content, detached, archive, run, progress, allow_unsigned)
    fields = read_fields(_unsigned_text(content) if verified is None else verified.decode("utf-8", "replace"))
    _check_names(fields, archive)
    signed = verified is not None and _is_valid(fields, archive, progress, allow_unsigned)
    files = {}
    for line in fields.get("sha256", "").splitlines():
        if len(parts := line.split()) == 3:
            files[parts[2]] = parts[0]
    if not files:
        raise BaseImageError(f"{without_user(base)} has a Release file without sha256 sums")
    by_hash = fields.get("acquire-by-hash") == "yes"
    return Release(archive=archive, files=files, by_hash=by_hash, signed=signed)


def read_packages(
    release: Release, components: Iterable[str], architecture: str, wanted: Iterable[str], *, fetch: Fetch
) -> list[BasePackage]:
    """Every version of the wanted packages that the archive offers for an architecture."""
    found = []
    names = "|".join(map(re.escape, wanted)).encode()
    # A list is 50 MB and as text four times that: only what is found in it is decoded.
    pattern = re.compile(rb"^Package: (?:" + names + rb")\n(?:.+(?:\n|\Z))*", re.MULTILINE)
    for component in components:
        index = _index(release, _list_path(component, architecture), fetch)
        for match in pattern.finditer(index):
            fields = read_fields(match[0].decode("utf-8", "replace"))
            try:
                package = BasePackage(
                    name=fields["package"],
                    version=fields["version"],
                    architecture=fields["architecture"],
                    sha256=fields["sha256"],
                    filename=fields["filename"],
                )
            except KeyError as error:
                where = without_user(release.archive.uri)
                raise BaseImageError(f"{where} lists {fields['package']} without its {error.args[0]}") from error
            found.append(package)
    return found


def list_digests(release: Release, component: str, architecture: str) -> list[str]:
    """The sha256 of a component's package list in each of its compressions, empty where there is none."""
    path = _list_path(component, architecture)
    return [release.files[path + suffix] for suffix in _UNPACK if path + suffix in release.files]


def _list_path(component: str, architecture: str) -> str:
    return f"{component}/binary-{architecture}/Packages"


def download_package(package: BasePackage, uris: Iterable[str], cache: Path, fetch: Fetch) -> Path:
    """The .deb file of a package, from ``cache`` or the first uri that has it.

    Raises HashMismatch when it is not the one that was pinned, BaseImageError when it is gone.
    """
    kept = cache / "debs" / f"{package.sha256}.deb"
    # Read before each unpacking: whoever wrote to the cache since may be anybody.
    if kept.is_file() and digest_file(kept).hex == package.sha256:
        mark_used(kept)
        return kept
    for uri in uris:
        content = fetch(f"{uri}/{package.filename}")
        if content is None:
            continue
        _check(content, package.sha256, f"{without_user(uri)}/{package.filename}")
        write_whole(kept, content)
        return kept
    raise BaseImageError(
        f"no mirror has {package.name} {package.version} any more ({package.filename})",
        hint="build without the recorded base to take today's packages, or set a mirror that keeps old ones",
    )


def _index(release: Release, path: str, fetch: Fetch) -> bytes:
    base = f"{release.archive.uri}/dists/{release.archive.pocket}"
    for suffix, unpack in _UNPACK.items():
        sha256 = release.files.get(path + suffix)
        if sha256 is None:
            continue
        content = fetch(f"{base}/{path.rpartition('/')[0]}/by-hash/SHA256/{sha256}") if release.by_hash else None
        content = fetch(f"{base}/{path}{suffix}") if content is None else content
        if content is None:
            continue
        _check(content, sha256, f"{without_user(base)}/{path}{suffix}")
        return unpack(content)
    raise BaseImageError(f"{without_user(base)} has no {path}", hint="the mirror may lack this architecture")


def _check(content: bytes, sha256: str, what: str) -> None:
    actual = hashlib.sha256(content).hexdigest()
    if actual != sha256:
        raise HashMismatch(f"{what} has sha256 {actual}, not {sha256}", hint="try again; the mirror may be updating")


def _check_names(fields: Mapping[str, str], archive: Archive) -> None:
    """A mirror that gives the Release file of another suite, which may be as well signed, is not the one asked for."""
    stated = {fields[name] for name in ("codename", "suite") if name in fields}
    # The security archive of before was called bookworm/updates.
    if stated and archive.pocket not in stated and not stated & {archive.pocket.replace("-security", "/updates")}:
        raise BaseImageError(
            f"{without_user(archive.uri)} gives the Release file of {', '.join(sorted(stated))} for {archive.pocket}",
            hint="name another mirror (KBUILD_DEBIAN_MIRROR)",
        )


def _is_valid(fields: Mapping[str, str], archive: Archive, progress: Progress, allow_unsigned: bool) -> bool:
    """Whether the Release file still holds: an old one hides the security updates that came since."""
    stated = fields.get("valid-until")
    if stated is None:
        return True  # a suite that does not change does not say it
    where = f"{without_user(archive.uri)} {archive.pocket}"
    try:
        until = parsedate_to_datetime(stated)
    except ValueError as error:
        raise BaseImageError(f"the Release file of {where} is valid until {stated!r}, which is not a date") from error
    until = until if until.tzinfo is not None else until.replace(tzinfo=UTC)
    if datetime.now(UTC) <= until:
        return True
    _unproved(f"the Release file of {where} was valid until {stated}", _STALE, progress, allow_unsigned)
    return False


# As apt has them: for one of these somebody may find another text.
_WEAK = ("SHA1", "RIPEMD160")
# Signatures that were right once (GnuPG's doc/DETAILS, "Format of the --status-fd output").
_BAD = frozenset({"BADSIG", "EXPSIG", "EXPKEYSIG", "REVKEYSIG"})
_STALE = "name a mirror that is kept up (KBUILD_DEBIAN_MIRROR) and see this machine's clock"


def _unproved(fault: str, remedy: str, progress: Progress, allow_unsigned: bool) -> None:
    if not allow_unsigned:
        raise BaseImageError(fault, hint=f"{remedy}; --allow-unsigned-base builds all the same, and records it")
    progress.tell(f"{fault}: taken all the same")


def _verify(
    content: bytes, detached: bytes | None, archive: Archive, run: Runner, progress: Progress, allow_unsigned: bool
) -> bytes | None:
    """The signed text, or None where nothing can check it and that is allowed."""
    where = f"{without_user(archive.uri)} {archive.pocket}"
    if not archive.keyring.is_file():
        _unproved(
            f"the signature of {where} cannot be checked: {archive.keyring} is not installed",
            f"install {archive.keyring.stem} (apt-get install {archive.keyring.stem})",
            progress,
            allow_unsigned,
        )
        return None
    if detached is None and not content.startswith(_ARMOUR.encode()):
        _unproved(f"{where} is not signed", "name another mirror (KBUILD_DEBIAN_MIRROR)", progress, allow_unsigned)
        return None
    with tempfile.TemporaryDirectory() as scratch:
        release, signature, text = (Path(scratch, name) for name in ("release", "signature", "text"))
        release.write_bytes(content)
        argv = ["gpgv", "--status-fd", "1", "--keyring", str(archive.keyring)]
        argv += [word for each in _WEAK for word in ("--weak-digest", each)]
        if detached is None:
            argv += ["--output", str(text), str(release)]
        else:
            signature.write_bytes(detached)
            argv += [str(signature), str(release)]
        try:
            done = run(argv, env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"})
        except ProgramNotFound:
            _unproved(
                f"the signature of {where} cannot be checked: gpgv is not installed",
                "install it (apt-get install gpgv)",
                progress,
                allow_unsigned,
            )
            return None
        # A Release file carries several signatures and a keyring need not know all: one good and none bad is right.
        status = {line.split()[1] for line in done.stdout.splitlines() if line.startswith("[GNUPG:] ")}
        if not {"GOODSIG", "VALIDSIG"} <= status or status & _BAD:
            raise BaseImageError(
                f"the signature of {where} does not hold", hint=f"its keys are looked for in {archive.keyring}"
            )
        keys = [line.split()[2] for line in done.stdout.splitlines() if line.startswith("[GNUPG:] VALIDSIG ")]
        progress.note(f"{where} is signed by {', '.join(keys)}")
        return text.read_bytes() if detached is None else content


def _unsigned_text(content: bytes) -> str:
    text = content.decode("utf-8", "replace")
    if text.startswith(_ARMOUR):
        text = text.partition("\n\n")[2].partition("\n-----BEGIN PGP SIGNATURE-----")[0]
    return text
