"""What an image's own label says of the signatures that its base was made under."""

import pytest
from bare_image import bare_image

from kbuild.audit.checks.image import BaseCheck
from kbuild.audit.image_facts import ImageFacts
from kbuild.audit.subject import Subject


def image(**labels: str) -> ImageFacts:
    return bare_image(labels={name.replace("_", "."): value for name, value in labels.items()})


@pytest.mark.parametrize(
    ("facts", "looked_at", "found"),
    [
        (None, 0, []),
        (image(), 1, []),
        (image(io_kbuild_base_name="debian:bookworm"), 1, []),
        (image(io_kbuild_base_unsigned="true"), 1, [("base-unsigned", "high")]),
    ],
)
def test_a_base_without_a_checked_signature_is_a_finding(
    facts: ImageFacts | None, looked_at: int, found: list[tuple[str, str]]
) -> None:
    result = BaseCheck().run(Subject(reference="x", kind="image", image=facts))
    assert [(each.id, each.severity) for each in result.findings] == found
    assert (result.looked_at, result.unchecked) == (looked_at, ())
