"""What the demo's pipeline is served with elsewhere, for benchmarks: kedro-mlflow's model, and MLServer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

KEDRO_MLFLOW = "kedro-mlflow==2.0.3"
# uvloop from 0.22 on makes no event loop unasked, which MLServer's workers rely on.
MLSERVER = ("mlserver==1.7.1", "mlserver-mlflow==1.7.1", "uvloop<0.22")
_SAME = ("mlflow", "kedro", "kedro-datasets", "cloudpickle", "pandas", "numpy", "scipy", "scikit-learn")
_QUIET = "version: 1\ndisable_existing_loggers: false\nloggers: {kedro: {level: WARNING}}\n"


def install(folder: Path, package: str) -> Path | None:
    """A package in a folder of its own; what it depends on is here already. None where it does not install."""
    return folder if _pip(sys.executable, "--no-deps", "--target", str(folder), package) else None


def train_peer(folder: Path, site: Path) -> Path:
    """The demo project trained by ``kedro run`` with kedro-mlflow in place of kbuild; its model's folder.

    ``site`` is where kedro-mlflow is installed. The served model needs the project's ``src`` to be importable.
    """
    from kbuild.workflow.demo import copy_project

    copy_project(folder)
    registry = folder / "src" / "diabetes" / "pipeline_registry.py"
    text = registry.read_text()
    theirs = text.replace("from kbuild import", "from kedro_mlflow.pipeline import")
    assert theirs != text
    registry.write_text(theirs)
    with (folder / "src" / "diabetes" / "settings.py").open("a") as settings:
        settings.write('DISABLE_HOOKS_FOR_PLUGINS = ("kbuild",)\n')
    # Its default is a store of files, which MLflow no longer takes.
    (folder / "conf" / "local" / "mlflow.yml").write_text("server:\n  mlflow_tracking_uri: sqlite:///mlflow.db\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    done = subprocess.run(
        [sys.executable, "-m", "kedro", "run"],
        cwd=folder,
        env={**environment, "DO_NOT_TRACK": "1", "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"kedro-mlflow did not train: {done.stderr[-1000:]}")
    (model,) = (path.parent for path in folder.glob("mlruns/*/models/*/artifacts/MLmodel"))
    return model


def write_quiet(folder: Path) -> Path:
    """A logging configuration for ``KEDRO_LOGGING_CONFIG`` with which Kedro tells nothing of each request."""
    path = folder / "quiet.yml"
    path.write_text(_QUIET)
    return path


def install_mlserver(folder: Path) -> Path | None:
    """MLServer in an environment of its own, with this one's versions of what the model uses; its bin folder."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pins = [f"{name}=={version(name)}" for name in _SAME]
    return folder / "bin" if _pip(str(folder / "bin" / "python"), *MLSERVER, *pins) else None


def mlserver_variables(folder: Path, model: Path, ports: tuple[int, int, int], workers: int) -> dict[str, str]:
    """Write the settings of one model to ``folder``, and give those of the server: ports of HTTP, gRPC and metrics."""
    folder.mkdir()
    settings = {
        "name": "model",
        "implementation": "mlserver_mlflow.MLflowRuntime",
        "parameters": {"uri": str(model)},
    }
    (folder / "model-settings.json").write_text(json.dumps(settings))
    names = ("HTTP_PORT", "GRPC_PORT", "METRICS_PORT")
    return {
        "MLSERVER_HOST": "127.0.0.1",
        "MLSERVER_DEBUG": "false",
        "MLSERVER_PARALLEL_WORKERS": str(workers),
        "MLSERVER_METRICS_DIR": str(folder / "metrics"),
        "MLSERVER_ENVIRONMENTS_DIR": str(folder / "environments"),
        **{f"MLSERVER_{name}": str(port) for name, port in zip(names, ports, strict=True)},
    }


def _pip(python: str, *words: str) -> bool:
    done = subprocess.run([python, "-m", "pip", "install", "--quiet", *words], capture_output=True, text=True)
    if done.returncode:
        reasons = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        print(f"without {words[-1] if len(words) < 5 else words[0]}: {' '.join(reasons)[-500:]}", file=sys.stderr)
    return done.returncode == 0
