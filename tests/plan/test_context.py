import json
import os
from pathlib import Path

import pytest

from kbuild.errors import InvalidModel
from kbuild.plan.context import finish_context, stage_files, stage_runtime
from kbuild.plan.make import make_plan
from kbuild.plan.render import Template
from kbuild.plan.split import split_model


def files(root: Path) -> list[str]:
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())


def test_code_and_model_are_layers_of_their_own(bundle, tmp_path) -> None:
    split = split_model(bundle)
    assert {name: [file.path for file in found] for name, found in split.items()} == {
        "project": ["code/pkg/__init__.py"],
        "model": ["MLmodel", "artifacts/model.pkl"],
    }
    stage_files(bundle, split["model"], tmp_path / "context/model", move=False)
    assert files(tmp_path / "context/model") == ["opt/model/MLmodel", "opt/model/artifacts/model.pkl"]


@pytest.mark.parametrize("move", [True, False])
def test_modes_do_not_depend_on_the_umask_nor_on_the_source(bundle, tmp_path, move) -> None:
    (bundle.root / "MLmodel").chmod(0o600)
    model = tmp_path / "context/model"
    old = os.umask(0o077)
    try:
        stage_files(bundle, split_model(bundle)["model"], model, move=move)
    finally:
        os.umask(old)
    modes = {p.relative_to(model).as_posix(): p.stat().st_mode & 0o7777 for p in model.rglob("*")}
    assert modes["opt/model/MLmodel"] == 0o644
    assert modes["opt"] == modes["opt/model"] == modes["opt/model/artifacts"] == 0o755
    # Nobody's own model folder is changed; a copy that was fetched may be.
    assert ((bundle.root / "MLmodel").stat().st_mode & 0o777 == 0o600) is not move


@pytest.mark.parametrize("changed", [b"flavors: {x}", b"flavors: []", None])
def test_a_model_that_changes_while_it_is_built_is_refused(bundle, tmp_path, changed) -> None:
    path = bundle.root / "MLmodel"
    path.unlink()
    if changed is not None:
        path.write_bytes(changed)
    with pytest.raises(InvalidModel, match=r"MLmodel .*changed during the build"):
        stage_files(bundle, split_model(bundle)["model"], tmp_path / "context/model", move=False)


def test_the_runtime_is_what_serves_and_nothing_that_builds(tmp_path) -> None:
    stage_runtime(tmp_path)
    names = files(tmp_path)
    assert "opt/kbuild/kbuild/serving/__main__.py" in names
    assert "opt/kbuild/kbuild/training/pyfunc.py" in names
    assert "opt/kbuild/kbuild/served/pipeline.py" in names
    assert not [name for name in names if "/cli/" in name or "/image/" in name or "/recording/" in name]


def test_a_context_tells_where_each_layer_lies(ingredients, base, tmp_path) -> None:
    plan = make_plan(ingredients, (), Template())
    context = finish_context(tmp_path / "context", plan, {"base": (base.path,)})
    assert context.roots("base") == (base.path,)
    assert context.roots("model") == (tmp_path / "context/model",)
    assert (context.path / "Dockerfile").read_text() == plan.dockerfile
    assert json.loads((context.path / "plan.json").read_text()) == plan.to_json()
