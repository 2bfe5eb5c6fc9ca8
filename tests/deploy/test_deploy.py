"""Writing manifests: which image is meant, and whose files are in the folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from kbuild.api import deploying
from kbuild.api.deploying import DeployOptions, deploy
from kbuild.deploy.deployment import Deployment, Size
from kbuild.deploy.kubernetes import make_kubernetes
from kbuild.deploy.write import write_files
from kbuild.errors import ImageNotFound, OutputError
from kbuild.image.oci.image_reference import ImageReference
from kbuild.model.find import RegisteredVersion
from kbuild.model.model_reference import ModelReference

DIGEST = "sha256:" + "a" * 64
IMAGE = f"registry.example/team/churn@{DIGEST}"
RUN = "b" * 32


def read(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def made(**more: Any) -> Deployment:
    return Deployment(name="churn", image=ImageReference.parse(IMAGE), **more)


def test_the_same_values_give_the_same_bytes_and_what_is_gone_goes(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    write_files(make_kubernetes(made()), one)
    write_files(make_kubernetes(made()), other)
    assert read(one) == read(other) and "horizontalpodautoscaler.yaml" in read(one)
    assert not any("&id" in text for text in read(one).values())
    (one / "overlay.yaml").write_text("mine: true\n")
    fixed = made(size=Size(least=1, most=1))
    assert len(write_files(make_kubernetes(fixed), one)) == 7
    assert {Path(name).name for name in set(read(other)) - set(read(one))} == {
        "horizontalpodautoscaler.yaml", "kustomization.yaml"
    }  # fmt: skip
    assert "kustomization.yaml" in read(one) and not (one / "scale-by-requests/kustomization.yaml").exists()
    assert read(one)["overlay.yaml"] == "mine: true\n"


def test_another_deployment_in_a_folder_of_it_is_left(tmp_path: Path) -> None:
    write_files(make_kubernetes(made()), tmp_path / "other")
    before = read(tmp_path / "other")
    write_files(make_kubernetes(made()), tmp_path)
    write_files(make_kubernetes(made(size=Size(least=1, most=1))), tmp_path)
    assert read(tmp_path / "other") == before


def test_a_run_that_is_ended_leaves_no_half_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(make_kubernetes(made()), tmp_path)
    before = read(tmp_path)

    def ended(*paths: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", ended)
    with pytest.raises(KeyboardInterrupt):
        write_files(make_kubernetes(made(size=Size(cpu="2"))), tmp_path)
    assert read(tmp_path) == before


def test_a_file_of_somebody_else_is_left_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "service.yaml").write_text("mine: true\n")
    with pytest.raises(OutputError, match=r"service\.yaml was not written by kbuild deploy"):
        write_files(make_kubernetes(made()), tmp_path)
    assert read(tmp_path) == {"service.yaml": "mine: true\n"}
    with pytest.raises(OutputError, match="cannot write"):
        write_files(make_kubernetes(made()), tmp_path / "service.yaml")


class Store:
    def __init__(self, tags: dict[str, str]) -> None:
        self.tags = tags

    def pin(self, reference: ModelReference) -> ModelReference:
        return reference.at("3") if reference.alias else reference

    def read_run(self, run_id: str) -> Any:
        return SimpleNamespace(tags=self.tags)

    def versions(self, name: str) -> list[RegisteredVersion]:
        return [
            RegisteredVersion(name=name, version=str(number), tags=self.tags if number == 3 else {})
            for number in (2, 3)
        ]


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    store = Store({"kbuild.pushed": IMAGE})
    asked: list[str] = []

    @contextmanager
    def existing(text: str, tools: Any) -> Iterator[Any]:
        asked.append(text)
        yield (SimpleNamespace(layout=tmp_path, digest=DIGEST), None)

    config = {"User": "1234:1234", "ExposedPorts": {"9000/tcp": {}}, "Labels": {"io.kbuild.run.id": RUN, "other": "x"}}
    monkeypatch.setattr(deploying, "existing_image", existing)
    monkeypatch.setattr(deploying, "read_config", lambda layout, digest: (None, config))
    monkeypatch.setattr(deploying, "open_registry", lambda session: store)
    monkeypatch.setattr(deploying, "take_model", lambda text, *rest: text)
    tools = SimpleNamespace(store=store, cache=tmp_path / "cache", cache_limit=10**9)
    return SimpleNamespace(tools=tools, config=None, voice=None, asked=asked)


@pytest.mark.parametrize(
    ("subject", "name"), [("models:/Churn Model@champion", "churn-model"), (RUN, "churn"), (IMAGE, "churn")]
)
def test_a_model_is_deployed_as_the_image_that_was_pushed(
    session: Any, tmp_path: Path, subject: str, name: str
) -> None:
    files = deploy(subject, tmp_path / "out", DeployOptions(to="knative"), session=session)
    assert [path.name for path in files] == ["kustomization.yaml", "service.yaml"]
    service = yaml.safe_load((tmp_path / "out/service.yaml").read_text())
    container = service["spec"]["template"]["spec"]["containers"][0]
    assert (service["metadata"]["name"], container["image"]) == (name, IMAGE)
    assert service["metadata"]["annotations"] == {"io.kbuild.run.id": RUN}
    assert container["securityContext"]["runAsUser"] == 1234 and container["ports"][0]["containerPort"] == 9000
    assert session.asked == [IMAGE]


@pytest.mark.parametrize("subject", ["models:/churn/2", RUN, "m-" + "c" * 32])
def test_what_is_in_no_registry_is_told_with_what_pushes_it(session: Any, tmp_path: Path, subject: str) -> None:
    session.tools.store.tags = {"kbuild.image_digest": DIGEST}
    with pytest.raises(ImageNotFound, match="has no image in a registry") as caught:
        deploy(subject, tmp_path / "out", session=session)
    assert caught.value.hint is not None and f"kbuild image {subject} --push" in caught.value.hint
