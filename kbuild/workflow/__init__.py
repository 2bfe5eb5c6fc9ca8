"""F7: from a model's name to a delivered image; the only floor that knows every other."""

from kbuild.workflow.build import ImageRequest, build_image, lock_model, render_context
from kbuild.workflow.delivery import Delivery, ImageResult, fill_push
from kbuild.workflow.tools import Phases, Tools

__all__ = [
    "Delivery",
    "ImageRequest",
    "ImageResult",
    "Phases",
    "Tools",
    "build_image",
    "fill_push",
    "lock_model",
    "render_context",
]
