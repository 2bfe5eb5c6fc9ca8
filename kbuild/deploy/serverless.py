"""Knative's Service and KServe's InferenceService: both make the rest themselves.

Fields: Knative's ``PodSpecMask`` and ``ContainerMask`` (knative.dev/serving, ``pkg/apis/serving/fieldmask.go``) tell
which of a pod's are taken; KServe's predictor takes a pod's own (``serving.kserve.io/v1beta1``).
"""

from __future__ import annotations

from typing import Any

from kbuild.deploy.deployment import Deployment
from kbuild.deploy.kubernetes import Files, make_kustomization, make_metadata
from kbuild.deploy.pod import make_container, make_pod_rest, make_probes

_SCALE = "autoscaling.knative.dev"


def make_knative(made: Deployment) -> Files:
    """A Service of Knative Serving; ``http1`` is the name by which it knows the port's protocol."""
    probes = {name: probe for name, probe in make_probes(made).items() if name != "startupProbe"}
    service = {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": make_metadata(made, facts=True),
        "spec": {
            "template": {
                "metadata": {"labels": made.labels, "annotations": _scale(made)},
                "spec": {
                    **make_pod_rest(made),
                    "timeoutSeconds": 120,
                    "containers": [{**make_container(made, name="model", port_name="http1"), **probes}],
                },
            }
        },
    }
    return {"service.yaml": [service], "kustomization.yaml": [make_kustomization(made, ["service.yaml"])]}


def make_kserve(made: Deployment) -> Files:
    """An InferenceService whose predictor is the image; without Knative, as KServe's "RawDeployment" has it."""
    metadata = make_metadata(made, facts=True)
    mode = {"serving.kserve.io/deploymentMode": "RawDeployment"}
    metadata["annotations"] = dict(sorted({**metadata.get("annotations", {}), **mode}.items()))
    container = {**make_container(made, name="kserve-container", port_name="http1"), **make_probes(made)}
    service = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": metadata,
        "spec": {
            "predictor": {
                "minReplicas": made.size.least,
                "maxReplicas": made.size.most,
                **make_pod_rest(made),
                "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [container],
            }
        },
    }
    name = "inferenceservice.yaml"
    return {name: [service], "kustomization.yaml": [make_kustomization(made, [name])]}


def _scale(made: Deployment) -> dict[str, Any]:
    return {f"{_SCALE}/max-scale": str(made.size.most), f"{_SCALE}/min-scale": str(made.size.least)}
