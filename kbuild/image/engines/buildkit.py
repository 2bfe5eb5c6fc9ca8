"""The BuildKit engine: ``docker buildx build``, exported as an OCI image with uncompressed, time-free layers.

Options: docs.docker.com/reference/cli/docker/buildx/build and BuildKit's docs/build-repro.md (SOURCE_DATE_EPOCH,
``rewrite-timestamp``).
"""

from __future__ import annotations

import os
import re
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kbuild.errors import BuildFailed, EngineUnavailable, InvalidImage, OutputError, ProgramNotFound
from kbuild.image.base.layers import read_base
from kbuild.image.engine import (
    DEFAULT_SETTINGS,
    NOTHING_KNOWN,
    EngineOutput,
    EngineSettings,
    KnownLayers,
    RawLayer,
)
from kbuild.image.engines.times import stamp_times
from kbuild.image.oci import layout as layouts
from kbuild.image.oci.compress import read_layer
from kbuild.image.oci.media import Compression, layer_compression
from kbuild.plan.base import ResolvedBase
from kbuild.plan.build_plan import BuildContext
from kbuild.process import Completed, Runner
from kbuild.progress import Progress

_HISTORY_MARK = " # buildkit"
_HINT = "build with --engine native, or start Docker 25 or newer with its containerd image store"
_BUILDX_TIMEOUT = 30.0
_BUILDER_TIMEOUT = 120.0  # one in a cluster may have to be started
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

    def probe(self) -> str:
        """Versions of the daemon and of buildx.

        Raises EngineUnavailable saying what is missing: ``docker``, a daemon, buildx, the builder, or the daemon's
        containerd image store, without which it cannot export OCI images.
        """
        if self._settings.builder is not None:
            return self._probe_builder(self._settings.builder)
        server = self._ask(["docker", "version", "--format", "{{.Server.Version}}"], "no Docker daemon answers")
        buildx = self._buildx()
        driver = self._ask(["docker", "buildx", "inspect"], "docker buildx has no builder")
        if _fact(driver, "Driver") == "docker":
            self._require_store(["docker"], server)
        return f"Docker {server}, {buildx}"

    def _probe_builder(self, builder: str) -> str:
        buildx = self._buildx()
        facts = self._inspect(builder)
        driver, endpoint = _fact(facts, "Driver"), _fact(facts, "Endpoint")
        if driver == "docker":
            docker = ["docker", "--context", endpoint]
            server = self._ask([*docker, "version", "--format", "{{.Server.Version}}"], "no Docker daemon answers")
            self._require_store(docker, server)
        return f"builder {builder} ({driver}, {endpoint}), {buildx}"

    def _buildx(self) -> str:
        words = self._ask(["docker", "buildx", "version"], "docker has no buildx").split()
        return f"buildx {words[1] if len(words) > 1 else 'unknown'}"

    def _require_store(self, docker: list[str], server: str) -> None:
        store = self._ask([*docker, "info", "--format", "{{json .DriverStatus}}"], "no Docker daemon answers")
        if "io.containerd.snapshotter" not in store:
            raise EngineUnavailable(
                f"Docker {server} keeps images in its old store, which cannot export OCI images",
                hint='set {"features": {"containerd-snapshotter": true}} in daemon.json and restart Docker, '
                "or build with --engine native",
            )

    def build(
        self,
        context: BuildContext,
        base: ResolvedBase,
        *,
        workdir: Path,
        progress: Progress,
        known: KnownLayers = NOTHING_KNOWN,
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
            self._run(context, base, exported.with_suffix(".tar"), progress)
            _unpack(exported.with_suffix(".tar"), exported)
        except OSError as error:
            raise OutputError(f"the image that BuildKit exports cannot be kept in {workdir}: {error}") from error
        return _read_export(exported, below.layers)

    def _inspect(self, builder: str) -> str:
        """What buildx tells of the builder, once it runs: one that is there but stopped is started."""
        try:
            done = self._runner(["docker", "buildx", "inspect", "--bootstrap", builder], timeout=_BUILDER_TIMEOUT)
        except ProgramNotFound as error:
            raise EngineUnavailable("docker is not installed or not on the PATH", hint=_HINT) from error
        except TimeoutError as error:
            raise EngineUnavailable(f"builder {builder} does not answer within {_BUILDER_TIMEOUT:g} s") from error
        why = _fact(done.stdout, "Error")
        if done.returncode != 0:
            why = why or _last_line(done.stderr).removeprefix("ERROR: ")
        elif _fact(done.stdout, "Status") != "running":
            why = why or "it does not run"
        if why:
            names = ", ".join(self._builders()) or "none"
            raise EngineUnavailable(
                f"builder {builder} cannot be used: {why}", hint=f"docker buildx knows the builders {names}"
            )
        return done.stdout

    def _builders(self) -> list[str]:
        """The names in ``docker buildx ls``, a table whose nodes are indented below their builder."""
        listed = self._ask(["docker", "buildx", "ls"], "docker buildx lists no builders")
        lines = [line for line in listed.splitlines()[1:] if line.strip() and not line.startswith((" ", "\\"))]
        return [line.split()[0].rstrip("*") for line in lines]

    def _ask(self, argv: list[str], failure: str) -> str:
        try:
            done = self._runner(argv, timeout=_BUILDX_TIMEOUT)
        except ProgramNotFound as error:
            raise EngineUnavailable("docker is not installed or not on the PATH", hint=_HINT) from error
        except TimeoutError as error:
            raise EngineUnavailable(f"{failure} within {_BUILDX_TIMEOUT:g} s", hint=_HINT) from error
        if done.returncode != 0:
            said = _last_line(done.stderr)
            raise EngineUnavailable(f"{failure}: {said}" if said else failure, hint=_HINT)
        return done.stdout.strip()

    def _run(self, context: BuildContext, base: ResolvedBase, target: Path, progress: Progress) -> None:
        plan = context.plan
        argv = [
            *self._buildx_of_builder(), "build", "--progress=plain", "--provenance=false", "--sbom=false",
            f"--platform={plan.platform}", "--build-arg=SOURCE_DATE_EPOCH=0",
            f"--output=type=oci,dest={target},rewrite-timestamp=true,compression=uncompressed",
            f"--file={context.path / 'Dockerfile'}",
        ]  # fmt: skip
        if base.kind != "debs" and base.path is not None:
            argv.append(f"--build-context={plan.from_line}=oci-layout://{base.path.absolute()}@{base.digest}")
        env = {**os.environ, "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
        argv += self._options(env)
        try:
            done = self._runner([*argv, str(context.path)], env=env, on_line=lambda line: _show(line, progress))
        except ProgramNotFound as error:
            raise EngineUnavailable("docker is not installed or not on the PATH", hint=_HINT) from error
        if done.returncode != 0:
            reason = _reason(done)
            if str(target) in reason:
                raise OutputError(f"the image that BuildKit exports cannot be kept: {reason}")
            raise BuildFailed(f"BuildKit: {reason}")

    def _buildx_of_builder(self) -> list[str]:
        """buildx takes the builder that a Docker context has by itself only by way of that context."""
        builder = self._settings.builder
        if builder is None:
            return ["docker", "buildx"]
        facts = self._inspect(builder)
        if _fact(facts, "Driver") == "docker":
            return ["docker", "--context", _fact(facts, "Endpoint"), "buildx"]
        return ["docker", "buildx", "--builder", builder]

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
    error = _ERROR.sub("", errors[-1]) if errors else _last_line(done.stderr) or f"exit code {done.returncode}"
    said = [match[1] for line in lines if (match := _OUTPUT_LINE.match(line))]
    tail = [line for line in said[-2:] if line and line not in error]
    return f"{error} ({' | '.join(tail)})" if tail else error


def _fact(text: str, name: str) -> str:
    """A value of buildx's ``Name: value`` lines, the first of that name; empty where there is none."""
    match = re.search(rf"^{name}:[ \t]*(.*)$", text, re.M)
    return match[1].strip() if match else ""


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
