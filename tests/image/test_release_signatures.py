"""Debian's Release files as whoever stands between may change them, signed by real keys and read by the real gpgv."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from kbuild.errors import BaseImageError
from kbuild.image.base.debian.archive import Release, read_release
from kbuild.image.base.debian.sources import Archive
from kbuild.process.runner import run
from kbuild.progress import Silent

pytestmark = pytest.mark.skipif(
    shutil.which("gpg") is None or shutil.which("gpgv") is None, reason="gpg makes the keys, gpgv reads what they sign"
)

EVIL = hashlib.sha256(b"another list").hexdigest()
LISTED = "main/binary-amd64/Packages.xz"
LONG_AGO = ("--faked-system-time", "20200101T000000!")


def release(sha256: str = hashlib.sha256(b"the list").hexdigest(), more: str = "") -> str:
    return f"Codename: bookworm\n{more}SHA256:\n {sha256} 8 {LISTED}\n"


@dataclass(frozen=True)
class Keys:
    home: Path
    keyring: Path

    def gpg(self, *argv: str, text: str = "") -> bytes:
        command = ["gpg", "--homedir", str(self.home), "--batch", "--no-tty", "--pinentry-mode", "loopback"]
        done = subprocess.run([*command, "--passphrase", "", *argv], input=text.encode(), capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def sign(self, text: str, *keys: str, options: tuple[str, ...] = ()) -> bytes:
        users = [word for key in keys for word in ("-u", f"{key}@example.org")]
        return self.gpg(*options, *users, "--clearsign", text=text)

    def sign_apart(self, text: str, key: str) -> bytes:
        return self.gpg("-u", f"{key}@example.org", "--detach-sign", "--armor", text=text)


@pytest.fixture(scope="module")
def keys() -> Iterator[Keys]:
    """Keys of an archive, one of them expired and one revoked, and one that its keyring does not have."""
    home = Path(tempfile.mkdtemp(prefix="gpg"))  # the socket of gpg's agent may have 107 letters
    made = Keys(home=home, keyring=home / "archive-keyring.gpg")
    try:
        for name in ("archive", "stranger", "revoked"):
            made.gpg(*LONG_AGO, "--quick-generate-key", f"{name}@example.org", "ed25519", "sign", "never")
        made.gpg(*LONG_AGO, "--quick-generate-key", "expired@example.org", "ed25519", "sign", "1y")
        listed = made.gpg("--with-colons", "--list-keys", "revoked@example.org").decode().splitlines()
        number = next(line for line in listed if line.startswith("fpr:")).split(":")[9]
        signed = made.sign(release(), "revoked")  # before: a revoked key signs no more
        (home / "signed-before").write_bytes(signed)
        # The certificate that gpg made with the key has a colon before it, so that nobody takes it by accident.
        revocation = (home / "openpgp-revocs.d" / f"{number}.rev").read_text().replace("\n:-----", "\n-----")
        made.gpg("--import", text=revocation)
        exported = made.gpg("--export", "archive@example.org", "expired@example.org", "revoked@example.org")
        made.keyring.write_bytes(exported)
        yield made
    finally:
        subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False)
        shutil.rmtree(home, ignore_errors=True)


@dataclass(frozen=True)
class Asked:
    """An archive whose files are these."""

    keys: Keys
    files: Mapping[str, bytes]

    def read(self, *, keyring: Path | None = None) -> Release | None:
        return read_release(
            Archive(uri="http://m", pocket="bookworm", required=True, keyring=keyring or self.keys.keyring),
            fetch=lambda uri: self.files.get(uri.removeprefix("http://m/dists/bookworm/")),
            run=run,
            progress=Silent(),
        )


def attacks(keys: Keys) -> dict[str, Mapping[str, bytes]]:
    """What must stop a build, whatever the keys say of it."""
    good, evil = keys.sign(release(), "archive"), release(EVIL)
    head, signature = good.partition(b"\n\n")[0] + b"\n\n", good[good.index(b"-----BEGIN PGP SIGNATURE") :]
    then = ("--faked-system-time", "20200201T000000!")
    old = release(more="Valid-Until: Sat, 03 Jan 2015 21:03:35 UTC\n")
    return {
        "not signed": {"InRelease": evil.encode()},
        "without Release.gpg": {"Release": evil.encode()},
        "an empty Release.gpg": {"Release": evil.encode(), "Release.gpg": b""},
        "signed by nobody known": {"InRelease": keys.sign(evil, "stranger")},
        "signed by nobody known, apart": {
            "Release": evil.encode(),
            "Release.gpg": keys.sign_apart(evil, "stranger"),
        },
        "another text's signature": {"InRelease": head + evil.encode() + signature},
        "another text's signature, apart": {
            "Release": evil.encode(),
            "Release.gpg": keys.sign_apart(release(), "archive"),
        },
        "a key that has expired": {"InRelease": keys.sign(evil, "expired", options=then)},
        "a signature that has expired": {
            "InRelease": keys.sign(evil, "archive", options=(*then, "--default-sig-expire", "1d"))
        },
        "a revoked key": {"InRelease": (keys.home / "signed-before").read_bytes()},
        "a weak digest": {"InRelease": keys.sign(evil, "archive", options=("--digest-algo", "SHA1"))},
        "a list of before": {"InRelease": keys.sign(old, "archive")},
        "another suite": {"InRelease": keys.sign(release().replace("bookworm", "bullseye"), "archive")},
        "a letter more": {"InRelease": good.replace(b"Codename", b"Comment: x\nCodename")},
        "a signature cut short": {"InRelease": good[: good.index(b"-----BEGIN PGP SIGNATURE") + 60]},
        "two keys, one expired": {"InRelease": keys.sign(evil, "archive", "expired", options=then)},
        "nothing": {"InRelease": b""},
        "a page of a proxy": {"InRelease": b"<html>sign in</html>"},
        "text before the signed one": {"InRelease": evil.encode() + good},
    }


def around(keys: Keys) -> dict[str, bytes]:
    """A signed text with another one beside it: whatever is read, it is not the other one."""
    good, evil = keys.sign(release(), "archive"), keys.sign(release(EVIL), "stranger")
    head, _, rest = good.partition(b"\n\n")
    return {
        "text behind": good + release(EVIL).encode(),
        "another signed one behind": good + evil,
        "another signed one before": evil + good,
        "another one's armour within": good.replace(b"-----BEGIN PGP SIGNATURE", evil + b"-----BEGIN PGP SIGNATURE", 1),
        "a header that looks like the text": head + b"\nSHA256: " + EVIL.encode() + b"\n\n" + rest,
        "text between the headers": head + b"\n" + release(EVIL).encode() + b"\n" + rest,
        "the other one's signature as well": good + evil[evil.index(b"-----BEGIN PGP SIGNATURE") :],
    }


def test_what_an_archives_key_signed_is_read(keys: Keys) -> None:
    signed = keys.sign(release(), "archive")
    both = keys.sign(release(), "archive", "stranger")  # as Debian's own, of which an older keyring knows one key
    apart = {"Release": release().encode(), "Release.gpg": keys.sign_apart(release(), "archive")}
    for files in ({"InRelease": signed}, {"InRelease": both}, apart):
        read = Asked(keys, files).read()
        assert read is not None and read.signed
        assert read.files == {LISTED: hashlib.sha256(b"the list").hexdigest()}


def test_every_attack_stops_and_says_so(keys: Keys) -> None:
    taken = {}
    for name, files in attacks(keys).items():
        try:
            taken[name] = Asked(keys, files).read()
        except BaseImageError as error:
            assert "http://m" in error.message and error.hint, name
    assert taken == {}


def test_what_stands_beside_a_signed_text_is_not_read(keys: Keys) -> None:
    for name, content in around(keys).items():
        try:
            read = Asked(keys, {"InRelease": content}).read()
        except BaseImageError:
            continue
        assert read is not None and read.files == {LISTED: hashlib.sha256(b"the list").hexdigest()}, name


def test_without_gpgv_or_keyring_nothing_is_taken(keys: Keys, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = Asked(keys, {"InRelease": keys.sign(release(), "archive")})
    (tmp_path / "empty.gpg").touch()
    for keyring in ("no-keyring.gpg", "empty.gpg"):
        with pytest.raises(BaseImageError, match="signature"):
            asked.read(keyring=tmp_path / keyring)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BaseImageError, match="gpgv is not installed") as caught:
        asked.read()
    assert "apt-get install gpgv" in str(caught.value.hint)
    # A program of its name that says nothing proves nothing.
    (tmp_path / "gpgv").write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "gpgv").chmod(0o755)
    with pytest.raises(BaseImageError, match="does not hold"):
        asked.read()
