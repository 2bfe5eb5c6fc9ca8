"""``kbuild verify --rebuild``: an image built once more from what it says, with nothing kept from before."""

from __future__ import annotations

import platform
import zlib
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import zstandard

from kbuild.api.project import ProjectConfig
from kbuild.api.request import BuildOptions, make_image_request
from kbuild.api.session import Voice
from kbuild.cache.scratch import work_folder
from kbuild.errors import InvalidModel
from kbuild.image.engine import BuiltImage
from kbuild.model.bundle import read_bundle
from kbuild.verify.rebuild import RebuildReport, carry_downloads, carry_pins, judge, read_claims
from kbuild.workflow import Delivery, Tools, build_image


def rebuild(
    image: BuiltImage,
    tools: Tools,
    config: ProjectConfig,
    voice: Voice,
    *,
    reuse_downloads: bool,
    model: Path | None = None,
    lockfile: Path | None = None,
) -> RebuildReport:
    """Build the image's model again in a clean cache, under the lock and on the base stored with its run.

    Of a ``model`` that is a folder they are those that this machine keeps, or the ``lockfile`` that is given.
    Raises what building raises, LockfileStale where there is no lock that fits, InvalidModel for the folder of another
    model.
    """
    claims = read_claims(image, model=None if model is None else str(model.absolute()))
    if model is not None and (found := str(read_bundle(model).digest)) != claims.model_digest:
        raise InvalidModel(
            f"{model} is another model than the image's: its digest is {found}, not {claims.model_digest}",
            hint="give the folder that the image was built from, unchanged",
        )
    with work_folder(tools.cache, "work-rebuild-") as clean:
        if reuse_downloads:
            with voice("check") as progress:
                progress.tell(f"{carry_downloads(tools.cache, clean)} packages still have their sha256")
        kept = carry_pins(tools.cache, clean, claims) if model is not None else None
        options = BuildOptions(
            platform=str(claims.platform),
            locked=True,
            base=claims.base,
            allow_unsigned_base=True,  # the digest that comes out proves more than who signed its package list
            compression=claims.compression,
            lockfile=lockfile or kept,
            labels=tuple(f"{key}={value}" for key, value in claims.labels),
        )
        request = make_image_request(config, claims.model, "native", options)
        # The very lock that the image names, even where today's channels or indexes would make another.
        lock = replace(request.lock, digest=claims.lock_digest)
        request = replace(request, lock=lock, slim=False, left_out=claims.left_out)
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
                reused_downloads=reuse_downloads,
                seconds=dict(voice.seconds),
            )
