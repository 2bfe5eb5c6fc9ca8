"""The native engine: executes a Dockerfile without RUN. No daemon, no root, no network, no process.

Dockerfile reference (docs.docker.com/reference/dockerfile); where it is silent, what BuildKit does.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kbuild.errors import OutputError
from kbuild.image.base.layers import EMPTY, BaseImage, layer_members, read_base
from kbuild.image.engine import (
    DEFAULT_SETTINGS,
    NOTHING_PACKED,
    EngineOutput,
    EngineSettings,
    PackedBlob,
    PackedLayers,
    RawLayer,
)
from kbuild.image.engines.copying import CopyConflict, FileSystem, Ownership, copy_file, copy_tree, make_folder
from kbuild.image.engines.dockerfile import (
    Instruction,
    expand,
    key_values,
    parse_dockerfile,
    read_exec_form,
    split_words,
    take_flags,
)
from kbuild.image.engines.instruction_values import command, healthcheck, ownership
from kbuild.image.oci.image_config import DEFAULT_PATH
from kbuild.image.oci.tarball import DIRECTORY, Entry, tar_chunks
from kbuild.plan.base import ResolvedBase
from kbuild.plan.build_plan import BuildContext, BuildPlan
from kbuild.process import Runner
from kbuild.progress import Progress

# Instructions that make or change files, or decide where COPY puts them.
_LAYER_MAKERS = ("COPY", "ADD", "RUN", "WORKDIR")
_WILDCARD = re.compile(r"[*?\[]")


@dataclass(frozen=True, kw_only=True, slots=True)
class CopiedLayer:
    """A layer whose content still lies in the build context."""

    entries: tuple[Entry, ...]

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(entry.size for entry in self.entries)

    def chunks(self) -> Iterator[bytes]:
        """The layer's tar."""
        return tar_chunks(self.entries)


class NativeEngine:
    """An ``Engine`` in pure Python."""

    name = "native"

    def __init__(self, runner: Runner, settings: EngineSettings = DEFAULT_SETTINGS) -> None:
        """Both are taken because every engine is made alike; this one starts nothing."""

    def probe(self) -> str:
        """Always there."""
        return "needs no daemon"

    def build(
        self,
        context: BuildContext,
        base: ResolvedBase,
        *,
        workdir: Path,
        progress: Progress,
        known: PackedLayers = NOTHING_PACKED,
    ) -> EngineOutput:
        """Execute the context's Dockerfile; the layers are read from the context when they are packed.

        Raises UnsupportedInstruction or BuildFailed naming the line, BaseImageError, and OutputError when the context
        cannot be read.
        """
        instructions = parse_dockerfile((context.path / "Dockerfile").read_text(encoding="utf-8"))
        build = _Build(context, base, progress, known if copies_plan(context.plan) else NOTHING_PACKED)
        try:
            for instruction in instructions:
                build.execute(instruction)
        except OSError as error:
            raise OutputError(f"the build context cannot be read: {error}") from error
        return build.output(instructions)


def copies_plan(plan: BuildPlan) -> bool:
    """Whether the Dockerfile's layers are the plan's and no others, as the shipped template makes them.

    Only then a layer's bytes follow from the plan alone, and may be taken from an earlier build.
    """
    instructions = [each for each in parse_dockerfile(plan.dockerfile) if each.name in _LAYER_MAKERS]
    wanted = [[f"{layer.source}/", "/"] for layer in plan.layers]
    copied = [read_exec_form(each.value) for each in instructions if each.name == "COPY"]
    return copied == wanted and len(copied) == len(instructions)


class _Build:
    """The state of one execution: file system, config and layers so far."""

    def __init__(self, context: BuildContext, base: ResolvedBase, progress: Progress, known: PackedLayers) -> None:
        self._known = known
        self._below: dict[tuple[str, ...], FileSystem] = {}
        self._context = context
        self._base = base
        self._progress = progress
        self._started = False
        self._cmd_set = False
        self._files = FileSystem()
        self._layers: list[RawLayer] = []
        self._config: dict[str, Any] = {}
        self._env: dict[str, str] = {}

    def execute(self, instruction: Instruction) -> None:
        """Execute one instruction."""
        method = getattr(self, f"_do_{instruction.name.lower()}", None)
        if method is None:
            instruction.unsupported()
        if not self._started and instruction.name != "FROM":
            instruction.unsupported("a Dockerfile for the native engine starts with FROM")
        method(instruction)

    def output(self, instructions: tuple[Instruction, ...]) -> EngineOutput:
        """What has been built."""
        if not self._started:
            Instruction(name="FROM", value="", line=len(instructions) + 1).fail("the Dockerfile has no FROM")
        config = {**self._config, "Env": [f"{name}={value}" for name, value in self._env.items()]}
        return EngineOutput(layers=tuple(self._layers), config=config)

    def _do_from(self, instruction: Instruction) -> None:
        if self._started:
            instruction.unsupported("the native engine builds one stage")
        if (self._context.path / ".dockerignore").exists():
            instruction.unsupported("the native engine reads no .dockerignore")
        words = instruction.value.split()
        if not words or (len(words) > 1 and (len(words) != 3 or words[1].upper() != "AS")):
            instruction.unsupported("the native engine reads FROM <image> [AS <name>]")
        image = self._read_from(instruction, expand(words[0], {}, instruction))
        # What was pulled lies in the cache, a layout that the user named is not ours to write to.
        path = self._base.path
        kept = path / "members" if path is not None and self._base.kind == "registry" else None
        for layer in image.layers:
            self._layers.append(layer)
            if isinstance(layer.content, PackedBlob):
                self._files.apply_tar(layer_members(layer.content, kept=kept))
        self._config = dict(image.config)
        if self._config.get("OnBuild"):
            instruction.unsupported("the base image has ONBUILD triggers")
        for pair in self._config.get("Env") or []:
            name, _, value = pair.partition("=")
            self._env[name] = value
        self._env.setdefault("PATH", DEFAULT_PATH)
        self._started = True

    def _read_from(self, instruction: Instruction, name: str) -> BaseImage:
        if name == "scratch":
            return EMPTY
        if name != self._context.plan.from_line:
            instruction.unsupported(f"only the plan's base image, {self._context.plan.from_line}, is at hand")
        return read_base(self._base)

    def _do_copy(self, instruction: Instruction) -> None:
        flags, rest = take_flags(instruction)
        owner = ownership(instruction, flags)
        raw = read_exec_form(rest) or split_words(rest)
        words = [expand(word, self._env, instruction) for word in raw]
        if len(words) < 2:
            instruction.fail("needs a source and a target")
        if len(words) > 2:
            instruction.unsupported("the native engine copies one source at a time")
        self._progress.note(f"COPY {words[0]}")
        name = words[0].removesuffix("/")
        if name in self._known.keys:
            self._add_known(instruction, name, f"COPY {' '.join(words)}")
            return
        try:
            entries = self._copy(instruction, words[0], words[1], owner)
        except CopyConflict as error:
            instruction.fail(str(error))
        flag_text = "".join(f"--{name}={flags[name]} " for name in ("chown", "chmod") if name in flags)
        self._add(entries, f"COPY {flag_text}{' '.join(words)}")

    def _add_known(self, instruction: Instruction, name: str, created_by: str) -> None:
        """The layer of the plan with this name: as it was packed before, or over the layers that it may meet."""
        content: CopiedLayer | PackedBlob | None = self._known.packed.get(name)
        if content is None:
            over = next(layer.over for layer in self._context.plan.layers if layer.source == name)
            try:
                entries = copy_tree(self._below_of(over).copy(), self._context.roots(name), b"", Ownership())
            except CopyConflict as error:
                instruction.fail(str(error))
            content = CopiedLayer(entries=tuple(entries))
        key = self._known.keys[name]
        self._layers.append(RawLayer(content=content, created_by=created_by, size=content.size, key=key))

    def _below_of(self, over: tuple[str, ...]) -> FileSystem:
        if not over:
            return self._files
        if over not in self._below:
            files = self._below_of(over[:-1]).copy()
            copy_tree(files, self._context.roots(over[-1]), b"", Ownership())
            self._below[over] = files
        return self._below[over]

    def _copy(self, instruction: Instruction, source: str, target: str, owner: Ownership) -> list[Entry]:
        if _WILDCARD.search(source):
            instruction.unsupported("the native engine reads no wildcards")
        # As in BuildKit, "..", "." and a leading slash stay inside the context.
        paths = self._in_context(posixpath.normpath(f"/{source}").strip("/"))
        if not paths or paths[0].is_symlink():
            instruction.fail(f"{source} is not in the build context")
        path = paths[0]
        into_folder = target.endswith(("/", "/."))
        full = posixpath.normpath(posixpath.join("/", self._config.get("WorkingDir") or "/", target)).strip("/")
        if path.is_dir():
            return copy_tree(self._files, paths, full.encode(), owner)
        there = self._files.get(full.encode())
        if into_folder or not full or (there is not None and there.kind == DIRECTORY):
            full = posixpath.join(full, path.name)
        return copy_file(self._files, path, full.encode(), owner)

    def _in_context(self, source: str) -> list[Path]:
        """Where it lies, of a folder every directory that has a part of it."""
        top, _, inside = source.partition("/")
        roots = [root / inside for root in self._context.roots(top)] if top else [self._context.path]
        return [path for path in roots if path.exists()]

    def _do_workdir(self, instruction: Instruction) -> None:
        text = expand(instruction.value, self._env, instruction)
        folder = posixpath.normpath(posixpath.join(self._config.get("WorkingDir") or "/", text))
        self._config["WorkingDir"] = folder
        try:
            entries = make_folder(self._files, folder.strip("/").encode())
        except CopyConflict as error:
            instruction.fail(str(error))
        self._add(entries, f"WORKDIR {text}")

    def _do_env(self, instruction: Instruction) -> None:
        self._env.update(key_values(instruction, dict(self._env)))

    def _do_label(self, instruction: Instruction) -> None:
        labels = dict(self._config.get("Labels") or {})
        labels.update(key_values(instruction, self._env))
        self._config["Labels"] = labels

    def _do_expose(self, instruction: Instruction) -> None:
        ports = dict(self._config.get("ExposedPorts") or {})
        for word in split_words(instruction.value):
            port, _, protocol = expand(word, self._env, instruction).partition("/")
            if not port.isdecimal() or not 0 < int(port) < 65536:
                instruction.unsupported(f"{word!r} is not a single port")
            ports[f"{int(port)}/{protocol.lower() or 'tcp'}"] = {}
        self._config["ExposedPorts"] = ports

    def _do_user(self, instruction: Instruction) -> None:
        self._config["User"] = expand(instruction.value, self._env, instruction)

    def _do_stopsignal(self, instruction: Instruction) -> None:
        self._config["StopSignal"] = expand(instruction.value, self._env, instruction)

    def _do_entrypoint(self, instruction: Instruction) -> None:
        self._config["Entrypoint"] = command(instruction.value)
        if not self._cmd_set:
            self._config.pop("Cmd", None)  # a base image's CMD was for the base image's entrypoint

    def _do_cmd(self, instruction: Instruction) -> None:
        self._config["Cmd"] = command(instruction.value)
        self._cmd_set = True

    def _do_healthcheck(self, instruction: Instruction) -> None:
        self._config["Healthcheck"] = healthcheck(instruction)

    def _add(self, entries: list[Entry], created_by: str) -> None:
        content = CopiedLayer(entries=tuple(entries))
        self._layers.append(RawLayer(content=content, created_by=created_by, size=content.size))
