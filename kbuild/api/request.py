"""What a command's options and the project's configuration ask for together."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from kbuild.api.project import ProjectConfig
from kbuild.audit.policy import join_policies
from kbuild.environment.locking.wanted import LockRequest
from kbuild.errors import ConfigurationError, LabelError, OutputError
from kbuild.image.base.choice import Assembling, check_layout, parse_base
from kbuild.image.deliver.sharing import parse_place
from kbuild.image.oci.image_reference import ImageReference
from kbuild.image.oci.media import Compression
from kbuild.managers.conda_names import read_names
from kbuild.plan.render import check_template_file, parse_template
from kbuild.platform import Platform, host_platform
from kbuild.workflow import PATIENCE, Delivery, ImageRequest, check_name, check_push

# Endings of archives that a person may expect, and that a folder would not have.
_ARCHIVES = {".zip", ".gz", ".tgz", ".zst", ".xz", ".bz2", ".7z"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """What makes one run better than another."""

    metric: str
    lowest: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class LockOptions:
    """What ``lock_options`` read; by default what a command without them has."""

    interpreter: str | None = None
    channels: tuple[str, ...] = ()
    platform: str | None = None
    lockfile: Path | None = None
    locked: bool = False
    allow_sdist: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildOptions(LockOptions):
    """What ``build_options``, and where images are built ``builder_options``, ``compression_option`` and
    ``cache_options``, read."""

    base: str | None = None
    allow_unsigned_base: bool = False
    template: str | None = None
    install_base: str | None = None
    labels: tuple[str, ...] = ()
    slim: bool = False
    network: str | None = None
    builders: tuple[str, ...] = ()
    compression: Compression | None = None
    cache_from: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageOptions(BuildOptions):
    """What is built and where it goes, as ``kbuild image`` has it: what is None is the project's, or the default.

    ``engine`` is auto, native or buildkit; ``tag`` and ``push`` may have {name}, {version}, {run_id} and {model_id} in
    them. ``verify_timeout`` are the seconds for it to get ready, and to answer. ``best`` takes the best of the model's
    child runs. ``no_cache`` builds again what was built before. ``cache_from`` and ``cache_to`` name a repository
    in which builders share the layers of environments.
    """

    engine: str = "auto"
    tag: str | None = None
    output: Path | None = None
    load: bool = False
    push: str | None = None
    verify: bool | None = None
    verify_timeout: float = PATIENCE
    best: Measure | None = None
    no_cache: bool = False
    cache_to: str | None = None
    verify_cache: bool = False


def make_delivery(config: ProjectConfig, options: ImageOptions) -> Delivery:
    """Where the image goes; raises, before the work and not after it, InvalidReference for a name that none can be and
    OutputError for a file that is not written."""
    delivery = Delivery(
        tag=options.tag or config.tag,
        output=options.output,
        load=options.load,
        push=options.push,
        verify=config.verify if options.verify is None else options.verify,
        patience=options.verify_timeout,
        cache_to=_place(options.cache_to, config.cache_to, "--cache-to"),
    )
    if delivery.tag is not None:
        check_name(delivery.tag)
    if delivery.push is not None:
        check_push(delivery.push)
    if delivery.output is not None:
        _check_output(delivery.output)
    return delivery


def _check_output(path: Path) -> None:
    """Raises OutputError for the name of an archive that is not written: a folder of that name would be."""
    if path.suffix.lower() in _ARCHIVES and not path.is_dir():
        tar = path.with_name(path.name.partition(".")[0] + ".tar")
        raise OutputError(
            f"{path} would be a folder: images are written as an OCI layout folder, or as .tar",
            hint=f"--output {shlex.quote(str(tar))}",
        )


def make_lock_request(config: ProjectConfig, options: LockOptions) -> LockRequest:
    """What the options do not say is the configuration's."""
    policy = join_policies(config.audit)
    return LockRequest(
        allowed_indexes=policy.allowed_indexes,
        allowed_channels=policy.allowed_channels,
        platforms=Platform.parse_list(options.platform) if options.platform else (host_platform(),),
        interpreter=options.interpreter or config.interpreter,
        channels=options.channels or config.channels,
        lockfile=options.lockfile,
        locked=options.locked,
        allow_sdist=options.allow_sdist,
        names=read_names(config.conda_names) if isinstance(config.conda_names, Path) else config.conda_names,
    )


def make_image_request(
    config: ProjectConfig, model: str, engine: str = "auto", options: BuildOptions | None = None
) -> ImageRequest:
    """What the options do not say is the configuration's. A base or template that is none is told here, before a model
    is fetched for it: raises BaseImageError or TemplateError."""
    stated = options or BuildOptions()
    template = parse_template(stated.template or config.template)
    check_template_file(template)
    if stated.builders and engine == "native":
        raise ConfigurationError("--builder is of BuildKit, and --engine native asks none")
    lock = make_lock_request(config, stated)
    base = stated.base or config.base
    check_named_base(base)
    if stated.install_base is not None:
        parse_base(stated.install_base)
    return ImageRequest(
        model=model,
        lock=lock,
        engine="buildkit" if stated.builders else engine,
        builder=stated.builders[0] if stated.builders else None,
        network=stated.network,
        base=base,
        assembling=Assembling(debian_mirror=config.debian_mirror, allow_unsigned=stated.allow_unsigned_base),
        template=replace(template, install_base=stated.install_base),
        labels=(*config.labels, *map(parse_label, stated.labels)),
        slim=stated.slim or config.slim,
        compression=stated.compression or config.compression,
        cache_from=_place(stated.cache_from, config.cache_from, "--cache-from"),
    )


def check_named_base(text: str | None) -> None:
    """Raises BaseImageError for a text that names no base, or a folder that is no image layout; whether it is one for
    the platform, and whether a registry has what it names, is seen later."""
    path = None if text is None else parse_base(text).path
    if path is not None:
        check_layout(path)


def _place(stated: str | None, configured: str | None, option: str) -> ImageReference | None:
    text = configured if stated is None else stated
    return parse_place(text, option) if text else None


def parse_label(text: str) -> tuple[str, str]:
    """Read ``KEY=VALUE``; raises LabelError."""
    key, equals, value = text.partition("=")
    if not equals:
        raise LabelError(f"--label {text!r} is not KEY=VALUE")
    return key, value
