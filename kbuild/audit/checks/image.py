"""The image itself: config, layers and files compared with what must be there, and its digest with what is recorded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import SequenceMatcher
from typing import Any

from kbuild.audit.finding import CheckResult, Finding, Severity, Unchecked
from kbuild.audit.image_facts import ImageFacts
from kbuild.audit.image_layers import ImageLayer, LayerMember
from kbuild.audit.planned import Planned, PlannedLayer, flat_config
from kbuild.audit.subject import Subject
from kbuild.audit.surprises import Kind, surprises
from kbuild.progress import at_most

_SHOWN = 5
_REMEDY = "do not run it: build it again from the model and its lock (kbuild image --no-cache), and deliver that one"
_BUILT_HERE = (
    "base, interpreter and bytecode were taken as this machine built them; what makes them again and compares: "
    "kbuild verify --rebuild"
)
_COMPARED = ("kind", "mode", "owner", "link", "privileged")
# By the key of the image config (OCI image-spec config.md): the finding's id and how bad it is.
_KEYS: dict[str, tuple[str, Severity]] = {
    "Env": ("image-env", "critical"),
    "Entrypoint": ("image-entrypoint", "critical"),
    "Cmd": ("image-entrypoint", "critical"),
    "Shell": ("image-entrypoint", "critical"),
    "User": ("image-user", "high"),
    "ExposedPorts": ("image-port", "medium"),
    "Labels": ("image-label", "medium"),
    "Healthcheck": ("image-healthcheck", "high"),
    "architecture": ("image-platform", "high"),
    "os": ("image-platform", "high"),
}
# Variables by which a loader or an interpreter is told to execute something else.
_DANGEROUS = re.compile(r"LD_\w+|PYTHON\w*|PERL5\w+|GCONV_PATH|BASH_ENV|ENV|GLIBC_TUNABLES")
_OWN = frozenset({"PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "PYTHONNOUSERSITE"})
_UNSIGNED = "io.kbuild.base.unsigned"
_BASE_DIGEST = ".base.digest"
_PACKED_BY = "io.kbuild.packed-by"


class ImageCheck:
    """A ``Check`` of the image's config, layers and files."""

    id = "image"

    def run(self, subject: Subject) -> CheckResult:
        """See Check."""
        image = subject.image
        if image is None or image.config is None:
            return CheckResult(check=self.id)
        planned = subject.planned or Planned(fault="nothing is known of what it was made from")
        findings = [*_stated(image), *_made_from(planned), *_config(image, planned)]
        unchecked = list(_others(subject, image))
        if planned.layers is not None:
            findings += _layers(image, planned.layers)
            for layer in (each for each in planned.layers if each.other):
                evidence = f"it is not what the locked wheels hold: {at_most(layer.other, _SHOWN)}"
                findings.append(_finding("image-layer", "critical", f"layer {layer.name}", evidence))
        if not planned.whole:
            findings += _surprises(image, _unknown(image, planned.layers))
            if not planned.rebuilt or image.digest not in planned.recorded.values():
                unchecked.append(_unproved(subject, image, planned))
        # Of an image that is told to be another one, that its digest is another says nothing more.
        other = findings or str(image.model_digest) != image.labels.get("io.kbuild.model.digest")
        findings += [] if other or planned.whole else _digest(image, planned)
        return CheckResult(
            check=self.id,
            findings=tuple(findings),
            unchecked=tuple(unchecked),
            looked_at=len(image.layers) + 1,
            notes=tuple(_notes(image, planned, differs=bool(findings))),
        )


def _others(subject: Subject, image: ImageFacts) -> Iterator[Unchecked]:
    for other in image.others:
        yield Unchecked(
            check="image",
            where=f"image {other}",
            reason=f"{image.digest} was looked at, which is one of several images of that name",
            remedy=f"audit each: kbuild audit {subject.reference} --platform {other}",
        )


def _unproved(subject: Subject, image: ImageFacts, planned: Planned) -> Unchecked:
    lacking = [layer.name for layer in planned.layers or () if layer.diff_id is None]
    reason = planned.fault or f"nothing here tells which bytes these layers must be: {at_most(lacking, _SHOWN)}"
    name = subject.reference if subject.kind == "image" else f"IMAGE (of the digest {image.digest})"
    return Unchecked(
        check="image",
        where="image",
        reason=f"it cannot be compared with what it must be: {reason}",
        remedy=f"build it again and compare: kbuild verify --rebuild {name}",
    )


def _stated(image: ImageFacts) -> Iterator[Finding]:
    for number, layer in enumerate(image.layers):
        if layer.diff_id != layer.stated:
            evidence = f"its config says that layer {number} unpacks to {layer.stated}, it unpacks to {layer.diff_id}"
            yield _finding("image-diff-id", "critical", f"layer {number}", evidence)
    if image.beside:
        evidence = f"it has what no image of kbuild's has: {at_most(image.beside, _SHOWN)}"
        yield _finding("image-manifest", "medium", "manifest", evidence)


def _made_from(planned: Planned) -> Iterator[Finding]:
    if planned.other_base is not None:
        yield _finding("image-base", "critical", "base", planned.other_base)
    if planned.other_platform is not None:
        yield _finding("image-platform", "high", "platform", planned.other_platform)


def _config(image: ImageFacts, planned: Planned) -> Iterator[Finding]:
    if planned.config is None:
        yield from _dangerous(image, {})
        return
    wanted, found = dict(flat_config("", planned.config)), dict(flat_config("", image.config or {}))
    if planned.partial or planned.layers is None or not _is_in_place(image, planned.layers):
        wanted.pop("history", None)  # tells of every layer: told with the layers that are not the plan's
    names = [*wanted] if planned.partial else [*wanted, *(name for name in found if name not in wanted)]
    names = [name for name in names if name != "history" or "history" in wanted]
    differing = [name for name in names if wanted.get(name) != found.get(name)]
    if planned.other_base is not None:
        differing = [name for name in differing if not name.endswith(_BASE_DIGEST)]
    for name in differing:
        key, _, item = name.removeprefix("config.").partition(".")
        id, severity = _KEYS.get(key, ("image-config", "medium"))
        where = {"Env": f"env {item}", "Labels": f"label {item}"}.get(key, key.lower())
        evidence = f"it is {_value(found.get(name))}, by the plan it is {_value(wanted.get(name))}"
        yield _finding(id, severity, where, evidence)
    same = not any(name.startswith("config.Env.") for name in differing)
    if not planned.partial and same and _env(planned.config) != _env(image.config or {}):
        evidence = "its variables repeat each other, or are in another order than the plan's"
        yield _finding("image-env", "high", "env", evidence)
    if planned.partial:
        yield from _dangerous(image, wanted)
    labels = {name.removeprefix("config.Labels.") for name in differing}
    keys = {*planned.annotations, *image.annotations} - labels - {_PACKED_BY}
    for key in sorted(key for key in keys if planned.other_base is None or not key.endswith(_BASE_DIGEST)):
        if planned.annotations.get(key) != image.annotations.get(key):
            evidence = f"it is {_value(image.annotations.get(key))}, by the plan {_value(planned.annotations.get(key))}"
            yield _finding("image-annotation", "medium", f"annotation {key}", evidence)


def _env(config: Mapping[str, Any]) -> list[str]:
    return [str(each) for each in (config.get("config") or {}).get("Env") or ()]


def _is_in_place(image: ImageFacts, planned: tuple[PlannedLayer, ...]) -> bool:
    """Whether each layer stands where the plan has it, changed or not."""
    there = [layer.diff_id for layer in planned]
    return len(there) == len(image.layers) and not any(
        layer.diff_id in there and layer.diff_id != there[number] for number, layer in enumerate(image.layers)
    )


def _dangerous(image: ImageFacts, wanted: Mapping[str, str]) -> Iterator[Finding]:
    """Of an image whose plan is not known: variables that no image of kbuild's has, and no base should."""
    for name, value in flat_config("", image.config or {}):
        variable = name.removeprefix("config.Env.")
        if variable == name or name in wanted or variable in _OWN:
            continue
        if _DANGEROUS.fullmatch(variable):
            evidence = f"{variable}={value} tells loader or interpreter to execute something else"
            yield _finding("image-env", "critical", f"env {variable}", evidence)


def _layers(image: ImageFacts, planned: tuple[PlannedLayer, ...]) -> Iterator[Finding]:
    here = [str(layer.diff_id) for layer in image.layers]
    there = [f"{number}" if layer.diff_id is None else str(layer.diff_id) for number, layer in enumerate(planned)]
    if here != there and sorted(here) == sorted(there):
        order = ", ".join(planned[there.index(each)].name for each in here)
        yield _finding("image-layer", "critical", "layers", f"they lie on each other in another order: {order}")
        return
    found = {
        (number, member.path): kind
        for kind, member, number in _signs(image, {n for n, each in enumerate(here) if each not in there})
    }
    for kind, i1, i2, j1, j2 in SequenceMatcher(None, there, here, autojunk=False).get_opcodes():
        if kind == "equal":
            continue
        pairs = min(i2 - i1, j2 - j1)
        for i, j in zip(range(i1, i1 + pairs), range(j1, j1 + pairs), strict=True):
            if planned[i].diff_id is not None:
                yield _other_layer(planned[i], image.layers[j], {p: k for (n, p), k in found.items() if n == j})
        for i in range(i1 + pairs, i2):
            evidence = f"the plan's layer {planned[i].name} ({planned[i].diff_id}) is not in it"
            yield _finding("image-layer-missing", "critical", f"layer {planned[i].name}", evidence)
        for j in range(j1 + pairs, j2):
            signs = {p: k for (n, p), k in found.items() if n == j}
            told = [_told(member, "brings", signs) for member in image.layers[j].members if member.kind != "folder"]
            evidence = f"no layer of the plan: {at_most(_worst(told), _SHOWN) or 'it brings folders alone'}"
            yield _finding("image-layer-added", "critical", f"layer {j}", evidence)


def _unknown(image: ImageFacts, planned: tuple[PlannedLayer, ...] | None) -> set[int]:
    """The layers that stand where the plan has one of which nothing is known."""
    if planned is None:
        return set(range(len(image.layers)))
    if len(planned) != len(image.layers):
        return set()
    return {number for number, layer in enumerate(planned) if layer.diff_id is None}


def _signs(image: ImageFacts, looked: set[int]) -> Iterator[tuple[Kind, LayerMember, int]]:
    numbers = {id(member): number for number in looked for member in image.layers[number].members}
    for kind, member in surprises(image.layers, looked):
        yield kind, member, numbers[id(member)]


def _other_layer(planned: PlannedLayer, layer: ImageLayer, signs: Mapping[str, Kind]) -> Finding:
    where = f"layer {planned.name}"
    if planned.members is None:
        return _finding("image-layer", "critical", where, f"it is {layer.diff_id}, by the plan {planned.diff_id}")
    wanted, found = ({(m.path, "hidden" in m.kind): m for m in each} for each in (planned.members, layer.members))
    told = [_told(found[key], "added", signs) for key in found if key not in wanted]
    both = [key for key in found if key in wanted]
    told += [_told(found[key], what, signs) for key in both if (what := _what(wanted[key], found[key]))]
    told += [(1, f"gone: /{wanted[key].path}") for key in wanted if key not in found]
    evidence = f"it is not what the plan determines: {at_most(_worst(told), _SHOWN) or 'its tar is written otherwise'}"
    return _finding("image-layer", "critical", where, evidence)


def _what(wanted: LayerMember, found: LayerMember) -> str:
    names = [name for name in _COMPARED if getattr(wanted, name) != getattr(found, name)]
    names += ["content"] if wanted.kind == found.kind and wanted.digest != found.digest else []
    return f"changed in {' and '.join(names)}" if names else ""


def _told(member: LayerMember, what: str, signs: Mapping[str, Kind]) -> tuple[int, str]:
    """How much it says of itself, the less the more, and the words."""
    sign = signs.get(member.path)
    verb = "hides" if "hidden" in member.kind else what
    kind = f" ({member.kind} to {member.link})" if "link" in member.kind else ""
    return (0 if sign else 1, f"{verb}: /{member.path}{kind}" + (f", which {sign.meaning}" if sign else ""))


def _worst(told: Iterable[tuple[int, str]]) -> list[str]:
    return [text for _, text in sorted(told)]


def _surprises(image: ImageFacts, looked: set[int]) -> Iterator[Finding]:
    by_kind: dict[Kind, list[str]] = {}
    for kind, member in surprises(image.layers, looked, owned=image.brought):
        by_kind.setdefault(kind, []).append(f"/{member.path}")
    for kind, paths in by_kind.items():
        paths = sorted(set(paths))
        verb = f"{at_most(paths, _SHOWN)}: {'it' if len(paths) == 1 else 'each'} {kind.meaning}"
        yield _finding(kind.id, kind.severity, paths[0] if len(paths) == 1 else "image", verb)


def _digest(image: ImageFacts, planned: Planned) -> Iterator[Finding]:
    if planned.recorded and image.digest not in planned.recorded.values():
        stated = at_most([f"{tag} {digest}" for tag, digest in planned.recorded.items()], _SHOWN)
        yield _finding("image-digest", "high", "image", f"it is {image.digest}, the run of its model names {stated}")


def _notes(image: ImageFacts, planned: Planned, *, differs: bool) -> Iterator[str]:
    yield from [_BUILT_HERE] if planned.whole and not planned.rebuilt else []
    if planned.whole and planned.recorded and image.digest not in planned.recorded.values():
        others = at_most(sorted(set(planned.recorded.values())), _SHOWN)
        same = "" if differs else "it is what its plan determines, but "
        yield f"{same}the run of its model names {others}, not {image.digest}"


def _value(text: str | None) -> str:
    return "not set" if text is None else repr(text) if len(text) < 200 else f"{text[:200]!r}…"


def _finding(id: str, severity: Severity, where: str, evidence: str) -> Finding:
    return Finding(id=id, check="image", severity=severity, where=where, evidence=evidence, remedy=_REMEDY)


class BaseCheck:
    """A ``Check`` of what an image says of its own base: whether anybody's signature stood for its packages."""

    id = "base"

    def run(self, subject: Subject) -> CheckResult:
        """See Check."""
        if subject.image is None:
            return CheckResult(check=self.id)
        if _UNSIGNED not in subject.image.labels:
            return CheckResult(check=self.id, looked_at=1)
        finding = Finding(
            id="base-unsigned",
            check=self.id,
            severity="high",
            where="base",
            evidence="its packages were picked from lists whose signature was not checked (--allow-unsigned-base)",
            remedy="install gpgv and the distribution's keyring, remove its base from the run and build it again "
            "without that option, or name another --base",
        )
        return CheckResult(check=self.id, findings=(finding,), looked_at=1)
