"""Manifests of Kubernetes itself, with Kustomize's files: ``kubectl apply -k DIR``.

What needs more than Kubernetes has is a component of its own: the Prometheus operator's ServiceMonitor, and an
autoscaler by a metric that the Prometheus adapter brings into the cluster.
"""

from __future__ import annotations

from typing import Any

from kbuild.deploy.canary import Canary, Gateway, by_replicas, separate
from kbuild.deploy.deployment import COMPONENT, Deployment
from kbuild.deploy.pod import make_pod

Files = dict[str, list[dict[str, Any]]]
"""YAML documents by file name, with forward slashes."""

_KUSTOMIZE = "kustomize.config.k8s.io"
MONITORING, BY_REQUESTS = "monitoring", "scale-by-requests"
_PORT = 80  # of the Service


def make_kubernetes(made: Deployment, *, canary: Canary | None = None, gateway: Gateway | None = None) -> Files:
    """A Deployment with its Service, autoscaler, disruption budget and network policy.

    A canary has its own ones. With a gateway an HTTPRoute shares the requests out between both Services; else both have
    one Service, and the numbers of their replicas share them out. Raises ConfigurationError where those cannot.
    """
    made.size.check_awake()
    both = {_TRACKS: made.name, **COMPONENT}
    if canary is None:
        files = _files(made, [_service(made)], "", both)
    elif gateway is None:
        files = _files(made, [_service(made, both)], "", both)
        files |= _files(by_replicas(made, canary), [], "canary-", both)
    else:
        other = separate(canary)
        files = {**_files(made, [_service(made)], "", both), **_files(other, [_service(other)], "canary-", both)}
    if gateway is not None:
        files["httproute.yaml"] = [_route(made, canary, gateway)]
    resources = sorted(name for name in files if "/" not in name)
    files["kustomization.yaml"] = [make_kustomization(made, resources)]
    for component in (MONITORING, BY_REQUESTS):
        inside = sorted(name.partition("/")[2] for name in files if name.startswith(f"{component}/"))
        if inside:
            parts = {"resources": inside} if component == MONITORING else {"patches": [{"path": x} for x in inside]}
            files[f"{component}/kustomization.yaml"] = [_component(**parts)]
    return files


# The label of the pods that one Service has, a canary's among them. All have it, also without a canary: pods that run
# are then chosen at once when one is added, and none of them starts anew.
_TRACKS = "app.kubernetes.io/part-of"


def _files(made: Deployment, services: list[dict[str, Any]], prefix: str, labels: dict[str, str]) -> Files:
    files: Files = {
        f"{prefix}deployment.yaml": [_deployment(made, labels)],
        f"{prefix}networkpolicy.yaml": [_network_policy(made)],
        f"{prefix}poddisruptionbudget.yaml": [_budget(made)],
    }
    if services:
        files[f"{prefix}service.yaml"] = services
        files[f"{MONITORING}/{prefix}servicemonitor.yaml"] = [_monitor(made)]
    if made.size.least < made.size.most:
        name = f"{prefix}horizontalpodautoscaler.yaml"
        files[name] = [_autoscaler(made, _by_processors(made))]
        files[f"{BY_REQUESTS}/{name}"] = [_autoscaler(made, _by_requests(made))]
    return files


def _component(**parts: Any) -> dict[str, Any]:
    return {"apiVersion": f"{_KUSTOMIZE}/v1alpha1", "kind": "Component", **parts}


def make_kustomization(made: Deployment, resources: list[str]) -> dict[str, Any]:
    """What ``kubectl apply -k`` reads."""
    return {
        "apiVersion": f"{_KUSTOMIZE}/v1beta1",
        "kind": "Kustomization",
        **({} if made.namespace is None else {"namespace": made.namespace}),
        "resources": resources,
    }


def make_metadata(made: Deployment, *, facts: bool = False) -> dict[str, Any]:
    """A manifest's metadata; with ``facts`` what is known of the model."""
    labels = {**made.labels, "app.kubernetes.io/managed-by": "kbuild"}
    annotated = {"annotations": dict(sorted(made.facts.items()))} if facts and made.facts else {}
    return {"name": made.name, "labels": labels, **annotated}


def _deployment(made: Deployment, more: dict[str, str]) -> dict[str, Any]:
    size = made.size
    # With an autoscaler the number of replicas is its own: to write it here would set it back at each apply.
    replicas = {} if size.least < size.most else {"replicas": size.least}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": make_metadata(made, facts=True),
        "spec": {
            **replicas,
            "revisionHistoryLimit": 5,
            "selector": {"matchLabels": made.labels},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {"metadata": {"labels": {**made.labels, **more}}, "spec": make_pod(made)},
        },
    }


def _service(made: Deployment, selector: dict[str, str] | None = None) -> dict[str, Any]:
    port = {"name": "http", "port": _PORT, "targetPort": "http", "protocol": "TCP"}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": make_metadata(made),
        "spec": {"selector": selector or made.labels, "ports": [port]},
    }


def _route(made: Deployment, canary: Canary | None, gateway: Gateway) -> dict[str, Any]:
    """https://gateway-api.sigs.k8s.io/guides/traffic-splitting/"""
    parent = {"name": gateway.name, **({} if gateway.namespace is None else {"namespace": gateway.namespace})}
    backends: list[dict[str, Any]] = [{"name": made.name, "port": _PORT}]
    if canary is not None:
        backends[0]["weight"] = 100 - canary.percent
        backends.append({"name": separate(canary).name, "port": _PORT, "weight": canary.percent})
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": make_metadata(made),
        "spec": {
            "parentRefs": [parent],
            **({} if gateway.hostname is None else {"hostnames": [gateway.hostname]}),
            "rules": [{"backendRefs": backends}],
        },
    }


def _by_processors(made: Deployment) -> dict[str, Any]:
    target = {"type": "Utilization", "averageUtilization": made.size.busy}
    return {"type": "Resource", "resource": {"name": "cpu", "target": target}}


def _by_requests(made: Deployment) -> dict[str, Any]:
    """By the server's own gauge, which an adapter makes one of the cluster's: two a worker, of which one waits."""
    target = {"type": "AverageValue", "averageValue": str(2 * made.size.workers)}
    return {"type": "Pods", "pods": {"metric": {"name": "http_requests_in_progress"}, "target": target}}


def _autoscaler(made: Deployment, metric: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": make_metadata(made),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": made.name},
            "minReplicas": made.size.least,
            "maxReplicas": made.size.most,
            "metrics": [metric],
        },
    }


def _budget(made: Deployment) -> dict[str, Any]:
    # Not minAvailable: of a single replica that would let no node be drained.
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": make_metadata(made),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": made.labels}},
    }


def _network_policy(made: Deployment) -> dict[str, Any]:
    """Whoever is in the cluster may ask; the server itself asks nobody, not even for names."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": make_metadata(made),
        "spec": {
            "podSelector": {"matchLabels": made.labels},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [{"namespaceSelector": {}}], "ports": [{"protocol": "TCP", "port": made.port}]}],
            "egress": [],
        },
    }


def _monitor(made: Deployment) -> dict[str, Any]:
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": make_metadata(made),
        "spec": {
            "selector": {"matchLabels": made.labels},
            "endpoints": [{"port": "http", "path": "/metrics", "interval": "30s"}],
        },
    }
