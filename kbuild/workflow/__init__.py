"""F7: from a model's name to a delivered image; the only floor that knows every other."""

from kbuild.image.deliver.naming import check_name, check_push, has_placeholder
from kbuild.workflow.build import build_image, lock_model, render_context
from kbuild.workflow.delivery import PATIENCE, Delivery, ImageResult
from kbuild.workflow.many import Outcome, build_many
from kbuild.workflow.prepare import ImageRequest
from kbuild.workflow.tools import Phases, Tools

__all__ = [
    "PATIENCE",
    "Delivery",
    "ImageRequest",
    "ImageResult",
    "Outcome",
    "Phases",
    "Tools",
    "build_image",
    "build_many",
    "check_name",
    "check_push",
    "has_placeholder",
    "lock_model",
    "render_context",
]
