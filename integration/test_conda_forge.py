"""Models on a channel that says what conda-forge says: locked, built, verified and audited for three Pythons."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml
import zstandard
from conda_forge import find_interpreter, make_channel
from tool import Tool

from kbuild.image.oci.layout import blob_path, read_index, read_manifest

# As of the cheap tests: those between the oldest and the newest add minutes to CI and rarely news.
PYTHONS = ("3.11", "3.13") if os.environ.get("CI") else ("3.11", "3.12", "3.13")
# For 3.13 the channel has none: it comes from pip, as what scikit-learn needs.
NUMPY_OF_CONDA = ("3.11", "3.12")
SUMS = [4.0, 6.5]  # of the rows of the example
CODE = """
import mlflow
import numpy as np


class Sums(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return np.asarray(model_input, dtype=float).sum(axis=1)


mlflow.models.set_model(Sums())
"""
SAVE = """
import json, sys
import mlflow
import pandas as pd
from mlflow.models import infer_signature

code, model, conda_env = sys.argv[1:]
example = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.5]})
signature = infer_signature(example, pd.Series([0.5]))
env = json.loads(conda_env)
mlflow.pyfunc.save_model(model, python_model=code, conda_env=env, input_example=example, signature=signature)
"""


@pytest.fixture(scope="module")
def layouts() -> dict[str, Any]:
    return {minor: layout for minor in PYTHONS if (layout := find_interpreter(minor)) is not None}


@pytest.fixture(scope="module")
def channel(layouts: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("conda-forge")
    return make_channel(folder / "channel", layouts, folder / "scratch")


def save(folder: Path, python: str, *conda: str) -> Path:
    """A model with these packages of conda's side and scikit-learn of pip's, as ``python`` trained it."""
    code = folder / "sums.py"
    code.write_text(CODE)
    pip = [f"mlflow=={mlflow.__version__}", "pandas<3", "scikit-learn<1.8"]
    dependencies = [f"python={python}", *conda, "pip", {"pip": pip}]
    model = folder / "model"
    env = {"name": "sums", "channels": ["conda-forge"], "dependencies": dependencies}
    # In a process of its own: what MLflow warns of while it saves is not this test's affair.
    done = subprocess.run([sys.executable, "-c", SAVE, code, model, json.dumps(env)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    described = yaml.safe_load((model / "MLmodel").read_text())
    described["flavors"]["python_function"]["python_version"] = python
    (model / "MLmodel").write_text(yaml.safe_dump(described))
    return model


def read_image(layout: Path) -> dict[str, tuple[tarfile.TarInfo, bytes]]:
    """Every file of an image, by path, the last layer's."""
    found: dict[str, tuple[tarfile.TarInfo, bytes]] = {}
    (image,) = read_index(layout)
    for layer in read_manifest(layout, image.digest).layers:
        with (
            blob_path(layout, layer.digest).open("rb") as raw,
            zstandard.ZstdDecompressor().stream_reader(raw) as plain,
            tarfile.open(fileobj=plain, mode="r|") as tar,
        ):
            for member in tar:
                file = tar.extractfile(member) if member.isfile() else None
                found[member.name.rstrip("/")] = (member, file.read() if file is not None else b"")
    return found


@pytest.mark.parametrize("minor", PYTHONS)
def test_a_model_on_conda_forge_is_locked_built_verified_and_audited(
    minor: str, layouts: dict[str, Any], channel: str, tool: Tool, tmp_path: Path
) -> None:
    if minor not in layouts:
        pytest.skip(f"no Python {minor} on this machine to stand in for conda-forge's")
    conda = ["openssl", "pygments", *(["numpy"] if minor in NUMPY_OF_CONDA else [])]
    model = save(tmp_path, layouts[minor].version, *conda)
    lock = tmp_path / "conda-lock.yml"
    tool("lock", model, "--channel", channel, "-o", lock)
    locked = {(each["manager"], each["name"]): each for each in yaml.safe_load(lock.read_text())["package"]}
    python = locked["conda", "python"]
    assert python["version"] == layouts[minor].version
    assert python["dependencies"]["__glibc"] == ">=2.17,<3.0.a0"  # what ended every build before
    for name in conda:
        assert ("conda", name) in locked and ("pip", name) not in locked
    assert ("pip", "scikit-learn") in locked and ("conda", "scikit-learn") not in locked

    layout = tmp_path / "layout"
    tool("image", model, "--channel", channel, "--output", layout)
    verified = tool("verify", layout, "--json").json
    assert verified["prediction"] == {"predictions": SUMS}

    files = read_image(layout)
    short = f"opt/env/bin/python{minor}"
    assert short in files
    pygmentize = files["opt/env/bin/pygmentize"]
    assert pygmentize[0].mode & 0o111
    assert pygmentize[1].splitlines()[0] == f"#!/{short}".encode()
    openssl = files["opt/env/bin/openssl"][1].decode()
    assert openssl.splitlines()[0] == "#!/opt/env/bin/sh" and "placehold" not in openssl
    assert files["opt/env/lib/stand-in.so"][0].linkname == "stand-in.so.3"
    assert b"placehold" not in files["opt/env/lib/stand-in.so.3"][1]
    records = [json.loads(data) for name, (_, data) in files.items() if name.startswith("opt/env/conda-meta/")]
    assert {"python", *conda} <= {each["name"] for each in records}

    sbom = tool("audit", layout, "--offline", "--format", "cyclonedx", code=None).json
    purls = {each.get("purl", "").partition("?")[0] for each in sbom["components"]}
    for name in ("python", *conda):
        assert f"pkg:conda/{name}@{locked['conda', name]['version']}" in purls


def test_an_environment_of_another_platform_is_locked_too(channel: str, tool: Tool, tmp_path: Path) -> None:
    lock = tmp_path / "conda-lock.yml"
    model = save(tmp_path, "3.12.12", "openssl", "pygments")
    tool("lock", model, "--channel", channel, "--platform", "linux/arm64", "-o", lock)
    packages = yaml.safe_load(lock.read_text())["package"]
    assert {each["platform"] for each in packages} == {"linux-aarch64"}
    assert {"python", "openssl", "pygments"} <= {each["name"] for each in packages if each["manager"] == "conda"}
    assert "scikit-learn" in {each["name"] for each in packages if each["manager"] == "pip"}
