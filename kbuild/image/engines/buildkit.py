"""The BuildKit engine: ``docker buildx build``, exported as an OCI image with uncompressed, time-free layers.

Options: docs.docker.com/reference/cli/docker/buildx/build and BuildKit's docs/build-repro.md (SOURCE_DATE_EPOCH,
``rewrite-timestamp``).
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from kbuild.cache.entries import size_of
from kbuild.cache.room import room_for
from kbuild.errors import BuildFailed, EngineUnavailable, InvalidImage, OutputError, ProgramNotFound
from kbuild.image.base.layers import read_base
from kbuild.image.engine import (
    DEFAULT_SETTINGS,
    NOTHING_PACKED,
    EngineOutput,
    EngineSettings,
    PackedLayers,
    RawLayer,
)
from kbuild.image.engines.buildx import HINT, Buildx
from kbuild.image.engines.times import stamp_times
from kbuild.image.oci import layout as layouts
from kbuild.image.oci.compress import read_layer
from kbuild.image.oci.media import Compression, layer_compression
from kbuild.plan.base import ResolvedBase
from kbuild.plan.build_plan import BuildContext
from kbuild.process import Completed, Runner, last_line
from kbuild.progress import Progress

_AHEAD = 64 << 20  # bytes that a build may write between two of its lines
_UNPACKED = 3  # a layer's size beside that of its blob
_HISTORY_MARK = " # buildkit"
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
_STEP = re.compile(r"#\d+ (\[.*)")
_ERROR = re.compile(r"^ERROR: (?:failed to (?:solve|build): )*")
_OUTPUT_LINE = re.compile(r"#\d+ \d+\.\d+ (.*)")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportedLayer:
    """A layer in the layout that BuildKit exported."""

    path: Path
    compression: Compression

    def chunks(self) -> Iterator[bytes]:
        """The layer's tar."""
        return read_layer(self.path, self.compression)


class BuildKitEngine:
    """An ``Engine`` that asks the BuildKit of a builder of docker buildx.

    Without one named it is that of the Docker daemon that ``docker``'s own settings find (``DOCKER_HOST``).
    """

    name = "buildkit"

    def __init__(self, runner: Runner, settings: EngineSettings = DEFAULT_SETTINGS) -> None:
        self._runner = runner
        self._settings = settings
        self._buildx = Buildx(runner, settings.builder)

    def probe(self) -> str:
        """Versions of the daemon and of buildx; see ``Buildx.probe``."""
        return self._buildx.probe()

    def build(
        self,
        context: BuildContext,
        base: ResolvedBase,
        *,
        workdir: Path,
        progress: Progress,
        known: PackedLayers = NOTHING_PACKED,
    ) -> EngineOutput:
        """Execute the context's Dockerfile, RUN and several stages included.

        It knows better than we what is packed already, and asks for the whole context. The times of the files there are
        set (see ``stamp_times``). Raises EngineUnavailable, BuildFailed with
        what BuildKit said, BaseImageError, and OutputError when ``workdir`` cannot hold the export.
        """
        below = read_base(base)
        exported = workdir / "exported"
        try:
            shutil.rmtree(exported, ignore_errors=True)
            exported.mkdir(parents=True)
            stamp_times(context.path)
            archive = exported.with_suffix(".tar")
            with _Growing(archive, _expected(context, base)) as growing:
                self._run(context, base, archive, growing, progress)
            # Beside the archive, which goes then.
            with room_for(exported, archive.stat().st_size):
                _unpack(archive, exported)
        except OSError as error:
            raise OutputError(f"the image that BuildKit exports cannot be kept in {workdir}: {error}") from error
        return _read_export(exported, below.layers)

    def _run(
        self, context: BuildContext, base: ResolvedBase, target: Path, growing: _Growing, progress: Progress
    ) -> None:
        plan = context.plan
        argv = [
            *self._buildx.command(), "build", "--progress=plain", "--provenance=false", "--sbom=false",
            f"--platform={plan.platform}", "--build-arg=SOURCE_DATE_EPOCH=0",
            f"--output=type=oci,dest={target},rewrite-timestamp=true,compression=uncompressed",
            f"--file={context.path / 'Dockerfile'}",
        ]  # fmt: skip
        if base.kind != "debs" and base.path is not None:
            argv.append(f"--build-context={plan.from_line}=oci-layout://{base.path.absolute()}@{base.digest}")
        env = {**os.environ, "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
        argv += self._options(env)

        def on_line(line: str) -> None:
            growing.look()
            _show(line, progress)

        try:
            done = self._runner([*argv, str(context.path)], env=env, on_line=on_line)
        except ProgramNotFound as error:
            raise EngineUnavailable("docker is not installed or not on the PATH", hint=HINT) from error
        if done.returncode != 0:
            reason = _reason(done)
            if str(target) in reason:
                raise OutputError(f"the image that BuildKit exports cannot be kept: {reason}")
            raise BuildFailed(f"BuildKit: {reason}")

    def _options(self, env: dict[str, str]) -> list[str]:
        """What the settings ask for; secret texts go into ``env``, where no list of processes shows them."""
        settings = self._settings
        argv = []
        if settings.network is not None:
            argv.append(f"--network={settings.network}")
        argv += [f"--build-context={name}={place}" for name, place in settings.contexts.items()]
        for number, (name, secret) in enumerate(settings.secrets.items()):
            if isinstance(secret, Path):
                argv.append(f"--secret=id={name},src={secret}")
            else:
                env[f"KBUILD_SECRET_{number}"] = secret
                argv.append(f"--secret=id={name},env=KBUILD_SECRET_{number}")
        # Predefined arguments: they are in no history and no cache key.
        return argv + [f"--build-arg={name}" for name in _PROXIES if name in env]


def _expected(context: BuildContext, base: ResolvedBase) -> int:
    """Bytes of an export, but for what the steps of the Dockerfile write."""
    layers = 0 if base.kind == "debs" or base.path is None else size_of(base.path, set())
    return size_of(context.path, set()) + _UNPACKED * layers


class _Growing:
    """Room for a file that another program writes: for as much as is expected, and where it grows larger for more.

    What of it is there already needs no room any more: it counts as the work folder's.
    """

    def __init__(self, path: Path, expected: int) -> None:
        self._path, self._reserved = path, expected
        self._room = ExitStack()

    def __enter__(self) -> _Growing:
        self._room.enter_context(room_for(self._path, self._reserved))
        return self

    def __exit__(self, *error: object) -> None:
        self._room.close()

    def look(self) -> None:
        """Look how large it is; raises CacheTooSmall."""
        with contextlib.suppress(FileNotFoundError):  # not begun yet
            size = self._path.stat().st_size
            if size > self._reserved:
                self._room.close()
                self._reserved = size + max(_AHEAD, size // 4)
                self._room.enter_context(room_for(self._path, self._reserved - size))


def _unpack(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as members:
        members.extractall(folder, filter="data")
    archive.unlink()


def _read_export(exported: Path, below: tuple[RawLayer, ...]) -> EngineOutput:
    """The exported image; its lowest layers are replaced by the base's own, which BuildKit may have rewritten."""
    try:
        image = layouts.find_manifest(exported)
        manifest = layouts.read_manifest(exported, image.digest)
        diff_ids, texts = layouts.read_history(exported, manifest)
        config = layouts.read_json_blob(exported, manifest.config.digest)
        kinds = [layer_compression(layer.media_type) for layer in manifest.layers]
    except (InvalidImage, ValueError) as error:
        raise BuildFailed(f"BuildKit exported an image that cannot be read: {error}") from error
    if len(manifest.layers) < len(below):
        raise BuildFailed(f"BuildKit exported {len(manifest.layers)} layers, its base image has {len(below)}")
    layers = [
        RawLayer(
            content=ExportedLayer(path=layouts.blob_path(exported, layer.digest), compression=kind),
            created_by=text.removesuffix(_HISTORY_MARK),
            diff_id=diff_id,
        )
        for layer, kind, text, diff_id in zip(manifest.layers, kinds, texts, diff_ids, strict=True)
    ]
    return EngineOutput(layers=(*below, *layers[len(below) :]), config=dict(config.get("config") or {}))


def _show(line: str, progress: Progress) -> None:
    match = _STEP.match(line)
    if match:
        progress.note(match[1])


def _reason(done: Completed) -> str:
    """One line: the error that ``docker buildx`` ends with, and the last words of the step that failed."""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR: ")]
    error = _ERROR.sub("", errors[-1]) if errors else last_line(done.stderr) or f"exit code {done.returncode}"
    said = [match[1] for line in lines if (match := _OUTPUT_LINE.match(line))]
    tail = [line for line in said[-2:] if line and line not in error]
    return f"{error} ({' | '.join(tail)})" if tail else error
