"""Classes of libraries beside those that models are mostly of: which of them are data, and which are none."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from devised import pairs
from disguised import named, whole, word

from kbuild.audit.checks.pickles import PickleCheck
from kbuild.audit.pickled.libraries import Libraries
from kbuild.audit.subject import Subject


@pytest.fixture
def networkx() -> Any:
    """Imported here: it takes long, and other workers have no use for it."""
    import networkx

    return networkx


def told(make_bundle: Any, *data: bytes) -> list[str]:
    bundle = make_bundle(files={f"{number}.pkl": each for number, each in enumerate(data)})
    result = PickleCheck().run(Subject(reference="x", kind="model", bundle=bundle))
    assert result.unchecked == ()
    return [each.evidence for each in result.findings]


@pytest.mark.parametrize("kind", ["Graph", "DiGraph", "MultiGraph", "MultiDiGraph"])
def test_graphs_of_networkx_are_data(make_bundle: Any, networkx: Any, kind: str) -> None:
    graph = getattr(networkx, kind)([("a", "b"), ("b", "c")], name="roads")
    graph.nodes["a"]["weight"] = 1.5
    views = (graph.adj, graph.nodes, graph.edges, graph.degree, graph.subgraph(["a"]).copy())
    assert views[0]["a"] and networkx.is_graphical([1, 1])
    data = [pickle.dumps((graph, views), protocol) for protocol in (2, 4, 5)]
    assert pickle.loads(data[0])[0].nodes["a"] == {"weight": 1.5}
    assert told(make_bundle, *data) == []


def test_what_asks_a_graph_when_it_is_loaded_is_none_of_its_data(make_bundle: Any, networkx: Any) -> None:
    """A view of the edges' data calls methods of the graph that its state names (networkx/classes/reportviews.py)."""
    assert told(make_bundle, pickle.dumps(networkx.Graph([(1, 2)]).edges(data=True), 4)) == [
        "loading 0.pkl would import networkx.classes.reportviews.EdgeDataView, which is not known to make data"
    ]


def test_words_that_a_class_is_made_with_are_arguments(make_bundle: Any) -> None:
    """A graph's class imports the backend that ``backend`` names (networkx/classes/graph.py, ``__new__``)."""
    graph = named("networkx.classes.graph", "Graph")
    for backend in (pairs(backend=word("evil")), named("collections", "OrderedDict") + b")R"):
        found = told(make_bundle, whole(graph + b")" + backend + b"\x92"))
        assert any("the constructor of networkx.classes.graph.Graph" in each for each in found)
        older = told(make_bundle, whole(named("copyreg", "__newobj_ex__") + b"(" + graph + b")" + backend + b"tR"))
        assert any("the constructor of networkx.classes.graph.Graph" in each for each in older)
    assert told(make_bundle, whole(graph + b")}\x92")) == []
    assert told(make_bundle, whole(named("copyreg", "__newobj_ex__") + b"(" + graph + b")}tR")) == []


@pytest.mark.parametrize(
    ("distribution", "data", "others"),
    [
        (
            "imbalanced-learn",
            ["imblearn.pipeline", "imblearn.over_sampling._smote.base", "imblearn.base"],
            ["imblearn", "imblearn.utils._docstring", "imblearn.keras._generator", "imblearn.tests.test_base"],
        ),
        ("category_encoders", ["category_encoders.one_hot"], ["category_encoders.utils", "category_encoders.datasets"]),
        (
            "feature_engine",
            ["feature_engine.imputation.mean_median", "feature_engine.pipeline"],
            ["feature_engine._docstrings.substitute", "feature_engine.datasets.titanic"],
        ),
    ],
)
def test_steps_of_pipelines_are_data(distribution: str, data: list[str], others: list[str]) -> None:
    """imblearn's own module has a class that imports what its state names (``LazyLoader``)."""
    libraries = Libraries()
    libraries._files[distribution] = lambda place: b"class Step: ...\n"
    assert [libraries.is_data(module, "Step") for module in data] == [True] * len(data)
    assert [libraries.is_data(module, "Step") for module in others] == [False] * len(others)
    assert libraries.has_state_only(data[0], "Step")
