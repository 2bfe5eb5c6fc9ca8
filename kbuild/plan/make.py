"""make_plan: from a model bundle, a lockfile and a base to a build plan. Pure: reads nothing, asks nobody."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from kbuild._version import __version__
from kbuild.digest import Digest, digest_json
from kbuild.environment.lockfile import Lockfile
from kbuild.environment.replaced import find_replaced
from kbuild.errors import LabelError, PlatformError
from kbuild.model.bundle import ModelBundle, ModelFacts
from kbuild.plan.base import ResolvedBase
from kbuild.plan.build_plan import BASE_CONTEXT, BuildPlan, ImageConfig, LayerPlan
from kbuild.plan.left_out import NOTHING, RULE, LeftOut
from kbuild.plan.render import Template, render_dockerfile
from kbuild.plan.split import PROJECT_LAYER, PackageGroup, split_model
from kbuild.platform import Platform

PREFIX = "/opt/env"
MODEL_PATH = "/opt/model"
RUNTIME_PATH = "/opt/kbuild"
PORT = 8080
LABEL_MODEL_URI = "io.kbuild.model.uri"
LABEL_SIGNATURE = "io.kbuild.signature"
LABEL_RUN_ID = "io.kbuild.run.id"
LABEL_UNSIGNED = "io.kbuild.base.unsigned"
LABEL_LEFT_OUT = "io.kbuild.slim.left-out"
"""The names of the locked packages that a slim image is without, with spaces between."""
LABEL_FILES_LEFT_OUT = "io.kbuild.slim.left-out-files"
"""The files that a slim image is without, as JSON: package or ``*`` -> patterns (``kbuild.plan.left_out``)."""
BASE_LAYER = "base"
INTERPRETER_LAYER = "interpreter"
RUNTIME_LAYER = "runtime"
_USER = "65532:65532"
OWN_LABELS = ("io.kbuild.", "org.opencontainers.image.base.", "org.opencontainers.image.created")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ingredients:
    """What an image is made of. ``runtime`` digests the part of kbuild that serves; ``recipe`` names how packages are
    put in place, so that a change of the recipe is a change of the plan."""

    bundle: ModelBundle
    lockfile: Lockfile
    base: ResolvedBase
    platform: Platform
    runtime: Digest
    recipe: str


def make_plan(
    ingredients: Ingredients,
    groups: Sequence[PackageGroup],
    template: Template,
    *,
    packed_by: str = "",
    labels: Mapping[str, str] | None = None,
    left_out: LeftOut = NOTHING,
) -> BuildPlan:
    """Everything that determines the image.

    ``groups`` are the lock's wheels, split into layers, without what ``left_out`` names; ``packed_by`` names compressor
    and packer. ``labels`` come on top of kbuild's own. Raises PlatformError for a platform the lock does not cover,
    TemplateError and LabelError from rendering, and LabelError for a label that is kbuild's own.
    """
    bundle, lockfile, base = ingredients.bundle, ingredients.lockfile, ingredients.base
    platform = ingredients.platform
    if platform not in lockfile.platforms:
        locked = ", ".join(map(str, lockfile.platforms))
        raise PlatformError(
            f"the lockfile is for {locked}, not for {platform}", hint="run kbuild lock --platform again"
        )
    facts = bundle.facts
    own_labels = {
        "io.kbuild.base.digest": str(base.digest),
        "io.kbuild.base.name": base.name,
        LABEL_UNSIGNED: "true" if base.unsigned else None,
        "io.kbuild.lock.digest": str(lockfile.packages_digest(platform)),
        "io.kbuild.model.digest": str(bundle.digest),
        LABEL_MODEL_URI: facts.uri,
        LABEL_RUN_ID: facts.run_id,
        LABEL_LEFT_OUT: " ".join(sorted(left_out.packages)) or None,
        LABEL_FILES_LEFT_OUT: left_out.files_json(),
        "io.kbuild.mlflow.version": facts.mlflow_version,
        # Of no more weight for the digest than what serves, which lies in the image and brings the version with it.
        "io.kbuild.version": __version__,
        "io.kbuild.git.dirty": "true" if facts.record.get("git_dirty") is True else None,
        LABEL_SIGNATURE: None if facts.signature is None else json.dumps(facts.signature, sort_keys=True),
        **labels_for_tools(facts, base),
    }
    check_labels(labels or {})
    stated = {key: value for key, value in own_labels.items() if value}
    plan = BuildPlan(
        base=base.digest,
        base_name=base.name,
        from_line=from_line_of(base),
        platform=platform,
        created=facts.created,
        layers=_layers(ingredients, groups),
        config=ImageConfig(
            user=_USER,
            entrypoint=(f"{PREFIX}/bin/python", "-m", "kbuild.serving"),
            env=(*_environment(), *_served(bundle, lockfile.packages_digest(platform), slim=bool(left_out))),
            exposed_port=PORT,
            healthcheck=(f"{PREFIX}/bin/python", "-m", "kbuild.serving.watch.healthcheck"),
            stop_signal="SIGTERM",
            labels=tuple(sorted({**stated, **(labels or {})}.items())),
        ),
        annotations=tuple(sorted((k, v) for k, v in stated.items() if k != LABEL_SIGNATURE)),
        dockerfile="",
        packed_by=packed_by,
    )
    return replace(plan, dockerfile=render_dockerfile(plan, template))


def check_labels(labels: Iterable[str]) -> None:
    """Raises LabelError for one that is kbuild's own."""
    for key in labels:
        if key.startswith(OWN_LABELS):
            raise LabelError(
                f"label {key} is kbuild's own", hint="it says what the image was made from; use another name"
            )


def labels_for_tools(facts: ModelFacts, base: ResolvedBase) -> dict[str, str | None]:
    """What tools read of any image (OCI image-spec annotations.md), as far as it is known.

    All of it was recorded with the model in training: an image is the same whoever builds it, and wherever. A base that
    is assembled from packages is no image of a registry, whose name would lead to another one.
    """
    registry = base.kind == "registry"
    found = {
        "created": rfc3339(facts.created),
        "title": facts.name,
        "version": facts.model_id or facts.run_id,
        "revision": _stated(facts.record, "git_commit"),
        "source": _stated(facts.record, "git_source"),
        "licenses": _stated(facts.record, "licence"),
        "base.name": base.name.partition("@")[0] if registry else None,
        "base.digest": None if base.kind == "debs" else str(base.digest),
    }
    return {f"org.opencontainers.image.{key}": value for key, value in found.items()}


def rfc3339(seconds: int) -> str:
    """Seconds since 1970 as ``2026-11-22T21:45:19Z`` (OCI annotations.md asks for RFC 3339)."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _layers(ingredients: Ingredients, groups: Sequence[PackageGroup]) -> tuple[LayerPlan, ...]:
    """From what changes least to what changes most. A layer that would be empty is left out: COPY of nothing fails."""
    base, recipe = ingredients.base, ingredients.recipe
    packages = ingredients.lockfile.for_platform(ingredients.platform)
    lowest = (BASE_LAYER,) if base.kind == "debs" else ()
    # Packages and code are compiled by the interpreter, so its bytes decide theirs.
    compiled = (*lowest, INTERPRETER_LAYER)
    conda: list[object] = [recipe, _sources(package.sha256 for package in packages if package.manager == "conda")]
    if replaced := find_replaced(packages):
        conda.append(_sources(package.sha256 for package in replaced))
    layers = [LayerPlan(name=name, source=name, content=base.digest) for name in lowest]
    layers.append(_layer(INTERPRETER_LAYER, conda, lowest))
    layers += [_layer(group.name, [recipe, *_packages(group)], compiled) for group in groups]
    layers.append(_layer(RUNTIME_LAYER, [recipe, str(ingredients.runtime)], compiled))
    for name, files in split_model(ingredients.bundle).items():
        content = [recipe, [[file.path, str(file.digest)] for file in files]]
        layers.append(_layer(name, content, compiled if name == PROJECT_LAYER else lowest))
    return tuple(layers)


def _layer(name: str, value: object, over: tuple[str, ...]) -> LayerPlan:
    return LayerPlan(name=name, source=name, content=digest_json(value), over=over)


def _packages(group: PackageGroup) -> list[object]:
    """What decides a group's files: the packages, and what they are without where they are not whole."""
    sources = _sources(package.sha256 for package in group.packages)
    trimmed = sorted((p.sha256, group.left_out[p.name]) for p in group.packages if p.name in group.left_out)
    hidden = sorted((p.sha256, sorted(each)) for p, each in group.hidden().items())
    return [sources, *([[RULE, trimmed]] if trimmed else []), *([["hidden", hidden]] if hidden else [])]


def _sources(digests: Iterable[str]) -> list[str]:
    return sorted(digests)


def from_line_of(base: ResolvedBase) -> str:
    """What stands after FROM."""
    if base.kind == "registry":
        return str(base.reference)
    return BASE_CONTEXT if base.kind == "layout" else "scratch"


def _environment() -> tuple[tuple[str, str], ...]:
    return (
        ("PATH", f"{PREFIX}/bin:/usr/local/bin:/usr/bin:/bin"),
        ("HOME", "/tmp"),  # noqa: S108  the only place a read-only container can write to
        ("LANG", "C.UTF-8"),
        ("PYTHONPATH", RUNTIME_PATH),
        ("PYTHONDONTWRITEBYTECODE", "1"),
        ("PYTHONUNBUFFERED", "1"),
        ("PYTHONNOUSERSITE", "1"),
        ("DO_NOT_TRACK", "1"),
        ("MLFLOW_DISABLE_TELEMETRY", "true"),
        ("KBUILD_MODEL", MODEL_PATH),
    )


def _served(bundle: ModelBundle, packages: Digest, *, slim: bool) -> Iterable[tuple[str, str]]:
    """What the scoring server tells at /metadata beside what the MLmodel says."""
    if bundle.facts.uri:
        yield "KBUILD_MODEL_URI", bundle.facts.uri
    yield "KBUILD_MODEL_DIGEST", str(bundle.digest)
    yield "KBUILD_LOCK_DIGEST", str(packages)
    if slim:
        yield "KBUILD_SLIM", "1"


def _stated(record: Mapping[str, object], key: str) -> str | None:
    value = record.get(key)
    return value if isinstance(value, str) else None
