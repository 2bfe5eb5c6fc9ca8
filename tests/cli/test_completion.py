"""What a shell is offered, by the scripts and the variables that click documents for them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from kbuild.cli.app import cli
from kbuild.digest import Digest
from kbuild.image.oci.image_reference import ImageReference
from kbuild.image.store.local import LocalImages
from kbuild.plan.make import LABEL_RUN_ID

RUN = "3f2a91c0" * 4


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with one image of one run, named churn:1: an OCI layout as its specification has it, of no layers."""
    monkeypatch.setenv("KBUILD_CACHE_DIR", str(tmp_path))
    layout = tmp_path / "layout"
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(value: Any, kind: str) -> dict[str, Any]:
        data = json.dumps(value).encode()
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        media = f"application/vnd.oci.image.{kind}.v1+json"
        return {"mediaType": media, "digest": f"sha256:{digest}", "size": len(data)}

    about = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": []}}
    config = put({**about, "config": {"Labels": {LABEL_RUN_ID: RUN}}}, "config")
    entry = put({"schemaVersion": 2, "config": config, "layers": []}, "manifest")
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    images = tmp_path / "images"
    images.mkdir()
    layout.rename(images / entry["digest"].removeprefix("sha256:"))
    digest = Digest.parse(entry["digest"])
    LocalImages(images).name(SimpleNamespace(digest=digest, engine="native"), ImageReference.parse("churn:1"))  # type: ignore[arg-type]
    return tmp_path


def offered(*typed: str, incomplete: str = "") -> list[str]:
    complete = ShellComplete(cli, {}, "kbuild", "_KBUILD_COMPLETE")
    return [item.value for item in complete.get_completions(list(typed), incomplete)]


def test_commands_and_options_are_offered(cache: Path) -> None:
    assert {"image", "inspect", "init"} <= set(offered(incomplete="i"))
    assert offered("image", incomplete="--no-v") == ["--no-verify"]
    assert offered("image", "--engine", incomplete="n") == ["native"]
    assert offered("completion") == ["bash", "zsh", "fish"]


@pytest.mark.parametrize("command", ["run", "verify"])
def test_images_are_offered_by_name_and_digest(cache: Path, command: str) -> None:
    [name, digest] = offered(command)
    assert name == "churn:1" and digest.startswith("sha256:") and len(digest) == 19
    assert offered(command, incomplete="ch") == ["churn:1"]


@pytest.mark.parametrize("command", ["image", "lock", "render"])
def test_models_are_offered_by_what_was_built(cache: Path, command: str) -> None:
    assert offered(command) == ["@latest", "@latest~1", RUN]
    assert offered(command, incomplete="3f") == [RUN]


@pytest.mark.slow
def test_registered_models_and_aliases_of_a_file_are_offered(
    migrated: bytes, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cache / "mlflow.db").write_bytes(migrated)
    client = mlflow.MlflowClient(f"sqlite:///{cache}/mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", client.tracking_uri)
    assert offered("image", incomplete="models:") == []
    client.create_registered_model("churn")
    client.create_registered_model("empty")
    client.register_prompt("prompt", "say it")
    for _ in range(2):
        client.create_model_version("churn", "file:///x")
    client.set_registered_model_alias("churn", "champion", "1")
    assert offered("image", incomplete="models:") == ["models:/churn", "models:/churn@champion"]
    assert offered("audit", incomplete="models:/churn@") == ["models:/churn@champion"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///nowhere.db")
    assert offered("image", incomplete="models:") == []


def test_pages_and_commands_are_offered_for_help(cache: Path) -> None:
    assert offered("help", incomplete="tu") == ["tutorial"] and offered("help", incomplete="doct") == ["doctor"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("line", "word", "reply"),
    [
        ("kbuild run ch", "ch", ["churn:1"]),
        ("kbuild run churn:", ":", ["1"]),
        ("kbuild run churn:1", "1", ["1"]),
        ("kbuild audit models:/ch", "/ch", ["/churn"]),
        ("kbuild image models:/churn@", "@", ["prod"]),
        ("kbuild image models:/churn@p", "p", ["prod"]),
        ("kbuild image --engine=n", "n", ["native"]),
        ("kbuild run  ", "", ["churn:1"]),
    ],
)
def test_bash_completes_what_has_a_colon_or_an_at(line: str, word: str, reply: list[str], tmp_path: Path) -> None:
    """bash(1), COMP_WORDBREAKS: words end at these signs, too, and what is offered takes the last part's place."""
    whole = {"ru": "churn:1", "au": "models:/churn", "im": "native" if "=" in line else "models:/churn@prod"}
    program = tmp_path / "kbuild"
    program.write_text(f'#!/bin/sh\necho "plain,{whole[line.split()[1][:2]]}"\n')
    program.chmod(0o755)
    script = CliRunner().invoke(cli, ["completion", "bash"]).stdout.replace("complete -o nosort", "#")
    ask = (
        f"COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}; COMP_WORDS=('{word}'); COMP_CWORD=0\n"
        f"_kbuild_completion {program}; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    done = subprocess.run(["bash", "-c", f"{script}\n{ask}"], capture_output=True, text=True)
    assert (done.stdout.split(), done.stderr) == (reply, "")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
@pytest.mark.parametrize(
    ("line", "reply"),
    [
        ("kbuild run ch", ["churn:1\tchurn:1, 0 MB"]),
        ("kbuild run churn:", ["churn:1\tchurn:1, 0 MB"]),
        ("kbuild image @latest~", ["@latest~1\tthe one before"]),
        ("kbuild image --engine n", ["native"]),
        ("kbuild help tu", ["tutorial"]),
    ],
)
def test_fish_completes_and_tells_all_of_what_is_known(
    cache: Path, line: str, reply: list[str], tmp_path: Path
) -> None:
    """fish's own ``complete --do-complete``, with this kbuild as the program."""
    program = tmp_path / "kbuild"
    start = "import sys; from kbuild.cli import main; sys.argv[0] = 'kbuild'; sys.exit(main())"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{start}" "$@"\n')
    program.chmod(0o755)
    script = CliRunner().invoke(cli, ["completion", "fish"]).stdout
    done = subprocess.run(
        ["fish", "--no-config", "-c", f"{script}\ncomplete --do-complete '{line}'"],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)},
    )
    assert ([each for each in done.stdout.splitlines() if each], done.stderr) == (reply, "")


@pytest.mark.parametrize("command", ["audit", "diff", "inspect"])
def test_both_are_offered_where_both_will_do(cache: Path, command: str) -> None:
    assert {"churn:1", "@latest", RUN} <= set(offered(command))


def test_nothing_is_there_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KBUILD_CACHE_DIR", str(tmp_path / "none"))
    assert offered("run") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_one_of_that_shell(shell: str) -> None:
    done = CliRunner().invoke(cli, ["completion", shell])
    assert done.exit_code == 0 and f"_KBUILD_COMPLETE={shell}_complete" in done.output
    program = shutil.which(shell)
    if program is not None:
        checked = subprocess.run([program, "-n"], input=done.stdout, capture_output=True, text=True)
        assert (checked.returncode, checked.stderr) == (0, "")
