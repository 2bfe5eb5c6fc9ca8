"""Conda packages that a wheel of the same project replaces: pip takes out what is there before it puts in its own."""

from __future__ import annotations

from collections.abc import Iterable

from packaging.utils import canonicalize_name

from kbuild.environment.lockfile import LockedPackage
from kbuild.managers.conda_names import pip_name


def find_replaced(packages: Iterable[LockedPackage]) -> dict[LockedPackage, LockedPackage]:
    """conda's package -> the wheel that takes its place, among the packages of one platform.

    By kbuild's own table of names alone, for what they decide is the image's: a project's ``conda-names`` do not.
    """
    packages = tuple(packages)
    wheels = {canonicalize_name(each.name): each for each in packages if each.manager == "pip"}
    conda = {canonicalize_name(pip_name(each.name)): each for each in packages if each.manager == "conda"}
    return {conda[name]: wheels[name] for name in sorted(conda.keys() & wheels.keys())}
