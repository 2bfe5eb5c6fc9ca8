"""What makes an image large: packages, or families of them such as ``nvidia-*``, whose wheels are large together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kbuild.environment.index.downloads import cached_package
from kbuild.environment.lockfile import LockedPackage
from kbuild.workflow.tools import Tools

_LARGE = 200_000_000
# How to do without, by the name of a package or of a family; for all others there is a general word.
_WITHOUT = {
    "nvidia": "a model that is served without a GPU needs none of it: train with a CPU build (torch 2.x+cpu of its "
    "own index, tensorflow-cpu, xgboost-cpu), or name what it needs in log_model_kwargs['pip_requirements']",
    "torch": "its CPU build (2.x+cpu, of its own index or a folder in PIP_FIND_LINKS) is a fraction of that",
    "tensorflow": "tensorflow-cpu is smaller",
}
_GENERAL = "--slim leaves out what the model never reads; or name what it needs in log_model_kwargs['pip_requirements']"


def tell_large(wheels: Sequence[LockedPackage], tools: Tools) -> None:
    """A note of what makes the image large, of the wheels that are still in the cache."""
    paths = {wheel.name: cached_package(wheel, tools.cache / "downloads") for wheel in wheels}
    told = large_packages({name: path.stat().st_size for name, path in paths.items() if path is not None})
    if told:
        with tools.phases("size") as progress:
            for line in told:
                progress.tell(line)


def large_packages(sizes: Mapping[str, int]) -> list[str]:
    """A line for each package or family over 200 MB, the largest first; ``sizes`` are bytes of wheels, by name."""
    families: dict[str, dict[str, int]] = {}
    for name, size in sizes.items():
        families.setdefault(name.partition("-")[0], {})[name] = size
    # A family counts as one where it is large together; else each of its packages counts for itself.
    told: list[tuple[int, str, str]] = []
    for family, members in families.items():
        total = sum(members.values())
        if len(members) > 1 and total > _LARGE and (family in _WITHOUT or max(members.values()) <= _LARGE):
            told.append((total, f"{family}-* ({len(members)} packages)", family))
        else:
            told += [(size, name, _key(name)) for name, size in members.items() if size > _LARGE]
    return [
        f"{what}: wheels of {size / 1e6:.0f} MB; {_WITHOUT.get(key, _GENERAL)}"
        for size, what, key in sorted(told, reverse=True)
    ]


def _key(name: str) -> str:
    """Of NVIDIA's packages the family counts, of all others the very name."""
    return "nvidia" if name.startswith("nvidia-") else name
