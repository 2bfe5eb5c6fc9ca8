"""Delivery: a built image is asked, gets its name, goes where it was asked to go, and the model's run is told."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from kbuild.digest import Digest
from kbuild.environment.lockfile import Lockfile
from kbuild.errors import (
    ContainerFailed,
    EngineUnavailable,
    InvalidImage,
    ModelNotTrusted,
    NothingToAsk,
    OutputError,
    RuntimeUnavailable,
    VerificationFailed,
)
from kbuild.files import READ_ONLY
from kbuild.image.deliver.naming import fill_name, name_values, names_version
from kbuild.image.engine import BuiltImage
from kbuild.image.oci.image_reference import ImageReference
from kbuild.image.store.image_index import BuiltIndex
from kbuild.image.store.local import LocalImages
from kbuild.image.store.verdicts import Verdicts
from kbuild.model.bundle import ModelBundle
from kbuild.model.model_reference import ModelReference
from kbuild.model.store import Written, write_tags
from kbuild.offered.shown import html_table
from kbuild.plan.build_plan import BuildPlan
from kbuild.platform import Platform, host_platform
from kbuild.progress import Progress, saying
from kbuild.tracking.image_tags import Tag
from kbuild.verify.verdict_tag import write_verdict
from kbuild.workflow.tools import Tools

PATIENCE = 300.0
"""Seconds for an image to get ready, and to answer: a large model on a busy machine is not a broken one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """Where the image goes besides the local images.

    ``tag`` and ``push`` are texts of references in which the placeholders of ``naming`` are filled in. ``record`` says
    whether the model's run is told: its tags, and the base that was used. With ``verify`` the image is
    started and asked before it goes anywhere. ``cache_to`` is given the layers that other builders may take. With
    ``once`` nothing is pushed where the registry has this very image by this name.
    """

    tag: str | None = None
    output: Path | None = None
    load: bool = False
    push: str | None = None
    record: bool = True
    verify: bool = False
    patience: float = PATIENCE
    cache_to: ImageReference | None = None
    once: bool = False

    def numbered(self, reference: ModelReference, bundle: ModelBundle, tools: Tools) -> ModelReference:
        """The registered version that training made of the model, where a name wants one and ``reference`` has none."""
        facts = bundle.facts
        known = reference.version is not None or facts.run_id is None or facts.uri is None
        if known or not (names_version(self.push) or names_version(self.tag)):
            return reference
        own = tools.store.versions(str(facts.run_id), str(facts.uri))
        # Under other names it may have been registered since, under its own twice: which is meant nobody knows.
        own = [each for each in own if each.rpartition("/")[0] == facts.name]
        return ModelReference.parse(f"models:/{own[0]}") if len(own) == 1 else reference

    def names(self, values: Mapping[str, str | None]) -> tuple[ImageReference | None, ImageReference | None]:
        """The references of ``push`` and ``tag`` for a model; raises InvalidReference where it lacks a value."""
        push = None if self.push is None else fill_name(self.push, values)
        return push, None if self.tag is None else fill_name(self.tag, values)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verified:
    """``verdict`` is passed, or answered where the model recorded nothing to compare with; None where it was not
    verified. ``reason`` says why not, of an index also of its other platforms. ``anew`` says that it was verified now
    and not by an earlier command, ``untagged`` why the run was not told then."""

    verdict: str | None = None
    reason: str | None = None
    anew: bool = False
    untagged: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageResult:
    """``reference`` is ``name@sha256:…``; ``layout`` is where the OCI layout lies.

    Built for several platforms, ``index`` has the image of each, ``reference`` and ``layout`` are the index's, and
    ``image`` and ``plan`` are this machine's platform's, or the first one's.
    ``lock_digest`` is that of the packages that ``image`` is made of, wherever they came from.
    ``named`` is the name that was asked for, such as churn:1, by which it is known here.
    ``pushed`` is the reference by digest that a registry now has; ``tagged`` says whether MLflow was told of the image,
    ``untagged`` why it was not, where it should have been.
    ``verified`` says how the image answered, if it was asked.
    ``yanked`` is a line for each release that its authors have withdrawn since, as far as it was asked.
    """

    image: BuiltImage
    reference: str
    layout: Path
    plan: BuildPlan
    model_digest: Digest
    lock_digest: Digest
    reused: bool
    pushed: str | None
    untagged: str | None
    tagged: bool
    verified: Verified | None = None
    yanked: tuple[str, ...] = ()
    index: BuiltIndex | None
    named: str | None = None

    @property
    def digest(self) -> Digest:
        """The digest in ``reference``: the index's where there is one, else the image's."""
        return self.image.digest if self.index is None else self.index.digest

    def _repr_html_(self) -> str:
        rows = {
            "image": self.reference,
            "size": f"{self.image.size / 1e6:.0f} MB",
            "engine": self.image.engine,
            "verified": None if self.verified is None else self.verified.verdict or self.verified.reason,
            "pushed": self.pushed,
            "model": self.model_digest,
            "lock": self.lock_digest,
        }
        return html_table({name: value for name, value in rows.items() if value is not None})


def verify_built(
    built: Mapping[Platform, BuiltImage],
    images: LocalImages,
    tools: Tools,
    delivery: Delivery,
    *,
    again: bool,
    look: Callable[[Progress], None],
) -> Verified:
    """Verify the image for this machine's platform, unless that was done here before and is not asked for ``again``.

    ``look`` is called before the model is loaded. Raises ModelNotTrusted for one that would do harm,
    VerificationFailed or ContainerFailed for an image that does not do what its model did; it stays among the local
    ones, and nobody else has it. What this machine lacks to run it is no fault of the image.
    """
    here = host_platform()
    others = ", ".join(str(platform) for platform in sorted(built) if platform != here)
    elsewhere = f"what is for {others}, since this machine is {here}" if others else None
    image = built.get(here)
    if image is None:
        return Verified(reason=elsewhere)
    known = None if again else Verdicts(images.root).read(image.digest)
    if known in ("passed", "answered"):
        return Verified(verdict=known, reason=elsewhere)
    from kbuild.verify.judging import NOTHING, judge_image

    untagged: list[str | None] = [None]

    def tell(verdict: str) -> None:
        if delivery.record:
            untagged.append(write_verdict(image, verdict, tools.store))

    name = shlex.quote(str(image.digest))
    try:
        if known == NOTHING:
            raise NothingToAsk("the model stores no input example")
        with tools.using_cache(), tools.phases("verify") as progress:
            look(progress)
            report = judge_image(
                image,
                tools.run,
                cache=tools.cache,
                timeout=delivery.patience,
                progress=progress,
                tell=tell,
                option="--verify-timeout",
            )
            progress.made(
                f"answers as the trained model did, {report.tolerance}"
                if report.compared
                else "it answers; the model recorded no prediction to compare with"
            )
    except NothingToAsk as error:
        return Verified(reason="; ".join(filter(None, (error.message, elsewhere))))
    except (RuntimeUnavailable, EngineUnavailable, InvalidImage, OutputError) as error:
        # InvalidImage is what Docker says that it does not take, a full disk of its own among the reasons.
        return Verified(reason="; ".join(filter(None, (error.message, elsewhere))))
    except (VerificationFailed, ContainerFailed) as error:
        hint = f"the image was given to nobody; kbuild run {name} starts it, --no-verify delivers it all the same"
        raise type(error)(error.message, hint=f"{error.hint}; {hint}" if error.hint else hint) from error
    except ModelNotTrusted as error:
        raise ModelNotTrusted(error.message, hint=f"{error.hint}; --no-verify builds the image unasked") from error
    return Verified(verdict=report.verdict, reason=elsewhere, anew=True, untagged=untagged[-1])


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """The images of one model, one a platform, with the plan of each; ``reused`` where all were there already."""

    bundle: ModelBundle
    reference: ModelReference
    lockfile: Lockfile
    images: Mapping[Platform, BuiltImage]
    plans: Mapping[Platform, BuildPlan]
    reused: bool


def deliver(built: Built, delivery: Delivery, tools: Tools) -> ImageResult:
    """Name the image, or the index of several, publish it where ``delivery`` says, and tag the model's run with it.

    Raises the error of the place that does not take it.
    """
    bundle, images, kept = built.bundle, built.images, LocalImages(tools.cache / "images")
    values = name_values(bundle, built.reference)
    push, tag = delivery.names(values)
    shown = host_platform() if host_platform() in images else min(images)
    image, plan = images[shown], built.plans[shown]
    index = kept.add_index(images) if len(images) > 1 else None
    whole = image if index is None else index
    for given in {str(each) for each in (push, tag) if each is not None}:
        tools.shared.claim(given, whole.digest)
    name = tag or push or ImageReference.parse(values["name"] or "model")
    if name != push:
        _name(whole, name, delivery, tools)
    pushed = None if push is None else push.with_digest(whole.digest).familiar
    if delivery.output is not None or delivery.load or push is not None:
        # Docker's SDK and requests take as long to import as the rest of a build that finds everything made.
        from kbuild.workflow.publishing import publish

        publish(
            image,
            name,
            index=index,
            output=delivery.output,
            load=delivery.load,
            push=push,
            base=plan.from_line,
            tools=tools,
            once=delivery.once,
        )
    if name == push:  # by which nobody finds what was not pushed
        _name(whole, name, delivery, tools)
    written = delivery.output if delivery.output is not None and delivery.output.is_dir() else whole.layout
    result = ImageResult(
        image=image,
        reference=name.with_digest(whole.digest).familiar,
        layout=written.absolute(),
        plan=plan,
        model_digest=bundle.digest,
        lock_digest=built.lockfile.packages_digest(shown),
        reused=built.reused,
        pushed=pushed,
        untagged=None,
        tagged=False,
        index=index,
        named=None if tag is None else tag.familiar,
    )
    written_tags = Written()
    if delivery.record:
        # A server may be far, and MLflow's client of a database is slow to start.
        with saying(tools.phases, "record", "telling MLflow of the image"):
            written_tags = write_tags(_tags(result), bundle.facts.run_id, bundle.facts.uri, tools.store)
    version = built.reference
    models = (f"{version.name}/{version.version}",) if version.kind == "registered" else written_tags.versions
    Verdicts(kept.root).add(whole.digest, pushed=() if push is None else (push.familiar,), models=models)
    refused = written_tags.refused
    return replace(result, untagged=refused, tagged=delivery.record and refused is None)


def _tags(result: ImageResult) -> dict[Tag, str]:
    """What the model's run is told."""
    return {
        Tag.IMAGE: result.reference,
        Tag.IMAGE_DIGEST: str(result.digest),
        Tag.IMAGE_SIZE: f"{result.image.size / 1e6:.0f} MB",
        Tag.MODEL_DIGEST: str(result.model_digest),
        Tag.LOCK_DIGEST: str(result.lock_digest),
        **({} if result.pushed is None else {Tag.PUSHED: result.pushed}),
    }


def _name(image: BuiltImage | BuiltIndex, name: ImageReference, delivery: Delivery, tools: Tools) -> None:
    try:
        LocalImages(tools.cache / "images").name(image, name)
    except OSError as error:
        elsewhere = delivery.output is not None or delivery.load or delivery.push is not None
        if not elsewhere or error.errno not in READ_ONLY:
            raise
        with tools.phases("cache") as progress:
            progress.tell(f"the cache may only be read: it does not know the image as {name}")
