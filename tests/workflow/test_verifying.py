"""An image is asked before it is named, pushed or told of; what was not asked is never called verified."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from test_delivery import OTHER
from world import HOST, RUN_ID, World

from kbuild.answers import DEFAULT
from kbuild.errors import (
    ContainerFailed,
    InvalidImage,
    KbuildError,
    ModelNotTrusted,
    NothingToAsk,
    OutputError,
    RuntimeUnavailable,
    VerificationFailed,
)
from kbuild.image.engine import BuiltImage
from kbuild.image.oci.image_reference import ImageReference
from kbuild.image.store.local import LocalImages
from kbuild.image.store.verdicts import Verdicts
from kbuild.verify.golden import VerificationReport
from kbuild.workflow.build import build_image
from kbuild.workflow.delivery import Delivery, ImageResult, verify_built
from kbuild.workflow.once import Shared


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[BuiltImage]]:
    """Stands in for starting an image; what it was asked to start is listed."""
    started: list[BuiltImage] = []

    def stand_in(error: KbuildError | None = None, *, compared: bool = True) -> list[BuiltImage]:
        def verify(image: BuiltImage, *_: Any, **__: Any) -> VerificationReport:
            started.append(image)
            if error is not None:
                raise error
            return VerificationReport(
                url="", runtime="", prediction=1, expected=1, compared=compared, largest=None, tolerance=DEFAULT
            )

        monkeypatch.setattr("kbuild.verify.judging.verify_image", verify)
        return started

    return stand_in


def build(world: World, *, reuse: bool = True, **given: Any) -> ImageResult:
    delivery = Delivery(**{"verify": True, "tag": "till:1", **given})
    return build_image(world.request(), delivery, replace(world.tools, shared=Shared()), reuse=reuse)


def tags(world: World) -> dict[str, str]:
    return {key: value for run, given, _ in world.store.tags if run == RUN_ID for key, value in given.items()}


@pytest.mark.slow
def test_what_was_built_is_asked_once_and_the_run_is_told(world: World, asked: Any) -> None:
    started = asked()
    first = build(world)
    assert first.verified is not None and (first.verified.verdict, first.verified.anew) == ("passed", True)
    assert tags(world)["kbuild.verify"] == "passed"
    assert tags(world)["kbuild.verified_digest"] == str(first.image.digest)
    again = build(world)
    assert again.reused and again.verified is not None
    assert (again.verified.verdict, again.verified.anew) == ("passed", False)
    assert [each.digest for each in started] == [first.image.digest]
    build(world, reuse=False)
    assert len(started) == 2, "who asks for a build anew gets its answer anew"


@pytest.mark.parametrize(
    ("refuses", "record", "untagged"), [(True, True, "read only"), (True, False, None), (False, True, None)]
)
@pytest.mark.parametrize("compared", [True, False])
def test_why_the_run_was_not_told_the_verdict_is_told(
    world: World, asked: Any, refuses: bool, record: bool, untagged: str | None, compared: bool
) -> None:
    """Whoever reads the run finds no verdict there, however the server takes the tags that follow."""
    asked(compared=compared)
    world.store.refuses_tags = refuses
    verified = build(world, record=record).verified
    assert verified is not None and verified.untagged == untagged
    assert ("kbuild.verify" in tags(world)) is (record and not refuses)


def test_a_no_op_of_what_nobody_asked_asks_now(world: World, asked: Any) -> None:
    started = asked()
    assert build(world, verify=False).verified is None
    assert not started and "kbuild.verify" not in tags(world)
    build(world)
    assert len(started) == 1


@pytest.mark.parametrize("error", [VerificationFailed("it answers 2, not 1"), ContainerFailed("it stopped")])
def test_an_image_that_fails_goes_nowhere(
    world: World, asked: Any, monkeypatch: pytest.MonkeyPatch, error: KbuildError
) -> None:
    started = asked(error)
    published: list[Any] = []
    monkeypatch.setattr("kbuild.workflow.publishing.publish", lambda *given, **_: published.append(given))
    with pytest.raises(type(error)) as refused:
        build(world, push="registry.example/till:1")
    (image,) = started
    assert refused.value.message == error.message
    assert f"kbuild run {image.digest}" in str(refused.value.hint) and "--no-verify" in str(refused.value.hint)
    assert not published
    assert tags(world).get("kbuild.verify") == "failed" and "kbuild.image" not in tags(world)
    images = LocalImages(world.tools.cache / "images")
    assert images.by_reference(ImageReference.parse("till:1")) is None
    assert images.by_digest(image.digest) is not None, "the one that it happened to can be looked at"
    with pytest.raises(type(error)):
        build(world)  # nothing has changed: it is asked again, and not taken as it is
    assert len(started) == 2


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeUnavailable("nothing here can run an image"), "nothing here can run an image"),
        (NothingToAsk("the model stores no input example"), "the model stores no input example"),
        (InvalidImage("Docker refuses the image: no space"), "Docker refuses the image: no space"),
        (OutputError("Docker cannot load it"), "Docker cannot load it"),
    ],
)
def test_what_cannot_be_asked_is_delivered_and_not_called_verified(
    world: World, asked: Any, error: KbuildError, reason: str
) -> None:
    started = asked(error)
    result = build(world)
    assert result.verified is not None and (result.verified.verdict, result.verified.reason) == (None, reason)
    assert "kbuild.verify" not in tags(world) and tags(world)["kbuild.image_digest"] == str(result.digest)
    build(world)
    again = 1 if isinstance(error, NothingToAsk) else 2
    assert len(started) == again, "a machine that can may be there next time, an example will not"


@pytest.mark.parametrize("error", [RuntimeUnavailable("no runtime"), NothingToAsk("no example")])
def test_why_it_was_not_asked_is_said_of_each_of_several(world: World, asked: Any, error: KbuildError) -> None:
    asked(error)
    image = build(world, verify=False).image
    images, delivery = LocalImages(world.tools.cache / "images"), Delivery(record=False)
    both = verify_built({OTHER: image, HOST: image}, images, world.tools, delivery, again=True, look=lambda _: None)
    assert both.reason == f"{error.message}; what is for {OTHER}, since this machine is {HOST}"
    assert (both.verdict, both.anew, both.untagged) == (None, False, None)


@pytest.mark.parametrize(
    ("error", "hints"),
    [
        (VerificationFailed("2, not 1", hint="allow more"), ["allow more", "kbuild run sha256:", "--no-verify"]),
        (ContainerFailed("it stopped", hint="see its log"), ["see its log", "kbuild run sha256:", "--no-verify"]),
        (ModelNotTrusted("it starts a shell", hint="--trust-model"), ["--trust-model", "--no-verify"]),
    ],
)
def test_what_the_error_itself_says_to_do_is_kept_before_what_the_build_offers(
    world: World, asked: Any, error: KbuildError, hints: list[str]
) -> None:
    asked(error)
    with pytest.raises(type(error)) as refused:
        build(world)
    hint = str(refused.value.hint)
    places = [hint.find(each) for each in hints]
    assert refused.value.message == error.message and -1 not in places and places == sorted(places), hint


def test_without_a_recorded_prediction_it_only_answered(world: World, asked: Any) -> None:
    asked(compared=False)
    result = build(world)
    assert result.verified is not None and result.verified.verdict == "answered"
    assert tags(world)["kbuild.verify"] == "answered"


def test_another_platforms_image_is_not_verified_here(world: World, asked: Any) -> None:
    started = asked()
    image = build(world, verify=False).image
    images = LocalImages(world.tools.cache / "images")
    delivery = Delivery(record=False)
    verified = verify_built({OTHER: image}, images, world.tools, delivery, again=False, look=lambda _: None)
    reason = f"what is for {OTHER}, since this machine is {HOST}"
    assert (verified.verdict, verified.reason) == (None, reason)
    assert not started
    both = verify_built({OTHER: image, HOST: image}, images, world.tools, delivery, again=False, look=lambda _: None)
    assert (both.verdict, both.reason) == ("passed", reason), "one that was does not stand for the other"


def test_a_verdict_of_another_image_or_a_torn_one_counts_for_nothing(world: World, asked: Any) -> None:
    started = asked()
    image = build(world).image
    record = world.tools.cache / "images" / "verdicts" / image.digest.hex
    for text in ("", "[]", json.dumps({"digest": f"sha256:{'0' * 64}", "verdict": "passed"})):
        record.write_text(text)
        assert Verdicts(world.tools.cache / "images").read(image.digest) is None
    build(world)
    assert len(started) == 2
