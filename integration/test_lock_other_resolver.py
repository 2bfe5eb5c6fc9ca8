"""The lock of libraries whose wheels have hard requirements, against another resolver on the same index: uv.

conda-lock's solver alone was seen to take a minute for markers of other platforms, and versions that torch's own parts
do not allow.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from tool import BIN, Tool, Trained

from kbuild.environment.index.package_indexes import package_indexes
from kbuild.process import run

ENVIRONMENT = """
channels: [conda-forge]
dependencies: [python={python}, pip, {{pip: ["{asked}", "mlflow=={mlflow}"]}}]
"""


def resolve_with_uv(asked: list[str], python: str) -> dict[str, str]:
    """The version of each package for an image on Debian bookworm (glibc 2.36)."""
    indexes = package_indexes(run=run, environ=os.environ)
    index, *more = indexes.urls
    argv = [BIN / "uv", "pip", "compile", "-", "-q", "--no-header", "--no-annotate", "--no-config"]
    argv += ["--python-version", python, "--python-platform", "x86_64-manylinux_2_36", "--only-binary", ":all:"]
    # As pip takes what several indexes have: the best of all, not of the first.
    argv += ["--default-index", index, "--index-strategy", "unsafe-best-match"]
    argv += [word for url in more for word in ("--index", url)]
    argv += [word for place in indexes.find_links for word in ("--find-links", place)]
    # What pip's configuration allows here binds kbuild too; uv reads no configuration of pip's.
    argv += [word for file in indexes.constraints for word in ("--constraints", file)]
    done = subprocess.run(argv, input="\n".join(asked), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(line.split("==") for line in done.stdout.split() if "==" in line)


# Each takes minutes, and the index is asked for hundreds of packages: one is tried each time, all by hand.
_HEAVY = [pytest.param(name, marks=pytest.mark.heavy) for name in ("transformers[torch]", "tensorflow", "jax[cuda12]")]


@pytest.mark.parametrize("library", [*_HEAVY, "ray[serve]"])
def test_the_lock_is_what_another_resolver_finds(tool: Tool, trained: Trained, tmp_path: Path, library: str) -> None:
    model, target = tmp_path / "model", tmp_path / "lock.yml"
    shutil.copytree(trained.model, model)
    logged = yaml.safe_load((model / "python_env.yaml").read_text())
    facts = yaml.safe_load((model / "MLmodel").read_text())
    (model / "conda.yaml").write_text(
        ENVIRONMENT.format(python=logged["python"], asked=library, mlflow=facts["mlflow_version"])
    )
    for name in ("requirements.txt", "constraints.txt"):
        (model / name).unlink(missing_ok=True)
    tool("lock", model, "--force", "-o", target, cwd=tmp_path)
    packages = yaml.load(target.read_text(), yaml.CSafeLoader)["package"]
    locked = {each["name"]: each["version"] for each in packages if each["manager"] == "pip"}
    asked = [library, f"mlflow=={facts['mlflow_version']}"]
    assert locked == resolve_with_uv(asked, logged["python"])
    assert len(locked) > 90
