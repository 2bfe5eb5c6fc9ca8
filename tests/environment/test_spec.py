import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from kbuild.environment.spec import EnvironmentSpec, ModelEnvironment, make_spec
from kbuild.errors import EnvironmentSpecError
from kbuild.platform import Platform
from kbuild.shipped import image_files

ENV = {
    "channels": ["conda-forge"],
    "dependencies": ["python=3.11.7", "pip<=24.0", {"pip": ["mlflow==3.17.2", "-c constraints.txt"]}],
    "name": "mlflow-env",
}


def spec_of(env: dict[str, Any], **more: Any) -> EnvironmentSpec:
    model = {"files": {"constraints.txt": "numpy==2.0.1\nClick==8.1.7"}, "python": "3.11.7"}
    model |= {name: more.pop(name) for name in model if name in more}
    return make_spec(
        ModelEnvironment(conda_env=env, **model),
        **{
            "platforms": [Platform("linux", "amd64")],
            "indexes": ["https://index.example/simple", "https://second.example/simple"],
            "interpreter": "conda",
            **more,
        },
    )


def with_dependencies(*dependencies: Any) -> dict[str, Any]:
    return {"channels": ["conda-forge"], "dependencies": list(dependencies)}


def test_what_mlflow_writes() -> None:
    spec = spec_of(ENV)
    assert spec.python == "3.11.7"
    assert spec.conda == ()
    assert spec.pip == ("mlflow==3.17.2",)
    assert spec.constraints == ("Click==8.1.7", "numpy==2.0.1")
    assert spec.channels == ("conda-forge",)


def test_the_order_of_packages_does_not_matter_but_that_of_channels_does() -> None:
    one = with_dependencies("python=3.11.7", "scipy", "numpy", {"pip": ["b", "a"]})
    other = with_dependencies("numpy", {"pip": ["a", "b"]}, "scipy", "python=3.11.7")
    assert spec_of(one).digest == spec_of(other).digest
    assert spec_of(one | {"channels": ["x", "y"]}).digest != spec_of(one | {"channels": ["y", "x"]}).digest


@pytest.mark.parametrize("field", ["python", "platforms", "indexes", "interpreter", "channels", "files"])
def test_every_input_changes_the_digest(field: str) -> None:
    other: dict[str, Any] = {
        "python": "3.11.8",
        "platforms": [Platform("linux", "arm64")],
        "indexes": ["https://other.example/simple"],
        "interpreter": "captured",
        "channels": ["other"],
        "files": {"constraints.txt": "numpy==2.0.2"},
    }
    env = with_dependencies("python", {"pip": ["mlflow", "-c constraints.txt"]})
    assert spec_of(env).digest != spec_of(env, **{field: other[field]}).digest


@pytest.mark.parametrize(
    ("asked", "exact"),
    [
        ("python=3.12.2", "3.12.2"),
        ("python==3.12.2", "3.12.2"),
        ("python 3.12.2", "3.12.2"),
        ("python=3.12.2=h12debd9_1", "3.12.2"),
        ("python=3.11", "3.11.7"),
        ("python 3.11.*", "3.11.7"),
        ("python>=3.10,<3.12", "3.11.7"),
        ("python >=3.10", "3.11.7"),
        ("python", "3.11.7"),
        ("conda-forge::python=3.11", "3.11.7"),
    ],
)
def test_the_exact_python(asked: str, exact: str) -> None:
    assert spec_of(with_dependencies(asked)).python == exact


def test_a_python_that_serves_no_model_is_refused_before_anything_is_locked() -> None:
    """MLflow 3 trains with 3.10, where kbuild's own code does not even import."""
    requires = tomllib.loads(Path(__file__).parents[2].joinpath("pyproject.toml").read_text())["project"]
    oldest = requires["requires-python"].split(",")[0].removeprefix(">=")
    for old in ("3.10.13", "3.9.19", "2.7.18"):
        with pytest.raises(EnvironmentSpecError, match=rf"asks for Python {old}, .* runs on Python {oldest} and newer"):
            spec_of(with_dependencies("pip"), python=old)
    assert spec_of(with_dependencies("pip"), python=f"{oldest}.0").python == f"{oldest}.0"


@pytest.mark.parametrize("asked", ["python=3.10", "python>=3.12", "python 3.1.*", "python<3"])
def test_another_python_than_trained_is_an_error(asked: str) -> None:
    with pytest.raises(EnvironmentSpecError, match=r"trained with Python 3\.11\.7"):
        spec_of(with_dependencies(asked))


def test_an_unknown_python_is_an_error() -> None:
    with pytest.raises(EnvironmentSpecError, match="exact version of Python is not known"):
        spec_of(with_dependencies("python=3.11"), python=None)


def test_channels() -> None:
    assert spec_of(ENV | {"channels": ["nodefaults", "x", "x"]}).channels == ("x",)
    assert spec_of(ENV | {"channels": []}).channels == ("defaults",)
    assert spec_of(ENV, channels=["mine"]).channels == ("mine",)
    secret = spec_of(ENV | {"channels": ["https://me:secret@conda.example/t/token/x"]})
    assert "secret" not in repr(secret)
    assert "token/" not in repr(secret)


def test_the_models_own_indexes() -> None:
    lines = {"pip": ["six", "--index-url https://u:pw@own.example/simple", "--extra-index-url https://more.example/s"]}
    assert spec_of(with_dependencies("python", lines)).indexes == (
        "https://${KBUILD_INDEX_OWN_EXAMPLE_USER}:${KBUILD_INDEX_OWN_EXAMPLE_PASSWORD}@own.example/simple",
        "https://second.example/simple",
        "https://more.example/s",
    )


def test_the_models_own_pages_of_links() -> None:
    lines = {"pip": ["six", "--no-index", "-f https://u:pw@own.example/links.html"]}
    spec = spec_of(with_dependencies("python", lines), find_links=["https://mine.example/w/"])
    own = "https://${KBUILD_INDEX_OWN_EXAMPLE_USER}:${KBUILD_INDEX_OWN_EXAMPLE_PASSWORD}@own.example/links.html"
    assert (spec.indexes, spec.find_links) == ((), ("https://mine.example/w/", own))


def test_places_on_a_server_change_the_digest_those_of_one_machine_do_not() -> None:
    spec = spec_of(ENV)
    assert spec_of(ENV, find_links=["https://a.example/w/"]).digest != spec.digest
    assert spec_of(ENV, find_links=["file:///srv/w"]).digest == spec.digest
    folders = [*spec.indexes, "file:///srv/simple"]
    assert spec_of(ENV, indexes=folders).digest == spec.digest


def test_everything_wrong_is_said_at_once() -> None:
    env = with_dependencies("python", "numpy", "numpy<2", {"npm": ["x"]}, {"pip": ["git+https://e.example/x", "./y"]})
    with pytest.raises(EnvironmentSpecError) as caught:
        spec_of(env)
    for part in ("listed twice", "npm", "git+https://e.example/x", "./y"):
        assert part in caught.value.message
    assert "\n" not in caught.value.message


def test_dependencies_that_are_no_list() -> None:
    with pytest.raises(EnvironmentSpecError, match="not a list"):
        spec_of({"dependencies": "python"})


@pytest.mark.parametrize(
    "dependency",
    [
        "conda-forge::numpy=1.26",
        "conda-forge/linux-64::numpy",
        "https://conda.example/team::numpy >=1.20,<2",
        "numpy[version='>=1.20',build='*openblas*']",
        "numpy 1.26.* *openblas*",
        "numpy=1.26|2.0",
        "NumPy",
        "numpy ~=1.26",
        "numpy !=1.25",
    ],
)
def test_every_form_of_a_conda_package_has_its_name(dependency: str) -> None:
    """conda's docs, "Package match specifications"; the text goes to the resolver as it is."""
    assert spec_of(with_dependencies("python", dependency)).conda == (dependency,)
    with pytest.raises(EnvironmentSpecError, match="numpy is listed twice"):
        spec_of(with_dependencies("python", "numpy", dependency))


@pytest.mark.parametrize(
    "dependency", ["numpy >=", "*", "numpy@1.0", "https://conda.example/linux-64/numpy-1.0-0.conda"]
)
def test_what_is_no_conda_package_is_said_in_one_line(dependency: str) -> None:
    with pytest.raises(EnvironmentSpecError) as caught:
        spec_of(with_dependencies("python", dependency))
    assert dependency in caught.value.message and "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("asked", "exact"),
    [
        ("python >=3.11,<3.12.0a0", "3.11.7"),
        ("python[version='3.11.*',build='*_cpython']", "3.11.7"),
        ("python 3.12.2 *_cpython", "3.12.2"),
        ("python=3.12.2=*_cpython", "3.12.2"),
        ("python 3.10.*|3.11.*", "3.11.7"),
        ("python ~=3.11.2", "3.11.7"),
    ],
)
def test_python_is_asked_for_in_every_form(asked: str, exact: str) -> None:
    assert spec_of(with_dependencies(asked)).python == exact


@pytest.mark.parametrize(
    ("asked", "pin"),
    [
        ("python==3.11.7=h1_0_cpython", "python ==3.11.7 h1_0_cpython"),
        ("python=3.11.7=h1_0_cpython", "python ==3.11.7 h1_0_cpython"),
        ("conda-forge::python=3.11", "conda-forge::python ==3.11.7"),
        ("python[version='3.11.*',build='*_cpython']", "python ==3.11.7 *_cpython"),
        ("python=3.11.7", ""),
        ("python >=3.11", ""),
    ],
)
def test_the_build_and_channel_of_python_are_asked_for_too(asked: str, pin: str) -> None:
    """``conda env export`` writes name=version=build of every package."""
    assert spec_of(with_dependencies(asked)).python_pin == pin


@pytest.mark.parametrize("asked", ["python 3.11.7 *_cp311t", "python=3.11.*=*_pypy", "python[build='*_cp311t']"])
def test_a_python_that_takes_other_wheels_is_refused(asked: str) -> None:
    """conda-forge names the ABI in a build of python: ``*_cpython``, ``*_cp313``, and ``*_cp313t`` of PEP 703."""
    with pytest.raises(EnvironmentSpecError, match="only CPython with its global lock"):
        spec_of(with_dependencies(asked))
    assert spec_of(with_dependencies("python 3.11.7 *_cp311")).python == "3.11.7"


def test_a_projects_own_names_of_conda_packages_make_another_lock() -> None:
    assert spec_of(ENV, names=()).digest == spec_of(ENV).digest
    assert spec_of(ENV, names=(("acme-churn", "churn"),)).digest != spec_of(ENV).digest


def test_a_channel_that_is_a_folder_is_the_same_on_every_machine() -> None:
    one, other = (spec_of(ENV, channels=[place, "main"]) for place in ("file:///home/ann/channel", "/home/bob/channel"))
    assert one.digest == other.digest == spec_of(ENV, channels=["$KBUILD_CHANNEL", "main"]).digest
    assert one.digest != spec_of(ENV, channels=["main"]).digest


def test_what_mlflow_writes_is_read_without_rattler_and_as_rattler_reads_it() -> None:
    from rattler import MatchSpec, VersionSpec

    texts = ["python", "pip", "python=3.11.7", "python==3.11.7", "pip<=24.0", "pip=24", "python=3"]
    code = (
        "import sys\nfrom kbuild.environment.match_spec import read_spec\n"
        f"for text in {texts!r}:\n    print(read_spec(text).version)\n"
        "assert 'rattler' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for text, version in zip(texts, done.stdout.split(), strict=True):
        read = MatchSpec(text, strict=False).version
        assert (version == "None") == (read in (None, "*"))
        if version != "None":
            assert str(VersionSpec(version)) == str(VersionSpec(str(read)))


def test_kbuild_itself_which_no_index_needs_to_have_is_brought_by_the_image() -> None:
    """What MLflow infers of a KedroPipelineModel that is logged by hand, as in a notebook."""
    spec = spec_of(
        with_dependencies("python=3.11.7", {"pip": ["mlflow==3.17.2", "kbuild==0.1.0", "-c constraints.txt"]}),
        files={"constraints.txt": "numpy==2.0.1\nkbuild==0.1.0"},
    )
    assert (spec.pip, spec.constraints) == (("mlflow==3.17.2",), ("numpy==2.0.1",))
    assert "kbuild/training/pyfunc.py" in image_files()
