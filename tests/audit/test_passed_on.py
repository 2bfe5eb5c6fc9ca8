"""Classes by the names that packages pass them on by, as configurations and some pickles name them."""

from __future__ import annotations

import inspect
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest
from disguised import call, named, whole

from kbuild.audit.checks.pickles import PickleCheck
from kbuild.audit.pickled.libraries import Libraries
from kbuild.audit.subject import Subject

PACKAGES = (
    "sklearn.linear_model", "sklearn.ensemble", "sklearn.preprocessing", "sklearn.tree", "sklearn.svm",
    "sklearn.cluster", "sklearn.impute", "xgboost", "networkx", "scipy.sparse",
)  # fmt: skip


@pytest.mark.parametrize("package", PACKAGES)
def test_a_class_is_data_by_either_name(package: str) -> None:
    """Where it is defined the imported class itself says."""
    # Of these xgboost is installed with the integration tests' packages.
    libraries, module = Libraries(), pytest.importorskip(package)
    classes = {
        name: each
        for name, each in vars(module).items()
        if inspect.isclass(each) and each.__module__.startswith(f"{package.partition('.')[0]}.") and name[0].isupper()
    }
    assert classes
    for name, each in classes.items():
        known = bool(libraries.is_data(each.__module__, each.__name__))
        opens = (each.__module__, each.__name__) == ("xgboost.core", "Booster")
        assert bool(libraries.is_data(package, name)) is (known and not opens), name


def of_wheel(folder: Path, source: str) -> Libraries:
    path = folder / "scikit_learn-1.9.9-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if len(source) > 1 << 20 else zipfile.ZIP_STORED) as archive:
        archive.writestr("sklearn/__init__.py", "")
        archive.writestr("sklearn/linear_model/__init__.py", source)
        archive.writestr("sklearn/linear_model/_ridge.py", "class Ridge:\n    pass\n")
    return Libraries(wheels=lambda name: path if name == "scikit-learn" else None)


@pytest.mark.parametrize(
    ("source", "known"),
    [
        ("from ._ridge import Ridge", True),
        ("from sklearn.linear_model._ridge import Ridge", True),
        ("from ..linear_model._ridge import *", True),
        ("try:\n    from ._ridge import Ridge\nexcept ImportError:\n    pass\n", True),
        ("from os import system as Ridge", False),
        ("from ._ridge import Other as Ridge", False),
        ("from ._ridge import Ridge\nfrom os import system as Ridge", False),
        ("from ._ridge import Ridge\nimport os as Ridge", False),
        ("from ._ridge import Ridge\nRidge = eval", False),
        ("from ._ridge import Ridge\ndef Ridge(x):\n    eval(x)", False),
        ("from . import *\nfrom .. import linear_model as Ridge", False),
        ("import sklearn.linear_model._ridge", False),
        ("from ....linear_model import Ridge", False),
        ("Ridge", False),
        ("(", False),
    ],
)
def test_only_what_comes_of_a_module_of_the_same_wheel_is_passed_on(tmp_path: Path, source: str, known: bool) -> None:
    libraries = of_wheel(tmp_path, source)
    assert libraries.is_data("sklearn.linear_model._ridge", "Ridge")
    assert libraries.is_data("sklearn.linear_model", "Ridge") is known


@pytest.mark.slow
@pytest.mark.parametrize("how", ["large", "damaged", "encrypted"])
def test_what_of_a_wheel_cannot_be_read_tells_of_no_class(tmp_path: Path, how: str) -> None:
    source = "class Ridge:\n    pass\n"
    libraries = of_wheel(tmp_path, source + "#" * (1 << 28 if how == "large" else 1000))
    path = tmp_path / "scikit_learn-1.9.9-py3-none-any.whl"
    data = path.read_bytes()
    if how == "damaged":
        path.write_bytes(data.replace(b"class Ridge", b"class Fudge", 1))
    elif how == "encrypted":  # the flag of a member (APPNOTE 4.4.4), where the directory has it
        at = data.index(b"PK\1\2") + 8
        while at > 8:
            data = data[:at] + b"\1" + data[at + 1 :]
            at = data.find(b"PK\1\2", at) + 8
        path.write_bytes(data)
    tracemalloc.start()
    assert libraries.is_data("sklearn.linear_model", "Ridge") in (False, None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20


def told(make_bundle: Any, **files: bytes) -> list[str]:
    bundle = make_bundle(files={name.replace("__", "."): each for name, each in files.items()})
    return [each.evidence for each in PickleCheck().run(Subject(reference="x", kind="model", bundle=bundle)).findings]


def test_configurations_and_pickles_may_name_what_packages_pass_on(make_bundle: Any) -> None:
    yaml = b"a:\n  _target_: sklearn.linear_model.Ridge\nb:\n  _target_: sklearn.pipeline.Pipeline\n"
    pickled = whole(named("sklearn.linear_model", "Ridge") + b")\x81}b")
    assert told(make_bundle, model__yaml=yaml, model__pkl=pickled) == []
    yaml = b"a:\n  _target_: sklearn.linear_model.os\nb:\n  _target_: sklearn.datasets.fetch_openml\n"
    assert len(told(make_bundle, model__yaml=yaml)) == 2


@pytest.mark.parametrize("opener", [("xgboost", "Booster"), ("lightgbm", "Booster"), ("lightgbm", "CVBooster")])
def test_what_opens_a_file_is_no_data_by_another_name(make_bundle: Any, opener: tuple[str, str]) -> None:
    assert told(make_bundle, model__pkl=whole(call(named(*opener), "/etc/passwd"))) != []


def test_a_constructor_counts_by_another_name_too(make_bundle: Any) -> None:
    evil = whole(call(named("sklearn.linear_model", "Ridge"), "x"))
    assert any("the constructor of sklearn.linear_model.Ridge" in each for each in told(make_bundle, model__pkl=evil))
