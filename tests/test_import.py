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
    assert getattr(kbuild, name).__name__ == name
    assert name in dir(kbuild)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = kbuild.no_such_name


def test_recording_keeps_the_name_that_programs_of_0_1_import() -> None:
    from kbuild.recording.record import record_model
    from kbuild.training import record

    assert record.record_model is record_model
