"""What an image is, for checks of a part of it."""

from __future__ import annotations

from typing import Any

from kbuild.audit.image_facts import ImageBase, ImageFacts


def bare_image(**given: Any) -> ImageFacts:
    """An image that has nothing but what is ``given``."""
    nothing: dict[str, Any] = {"labels": {}, "distributions": (), "conda": (), "unowned": (), "model_digest": None}
    base = ImageBase(ecosystem=None, packages=())
    return ImageFacts(**{"digest": "sha256:" + "0" * 64, "subdir": "linux-64", **nothing, "base": base, **given})
