"""File names are bytes: what is made of them does not depend on the locale."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LATIN = "en_US.ISO-8859-1"
_DIGESTS = """
import sys
from pathlib import Path
from kbuild.cache.damage import damaged
from kbuild.model.kept import is_damaged_model
from kbuild.cache.tree import tree_digest
from kbuild.model.bundle import read_bundle
print(sys.getfilesystemencoding(), read_bundle(Path(sys.argv[1])).digest.hex, tree_digest(Path(sys.argv[2])).hex,
      [why for _, why in damaged(Path(sys.argv[3]), is_damaged_model)])
"""
_MLMODEL = """
flavors: {python_function: {loader_module: m, python_version: 3.11.0, env: {conda: conda.yaml}}}
"""


def environment(tmp_path: Path, name: str) -> dict[str, str]:
    plain = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG", "PYTHON"))}
    if name == LATIN:
        if shutil.which("localedef") is None or not Path("/usr/share/i18n/charmaps").is_dir():
            pytest.skip("no localedef here (Debian: locales)")
        made = ["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(tmp_path / LATIN)]
        subprocess.run(made, check=False, capture_output=True)
        return {**plain, "LOCPATH": str(tmp_path), "LC_ALL": LATIN}
    return {**plain, "LC_ALL": name, **({"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"} if name == "POSIX" else {})}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "encoding"), [("C.UTF-8", "utf-8"), ("POSIX", "ascii"), (LATIN, "iso8859-1")])
def test_digests_are_of_bytes(tmp_path: Path, name: str, encoding: str) -> None:
    file = "dätä-€.bin".encode()
    model, tree = tmp_path / "model", tmp_path / "cache/wheels/a"
    info = tree / "a-1.dist-info"
    for folder in (model, info):
        folder.mkdir(parents=True)
    (model / "MLmodel").write_text(_MLMODEL)
    (model / "conda.yaml").write_text("dependencies: [python=3.11]")
    for folder in (model, tree):
        Path(os.fsdecode(os.fsencode(folder) + b"/" + file)).write_bytes(b"x")
        os.utime(os.fsencode(folder) + b"/" + file, (0, 0))
    Path(os.fsdecode(os.fsencode(tree) + b"/\xff")).symlink_to(os.fsdecode(file))
    (info / "RECORD").write_bytes(file + b",sha256=LXEWQrcmsEQBYnyp-6wy9chTD7GQPMTbAiWHF5IaSIE,1\n")
    for path in (info / "RECORD", info, tree):
        path.chmod(0o755 if path.is_dir() else 0o644)
        os.utime(path, (0, 0))
    argv = [sys.executable, "-c", _DIGESTS, str(model), str(tree), str(tmp_path / "cache")]
    done = subprocess.run(argv, env=environment(tmp_path, name), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found, model_digest, digest, damage = done.stdout.split(maxsplit=3)
    assert found == encoding
    sha = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in model.iterdir() if path.is_file()}
    listed = sorted([name, f"sha256:{value}"] for name, value in sha.items())
    whole = json.dumps(listed, separators=(",", ":"), ensure_ascii=False).encode()
    assert model_digest == hashlib.sha256(whole).hexdigest()
    sha256 = {each: hashlib.sha256(each).hexdigest().encode() for each in (b"x", (info / "RECORD").read_bytes())}
    lines = [
        b'[".","drwxr-xr-x",0]',
        b'["a-1.dist-info","drwxr-xr-x",0]',
        b'["%s","-rw-r--r--",0,"%s"]' % (file, sha256[b"x"]),
        b'["\xff","link","%s"]' % file,
        b'["a-1.dist-info","drwxr-xr-x",0]',
        b'["a-1.dist-info/RECORD","-rw-r--r--",0,"%s"]' % sha256[(info / "RECORD").read_bytes()],
    ]
    assert digest == hashlib.sha256(b"".join(line + b"\n" for line in lines)).hexdigest()
    assert damage.strip() == "[]"


def test_a_name_that_is_no_utf8_is_refused_in_one_line(tmp_path: Path) -> None:
    from kbuild.errors import InvalidModel
    from kbuild.model.bundle import read_bundle

    (tmp_path / "MLmodel").write_text(_MLMODEL)
    (tmp_path / "conda.yaml").write_text("dependencies: [python=3.11]")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")).write_bytes(b"")
    with pytest.raises(InvalidModel, match=r"not UTF-8: b'\\xff'"):
        read_bundle(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["POSIX", LATIN])
def test_the_command_line_names_files_in_utf8(tmp_path: Path, name: str) -> None:
    program = [sys.executable, "-m", "kbuild", "cache", "info"]
    cache = os.fsencode(tmp_path) + "/dätä".encode()
    env = {**environment(tmp_path, name), "KBUILD_CACHE_DIR": os.fsdecode(cache)}
    whole = subprocess.run(program, env=env, capture_output=True, check=True)
    # click writes UTF-8 where the locale says ASCII, which is mostly no locale at all.
    shown = "dätä".encode("utf-8" if name == "POSIX" else "iso8859-1")
    assert shown in whole.stdout


_ERRORS = """
import sys
from kbuild.cli.app import cli, run
def main(**options):
    print(sys.stdout.encoding, sys.stdout.errors)
cli.main = main
run()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "more", "shown"),
    [
        ("C.UTF-8", {}, "utf-8 surrogateescape"),  # as Python has it
        (LATIN, {}, "iso-8859-1 backslashreplace"),
        (LATIN, {"PYTHONIOENCODING": "utf-16:ignore"}, "utf-16 ignore"),  # as the user has it
    ],
)
def test_what_is_shown_is_in_the_terminals_letters(tmp_path: Path, name: str, more: dict[str, str], shown: str) -> None:
    env = {**environment(tmp_path, name), **more}
    done = subprocess.run([sys.executable, "-c", _ERRORS], env=env, capture_output=True, check=True)
    said = done.stdout.decode(shown.split()[0]).split()
    assert [said[0].lower().replace("iso8859-1", "iso-8859-1"), said[1]] == shown.split()
