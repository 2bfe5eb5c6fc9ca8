from __future__ import annotations

import logging
import textwrap
from collections import OrderedDict
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from kedro.io import MemoryDataset

from kbuild.errors import RecordingError
from kbuild.recording.shipment import shipping
from kbuild.recording.shipment.shipping import find_blocked, plan_shipment, stage_code, tell_compiled
from kbuild.recording.shipment.tracing import find_pickled_modules, find_source, follow_imports


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / (name.replace("__in_", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))


def test_a_pickle_names_its_modules(package: ModuleType) -> None:
    modules = find_pickled_modules([package.fit, OrderedDict(a=logging.getLogger("x")), lambda: 1])
    assert {"tinyshop.functions", "collections", "logging"} <= modules
    assert "__main__" not in modules


def test_tables_and_models_name_their_libraries(package: ModuleType) -> None:
    from sklearn.linear_model import LinearRegression

    tops = {name.partition(".")[0] for name in find_pickled_modules([package.make_orders(), LinearRegression()])}
    assert {"pandas", "sklearn"} <= tops


def test_what_cannot_be_pickled_names_its_type() -> None:
    with Path("/dev/null").open(encoding="utf-8") as file:
        assert "_io" in find_pickled_modules(file)


def test_a_dataset_in_a_pickle_is_refused() -> None:
    with pytest.raises(RecordingError, match="Kedro dataset"):
        find_pickled_modules({"partition": MemoryDataset(1)})
    with pytest.raises(RecordingError, match="Kedro dataset"):
        find_pickled_modules({"partition": MemoryDataset(1).load})


def test_imports_are_followed_through_own_code_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(
        tmp_path,
        ownpkg__in___init__="import own_at_init",
        own_at_init="",
        ownpkg__in_used="""
            from __future__ import annotations
            import json
            from typing import TYPE_CHECKING
            from . import sibling
            from .deep.below import thing
            import numpy.linalg as la
            if TYPE_CHECKING:
                import never
            else:
                import fallback
            def later():
                from scipy import stats
            try:
                import optional
            except ImportError:
                optional = None
        """,
        ownpkg__in_sibling="",
        ownpkg__in_unused="import matplotlib",
        ownpkg__in_deep__in___init__="",
        ownpkg__in_deep__in_below="from ...ownpkg import sibling\nfrom .. import used\nthing = 1",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    reached = follow_imports(["ownpkg.used"], lambda top: top.startswith("own"))
    assert reached.own == {
        "ownpkg",
        "own_at_init",
        "ownpkg.used",
        "ownpkg.sibling",
        "ownpkg.deep",
        "ownpkg.deep.below",
    }
    tops = {name.partition(".")[0] for name in reached.foreign}
    assert {"json", "numpy", "scipy", "optional", "fallback"} <= tops
    assert not {"never", "matplotlib"} & tops


def test_code_that_does_not_parse_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, ownbroken="def (")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(RecordingError, match="module ownbroken cannot be read"):
        follow_imports(["ownbroken"], lambda top: top == "ownbroken")


def test_no_module_has_no_source() -> None:
    assert find_source("surely_not_there") is None
    assert find_source("surely.not.there") is None
    assert find_source("sys") is None


def test_own_code_travels_and_packages_are_pinned(package: ModuleType, tmp_path: Path) -> None:
    write(tmp_path / "src", beside="import sklearn")
    (tmp_path / "src" / "tinyshop" / "uses.py").write_text("import beside\nfrom tinyshop.functions import fit\n")
    shipment = plan_shipment(["tinyshop.uses"], "tinyshop")
    assert shipment.code == {
        "beside": tmp_path / "src" / "beside.py",
        "tinyshop": tmp_path / "src" / "tinyshop",
    }
    names = [requirement.name for requirement in shipment.requirements]
    assert names == ["cloudpickle", "mlflow", "pandas", "scikit-learn"]
    assert all(str(requirement.specifier).startswith("==") for requirement in shipment.requirements)


def test_what_is_not_reached_asks_for_no_package(package: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "src" / "tinyshop" / "reports.py").write_text("import matplotlib\n")
    names = {each.name for each in plan_shipment(["tinyshop.functions"], "tinyshop").requirements}
    assert "matplotlib" not in names


def test_the_project_package_travels_even_when_nothing_refers_to_it(package: ModuleType) -> None:
    assert "tinyshop" in plan_shipment([], "tinyshop").code


def test_a_module_of_nowhere_fails_loudly() -> None:
    with pytest.raises(RecordingError, match=r"refers to gone\.module, which the image would not have"):
        plan_shipment(["gone.module"], None)


def test_compiled_own_code_fails_loudly(package: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "src" / "tinyshop" / "fast.so").write_bytes(b"")
    with pytest.raises(RecordingError, match="'tinyshop' is installed from a folder and is compiled") as caught:
        plan_shipment(["tinyshop"], None)
    assert "PIP_FIND_LINKS" in str(caught.value.hint)
    # The project itself is not installed, and nobody publishes it.
    with pytest.raises(RecordingError, match=r"the project's own tinyshop/fast\.so is compiled") as caught:
        plan_shipment([], "tinyshop")
    assert "PIP_FIND_LINKS" in str(caught.value.hint)


def test_a_compiled_module_travels_as_the_source_beside_it(package: ModuleType, tmp_path: Path) -> None:
    """As mypyc and Cython leave it; Python itself prefers the compiled one (importlib's order of file finders)."""
    root = tmp_path / "src" / "tinyshop"
    (root / "fast.py").write_text("import yaml\n")
    compiled = root / f"fast{EXTENSION_SUFFIXES[0]}"
    compiled.write_bytes(b"")
    beside = root / f"fast__mypyc{EXTENSION_SUFFIXES[0]}"
    beside.write_bytes(b"")
    assert find_source("tinyshop.fast") == root / "fast.py"
    shipment = plan_shipment(["tinyshop.fast"], "tinyshop")
    assert "pyyaml" in {each.name for each in shipment.requirements}
    stage_code(shipment.code, tmp_path / "staged")
    assert {each.name for each in (tmp_path / "staged/tinyshop").iterdir()} >= {"fast.py", "functions.py"}
    assert not list((tmp_path / "staged").rglob("*.so"))
    (told,) = tell_compiled(shipment)
    assert told.endswith(f"run instead: tinyshop/{compiled.name}, tinyshop/{beside.name}")
    compiled.unlink()
    beside.unlink()
    assert tell_compiled(plan_shipment(["tinyshop.fast"], "tinyshop")) == []


def test_compiled_modules_that_hide_their_package_are_understood() -> None:
    from sklearn.ensemble import HistGradientBoostingRegressor

    model = HistGradientBoostingRegressor(max_iter=2).fit([[float(i)] for i in range(30)], list(range(30)))
    shipment = plan_shipment(find_pickled_modules(model), None)
    assert shipment.code == {}
    assert "scikit-learn" in {each.name for each in shipment.requirements}


def test_a_package_from_a_folder_travels_with_what_it_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, folderpkg__in___init__="import yaml")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(shipping, "find_owners", lambda: {**_owners, "folderpkg": ["folder-pkg"]})
    monkeypatch.setattr(shipping, "_is_local_name", lambda name: name == "folder-pkg")
    shipment = plan_shipment(["folderpkg"], None)
    assert shipment.code == {"folderpkg": tmp_path / "folderpkg"}
    assert "pyyaml" in {each.name for each in shipment.requirements}


_owners: dict[str, Any] = dict(shipping.find_owners())


def test_staged_code_has_no_bytecode_and_only_kbuild_own_part(package: ModuleType, tmp_path: Path) -> None:
    source = tmp_path / "src" / "tinyshop"
    (source / "__pycache__").mkdir(exist_ok=True)
    (source / "__pycache__" / "x.pyc").write_bytes(b"")
    (source / "words.txt").write_text("kept")
    paths = stage_code({"tinyshop": source}, tmp_path / "code")
    assert [Path(path).name for path in paths] == ["kbuild", "tinyshop"]
    staged = {str(path.relative_to(tmp_path / "code")) for path in (tmp_path / "code").rglob("*") if path.is_file()}
    assert {"tinyshop/__init__.py", "tinyshop/functions.py", "tinyshop/words.txt"} <= staged
    assert {
        "kbuild/__init__.py",
        "kbuild/errors.py",
        "kbuild/served/pipeline.py",
        "kbuild/training/pyfunc.py",
    } <= staged
    assert not [name for name in staged if "__pycache__" in name or name.startswith(("kbuild/cli", "kbuild/image"))]


def test_blocked_is_what_no_distribution_of_the_image_brings() -> None:
    blocked = find_blocked(["mlflow", "PyYAML"], ["tinyshop"])
    assert "kedro" in blocked
    assert "pytest" in blocked
    assert not {"mlflow", "yaml", "kbuild", "tinyshop"} & set(blocked)
