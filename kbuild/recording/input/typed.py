"""Parameters as the inference nodes' annotations want them: Kedro does so for registered pipelines only.

Kedro 1.3 gives a node an object of the dataclass or pydantic model that its parameter is annotated with
(``kedro.validation``). An inference pipeline that is only bound to its training is not seen by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kbuild.errors import RecordingError

if TYPE_CHECKING:
    from kedro.pipeline import Pipeline


def find_typed_parameters(inference: Pipeline, catalog: Any) -> dict[str, Any]:
    """Objects for those ``params:`` inputs that are annotated with a type and are mappings in the catalog.

    Raises RecordingError naming a parameter of which its type cannot be made. Empty with a Kedro before 1.3.
    """
    try:
        from kedro.validation.model_factory import instantiate_model
        from kedro.validation.type_extractor import TypeExtractor
        from kedro.validation.utils import _unwrap_optional
    except ImportError:
        return {}
    made = {}
    for key, kind in TypeExtractor({"inference": inference}).extract_types_from_pipelines().items():
        name = f"params:{key}"
        value = catalog.load(name) if name in catalog else None
        if not isinstance(value, Mapping):
            continue  # there already, or None where that is allowed
        kind = _unwrap_optional(kind)
        try:
            made[name] = instantiate_model(key, dict(value), kind)
        except Exception as error:  # the type's own code may raise anything
            raise RecordingError(
                f"the parameter {key!r} is not of type {kind.__name__}, as an inference node wants it: {error}",
                hint=f"mend {key} in conf/base/parameters.yml, or the annotation of the node",
            ) from error
    return made
