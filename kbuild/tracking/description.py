"""What a run, its model and the model's versions say of the image, in Markdown that MLflow's pages show.

Made of the run's tags alone, so that every command which changes one writes it anew, and a build with nothing changed
nothing. It stands between two marks, and what a user writes around them stays.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

from kbuild.tracking.image_tags import Tag

NOTE = "mlflow.note.content"
"""The tag of a run, or of a logged model, that MLflow shows as its description."""

_BEGIN = "<!-- kbuild: this part is written anew with every image; what stands around it stays -->"
_END = "<!-- kbuild: end -->"
_FIRST = "Served by the image "
# The first line is before the mark: MLflow's lists show how a description begins, and not as Markdown.
_OURS = re.compile(rf"(?:{_FIRST}[^\n<]*)?{re.escape(_BEGIN)}.*?{re.escape(_END)}", re.DOTALL)
# What MLflow's databases have room for (``model_versions.description``, values of tags in its older ones).
_ROOM = 5000
_FIGURES = len("sha256:") + 12


def describe(present: str | None, tags: Mapping[str, str], model_uri: str | None) -> str | None:
    """A description with what ``tags``, a run's, say; None where it stays as it is.

    It does where no image is told of, and where the user's own text leaves no room.
    """
    if Tag.IMAGE not in tags or Tag.IMAGE_DIGEST not in tags:
        return None
    told = _make(tags, model_uri)
    text = present or ""
    parts = _OURS.split(text)
    if len(parts) > 1:
        # By what happened to it there may be several: the first place is kept.
        before, *after = map(_without_marks, parts)
        made = before + told + "".join(after)
    else:
        own = _without_marks(text).rstrip()
        made = f"{own}\n\n{told}" if own else told
    return None if made == text or len(made) > _ROOM else made


def _without_marks(text: str) -> str:
    return text.replace(_BEGIN, "").replace(_END, "")


def _make(tags: Mapping[str, str], model_uri: str | None) -> str:
    pushed = tags.get(Tag.PUSHED)
    shown = pushed if pushed is not None and pushed.endswith(tags[Tag.IMAGE_DIGEST]) else None
    image = shown or tags[Tag.IMAGE]
    size = f", {tags[Tag.IMAGE_SIZE]}" if Tag.IMAGE_SIZE in tags else ""
    rows = {
        "digest": f"`{tags[Tag.IMAGE_DIGEST]}`",
        # Of a model that was trained without kbuild there is no answer to compare with.
        "answers its example" if tags.get(Tag.VERIFY) == "answered" else "verified": _verdict(tags),
        "audit": _audit(tags),
        "packages": _code(tags.get(Tag.LOCK_DIGEST)),
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items() if value)
    # Long lines are cut where MLflow shows its assistant beside them.
    start = (
        f"docker run --rm -p 8080:8080 \\\n  {shlex.quote(shown)}"
        if shown
        else "# on the machine that built it; --push gives it to others\n"
        f"kbuild run --port 8080 {shlex.quote(_short(tags[Tag.IMAGE_DIGEST]))}"
    )
    steps = [start]
    if model_uri is not None:
        steps += [
            f"mlflow artifacts download -d . \\\n  -u {shlex.quote(f'{model_uri}/serving_input_example.json')}",
            "curl -H 'Content-Type: application/json' -d @serving_input_example.json \\\n"
            "  http://127.0.0.1:8080/invocations",
        ]
    commands = "\n".join(steps)
    parts = [
        f"{_FIRST}`{image.partition('@')[0]}`{size}. {_BEGIN}",
        f"| | |\n|---|---|\n{table}",
        f"Serve it; then, in another terminal, ask it with the model's own example:\n\n```sh\n{commands}\n```",
    ]
    if model_uri is not None:
        parts.append(
            "In the catalog of another pipeline:\n\n"
            "```yaml\nmodel:\n  type: kbuild.io.models.MlflowModelTrackingDataset\n  flavor: mlflow.pyfunc\n"
            f"  load_args: {{model_uri: {model_uri}}}\n```"
        )
    return "\n\n".join([*parts, _END])


def _code(text: str | None) -> str | None:
    return None if text is None else f"lock `{_short(text)}`"


def _short(digest: str) -> str:
    """As Docker shows digests: the whole one is among the tags, and two of them make the page wider than a window."""
    return digest[:_FIGURES]


def _verdict(tags: Mapping[str, str]) -> str | None:
    """How an image answered, with its digest where that is not the one that is told of."""
    verdict, of = tags.get(Tag.VERIFY), tags.get(Tag.VERIFIED_DIGEST)
    if verdict is None:
        return None
    told = "yes; what the trained model answers is not recorded" if verdict == "answered" else verdict
    return told if of in (None, tags[Tag.IMAGE_DIGEST]) else f"{told}, of `{of}`"


def _audit(tags: Mapping[str, str]) -> str | None:
    if Tag.AUDIT not in tags:
        return None
    date = f", {tags[Tag.AUDIT_DATE]}" if Tag.AUDIT_DATE in tags else ""
    # The file's digest, where the image's is of its packages: which of them it is true of is for the reader to see.
    lock = f", of the lock file `{_short(tags[Tag.AUDITED_LOCK])}`" if Tag.AUDITED_LOCK in tags else ""
    return f"{tags[Tag.AUDIT]}{date}{lock}"
