"""Many models at once: what they share is made, stored and sent once; failures, stops and lost builders."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from engines import DockerEngine, start_engine, start_registry
from small_models import copy_model, write_small
from tool import BIN, Tool, Trained

FIFTY = 50


@pytest.fixture(scope="module")
def small(tool: Tool, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Six models of one small environment."""
    folder = tmp_path_factory.mktemp("small")
    return [write_small(folder / f"m{number}", number) for number in range(6)]


@pytest.fixture(scope="module")
def digests(tool: Tool, small: list[Path]) -> dict[str, str]:
    """What each of them is built to, alone and by the native engine."""
    return {str(path): tool("image", path).out.strip().partition("@")[2] for path in small}


def reference_file(folder: Path, models: list[Path]) -> Path:
    file = folder / "refs.txt"
    file.write_text("# what is to be built\n\n" + "".join(f"{model}\n" for model in models))
    return file


def read_lines(out: str) -> dict[str, str]:
    """Model -> digest, from the lines on stdout."""
    rows = [line.partition("\t") for line in out.splitlines()]
    return {model: image.partition("@")[2] for model, _, image in rows}


def test_fifty_models_of_one_environment_store_it_once(tool: Tool, trained: Trained, tmp_path: Path) -> None:
    models = [copy_model(trained.model, tmp_path / f"m{n:02d}", n, size=200_000) for n in range(FIFTY)]
    refs, report = reference_file(tmp_path, models), tmp_path / "report.json"
    with start_registry(tmp_path / "registry") as registry:
        begin = time.monotonic()
        done = tool(
            "image", "--from-file", refs, "--jobs", "2", "--report", report,
            "--push", f"{registry.address}/fifty/{{name}}:{{model_id}}", "--json", cwd=trained.folder,
        )  # fmt: skip
        took = time.monotonic() - begin
        again = time.monotonic()
        tool("image", "--from-file", refs, "--jobs", "2", "--report", report, cwd=trained.folder)
        again = time.monotonic() - again
    images = [json.loads(line) for line in done.out.splitlines()]
    assert len({image["digest"] for image in images}) == FIFTY
    assert {entry["status"] for entry in json.loads(report.read_text())["models"]} == {"reused"}
    layers = Counter((layer["digest"], layer["size"]) for image in images for layer in image["layers"])
    environment = sum(size for (_, size), count in layers.items() if count == FIFTY)
    own = sum(size for (_, size), count in layers.items() if count < FIFTY)
    stored = sum(path.stat().st_size for path in (tmp_path / "registry/data").rglob("*") if path.is_file())
    ends = [image["seconds"]["all"] for image in images]
    print(
        f"stored {stored:,} = {stored / (environment + own):.4f} of environment {environment:,} + models {own:,}; "
        f"{took:.1f} s in all, {took / FIFTY:.2f} s a model (of {sum(ends) / FIFTY:.2f} s), {again:.1f} s again"
    )
    assert stored <= 1.05 * (environment + own)


def test_a_model_that_fails_is_told_at_the_end(
    tool: Tool, small: list[Path], digests: dict[str, str], tmp_path: Path
) -> None:
    broken = write_small(tmp_path / "broken", 99)
    (broken / "MLmodel").write_text("flavors: {spark: {}}\n")
    refs, report = reference_file(tmp_path, [small[0], broken, small[1]]), tmp_path / "report.json"
    done = tool("image", "--from-file", refs, "--report", report, code=70)
    assert read_lines(done.out) == {str(path): digests[str(path)] for path in small[:2]}
    assert done.error_lines[0] == "error: 1 of 3 models have no image"
    entries = json.loads(report.read_text())["models"]
    assert [entry["status"] for entry in entries] == ["reused", "failed", "reused"]
    assert "no python_function flavor" in entries[1]["error"]["message"]
    refs.write_text(f"{small[0]}\nnothing\n{tmp_path}/absent\n")
    refused = tool("image", "--from-file", refs, code=10)
    assert "line 2" in refused.err and "line 3" in refused.err and refused.out == ""


def test_ctrl_c_ends_it_and_the_same_command_goes_on(
    tool: Tool, small: list[Path], digests: dict[str, str], tmp_path: Path
) -> None:
    models = [write_small(tmp_path / f"m{number}", number) for number in range(100, 130)]
    refs, report = reference_file(tmp_path, models), tmp_path / "report.json"
    # A shell that starts the tests in the background has Ctrl-C ignored by all of them.
    listening = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", listening, str(BIN / "kbuild"),
         "image", "--from-file", str(refs), "--jobs", "2", "--report", str(report)],
        env=tool.environ(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    first = [process.stdout.readline() for _ in range(3)]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert not list(tool.cache.glob("work-*"))
    statuses = Counter(entry["status"] for entry in json.loads(report.read_text())["models"])
    built = len(first) + len(out.splitlines())
    assert statuses["built"] == built < len(models) and statuses["stopped"] == len(models) - built
    tool("image", "--from-file", refs, "--jobs", "2", "--report", report)
    assert Counter(entry["status"] for entry in json.loads(report.read_text())["models"])["reused"] >= built


def test_two_engines_share_models_and_one_may_go(
    tool: Tool, small: list[Path], digests: dict[str, str], docker_engine: DockerEngine, tmp_path: Path
) -> None:
    config = tmp_path / "docker"
    with start_engine(tmp_path / "second") as second:
        environment = {"DOCKER_CONFIG": str(config), "DOCKER_HOST": docker_engine.host}

        def docker(*argv: str) -> str:
            env = {**os.environ, **environment}
            env.pop("DOCKER_HOST")  # a context is what it is whatever the variable says
            done = subprocess.run(["docker", *argv], env=env, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            return done.stdout

        docker("context", "create", "kb-first", "--docker", f"host={docker_engine.host}")
        docker("context", "create", "kb-second", "--docker", f"host={second.host}")
        docker("buildx", "create", "--name", "kb-gone", "--driver", "remote", "tcp://127.0.0.1:9")
        unknown = tool("image", small[0], "--builder", "kb-none", "--no-cache", code=40, **environment)
        assert "kb-none" in unknown.error_lines[0] and "kb-second" in unknown.error_lines[1], unknown.err
        gone = tool("image", small[0], "--builder", "kb-gone", "--no-cache", code=40, **environment)
        assert "kb-gone" in gone.error_lines[0] and len(gone.error_lines) == 2, gone.err
        done = tool(
            "image", "--from-file", reference_file(tmp_path, small[:3]), "--builder", "kb-gone,kb-first",
            "--builder", "kb-second", "--jobs", "3", "--no-cache", **environment,
        )  # fmt: skip
        assert read_lines(done.out) == {str(path): digests[str(path)] for path in small[:3]}
        sizes = [usage(docker("--context", name, "builder", "du")) for name in ("kb-first", "kb-second")]
        assert all(sizes), "one of the two engines built nothing"


def usage(listed: str) -> str:
    """The total of ``docker builder du``, empty where nothing was built."""
    total = next((line.split()[-1] for line in listed.splitlines() if line.startswith("Total")), "0B")
    return "" if total == "0B" else total


def test_the_in_container_template_gives_the_same_image(
    tool: Tool, small: list[Path], digests: dict[str, str], docker_engine: DockerEngine, tmp_path: Path
) -> None:
    base = tmp_path / "python"
    tool("image", small[0], "--output", base)
    done: dict[str, Any] = tool(
        "image", small[1], "--template", "in-container", "--install-base", f"oci:{base}", "--network", "host",
        "--no-cache", "--json", DOCKER_HOST=docker_engine.host,
    ).json  # fmt: skip
    assert done["engine"] == "buildkit"
    assert done["digest"] == digests[str(small[1])]
    refused = tool("image", small[1], "--template", "in-container", "--engine", "native", code=32)
    assert "native engine" in refused.error_lines[0]


def test_builds_at_once_give_the_digests_that_they_give_alone(
    tool: Tool, small: list[Path], digests: dict[str, str]
) -> None:
    models = [str(path) for path in (small[0], small[0], small[2], small[3])]
    with ThreadPoolExecutor(len(models)) as pool:
        found = list(pool.map(lambda model: tool("image", model, "--no-cache").out.strip().partition("@")[2], models))
    assert found == [digests[model] for model in models]
