"""Every error kbuild raises on purpose: one class a cause, each with its exit code and a hint.

Exit codes are part of the interface (the README lists them). 0 is success, 1 an error nobody foresaw,
2 a command line that click refused; the tens group the floors.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path


class KbuildError(Exception):
    """What went wrong in one line, and in ``hint`` what to do next."""

    exit_code = 1
    default_hint: str | None = None

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint if hint is not None else self.default_hint

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.hint))


def _rebuild(kind: type[KbuildError], message: str, hint: str | None) -> KbuildError:
    return kind(message, hint=hint)


class UnexpectedError(KbuildError):
    """A defect of kbuild itself, shown as one line; ``KBUILD_DEBUG=1`` shows the traceback."""

    default_hint = "this is a defect in kbuild; run again with KBUILD_DEBUG=1 and report the traceback"


class ConfigurationError(KbuildError):
    """A configuration file, variable or option that cannot be used."""

    exit_code = 3


class ProgramNotFound(KbuildError):
    """A program that kbuild has to start is not installed."""

    exit_code = 4


class ExtraNotInstalled(KbuildError):
    """The build tools (the ``build`` extra) are not installed."""

    exit_code = 5
    default_hint = "pip install 'kbuild[build]'"


class EnvironmentUnfit(KbuildError):
    """``kbuild doctor`` found something that stops the work."""

    exit_code = 6


# Models: 10-19


class InvalidReference(KbuildError):
    """Text that is no model reference or no image reference."""

    exit_code = 10


class ModelNotFound(KbuildError):
    """No such run, registered model, version, alias or folder."""

    exit_code = 11


class RunWithoutModel(KbuildError):
    """The run exists, but logged no model."""

    exit_code = 12


class AmbiguousModel(KbuildError):
    """The run logged several models and the reference does not say which."""

    exit_code = 13


class TrackingUnavailable(KbuildError):
    """The MLflow tracking server does not answer."""

    exit_code = 14


class TrackingRefused(KbuildError):
    """The MLflow tracking server asks for credentials, or for permissions that these do not give."""

    exit_code = 19


class InvalidModel(KbuildError):
    """The files are no pyfunc model."""

    exit_code = 15


class PipelineMLError(KbuildError):
    """Training and inference pipelines that do not fit, or an operation that would lose the inference pipeline."""

    exit_code = 16


class RecordingError(KbuildError):
    """The model of a training run could not be logged whole."""

    exit_code = 17


class PredictionError(KbuildError):
    """A model that was asked in a way it cannot answer."""

    exit_code = 18


# Environments and locks: 20-29


class EnvironmentSpecError(KbuildError):
    """A conda.yaml or requirement that cannot be understood."""

    exit_code = 20


class PackageNotFound(KbuildError):
    """No channel or index has the package, or not that version."""

    exit_code = 21


class VersionConflict(KbuildError):
    """The constraints cannot all hold."""

    exit_code = 22


class SourceOnlyPackage(KbuildError):
    """A package for which only a source distribution exists."""

    exit_code = 23


class ResolverFailed(KbuildError):
    """conda-lock or its solver failed in a way that is none of the above."""

    exit_code = 24


class IndexUnavailable(KbuildError):
    """A channel, package index or mirror does not answer."""

    exit_code = 25


class LockfileInvalid(KbuildError):
    """A lockfile that is damaged or lacks urls or hashes."""

    exit_code = 26


class LockfileStale(KbuildError):
    """A lockfile made from other inputs."""

    exit_code = 27


class HashMismatch(KbuildError):
    """Downloaded bytes are not the locked bytes."""

    exit_code = 28


class InterpreterCaptureFailed(KbuildError):
    """The running interpreter cannot be packaged."""

    exit_code = 29


# Plans: 30-39


class TemplateError(KbuildError):
    """A Dockerfile template that does not parse or render."""

    exit_code = 30


class LabelError(KbuildError):
    """A label, tag or environment value that a Dockerfile or image cannot carry."""

    exit_code = 31


class UnsupportedInstruction(KbuildError):
    """The native engine cannot execute this Dockerfile instruction."""

    exit_code = 32
    default_hint = "build with --engine buildkit"


class BaseImageError(KbuildError):
    """A base image that cannot be found, assembled or used."""

    exit_code = 33


class PlatformError(KbuildError):
    """A platform that is unknown or that cannot be built here."""

    exit_code = 34


class BaseNotPinned(KbuildError):
    """With ``--locked``, a base image by a tag for which no digest is recorded: it could be another one each day."""

    exit_code = 35


class BytecodeMissing(KbuildError):
    """Python files that would be compiled again at every start of the image."""

    exit_code = 36
    default_hint = "the cache may be damaged: kbuild cache verify; then build with --no-cache"


# Images: 40-49


class EngineUnavailable(KbuildError):
    """The engine asked for does not run here."""

    exit_code = 40


class BuildFailed(KbuildError):
    """The engine started and failed."""

    exit_code = 41


class OutputError(KbuildError):
    """The output cannot be written: no space, no permission, or something in the way."""

    exit_code = 42


class RegistryError(KbuildError):
    """A registry refused or does not answer."""

    exit_code = 43


class InvalidImage(KbuildError):
    """Files that are no valid OCI image layout, or whose digests do not hold."""

    exit_code = 44


class RuntimeUnavailable(KbuildError):
    """Nothing here can run an image."""

    exit_code = 45


class ContainerFailed(KbuildError):
    """The image started and stopped, or never became ready."""

    exit_code = 46


class ImageNotFound(KbuildError):
    """No image of that name or digest here."""

    exit_code = 47


class CacheInUse(KbuildError):
    """Something is to be removed from the cache while another command works with it."""

    exit_code = 48
    default_hint = "wait for it, or stop it"


class CacheDamaged(KbuildError):
    """Files of the cache that are not what they were."""

    exit_code = 49
    default_hint = "kbuild cache verify --remove takes them out; they are made or fetched again when needed"


# Claims: 50-59


class VerificationFailed(KbuildError):
    """An image that does not do what its model did."""

    exit_code = 50


class AuditFindings(KbuildError):
    """The audit found something at or above the severity that fails."""

    exit_code = 51


class AuditIncomplete(KbuildError):
    """The audit could not check everything, so nothing is called clean."""

    exit_code = 52


# Triggers: 60-69


class TriggerFailed(KbuildError):
    """What was to follow a training run could not be started, or failed."""

    exit_code = 60


class SignatureRefused(KbuildError):
    """A webhook's body that its signature or its time does not vouch for."""

    exit_code = 61


class DeliveryFailed(KbuildError):
    """A receiver that does not answer or refuses; what it was to get is kept in the outbox."""

    exit_code = 62
    default_hint = "it is kept; send it again with: kbuild trigger --flush"


# Several at once: 70-79


class SomeFailed(KbuildError):
    """Some of several models have no image; the others have theirs."""

    exit_code = 70


_REMEDIES = {
    errno.ENOSPC: "make room there: kbuild cache prune, or a smaller {limit}; or set {variable} to a folder on a "
    "larger disk",
    errno.EDQUOT: "make room there: kbuild cache prune, or a smaller {limit}; or set {variable} to a folder without a "
    "quota",
    errno.EACCES: "set {variable} to a folder of your own, or let this user write there",
    errno.EPERM: "set {variable} to a folder of your own, or let this user write there",
    errno.EROFS: "set {variable} to a folder that can be written",
    errno.EEXIST: "move what is in the way, or set {variable} to another folder",
    errno.ENOTDIR: "move the file that is in the way, or set {variable} to another folder",
    errno.ENAMETOOLONG: "set {variable} to a folder with a shorter path",
    errno.EMFILE: "allow more open files: ulimit -n 4096",
    errno.ENFILE: "close other programs, or raise the system's limit: sysctl fs.file-max",
    errno.ESTALE: "mount the file system again, or set {variable} to a folder on a local disk",
    errno.EIO: "the disk fails: look at dmesg, or set {variable} to a folder on another disk",
}
"""What to do about an errno(3) of a folder that a variable names."""
_LONGEST = 200


def refused_by_system(error: OSError, *, cache: Path | None = None) -> OutputError:
    """What the kernel refused, as one line: which file, why, the variable that names its folder, and the remedy.

    ``cache`` is the cache in use; a path below it is KBUILD_CACHE_DIR's, one below the temporary folder TMPDIR's.
    """
    reason = (error.strerror or os.strerror(error.errno or 0)).rstrip(".")
    name = error.filename2 if error.filename2 is not None and error.errno != errno.ENOENT else error.filename
    path = "" if name is None or isinstance(name, int) else os.fsdecode(name)
    variable, where = None, ""
    temporary = os.path.abspath(os.environ.get("TMPDIR") or "/tmp")  # noqa: PTH100, S108  where tempfile looks first
    # Work folders lie in the cache; a full disk is mostly told by a write, which names no file.
    if cache is not None and (_is_below(path, str(cache)) or not path):
        variable, where = "KBUILD_CACHE_DIR", f"the cache {cache}"
    elif _is_below(path, temporary):
        variable, where = "TMPDIR", f"the temporary folder {temporary}"
    size = ""
    if variable == "KBUILD_CACHE_DIR" and error.errno in (errno.ENOSPC, errno.EDQUOT):
        size = f" (it holds {_bytes_in(str(cache)) / 1e9:.2f} GB)"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        where, size = "", ""
    file = "" if not path or path == str(cache) else f": {_short(path)}"
    message = f"{where}{size}: {reason}{file}" if where else f"{reason}{file}"
    remedy = _REMEDIES.get(error.errno or 0)
    if remedy is None:
        return OutputError(message, hint="check free disk space and permissions")
    if variable is None and "{variable}" in remedy:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = (
            "make room there: kbuild cache prune frees the cache's" if full else "choose another place, or mend this"
        )
    return OutputError(message, hint=remedy.format(variable=variable, limit="KBUILD_CACHE_LIMIT"))


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _bytes_in(folder: str) -> int:
    """Bytes on disk below a folder, what is linked twice counted once; what cannot be looked at counts nothing."""
    seen: dict[tuple[int, int], int] = {}
    for here, _, names in os.walk(folder):
        for each in names:
            with contextlib.suppress(OSError):
                status = os.lstat(f"{here}/{each}")
                seen[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(seen.values())


def _short(path: str) -> str:
    return path if len(path) <= _LONGEST else f"{path[:80]}…{path[-80:]}"


def known_error(error: Exception) -> KbuildError:
    """Any error as one of these: a missing package and what the system refused have a name, the rest is a defect."""
    if isinstance(error, KbuildError):
        return error
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("kbuild"):
        return ExtraNotInstalled(f"the Python package {error.name} is not installed")
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.errno is not None:
        return refused_by_system(error)
    return UnexpectedError(f"{type(error).__name__}: {text}")
