from __future__ import annotations

from kbuild.cli.request import make_image_request
from kbuild.project.config import ProjectConfig


def test_an_image_is_built_for_a_command_that_has_none_of_the_options() -> None:
    """ "kbuild run MODEL" and "verify --rebuild" build with these."""
    request = make_image_request(ProjectConfig(), "models:/m/1")
    assert request.model == "models:/m/1" and not request.allow_unsigned_base and not request.slim
