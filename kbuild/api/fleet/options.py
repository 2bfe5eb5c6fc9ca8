"""The options of a build as a job of a queue has them, and as its worker reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from kbuild.api.project import ProjectConfig
from kbuild.api.request import ImageOptions
from kbuild.errors import ConfigurationError
from kbuild.image.base.choice import parse_base
from kbuild.managers.conda_names import Names, read_names
from kbuild.plan.render import check_template_file, parse_template

# What decides the image and where it goes, with what each may be. All else is of the machine that builds.
_CARRIED: Mapping[str, tuple[type, ...]] = {
    "interpreter": (str,), "channels": (list,), "platform": (str, type(None)), "locked": (bool,),
    "allow_sdist": (bool,), "base": (str, type(None)), "allow_unsigned_base": (bool,),
    "template": (str, type(None)), "install_base": (str, type(None)), "labels": (list,), "slim": (bool,),
    "network": (str, type(None)), "compression": (str,), "engine": (str,), "tag": (str, type(None)),
    "push": (str, type(None)), "verify": (bool,), "verify_timeout": (float, int), "no_cache": (bool,),
    "verify_cache": (bool,), "cache_from": (str, type(None)), "cache_to": (str, type(None)),
}  # fmt: skip
# Of the worker's own project nothing of it counts.
UNSTATED: Mapping[str, Any] = {
    "base": None, "template": None, "channels": (), "labels": (), "slim": False, "tag": None, "compression": "zstd",
    "cache_from": None, "cache_to": None, "interpreter": "auto",
}  # fmt: skip
# Of the project alone, and no option.
_NAMES = "conda_names"
_NOT_CARRIED = {"lockfile": "--lockfile", "builders": "--builder", "output": "--output", "load": "--load"}


def carry_options(config: ProjectConfig, options: ImageOptions) -> dict[str, Any]:
    """The options as a job has them: with what the project says where they say nothing.

    Raises ConfigurationError for what only this machine could do, BaseImageError for what is no base.
    """
    for name, option in _NOT_CARRIED.items():
        if getattr(options, name):
            raise ConfigurationError(f"{option} is of this machine, and a worker builds elsewhere", hint="leave it out")
    if options.best is not None:
        raise ConfigurationError("--best names no model that could wait", hint="give the run that it takes")
    whole = replace(
        options,
        interpreter=options.interpreter or config.interpreter,
        channels=options.channels or config.channels,
        base=_base_anywhere(options.base or config.base),
        template=_template_anywhere(options.template or config.template),
        install_base=_base_anywhere(options.install_base),
        labels=(*(f"{key}={value}" for key, value in config.labels), *options.labels),
        slim=options.slim or config.slim,
        compression=options.compression or config.compression,
        tag=options.tag or config.tag,
        verify=config.verify if options.verify is None else options.verify,
        # Nothing, said so, is none.
        cache_from=config.cache_from if options.cache_from is None else options.cache_from,
        cache_to=config.cache_to if options.cache_to is None else options.cache_to,
    )
    carried = {name: list(value) if isinstance(value := getattr(whole, name), tuple) else value for name in _CARRIED}
    names = config.conda_names
    stated = read_names(names) if isinstance(names, Path) else names
    return {**carried, _NAMES: [list(pair) for pair in stated]} if stated else carried


def _base_anywhere(text: str | None) -> str | None:
    """A base as a process of another folder finds it."""
    path = None if text is None else parse_base(text).path
    return text if path is None else str(path.absolute())


def _template_anywhere(text: str | Path | None) -> str | None:
    template = parse_template(text)
    check_template_file(template)
    file = template.file
    stated = None if text is None else str(text)
    return stated if file is None else str(file.absolute())


def read_options(carried: Mapping[str, Any]) -> ImageOptions:
    """The options of a job; raises ConfigurationError for what are none."""
    for name, value in carried.items():
        if name == _NAMES:
            continue  # read_carried_names
        if not isinstance(value, _CARRIED.get(name, ())) or (
            isinstance(value, list) and not all(isinstance(each, str) for each in value)
        ):
            raise ConfigurationError(f"the job's option {name!r} is not one of this release, or not of its kind")
    stated: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in carried.items()}
    stated.pop(_NAMES, None)
    return ImageOptions(**stated)


def read_carried_names(carried: Mapping[str, Any]) -> Names:
    """The asking project's ``conda-names``, of a job's options; raises ConfigurationError for what are none."""
    names = carried.get(_NAMES, [])
    pairs = [tuple(each) if isinstance(each, list) else () for each in names] if isinstance(names, list) else [()]
    if not all(len(pair) == 2 and all(isinstance(name, str) and name for name in pair) for pair in pairs):
        raise ConfigurationError(f"the job's option {_NAMES!r} is not one of this release, or not of its kind")
    return tuple(sorted((str(conda), str(pip)) for conda, pip in pairs))


assert set(_CARRIED) <= {each.name for each in fields(ImageOptions)}  # noqa: S101
