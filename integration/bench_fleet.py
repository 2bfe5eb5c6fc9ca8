"""What ``kbuild audit --all-registered --affected-by`` takes over a fleet: 2,000 models, each with a lock of its own.

    python integration/bench_fleet.py [--models 2000] [--packages 150] [--folder FOLDER]

The locks are made of the packages that are installed here, each lock with other ones and other versions of some. Told
are CPU and wall seconds and the peak of memory, of a cold and a warm run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

import yaml

KBUILD = Path(sys.executable).with_name("kbuild")


def make_fleet(folder: Path, models: int, packages: int) -> str:
    """A tracking database with its artifacts; its uri."""
    import mlflow

    uri = f"sqlite:///{folder / 'mlflow.db'}"
    client = mlflow.MlflowClient(uri)
    experiment = client.create_experiment("fleet", (folder / "artifacts").as_uri())
    known = sorted((each.metadata["Name"], each.version) for each in metadata.distributions())
    chance = random.Random(1)  # noqa: S311  the same fleet each time
    lock = folder / "conda-lock.yml"
    for number in range(models):
        chosen = [chance.choice(known) for _ in range(packages - 1)]
        rows = [("jinja2", "2.4.1" if number % 10 == 0 else "3.1.6"), *chosen]
        lock.write_text(yaml.dump(_lock(rows, number), Dumper=yaml.CSafeDumper, sort_keys=False))
        run = client.create_run(experiment)
        client.log_artifact(run.info.run_id, str(lock), "kbuild")
        name = f"model-{number}"
        client.create_registered_model(name)
        source = f"{run.info.artifact_uri}/model"
        client.create_model_version(
            name, source, run.info.run_id, tags={"kbuild.image_digest": f"sha256:{number:064x}"}
        )
        client.set_registered_model_alias(name, "champion", "1")
    return uri


def _lock(rows: list[tuple[str, str]], number: int) -> dict[str, object]:
    entries = [
        {
            "name": name.lower(),
            "version": version,
            "manager": "pip",
            "platform": "linux-64",
            "dependencies": {"numpy": ">=1.26", "packaging": ">=23", "typing-extensions": ">=4.8"},
            "url": f"https://files.example/packages/{place:02x}/{name}-{version}-py3-none-any.whl",
            "hash": {"sha256": f"{number * 1000 + place:064x}"},
            "category": "main",
            "optional": False,
        }
        for place, (name, version) in enumerate(rows)
    ]
    return {"version": 1, "metadata": {"channels": [], "platforms": ["linux-64"]}, "package": entries}


def ask(uri: str, cache: Path) -> dict[str, float]:
    """One command, in a process of its own."""
    env = {**os.environ, "MLFLOW_TRACKING_URI": uri, "KBUILD_CACHE_DIR": str(cache), "DO_NOT_TRACK": "1"}
    command = [KBUILD, "audit", "--all-registered", "--affected-by", "jinja2<3"]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run([*command, "--format", "json"], env=env, capture_output=True, text=True, cwd=cache.parent)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    models = json.loads(done.stdout)["models"]
    if done.returncode != 51 or any(each["unknown"] for each in models):
        raise SystemExit(done.stderr)
    return {
        "models": len(models),
        "affected": sum(bool(each["affected"]) for each in models),
        "wall_s": round(time.monotonic() - began, 1),
        "cpu_s": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        "peak_mib": round(after.ru_maxrss / 1024),
    }


def main() -> None:
    """Print a line of JSON for each run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=int, default=2000)
    parser.add_argument("--packages", type=int, default=150)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="kbuild-fleet-"))
    made = folder / "mlflow.db"
    uri = f"sqlite:///{made}" if made.exists() else make_fleet(folder, options.models, options.packages)
    for state in ("cold", "warm"):
        print(json.dumps({"cache": state, **ask(uri, folder / "cache")}), flush=True)


if __name__ == "__main__":
    main()
