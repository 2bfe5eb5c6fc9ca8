"""What ``kbuild verify --rebuild`` says of what came out, by the words of its exit codes."""

from __future__ import annotations

import json
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from kbuild.api import rebuilding as api
from kbuild.cli import verify
from kbuild.digest import digest_bytes
from kbuild.errors import OutputError, PackedOtherwise, VerificationFailed
from kbuild.image.compare.diff import ImageDiff
from kbuild.plan.left_out import LeftOut
from kbuild.platform import Platform
from kbuild.verify.rebuild import Claims, RebuildReport

ONE, TWO, THREE = (f"sha256:{digit * 64}" for digit in "123")
AMD, ARM = (Platform.parse(f"linux/{name}") for name in ("amd64", "arm64"))


def report(verdict: Any, platform: Platform = AMD, **given: Any) -> RebuildReport:
    claims = Claims(
        model="models:/m-1", base="scratch", platform=platform, lock_digest=THREE, model_digest=THREE, labels=(),
        compression="zstd", left_out=LeftOut(),
    )  # fmt: skip
    after = ONE if verdict == "same" else TWO
    facts = {"packed_by": ("libzstd 1.5.5", None), "versions": {}, "reused_downloads": False, "seconds": {}}
    return RebuildReport(claims=claims, verdict=verdict, diff=ImageDiff(before=ONE, after=after), **(facts | given))


@pytest.fixture
def rebuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command, given the verdict of each platform; one platform is an image, more are an index."""

    def call(verdicts: dict[Platform, Any], *argv: str) -> Result:
        images = {each: SimpleNamespace(digest=digest_bytes(str(each).encode()), platform=each) for each in verdicts}
        index = SimpleNamespace(images=images, digest="sha256:index") if len(images) > 1 else None

        @contextmanager
        def found_image(text: Any, session: Any, platform: Platform | None) -> Any:
            yield images[platform or AMD], SimpleNamespace(familiar="till")

        monkeypatch.setattr(api, "existing_index", lambda *_: nullcontext(index))
        monkeypatch.setattr(api, "found_image", found_image)
        monkeypatch.setattr(
            api, "_build_again", lambda built, *_, **__: report(verdicts[built.platform], built.platform)
        )
        monkeypatch.setattr(api, "write_rebuild_verdict", lambda *_: None)
        monkeypatch.setenv("KBUILD_CACHE_DIR", str(tmp_path / "cache"))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
        monkeypatch.chdir(tmp_path)
        return CliRunner().invoke(verify.command, ["till:3", "--rebuild", *argv])

    return call


def test_the_same_digest_is_printed(rebuild: Any) -> None:
    done = rebuild({AMD: "same"})
    assert (done.exit_code, done.stdout) == (0, f"{digest_bytes(b'linux/amd64')}\n")
    assert "the same digest" in done.stderr


def test_another_digest_is_an_error_with_both(rebuild: Any) -> None:
    done = rebuild({AMD: "differs"})
    assert isinstance(done.exception, VerificationFailed)
    assert f"building models:/m-1 again gives {TWO}, not {ONE}" in done.exception.message
    assert ONE in done.stdout and TWO in done.stdout


def test_another_compressor_has_a_verdict_and_a_code_of_its_own(rebuild: Any) -> None:
    done = rebuild({AMD: "repacked"}, "--json")
    assert isinstance(done.exception, PackedOtherwise) and done.exception.exit_code == 53
    assert f"packed otherwise by libzstd 1.5.5: {ONE}" in done.exception.message
    assert f"here a packer that it does not name gives {TWO}" in done.exception.message
    assert json.loads(done.stdout)["verdict"] == "repacked"


def test_of_an_index_each_platform_is_built_unless_one_is_named(rebuild: Any, tmp_path: Path) -> None:
    done = rebuild({AMD: "same", ARM: "same"}, "--report", "proof.json")
    assert (done.exit_code, done.stdout) == (0, "sha256:index\n")
    proof = json.loads((tmp_path / "proof.json").read_text())
    assert (proof["same"], set(proof["platforms"])) == (True, {"linux/amd64", "linux/arm64"})
    done = rebuild({AMD: "same", ARM: "differs"}, "--report", "proof.json")
    assert isinstance(done.exception, VerificationFailed), "one of them is enough"
    proof = json.loads((tmp_path / "proof.json").read_text())
    assert (proof["same"], proof["platforms"]["linux/arm64"]["verdict"]) == (False, "differs")
    done = rebuild({AMD: "differs", ARM: "same"}, "--platform", "linux/arm64")
    assert (done.exit_code, done.stdout) == (0, f"{digest_bytes(b'linux/arm64')}\n")


def test_a_report_that_cannot_be_written_is_told(rebuild: Any, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    done = rebuild({AMD: "same"}, "--report", "absent/proof.json")
    assert isinstance(done.exception, OutputError) and "absent/proof.json" in done.exception.message


@pytest.mark.parametrize("argv", [["--exact", "--rtol", "1"], ["--exact", "--atol", "1"], ["--model", "x"]])
def test_what_does_not_go_together_is_refused(argv: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").mkdir()
    monkeypatch.setenv("KBUILD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    assert CliRunner().invoke(verify.command, ["till:3", *argv]).exit_code == 2
