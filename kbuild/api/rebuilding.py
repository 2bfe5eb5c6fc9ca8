"""An image built once more from what it says, with nothing kept from before: a proof that others can repeat."""

from __future__ import annotations

import platform
import zlib
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import zstandard

from kbuild.api.find import existing_index, found_image
from kbuild.api.request import BuildOptions, make_image_request
from kbuild.api.session import Session, open_session
from kbuild.api.verifying import tell_untagged
from kbuild.cache.scratch import work_folder
from kbuild.digest import Digest
from kbuild.errors import BaseImageError, InvalidModel, PackedOtherwise, VerificationFailed
from kbuild.image.base.choice import parse_base
from kbuild.image.engine import BuiltImage
from kbuild.image.store.verdicts import Verdicts
from kbuild.model.bundle import read_bundle
from kbuild.offered.given import take_either
from kbuild.offered.shown import html_table
from kbuild.platform import Platform
from kbuild.progress import how_many
from kbuild.verify.rebuild import RebuildReport, carry_downloads, carry_pins, judge, read_claims
from kbuild.verify.verdict_tag import write_rebuild_verdict
from kbuild.workflow import Delivery, build_image


@dataclass(frozen=True, kw_only=True, slots=True)
class RebuildOptions:
    """How an image is built again.

    ``reuse_downloads`` takes packages from the cache, each compared with its sha256 again. ``model`` is the folder of
    the model, for an image of one that no run has; ``lockfile`` is the lock it was built with, where neither the run
    nor this machine keeps it. ``platform`` is whose image of an image index is meant, None those of all.
    """

    reuse_downloads: bool = False
    model: Path | None = None
    lockfile: Path | None = None
    platform: Platform | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Rebuilt:
    """``reports`` has that of each image: one, or of an image index one for each platform. ``image`` is a name for what
    was built again, ``digest`` its digest."""

    image: str
    digest: Digest
    reports: Mapping[Platform, RebuildReport]
    is_index: bool = False

    @property
    def same(self) -> bool:
        """Whether all have the digest that they had."""
        return all(each.same for each in self.reports.values())

    def to_json(self) -> dict[str, Any]:
        """As ``kbuild verify --rebuild --json`` prints it."""
        if not self.is_index:
            return {"name": self.image, **next(iter(self.reports.values())).to_json()}
        platforms = {str(platform): each.to_json() for platform, each in self.reports.items()}
        return {"name": self.image, "image": str(self.digest), "same": self.same, "platforms": platforms}

    def raise_for_verdict(self) -> None:
        """Raises VerificationFailed where one differs, else PackedOtherwise where one is compressed otherwise."""
        for each in self.reports.values():
            if each.verdict == "differs":
                raise VerificationFailed(
                    f"building {each.claims.model} again gives {each.diff.after}, not {each.diff.before}",
                    hint="what differs is printed; another version of kbuild's tools may explain it",
                )
        for each in self.reports.values():
            if each.verdict == "repacked":
                theirs, ours = (text or "a packer that it does not name" for text in each.packed_by)
                raise PackedOtherwise(
                    f"same content, packed otherwise by {theirs}: {each.diff.before}; here {ours} gives"
                    f" {each.diff.after}",
                    hint="every file, label and setting is equal; build it anew to have the digest that others get",
                )

    def _repr_html_(self) -> str:
        verdicts = {str(platform): each.verdict for platform, each in self.reports.items()}
        return html_table({"image": self.image, "digest": self.digest, **verdicts})


@take_either
def rebuild(
    image: str | None = None, options: RebuildOptions | None = None, *, session: Session | None = None
) -> Rebuilt:
    """Build an image again from what it says it was made from, with nothing kept from before, and compare.

    ``image`` is what ``kbuild run`` takes, None that of the newest trained run; of an image index every platform's is
    built. The model comes from the run that the image names, with the lock and the base that are stored there. The
    verdict is written to that run, and is in the result's ``reports``; its ``raise_for_verdict`` raises what the
    command ends with: VerificationFailed or PackedOtherwise. Raises what building raises, LockfileStale where there is
    no lock that fits, InvalidModel for the folder of another model, InvalidImage for one that kbuild did not build.
    """
    asked = options or RebuildOptions()
    session = session or open_session()
    tools = session.tools
    with (
        tools.using_cache(),
        nullcontext() if image is None or asked.platform is not None else existing_index(image, tools) as index,
    ):
        if index is not None:
            reports = {platform: _one(each, asked, session) for platform, each in index.images.items()}
            return Rebuilt(image=str(image), digest=index.digest, reports=reports, is_index=True)
        with found_image(image, session, asked.platform) as (built, reference):
            report = _one(built, asked, session)
            reports = {report.claims.platform: report}
            return Rebuilt(image=reference.familiar, digest=built.digest, reports=reports)


def _one(image: BuiltImage, options: RebuildOptions, session: Session) -> RebuildReport:
    report = _build_again(image, options, session)
    Verdicts(session.tools.cache / "images").write_rebuild(image.digest, report.verdict)
    untagged = write_rebuild_verdict(image, report.verdict, session.tools.store)
    if options.model is None:
        tell_untagged(session, untagged)
    return report


def _build_again(image: BuiltImage, options: RebuildOptions, session: Session) -> RebuildReport:
    """Build the image's model again in a clean cache, under the lock and on the base stored with its run."""
    tools, voice, model = session.tools, session.voice, options.model
    claims = read_claims(image, model=None if model is None else str(model.absolute()))
    if model is not None and (found := str(read_bundle(model).digest)) != claims.model_digest:
        raise InvalidModel(
            f"{model} is another model than the image's: its digest is {found}, not {claims.model_digest}",
            hint="give the folder that the image was built from, unchanged",
        )
    base = parse_base(claims.base).path
    if base is not None and not base.is_dir():
        raise BaseImageError(
            f"the image stands on the OCI layout {base.name}, and in this folder there is none of that name",
            hint="type the same in the folder where it lies, or copy it here",
        )
    with work_folder(tools.cache, "work-rebuild-", voice=voice) as clean:
        if options.reuse_downloads:
            with voice("check") as progress:
                progress.made(f"{how_many(carry_downloads(tools.cache, clean), 'package')} still have their sha256")
        kept = carry_pins(tools.cache, clean, claims) if model is not None else None
        asked = BuildOptions(
            platform=str(claims.platform),
            locked=True,
            base=claims.base,
            allow_unsigned_base=True,  # the digest that comes out proves more than who signed its package list
            compression=claims.compression,
            lockfile=options.lockfile or kept,
        )
        request = make_image_request(session.config, claims.model, "native", asked)
        # The very lock that the image names, even where today's channels or indexes would make another.
        lock = replace(request.lock, digest=claims.lock_digest)
        # What the project says today of labels and of what is left out is of other images.
        request = replace(request, lock=lock, labels=claims.labels, slim=False, left_out=claims.left_out)
        result = build_image(request, Delivery(record=False), replace(tools, cache=clean), reuse=False)
        versions = {
            "python": platform.python_version(),
            "kbuild": version("kbuild"),
            "zlib": zlib.ZLIB_RUNTIME_VERSION,
            "zstd": ".".join(map(str, zstandard.ZSTD_VERSION)),
        }
        with voice("compare") as progress:
            return judge(
                image,
                result.image,
                claims,
                progress,
                versions=versions,
                reused_downloads=options.reuse_downloads,
                seconds=dict(voice.seconds),
            )
