"""What MLflow's pages say of an image: written in its place, never twice, with what a user wrote around it."""

from __future__ import annotations

import shlex
from typing import Any

import yaml

from kbuild.tracking.description import describe

DIGEST = f"sha256:{'1' * 64}"
LOCK = f"sha256:{'2' * 64}"
MODEL = f"models:/m-{'0' * 32}"
TAGS = {
    "kbuild.image": f"shop@{DIGEST}",
    "kbuild.image_digest": DIGEST,
    "kbuild.image_size": "227 MB",
    "kbuild.lock_digest": LOCK,
    "kbuild.verify": "passed",
    "kbuild.verified_digest": DIGEST,
}


def make(present: str | None = None, **changes: Any) -> str:
    tags = {**TAGS, **{f"kbuild.{name}": value for name, value in changes.items()}}
    text = describe(present, {name: value for name, value in tags.items() if value is not None}, MODEL)
    assert text is not None
    return text


def blocks(text: str, language: str) -> list[str]:
    return [part.partition("\n```")[0] for part in text.split(f"```{language}\n")[1:]]


def test_it_says_what_the_image_is_and_how_to_use_it() -> None:
    text = make(audit="findings", audit_date="2026-11-29", audited_lock=LOCK, pushed=f"reg:5000/shop@{DIGEST}")
    for row in (
        f"| digest | `{DIGEST}` |",
        "| packages | lock `sha256:222222222222` |",
        "| verified | passed |",
        "| audit | findings, 2026-11-29, of the lock file `sha256:222222222222` |",
    ):
        assert f"\n{row}\n" in text
    assert text.startswith("Served by the image `reg:5000/shop`, 227 MB. <!-- kbuild")  # what MLflow's lists show of it
    [commands] = blocks(text, "sh")
    run, download, curl = map(shlex.split, commands.replace("\\\n", "").splitlines())
    assert run == ["docker", "run", "--rm", "-p", "8080:8080", f"reg:5000/shop@{DIGEST}"]
    assert download[-4:] == ["-d", ".", "-u", f"{MODEL}/serving_input_example.json"]
    assert max(map(len, commands.splitlines())) < 90  # what MLflow's page has room for, but for a registry's name
    assert curl[-1] == "http://127.0.0.1:8080/invocations"
    [catalog] = blocks(text, "yaml")
    assert yaml.safe_load(catalog)["model"]["load_args"] == {"model_uri": MODEL}


def test_what_was_pushed_verified_or_audited_of_another_one_is_not_said_of_this() -> None:
    text = make(
        pushed=f"reg/shop@sha256:{'9' * 64}", verified_digest="sha256:7", audit="clean", audited_lock="sha256:8"
    )
    assert text.startswith("Served by the image `shop`, 227 MB. ")
    assert f"\nkbuild run --port 8080 {DIGEST[:19]}\n" in text and "docker run" not in text
    assert "| passed, of `sha256:7` |" in text
    assert "| clean, of the lock file `sha256:8` |" in text


def test_it_is_written_in_its_place_and_the_users_text_stays() -> None:
    first = make("My *own* words.\n")
    assert first.startswith("My *own* words.\n\nServed by the image `shop`, 227 MB. <!-- kbuild")
    edited = f"Before.\n\n{first}\n\nAfter."
    again = make(edited, image_size="300 MB")
    assert again == edited.replace("227 MB", "300 MB")
    # The same is not written again, so a build with nothing changed writes nothing.
    assert describe(again, {**TAGS, "kbuild.image_size": "300 MB"}, MODEL) is None
    for broken in (first + first, first.replace("<!-- kbuild: end -->", ""), "<!-- kbuild: end -->" + first):
        mended = make(broken, image_size="1 MB")
        assert mended.count("`shop`, 1 MB. <!-- kbuild") == mended.count("<!-- kbuild: end -->") == 1
        assert "My *own* words." in mended


def test_the_part_of_an_older_kbuild_that_began_with_the_mark_is_written_anew_in_its_place() -> None:
    mark = "<!-- kbuild: this part is written anew with every image; what stands around it stays -->"
    older = f"Before.\n\n{mark}\n\n| | |\n|---|---|\n| size | 9 MB |\n\n<!-- kbuild: end -->\n\nAfter."
    assert make(older) == f"Before.\n\n{make()}\n\nAfter."


def test_nothing_is_said_without_an_image_or_without_room() -> None:
    assert describe(None, {"kbuild.audit": "clean"}, MODEL) is None
    assert describe("x" * 4900, TAGS, MODEL) is None
    assert "curl" not in (describe(None, TAGS, None) or "")


def test_an_answer_that_was_compared_with_nothing_is_not_called_that_of_training() -> None:
    text = make(verify="answered")
    assert "as in training" not in text
    assert "| answers its example | yes; what the trained model answers is not recorded |" in text
    assert "not recorded, of `sha256:7` |" in make(verify="answered", verified_digest="sha256:7")
