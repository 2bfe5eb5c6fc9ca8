"""What is to be done for a registry to have its images: pure, from the versions and their tags alone.

No state of our own: what was built, under which name, and what failed stand in the versions' tags. So nothing is missed
however long nobody watched, and two that watch the same registry do the same.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from kbuild.errors import ConfigurationError, InvalidReference, KbuildError
from kbuild.image.deliver.naming import fill_name, make_values
from kbuild.image.oci.image_reference import ImageReference
from kbuild.model.find import RegisteredVersion
from kbuild.tracking.image_tags import Tag
from kbuild.workflow.fleet.failed import read_failed

_MOST_NAMED = 4500  # characters: MLflow takes 5000 of a tag


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """``push`` is a reference with placeholders; ``aliases`` and ``models`` are patterns as of file names, none of
    them are all. Versions that were registered before ``since``, in seconds since 1970, need an alias."""

    push: str | None = None
    aliases: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    since: float = 0.0

    def check(self) -> None:
        """Raises ConfigurationError for names that several versions would have."""
        if self.push is None:
            if self.aliases:
                raise ConfigurationError(
                    "--alias names tags of a registry", hint="--push registry.example/{name}:{version} says of which"
                )
            return
        fill_name(self.push, make_values(name="name", version="1", run_id="0", model_id="0"))
        if "{version}" not in self.push or "{name}" not in self.push or "_id}" in self.push:
            raise ConfigurationError(
                f"--push {self.push} does not tell registered versions apart by their names and numbers",
                hint="as --push registry.example/{name}:{version} does",
            )

    def takes(self, name: str) -> bool:
        """Whether the model of this name is watched."""
        return not self.models or any(fnmatch.fnmatchcase(name, pattern) for pattern in self.models)

    def followed(self, version: RegisteredVersion) -> list[str]:
        """Its aliases that name the image too."""
        if self.push is None:
            return []
        patterns = self.aliases or ("*",)
        return [each for each in version.aliases if any(fnmatch.fnmatchcase(each, pattern) for pattern in patterns)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Retag:
    """``target`` is to name the image that was pushed as ``source``, by digest."""

    version: RegisteredVersion
    alias: str
    source: ImageReference
    target: ImageReference


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """``builds`` in the order in which they are worth most; ``refused`` cannot be named; ``unnamed`` have their image,
    which one of their aliases cannot name; ``mended`` say they failed and have all they should; ``again`` is when the
    first failed one is tried again, in seconds since 1970."""

    builds: list[RegisteredVersion] = field(default_factory=list)
    retags: list[Retag] = field(default_factory=list)
    refused: list[tuple[RegisteredVersion, KbuildError]] = field(default_factory=list)
    unnamed: list[tuple[RegisteredVersion, str, KbuildError]] = field(default_factory=list)
    mended: list[RegisteredVersion] = field(default_factory=list)
    again: float | None = None


def find_wanted(versions: Sequence[RegisteredVersion], rules: Rules, *, now: float) -> Wanted:
    """What is to be built, retagged and told, of all versions of the models that are looked at."""
    builds: list[RegisteredVersion] = []
    retags: list[Retag] = []
    troubled: list[tuple[RegisteredVersion, KbuildError]] = []
    unnamed: list[tuple[RegisteredVersion, str, KbuildError]] = []
    owners: dict[str, RegisteredVersion] = {}
    watched = [each for each in versions if each.ready and each.version is not None and rules.takes(each.name)]
    built = []
    for version in watched:
        try:
            name = expected_name(version, rules)
            _claim(owners, name, version)
        except InvalidReference as error:
            troubled.append((version, error))
            continue
        if is_built(version, name):
            built.append(version)
        elif version.created >= rules.since or rules.followed(version):
            builds.append(version)
    for version in built:
        for alias in rules.followed(version):
            try:
                target = fill_name(str(rules.push), {**_values(version), "version": alias})
                _claim(owners, str(target), version)
                # Not PUSHED: that is whatever anybody pushed last, by another name or with other options.
                source = find_named(version, str(expected_name(version, rules)))
            except InvalidReference as error:
                unnamed.append((version, alias, error))
                continue
            if source is not None:
                retags.append(Retag(version=version, alias=alias, source=source, target=target))
    # What an alias waits for is about to serve; of the others the one that has waited longest.
    builds.sort(key=lambda each: (not rules.followed(each), each.created, each.name, int(each.version or 0)))
    waiting = [*builds, *(version for version, _ in troubled)]
    lacking = {str(version) for version, _, _ in unnamed}
    return Wanted(
        builds=[each for each in builds if _due(each, now)],
        retags=retags,
        refused=[(version, error) for version, error in troubled if _due(version, now)],
        unnamed=unnamed,
        mended=[each for each in built if Tag.ERROR in each.tags and str(each) not in lacking],
        again=min((when for each in waiting if (when := _again(each)) is not None and when > now), default=None),
    )


def _again(version: RegisteredVersion) -> float | None:
    failed = read_failed(version.tags)
    return 0.0 if failed is None else failed.again


def is_wanted(version: RegisteredVersion, rules: Rules, *, now: float) -> bool:
    """Whether a version that was to be built still is, by its tags of now."""
    return version.ready and not is_built(version, expected_name(version, rules)) and _due(version, now)


def _due(version: RegisteredVersion, now: float) -> bool:
    when = _again(version)
    return when is not None and when <= now


def expected_name(version: RegisteredVersion, rules: Rules) -> str | None:
    """What the version's image is pushed as; None where nothing is pushed. Raises InvalidReference."""
    return None if rules.push is None else str(fill_name(rules.push, _values(version)))


def is_built(version: RegisteredVersion, name: str | None) -> bool:
    """Whether the version has its image, under that name where it is pushed."""
    if name is None:
        return Tag.IMAGE_DIGEST in version.tags
    return find_named(version, name) is not None


def find_named(version: RegisteredVersion, name: str) -> ImageReference | None:
    """The image that a watch pushed by that name, by digest; None where there is none, or what is told is no image."""
    for text in version.tags.get(Tag.NAMED, "").split():
        if text.startswith(f"{name}@"):
            try:
                found = ImageReference.parse(text)
            except InvalidReference:
                return None
            return None if found.digest is None else found.with_digest(found.digest)
    return None


def add_named(told: str | None, name: str, digest: str) -> str:
    """NAMED with the image of that name; those of other names stay, which others that watch have pushed."""
    others = [text for text in (told or "").split() if "@" in text and not text.startswith(f"{name}@")]
    kept = [f"{name}@{digest}", *others]
    while len(kept) > 1 and len(" ".join(kept)) > _MOST_NAMED:
        kept.pop()
    return " ".join(kept)


def _values(version: RegisteredVersion) -> dict[str, str | None]:
    return make_values(name=version.name, version=version.version, run_id=None, model_id=None)


def _claim(owners: dict[str, RegisteredVersion], name: str | None, version: RegisteredVersion) -> None:
    """Raises InvalidReference where another version's image has the name, or its alias."""
    if name is None:
        return
    owner = owners.setdefault(name, version)
    if owner is not version:
        raise InvalidReference(
            f"{name} is what the image of {owner} is called",
            hint="rename one of them, or tell them apart with more placeholders of --push",
        )


def key_of(version: RegisteredVersion) -> tuple[str, str | None, float]:
    """What tells it from others: a name and number may be registered again."""
    return version.name, version.version, version.created


def with_tags(version: RegisteredVersion, tags: Mapping[str, str | None]) -> RegisteredVersion:
    """The version as it is with these tags; those of None are gone."""
    merged: dict[str, str | None] = {**version.tags, **tags}
    return replace(version, tags={key: value for key, value in merged.items() if value is not None})
