"""make_model_plan: a model's files as an image of their own, which runs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from kbuild.digest import Digest, digest_bytes, digest_json
from kbuild.model.bundle import ModelBundle
from kbuild.plan.base import ResolvedBase
from kbuild.plan.build_plan import BuildPlan, ImageConfig, LayerPlan
from kbuild.plan.make import LABEL_MODEL_URI, LABEL_RUN_ID, check_labels, from_line_of, labels_for_tools
from kbuild.plan.render import Template, render_dockerfile
from kbuild.plan.split import split_model
from kbuild.platform import Platform

MODELS_PATH = "/models"
"""Where KServe's modelcars have the model (kserve.github.io, "Serving models with OCI images")."""

LABEL_CONTENTS = "io.kbuild.contents"
"""``model`` on images that hold a model and nothing that serves it."""

EMPTY_BASE = ResolvedBase(kind="debs", name="scratch", digest=digest_bytes(b""))
"""What an image stands on that stands on nothing."""

_TEMPLATE = Template(name="model-only.Dockerfile.j2")


def make_model_plan(
    bundle: ModelBundle, base: ResolvedBase, platform: Platform, *, packed_by: str, labels: Mapping[str, str]
) -> BuildPlan:
    """Everything that determines the image of a model's files in ``/models``; raises LabelError for a label that is
    kbuild's own."""
    check_labels(labels)
    known = model_labels(bundle, base)
    plan = BuildPlan(
        base=base.digest,
        base_name=base.name,
        from_line=from_line_of(base),
        platform=platform,
        created=bundle.facts.created,
        layers=tuple(
            LayerPlan(name=name, source=name, content=_content([(file.path, file.digest) for file in files]))
            for name, files in split_model(bundle).items()
        ),
        config=ImageConfig(
            user="",
            entrypoint=(),
            env=(),
            exposed_port=0,
            healthcheck=(),
            stop_signal="",
            labels=tuple(sorted({**known, **labels}.items())),
        ),
        annotations=tuple(sorted(known.items())),
        dockerfile="",
        packed_by=packed_by,
    )
    return replace(plan, dockerfile=render_dockerfile(plan, _TEMPLATE))


def model_labels(bundle: ModelBundle, base: ResolvedBase) -> dict[str, str]:
    """What an image, or an artifact, of a model's files says of itself."""
    facts = bundle.facts
    stated: dict[str, str | None] = {
        LABEL_CONTENTS: "model",
        LABEL_MODEL_URI: facts.uri,
        LABEL_RUN_ID: facts.run_id,
        "io.kbuild.model.digest": str(bundle.digest),
        "io.kbuild.mlflow.version": facts.mlflow_version,
        **labels_for_tools(facts, base),
    }
    return {key: value for key, value in stated.items() if value}


def _content(files: list[tuple[str, Digest]]) -> Digest:
    return digest_json([MODELS_PATH, [[path, str(digest)] for path, digest in files]])
