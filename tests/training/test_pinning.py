from __future__ import annotations

import platform
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement

from kbuild.environment.spec import EnvironmentSpec, ModelEnvironment, make_spec
from kbuild.errors import RecordingError
from kbuild.recording.shipment import closure as closure_module
from kbuild.recording.shipment.closure import find_closure, find_owners, is_in_no_index, pin
from kbuild.recording.shipment.given import read_conda_env
from kbuild.recording.shipment.pinning import _read_lines, find_others, make_environment

MLFLOW = f"mlflow=={version('mlflow')}"


class FakeDistribution:
    def __init__(self, name: str, requires: list[str] | None = None, files: dict[str, str] | None = None) -> None:
        self.name = name
        self.version = "1.0"
        self.requires = requires
        self._files = files or {}

    def read_text(self, name: str) -> str | None:
        return self._files.get(name)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeDistribution]:
    world: dict[str, FakeDistribution] = {}

    def distribution(name: str) -> FakeDistribution:
        if name not in world:
            raise closure_module.metadata.PackageNotFoundError(name)
        return world[name]

    monkeypatch.setattr(closure_module.metadata, "distribution", distribution)
    return world


def add(world: dict[str, FakeDistribution], name: str, *requires: str, **files: str) -> None:
    files = {key.replace("__", "."): value for key, value in files.items()}
    world[name] = FakeDistribution(name, list(requires) or None, files)


def close(*requirements: str) -> set[str]:
    return set(find_closure(map(Requirement, requirements)).versions)


def test_the_closure_follows_markers_extras_and_circles(installed: dict[str, FakeDistribution]) -> None:
    add(installed, "top", "Under_Score>=1", "other; python_version < '3'", "opt; extra == 'more'", "ring[loop]")
    add(installed, "under-score", "top")
    add(installed, "opt")
    add(installed, "other")
    add(installed, "ring", "gone", "looped; extra == 'loop'", "ring[deep]; extra == 'loop'", "deepest; extra == 'deep'")
    add(installed, "looped")
    add(installed, "deepest")
    assert close("top") == {"top", "under-score", "ring", "looped", "deepest"}
    assert close("top[more]") == {"top", "under-score", "ring", "looped", "deepest", "opt"}
    assert close("gone") == set()


def test_constraints_are_exact_and_sorted(installed: dict[str, FakeDistribution]) -> None:
    add(installed, "b", "a")
    add(installed, "a")
    assert find_closure([Requirement("b")]).make_constraints() == ["a==1.0", "b==1.0"]


@pytest.mark.parametrize(
    ("files", "local"),
    [
        ({}, False),
        ({"direct_url.json": '{"url": "file:///here", "dir_info": {"editable": true}}'}, True),
        ({"direct_url.json": '{"url": "https://host/x.whl", "archive_info": {}}'}, True),
        ({"direct_url.json": '{"url": "file:///build", "dir_info": {}}', "INSTALLER": "conda\n"}, False),
    ],
)
def test_what_no_index_has(files: dict[str, str], local: bool) -> None:
    assert is_in_no_index(FakeDistribution("x", files=files)) is local  # type: ignore[arg-type]


def test_a_broken_dependency_is_told(installed: dict[str, FakeDistribution]) -> None:
    add(installed, "bad", "not a requirement!")
    with pytest.raises(RecordingError, match="bad is installed with an invalid dependency"):
        close("bad")


def test_the_closure_of_what_is_really_installed() -> None:
    closure = find_closure([Requirement("pandas")])
    assert {"pandas", "numpy", "python-dateutil", "six"} <= set(closure.versions)
    assert f"numpy=={version('numpy')}" in closure.make_constraints()
    assert str(pin("numpy")) == f"numpy=={version('numpy')}"
    assert find_owners()["yaml"] == ["pyyaml"]
    with pytest.raises(RecordingError, match="is not installed"):
        pin("surely-not-there")


def make(tmp_path: Path, requirements: list[str] | None = None, **kwargs: Any) -> tuple[dict[str, Any], list[str]]:
    listed = [Requirement(each) for each in requirements or [str(pin("mlflow")), str(pin("numpy"))]]
    environment = make_environment(listed, kwargs, tmp_path)
    return environment.conda_env, (tmp_path / "constraints.txt").read_text().splitlines()


def get_pip(conda_env: dict[str, Any]) -> list[str]:
    pip: list[str] = conda_env["dependencies"][-1]["pip"]
    return pip


def test_the_environment_is_exact(tmp_path: Path) -> None:
    conda_env, constraints = make(tmp_path)
    assert conda_env["channels"] == ["conda-forge"]
    assert conda_env["dependencies"][:2] == [f"python={platform.python_version()}", "pip"]
    assert get_pip(conda_env) == [
        f"mlflow=={version('mlflow')}",
        f"numpy=={version('numpy')}",
        f"-c {tmp_path / 'constraints.txt'}",
    ]
    assert f"mlflow-skinny=={version('mlflow-skinny')}" in constraints
    names = [line.partition("==")[0] for line in constraints]
    assert names == sorted(names)


def test_mlflow_reads_what_is_written(tmp_path: Path) -> None:
    from mlflow.utils.environment import _process_conda_env

    conda_env, constraints = make(tmp_path)
    written, requirements, read = _process_conda_env(conda_env)
    assert read == constraints
    assert requirements[-1] == "-c constraints.txt"
    assert str(tmp_path) not in yaml.safe_dump(written)


def test_the_user_own_requirements_replace_and_extend(tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("six  # why\n")
    (tmp_path / "requirements.txt").write_text("# mine\nnumpy\n-r more.txt\n--prefer-binary\n")
    conda_env, _ = make(tmp_path, pip_requirements=str(tmp_path / "requirements.txt"))
    assert get_pip(conda_env)[:-1] == [MLFLOW, "numpy", "six", "--prefer-binary"]
    conda_env, _ = make(tmp_path, extra_pip_requirements=["six", "numpy>=1"])
    assert get_pip(conda_env)[:-1] == [f"mlflow=={version('mlflow')}", "six", "numpy>=1"]


HASH = "8abb2f1d86890a2dfb989f9a77cfcfd3e47c2a354b01111771326f8aa26e0254"


def test_hashes_are_kept_with_their_requirement(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text(f"numpy\nsix=={version('six')} \\\n    --hash=sha256:{HASH}\n")
    conda_env, constraints = make(tmp_path, pip_requirements=str(tmp_path / "requirements.txt"))
    assert get_pip(conda_env)[2].split() == [f"six=={version('six')}", f"--hash=sha256:{HASH}"]
    assert f"six=={version('six')}" in constraints  # it counts as a requirement, not as an unreadable line


@pytest.mark.parametrize(
    "line",
    [
        "git+https://example.org/six@1.16.0",
        "six @ git+https://example.org/six",
        "-e .",
        "--editable=.",
        "./wheels/six-1.16.0-py2.py3-none-any.whl",
        "six-1.16.0-py2.py3-none-any.whl",
        "file:///somewhere/six",
        "https://example.org/six.zip",
        "--no-binary :all:",
        "six --config-settings=a=b",
        "six --hash=md5:" + "0" * 32,
        "six --hash=sha256:12",
    ],
)
@pytest.mark.parametrize("way", ["pip_requirements", "extra_pip_requirements", "conda_env"])
def test_what_no_lock_can_hold_is_refused_while_the_model_is_recorded(tmp_path: Path, line: str, way: str) -> None:
    given = {"dependencies": ["python=3.11", {"pip": ["numpy", line]}]} if way == "conda_env" else ["numpy", line]
    with pytest.raises(RecordingError, match="cannot be locked") as caught:
        make(tmp_path, **{way: given})
    assert line in str(caught.value)
    assert "code_paths" in str(caught.value.hint)


def test_a_version_in_condas_spelling_is_told_in_pips(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"two equal signs: six\[a\]==1\.16\.0$") as caught:
        make(tmp_path, extra_pip_requirements=["six[a]=1.16.0"])
    assert "index" not in str(caught.value.hint)


def test_a_conda_env_keeps_what_it_says(tmp_path: Path) -> None:
    given = {"channels": ["mine"], "dependencies": ["python=3.12", {"pip": ["six"]}]}
    for form in (given, tmp_path / "conda.yaml", str(tmp_path / "conda.yaml")):
        (tmp_path / "conda.yaml").write_text(yaml.safe_dump(given))
        conda_env, constraints = make(tmp_path, conda_env=form)
        assert conda_env["channels"] == ["mine"]
        assert conda_env["dependencies"][0] == "python=3.12"
        assert get_pip(conda_env)[:-1] == [MLFLOW, "six"]
        assert {f"six=={version('six')}", MLFLOW} <= set(constraints)


def spec_of(conda_env: dict[str, Any], constraints: list[str]) -> EnvironmentSpec:
    """What a lock is made from, after MLflow has written the environment into a model."""
    from mlflow.utils.environment import _process_conda_env

    written, requirements, _ = _process_conda_env(conda_env)
    files = {"requirements.txt": "\n".join(requirements), "constraints.txt": "\n".join(constraints)}
    model = ModelEnvironment(conda_env=written, files=files, python=platform.python_version())
    return make_spec(model, platforms=(), indexes=(), interpreter="conda")


TRACED = [MLFLOW, f"numpy=={version('numpy')}"]
PYTHON = platform.python_version()
FORMS: dict[str, tuple[Any, list[str], list[str]]] = {
    # conda_env; what conda is asked for, what pip is asked for (python and pip apart)
    "kedro-mlflow's own": (
        {"python": PYTHON, "build_dependencies": ["pip"], "dependencies": ["my_project==0.1"]},
        [],
        TRACED,
    ),
    "kedro-mlflow's tutorial": (
        {"python": PYTHON, "build_dependencies": ["pip"], "dependencies": ["six==1.0", "pandas"]},
        [],
        [MLFLOW, "pandas", "six==1.0"],
    ),
    "own name with another": (
        {"python": PYTHON, "dependencies": ["my-project==0.1", "numpy>=1"]},
        [],
        [MLFLOW, "numpy>=1"],
    ),
    "conda's side": (
        {"channels": ["mine"], "dependencies": [f"python={PYTHON}", "numpy=1.0", "pip", {"pip": ["six"]}]},
        ["numpy=1.0"],
        [MLFLOW, "six"],
    ),
    "pip's pins at conda's side": (
        {"channels": ["mine"], "dependencies": [f"python={PYTHON}", "numpy>=1,<2", "six==1.0", "uvicorn[standard]"]},
        ["numpy>=1,<2", "six==1.0"],
        [MLFLOW, "uvicorn[standard]"],
    ),
    "no channel": (
        {"dependencies": [f"python={PYTHON}", "six==1.0"]},
        [],
        [MLFLOW, "six==1.0"],
    ),
    "mlflow at conda's side": (
        {"channels": ["mine"], "dependencies": [f"python={PYTHON}", "mlflow=3.1", "my_project"]},
        ["mlflow=3.1"],
        ["mlflow==3.1.*", f"numpy=={version('numpy')}"],
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("as_file", [False, True])
def test_every_form_of_conda_env_says_what_it_says(tmp_path: Path, form: str, as_file: bool) -> None:
    given, conda, pip = FORMS[form]
    if as_file:
        (tmp_path / "env.yaml").write_text(yaml.safe_dump(given))
    listed = [Requirement(each) for each in TRACED]
    kwargs = {"conda_env": str(tmp_path / "env.yaml") if as_file else given}
    environment = make_environment(listed, kwargs, tmp_path, travelling=["my_project"])
    spec = spec_of(environment.conda_env, (tmp_path / "constraints.txt").read_text().splitlines())
    assert (spec.python, list(spec.conda), list(spec.pip)) == (PYTHON, conda, pip)
    # MLflow's own default environment names it; without any a conda of Anaconda's takes that one's channels.
    assert spec.channels == (("mine",) if "channels" in given else ("conda-forge",))
    pins = {line.partition("==")[0]: line for line in spec.constraints}
    # What is asked for otherwise than it is installed is not pinned as installed.
    assert "six" not in pins or "six==1.0" not in [*spec.conda, *spec.pip]
    assert "numpy" not in pins or "numpy=1.0" not in spec.conda
    assert {"numpy", "mlflow"} <= set(environment.closure.versions)  # the conda side counts, and what MLflow adds


@pytest.mark.parametrize(
    ("written", "version", "fits"),
    [
        ("numpy=1.26", "1.26.4", True),
        ("numpy=1.26", "1.27", False),
        ("numpy=1.26=py311h_0", "1.26", True),
        ("numpy=1.26=py311h_0", "1.26.1", False),
        ("numpy 1.26.*", "1.26.1", True),
        ("conda-forge::numpy >=1.2.*,<2", "1.9", True),
        ("numpy[version='>=2']", "1.9", False),
        ("numpy", "1.9", True),
    ],
)
def test_versions_of_conda_are_read_as_conda_does(written: str, version: str, fits: bool) -> None:
    given = read_conda_env({"channels": ["mine"], "dependencies": [written]})
    specifier = given.brought["numpy"]
    assert specifier is not None
    assert specifier.contains(version) is fits


def test_conda_packages_count_by_the_name_of_their_distribution() -> None:
    given = read_conda_env({"channels": ["mine"], "dependencies": ["pytorch=2.1|2.2"]})
    assert given.brought == {"torch": None}


def test_a_pin_of_the_user_is_stronger_than_what_is_installed(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("python-dateutil<1\n")
    _, constraints = make(tmp_path, pip_requirements=["pandas", "numpy<1", f"-c {tmp_path / 'mine.txt'}"])
    names = {line.partition("==")[0] for line in constraints}
    assert "pandas" in names
    assert not {"numpy", "python-dateutil"} & names


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"conda_env": {}, "pip_requirements": ["a"], "extra_pip_requirements": ["b"]}, "give one of them"),
        ({"pip_requirements": "nowhere.txt"}, "cannot be read"),
        ({"conda_env": ["a"]}, "must be a mapping"),
        ({"conda_env": {"channels": []}}, "must be a mapping"),
    ],
)
def test_unusable_requirements_are_told(tmp_path: Path, kwargs: dict[str, Any], match: str) -> None:
    with pytest.raises(RecordingError, match=match) as caught:
        make(tmp_path, **kwargs)
    assert caught.value.hint


def test_broken_yaml_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "conda.yaml").write_text("a: [")
    with pytest.raises(RecordingError, match="not YAML") as caught:
        make(tmp_path, conda_env=str(tmp_path / "conda.yaml"))
    assert "\n" not in caught.value.message


def test_a_package_of_no_index_is_named(tmp_path: Path, installed: dict[str, FakeDistribution]) -> None:
    add(installed, "indexed", "mine")
    add(installed, "mine", direct_url__json='{"url": "file:///here", "dir_info": {}}')
    with pytest.raises(RecordingError, match=r"^mine was installed from a folder") as caught:
        make(tmp_path, ["indexed"])
    assert "PIP_FIND_LINKS" in str(caught.value.hint)


WORDS = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=8)


@given(st.lists(WORDS | st.just("# comment") | st.just("")))
def test_lines_are_kept_in_order_without_comments(lines: list[str]) -> None:
    assert list(_read_lines([f"  {line} # why" if line else line for line in lines])) == [
        line for line in lines if line and not line.startswith("#")
    ]


def test_no_credentials_are_written_into_a_model(tmp_path: Path) -> None:
    line = "--extra-index-url https://robot:hunter2@pypi.corp/simple"
    wanted = "${KBUILD_INDEX_PYPI_CORP_USER}:${KBUILD_INDEX_PYPI_CORP_PASSWORD}@pypi.corp/simple"
    conda = {"channels": ["https://conda.corp/t/hunter2/forge", "conda-forge"], "dependencies": [{"pip": [line]}]}
    for kwargs in ({"pip_requirements": [line]}, {"extra_pip_requirements": [line]}, {"conda_env": conda}):
        written = str(make_environment([], kwargs, tmp_path).conda_env)
        assert "hunter2" not in written and wanted in written
    with pytest.raises(RecordingError) as caught:
        make_environment([], {"pip_requirements": ["x @ https://robot:hunter2@pypi.corp/x.whl"]}, tmp_path)
    assert "hunter2" not in str(caught.value)


def test_other_versions_than_train_are_named_but_of_what_travels() -> None:
    asked = {"pip_requirements": ["pandas<2", "numpy>=1", "six; python_version < '3'", "no-such-package-here==1"]}
    (found,) = find_others(asked)
    assert found.startswith("pandas<2 is asked for, and training has pandas ")
    assert find_others(asked, travelling=["Pandas"]) == []
    assert find_others({}) == []


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("six=>1", "write six>=1"),
        ("six =< 2", "write six <= 2"),
        ("six>1,=!1.5", "write six>1,!=1.5"),
        ("six =!= 1", "it is no requirement as pip reads it"),
        ("six>>1", "it is no requirement as pip reads it"),
        ("six 1.16.0", "it is no requirement as pip reads it"),
    ],
)
def test_a_line_that_is_misspelled_is_told_as_that(tmp_path: Path, line: str, told: str) -> None:
    with pytest.raises(RecordingError, match=re.escape(told)) as caught:
        make(tmp_path, extra_pip_requirements=[line])
    assert "package index" not in str(caught.value.hint)
    assert "NAME>=VERSION" in str(caught.value.hint)
    # Beside what no lock can hold there is a remedy for that, too.
    with pytest.raises(RecordingError, match=re.escape(told)) as caught:
        make(tmp_path, extra_pip_requirements=[line, "./mine"])
    assert "package index" in str(caught.value.hint)
