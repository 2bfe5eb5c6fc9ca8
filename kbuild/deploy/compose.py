"""A file of Docker Compose (https://github.com/compose-spec/compose-spec), for one host."""

from __future__ import annotations

from typing import Any

from kbuild.deploy.deployment import GRACE, Deployment
from kbuild.deploy.kubernetes import Files


def make_compose(made: Deployment, *, port: int | None = None) -> Files:
    """One service, on a ``port`` of the host itself alone (by default the image's); it is as restricted as a pod is."""
    # Compose fills in variables wherever a $ stands.
    labels = {key: value.replace("$", "$$") for key, value in sorted(made.facts.items())}
    service: dict[str, Any] = {
        "image": str(made.image),
        "restart": "unless-stopped",
        "ports": [f"127.0.0.1:{port or made.port}:{made.port}"],
        "environment": made.variables,
        "read_only": True,
        "tmpfs": ["/tmp"],  # noqa: S108  the container's own
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "stop_grace_period": f"{GRACE + 5}s",
        **({} if made.user is None else {"user": str(made.user)}),
        "cpus": float(made.size.cpus),
        # Compose's ``1g`` is 2**30 bytes, Kubernetes' 10**9: in bytes it is the same everywhere.
        "mem_limit": made.size.memory_bytes,
        **({"labels": labels} if labels else {}),
    }
    return {"compose.yaml": [{"name": made.name, "services": {made.name: service}}]}
