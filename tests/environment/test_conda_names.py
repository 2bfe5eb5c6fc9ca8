from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from packaging.utils import canonicalize_name

from kbuild.errors import ConfigurationError
from kbuild.managers.conda_names import all_names, known_names, pip_name, read_names

RECORDS = Path(__file__).parent / "data" / "conda-forge-purls.json"


@pytest.mark.parametrize(("conda", "name"), sorted(json.loads(RECORDS.read_text()).items()))
def test_the_table_says_what_conda_forges_own_records_say(conda: str, name: str) -> None:
    """Records of conda-forge whose package url names one distribution of another name."""
    assert pip_name(conda) == name


def test_every_name_of_the_table_differs_from_condas() -> None:
    names = known_names()
    assert len(names) > 150
    assert all(canonicalize_name(conda) != canonicalize_name(name) for conda, name in names.items())
    assert pip_name("pytorch") == "torch" and pip_name("numpy") == "numpy"


def test_a_projects_own_names_win() -> None:
    own = (("acme-churn", "churn"), ("pytorch", "acme-torch"))
    assert (pip_name("acme-churn", own), pip_name("pytorch", own)) == ("churn", "acme-torch")
    named = all_names(own)
    # Alone and in the table as a whole: each is another's way to the name.
    assert {conda: named[conda] for conda, _ in own} == dict(own) and named["redis-py"] == "redis"


def test_conda_locks_own_file_is_read(tmp_path: Path) -> None:
    value = {"churn": {"conda_name": "acme-churn", "pypi_name": "churn", "import_name": "churn"}}
    for name, text in (("n.json", json.dumps(value)), ("n.yml", yaml.safe_dump(value))):
        (tmp_path / name).write_text(text)
        assert read_names(tmp_path / name) == (("acme-churn", "churn"),)


@pytest.mark.parametrize("text", ["{", "[1]", "a: b", "a: {conda_name: x}", "1", "a: {conda_name: 1, pypi_name: b}"])
def test_what_is_no_table_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "n.yml").write_text(text)
    with pytest.raises(ConfigurationError, match="conda-names: ") as caught:
        read_names(tmp_path / "n.yml")
    assert "\n" not in caught.value.message
    with pytest.raises(ConfigurationError, match="No such file"):
        read_names(tmp_path / "absent.json")
