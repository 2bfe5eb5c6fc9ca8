"""Knative's Service and KServe's InferenceService: both make the rest themselves.

Fields: Knative's ``PodSpecMask`` and ``ContainerMask`` (knative.dev/serving, ``pkg/apis/serving/fieldmask.go``) tell
which of a pod's are taken; KServe's predictor takes a pod's own (``serving.kserve.io/v1beta1``).

Both share requests out between versions that came one after the other: with a canary there is a folder
``before-canary`` with the stable version, which has to be applied first, by the same options.
"""

from __future__ import annotations

import json
from typing import Any

from kbuild.deploy.canary import Canary
from kbuild.deploy.deployment import Deployment
from kbuild.deploy.kubernetes import Files, make_kustomization, make_metadata
from kbuild.deploy.pod import LIFECYCLE, OF_ITSELF, make_container, make_pod_rest, make_probes
from kbuild.digest import digest_bytes

BEFORE = "before-canary"
_SCALE = "autoscaling.knative.dev"
_HASH = 10  # with the longest name and a hyphen it is a label


def make_knative(made: Deployment, *, canary: Canary | None = None) -> Files:
    """A Service of Knative Serving; with a canary its revisions have names, made of what is in them."""
    if canary is None:
        return _alone("service.yaml", _knative(made, _template(made)), made)
    stable, new = _named(made, _template(made)), _named(canary.deployment, _template(canary.deployment))
    names = [each["metadata"]["name"] for each in (stable, new)]
    before = _knative(made, stable, [_traffic(names[0], 100, "stable")])
    shared = [_traffic(names[0], 100 - canary.percent, "stable"), _traffic(names[1], canary.percent, "canary")]
    return _both("service.yaml", before, _knative(canary.deployment, new, shared), made)


def make_kserve(made: Deployment, *, canary: Canary | None = None, serverless: bool = False) -> Files:
    """An InferenceService whose predictor is the image; without Knative, as KServe's "RawDeployment" has it, unless
    ``serverless`` or a canary wants it: KServe changes no mode of what there is."""
    name = "inferenceservice.yaml"
    if canary is None:
        return _alone(name, _kserve(made, serverless=serverless), made)
    before, shared = _kserve(made, serverless=True), _kserve(canary.deployment, serverless=True)
    predictor = shared["spec"]["predictor"]
    shared["spec"]["predictor"] = {"canaryTrafficPercent": canary.percent, **predictor}
    return _both(name, before, shared, made)


def _alone(name: str, document: dict[str, Any], made: Deployment) -> Files:
    return {name: [document], "kustomization.yaml": [make_kustomization(made, [name])]}


def _both(name: str, before: dict[str, Any], shared: dict[str, Any], made: Deployment) -> Files:
    first = {f"{BEFORE}/{file}": documents for file, documents in _alone(name, before, made).items()}
    return {**_alone(name, shared, made), **first}


def _knative(made: Deployment, template: dict[str, Any], traffic: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": make_metadata(made, facts=True),
        "spec": {"template": template, **({} if traffic is None else {"traffic": traffic})},
    }


def _template(made: Deployment) -> dict[str, Any]:
    # http1 is the name by which Knative knows the port's protocol.
    container = make_container(made, name="model", port_name="http1")
    probes = {name: probe for name, probe in make_probes(made).items() if name != "startupProbe"}
    return {
        "metadata": {"labels": made.labels, "annotations": _scale(made)},
        "spec": {**make_pod_rest(made), "timeoutSeconds": 120, "containers": [{**container, **probes}]},
    }


def _named(made: Deployment, template: dict[str, Any]) -> dict[str, Any]:
    """Knative refuses another template by the name of one that it has."""
    mark = digest_bytes(json.dumps(template, sort_keys=True).encode()).hex[:_HASH]
    return {**template, "metadata": {"name": f"{made.name}-{mark}", **template["metadata"]}}


def _traffic(revision: str, percent: int, tag: str) -> dict[str, Any]:
    return {"revisionName": revision, "percent": percent, "tag": tag}


def _kserve(made: Deployment, *, serverless: bool) -> dict[str, Any]:
    metadata = make_metadata(made, facts=True)
    # By the names that every KServe knows; newer ones have others for them.
    mode = {"serving.kserve.io/deploymentMode": "Serverless" if serverless else "RawDeployment"}
    metadata["annotations"] = dict(sorted({**metadata.get("annotations", {}), **mode}.items()))
    container = make_container(made, name="kserve-container", port_name="http1")
    # By which KServe's clients and transformers ask at /v2/models/NAME.
    container["env"] = [*container["env"], {"name": "KBUILD_MODEL_NAME", "value": made.name}]
    rest, pod = {**make_probes(made), **LIFECYCLE}, OF_ITSELF
    if serverless:
        # Which Knative takes only where flags of its features say so, or not at all.
        pod = {}
        del rest["startupProbe"], rest["lifecycle"]
    else:
        made.size.check_awake()
    predictor = {
        "minReplicas": made.size.least,
        "maxReplicas": made.size.most,
        **make_pod_rest(made),
        **pod,
        "containers": [{**container, **rest}],
    }
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": metadata,
        "spec": {"predictor": predictor},
    }


def _scale(made: Deployment) -> dict[str, Any]:
    return {f"{_SCALE}/max-scale": str(made.size.most), f"{_SCALE}/min-scale": str(made.size.least)}
