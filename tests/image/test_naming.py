from pathlib import Path

import pytest

from kbuild.digest import digest_bytes
from kbuild.errors import InvalidReference
from kbuild.image.deliver.naming import check_name, fill_name, has_placeholder, name_values
from kbuild.model.bundle import ModelBundle, ModelFacts, ModelFile
from kbuild.model.model_reference import ModelReference

RUN = ModelReference.parse("runs:/0123456789abcdef0123456789abcdef/model")


def bundle(root: Path, name: str | None = "My Model") -> ModelBundle:
    facts = ModelFacts(
        uri=None, name=name, run_id=None, model_id="m-1", created=0, python_version="3.11.7", mlflow_version=None,
        loader_module="x", flavors=(), conda_env={}, constraints=None, signature=None, input_example=None, record={},
    )  # fmt: skip
    file = ModelFile(path="MLmodel", size=0, digest=digest_bytes(b""))
    return ModelBundle(root=root, files=(file,), facts=facts)


def test_placeholders_are_filled_from_the_registered_version(tmp_path: Path) -> None:
    reference = ModelReference.parse("models:/Churn NL@prod").at("3")
    filled = fill_name("registry.example/{name}:{version}-{model_id}", name_values(bundle(tmp_path), reference))
    assert str(filled) == "registry.example/churn-nl:3-m-1"


def test_what_a_model_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidReference, match="the model has no run id"):
        fill_name("churn:{run_id}", name_values(bundle(tmp_path), RUN))
    with pytest.raises(InvalidReference, match="the model has no version") as caught:
        fill_name("{name}:{version}", name_values(bundle(tmp_path), RUN))
    assert caught.value.hint == "use {name}, {model_id}, or name the registered model: models:/NAME, models:/NAME@ALIAS"


def test_other_braces_are_no_placeholders() -> None:
    with pytest.raises(InvalidReference):
        check_name("churn:{run}")
    assert not has_placeholder("churn:{run}")
    assert has_placeholder("churn:{version}")
    assert check_name("{name}:{version}").tag == "1"


@pytest.mark.parametrize("name", ["_Churn NL!", "[churn] (nl)", "Churn--NL"])
def test_signs_around_a_name_are_left_out(tmp_path: Path, name: str) -> None:
    assert str(fill_name("{name}:1", name_values(bundle(tmp_path, name), RUN))) == "docker.io/library/churn-nl:1"


@pytest.mark.parametrize("text", ["{foo}", "r.example/{run}:1", "churn:{Version}"])
def test_a_placeholder_that_is_none_is_told_with_those_there_are(text: str) -> None:
    with pytest.raises(InvalidReference) as caught:
        check_name(text)
    assert "{run_id}" in str(caught.value.hint) and "placeholder" in caught.value.message
