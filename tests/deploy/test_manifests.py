"""Manifests, by the published schemas of what reads them."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from kbuild.deploy.canary import Canary, Gateway, parse_canary
from kbuild.deploy.compose import make_compose
from kbuild.deploy.deployment import GRACE, LONGEST, Deployment, Size, make_label, parse_replicas
from kbuild.deploy.kubernetes import Files, make_kubernetes
from kbuild.deploy.serverless import make_knative, make_kserve
from kbuild.deploy.write import write_files
from kbuild.errors import ConfigurationError
from kbuild.image.oci.image_reference import ImageReference
from kbuild.serving.http.server_settings import Settings
from kbuild.serving.watch.metrics import Metrics

IMAGE = "registry.example/churn@sha256:" + "a" * 64
# The oldest with all that is in them: a pod's sleep before SIGTERM.
VERSION = "1.31"
CRDS = Path(__file__).parent / "crds"
THEIRS = ("InferenceService", "HTTPRoute", "ServiceMonitor")
OURS = ("Kustomization", "Component", "ServiceMonitor", "InferenceService")
LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")  # RFC 1035, as Kubernetes has it for Services


def made(**more: Any) -> Deployment:
    facts = {"io.kbuild.model.uri": "models:/churn/3", "io.kbuild.cost": "$HOME"}
    given: dict[str, Any] = {"name": "churn", "image": ImageReference.parse(IMAGE), "user": 65532, "facts": facts}
    return Deployment(**{**given, **more})


ALL = [
    made(),
    made(size=Size(least=3, most=3, cpu="500m", memory="1.5G"), user=None, facts={}),
    made(name=make_label("x" * 300), namespace="models", pull_secret="registry"),  # noqa: S106
]


CANARY = ImageReference.parse("registry.example/churn@sha256:" + "b" * 64)


@pytest.mark.parametrize(
    ("make", "says", "hint"),
    [
        (lambda: Size(cpu="two"), "'two' is not an amount of processors", "such as --cpu 2 or 500m"),
        (lambda: Size(memory="much"), "'much' is not an amount of memory", "such as --memory 512Mi or 2Gi"),
        (
            lambda: Size(memory="512"),
            "512 bytes of memory hold no container: it takes 6Mi at least",
            "such as --memory 512Mi or 2Gi; without a unit they are bytes",
        ),
        (
            lambda: Size(memory="64Ki"),
            "64Ki bytes of memory hold no container: it takes 6Mi at least",
            "such as --memory 512Mi or 2Gi; without a unit they are bytes",
        ),
        (lambda: Size(memory="9000000Ti"), "'9000000Ti' is not an amount of memory", "such as --memory 512Mi or 2Gi"),
        (lambda: Size(least=3, most=2), "3..2 are not replicas", "such as --replicas 2..10, or 3 for always three"),
        (lambda: parse_replicas("two"), "'two' are not replicas", "such as --replicas 2..10, or 3 for always three"),
        (
            lambda: Size(least=0, most=4).check_awake(),
            "0..4 are not replicas that Kubernetes itself can scale to",
            "--replicas 1..4, or --to knative, or --to kserve --serverless",
        ),
        (
            lambda: made(name="My Churn"),
            "--name 'My Churn' is not a DNS label",
            "small letters, digits and -, a letter first, at most 50; such as my-churn",
        ),
        (
            lambda: made(namespace="My Team"),
            "--namespace 'My Team' is not a DNS label",
            "small letters, digits and - between them, at most 63; such as my-team",
        ),
        (
            lambda: Gateway.parse("infra/My Edge", None),
            "--gateway 'My Edge' is not a DNS subdomain",
            "small letters, digits, and - or single dots between them, at most 253; such as my-edge",
        ),
        (lambda: parse_canary("churn=0"), "'0' is not a share of the requests", "such as --canary churn=10"),
        (lambda: parse_canary("=10"), "'10' is not a share of the requests", "such as --canary MODEL=10"),
        (
            lambda: make_kubernetes(made(), canary=canary_of(made())),
            "2 replicas and 1 canary give it 33 %",
            "--replicas 9..10, or --gateway NAME, which counts requests",
        ),
    ],
)
def test_what_cannot_be_is_told_with_what_to_type(make: Any, says: str, hint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make()
    assert caught.value.message.startswith(says) and caught.value.hint == hint


def canary_of(deployment: Deployment, percent: int = 10) -> Canary:
    """Another image by the same name, measured to be smaller."""
    other = dataclasses.replace(deployment, image=CANARY, size=dataclasses.replace(deployment.size, memory="256Mi"))
    return Canary(deployment=other, percent=percent)


def written(deployment: Deployment) -> list[Files]:
    """What is made of a deployment for clusters, in every way there is."""
    canary, gateway = canary_of(deployment), Gateway(name="edge", namespace="infra", hostname="*.example.com")
    many = dataclasses.replace(deployment, size=dataclasses.replace(deployment.size, least=9, most=20))
    return [
        make_kubernetes(deployment),
        make_kubernetes(deployment, gateway=Gateway(name="edge")),
        make_kubernetes(deployment, canary=canary, gateway=gateway),
        make_kubernetes(many, canary=canary_of(many)),
        make_knative(deployment),
        make_knative(deployment, canary=canary),
        make_kserve(deployment),
        make_kserve(deployment, serverless=True),
        make_kserve(deployment, canary=canary),
    ]


def every_document() -> list[dict[str, Any]]:
    """All documents of all deployments here that are not Kubernetes' own."""
    lists = (several for deployment in ALL for files in written(deployment) for several in files.values())
    found = (each for several in lists for each in several)
    return [each for each in found if each["kind"] in THEIRS or each["apiVersion"].startswith("serving.knative.dev/")]


def documents(deployment: Deployment, make: Any) -> dict[str, dict[str, Any]]:
    return {each["kind"]: each for several in make(deployment).values() for each in several}


def test_the_schemas_see_what_is_wrong() -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [{"nam": "a"}]}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod, VERSION, strict=True)


def check_pod(spec: dict[str, Any]) -> None:
    """By Kubernetes' schema of a pod, and its Pod Security Standard "restricted", item by item."""
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "churn"}, "spec": spec}
    kubernetes_validate.validate(copy.deepcopy(pod), VERSION, strict=True)
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    assert {name for volume in spec["volumes"] for name in volume} == {"name", "emptyDir"}
    assert spec["automountServiceAccountToken"] is False and spec["enableServiceLinks"] is False
    for container in spec["containers"]:
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False and security["runAsNonRoot"] is True
        assert security.get("runAsUser") != 0 and security["readOnlyRootFilesystem"] is True
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert [each["mountPath"] for each in container["volumeMounts"]] == ["/tmp"]
        assert container["image"] == IMAGE
        assert container["resources"]["limits"] == container["resources"]["requests"]
        assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": 8080}
        assert container["livenessProbe"]["httpGet"] == {"path": "/livez", "port": 8080}


@pytest.mark.parametrize("deployment", ALL, ids=["default", "fixed", "long"])
def test_kubernetes_takes_them_strictly(deployment: Deployment) -> None:
    written = make_kubernetes(deployment)
    found = documents(deployment, make_kubernetes)
    for kind, document in [(each["kind"], each) for several in written.values() for each in several]:
        if kind not in OURS:
            kubernetes_validate.validate(copy.deepcopy(document), VERSION, strict=True)
        if kind not in ("Kustomization", "Component"):
            assert LABEL.fullmatch(document["metadata"]["name"]) and len(document["metadata"]["name"]) <= 63
    spec = found["Deployment"]["spec"]
    check_pod(spec["template"]["spec"])
    scaled = deployment.size.least != deployment.size.most
    assert ("HorizontalPodAutoscaler" in found) == scaled == ("replicas" not in spec)
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] > GRACE == Settings.from_environment({}).grace
    selected = spec["selector"]["matchLabels"]
    assert has(spec["template"]["metadata"]["labels"], selected)
    for kind, place in (("Service", "selector"), ("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
        chosen = found[kind]["spec"][place]
        assert chosen.get("matchLabels", chosen) == selected
    assert found["ServiceMonitor"]["spec"]["endpoints"][0]["port"] == found["Service"]["spec"]["ports"][0]["name"]
    named = {name for name in written if "/" not in name} - {"kustomization.yaml"}
    assert set(found["Kustomization"]["resources"]) == named
    for component in {name.partition("/")[0] for name in written if "/" in name}:
        [listed] = written[f"{component}/kustomization.yaml"]
        files_of = {*listed.get("resources", ()), *(each["path"] for each in listed.get("patches", ()))}
        assert files_of == {name.partition("/")[2] for name in written if name.startswith(f"{component}/")} - {
            "kustomization.yaml"
        }
    assert found["Kustomization"].get("namespace") == deployment.namespace


@pytest.mark.parametrize("port", [8080, 9001])
def test_whoever_is_let_in_comes_to_the_port_that_the_image_listens_at(port: int) -> None:
    """The server's own, which is not the Service's: a policy that names another one keeps every request out."""
    seen = 0
    for files_of in written(made(port=port)):
        listening = {each["name"] for each in ports_of(files_of)}
        for document in (each for several in files_of.values() for each in several):
            kind = document["kind"]
            for place, value in leaves(document):
                is_server = place[-1] == "containerPort" or place[-2:] == ("httpGet", "port")
                if is_server or (kind == "NetworkPolicy" and place[-1] == "port"):
                    assert value == port, (kind, place)
                elif kind == "Service" and place[-1] == "targetPort":
                    assert value in listening
                else:
                    continue
                seen += 1
    assert seen > 40
    [compose] = make_compose(made(port=port), port=7000)["compose.yaml"]
    assert compose["services"]["churn"]["ports"] == [f"127.0.0.1:7000:{port}"]


def ports_of(files_of: Files) -> list[dict[str, Any]]:
    """Those of the containers of all Deployments."""
    found = [each for several in files_of.values() for each in several if each["kind"] == "Deployment"]
    pods = [each["spec"]["template"]["spec"] for each in found]
    return [port for pod in pods for container in pod["containers"] for port in container["ports"]]


def leaves(value: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every single value with the keys that lead to it; items of a list have none."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from leaves(part, (*place, key))
    elif isinstance(value, list):
        for part in value:
            yield from leaves(part, place)
    else:
        yield place, value


@pytest.mark.parametrize("deployment", ALL, ids=["default", "fixed", "long"])
def test_knative_takes_every_field(deployment: Deployment) -> None:
    """Those of its PodSpecMask that need no feature flag; its Service is checked as the pod it becomes."""
    spec = documents(deployment, make_knative)["Service"]["spec"]["template"]["spec"]
    assert set(spec) <= {
        "containers", "volumes", "imagePullSecrets", "enableServiceLinks", "automountServiceAccountToken",
        "timeoutSeconds",
    }  # fmt: skip
    assert "startupProbe" not in spec["containers"][0] and spec["containers"][0]["ports"][0]["name"] == "http1"
    check_pod({name: value for name, value in spec.items() if name != "timeoutSeconds"})


@pytest.mark.parametrize("deployment", ALL, ids=["default", "fixed", "long"])
def test_kserves_predictor_is_a_pod(deployment: Deployment) -> None:
    predictor = documents(deployment, make_kserve)["InferenceService"]["spec"]["predictor"]
    assert (predictor["minReplicas"], predictor["maxReplicas"]) == (deployment.size.least, deployment.size.most)
    check_pod({name: value for name, value in predictor.items() if not name.endswith("Replicas")})
    assert [each["name"] for each in predictor["containers"]] == ["kserve-container"]


def checking(schema: dict[str, Any]) -> Any:
    """What validates by a schema that is valid itself: to see that takes longer than all documents."""
    made = jsonschema.validators.validator_for(schema)
    made.check_schema(schema)
    return made(schema)


@functools.cache
def compose_schema() -> Any:
    place = files("check_jsonschema").joinpath("builtin_schemas/vendor/compose-spec.json")
    return checking(json.loads(place.read_text("utf-8")))


def test_others_kinds_are_valid_by_their_published_schemas() -> None:
    """Strictly: a field that the schema does not know, or one that crd_schemas.py has not seen yet, is refused."""
    schemas = {path.stem: checking(json.loads(path.read_text("utf-8"))) for path in CRDS.glob("*.json")}
    found = every_document()
    assert {each["kind"].lower() for each in found} == set(schemas)
    for each in found:
        schemas[each["kind"].lower()].validate(each)
    misspelt = copy.deepcopy(next(each for each in found if "canaryTrafficPercent" in str(each)))
    misspelt["spec"]["predictor"]["canaryTrafficPercents"] = 10
    with pytest.raises(jsonschema.ValidationError, match="canaryTrafficPercents"):
        schemas["inferenceservice"].validate(misspelt)


@pytest.mark.parametrize("deployment", ALL, ids=["default", "fixed", "long"])
@pytest.mark.parametrize("gateway", [None, Gateway(name="edge", namespace="infra", hostname="a.example.com")])
def test_a_canary_is_a_deployment_of_its_own(deployment: Deployment, gateway: Gateway | None) -> None:
    """Kubernetes refuses another selector of a Deployment that is there, and no two may choose the same pods."""
    stable = dataclasses.replace(deployment, size=dataclasses.replace(deployment.size, least=9, most=20))
    plain = make_kubernetes(stable)
    files = make_kubernetes(stable, canary=canary_of(stable), gateway=gateway)
    for name, several in files.items():
        for each in several:
            if each["kind"] not in (*OURS, "HTTPRoute"):
                kubernetes_validate.validate(copy.deepcopy(each), VERSION, strict=True)
            assert each["kind"] in OURS or LABEL.fullmatch(each["metadata"]["name"]), name
    [old], [kept], [new] = plain["deployment.yaml"], files["deployment.yaml"], files["canary-deployment.yaml"]
    assert kept["spec"]["selector"] == old["spec"]["selector"] and kept["metadata"] == old["metadata"]
    pods = [each["spec"]["template"]["metadata"]["labels"] for each in (kept, new)]
    chosen = [each["spec"]["selector"]["matchLabels"] for each in (kept, new)]
    assert [[has(labels, selector) for labels in pods] for selector in chosen] == [[True, False], [False, True]]
    assert [each["spec"]["template"]["spec"]["containers"][0]["image"] for each in (kept, new)] == [IMAGE, str(CANARY)]
    check_pod(kept["spec"]["template"]["spec"])
    [kustomization] = files["kustomization.yaml"]
    assert set(kustomization["resources"]) == {name for name in files if "/" not in name} - {"kustomization.yaml"}
    services = {each["metadata"]["name"]: each for name in files for each in files[name] if each["kind"] == "Service"}
    if gateway is None:
        # One Service over both, and one replica of ten is new.
        (service,) = services.values()
        assert all(has(labels, service["spec"]["selector"]) for labels in pods)
        assert (new["spec"].get("replicas"), "canary-horizontalpodautoscaler.yaml" in files) == (None, True)
        [scaler] = files["canary-horizontalpodautoscaler.yaml"]
        assert (scaler["spec"]["minReplicas"], scaler["spec"]["maxReplicas"]) == (1, 2)
        return
    [route] = files["httproute.yaml"]
    (rule,) = route["spec"]["rules"]
    assert [each["weight"] for each in rule["backendRefs"]] == [90, 10]
    for each, labels in zip(rule["backendRefs"], pods, strict=True):
        service = services[each["name"]]
        assert [port["port"] for port in service["spec"]["ports"]] == [each["port"]]
        assert [has(pod, service["spec"]["selector"]) for pod in pods] == [pod is labels for pod in pods]


def has(labels: dict[str, str], selector: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


def test_a_share_that_replicas_cannot_make_is_refused_with_those_that_can() -> None:
    with pytest.raises(
        ConfigurationError, match=r"2 replicas and 1 canary give it 33 % of the requests, not 10 %"
    ) as told:
        make_kubernetes(made(), canary=canary_of(made()))
    assert told.value.hint is not None and told.value.hint.startswith("--replicas 9..10")
    enough = made(size=Size(least=9, most=10))
    assert "canary-deployment.yaml" in make_kubernetes(enough, canary=canary_of(enough))
    [half] = make_kubernetes(made(), canary=canary_of(made(), 50))["canary-horizontalpodautoscaler.yaml"]
    assert (half["spec"]["minReplicas"], half["spec"]["maxReplicas"]) == (2, 10)


@pytest.mark.parametrize("percent", range(1, 100))
def test_the_replicas_that_are_named_make_the_share(percent: int) -> None:
    for least in (1, 2, 3):
        few = made(size=Size(least=least, most=least))
        try:
            files = make_kubernetes(few, canary=canary_of(few, percent))
        except ConfigurationError as error:
            named = re.match(r"--replicas (\d+)\.\.\d+", error.hint or "")
            assert named is not None
            enough = made(size=Size(least=int(named[1]), most=int(named[1])))
            files = make_kubernetes(enough, canary=canary_of(enough, percent))
        counts = [files[name][0]["spec"]["replicas"] for name in ("deployment.yaml", "canary-deployment.yaml")]
        assert abs(100 * counts[1] / sum(counts) - percent) <= 5


@pytest.mark.parametrize("deployment", ALL, ids=["default", "fixed", "long"])
def test_knatives_canary_is_a_revision_beside_the_one_that_was_applied_before(deployment: Deployment) -> None:
    files = make_knative(deployment, canary=canary_of(deployment))
    [before], [service] = files["before-canary/service.yaml"], files["service.yaml"]
    names = [each["spec"]["template"]["metadata"]["name"] for each in (before, service)]
    # A revision's name begins with its Service's, and is never another template's.
    assert all(name.startswith(f"{deployment.name}-") and LABEL.fullmatch(name) and len(name) <= 63 for name in names)
    assert len({*names}) == 2 and before["metadata"]["name"] == service["metadata"]["name"]
    assert [(x["revisionName"], x["percent"]) for x in before["spec"]["traffic"]] == [(names[0], 100)]
    assert [(x["revisionName"], x["percent"]) for x in service["spec"]["traffic"]] == [(names[0], 90), (names[1], 10)]
    images = [each["spec"]["template"]["spec"]["containers"][0]["image"] for each in (before, service)]
    assert images == [IMAGE, str(CANARY)]


def test_kserves_canary_is_a_newer_spec_by_knative() -> None:
    files = make_kserve(made(), canary=canary_of(made()))
    [before], [service] = files["before-canary/inferenceservice.yaml"], files["inferenceservice.yaml"]
    modes = [x["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] for x in (before, service)]
    assert modes == ["Serverless", "Serverless"], "which KServe does not let change"
    predictors = [each["spec"]["predictor"] for each in (before, service)]
    assert [each.get("canaryTrafficPercent") for each in predictors] == [None, 10]
    assert [each["containers"][0]["image"] for each in predictors] == [IMAGE, str(CANARY)]
    assert [before] == make_kserve(made(), serverless=True)["inferenceservice.yaml"]


@pytest.mark.parametrize(
    ("text", "found"),
    [("models:/a@b=25", ("models:/a@b", 25)), ("models:/a/3", ("models:/a/3", 10)), (IMAGE, (IMAGE, 10))],
)
def test_a_canary_is_read_with_its_share(text: str, found: tuple[str, int]) -> None:
    assert parse_canary(text) == found


@pytest.mark.parametrize("text", ["a=0", "a=100", "a=x", "a=", "=10", "a=1.5", "a=²"])
def test_what_is_not_a_share_is_told(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a share of the requests in percent"):
        parse_canary(text)


@pytest.mark.parametrize("text", ["", "a/", "/a/b", "A", "a b"])
def test_what_is_not_a_gateway_is_told(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"--(gateway|namespace)"):
        Gateway.parse(text, None)


@pytest.mark.parametrize("deployment", ALL, ids=["default", "fixed", "long"])
def test_compose_takes_its_file(deployment: Deployment) -> None:
    (document,) = make_compose(deployment)["compose.yaml"]
    compose_schema().validate(document)
    (service,) = document["services"].values()
    assert service["image"] == IMAGE and service["read_only"] and service["cap_drop"] == ["ALL"]
    assert service["ports"] == ["127.0.0.1:8080:8080"]
    assert service["mem_limit"] == (1_500_000_000 if deployment.size.least == 3 else 2**30)
    if deployment.facts:
        assert service["labels"]["io.kbuild.cost"] == "$$HOME"


@given(st.text(max_size=80))
def test_any_models_name_is_a_dns_label(text: str) -> None:
    label = make_label(text)
    assert LABEL.fullmatch(label) and len(label) <= LONGEST and make_label(text) == label
    assert made(name=label).name == label


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Churn Model", "churn-model"),
        ("churn_v2.1", "churn-v2-1"),
        ("3d", "model-3d"),
        ("Zürich", "zurich"),
        ("a", "a"),
    ],
)
def test_a_name_is_read_as_it_was(text: str, label: str) -> None:
    assert make_label(text) == label


def test_names_that_lose_signs_are_told_apart() -> None:
    names = ["модель", "模型", "x" * 60, "x" * 61, "a@b", "a#b", "", "-"]
    assert len({make_label(name) for name in names}) == len(names)


def test_what_no_cluster_takes_is_refused_before_it_is_written() -> None:
    for more in ({"name": "Churn"}, {"name": "-a"}, {"name": "a" * 64}, {"namespace": "a_b"}, {"pull_secret": ""}):
        with pytest.raises(ConfigurationError, match=r"is not a DNS (label|subdomain)"):
            made(**more)
    for secret in ("a..b", "a.-b", "a-.b", ".a", "a" * 254):  # kubectl create secret refuses each
        with pytest.raises(ConfigurationError, match="--pull-secret") as caught:
            made(pull_secret=secret)
        assert caught.value.hint is not None and "at most 253" in caught.value.hint
    with pytest.raises(ConfigurationError, match="--namespace") as caught:
        made(namespace="a" * 64)
    assert (
        caught.value.hint is not None and "at most 63" in caught.value.hint and "letter first" not in caught.value.hint
    )
    made(namespace="1st", pull_secret="my.registry")  # noqa: S106
    with pytest.raises(ConfigurationError, match="by its digest"):
        made(image=ImageReference.parse("registry.example/churn:3"))
    for more in ({"cpu": "0"}, {"cpu": "0m"}, {"cpu": "two"}, {"cpu": "-1"}, {"memory": "1 GB"}, {"memory": "0Mi"}):
        with pytest.raises(ConfigurationError, match="is not an amount of"):
            Size(**more)  # type: ignore[arg-type]
    for least, most in ((0, 0), (-1, 2), (3, 2)):
        with pytest.raises(ConfigurationError, match="are not replicas"):
            Size(least=least, most=most)
    assert [parse_replicas(text) for text in ("3", "2..10")] == [(3, 3), (2, 10)]
    for text in ("", "2..", "2-3", "-1", "a", "1..2..3"):
        with pytest.raises(ConfigurationError, match="are not replicas"):
            parse_replicas(text)


@pytest.mark.parametrize(("cpu", "workers"), [("500m", 1), ("1", 1), ("1.5", 1), ("2", 2), ("3500m", 3)])
def test_there_is_a_worker_a_processor(cpu: str, workers: int) -> None:
    assert made(size=Size(cpu=cpu)).variables["KBUILD_WORKERS"] == str(workers)


def test_an_autoscaler_by_requests_asks_for_a_gauge_that_the_server_has() -> None:
    written = make_kubernetes(made(size=Size(cpu="3")))
    [patch], [plain] = (
        written["scale-by-requests/horizontalpodautoscaler.yaml"],
        written["horizontalpodautoscaler.yaml"],
    )
    [metric] = patch["spec"]["metrics"]
    assert metric["pods"]["target"] == {"type": "AverageValue", "averageValue": "6"}
    assert f"{metric['pods']['metric']['name']} 0\n" in Metrics(1).render({}).decode()
    assert {**patch["spec"], "metrics": None} == {**plain["spec"], "metrics": None}, "nothing else is patched"


TEXTS = [
    "y",
    "N",
    "no",
    "1e3",
    "12e4567",
    "1E-3",
    "1.e2",
    ".5e1",
    "0o17",
    "0b1",
    "1_000",
    "1:30",
    "010",
    "09",
    "+1",
    "~",
]


@pytest.mark.parametrize("text", [*TEXTS, "churn", "500m", "e3", "1e3x"])
def test_a_text_stays_one_for_readers_of_other_yaml(text: str, tmp_path: Path) -> None:
    """kubectl read `12e4567`, an annotation, as a number, and refused the file; `y` is true in YAML 1.1, 1e3 a number
    in 1.2 (https://yaml.org/type/bool.html, https://yaml.org/spec/1.2.2/#1032-tag-resolution)."""
    [path] = write_files({"x.yaml": [{"annotations": {"io.kbuild.x": text}}]}, tmp_path)
    for version in ((1, 1), (1, 2)):
        reader = YAML(typ="safe", pure=True)
        reader.version = version
        assert reader.load(path)["annotations"] == {"io.kbuild.x": text}
    quoted = path.read_text().endswith(f": '{text}'\n")
    assert quoted == (text in TEXTS)
