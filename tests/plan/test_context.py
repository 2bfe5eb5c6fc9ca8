import json
import os
from pathlib import Path

import pytest

from kbuild.digest import digest_bytes
from kbuild.errors import OutputError
from kbuild.plan.context import finish_context, stage_base, stage_model, stage_runtime
from kbuild.plan.make import make_plan
from kbuild.plan.render import Template
from kbuild.platform import Platform


def files(root: Path) -> list[str]:
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())


def test_code_and_model_are_staged_apart_at_their_image_paths(bundle, tmp_path) -> None:
    project, model = stage_model(bundle, tmp_path / "context")
    assert files(project) == ["opt/model/code/pkg/__init__.py"]
    assert files(model) == ["opt/model/MLmodel", "opt/model/artifacts/model.pkl"]


def test_modes_do_not_depend_on_the_umask_nor_on_the_source(bundle, tmp_path) -> None:
    (bundle.root / "MLmodel").chmod(0o600)
    old = os.umask(0o077)
    try:
        _, model = stage_model(bundle, tmp_path / "context")
    finally:
        os.umask(old)
    modes = {p.relative_to(model).as_posix(): p.stat().st_mode & 0o7777 for p in model.rglob("*")}
    assert modes["opt/model/MLmodel"] == 0o644
    assert modes["opt"] == modes["opt/model"] == modes["opt/model/artifacts"] == 0o755


def test_the_runtime_is_what_serves_and_nothing_that_builds(tmp_path) -> None:
    names = files(stage_runtime(tmp_path))
    assert "opt/kbuild/kbuild/serving/__main__.py" in names
    assert "opt/kbuild/kbuild/training/pyfunc.py" in names
    assert not [name for name in names if "/cli/" in name or "/image/" in name or name.endswith("workflow.py")]


def test_a_base_keeps_links_and_empty_directories(base, tmp_path) -> None:
    (base.path / "usr").mkdir()
    (base.path / "usr" / "file").write_text("x")
    (base.path / "lib").symlink_to("usr/lib")
    (base.path / "tmp").mkdir()
    (base.path / "tmp").chmod(0o1777)
    root = stage_base(base.path, tmp_path / "context")
    assert (root / "lib").readlink() == Path("usr/lib")
    assert (root / "tmp").stat().st_mode & 0o7777 == 0o1777
    assert (root / "usr" / "file").samefile(base.path / "usr" / "file")


def test_a_context_without_a_layer_of_the_plan_is_refused(bundle, lockfile, base, tmp_path) -> None:
    plan = make_plan(
        bundle,
        lockfile,
        base,
        platform=Platform("linux", "amd64"),
        runtime=digest_bytes(b""),
        recipe="1",
        template=Template(),
    )
    context = tmp_path / "context"
    stage_model(bundle, context)
    with pytest.raises(OutputError, match="no base, interpreter, dependencies, runtime"):
        finish_context(context, plan)
    for layer in plan.layers:
        (context / layer.source).mkdir(exist_ok=True)
    assert finish_context(context, plan).path == context
    assert (context / "Dockerfile").read_text() == plan.dockerfile
    assert json.loads((context / "plan.json").read_text()) == plan.to_json()
