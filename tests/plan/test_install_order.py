"""The order of installing, beside the one of the pip that runs here."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from locked import package

from kbuild.plan.install_order import install_order

NAMES = ("able", "b-aker", "Charlie", "d.og", "easy", "fox", "george")
GRAPHS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=14)


def order_of_pip(edges: list[tuple[str, str]]) -> list[str]:
    from pip._internal.resolution.resolvelib.resolver import get_topological_weights
    from pip._vendor.packaging.utils import canonicalize_name
    from pip._vendor.resolvelib.structs import DirectedGraph

    graph: DirectedGraph[str | None] = DirectedGraph()
    for name in (None, *NAMES):
        graph.add(name)
    for name in NAMES:
        graph.connect(None, name)
    for one, other in edges:
        graph.connect(one, other)
    weights = get_topological_weights(graph, set(NAMES))
    return sorted(NAMES, key=lambda name: (weights[name], canonicalize_name(name)), reverse=True)


@pytest.mark.slow
@given(GRAPHS)
def test_it_is_pips(pairs: list[tuple[int, int]]) -> None:
    # Who needs whom has no circles.
    edges = sorted({(NAMES[max(pair)], NAMES[min(pair)]) for pair in pairs if pair[0] != pair[1]})
    packages = [package(name, *(needed for one, needed in edges if one == name)) for name in NAMES]
    assert [each.name for each in install_order(packages)] == order_of_pip(edges)


def test_packages_that_need_each_other_come_after_what_they_need() -> None:
    """pip's own page (installation order): a circle is broken at any point."""
    packages = [
        package("a", "b"),
        package("b", "a", "c"),
        package("c"),
        package("d", "a"),
        package("e", "e"),
    ]
    names = [each.name for each in install_order(packages)]
    assert names.index("c") < min(names.index("a"), names.index("b"))
    assert names.index("d") == len(names) - 1
    assert sorted(names) == ["a", "b", "c", "d", "e"]
