"""Bad input: one clear line that names the cause, its own exit code, no traceback, nothing half-written."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from engines import require
from tool import BIN, Done, Tool, Trained


def check(done: Done, code: int, *words: str) -> None:
    """The error's first line holds every word; a hint may follow, a traceback may not."""
    assert done.code == code, done.err
    assert done.out == ""
    assert "Traceback" not in done.err
    assert 1 <= len(done.error_lines) <= 2, done.err
    for word in words:
        assert word in done.error_lines[0], done.error_lines[0]


@pytest.fixture(scope="module")
def cache_before(tool: Tool, trained: Trained) -> set[str]:
    """Names in the cache before anything goes wrong."""
    return {path.name for path in tool.cache.iterdir()}


@pytest.fixture(autouse=True)
def nothing_is_left_behind(tool: Tool, cache_before: set[str], trained: Trained) -> Iterator[None]:
    """No scratch folder, no half image, no file in the project."""
    before = sorted(path.name for path in trained.folder.iterdir())
    yield
    assert not [path for path in tool.cache.iterdir() if path.name.startswith("work-")]
    assert not list(tool.cache.glob("images/.new-*"))
    assert sorted(path.name for path in trained.folder.iterdir()) == before


def model_asking_for(tmp_path: Path, *requirements: str) -> Path:
    """A model folder whose environment asks for these packages."""
    folder = tmp_path / "model"
    folder.mkdir()
    version = ".".join(map(str, __import__("sys").version_info[:3]))
    dependencies = [f"python={version}", "pip", {"pip": list(requirements)}]
    (folder / "conda.yaml").write_text(yaml.safe_dump({"channels": ["conda-forge"], "dependencies": dependencies}))
    flavor = {"env": {"conda": "conda.yaml"}, "loader_module": "mlflow.sklearn", "python_version": version}
    (folder / "MLmodel").write_text(yaml.safe_dump({"flavors": {"python_function": flavor}}))
    return folder


def test_unknown_run(tool: Tool, trained: Trained) -> None:
    check(tool("image", "f" * 32, cwd=trained.folder, code=None), 11, "f" * 32, "not found")


def test_run_without_a_model(tool: Tool, trained: Trained) -> None:
    code = "import mlflow; mlflow.set_tracking_uri('sqlite:///mlflow.db'); print(mlflow.start_run().info.run_id)"
    run_id = tool.run([BIN / "python", "-c", code], cwd=trained.folder).out.split()[-1]
    check(tool("image", run_id, cwd=trained.folder, code=None), 12, run_id, "logged no model")


def test_text_that_names_no_model(tool: Tool, trained: Trained) -> None:
    check(tool("image", "models:/churn@", cwd=trained.folder, code=None), 10, "models:/churn@")
    check(tool("image", "models:/churn", cwd=trained.folder, code=None), 11, "models:/churn")
    check(tool("image", "chrun", cwd=trained.folder, code=None), 11, "'chrun' names no model and no run")


def test_folder_without_a_store(tool: Tool, tmp_path: Path) -> None:
    check(tool("image", "f" * 32, cwd=tmp_path, code=None), 11, "no MLflow database")
    assert list(tmp_path.iterdir()) == []


def test_tracking_server_down(tool: Tool, trained: Trained) -> None:
    done = tool("image", trained.run_id, cwd=trained.folder, code=None, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    check(done, 14, "http://127.0.0.1:9", "does not answer")


def test_package_that_does_not_exist(tool: Tool, trained: Trained, tmp_path: Path) -> None:
    folder = model_asking_for(tmp_path, "no-such-package-of-kbuild==1.0")
    check(tool("lock", folder, cwd=tmp_path, code=None), 21, "no-such-package-of-kbuild")
    assert not (tmp_path / "conda-lock.yml").exists()


def test_version_conflict(tool: Tool, trained: Trained, tmp_path: Path) -> None:
    folder = model_asking_for(tmp_path, "pandas==2.2.3", "numpy==1.21.0")
    check(tool("lock", folder, cwd=tmp_path, code=None), 22, "numpy", "pandas")


def test_package_without_a_wheel(tool: Tool, trained: Trained, tmp_path: Path) -> None:
    folder = model_asking_for(tmp_path, "docopt==0.6.2")
    check(tool("lock", folder, cwd=tmp_path, code=None), 23, "docopt")


def test_git_requirement(tool: Tool, trained: Trained, tmp_path: Path) -> None:
    folder = model_asking_for(tmp_path, "thing @ git+https://git.example/thing.git")
    check(tool("lock", folder, cwd=tmp_path, code=None), 20, "thing")


@pytest.fixture
def lockfile(tool: Tool, trained: Trained, tmp_path: Path) -> Path:
    """The lock of the trained model, in a file of its own."""
    tool("lock", trained.run_id, "-o", tmp_path / "conda-lock.yml", cwd=trained.folder)
    return tmp_path / "conda-lock.yml"


def test_hash_mismatch_on_download(tool: Tool, trained: Trained, lockfile: Path, tmp_path: Path) -> None:
    lock = yaml.safe_load(lockfile.read_text(encoding="utf-8"))
    package = next(p for p in lock["package"] if p["name"] == "cloudpickle")
    package["hash"]["sha256"] = "0" * 64
    lockfile.write_text(yaml.safe_dump(lock), encoding="utf-8")
    done = tool("image", trained.run_id, "--lockfile", lockfile, cwd=trained.folder, code=None)
    check(done, 28, "cloudpickle", "0" * 64)


def test_stale_lockfile(tool: Tool, trained: Trained, lockfile: Path, tmp_path: Path) -> None:
    folder = model_asking_for(tmp_path, "six==1.17.0")
    done = tool("image", folder, "--lockfile", lockfile, cwd=trained.folder, code=None)
    check(done, 27, str(lockfile))
    assert "kbuild lock" in done.error_lines[1]
    check(tool("image", folder, "--locked", cwd=trained.folder, code=None), 27, "--locked")


def test_damaged_lockfile(tool: Tool, trained: Trained, lockfile: Path) -> None:
    lock = yaml.safe_load(lockfile.read_text(encoding="utf-8"))
    del lock["package"][3]["hash"]["sha256"]
    lockfile.write_text(yaml.safe_dump(lock), encoding="utf-8")
    done = tool("image", trained.run_id, "--lockfile", lockfile, cwd=trained.folder, code=None)
    check(done, 26, "package[3].hash.sha256")


def test_full_disk_in_the_output_folder(tool: Tool, trained: Trained, tmp_path: Path) -> None:
    require(os.geteuid() == 0, "a small file system can only be mounted by root")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", small], check=True)
    try:
        for output in ("layout", "image.tar", "context"):
            argv = ["render"] if output == "context" else ["image"]
            done = tool(*argv, trained.run_id, "-o", small / output, cwd=trained.folder, code=None)
            check(done, 42, str(small / output), "No space left")
            assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", small], check=True)


def test_output_in_the_way_of_something_else(tool: Tool, trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("keep")
    check(tool("image", trained.run_id, "-o", tmp_path / "mine", cwd=trained.folder, code=None), 42, "mine")
    assert (tmp_path / "mine" / "file").read_text() == "keep"


def test_no_docker_for_buildkit(tool: Tool, trained: Trained) -> None:
    done = tool("image", trained.run_id, "--engine", "buildkit", "--no-cache", cwd=trained.folder, code=None)
    check(done, 40, "Docker")


def test_no_docker_for_load(tool: Tool, trained: Trained) -> None:
    check(tool("image", trained.run_id, "--load", cwd=trained.folder, code=None), 40, "Docker")


def test_template_with_a_syntax_error(tool: Tool, trained: Trained, tmp_path: Path) -> None:
    template = tmp_path / "mine.j2"
    template.write_text("FROM x\n{% if %}\n")
    check(tool("image", trained.run_id, "--template", template, cwd=trained.folder, code=None), 30, "mine.j2, line 2")


def test_label_with_a_newline(tool: Tool, trained: Trained) -> None:
    check(tool("image", trained.run_id, "--label", "note=a\nb", cwd=trained.folder, code=None), 31, "note", "newline")


def test_registry_down(tool: Tool, trained: Trained) -> None:
    done = tool("image", trained.run_id, "--push", "127.0.0.1:9/a:1", cwd=trained.folder, code=None)
    check(done, 43, "127.0.0.1:9")


def test_base_that_is_nowhere(tool: Tool, trained: Trained, tmp_path: Path) -> None:
    check(tool("image", trained.run_id, "--base", "./nowhere", cwd=trained.folder, code=None), 33, "nowhere")


def test_unknown_platform(tool: Tool, trained: Trained) -> None:
    check(tool("image", trained.run_id, "--platform", "windows/amd64", cwd=trained.folder, code=None), 34, "windows")


def test_image_that_is_nowhere(tool: Tool, trained: Trained) -> None:
    check(tool("run", "nothing:1", cwd=trained.folder, code=None), 47, "nothing:1")
    check(tool("verify", "nothing:1", cwd=trained.folder, code=None), 47, "nothing:1")


def test_broken_project_configuration(tool: Tool, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.kbuild]\nbase = 3\n")
    check(tool("image", "f" * 32, cwd=tmp_path, code=None), 3, "base")
