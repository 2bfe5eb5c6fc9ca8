"""What kbuild's base images have of a system, as far as this machine has it too.

What is in them: ``dockerfiles/bases.toml`` and ``kbuild/image/base/debian/deb.py``. Library names: Debian's packages
of those names (packages.debian.org, "list of files").
"""

from __future__ import annotations

import os
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from kbuild.recording.around.folders import find_more
from kbuild.recording.around.installed import add_paths

# The first two are links since Debian 12.
_LINKS = ("/bin", "/lib", "/lib32", "/lib64", "/sbin")
_WHOLE = (
    "/usr/share/zoneinfo", "/etc/pki", "/usr/share/ca-certificates", "/etc/ld.so.cache", "/etc/resolv.conf",
    "/etc/services", "/etc/protocols", "/etc/rpc",
)  # fmt: skip
# Of a base that kbuild does not assemble nobody knows here which libraries it has.
_UNKNOWN = ("/usr/lib/locale", "/etc/alternatives")
_COVERED = {
    "/usr/lib/locale": ("C.utf8", "C.UTF-8"),
    "/etc/ssl": ("certs",),
    "/etc/ssl/certs": ("ca-certificates.crt",),
    "/usr/lib/ssl": ("certs", "cert.pem"),
}
# Where Debian's packages say what they have there (dpkg-query(1), ``--listfiles``).
_ZONES, _ZONE_LISTS = Path("/usr/share/zoneinfo"), Path("/var/lib/dpkg/info")
_LIBRARY = re.compile(
    r"(ld-linux[\w-]*|lib(c|m|mvec|pthread|dl|rt|util|resolv|anl|nsl|thread_db|BrokenLocale|c_malloc_debug|nss_\w+"
    # of the compiler, and what portable wheels expect (PEP 600)
    r"|gcc_s|stdc\+\+|gomp|z|zstd|ssl|crypto"
    # what interpreters link to: images get these with theirs
    r"|python[\d.]+|python3|crypt|ffi|bz2|lzma|sqlite3|readline|edit|bsd|md|tinfow?|ncursesw?|panelw?|uuid|gdbm"
    r"|gdbm_compat|db-[\d.]+|expat|mpdec|tirpc|gssapi_krb5|krb5|k5crypto|krb5support|com_err|keyutils))"
    r"(-[\d.]+)?\.so(\.[\d.]+)?|gconv|ossl-modules|engines-[\d.]+"
)
FOLDERS = ("/home/nonroot", "/root", "/run", "/var/tmp", "/opt", "/srv")  # noqa: S108
FILES = {
    "/etc/passwd": "root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n",
    "/etc/group": "root:x:0:\nnonroot:x:65532:\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n",
    "/etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
}
_ASSEMBLED = re.compile(r"(debian|ubuntu):[a-z]+")


def is_assembled(base: str | None) -> bool:
    """Whether kbuild makes a project's base of packages, so that what it has is known; of None it does."""
    return base is None or _ASSEMBLED.fullmatch(base) is not None


def find_links() -> dict[str, str]:
    """Links of the root, and which time it is there: an image has no zone but UTC."""
    found = {each: str(Path(each).readlink()) for each in _LINKS if Path(each).is_symlink()}
    return {**found, "/etc/localtime": "/usr/share/zoneinfo/Etc/UTC"}


def find_binds(base: str | None) -> list[str]:
    """What is there whole."""
    folders = [] if is_assembled(base) else [*map(str, _library_folders()), *_UNKNOWN]
    return [each for each in (*_WHOLE, *folders) if Path(each).exists()]


def find_covered(base: str | None) -> Iterator[tuple[Path, set[str]]]:
    """Folders of which only these names are there."""
    for folder, names in _COVERED.items():
        if Path(folder).is_dir() and (is_assembled(base) or folder not in _UNKNOWN):
            yield Path(folder), {name for name in names if Path(folder, name).exists()}
    yield from _find_zones()
    for place in _library_folders() if is_assembled(base) else ():
        yield place, {each.name for each in place.iterdir() if _LIBRARY.fullmatch(each.name) and each.exists()}


def _find_zones() -> Iterator[tuple[Path, set[str]]]:
    """Folders of time zones to which somebody added some, with those of Debian's packages; elsewhere none is known."""
    listed: dict[str, set[str]] = {}
    start = f"{_ZONES}/"
    for path in _ZONE_LISTS.glob("tzdata*.list"):
        lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        add_paths(listed, (line[len(start) :] for line in lines if line.startswith(start)))
    if "UTC" not in listed.get("", ()):
        return
    found = dict(find_more(_ZONES, lambda each: each.name in listed.get(os.path.dirname(each.path)[len(start) :], ())))  # noqa: PTH120
    if len(found) > 1 or {each.name for each in _ZONES.iterdir()} != found.get(_ZONES):
        yield from found.items()


def _library_folders() -> Iterator[Path]:
    """Where this machine's C libraries are, by no name that is a link."""
    triplet = sysconfig.get_config_var("MULTIARCH")
    names = ["/usr/lib64", "/lib64", *([f"/usr/lib/{triplet}", f"/lib/{triplet}"] if triplet else ["/lib"])]
    for place in map(Path, names):
        if place.is_dir() and place.resolve() == place:
            yield place
