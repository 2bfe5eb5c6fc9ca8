"""What differs between two runs or two images."""

from __future__ import annotations

import shlex

from kbuild.api.find import existing_image, no_image
from kbuild.api.session import Session, open_session, take_model
from kbuild.audit.report.compare import ModelDiff
from kbuild.errors import ImageNotFound
from kbuild.image.compare.diff import ImageDiff, diff_images
from kbuild.model.model_reference import ModelReference
from kbuild.model.shorthand import count_back
from kbuild.platform import Platform
from kbuild.workflow.audit.difference import compare_models


def diff(
    before: str = "@latest~1",
    after: str = "@latest",
    *,
    platform: Platform | None = None,
    session: Session | None = None,
) -> ImageDiff | ModelDiff:
    """What differs from ``before`` to ``after``: an ImageDiff where both name images, else a ModelDiff of two runs.

    ``platform`` is whose image of an image index is meant. Raises ModelNotFound, ImageNotFound, InvalidImage, and what
    else ``kbuild diff`` ends with.
    """
    session = session or open_session()
    tools = session.tools
    with (
        tools.using_cache(),
        existing_image(before, tools, platform) as one,
        existing_image(after, tools, platform) as other,
    ):
        if one is not None and other is not None:
            with session.voice("compare") as progress:
                return diff_images(one[0], other[0], progress)
        for text, instead in ((before, other), (after, one)):
            if instead is not None:
                if count_back(text) is not None:
                    image = after if text == before else before
                    raise ImageNotFound(
                        f"{image!r} is an image, and {text!r} stands for a run: two of a kind are compared",
                        hint=f"kbuild diff {shlex.quote(image)} IMAGE; kbuild list shows what was built here",
                    )
                raise no_image(text, tools)
    older, newer = (ModelReference.parse(take_model(text, session)) for text in (before, after))
    return compare_models(older, newer, tools)
