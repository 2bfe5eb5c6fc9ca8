"""Manifests of Kubernetes itself, with Kustomize's files: ``kubectl apply -k DIR``.

What needs more than Kubernetes has is a component of its own: the Prometheus operator's ServiceMonitor, and an
autoscaler by a metric that the Prometheus adapter brings into the cluster.
"""

from __future__ import annotations

from typing import Any

from kbuild.deploy.deployment import Deployment
from kbuild.deploy.pod import make_pod

Files = dict[str, list[dict[str, Any]]]
"""YAML documents by file name, with forward slashes."""

_KUSTOMIZE = "kustomize.config.k8s.io"
MONITORING, BY_REQUESTS = "monitoring", "scale-by-requests"


def make_kubernetes(made: Deployment) -> Files:
    """A Deployment with its Service, autoscaler, disruption budget and network policy."""
    files: Files = {
        "deployment.yaml": [_deployment(made)],
        "service.yaml": [_service(made)],
        "networkpolicy.yaml": [_network_policy(made)],
        "poddisruptionbudget.yaml": [_budget(made)],
    }
    scaled = made.size.least < made.size.most
    if scaled:
        files["horizontalpodautoscaler.yaml"] = [_autoscaler(made, _by_processors())]
    files["kustomization.yaml"] = [make_kustomization(made, sorted(files))]
    files[f"{MONITORING}/kustomization.yaml"] = [_component(resources=["servicemonitor.yaml"])]
    files[f"{MONITORING}/servicemonitor.yaml"] = [_monitor(made)]
    if scaled:
        name = "horizontalpodautoscaler.yaml"
        files[f"{BY_REQUESTS}/kustomization.yaml"] = [_component(patches=[{"path": name}])]
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


def _deployment(made: Deployment) -> dict[str, Any]:
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
            "template": {"metadata": {"labels": made.labels}, "spec": make_pod(made)},
        },
    }


def _service(made: Deployment) -> dict[str, Any]:
    port = {"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": make_metadata(made),
        "spec": {"selector": made.labels, "ports": [port]},
    }


def _by_processors() -> dict[str, Any]:
    target = {"type": "Utilization", "averageUtilization": 70}
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
