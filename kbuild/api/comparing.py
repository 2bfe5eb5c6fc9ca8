"""What differs between two runs or two images."""

from __future__ import annotations

import shlex

from kbuild.api.find import existing_image, no_image
from kbuild.api.session import Session, open_session, take_model
from kbuild.audit.report.compare import ModelDiff
from kbuild.errors import ImageNotFound, InvalidReference, KbuildError
from kbuild.image.compare.diff import ImageDiff, diff_images
from kbuild.model.model_reference import ModelReference
from kbuild.model.shorthand import count_back
from kbuild.offered.given import take_either
from kbuild.platform import Platform
from kbuild.workflow.audit.difference import compare_models


@take_either
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
        for text, instead, image in ((before, other, after), (after, one, before)):
            if instead is not None:
                if _names_run(text, session):
                    raise ImageNotFound(
                        f"{image!r} is an image, and {text!r} stands for a run: two of a kind are compared",
                        hint=f"kbuild diff {shlex.quote(image)} IMAGE; kbuild list shows what was built here",
                    )
                raise no_image(text, tools)
    older, newer = (ModelReference.parse(take_model(text, session)) for text in (before, after))
    return compare_models(older, newer, tools)


def _names_run(text: str, session: Session) -> bool:
    try:
        if count_back(text) is None:
            ModelReference.parse(text)
    except InvalidReference:
        try:
            session.tools.store.choose(text, project=None)
        except KbuildError:  # of a store that is away as well: then it is an image that is not found
            return False
    return True
