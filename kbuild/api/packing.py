"""A model as an archive, and tables scored by it."""

from __future__ import annotations

from pathlib import Path

from kbuild.api.request import BuildOptions, make_image_request
from kbuild.api.session import Session, open_session, take_model
from kbuild.workflow.batch.packing import PackResult, compression_of, pack_model


def pack(
    model: str | None = None,
    output: Path = Path("model.tar.gz"),
    options: BuildOptions | None = None,
    *,
    no_cache: bool = False,
    session: Session | None = None,
) -> PackResult:
    """Write interpreter, packages, code and model as one archive, which runs wherever it is unpacked.

    ``model`` is what ``build_image`` takes; the name of ``output`` ends with .tar.gz, .tar.zst or .tar. ``no_cache``
    packs again what was packed before. Raises what ``kbuild pack`` ends with.
    """
    compression_of(output)  # before anything is asked or fetched
    session = session or open_session()
    model = take_model(model, session.tools, session.config, session.voice)
    request = make_image_request(session.config, model, options=options)
    result = pack_model(request, session.tools, output=output, reuse=not no_cache)
    if result.reused:
        session.voice.say("nothing has changed since this was packed (--no-cache packs again)")
    return result
