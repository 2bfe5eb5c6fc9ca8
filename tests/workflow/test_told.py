"""What Python's side of the commands logs and shows, and what ``docker build`` is told of a rendered context."""

from __future__ import annotations

import ast
import dataclasses
import json
import logging
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kbuild.answers import DEFAULT, compare
from kbuild.api.building import build_image
from kbuild.api.session import Logged, Session
from kbuild.api.verifying import VerifiedImage
from kbuild.cli.render import _base_option
from kbuild.digest import Digest
from kbuild.plan.build_plan import BASE_CONTEXT
from kbuild.project.config import ProjectConfig
from kbuild.verify.golden import VerificationReport
from kbuild.workflow.delivery import ImageResult, Verified
from kbuild.workflow.tools import Tools

DIGEST = Digest("1" * 64)
PACKAGE = Path(__file__).parents[2] / "kbuild"


@pytest.mark.slow
def test_phases_are_those_that_the_page_of_json_names() -> None:
    """Of all commands, also of those that only real engines, clusters and servers run through."""
    named: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text("utf-8"))):
            opens = ("phases", "voice", "show", "saying")
            if isinstance(call, ast.Call) and ast.unparse(call.func).rpartition(".")[2] in opens:
                named |= set([each.value for each in call.args if isinstance(each, ast.Constant)][:1])  # then its words
    schema = json.loads((PACKAGE / "docs/output.schema.json").read_text("utf-8"))
    assert named | {"all"} == schema["$defs"]["seconds"]["properties"].keys()


def test_from_python_steps_are_logged_and_what_went_wrong_warns(caplog: pytest.LogCaptureFixture) -> None:
    voice = Logged()
    with caplog.at_level(logging.DEBUG, "kbuild"):
        voice.say("taking it")
        voice.complain("not tagged")
        for result in ("88 packages", None):
            with voice("lock") as progress:
                progress.note("resolving")
                progress.tell("the index lags")
                if result is not None:
                    progress.made(result)
    told = [(each.levelname, each.getMessage().rpartition(",")[0] or each.getMessage()) for each in caplog.records]
    steps = [("DEBUG", "lock: resolving"), ("INFO", "lock: the index lags")]
    assert told == [
        ("INFO", "taking it"), ("WARNING", "not tagged"),
        *steps, ("INFO", "lock: 88 packages"), *steps, ("INFO", "lock: done"),
    ]  # fmt: skip
    assert set(voice.seconds) == {"lock"}


@pytest.mark.parametrize("reused", [True, False])
def test_what_came_of_an_image_is_said_whether_it_is_new_or_not(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, reused: bool
) -> None:
    verified = Verified(reason="there is no runtime")
    came = SimpleNamespace(reused=reused, verified=verified, yanked=("a 1.0 was yanked",), untagged="read only")
    monkeypatch.setattr("kbuild.api.building.build", lambda *_, **__: came)
    tools = Tools(store=SimpleNamespace(), run=None, cache=tmp_path, phases=Logged())  # type: ignore[arg-type]
    with caplog.at_level(logging.INFO, "kbuild"):
        build_image("models:/m/1", session=Session(config=ProjectConfig(), tools=tools, voice=Logged()))
    told = [(each.levelname, each.getMessage()) for each in caplog.records]
    assert told == [
        *[("INFO", "nothing has changed since this image was built (--no-cache builds again)")] * reused,
        ("WARNING", "not verified: there is no runtime"), ("INFO", "a 1.0 was yanked"),
        ("WARNING", "the run is not tagged with this image: read only"),
    ]  # fmt: skip


@pytest.mark.parametrize(("expected", "told"), [([1.5], "passed"), (None, "nothing recorded to compare with")])
def test_a_notebook_shows_the_verdict(expected: Any, told: str) -> None:
    compared = compare(expected, [1.5], DEFAULT)
    report = VerificationReport(
        url="", runtime="", prediction=[1.5], expected=expected, compared=expected is not None,
        largest=compared.largest, tolerance=DEFAULT,
    )  # fmt: skip
    page = VerifiedImage(image="<till:3>", digest=DIGEST, report=report)._repr_html_()
    assert told in page and str(DIGEST) in page and "&lt;till:3&gt;" in page and "none" in page


@pytest.mark.parametrize(
    ("verified", "told"),
    [
        (Verified(verdict="passed"), "passed"),
        (Verified(verdict="passed", reason="linux/arm64 was not"), "passed"),
        (Verified(reason="not on linux/amd64"), "not on linux/amd64"),
        (None, None),
    ],
)
def test_a_notebook_shows_whether_an_image_was_verified(verified: Verified | None, told: str | None) -> None:
    image: Any = SimpleNamespace(size=1e6, engine="native", digest=DIGEST)
    fields = {each.name: None for each in dataclasses.fields(ImageResult)}
    result: Any = ImageResult(**{**fields, "image": image, "verified": verified})  # type: ignore[arg-type]
    page = re.sub("<[^>]*>", " ", result._repr_html_()).split()
    assert ("verified" in page) is (told is not None)
    assert told is None or told.split() == page[page.index("verified") + 1 :][: len(told.split())]


@pytest.mark.parametrize("pushed", [None, f"registry.example/till@{DIGEST}"])
def test_a_notebook_shows_what_an_image_is(pushed: str | None) -> None:
    image: Any = SimpleNamespace(size=88_600_000, engine="buildkit", digest=DIGEST)
    fields = {each.name: None for each in dataclasses.fields(ImageResult)}
    facts = {"image": image, "reference": "till@x", "pushed": pushed, "model_digest": "m", "lock_digest": "l"}
    result: Any = ImageResult(**{**fields, **facts})  # type: ignore[arg-type]
    rows = re.findall(r"<tr><th[^>]*>(.*?)</th><td[^>]*>(.*?)</td></tr>", result._repr_html_())
    assert rows == [
        ("image", "till@x"), ("size", "89 MB"), ("engine", "buildkit"), *([("pushed", pushed)] if pushed else []),
        ("model", "m"), ("lock", "l"),
    ]  # fmt: skip


def test_docker_build_is_told_of_a_base_that_lies_here(tmp_path: Path) -> None:
    plan: Any = SimpleNamespace(from_line=BASE_CONTEXT, base=DIGEST)
    told = f"--build-context {BASE_CONTEXT}=oci-layout://{tmp_path}@{DIGEST} "
    assert _base_option(f"oci:{tmp_path}", plan) == told
    assert _base_option(None, plan) == "", "the default base lies in the context"
    other: Any = SimpleNamespace(from_line="docker.io/library/debian:12", base=DIGEST)
    assert _base_option("debian:12", other) == ""
