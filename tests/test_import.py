import importlib
import inspect
import subprocess
import sys

import pytest

import kbuild

HEAVY = ("mlflow", "kedro", "docker", "pandas", "rich", "click", "rattler")


def test_importing_kbuild_imports_nothing_heavy() -> None:
    code = f"import sys, kbuild; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("name", kbuild.__all__)
def test_every_public_name_can_be_had(name: str) -> None:
    assert getattr(kbuild, name).__name__.removeprefix("kbuild.") == name
    assert name in dir(kbuild)


def test_the_root_offers_all_that_the_api_does() -> None:
    api = importlib.import_module("kbuild.api")
    assert {name for name, home in kbuild._HOMES.items() if home == "kbuild.api"} == set(api.__all__)
    assert set(kbuild._HOMES) == set(kbuild.__all__)


@pytest.mark.parametrize("name", ["audit", "verify"])
def test_a_function_of_a_packages_name_is_called_whatever_was_imported(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = importlib.import_module(f"kbuild.{name}")
    assert getattr(kbuild, name) is package is kbuild.__getattr__(name) and inspect.ismodule(package)
    home = importlib.import_module({"audit": "kbuild.api.auditing", "verify": "kbuild.api.verifying"}[name])
    monkeypatch.setattr(home, name, lambda *args, **kwargs: (args, kwargs))
    assert getattr(kbuild, name)("x", session=None) == (("x",), {"session": None})


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = kbuild.no_such_name


def test_recording_keeps_the_name_that_programs_of_0_1_import() -> None:
    from kbuild.recording.record import record_model
    from kbuild.training import record

    assert record.record_model is record_model
