"""The pipelines that ``kedro run`` knows by name."""

from kedro.pipeline import Node, Pipeline

from ward.triage import ask, rank


def register_pipelines() -> dict[str, Pipeline]:
    """``triage``, which is also the default."""
    triage = Pipeline(
        [
            Node(ask, ["patients", "progression_model"], "answers", name="ask"),
            Node(rank, ["patients", "answers", "params:places"], "worklist", name="rank"),
        ]
    )
    return {"__default__": triage, "triage": triage}
