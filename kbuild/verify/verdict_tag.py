"""The verdict of a verification, written to the run whose model the image serves."""

from __future__ import annotations

from kbuild.image.engine import BuiltImage
from kbuild.image.oci.layout import read_json_blob
from kbuild.model.fetch import ModelStore
from kbuild.model.store import write_tags
from kbuild.plan.make import LABEL_MODEL_URI, LABEL_RUN_ID
from kbuild.plan.model_only import LABEL_CONTENTS
from kbuild.tracking.image_tags import Tag


def write_verdict(image: BuiltImage, verdict: str, store: ModelStore) -> str | None:
    """Tag the run that the image's labels name; returns None, or why that could not be."""
    return _write({Tag.VERIFY: verdict, Tag.VERIFIED_DIGEST: str(image.digest)}, image, store)


def write_rebuild_verdict(image: BuiltImage, verdict: str, store: ModelStore) -> str | None:
    """As ``write_verdict``, for what building it again gave."""
    return _write({Tag.REBUILD: verdict, Tag.REBUILT_DIGEST: str(image.digest)}, image, store)


def _write(tags: dict[Tag, str], image: BuiltImage, store: ModelStore) -> str | None:
    config = read_json_blob(image.layout, image.config_digest)
    inner = config.get("config") if isinstance(config, dict) else None
    labels = (inner.get("Labels") if isinstance(inner, dict) else None) or {}
    if labels.get(LABEL_CONTENTS) == "model":
        return "the image has a model's files alone, and the run's verdict is of the one that serves"
    return write_tags(tags, labels.get(LABEL_RUN_ID), labels.get(LABEL_MODEL_URI), store).refused
