"""What loading a model does, looked at before this machine loads it, unless it was recorded here.

Of a model in an image that was not built here, the files are looked at that lie in the image, whatever it says of them.
What was found is kept by the model's digest, which model an image holds by the image's; both are vouched for. What
reads models and layers is imported where it is needed: most commands ask models that are known.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from kbuild.cache.notes import read_vouched, write_if_allowed
from kbuild.cache.recorded import is_recorded
from kbuild.cache.scratch import work_folder
from kbuild.digest import Digest, digest_file, digest_json
from kbuild.errors import ModelNotTrusted
from kbuild.files import mark_used
from kbuild.image.engine import BuiltImage
from kbuild.model.bundle import ModelBundle, read_bundle
from kbuild.progress import Progress, at_most
from kbuild.untrusted import parse_json

if TYPE_CHECKING:
    from kbuild.image.compare.contents import ImageContents

TRUST_VARIABLE = "KBUILD_TRUST_MODEL"
_LOCK_LABEL = "io.kbuild.lock.digest"
_SHOWN = 6  # names of packages in a line
_KEPT = 20  # findings of a model, of which a line shows one


@dataclass(frozen=True, kw_only=True, slots=True)
class Guard:
    """``cache`` keeps what was found, and the locked packages; ``trusted`` models are loaded whatever they do."""

    cache: Path
    trusted: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class _Loading:
    """``harm`` are critical findings, ``odd`` others and what was not looked into; ``pickles`` counts files, and
    ``imports`` are the packages that those name. ``loader`` is the module that MLflow calls, ``code`` the model's own.
    ``passing`` tells that something could not be looked into, which another time may be.
    """

    harm: tuple[str, ...]
    odd: tuple[str, ...]
    pickles: int
    imports: tuple[str, ...]
    loader: str
    code: tuple[str, ...]
    passing: bool = False


def check_model(bundle: ModelBundle, lock: bytes | None, guard: Guard, progress: Progress) -> None:
    """Look at a model that is about to be loaded, and tell what that will load; raises ModelNotTrusted.

    ``lock`` is its lockfile, by which it is known which classes its packages have.
    """
    if _is_known(bundle.digest, guard, progress):
        return
    progress.note("looking at what loading the model does")
    found = _look(bundle, lock, guard)
    if not found.passing:
        write_if_allowed(_note(guard, bundle.digest, _rules()), json.dumps(asdict(found)).encode())
    _judge(found, guard, progress)


def check_image(image: BuiltImage, guard: Guard, progress: Progress) -> None:
    """As ``check_model``, of an image that is about to be started, with the lock that it names where it is here.

    One without a model is told of. Raises InvalidImage for damaged layers, InvalidModel for what is no model.
    """
    try:
        model = Digest.parse(read_vouched(_note(guard, image.digest, "image")).decode())
    except (FileNotFoundError, ValueError):
        model = None
    if model is not None and _is_known(model, guard, progress):
        return
    from kbuild.image.compare.contents import model_path, read_config, read_contents
    from kbuild.image.compare.layers import read_members

    image.bring_all(progress)
    _, config = read_config(image.layout, image.digest)
    place = model_path(config)
    with work_folder(guard.cache, "audit-") as folder:
        contents = read_contents(
            image.layout,
            image.digest,
            folders=(place,),
            read=lambda blob, digest, media: read_members(blob, digest, media, lambda _: False),
            extract=(place, folder / "model"),
            progress=progress,
        )
        _refuse_links(contents, place, guard)
        if f"{place}/MLmodel" not in contents.files:
            progress.tell(f"the image was not built here and has no model in /{place}: what it starts is its own")
            return
        bundle = read_bundle(folder / "model")
        note_model_of(image.digest, bundle.digest, guard.cache)
        check_model(bundle, _find_lock(contents.labels.get(_LOCK_LABEL, ""), guard), guard, progress)


def _refuse_links(contents: ImageContents, place: str, guard: Guard) -> None:
    """What a link at, below or above the model's folder leads to is loaded for it, and was not looked into."""
    for layer in contents.layers:
        for member in layer.members:
            at = member.path
            if (
                member.kind == "link"
                and not guard.trusted
                and (f"{at}/".startswith(f"{place}/") or place.startswith(f"{at}/"))
            ):
                raise ModelNotTrusted(
                    f"the model is not loaded here: /{at} of the image is a link, which is not looked into",
                    hint=f"have the files themselves in it; {TRUST_VARIABLE}=1 loads it all the same",
                )


def note_model_of(image: Digest, model: Digest, cache: Path) -> None:
    """Keep which model an image holds, for who saw it being put in, or read it there."""
    write_if_allowed(_note(Guard(cache=cache, trusted=False), image, "image"), str(model).encode())


def _is_known(model: Digest, guard: Guard, progress: Progress) -> bool:
    """Whether nothing has to be looked at; raises ModelNotTrusted for what was seen before."""
    if is_recorded(model):
        return True
    note = _note(guard, model, _rules())
    try:
        value = parse_json(read_vouched(note))
    except FileNotFoundError:
        return False
    given: dict[str, Any] = {key: tuple(each) if isinstance(each, list) else each for key, each in value.items()}
    found = _Loading(**given)
    mark_used(note)
    _judge(found, guard, progress)
    return True


def _judge(found: _Loading, guard: Guard, progress: Progress) -> None:
    if found.harm and not guard.trusted:
        raise ModelNotTrusted(
            f"the model is not loaded here: {_one_of(found.harm)}",
            hint=f"find out who wrote it: kbuild audit tells all; {TRUST_VARIABLE}=1 loads it all the same",
        )
    loads = [f"code of its own ({at_most(found.code, _SHOWN)})"] if found.code else []
    loads += [f"{found.pickles} pickled files"] if found.pickles > 1 else ["a pickled file"] if found.pickles else []
    loads += [f"classes of {at_most(found.imports, _SHOWN)}"] if found.imports else []
    told = f"this machine did not record the model; {found.loader} loads {', '.join(loads) or 'no code and no pickle'}"
    odd = (*found.harm, *found.odd)
    progress.tell(f"{told}; {_one_of(odd)}" if odd else told)


def _look(bundle: ModelBundle, lock: bytes | None, guard: Guard) -> _Loading:
    from kbuild.audit.checks.pickles import PickleCheck
    from kbuild.audit.lockview import view_lock
    from kbuild.audit.subject import Subject

    check = PickleCheck(downloads=guard.cache / "downloads")
    view = None if lock is None else view_lock(lock, source="the lock")
    result = check.run(Subject(reference=str(bundle.root), kind="model", bundle=bundle, lock=view))
    unread = [f"{each.where} was not looked into: {each.reason}" for each in result.unchecked]
    code = {file.path.split("/")[1] for file in bundle.files if file.path.startswith("code/")}
    # A model that is code: MLflow runs the file of that name (mlflow/pyfunc/loaders/code_model.py), wherever it lay.
    stated = [each for each in bundle.facts.stated.values() if isinstance(each, dict)]
    code |= {PurePosixPath(str(each["model_code_path"])).name for each in stated if each.get("model_code_path")}
    return _Loading(
        harm=tuple(each.evidence for each in result.findings if each.severity == "critical")[:_KEPT],
        odd=tuple([*(each.evidence for each in result.findings if each.severity != "critical"), *unread][:_KEPT]),
        pickles=result.looked_at,
        imports=tuple(each for each in result.imports if each not in sys.stdlib_module_names | {"__builtin__"}),
        loader=bundle.facts.loader_module,
        code=tuple(sorted(name.removesuffix(".py") for name in code)),
        passing=bool(unread),
    )


def _find_lock(digest: str, guard: Guard) -> bytes | None:
    from kbuild.audit.lockview import view_lock
    from kbuild.environment.locking.kept import cached_locks

    contents = (path.read_bytes() for path in cached_locks(guard.cache))
    return next((each for each in contents if view_lock(each, source="a lock").is_named(digest)), None)


def _one_of(told: tuple[str, ...]) -> str:
    return told[0] + (f" (and {len(told) - 1} more)" if len(told) > 1 else "")


def _note(guard: Guard, of: Digest, kind: str) -> Path:
    return guard.cache / "loading" / digest_json([str(of), kind]).hex


@cache
def _rules() -> str:
    """What another version of the checks found says nothing of this one."""
    audit = Path(__file__).parents[1] / "audit"
    checks = [audit / "checks" / name for name in ("flavors.py", "pickles.py")]
    files = [Path(__file__), *checks, *sorted((audit / "pickled").glob("*.py"))]
    return str(digest_json([version("picklescan"), *(str(digest_file(path)) for path in files)]))
