"""What "IMAGE" means on the command line: a layout, a tar, an image built here or in a registry, or a model to be built
first."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kbuild.api.request import BuildOptions, make_image_request
from kbuild.api.session import Session, take_model
from kbuild.cache.room import room_for
from kbuild.cache.scratch import work_folder
from kbuild.errors import ImageNotFound, InvalidImage, InvalidReference, ModelNotFound, RegistryError
from kbuild.files import expand_home
from kbuild.image.engine import BuiltImage
from kbuild.image.oci.image_reference import ImageReference
from kbuild.image.oci.layout import is_layout
from kbuild.image.oci.validate import compare_blobs
from kbuild.image.store.image_index import BuiltIndex, find_index, index_in
from kbuild.image.store.listing import list_here
from kbuild.image.store.local import LocalImages
from kbuild.image.store.pack import image_in
from kbuild.platform import Platform
from kbuild.workflow import Delivery, Tools, build_image

if TYPE_CHECKING:
    from kbuild.image.registry.remote import RemoteImages

_PACKED: tuple[tuple[bytes, Literal["r:gz", "r:bz2", "r:xz"]], ...] = (
    (b"\x1f\x8b", "r:gz"),
    (b"BZh", "r:bz2"),
    (b"\xfd7zXZ", "r:xz"),
)
# Without a name 8 figures are enough: of these it is told what may be meant.
_CUT = re.compile(r"((?:[^@]+@)?)(sha256:(?:(?<=@sha256:)[0-9a-f]{0,63}|[0-9a-f]{0,7}))")
_WHOLE = "kbuild list --json has them whole; of an image built here sha256: and its first 8 figures do, without a name"
_MOST_UNPACKED = 20  # times the size of a tar
_DEEPEST = 16  # folders; a layout has two
REGISTRY_FORM = "one of a registry is named as kbuild image --push prints it: REGISTRY/NAME@sha256:…"


@contextmanager
def found_image(
    text: str | None, session: Session, platform: Platform | None = None
) -> Iterator[tuple[BuiltImage, ImageReference]]:
    """The image that ``text`` names and a name for it; a model is built with default options if it was not yet.

    Without a text it is that of the newest trained run.

    Of an image index it is the one for ``platform``, or for this machine.

    Raises ImageNotFound saying what was looked for, and whatever building raises.
    """
    tools = session.tools
    with nullcontext() if text is None else existing_image(text, tools, platform, whole=True) as found:
        if found is not None:
            yield found
            return
        try:
            model = take_model(text, session)
        except (InvalidReference, ModelNotFound) as error:
            if text is None:
                raise
            raise ImageNotFound(
                f"{text!r} is not an image built here, an OCI layout or tar, or a model, and names no image of a"
                " registry",
                hint=_image_meant(text, tools)
                or (error.hint if error.hint and "did you mean" in error.hint else None)
                or f"build one with: kbuild image; {REGISTRY_FORM}",
            ) from error
        result = build_image(
            make_image_request(
                session.config, model, options=BuildOptions(platform=None if platform is None else str(platform))
            ),
            Delivery(),
            tools,
        )
        yield result.image, ImageReference.parse(result.reference).with_tag(None)


def no_image(text: str, tools: Tools) -> ImageNotFound:
    """The error for a text that names no image, with the name of one that was built here and may be meant."""
    return ImageNotFound(
        f"{text!r} is neither an image built here nor an OCI layout or tar",
        hint=_image_meant(text, tools) or REGISTRY_FORM,
    )


def cut_digest(text: str, tools: Tools) -> ImageNotFound | None:
    """The error for a digest without its last figures, as lists show it; None for what ends with none."""
    match = _CUT.fullmatch(text)
    if match is None:
        return None
    name, short = match.groups()
    whole = LocalImages(tools.cache / "images").beginning_with(short)
    return ImageNotFound(
        f"the digest of {text!r} is cut: it has {len(short.partition(':')[2])} of 64 figures",
        hint=f"did you mean {name}{whole}?" if whole is not None else _WHOLE,
    )


def _image_meant(text: str, tools: Tools) -> str | None:
    here = list_here(tools.cache / "images")
    names = [name for image in here for name in image.names]
    if text.startswith("sha256:"):
        names = [str(image.digest)[: len(text)] for image in here]
    nearest = get_close_matches(text, names, n=1)
    return f"did you mean {nearest[0]}?" if nearest else None


@contextmanager
def existing_image(
    text: str, tools: Tools, platform: Platform | None = None, *, whole: bool = False
) -> Iterator[tuple[BuiltImage, ImageReference] | None]:
    """The layout, tar or image, built here or in a registry, that ``text`` names and a name for it, None where it names
    none of these. A registry is asked for what was not built here; its layers come when they are needed.

    Of an image index it is the one for ``platform``, or for this machine. With ``whole`` each blob of a layout is
    compared with its digest: what runs may be taken from what was unpacked here before, and not from there.
    """
    with _layout_at(text, tools) as layout:
        if layout is None:
            found = _local(text, tools, platform) or _remote(text, tools, platform)
            if found is None and (cut := cut_digest(text, tools)) is not None:
                raise cut
            yield found
        else:
            image = _in_layout(layout, tools, platform)
            if whole:
                compare_blobs(layout, image.digest)
            yield image, ImageReference.parse("kbuild-layout")


@contextmanager
def existing_index(text: str, tools: Tools) -> Iterator[BuiltIndex | None]:
    """The image index that ``text`` names in one of these ways, None where it names none."""
    with _layout_at(text, tools) as layout:
        yield _index_of(text, tools) if layout is None else _index_in(layout)


@contextmanager
def _layout_at(text: str, tools: Tools) -> Iterator[Path | None]:
    """The layout that lies at a path, or in a tar there; None where there is neither."""
    path = expand_home(text)
    if path.suffix == ".tar" and path.is_file():
        with _unpacked(path, tools) as layout:
            yield layout
    else:
        yield path if is_layout(path) else None


def _index_of(text: str, tools: Tools) -> BuiltIndex | None:
    reference = ImageReference.find(text)
    if reference is None:
        return None
    images = LocalImages(tools.cache / "images")
    found = images.index_by_reference(reference)
    if found is not None or images.by_reference(reference) is not None or not _is_of_a_registry(text, reference):
        return found
    with _asking(text), tools.phases("pull") as progress:
        return _registries(tools).index(reference, progress)


def _remote(text: str, tools: Tools, platform: Platform | None) -> tuple[BuiltImage, ImageReference] | None:
    """The image of a registry; None for what may be meant otherwise. Raises what the registry refuses."""
    reference = ImageReference.find(text)
    if reference is None or not _is_of_a_registry(text, reference):
        return None
    with _asking(text), tools.phases("pull") as progress:
        image = _registries(tools).find(reference, platform, progress)
    return image, reference.with_tag(reference.tag)


def _is_of_a_registry(text: str, reference: ImageReference) -> bool:
    """Whether a registry is to be asked: for a digest, and for a tag behind a registry's own name. A run id or a folder
    reads as an image's name too."""
    if expand_home(text).exists():
        return False
    return reference.digest is not None or (reference.tag is not None and text.startswith(f"{reference.registry}/"))


def _registries(tools: Tools) -> RemoteImages:
    from kbuild.image.registry.remote import RemoteImages  # Docker's SDK, for its credentials

    return RemoteImages(cache=tools.cache)


@contextmanager
def _asking(text: str) -> Iterator[None]:
    """Who named no registry meant, as everywhere, Docker's; they may as well mean an image that was built here once."""
    try:
        yield
    except RegistryError as error:
        if text.startswith(f"{ImageReference.parse(text).registry}/"):
            raise
        raise ImageNotFound(
            f"{text!r} is not an image built here, and Docker's registry does not give it: {error.message}",
            hint=REGISTRY_FORM,
        ) from error


def _index_in(layout: Path) -> BuiltIndex | None:
    digest = find_index(layout)
    return None if digest is None else index_in(layout, digest, engine="unknown")


def _in_layout(layout: Path, tools: Tools, platform: Platform | None) -> BuiltImage:
    image = image_in(layout, engine="unknown", platform=platform)
    return image if find_index(layout) is None else LocalImages(tools.cache / "images").alone(image)


def _local(text: str, tools: Tools, platform: Platform | None) -> tuple[BuiltImage, ImageReference] | None:
    images = LocalImages(tools.cache / "images")
    digest = images.beginning_with(text)
    image = None if digest is None else images.by_digest(digest, platform=platform)
    if image is not None:
        return image, ImageReference.parse("kbuild-image").with_digest(image.digest)
    reference = ImageReference.find(text)
    image = None if reference is None else images.by_reference(reference, platform=platform)
    return None if image is None or reference is None else (image, reference.with_tag(reference.tag))


def _members(archive: tarfile.TarFile, path: Path) -> Iterator[tarfile.TarInfo]:
    """The members, while they hold no more than a layout can: what is compressed in it hardly gets smaller again."""
    left = _MOST_UNPACKED * path.stat().st_size
    for member in archive:
        left -= member.size
        if left < 0 or member.issparse():
            raise InvalidImage(
                f"{path} is not a tar of an image layout: {member.name:.100} in it expands without bounds"
            )
        if member.name.count("/") > _DEEPEST:
            raise InvalidImage(f"{path} is not a tar of an image layout: {member.name:.100}… lies in too many folders")
        yield member


def _mode(path: Path) -> Literal["r:", "r:gz", "r:bz2", "r:xz"]:
    """How to open a tar, by what it begins with: who tries every way reads some files to their end in each."""
    with path.open("rb") as file:
        begin = file.read(6)
    return next((mode for sign, mode in _PACKED if begin.startswith(sign)), "r:")


@contextmanager
def _unpacked(path: Path, tools: Tools) -> Iterator[Path]:
    with work_folder(tools.cache, "tar-") as folder, room_for(folder, path.stat().st_size):
        try:
            with tarfile.open(path, _mode(path)) as archive:
                archive.extractall(folder, _members(archive, path), filter="data")
        except (tarfile.TarError, OSError) as error:
            raise InvalidImage(f"{path} is not a tar of an image layout: {error}") from error
        if not is_layout(folder):
            raise InvalidImage(f"{path} holds no OCI image layout")
        yield folder
