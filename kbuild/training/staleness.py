"""Which nodes a partial run leaves out that its model needs: without them the model would be of two trainings.

What lies upstream of all nodes that ran, or apart from them, may be taken from an earlier run. What lies between a
node that ran and an input of inference has to be made again, or the model mixes what is new with what was made of
something older. What a run makes and, of a version that was asked for, does not load is as old.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
    leads_to = _find_leads(binding)
    needed = {node.name for node in binding.training.nodes if any(_strip(each) in leads_to for each in node.outputs)}
    lacking = [node for node in left_out if node.name in needed]
    inputs: dict[str, tuple[str, ...]] = {}
    for node in lacking:
        before = tuple(dict.fromkeys(each for name in node.inputs for each in origins.get(_strip(name), ())))
        for end in sorted({end for output in node.outputs for end in leads_to.get(_strip(output), ())}):
            inputs[end] = tuple(dict.fromkeys((*inputs.get(end, ()), *before)))
    return Stale(nodes=tuple(node.name for node in lacking), inputs=inputs)


def _find_leads(binding: Binding) -> dict[str, set[str]]:
    """From each dataset of training to the inputs of inference that are it, or are made of it."""
    leads_to = {_strip(name): {name} for name in binding.made_names}
    for node in reversed(binding.training.nodes):
        ends = {end for output in node.outputs for end in leads_to.get(_strip(output), ())}
        for name in node.inputs if ends else ():
            leads_to.setdefault(_strip(name), set()).update(ends)
    return leads_to


def check_versions(binding: Binding, ran: Iterable[Node], find: Callable[[str], Any]) -> None:
    """Raise RecordingError where what these nodes make for the model is loaded of another version than they save.

    ``find`` gives the dataset of a name, None where there is none.
    """
    leads_to = _find_leads(binding)
    told = {}
    for node in ran:
        for name in node.outputs if node in binding.training.nodes else ():
            version: Any = getattr(find(name), "_version", None) if _strip(name) in leads_to else None
            loaded = getattr(version, "load", None)  # of a class of the user's the name may be anything
            if loaded is not None and loaded != version.save:
                told[name] = (node.name, loaded)
    if not told:
        return
    listed = ", ".join(f"{name!r} (by {node}) and loads its version {loaded}" for name, (node, loaded) in told.items())
    raise RecordingError(
        f"no model: this run makes {listed}, so the model would not be of what it makes",
        hint=f"leave {', '.join(told)} out of --load-versions, or run only the nodes that come after it: kedro run "
        f"--from-nodes=…; or run this without logging a model: {LOG_VARIABLE}=false kedro run …",
    )


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
