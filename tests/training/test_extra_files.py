"""What kbuild.yml says of every model of a project: files besides the package's, and the narrowed signature."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

import pytest
from kedro.pipeline import Pipeline, node

from kbuild.errors import RecordingError
from kbuild.project.config import read_config
from kbuild.recording.clean_check import CleanAnswer
from kbuild.recording.judged import advise
from kbuild.recording.shipment.extra import check_extra, name_shippable, place_extra
from kbuild.training.pipeline_ml import pipeline_ml_factory

PACKAGE = "tinyshop"


@pytest.fixture
def project(package: ModuleType, tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text(
        '[tool.kbuild.training]\nsignature = "used"\nship = ["assets", ".words", "src/tinyshop/.config/a.txt"]\n'
    )
    for name in ("assets/vocabulary.txt", "assets/.env", ".words", "src/tinyshop/.config/a.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "model" / "code" / PACKAGE).mkdir(parents=True)
    (tmp_path / "model" / "MLmodel").touch()
    return tmp_path


def test_files_lie_in_the_model_as_in_the_project(project: Path) -> None:
    ship = read_config(project).training.ship
    assert list(check_extra(ship, PACKAGE)) == []
    place_extra(ship, PACKAGE, project / "model")
    for name, place in (
        ("assets/vocabulary.txt", "assets/vocabulary.txt"),
        (".words", ".words"),
        ("src/tinyshop/.config/a.txt", "code/tinyshop/.config/a.txt"),
    ):
        assert (project / "model" / place).read_text() == name
        # The code of both finds it by the same steps.
        above = os.path.relpath(project / name, project / "src" / PACKAGE)
        assert (project / "model" / "code" / PACKAGE / above).is_file()
    assert not (project / "model" / "assets" / ".env").exists()
    with pytest.raises(RecordingError, match="has a assets already"):
        place_extra(ship, PACKAGE, project / "model")


@pytest.mark.parametrize("name", ["artifacts", "code", "requirements.txt"])
def test_what_mlflow_writes_itself_is_told_before_training(project: Path, name: str) -> None:
    (project / name).mkdir()
    [found] = check_extra([project / name], PACKAGE)
    assert f"the model has a {name} already" in found.error.message


@pytest.mark.parametrize(
    ("link", "target", "told"),
    [
        ("assets/mine", "..", "outside the project"),
        ("assets/deep/mine", "../../../secret.txt", "deep/mine is a link to"),
        ("assets/mine", "no-such", "mine is a link to nothing"),
        ("assets/mine", ".", "to a folder that it lies in itself"),
        ("assets/mine", "../src", ""),
    ],
)
def test_a_link_out_of_the_project_does_not_ship_what_it_leads_to(
    package: ModuleType, tmp_path: Path, link: str, target: str, told: str
) -> None:
    project = tmp_path / "src" / PACKAGE  # any folder with others above it
    (project / "pyproject.toml").touch()
    (tmp_path / "src/secret.txt").touch()
    target = f"../{target}" if target == ".." else target.replace("../src", "../__init__.py")
    place = project / link
    place.parent.mkdir(parents=True)
    place.symlink_to(target)
    found = [str(each) for each in check_extra([project / "assets"], PACKAGE)]
    assert len(found) == bool(told)
    assert not told or told in found[0]
    if target == "../..":
        [alone] = check_extra([place], PACKAGE)
        assert "outside the project" in str(alone)


def test_a_file_that_the_model_lacks_is_named_as_the_key_wants_it(project: Path) -> None:
    model, link = project / "model", project / "link"
    link.symlink_to(model)
    for asked, named in (
        (f"{model}/code/tinyshop/../../assets/vocabulary.txt", "assets/vocabulary.txt"),
        (f"{model}/code/tinyshop/.config/a.txt", "src/tinyshop/.config/a.txt"),
        (f"{model}/assets/none.txt", None),
        (f"{project}/assets/vocabulary.txt", None),
        (None, None),
    ):
        assert name_shippable(asked, model, PACKAGE) == named
        # A model's code may name files by the folder that a link leads to.
        assert name_shippable(asked, link, PACKAGE) == named
    lost = CleanAnswer(error="x", kind="FileNotFoundError", file=f"{model}/assets/vocabulary.txt")
    assert "training: {ship: [assets/vocabulary.txt]}" in advise(lost, "assets/vocabulary.txt")
    assert name_shippable(f"{model}/x", model, None) is None


def test_what_cannot_travel_is_told_before_training(project: Path) -> None:
    told = [str(each) for each in check_extra([project / "asset", project.parent], PACKAGE)]
    assert "which is not there" in told[0] and "did you mean 'assets'?" in told[0]
    assert "no place" in told[1]


def test_a_signature_for_all_models_gives_way_to_a_pipelines_own(package: ModuleType, project: Path) -> None:
    settings = read_config(project).training
    training = Pipeline([node(package.fit, "orders", "factors")])
    inference = Pipeline([node(package.split_score, ["orders", "factors"], ["total", "rows"])])
    bound = pipeline_ml_factory(training, inference, "orders")
    assert bound.by_default(signature=settings.signature).log_model_kwargs["signature"] == "used"
    own = pipeline_ml_factory(training, inference, "orders", log_model_kwargs={"signature": None})
    kept = own.by_default(signature=settings.signature)
    assert kept.log_model_kwargs["signature"] is None and kept.only_nodes(*(n.name for n in kept.nodes)).trains
