"""What whoever runs the cluster meets: a canary beside what runs, pods that end, services that sleep, little memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from kbuild.deploy.canary import Canary, Gateway
from kbuild.deploy.deployment import GRACE, Deployment, Size
from kbuild.deploy.kubernetes import make_kubernetes
from kbuild.deploy.measured import size_by
from kbuild.deploy.serverless import make_knative, make_kserve
from kbuild.errors import ConfigurationError
from kbuild.image.oci.image_reference import ImageReference
from kbuild.measuring.profile import Profile

IMAGES = [ImageReference.parse(f"registry.example/churn@sha256:{letter * 64}") for letter in "ab"]


def made(**more: Any) -> Deployment:
    return Deployment(**{"name": "churn", "image": IMAGES[0], "user": 65532, **more})


def has(labels: dict[str, str], selector: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


NINE = made(size=Size(least=9, most=9))


@pytest.mark.parametrize("gateway", [None, Gateway(name="edge")])
def test_a_canary_restarts_nothing_and_its_service_has_the_pods_that_run(gateway: Gateway | None) -> None:
    """A Service whose selector no running pod has sends every request to nobody until new pods are ready."""
    [plain] = make_kubernetes(NINE)["deployment.yaml"]
    new_one = Canary(deployment=dataclasses.replace(NINE, image=IMAGES[1]), percent=10)
    files = make_kubernetes(NINE, canary=new_one, gateway=gateway)
    [kept], [service] = files["deployment.yaml"], files["service.yaml"]
    assert kept == plain
    assert has(plain["spec"]["template"]["metadata"]["labels"], service["spec"]["selector"])
    # And back: what is applied to promote or drop the canary finds its own pods at once.
    [alone] = make_kubernetes(NINE)["service.yaml"]
    assert has(kept["spec"]["template"]["metadata"]["labels"], alone["spec"]["selector"])
    [new] = files["canary-deployment.yaml"]
    assert not has(new["spec"]["template"]["metadata"]["labels"], alone["spec"]["selector"])


def test_kserves_pods_have_the_time_to_drain() -> None:
    """30 seconds are Kubernetes' own, and the server's too: what it still answers then is killed.

    What runs before SIGTERM is of the same seconds (Kubernetes' "Container hooks").
    """
    [raw] = make_kserve(NINE)["inferenceservice.yaml"]
    predictor = raw["spec"]["predictor"]
    [deployment] = make_kubernetes(NINE)["deployment.yaml"]
    pod = deployment["spec"]["template"]["spec"]
    slept = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert predictor["terminationGracePeriodSeconds"] == pod["terminationGracePeriodSeconds"] > slept + GRACE
    assert predictor["containers"][0]["lifecycle"] == pod["containers"][0]["lifecycle"]
    # Knative takes neither: it drains by itself, for as long as a request may take.
    [serverless] = make_kserve(NINE, serverless=True)["inferenceservice.yaml"]
    inside = serverless["spec"]["predictor"]
    assert "terminationGracePeriodSeconds" not in inside and "lifecycle" not in inside["containers"][0]


def test_kserves_clients_ask_for_the_model_by_the_services_name() -> None:
    """``/v2/models/NAME/infer``, as KServe's samples and its transformers do; a canary has the same one."""
    canary = Canary(deployment=dataclasses.replace(NINE, image=IMAGES[1]), percent=10)
    for files in (make_kserve(NINE), make_kserve(NINE, serverless=True), make_kserve(NINE, canary=canary)):
        [service] = files["inferenceservice.yaml"]
        [container] = service["spec"]["predictor"]["containers"]
        assert {"name": "KBUILD_MODEL_NAME", "value": service["metadata"]["name"]} in container["env"]


def test_probes_wait_for_what_large_requests_may_hold_up() -> None:
    """Four requests of 52 MiB, of the 64 that a server takes, have it answer /livez after 2.5 s; the default is 1."""
    for files in (make_kubernetes(NINE), make_knative(NINE), make_kserve(NINE), make_kserve(NINE, serverless=True)):
        for several in files.values():
            for probe in probes_in(several):
                assert probe["timeoutSeconds"] >= 5
    assert len(list(probes_in(make_kubernetes(NINE)["deployment.yaml"]))) == 3


def probes_in(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, list):
        for each in value:
            yield from probes_in(each)
    elif isinstance(value, dict):
        for name, each in value.items():
            yield from [each] if name.endswith("Probe") else probes_in(each)


def test_knative_may_scale_to_nothing_and_kubernetes_may_not() -> None:
    sleeping = made(size=Size(least=0, most=4))
    [service] = make_knative(sleeping)["service.yaml"]
    assert service["spec"]["template"]["metadata"]["annotations"] == {
        "autoscaling.knative.dev/max-scale": "4",
        "autoscaling.knative.dev/min-scale": "0",
    }
    [inference] = make_kserve(sleeping, serverless=True)["inferenceservice.yaml"]
    assert inference["spec"]["predictor"]["minReplicas"] == 0
    for make in (make_kubernetes, make_kserve):
        with pytest.raises(ConfigurationError, match=r"0\.\.4 are not replicas that Kubernetes") as told:
            make(sleeping)
        assert told.value.hint is not None and "--to knative" in told.value.hint
    with pytest.raises(ConfigurationError, match=r"0\.\.0 are not replicas"):
        Size(least=0, most=0)


def profile(**more: Any) -> Profile:
    value: dict[str, Any] = {
        "format": 1, "digest": "sha256:" + "a" * 64, "platform": "linux/amd64", "cpu": "1", "workers": 1,
        "measured": "2026-11-29T12:00:00Z", "start_seconds": 0.8, "request_bytes": 10, "idle_bytes": 100 * 2**20,
        "peak_bytes": 111 * 2**20, "loads": [],
        "host": {"processors": 2, "architecture": "x86_64", "model": "Xeon", "kernel": "Linux 6.1",
                 "runtime": "Docker 26.1.5", "memory_by": "its cgroup", "held": True, "here": True},
    }  # fmt: skip
    load = {
        "connections": 1, "seconds": 1.0, "answers": 1, "failed": 0, "rate": 1.0, "p50_ms": 1.0, "p90_ms": 1.0,
        "p99_ms": 1.0, "worst_ms": 1.0, "used": 0.7, "others": 0.0,
    }  # fmt: skip
    return Profile.from_json({**value, "loads": [load], **more}, "it")


@pytest.mark.parametrize(("memory", "little"), [("10Mi", True), ("110M", True), ("111Mi", False), ("1Gi", False)])
def test_less_memory_than_it_was_seen_to_take_is_told(memory: str, little: bool) -> None:
    sized = size_by(profile(), cpu=None, memory=memory, replicas=(2, 10))
    assert sized.size.memory == memory
    assert (f"{memory} is less than the 111 MiB that it took" in sized.told) == little


MIB = 2**20


@pytest.mark.parametrize(
    ("memory", "workers", "request_bytes", "most"),
    # What is left above the peak, shared by the workers, of which a request takes up to 50 bytes for each of its own:
    # 4 MiB of rows such as [1,2,3] took 167 MiB, of columns of digits 178, of objects that lack a column 190.
    [(None, 1, 0, 81 * MIB // 50), (None, 2, 0, 145 * MIB // 100), ("512Mi", 1, 0, 401 * MIB // 50),
     ("2Gi", 1, 0, None), ("64Mi", 1, 0, MIB // 16), ("115Mi", 1, 0, 4 * MIB // 50),
     (None, 1, 20 * MIB, 20 * MIB + 81 * MIB // 50)],
)  # fmt: skip
def test_a_pod_takes_no_larger_requests_than_its_memory_has_room_for(
    memory: str | None, workers: int, request_bytes: int, most: int | None
) -> None:
    measured = profile(cpu=str(workers), workers=workers, request_bytes=request_bytes)
    sized = size_by(measured, cpu=None, memory=memory, replicas=(2, 10))
    assert made(size=sized.size).variables.get("KBUILD_MAX_BODY_BYTES") == (None if most is None else str(most))
    assert ("requests of at most" in sized.told) == (most is not None)
    assert size_by(None, cpu=None, memory="64Mi", replicas=(2, 10)).size.max_body is None, "nothing is known of it"


@pytest.mark.parametrize(("workers", "memory"), [(1, "192Mi"), (4, "320Mi"), (8, "512Mi")])
def test_memory_that_is_not_stated_has_room_for_a_request_of_a_mebibyte_in_each_worker(
    workers: int, memory: str
) -> None:
    """111 MiB and 50 for each of them, in steps of 64: a quarter above the peak were 28 for all."""
    sized = size_by(profile(cpu=str(workers), workers=workers), cpu=None, memory=None, replicas=(2, 10)).size
    assert sized.memory == memory and (sized.max_body or 0) >= MIB


def test_an_error_names_the_option_that_was_typed() -> None:
    with pytest.raises(ConfigurationError, match=r"^--gateway 'a/b' is not a DNS label"):
        Gateway.parse("a/b/c", None)
    with pytest.raises(ConfigurationError) as told:
        dataclasses.replace(made(), namespace="")
    assert told.value.hint is not None and told.value.hint.endswith("such as models")
