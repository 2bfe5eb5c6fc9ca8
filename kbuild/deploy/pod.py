"""The part that all kinds of Kubernetes' manifests have in common: a pod that serves one image.

It fits the Pod Security Standard "restricted" (https://kubernetes.io/docs/concepts/security/pod-security-standards/).
"""

from __future__ import annotations

from typing import Any

from kbuild.deploy.deployment import GRACE, Deployment

# Between being taken from the Service and SIGTERM: endpoints take a moment to be known everywhere.
_UNKNOWN = 5
# Seconds for an answer to a probe: reading large requests holds one up for some of them.
_PATIENCE = 5
LIFECYCLE: dict[str, Any] = {"lifecycle": {"preStop": {"sleep": {"seconds": _UNKNOWN}}}}
"""Of a container: the image has no shell to sleep in, and the kubelet does it, from Kubernetes 1.30 on."""
OF_ITSELF: dict[str, Any] = {
    "terminationGracePeriodSeconds": GRACE + _UNKNOWN + 5,
    "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
}
"""Of a pod that no Knative makes."""


def make_container(made: Deployment, *, name: str, port_name: str) -> dict[str, Any]:
    """The container; nothing of it can be written to but /tmp."""
    security: dict[str, Any] = {
        "runAsNonRoot": True,
        **({} if made.user is None else {"runAsUser": made.user}),
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    return {
        "name": name,
        "image": str(made.image),
        "env": [{"name": key, "value": value} for key, value in made.variables.items()],
        "ports": [{"name": port_name, "containerPort": made.port}],
        "resources": made.size.resources,
        "securityContext": security,
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108  the container's own
    }


def make_probes(made: Deployment) -> dict[str, Any]:
    """/livez answers while the model loads, /readyz once it has answered its own example."""
    size = made.size
    return {
        "startupProbe": _probe(made, "/readyz", period=size.start_period, times=size.start_times),
        "readinessProbe": _probe(made, "/readyz", period=5, times=2),
        "livenessProbe": _probe(made, "/livez", period=10, times=3),
    }


def make_pod(made: Deployment) -> dict[str, Any]:
    """The spec of a pod of a Deployment."""
    container = {**make_container(made, name="model", port_name="http"), **make_probes(made), **LIFECYCLE}
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": made.labels},
    }
    return {
        **make_pod_rest(made),
        **OF_ITSELF,
        "topologySpreadConstraints": [spread],
        "containers": [container],
    }


def make_pod_rest(made: Deployment) -> dict[str, Any]:
    """What Knative and KServe take of a pod besides its container."""
    return {
        "automountServiceAccountToken": False,
        # Variables of a Service that is called kbuild would be taken for the server's own settings.
        "enableServiceLinks": False,
        **({} if made.pull_secret is None else {"imagePullSecrets": [{"name": made.pull_secret}]}),
        "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}],
    }


def _probe(made: Deployment, path: str, *, period: int, times: int) -> dict[str, Any]:
    asked = {"path": path, "port": made.port}
    return {"httpGet": asked, "periodSeconds": period, "timeoutSeconds": _PATIENCE, "failureThreshold": times}
