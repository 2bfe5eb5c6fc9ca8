"""Whether a template's Dockerfile can be built on the base: told before anything is fetched or staged for it."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass

from kbuild.errors import BuildFailed, TemplateError, UnsupportedInstruction
from kbuild.image.engines.dockerfile import Instruction, parse_dockerfile, read_exec_form, split_words, take_flags
from kbuild.plan.base import BaseFacts, ResolvedBase
from kbuild.plan.build_plan import BuildPlan

_SHELLS = ("sh", "ash", "bash", "dash")
_FOLDERS = ("usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin")
_SHOWN = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class _Stage:
    image: str
    name: str | None
    instructions: Sequence[Instruction]


def check_template(plan: BuildPlan, base: ResolvedBase, facts: BaseFacts) -> None:
    """Raises TemplateError where the image would not be the base's, lacks a layer, or a RUN has nothing to run with.

    A Dockerfile that only BuildKit can read is left to it.
    """
    try:
        stages = _stages(parse_dockerfile(plan.dockerfile))
    except (BuildFailed, UnsupportedInstruction):
        return
    if not stages:
        return  # the engines say so
    root = _root(stages, len(stages) - 1)
    if root != plan.from_line:
        raise TemplateError(
            f"the Dockerfile ends in an image FROM {root}, but the base image is {base.name}, which its labels name",
            hint="write FROM {{ plan.from_line }} in the template, and choose the base with --base",
        )
    _check_layers(stages, plan)
    for number, stage in enumerate(stages):
        if _root(stages, number) == plan.from_line:
            _check_runs(stage, plan, base, facts)


def _check_layers(stages: Sequence[_Stage], plan: BuildPlan) -> None:
    sources = {layer.source for layer in plan.layers}
    copied: set[str] = set()
    for instruction in _instructions(stages, len(stages) - 1):
        if instruction.name == "RUN":
            return  # who knows what it brings
        if instruction.name in ("COPY", "ADD"):
            copied |= _sources(instruction)
    lacking = [layer.source for layer in plan.layers if layer.source not in copied]
    if lacking and copied <= sources:
        raise TemplateError(
            f"the Dockerfile copies no {', no '.join(lacking)}, so the image would be without it",
            hint='extend the template (write {% extends "model.Dockerfile.j2" %} at its beginning), or copy each of '
            "plan.layers as that does",
        )


def _sources(instruction: Instruction) -> set[str]:
    """The top folders of what an instruction copies, of the context or of another stage."""
    words = read_exec_form(take_flags(instruction)[1]) or split_words(take_flags(instruction)[1])
    return {posixpath.normpath(f"/{word}").strip("/").partition("/")[0] for word in words[:-1]}


def _check_runs(stage: _Stage, plan: BuildPlan, base: ResolvedBase, facts: BaseFacts) -> None:
    sources = {layer.source for layer in plan.layers}
    for instruction in stage.instructions:
        if instruction.name in ("COPY", "ADD") and _sources(instruction) - sources:
            return  # who knows what it brings
        if instruction.name != "RUN":
            continue
        command = take_flags(instruction)[1]
        lacking = _lacking(read_exec_form(command), base, facts)
        if lacking is not None:
            shown = command if len(command) <= _SHOWN else f"{command[: _SHOWN - 1]}…"
            raise TemplateError(
                f"Dockerfile line {instruction.line}: RUN {shown}: base image {base.name} has no {lacking}",
                hint="choose a base that has one with --base, such as docker.io/library/debian:bookworm-slim, "
                "or leave out the RUN",
            )


def _lacking(words: list[str] | None, base: ResolvedBase, facts: BaseFacts) -> str | None:
    """What a RUN misses; None where it has all, or nobody knows."""
    if words is None or (words and posixpath.basename(words[0]) in _SHELLS):
        return None if facts.shell else "shell"
    if not words or base.kind != "debs" or base.path is None or words[0].startswith("/opt/"):
        return None
    # Only of an assembled base every program is known here.
    places = [words[0].lstrip("/")] if "/" in words[0] else [f"{folder}/{words[0]}" for folder in _FOLDERS]
    return None if any((base.path / place).exists() for place in places) else words[0]


def _stages(instructions: Sequence[Instruction]) -> list[_Stage]:
    stages: list[_Stage] = []
    inside: list[Instruction] = []
    for instruction in instructions:
        if instruction.name == "FROM":
            words = take_flags(instruction)[1].split()
            name = words[2].lower() if len(words) == 3 and words[1].upper() == "AS" else None
            inside = []
            stages.append(_Stage(image=words[0] if words else "", name=name, instructions=inside))
        else:
            inside.append(instruction)
    return stages


def _instructions(stages: Sequence[_Stage], number: int) -> list[Instruction]:
    """Of a stage and of those that it starts from."""
    image = stages[number].image
    for earlier in reversed(range(number)):
        if stages[earlier].name == image.lower():
            return [*_instructions(stages, earlier), *stages[number].instructions]
    return list(stages[number].instructions)


def _root(stages: Sequence[_Stage], number: int) -> str:
    """The image that a stage starts from in the end; a stage's name means the stage, from the next on."""
    image = stages[number].image
    for earlier in reversed(range(number)):
        if stages[earlier].name == image.lower():
            return _root(stages, earlier)
    return image
