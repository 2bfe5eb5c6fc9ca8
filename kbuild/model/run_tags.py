"""What is written back to MLflow: tags on the run of a model and on the model's registered versions."""

from __future__ import annotations

from collections.abc import Mapping

from kbuild.errors import KbuildError
from kbuild.model.fetch import ModelStore
from kbuild.tracking.image_tags import Tag


def write_tags(tags: Mapping[Tag, str], run_id: str | None, model_uri: str | None, store: ModelStore) -> str | None:
    """Tag the run of a model and the versions of the model at this uri; returns None, or why that could not be.

    Not an error: an image is whole without them, and a model from a folder may name a run of another server.
    """
    if run_id is None:
        return "the model names no run"
    try:
        store.set_tags(run_id, {str(tag): value for tag, value in tags.items()}, model_uri=model_uri)
    except KbuildError as error:
        return error.message
    return None
