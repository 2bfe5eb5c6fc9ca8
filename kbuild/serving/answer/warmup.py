"""The first prediction, before anybody else's: on the model's own example, compared with what training recorded."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from kbuild.answers import compare_texts
from kbuild.serving.answer.model import ServedModel
from kbuild.serving.answer.reply import JSON
from kbuild.serving.watch.effects import EFFECTS
from kbuild.serving.watch.logs import LOGGER

_log = logging.getLogger(LOGGER)


def warm_up(model: ServedModel, then: Callable[[Sequence[str]], None] | None = None) -> bool:
    """Predict the example, then let what may wait until then begin. See ``predict_example``.

    Before that ``then`` is called with what the model did besides answering, its first time.
    """
    if then is None:
        same = predict_example(model)
    else:
        with EFFECTS.watch() as seen:
            same = predict_example(model)
        then(seen)
    if model.when_ready is not None:
        model.when_ready()
    return same


def predict_example(model: ServedModel) -> bool:
    """Whether the example was answered as recorded; True also where there is no example or no record.

    A difference or an error is logged, and the model served none the less, as MLflow's own server would.
    """
    if model.facts.example is None:
        return True
    begun = time.perf_counter()
    reply, short = model.answer(model.facts.example, JSON)
    fields = {"seconds": round(time.perf_counter() - begun, 3), "short_way": short}
    if reply.status != 200:
        text = reply.body.decode("utf-8", "replace")[:500]
        _log.error("the model fails on its own input example: %s", text, extra={"fields": fields})
        return False
    facts = model.facts
    fault = None if facts.recorded is None else compare_texts(facts.recorded, reply.body, facts.tolerance).fault
    if fault is not None:
        _log.warning("the model does not predict what it did in training: %s", fault, extra={"fields": fields})
        return False
    _log.info("the model predicted its input example", extra={"fields": fields})
    return True
