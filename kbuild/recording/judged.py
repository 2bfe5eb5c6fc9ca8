"""The answers to the example, compared: the pipeline's own, the saved model's, the clean process's."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from kbuild.answers import Tolerance, compare, compare_texts
from kbuild.errors import RecordingError
from kbuild.recording.around.system import is_assembled
from kbuild.recording.changes import advise_copies, warn_of
from kbuild.recording.clean_check import CleanAnswer
from kbuild.recording.example import is_chosen
from kbuild.recording.input.delivery import deliver, find_change
from kbuild.recording.saving import Draft, SavedAnswer

CHECK_OFF = "[tool.kbuild.training] check = false in pyproject.toml turns the check off"
_STATE_HINT = (
    "see that the inference pipeline uses no index of its rows, no state that lasts from call to call (a global, a "
    "counter), no clock and no chance without a seed; and that no node changes what it is given, or set copy_mode: "
    "'deepcopy' in kpm_kwargs, as Kedro's MemoryDataset copies"
)


class OtherThanInTraining(RecordingError):
    """What the clean process found, of which putting imports off might be the cause."""


def tell_open(answer: CleanAnswer, base: str | None = None) -> tuple[str, ...]:
    """What the check could not see, where the machine gives it no root of its own or the project's ``base`` is not of
    kbuild's making, and what an image needs besides."""
    told = []
    if not is_assembled(base):
        told.append(f"The check took this machine's C libraries for those of {base}, of which it does not know them")
    if answer.shut_off is not None:
        told.append(f"The check hid this machine's files from Python alone, not from C libraries: {answer.shut_off}")
    if answer.network:
        told.append(f"To predict, the model asks {', '.join(answer.network)}: its server must reach that too")
    return tuple(told)


def tell_columns(draft: Draft, asked: SavedAnswer | None) -> tuple[str, ...]:
    """Which columns of the input the pipeline reads, where it was seen not to read them all."""
    known = draft.example.known
    if asked is None or not asked.read or not isinstance(known, pd.DataFrame) or is_chosen(draft.log_model_kwargs):
        return ()
    if len(asked.read) == known.shape[1]:
        return ()
    return (
        f"The inference pipeline reads {len(asked.read)} of the {known.shape[1]} columns of {draft.model.input_name!r} "
        f"({', '.join(map(str, asked.read))}), and requests have to bring them all: "
        "log_model_kwargs={'signature': 'used'}, or training: {signature: used} in kbuild.yml, asks for those alone",
    )


def compare_own(draft: Draft, asked: SavedAnswer | None, tolerance: Tolerance) -> None:
    """The pipeline's own answer with that of the saved model to the request, and that with its second, if there is one.

    The first two are also two calls of the same nodes in one process: what they keep between calls shows.
    """
    if asked is None:
        return
    warn_of(asked.changes)
    fault = None if asked.again is None else compare_texts(asked.response, asked.again, tolerance).fault
    shared = sorted({change.dataset for change in asked.changes if change.shared})
    if fault is not None and shared:
        raise RecordingError(
            f"a prediction changes the next one: the inference pipeline changes {', '.join(shared)}: {fault}",
            hint=advise_copies(change for change in asked.changes if change.shared),
        )
    if fault is not None:
        raise RecordingError(f"the second prediction for the same example is not the first: {fault}", hint=_STATE_HINT)
    if draft.example.own is None:
        return
    own, served = json.loads(draft.example.own), json.loads(asked.response)
    if is_chosen(draft.log_model_kwargs):
        # Whoever writes a signature may well let whole numbers come as floats.
        own, served = (json.loads(text, parse_int=float) for text in (draft.example.own, asked.response))
    fault = compare(own, served, tolerance).fault
    if fault is None:
        return
    example = draft.example.input_example
    schema = None if draft.example.signature is None else draft.example.signature.inputs
    given = deliver(example[0] if isinstance(example, tuple) else example, schema, draft.model.form)
    change = find_change(draft.example.known, given)
    step = "" if change is None else f"; on its way {change}"
    hint = _STATE_HINT
    if change is None and draft.example.between:
        step = f"; in the catalog {'; '.join(draft.example.between.values())}"
        names = ", ".join(map(repr, draft.example.between))
        hint = (
            f"a served model hands {names} from node to node as it is: let the node that makes it give what the "
            "catalog gives back, or keep it in memory, or in a dataset that changes nothing (pickle.PickleDataset)"
        )
    if is_chosen(draft.log_model_kwargs):
        hint = "leave out signature and input_example in log_model_kwargs, or write them so that this stays as it is"
    elif asked.changes and change is None and not draft.example.between:
        hint = advise_copies(asked.changes)
    raise RecordingError(
        f"the saved model answers the example otherwise than the inference pipeline itself: {fault}{step}", hint=hint
    )


def advise(answer: CleanAnswer, shippable: str | None = None) -> str:
    """What to do about an error that the clean process met; ``shippable`` is what the project has of such a file."""
    if shippable is not None and answer.missing is None:
        return f"let {shippable} travel with the model, in conf/base/kbuild.yml: training: {{ship: [{shippable}]}}"
    if answer.file is not None and answer.missing is None:
        inside = "/code/" in answer.file
        where = "a place beside the code that travels" if inside else "this machine"
        return (
            f"{Path(answer.file).name} is read from {where}, where the image has no such file: put it into the "
            "project's package, or look for it by __file__ and name it in kbuild.yml (training: {ship: [...]}), or "
            "make it a dataset of the catalog and an input of the node"
        )
    if answer.kind in ("ConnectionRefusedError", "gaierror", "timeout", "TimeoutError", "ConnectionError"):
        return "a server of this machine is none of the image's: make what it tells a dataset of the catalog"
    if answer.kind == "KeyError":
        return "if that is a variable of this machine: the image does not set it, make it a parameter (params:...)"
    return "what it imports must be in the project's package or in a package that it names"


def compare_clean(asked: SavedAnswer | None, answer: CleanAnswer, tolerance: Tolerance) -> None:
    if asked is None or answer.response is None:
        return
    fault = compare_texts(asked.response, answer.response, tolerance).fault
    if fault is not None:
        raise OtherThanInTraining(
            f"in a clean process the model predicts something else than in training for the same example: {fault}",
            hint="see that the inference pipeline uses no state, clock or chance of its own, and asks for nothing of "
            "this machine: its files, programs, user, name, variables; an image has none of them",
        )
