from __future__ import annotations

from pathlib import Path

import pytest

from kbuild.api import find
from kbuild.api.request import make_image_request
from kbuild.image.oci.image_reference import ImageReference
from kbuild.project.config import ProjectConfig


def test_an_image_is_built_for_a_command_that_has_none_of_the_options() -> None:
    """ "kbuild run MODEL" and "verify --rebuild" build with these."""
    request = make_image_request(ProjectConfig(), "models:/m/1")
    assert request.model == "models:/m/1" and not request.assembling.allow_unsigned and not request.slim


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("registry.example/churn:1", True),
        ("localhost:5000/churn:1", True),
        ("churn@sha256:" + "a" * 64, True),
        ("churn:1", False),
        ("team/churn:1", False),
        ("registry.example/churn", False),
        ("folder:1", False),
    ],
)
def test_a_registry_is_asked_for_what_can_be_nothing_else(
    text: str, asked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder:1").mkdir()
    assert find._is_of_a_registry(text, ImageReference.parse(text)) is asked
