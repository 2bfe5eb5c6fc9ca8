"""What an image's own label says of the signatures that its base was made under."""

import pytest

from kbuild.audit.checks.image import BaseCheck
from kbuild.audit.image_facts import ImageBase, ImageFacts
from kbuild.audit.subject import Subject


def image(**labels: str) -> ImageFacts:
    return ImageFacts(
        digest="sha256:" + "0" * 64,
        subdir="linux-64",
        labels={name.replace("_", "."): value for name, value in labels.items()},
        distributions=(),
        conda=(),
        unowned=(),
        model_digest=None,
        base=ImageBase(ecosystem=None, packages=()),
    )


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
