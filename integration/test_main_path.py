"""From a training run to an answered request, as a user goes it."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import requests
from engines import DockerEngine, free_port
from small_models import write_small
from tool import BIN, Tool, Trained, running

from kbuild.image.oci.validate import validate_layout


def http(url: str, body: bytes | None = None, content_type: str = "application/json") -> tuple[int, str]:
    """GET, or POST of ``body``: status and text."""
    if body is None:
        answer = requests.get(url, timeout=30)
    else:
        answer = requests.post(url, data=body, headers={"Content-Type": content_type}, timeout=30)
    return answer.status_code, answer.text


def wait_for(url: str, seconds: float = 120) -> None:
    """Return once ``url`` answers 200."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if http(url)[0] == 200:
                return
        except requests.ConnectionError:
            pass
        time.sleep(0.2)
    pytest.fail(f"{url} does not answer")


def model_folder(trained: Trained) -> Path:
    return trained.model


def request_of(trained: Trained) -> bytes:
    return (model_folder(trained) / "serving_input_example.json").read_bytes()


def expected_of(trained: Trained) -> Any:
    """What the model predicts in the training environment, in a process of its own."""
    code = """
import json, sys, mlflow.pyfunc
from mlflow.pyfunc import scoring_server
model = mlflow.pyfunc.load_model(sys.argv[1])
request = open(sys.argv[1] + "/serving_input_example.json").read()
print(scoring_server.invocations(request, "application/json", model, model.metadata.get_input_schema()).response)
"""
    done = subprocess.run(
        [BIN / "python", "-c", code, str(model_folder(trained))], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def container(engine: DockerEngine, image: str, *options: str) -> Iterator[str]:
    """``docker run``: yields the url once it is healthy."""
    environment = {"DOCKER_HOST": engine.host, "PATH": "/usr/bin:/bin"}

    def docker(*argv: str) -> str:
        done = subprocess.run(["docker", *argv], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    name = docker("run", "--detach", "--publish", "127.0.0.1::8080", *options, image)
    try:
        port = docker("port", name, "8080/tcp").rpartition(":")[2]
        wait_for(f"http://127.0.0.1:{port}/health")
        yield f"http://127.0.0.1:{port}"
    finally:
        docker("rm", "--force", name)


def test_demo_ends_with_the_prediction_of_training_served(demo: dict[str, Any], trained: Trained) -> None:
    assert demo["prediction"] == demo["expected"] == expected_of(trained)
    assert demo["prediction"]["predictions"]
    assert demo["image"].endswith("@" + demo["digest"])
    assert demo["engine"] == "native"
    assert {"train", "lock", "build", "verify"} <= demo["seconds"].keys()


def test_a_folder_of_somebody_elses_is_left_alone(demo: dict[str, Any], tool: Tool, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("keep")
    refused = tool("demo", "--dir", tmp_path, code=42)
    assert "is not a demo" in refused.err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.fixture(scope="module")
def images(tool: Tool, trained: Trained, docker_engine: DockerEngine) -> dict[str, Any]:
    """The demo's image by both engines, loaded."""
    return {
        engine: tool(
            "image",
            trained.run_id,
            "--engine",
            engine,
            "--load",
            "--tag",
            f"{engine}:1",
            "--json",
            "--no-cache",
            cwd=trained.folder,
            DOCKER_HOST=docker_engine.host,
        ).json
        for engine in ("buildkit", "native")
    }


def test_both_engines_lay_it_out_validly(images: dict[str, Any]) -> None:
    for result in images.values():
        validate_layout(Path(result["layout"]))
        assert result["size"] > sum(layer["size"] for layer in result["layers"]) > 0


@pytest.mark.parametrize("engine", ["buildkit", "native"])
def test_docker_runs_it_and_all_four_endpoints_answer(
    engine: str, images: dict[str, Any], trained: Trained, docker_engine: DockerEngine
) -> None:
    hardened = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL")
    with container(docker_engine, f"{engine}:1", *(hardened if engine == "native" else ())) as url:
        assert http(f"{url}/ping")[0] == 200
        assert http(f"{url}/health")[0] == 200
        assert http(f"{url}/version") == (200, version("mlflow"))
        status, body = http(f"{url}/invocations", request_of(trained))
        assert status == 200
        assert json.loads(body) == expected_of(trained)


def test_every_input_form_of_the_protocol_and_params(
    images: dict[str, Any], trained: Trained, docker_engine: DockerEngine
) -> None:
    split = json.loads(request_of(trained))["dataframe_split"]
    records = [dict(zip(split["columns"], row, strict=True)) for row in split["data"]]
    columns = {name: [row[i] for row in split["data"]] for i, name in enumerate(split["columns"])}
    csv = "\n".join(",".join(map(str, row)) for row in [split["columns"], *split["data"]]).encode()
    expected = expected_of(trained)
    with container(docker_engine, "native:1") as url:
        forms = {"dataframe_records": records, "dataframe_split": split, "inputs": columns, "instances": records}
        for form, value in forms.items():
            status, body = http(f"{url}/invocations", json.dumps({form: value}).encode())
            assert (form, status, json.loads(body)) == (form, 200, expected)
        assert json.loads(http(f"{url}/invocations", csv, "text/csv")[1]) == expected
        rounded = {"dataframe_split": split, "params": {"decimals": 0}}
        answer = json.loads(http(f"{url}/invocations", json.dumps(rounded).encode())[1])
        assert answer != expected
        assert all(row["progression"] == round(row["progression"]) for row in answer["predictions"])
        assert json.loads(http(f"{url}/invocations", request_of(trained))[1]) == expected
        assert http(f"{url}/invocations", b"{")[0] == 400


def test_the_image_tells_where_it_comes_from_and_is_not_root(
    images: dict[str, Any], trained: Trained, docker_engine: DockerEngine
) -> None:
    done = subprocess.run(
        ["docker", "inspect", "native:1"], env={"DOCKER_HOST": docker_engine.host, "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    config = json.loads(done.stdout)[0]["Config"]
    assert config["User"] == "65532:65532"
    assert config["Labels"]["io.kbuild.run.id"] == trained.run_id
    assert config["Labels"]["io.kbuild.lock.digest"] == images["native"]["lock_digest"]
    assert config["Labels"]["io.kbuild.model.digest"] == images["native"]["model_digest"]
    assert config["Healthcheck"]["Test"][0] == "CMD"


@pytest.mark.parametrize("engine", ["native", "buildkit"])
def test_reproducible_from_another_folder_and_by_another_version(
    engine: str,
    images: dict[str, Any],
    tool: Tool,
    trained: Trained,
    docker_engine: DockerEngine,
    docker_28: DockerEngine,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """The whole model: natively with an empty cache, and by the BuildKit of a Docker of two years later."""
    elsewhere = tmp_path / "other place"
    elsewhere.mkdir()
    cache = tmp_path / "cache" if engine == "native" else tool.cache
    again = tool(
        "image", trained.run_id, "--engine", engine, "--no-cache", "--json",
        cwd=elsewhere, KBUILD_CACHE_DIR=str(cache), DOCKER_HOST=docker_28.host, TZ="Asia/Tokyo",
        MLFLOW_TRACKING_URI=f"sqlite:///{trained.folder}/mlflow.db",
    ).json  # fmt: skip
    assert again["engine"] == engine
    first, second = ("with a warm cache", "with an empty cache")
    if engine == "buildkit":
        first, second = (docker_version(each) for each in (docker_engine, docker_28))
        assert first.partition(".")[0] != second.partition(".")[0], "the two engines are of one version"
    record_property(f"{engine} {first}", images[engine]["digest"])
    record_property(f"{engine} {second}, another folder and zone", again["digest"])
    assert again["digest"] == images["native"]["digest"] == images["buildkit"]["digest"]


def docker_version(engine: DockerEngine) -> str:
    argv = ["docker", "version", "--format", "{{.Server.Version}}"]
    return subprocess.run(argv, env=engine.env, capture_output=True, text=True, check=True).stdout.strip()


def test_every_way_to_name_the_model_gives_the_same_image(tool: Tool, trained: Trained, demo: dict[str, Any]) -> None:
    model_id = model_folder(trained).parent.name
    for name in (f"models:/{model_id}", f"runs:/{trained.run_id}/model", str(model_folder(trained))):
        assert tool("image", name, cwd=trained.folder).out.strip().endswith(demo["digest"])


def test_stdout_is_the_answer_alone(tool: Tool, trained: Trained, demo: dict[str, Any]) -> None:
    done = tool("image", trained.run_id, "--tag", "answer:1", cwd=trained.folder)
    assert done.out == f"answer@{demo['digest']}\n"


def test_verify_and_run_serve_it_without_docker(tool: Tool, trained: Trained, demo: dict[str, Any]) -> None:
    verified = tool("verify", "diabetes:demo", "--json", cwd=trained.folder).json
    assert verified["compared"] and verified["prediction"] == demo["expected"]
    port = free_port()
    argv = [BIN / "kbuild", "run", "diabetes:demo", "--port", str(port)]
    process = subprocess.Popen(argv, env=tool.environ(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline().strip() == f"http://127.0.0.1:{port}"
        assert http(f"http://127.0.0.1:{port}/ping")[0] == 200
    finally:
        process.terminate()
        assert process.wait(20) == 0
        process.stdout.close()
    with pytest.raises(requests.ConnectionError):
        http(f"http://127.0.0.1:{port}/ping")


def test_output_as_layout_and_as_tar(
    tool: Tool, trained: Trained, demo: dict[str, Any], tmp_path: Path, docker_engine: DockerEngine
) -> None:
    tool("image", trained.run_id, "--tag", "out:1", "-o", tmp_path / "layout", cwd=trained.folder)
    validate_layout(tmp_path / "layout")
    tool("image", trained.run_id, "--tag", "out:1", "-o", tmp_path / "out.tar", cwd=trained.folder)
    done = subprocess.run(
        ["docker", "load", "--input", tmp_path / "out.tar"],
        env={"DOCKER_HOST": docker_engine.host, "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "out:1" in done.stdout
    assert tool("verify", tmp_path / "layout", cwd=tmp_path).out.strip() == demo["digest"]


def test_push_to_a_registry_and_build_on_it_as_base(
    tool: Tool, trained: Trained, demo: dict[str, Any], registry: Any
) -> None:
    name = f"{registry.address}/models/diabetes:1"
    pushed = tool("image", trained.run_id, "--push", name, cwd=trained.folder)
    assert pushed.out.strip() == f"{registry.address}/models/diabetes@{demo['digest']}"
    manifest = requests.get(
        f"http://{registry.address}/v2/models/diabetes/manifests/{demo['digest']}",
        headers={"Accept": "application/vnd.oci.image.manifest.v1+json"},
        timeout=30,
    )
    assert manifest.status_code == 200, manifest.text
    below = tool("image", trained.run_id, "--json", cwd=trained.folder).json["layers"]
    based = tool("image", trained.run_id, "--base", name, "--json", cwd=trained.folder).json
    assert based["digest"] != demo["digest"]
    assert [layer["digest"] for layer in based["layers"][: len(below)]] == [layer["digest"] for layer in below]
    assert len(based["layers"]) > len(below)
    assert tool("image", trained.run_id, cwd=trained.folder).out.strip().endswith(demo["digest"])


def test_render_gives_what_docker_build_builds(
    tool: Tool, trained: Trained, docker_engine: DockerEngine, tmp_path: Path
) -> None:
    tool("render", trained.run_id, "-o", tmp_path / "context", cwd=trained.folder)
    environment = {"DOCKER_HOST": docker_engine.host, "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(
        ["docker", "build", "--quiet", "--tag", "plain:1", tmp_path / "context"],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with container(docker_engine, "plain:1") as url:
        assert json.loads(http(f"{url}/invocations", request_of(trained))[1]) == expected_of(trained)


def test_a_users_template_with_run_is_built_by_buildkit(
    tool: Tool, docker_engine: DockerEngine, tmp_path: Path
) -> None:
    model, template = write_small(tmp_path / "model", 1), tmp_path / "mine.j2"
    run = 'RUN ["/opt/env/bin/python", "-c", "open(\\"/opt/made\\", \\"w\\").write(\\"x\\")"]'
    template.write_text(f'{{% extends "model.Dockerfile.j2" %}}{{% block before_user %}}\n{run}\n{{% endblock %}}\n')
    refused = tool("image", model, "--template", template, "--engine", "native", code=32)
    assert "RUN" in refused.error_lines[0] and "buildkit" in refused.error_lines[1]
    built = tool("image", model, "--template", template, "--json", DOCKER_HOST=docker_engine.host).json
    assert built["engine"] == "buildkit"
    assert any("made" in layer["by"] for layer in built["layers"])


def test_the_lock_is_stored_with_the_run_and_reused(tool: Tool, trained: Trained, tmp_path: Path) -> None:
    first = tool("lock", trained.run_id, "-o", tmp_path / "a.yml", "--json", cwd=trained.folder).json
    assert first["origin"] == "stored with the run"
    again = tool("lock", trained.run_id, "-o", tmp_path / "b.yml", "--force", "--json", cwd=trained.folder).json
    assert again["origin"] == "resolved"
    assert (tmp_path / "a.yml").read_bytes() == (tmp_path / "b.yml").read_bytes()
    text = (tmp_path / "a.yml").read_text()
    assert text.count("sha256:") >= first["packages"]
    assert str(tool.cache) not in text


def test_the_lock_has_the_versions_of_training(tool: Tool, trained: Trained, tmp_path: Path) -> None:
    from kbuild.environment.lockfile import read_lockfile

    tool("lock", trained.run_id, "-o", tmp_path / "a.yml", cwd=trained.folder)
    locked = {p.name: p.version for p in read_lockfile(tmp_path / "a.yml").packages if p.manager == "pip"}
    lines = (model_folder(trained) / "constraints.txt").read_text().split()
    trained_with = dict(line.split("==") for line in lines)
    assert {name: trained_with.get(name) for name in locked} == locked


def test_a_clean_environment_and_mlflow_itself_serve_the_logged_model(
    trained: Trained, tool: Tool, tmp_path: Path
) -> None:
    copied = tmp_path / "model"
    shutil.copytree(model_folder(trained), copied)
    run = tool.run
    assert run([BIN / "python", "-m", "venv", tmp_path / "venv"]).code == 0
    pip = run([tmp_path / "venv/bin/pip", "install", "--quiet", "-r", copied / "requirements.txt"])
    assert pip.code == 0, pip.err
    python = tmp_path / "venv/bin/python"
    assert run([python, "-c", "import kbuild"], cwd=tmp_path).code == 1
    code = "import mlflow.pyfunc, pandas; m = mlflow.pyfunc.load_model('model'); print(len(m.predict(m.input_example)))"
    done = run([python, "-c", code], cwd=tmp_path)
    assert done.out.split()[-1] == "5", done.err
    port = free_port()
    argv = [python, "-m", "mlflow", "models", "serve", "-m", copied, "-p", str(port), "--env-manager", "local"]
    path = f"{tmp_path / 'venv/bin'}:/usr/bin:/bin"
    with running(argv, tmp_path / "log", cwd=tmp_path, env=tool.environ(PATH=path)):
        wait_for(f"http://127.0.0.1:{port}/ping")
        status, body = http(f"http://127.0.0.1:{port}/invocations", request_of(trained))
    assert status == 200
    assert json.loads(body) == expected_of(trained)


def test_a_plain_mlflow_model_builds_and_serves(tool: Tool, tmp_path: Path) -> None:
    code = """
import mlflow, pandas
from sklearn.linear_model import LinearRegression
mlflow.set_tracking_uri("sqlite:///mlflow.db")
data = pandas.DataFrame({"a": [1.0, 2.0, 3.0], "b": [2.0, 3.0, 5.0]})
with mlflow.start_run() as run:
    mlflow.sklearn.log_model(LinearRegression().fit(data, [1, 2, 3]), name="model", input_example=data,
                             pip_requirements=["mlflow", "scikit-learn", "pandas", "skops"])
print(run.info.run_id)
"""
    done = tool.run([BIN / "python", "-c", code], cwd=tmp_path)
    assert done.code == 0, done.err
    verified = tool("verify", done.out.split()[-1], "--json", cwd=tmp_path).json
    assert verified["prediction"] == {"predictions": [1.0, 2.0, pytest.approx(3.0)]}
    assert not verified["compared"]
