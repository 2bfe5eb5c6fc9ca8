"""Who takes the image: engines old and new, and the tools around them; where it runs it predicts as it was trained."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import oci_schema
import pytest
from debian import install_tools
from engines import DockerEngine, Registry
from jsonschema import Draft202012Validator
from tool import Tool, Trained

from kbuild.image.oci.validate import validate_layout

PYTHON = "/opt/env/bin/python"
HEALTH = [PYTHON, "-m", "kbuild.serving.watch.healthcheck"]
# What a client would do, from inside a container that has no network.
ASK = """
import json, pathlib, urllib.request, yaml
folder = pathlib.Path("/opt/model")
model = yaml.safe_load((folder / "MLmodel").read_text())
body = (folder / model["saved_input_example_info"]["serving_input_path"]).read_bytes()
request = urllib.request.Request(
    "http://127.0.0.1:8080/invocations", data=body, headers={"Content-Type": "application/json"}
)
answer = json.load(urllib.request.urlopen(request))
assert answer == json.loads((folder / model["metadata"]["kbuild"]["prediction"]).read_text()), answer
print("as it was trained")
"""
# Debian 12's podman takes crun, which does not run on every kernel, and asks for more than a container may have here.
PODMAN_RUN = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000")


@pytest.fixture(scope="module")
def layouts(tool: Tool, trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The model's image, packed each way, as a layout and as a tar: what ``--json`` says, and where they are."""
    folder = tmp_path_factory.mktemp("images")
    found = {}
    for compression in ("zstd", "gzip"):
        words = ["image", trained.run_id, "--compression", compression, "--tag", f"accepted:{compression}", "--json"]
        for output in (folder / compression, folder / f"{compression}.tar"):
            found[compression] = tool(*words, "--output", output, cwd=trained.folder).json
        found[compression] |= {"folder": folder / compression, "tar": folder / f"{compression}.tar"}
    return found


@pytest.fixture(params=["docker_20", "docker_28"])
def engine(request: pytest.FixtureRequest) -> DockerEngine:
    """Each of the two engines."""
    found: DockerEngine = request.getfixturevalue(request.param)
    return found


def test_both_compressions_are_one_image_to_docker(layouts: dict[str, dict[str, Any]]) -> None:
    one, other = layouts["zstd"], layouts["gzip"]
    assert one["digest"] != other["digest"]
    assert one["image_id"] == other["image_id"]
    assert [layer["diff_id"] for layer in one["layers"]] == [layer["diff_id"] for layer in other["layers"]]


@pytest.mark.parametrize("compression", ["zstd", "gzip"])
def test_it_is_as_the_image_spec_says(layouts: dict[str, dict[str, Any]], compression: str) -> None:
    folder = layouts[compression]["folder"]
    index = json.loads((folder / "index.json").read_bytes())
    manifest = blob(folder, index["manifests"][0]["digest"])
    documents = {
        "oci-layout": (json.loads((folder / "oci-layout").read_bytes()), oci_schema.LAYOUT),
        "index.json": (index, oci_schema.INDEX),
        "manifest": (manifest, oci_schema.MANIFEST),
        "config": (blob(folder, manifest["config"]["digest"]), oci_schema.CONFIG),
    }
    for name, (document, schema) in documents.items():
        Draft202012Validator.check_schema(schema)
        faults = [f"{name}: {e.json_path}: {e.message}" for e in Draft202012Validator(schema).iter_errors(document)]
        assert faults == []
    validate_layout(folder)


@pytest.mark.parametrize("compression", ["zstd", "gzip"])
def test_docker_loads_it_and_it_predicts(
    tool: Tool, trained: Trained, layouts: dict[str, dict[str, Any]], engine: DockerEngine, compression: str
) -> None:
    name = f"accepted:{compression}"
    done = tool(
        "image", trained.run_id, "--compression", compression, "--tag", name, "--load", "--json",
        cwd=trained.folder, DOCKER_HOST=engine.host,
    )  # fmt: skip
    assert done.json["digest"] == layouts[compression]["digest"]
    kept = docker(engine, "image", "inspect", "--format", "{{.Id}}", name)
    assert kept == layouts[compression]["digest" if engine.containerd_store else "image_id"]
    told = "given the layers unpacked" in done.err
    assert told == (not engine.containerd_store and compression == "zstd")
    assert "answers as the trained model did" in tool("verify", name, DOCKER_HOST=engine.host).err


def test_it_is_healthy_without_rights_or_network(layouts: dict[str, dict[str, Any]], engine: DockerEngine) -> None:
    """As the README shows it; only the time between two looks is shorter than the image's own."""
    subprocess.run(["docker", "load", "-q", "-i", layouts["gzip"]["tar"]], env=engine.env, check=True)
    container = docker(
        engine, "run", "--detach", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--network", "none",
        "--security-opt", "no-new-privileges", "--health-interval", "1s", "accepted:gzip",
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while (health := docker(engine, "inspect", "--format", "{{.State.Health.Status}}", container)) != "healthy":
            assert time.monotonic() < deadline, (health, docker(engine, "logs", container))
            time.sleep(0.2)
        assert docker(engine, "exec", container, PYTHON, "-c", "import os; print(os.getuid())") == "65532"
        docker(engine, "exec", container, *HEALTH)
        assert docker(engine, "exec", container, PYTHON, "-c", ASK) == "as it was trained"
    finally:
        docker(engine, "rm", "--force", "--volumes", container)


def test_podman_loads_it_and_it_predicts(layouts: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    install_tools("podman", "runc")
    # Its sockets have to fit into 108 bytes.
    with tempfile.TemporaryDirectory(prefix="kbp-", dir="/run") as run:
        podman = ["podman", f"--root={tmp_path / 'root'}", f"--runroot={run}/run", "--storage-driver=overlay",
                  f"--tmpdir={run}/tmp", "--runtime=/usr/sbin/runc", "--cgroup-manager=cgroupfs"]  # fmt: skip
        check_podman(podman, layouts["zstd"], "accepted:zstd")


def check_podman(podman: list[str], image: dict[str, Any], name: str) -> None:
    said([*podman, "load", "--quiet", "--input", image["tar"]])
    image_id = said([*podman, "image", "inspect", "--format", "{{.Id}}", name])
    assert f"sha256:{image_id}" == image["image_id"]
    container = said(
        [*podman, "run", "--detach", "--read-only", "--cap-drop=ALL", "--network=none", *PODMAN_RUN,
         name]
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while subprocess.run([*podman, "exec", container, *HEALTH], capture_output=True).returncode != 0:
            assert time.monotonic() < deadline, said([*podman, "logs", container])
            time.sleep(0.5)
        assert said([*podman, "exec", container, PYTHON, "-c", ASK]) == "as it was trained"
    finally:
        said([*podman, "rm", "--force", "--time=5", container])
        said([*podman, "rmi", "--all", "--force"])


@pytest.mark.parametrize("compression", ["zstd", "gzip"])
def test_skopeo_copies_it_with_its_digest(
    layouts: dict[str, dict[str, Any]], tmp_path: Path, registry: Registry, compression: str
) -> None:
    install_tools("skopeo")
    image = layouts[compression]
    copy = ["skopeo", "copy", "--quiet", "--preserve-digests", f"oci:{image['folder']}:{compression}"]
    said([*copy, f"dir:{tmp_path / 'dir'}"])
    manifest = (tmp_path / "dir/manifest.json").read_bytes()
    assert manifest == (image["folder"] / "blobs/sha256" / image["digest"].removeprefix("sha256:")).read_bytes()
    said([*copy, "--dest-tls-verify=false", f"docker://{registry.address}/skopeo/{compression}:1"])
    told = said(["skopeo", "inspect", "--tls-verify=false", f"docker://{registry.address}/skopeo/{compression}:1"])
    assert json.loads(told)["Digest"] == image["digest"]


def test_umoci_unpacks_it(layouts: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """It knows gzip alone. The program in what it unpacks starts."""
    install_tools("umoci")
    said(["umoci", "unpack", "--image", f"{layouts['gzip']['folder']}:gzip", tmp_path / "bundle"])
    config = json.loads((tmp_path / "bundle/config.json").read_text())
    assert config["process"]["user"]["uid"] == 65532
    assert config["process"]["args"][0] == PYTHON
    root = tmp_path / "bundle/rootfs"
    assert (root / "opt/model/MLmodel").is_file()
    env = dict(pair.split("=", 1) for pair in config["process"]["env"])
    # $ORIGIN in the program's library path is found through /proc.
    inside = [
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        f"--mount-proc={root}/proc",
        shutil.which("chroot") or "chroot",
        root,
    ]
    assert said([*inside, PYTHON, "-c", "import kbuild.serving, sys; print(sys.prefix)"], **env) == "/opt/env"


def test_a_registry_keeps_it_and_engines_pull_it(
    tool: Tool, trained: Trained, layouts: dict[str, dict[str, Any]], registry: Registry, docker_28: DockerEngine
) -> None:
    for compression, image in layouts.items():
        pushed = tool(
            "image", trained.run_id, "--compression", compression, "--push", f"{registry.address}/kept/{compression}:1",
            "--json", cwd=trained.folder,
        ).json["pushed"]  # fmt: skip
        assert pushed == f"{registry.address}/kept/{compression}@{image['digest']}"
        docker(docker_28, "pull", "--quiet", pushed)
        assert docker(docker_28, "image", "inspect", "--format", "{{.Id}}", pushed) == image["digest"]


def blob(folder: Path, digest: str) -> Any:
    return json.loads((folder / "blobs/sha256" / digest.removeprefix("sha256:")).read_bytes())


def docker(engine: DockerEngine, *words: str) -> str:
    return said(["docker", *words], DOCKER_HOST=engine.host)


def said(argv: list[str | Path], **environment: str) -> str:
    """What a program says; fails the test with its complaint."""
    env = {**os.environ, **environment}
    done = subprocess.run([str(word) for word in argv], env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, argv[:4]))} …: {done.stderr.strip()[-1500:]}"
    return done.stdout.strip()
