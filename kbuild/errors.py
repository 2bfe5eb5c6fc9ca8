"""Every error kbuild raises on purpose: one class a cause, each with its exit code and a hint.

Exit codes are part of the interface (kbuild/docs/exit-codes.md lists them). 0 is success, 1 an error nobody foresaw,
2 a command line that click refused; the tens group the floors.
"""

from __future__ import annotations


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


class PreflightFailed(KbuildError):
    """What would fail a training at its end was found before it began."""

    exit_code = 8


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


class CompressorUnfit(KbuildError):
    """A compression library that writes other bytes than the one that every machine writes images with."""

    exit_code = 37


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


class CacheTooSmall(KbuildError):
    """What a command needs in the cache at once is more than the cache may hold."""

    exit_code = 7


class CacheDamaged(KbuildError):
    """Files of the cache that are not what they were."""

    exit_code = 49
    default_hint = "kbuild cache verify --remove takes them out; they are made or fetched again when needed"


# Claims: 50-59


class VerificationFailed(KbuildError):
    """An image that does not do what its model did."""

    exit_code = 50


class NothingToAsk(VerificationFailed):
    """A model that stores no example: its image starts, and that is all that can be seen."""


class AuditFindings(KbuildError):
    """The audit found something at or above the severity that fails."""

    exit_code = 51


class AuditIncomplete(KbuildError):
    """The audit could not check everything, so nothing is called clean."""

    exit_code = 52


class PackedOtherwise(KbuildError):
    """Built again, an image has the same content under another digest: another compressor packed it."""

    exit_code = 53


class ModelNotTrusted(KbuildError):
    """A model that this machine did not record, and whose loading is known to run or open something."""

    exit_code = 54


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


class QueueUnavailable(KbuildError):
    """The database of a queue does not answer, or refuses."""

    exit_code = 63


class JobNotFound(KbuildError):
    """No job of that number in the queue, or none that can be tried again or cancelled."""

    exit_code = 64
    default_hint = "kbuild queue list shows those that are there"


# Several at once: 70-79


class SomeFailed(KbuildError):
    """Some of several models have no image; the others have theirs."""

    exit_code = 70
