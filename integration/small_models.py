"""Models that are quickly locked and built: a folder as MLflow lays it out, with few packages and any artifact."""

from __future__ import annotations

import platform
import re
import shutil
from pathlib import Path
from random import Random

# Enough Python to compile for a moment, and nothing that needs a compiler.
REQUIREMENTS = ("colorama==0.4.6", "pygments==2.19.2", "six==1.17.0")
_MLMODEL = """\
artifact_path: small
flavors:
  python_function:
    loader_module: mlflow.sklearn
    model_path: model.pkl
    env: {{conda: conda.yaml, virtualenv: python_env.yaml}}
    python_version: {python}
model_id: m-{number:032x}
model_uuid: m-{number:032x}
utc_time_created: '2026-11-22 12:00:00.000000'
"""


def write_small(folder: Path, number: int, *, size: int = 200_000) -> Path:
    """A model folder of its own id and artifact, the same for the same number; its environment is that of all."""
    folder.mkdir(parents=True)
    python = platform.python_version()
    (folder / "MLmodel").write_text(_MLMODEL.format(python=python, number=number))
    pins = "".join(f"  - {each}\n" for each in REQUIREMENTS)
    (folder / "conda.yaml").write_text(
        f"channels: [conda-forge]\ndependencies:\n- python={python}\n- pip\n- pip:\n{pins}name: mlflow-env\n"
    )
    (folder / "requirements.txt").write_text("".join(f"{each}\n" for each in REQUIREMENTS))
    (folder / "model.pkl").write_bytes(Random(number).randbytes(size))  # noqa: S311  any bytes
    return folder


def copy_model(source: Path, target: Path, number: int, *, size: int) -> Path:
    """A copy of a logged model that differs as one trained on other data does: another id, an artifact of its own.

    It names no run: it is nobody's but this folder's.
    """
    shutil.copytree(source, target)
    (target / "artifacts/weights.bin").write_bytes(Random(number).randbytes(size))  # noqa: S311  any bytes
    text = re.sub(r"m-[0-9a-f]{32}", f"m-{number:032x}", (target / "MLmodel").read_text())
    (target / "MLmodel").write_text(re.sub(r"^run_id: .*\n", "", text, flags=re.M))
    return target
