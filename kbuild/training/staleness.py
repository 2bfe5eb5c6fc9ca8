"""Which nodes a partial run leaves out that its model needs: without them the model would be of two trainings.

What lies upstream of all nodes that ran, or apart from them, may be taken from an earlier run. What lies between a
node that ran and an input of inference has to be made again, or the model mixes what is new with what was made of
something older.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kbuild.errors import RecordingError
from kbuild.training.binding import Binding

if TYPE_CHECKING:
    from kedro.pipeline.node import Node

# The way to run a part of a pipeline alone.
LOG_VARIABLE = "KBUILD_LOG_MODEL"


@dataclass(frozen=True, kw_only=True, slots=True)
class Stale:
    """``nodes`` to add to a run, in the order they run; ``inputs`` of inference that they lead to, each with the nodes
    that ran before it."""

    nodes: tuple[str, ...]
    inputs: Mapping[str, tuple[str, ...]]


def find_stale(binding: Binding, ran: Iterable[Node]) -> Stale:
    """What a run of these nodes would have to run as well; nodes of other pipelines count among them."""
    ran = list(ran)
    names = {node.name for node in ran}
    # From each dataset that is new to the nodes that ran before it.
    origins: dict[str, tuple[str, ...]] = {}
    for node in ran:
        for output in node.outputs:
            origins[_strip(output)] = (node.name,)
    left_out = []
    for node in binding.training.nodes:
        found = tuple(dict.fromkeys(each for name in node.inputs for each in origins.get(_strip(name), ())))
        if node.name in names or not found:
            continue
        left_out.append(node)
        origins |= {_strip(output): found for output in node.outputs}
    wanted = {_strip(name): name for name in binding.made_names}
    needed: set[str] = set()
    leads_to = {name: {whole} for name, whole in wanted.items()}
    for node in reversed(binding.training.nodes):
        ends = {end for output in node.outputs for end in leads_to.get(_strip(output), ())}
        if ends:
            needed.add(node.name)
            for name in node.inputs:
                leads_to.setdefault(_strip(name), set()).update(ends)
    lacking = [node for node in left_out if node.name in needed]
    inputs: dict[str, tuple[str, ...]] = {}
    for node in lacking:
        before = tuple(dict.fromkeys(each for name in node.inputs for each in origins.get(_strip(name), ())))
        for end in sorted({end for output in node.outputs for end in leads_to.get(_strip(output), ())}):
            inputs[end] = tuple(dict.fromkeys((*inputs.get(end, ()), *before)))
    return Stale(nodes=tuple(node.name for node in lacking), inputs=inputs)


def check_fresh(binding: Binding, ran: Iterable[Node]) -> None:
    """Raise RecordingError that names the nodes to add, where a run of these nodes would give a model of two."""
    ran = list(ran)
    stale = find_stale(binding, ran)
    if not stale.nodes:
        return
    inputs = "; ".join(f"{name!r} is made after {', '.join(before)}" for name, before in sorted(stale.inputs.items()))
    ours = {node.name for node in binding.training.nodes}
    every = [node.name for node in ran if node.name in ours] + list(stale.nodes)
    order = [node.name for node in binding.training.nodes if node.name in every]
    raise RecordingError(
        f"no model: this run leaves out {', '.join(stale.nodes)}, so the model would mix what it makes with what an "
        f"earlier run made ({inputs})",
        hint=f"run them too: kedro run --nodes={','.join(order)}; or run this part without logging a model: "
        f"{LOG_VARIABLE}=false kedro run …",
    )


def _strip(name: str) -> str:
    return name.partition("@")[0]
