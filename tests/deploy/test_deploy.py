"""Writing manifests: which image is meant, and whose files are in the folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from kbuild.api import deploying
from kbuild.api.deploying import DeployOptions, deploy
from kbuild.deploy.canary import Gateway
from kbuild.deploy.deployment import Deployment, Size
from kbuild.deploy.kubernetes import make_kubernetes
from kbuild.deploy.write import write_files
from kbuild.digest import Digest
from kbuild.errors import ConfigurationError, ImageNotFound, ModelNotFound, OutputError
from kbuild.image.oci.image_reference import ImageReference
from kbuild.image.store.listing import ListedImage
from kbuild.measuring.profile import Profile, Profiles
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
        yield (SimpleNamespace(layout=tmp_path, digest=Digest.parse(text.partition("@")[2])), None)

    config = {"User": "1234:1234", "ExposedPorts": {"9000/tcp": {}}, "Labels": {"io.kbuild.run.id": RUN, "other": "x"}}
    monkeypatch.setattr(deploying, "existing_image", existing)
    monkeypatch.setattr(deploying, "read_config", lambda layout, digest: (None, config))
    monkeypatch.setattr(deploying, "open_registry", lambda session: store)
    monkeypatch.setattr(deploying, "take_model", lambda text, *rest: text)
    tools = SimpleNamespace(store=store, cache=tmp_path / "cache", using_cache=nullcontext)
    said: list[str] = []
    voice = SimpleNamespace(say=said.append)
    return SimpleNamespace(tools=tools, config=None, voice=voice, asked=asked, said=said)


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


@pytest.mark.parametrize(("port", "host"), [(81, 81), (None, 9000)])
def test_compose_has_the_port_that_is_named(session: Any, tmp_path: Path, port: int | None, host: int) -> None:
    deploy(IMAGE, tmp_path / "out", DeployOptions(to="compose", port=port), session=session)
    made = yaml.safe_load((tmp_path / "out/compose.yaml").read_text())
    assert made["services"]["churn"]["ports"] == [f"127.0.0.1:{host}:9000"]


def test_each_option_of_a_cluster_is_in_the_files(session: Any, tmp_path: Path) -> None:
    secret = "key"  # noqa: S105  the name of one
    size = {"cpu": "2", "memory": "3Gi"}
    options = DeployOptions(name="till", namespace="shop", pull_secret=secret, replicas=(4, 5), **size)  # type: ignore[arg-type]
    written = deploy(IMAGE, tmp_path / "out", options, session=session)
    every = [each for path in written for each in yaml.safe_load_all(path.read_text())]
    kinds = {each["kind"]: each for each in every}
    assert kinds["Kustomization"]["namespace"] == "shop"
    pod = kinds["Deployment"]["spec"]["template"]["spec"]
    assert kinds["Deployment"]["metadata"]["name"] == "till" and pod["imagePullSecrets"] == [{"name": secret}]
    assert pod["containers"][0]["resources"]["requests"] == size
    scaled = kinds["HorizontalPodAutoscaler"]["spec"]
    assert (scaled["minReplicas"], scaled["maxReplicas"]) == (4, 5)


@pytest.mark.parametrize("subject", ["models:/churn/2", RUN, "m-" + "c" * 32])
def test_what_is_in_no_registry_is_told_with_what_pushes_it(session: Any, tmp_path: Path, subject: str) -> None:
    session.tools.store.tags = {"kbuild.image_digest": DIGEST}
    with pytest.raises(ImageNotFound, match="has no image in a registry") as caught:
        deploy(subject, tmp_path / "out", session=session)
    assert caught.value.hint is not None and f"kbuild image {subject} --push" in caught.value.hint


def test_an_image_of_this_machine_alone_is_told_with_what_pushes_it(
    session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def take(text: str, *rest: object) -> str:
        raise ModelNotFound(f"{text} names no model")

    monkeypatch.setattr(deploying, "take_model", take)
    here = ListedImage(digest=Digest("a" * 64), names=("churn:1",), size=1, built=1.0, labels={"io.kbuild.run.id": RUN})
    monkeypatch.setattr(deploying, "list_here", lambda root: [here])
    with pytest.raises(ImageNotFound, match="churn:1 was built here, and is in no registry") as caught:
        deploy("churn:1", tmp_path / "out", session=session)
    assert caught.value.hint == f"kbuild image {RUN} --push REGISTRY/NAME:TAG"
    with pytest.raises(ModelNotFound, match="chrun:1 names no model"):
        deploy("chrun:1", tmp_path / "out", session=session)
    for cut in ("churn@sha256:aaaaaaaaaaaa", "registry.example:5000/churn@sha256:aaaaaaaaaaaa"):
        with pytest.raises(ImageNotFound, match=f"the digest of '{cut}' is cut: it has 12 of 64 figures"):
            deploy(cut, tmp_path / "out", session=session)


OTHER = IMAGE.replace("a" * 64, "c" * 64)


def profile(digest: str = DIGEST, **more: Any) -> dict[str, Any]:
    """As ``kbuild measure --json`` prints it."""
    host = {"processors": 2, "architecture": "x86_64", "model": None, "kernel": "Linux 6.1"}
    load = {"connections": 1, "seconds": 5, "answers": 500, "failed": 0, "rate": 100, "used": 0.5, "others": 0}
    return {
        "format": 1, "digest": digest, "platform": "linux/amd64", "cpu": "2", "workers": 2, "start_seconds": 30,
        "measured": "2026-11-29T06:00:00Z", "idle_bytes": 1, "peak_bytes": 500 * 2**20, "request_bytes": 9,
        "host": {**host, "runtime": "Docker 26.1.5", "memory_by": "cgroup", "held": True, "here": True},
        "loads": [{**load, "p50_ms": 1, "p90_ms": 2, "p99_ms": 3, "worst_ms": 4}], **more,
    }  # fmt: skip


def pod_of(folder: Path, name: str = "deployment.yaml") -> Any:
    return yaml.safe_load((folder / name).read_text())["spec"]["template"]["spec"]["containers"][0]


def test_resources_probes_and_autoscaler_are_as_measured_and_it_says_on_which_machine(
    session: Any, tmp_path: Path
) -> None:
    deploy(IMAGE, tmp_path / "plain", session=session)
    assert "not measured here" in session.said[-1]
    assert pod_of(tmp_path / "plain")["resources"]["limits"] == {"cpu": "1", "memory": "1Gi"}
    Profiles(session.tools.cache / "images").write(Profile.from_json(profile(), "it"))
    deploy(IMAGE, tmp_path / "out", session=session)
    assert any("on 2 processors x86_64, Linux 6.1, Docker 26.1.5" in each for each in session.said)
    container = pod_of(tmp_path / "out")
    # 500 MiB and a quarter, in steps of 64; ten times the start; 70 % of what was busy of two processors.
    amounts = {"cpu": "2", "memory": "640Mi"}
    assert container["resources"] == {"limits": amounts, "requests": amounts}
    assert {"name": "KBUILD_WORKERS", "value": "2"} in container["env"]
    # 140 MiB for two workers' requests, 50 bytes of memory for each of theirs, and what was asked: 9 bytes.
    assert {"name": "KBUILD_MAX_BODY_BYTES", "value": str(140 * 2**20 // 100 + 9)} in container["env"]
    probe = container["startupProbe"]
    assert (probe["periodSeconds"], probe["failureThreshold"]) == (3, 100)
    scaler = yaml.safe_load((tmp_path / "out/horizontalpodautoscaler.yaml").read_text())["spec"]
    assert scaler["metrics"][0]["resource"]["target"]["averageUtilization"] == 18
    metadata = yaml.safe_load((tmp_path / "out/deployment.yaml").read_text())["metadata"]
    assert "peak 500 MiB" in metadata["annotations"]["io.kbuild.measured"]
    deploy(IMAGE, tmp_path / "out", DeployOptions(cpu="1"), session=session)
    assert pod_of(tmp_path / "out")["resources"]["limits"] == {"cpu": "1", "memory": "1Gi"}
    deploy(IMAGE, tmp_path / "out", DeployOptions(memory="2Gi"), session=session)
    assert pod_of(tmp_path / "out")["resources"]["limits"] == {"cpu": "2", "memory": "2Gi"}


def test_an_images_own_bound_of_requests_is_left(session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Profiles(session.tools.cache / "images").write(Profile.from_json(profile(), "it"))
    own = {"Env": ["PATH=/bin", "KBUILD_MAX_BODY_BYTES=1000000"]}
    monkeypatch.setattr(deploying, "read_config", lambda layout, digest: (None, own))
    deploy(IMAGE, tmp_path / "out", session=session)
    assert "KBUILD_MAX_BODY_BYTES" not in {each["name"] for each in pod_of(tmp_path / "out")["env"]}
    assert not any("requests of at most" in each for each in session.said)


def test_a_profile_of_another_machine_is_taken_from_its_file(session: Any, tmp_path: Path) -> None:
    file = tmp_path / "profile.json"
    file.write_text(json.dumps(profile()))
    deploy(IMAGE, tmp_path / "out", DeployOptions(profile=file), session=session)
    assert pod_of(tmp_path / "out")["resources"]["limits"]["memory"] == "640Mi"
    file.write_text(json.dumps(profile(OTHER.partition("@")[2])))
    with pytest.raises(ConfigurationError, match="is not deployed here") as caught:
        deploy(IMAGE, tmp_path / "out", DeployOptions(profile=file), session=session)
    assert caught.value.hint == f"kbuild measure {IMAGE} --json > {file}"
    for text, said in (("{", "cannot be read"), ("{}", "is not a profile")):
        file.write_text(text)
        with pytest.raises(ConfigurationError, match=said):
            deploy(IMAGE, tmp_path / "out", DeployOptions(profile=file), session=session)


def test_a_canary_has_the_size_that_was_measured_of_it(session: Any, tmp_path: Path) -> None:
    file = tmp_path / "profile.json"
    file.write_text(json.dumps(profile(OTHER.partition("@")[2])))
    asked = DeployOptions(canary=(OTHER, 25), gateway=Gateway(name="edge"), profile=file)
    deploy(IMAGE, tmp_path / "out", asked, session=session)
    stable, canary = pod_of(tmp_path / "out"), pod_of(tmp_path / "out", "canary-deployment.yaml")
    assert (stable["image"], canary["image"]) == (IMAGE, OTHER)
    assert (stable["resources"]["limits"]["memory"], canary["resources"]["limits"]["memory"]) == ("1Gi", "640Mi")
    # What is promoted leaves nothing of the canary in the folder.
    deploy(OTHER, tmp_path / "out", session=session)
    assert not [name for name in read(tmp_path / "out") if "canary" in name or "route" in name]
    with pytest.raises(ConfigurationError, match=r"the canary is .* itself"):
        deploy(IMAGE, tmp_path / "out", DeployOptions(canary=(IMAGE, 10)), session=session)


def test_knatives_first_step_goes_with_the_canary(session: Any, tmp_path: Path) -> None:
    for to in ("knative", "kserve"):
        deploy(IMAGE, tmp_path / to, DeployOptions(to=to, canary=(OTHER, 10)), session=session)
        before = {name for name in read(tmp_path / to) if name.startswith("before-canary/")}
        assert len(before) == 2
        deploy(OTHER, tmp_path / to, DeployOptions(to=to), session=session)
        assert before.isdisjoint(read(tmp_path / to))


@pytest.mark.parametrize(
    ("to", "given"),
    [
        ("compose", {"canary": (OTHER, 10)}),
        ("compose", {"namespace": "models"}),
        ("compose", {"pull_secret": "registry"}),
        ("compose", {"replicas": (3, 3)}),
        ("knative", {"gateway": Gateway(name="edge")}),
        ("kubernetes", {"serverless": True}),
        ("kserve", {"port": 80}),
    ],
)
def test_what_is_of_another_target_is_refused_with_its_own(to: str, given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"is not for --to {to}") as caught:
        DeployOptions(to=to, **given)
    assert caught.value.hint is not None and caught.value.hint.startswith("--to ")
