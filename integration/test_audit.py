"""kbuild audit and kbuild diff on a trained model, its real lock and image, and the real package index."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import pickle
import re
import shutil
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml
from advisory_server import AdvisoryServer, serving
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from jsonschema import Draft202012Validator
from tool import BIN, Tool, Trained

from kbuild.audit.report.report import report_schema

# Importing MLflow's store warns of what its libraries deprecate.
pytestmark = pytest.mark.filterwarnings("ignore::Warning:mlflow", "ignore::sqlalchemy.exc.SADeprecationWarning")

TODAY = ("--today", "2026-11-22")
# Real releases: attrs 21.1.0 was yanked, Jinja2 2.4.1 has PYSEC-2014-8.
YANKED = ("attrs", "21.1.0", "8ee1e5f5a1afc5b19bdfae4fdf0c35ed324074bdce3500c939842c8f818645d9")
FOLLOWING = {
    "lock-conflict",
    "drift-image",
    "drift-trained",
    "drift-lock",
    "drift-model",
    "lock-other-file",
    "image-digest",
    "image-manifest",  # manifest.json, which Docker reads, still names the image as it was
    "image-whiteout",
    "lock-origin",
}
NO_NETWORK = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9")


def record(id: str, ecosystem: str, name: str, kind: str, fixed: str) -> dict[str, Any]:
    ranges = [{"type": kind, "events": [{"introduced": "0"}, {"fixed": fixed}]}]
    affected = {"package": {"ecosystem": ecosystem, "name": name}, "ranges": ranges}
    return {"id": id, "modified": "2026-11-01T00:00:00Z", "summary": "bad", "affected": [affected]}


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("true",)


@pytest.fixture(scope="module")
def advisories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of a wheel, the interpreter and a package of no base: nothing that was trained with is affected."""
    path = tmp_path_factory.mktemp("advisories") / "all.json"
    jinja = record("PYSEC-2014-8", "PyPI", "jinja2", "ECOSYSTEM", "2.7.2")
    python = record("BIT-python-1", "Bitnami", "python", "SEMVER", "3.6.0")
    debian = [record(f"DEBIAN-{n}", f"Debian:{n}", "no-such-package", "ECOSYSTEM", "1") for n in (12, 13)]
    path.write_text(json.dumps([jinja, python, *debian]))
    return path


@pytest.fixture(scope="module")
def lockfile(tool: Tool, trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lock") / "conda-lock.yml"
    tool("lock", trained.run_id, "--output", path, cwd=trained.folder)
    return path


def run_of(trained: Trained, run_id: str) -> Any:
    return mlflow.MlflowClient(f"sqlite:///{trained.folder / 'mlflow.db'}").get_run(run_id)


def test_a_clean_model_is_clean_and_its_run_says_so(
    tool: Tool, trained: Trained, advisories: Path, tmp_path: Path
) -> None:
    done = tool("audit", trained.run_id, "--advisories", advisories, *TODAY, "--format", "json", cwd=trained.folder)
    report = done.json
    Draft202012Validator(report_schema()).validate(report)
    assert (report["verdict"], report["findings"], report["unchecked"]) == ("clean", [], [])
    assert set(report["digests"]) == {"lock", "model", "image"}
    assert {each["id"]: each["looked_at"] > 0 for each in report["checks"]} == dict.fromkeys(
        ("lock", "closure", "base", "image", "drift", "vulnerabilities", "secrets", "releases", "pickles", "code"), True
    )
    tags = run_of(trained, trained.run_id).data.tags
    assert (tags["kbuild.audit"], tags["kbuild.audit_date"]) == ("clean", "2026-11-22")
    assert tags["kbuild.audited_lock"] == report["digests"]["lock"]
    client = mlflow.MlflowClient(f"sqlite:///{trained.folder / 'mlflow.db'}")
    sbom = Path(client.download_artifacts(trained.run_id, "kbuild/sbom.cdx.json", str(tmp_path))).read_text(
        encoding="utf-8"
    )
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(sbom) is None
    assert json.loads(sbom)["metadata"]["component"]["type"] == "machine-learning-model"
    stored = Path(client.download_artifacts(trained.run_id, "kbuild/audit.json", str(tmp_path))).read_text(
        encoding="utf-8"
    )
    assert json.loads(stored) == report


def edit_lock(source: Path, target: Path) -> Path:
    document = yaml.safe_load(source.read_text(encoding="utf-8"))
    for package in document["package"]:
        if package["name"] == "attrs":
            name, package["version"], package["hash"]["sha256"] = YANKED
            package["url"] = f"https://files.example/{name}-{package['version']}-py2.py3-none-any.whl"
        elif package["name"] == "jinja2":
            package["version"] = "2.4.1"
    target.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return target


def drift_image(source: Path, target: Path) -> Path:
    """The image with one more layer, in which six is another version."""
    shutil.copytree(source, target)
    blobs = target / "blobs" / "sha256"

    def put(data: bytes) -> dict[str, Any]:
        name = hashlib.sha256(data).hexdigest()
        (blobs / name).write_bytes(data)
        return {"digest": f"sha256:{name}", "size": len(data)}

    def load(entry: dict[str, Any]) -> Any:
        return json.loads((blobs / entry["digest"].removeprefix("sha256:")).read_text())

    index = json.loads((target / "index.json").read_text())
    manifest = load(index["manifests"][0])
    config = load(manifest["config"])
    # The interpreter of the demo is the one that runs here.
    site = f"opt/env/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    info = f"{site}/six-1.16.0.dist-info"
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in (
            (f"{site}/.wh.six-1.17.0.dist-info", b""),
            (f"{info}/METADATA", b"Metadata-Version: 2.1\nName: six\nVersion: 1.16.0\n"),
            (f"{info}/RECORD", b"six.py,,\nsix-1.16.0.dist-info/METADATA,,\nsix-1.16.0.dist-info/RECORD,,\n"),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    layer = put(gzip.compress(file.getvalue(), mtime=0))
    manifest["layers"].append({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", **layer})
    config["rootfs"]["diff_ids"].append(f"sha256:{hashlib.sha256(file.getvalue()).hexdigest()}")
    manifest["config"] |= put(json.dumps(config).encode())
    index["manifests"][0] |= put(json.dumps(manifest).encode())
    (target / "index.json").write_text(json.dumps(index))
    return target


def test_five_planted_faults_are_found(
    tool: Tool, trained: Trained, demo: dict[str, Any], advisories: Path, lockfile: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    source = trained.model
    shutil.copytree(source, model)
    (model / "artifacts" / "regressor.pkl").write_bytes(pickle.dumps(Evil()))
    images = Path(demo["image"].rpartition("sha256:")[2])
    image = drift_image(tool.cache / "images" / images, tmp_path / "image")
    argv = ["audit", model, "--image", image, "--lockfile", edit_lock(lockfile, tmp_path / "edited.yml")]
    argv += ["--advisories", advisories, *TODAY, "--no-record"]
    report = tool(*argv, "--format", "json", cwd=trained.folder, code=51).json
    Draft202012Validator(report_schema()).validate(report)
    found = {(each["id"], each["where"]) for each in report["findings"]}
    planted = {
        ("PYSEC-2014-8", "pip:jinja2"),
        ("yanked", "pip:attrs"),
        ("lock-edited", "conda-lock.yml"),
        ("drift-image", "pip:six"),
        ("pickle-dangerous", "artifacts/regressor.pkl"),
    }
    assert planted <= found
    assert all(each["remedy"] for each in report["findings"])
    # What follows from the planted faults, and nothing else.
    assert {each for each, _ in found - planted} <= FOLLOWING


@pytest.mark.parametrize("form", ["table", "json", "markdown", "html", "sarif", "cyclonedx", "spdx"])
def test_without_a_network_the_verdict_is_incomplete(tool: Tool, trained: Trained, lockfile: Path, form: str) -> None:
    done = tool(
        "audit", lockfile, "--format", form, *TODAY, cwd=trained.folder, code=52, **NO_NETWORK, NO_PROXY="", no_proxy=""
    )
    assert "incomplete" in done.out
    assert done.error_lines[0].startswith("error: not everything of ")
    if form == "json":
        reasons = {each["check"] for each in done.json["unchecked"]}
        assert {"vulnerabilities", "releases"} <= reasons


def test_a_lock_and_an_image_by_themselves(
    tool: Tool, trained: Trained, demo: dict[str, Any], advisories: Path, lockfile: Path, tmp_path: Path
) -> None:
    common = ("--advisories", advisories, *TODAY, "--format", "json")
    alone = tool("audit", lockfile, *common, cwd=tmp_path).json
    assert (alone["kind"], alone["verdict"], set(alone["digests"])) == ("lock", "clean", {"lock"})
    image = tool("audit", demo["image"], *common, "--no-record", cwd=trained.folder).json
    assert (image["kind"], image["verdict"]) == ("image", "clean")
    assert set(image["digests"]) == {"image", "lock", "model"}


@pytest.fixture
def osv_url() -> Iterator[str]:
    with serving(AdvisoryServer()) as server:
        server.add(record("GHSA-1", "PyPI", "jinja2", "ECOSYSTEM", "99"))
        yield f"{server.url}/v1/query"


def test_policy_services_and_ignores(tool: Tool, lockfile: Path, osv_url: str, tmp_path: Path) -> None:
    policy = f"""
[tool.kbuild.audit]
service = "osv"
osv-url = "{osv_url}"
[[tool.kbuild.audit.ignore]]
id = "GHSA-1"
reason = "templates are our own"
expires = 2026-12-01
"""
    (tmp_path / "pyproject.toml").write_text(policy)
    before = tool("audit", lockfile, "--format", "json", "--today", "2026-12-01", cwd=tmp_path).json
    assert (before["verdict"], len(before["accepted"]), before["expired_ignores"]) == ("clean", 1, [])
    after = tool("audit", lockfile, "--format", "json", "--today", "2026-12-02", cwd=tmp_path, code=51).json
    assert [each["id"] for each in after["findings"]] == ["GHSA-1"]
    assert [each["id"] for each in after["expired_ignores"]] == ["GHSA-1"]


def test_every_registered_model(tool: Tool, trained: Trained, advisories: Path, tmp_path: Path) -> None:
    project = shutil.copytree(trained.folder, tmp_path / "project", ignore=shutil.ignore_patterns("kbuild-cache"))
    uri = f"sqlite:///{project / 'mlflow.db'}"
    client = mlflow.MlflowClient(uri, uri)
    [output] = client.get_run(trained.run_id).outputs.model_outputs
    source = client.get_logged_model(output.model_id).artifact_location
    client.create_registered_model("risk")
    for _ in range(3):
        client.create_model_version("risk", source, run_id=trained.run_id, model_id=output.model_id)
    client.set_registered_model_alias("risk", "champion", "1")
    done = tool("audit", "--all-registered", "--advisories", advisories, *TODAY, "--format", "json", cwd=project)
    Draft202012Validator(report_schema()).validate(done.json)
    assert [each["reference"] for each in done.json["reports"]] == ["models:/risk/1", "models:/risk/3"]
    assert client.get_model_version("risk", "3").tags["kbuild.audit"] == "clean"


def test_diff_of_two_runs(tool: Tool, trained: Trained, tmp_path: Path) -> None:
    same = tool("diff", trained.run_id, trained.run_id, cwd=trained.folder)
    assert same.out.startswith("no differences")
    project = shutil.copytree(trained.folder, tmp_path / "project")
    code = project / "src" / "diabetes" / "answer.py"
    code.write_text(code.read_text() + "\nADDED = 1\n")
    done = tool.run([BIN / "kedro", "run", "--params", "decimals=2"], cwd=project, PYTHONWARNINGS="ignore")
    logged = re.search(r"in run ([0-9a-f]{32})", done.out + done.err)
    assert logged is not None, done.err[-2000:]
    difference = tool("diff", trained.run_id, logged[1], "--json", cwd=project).json
    assert [each["name"] for each in difference["code"]] == ["code/diabetes/answer.py"]
    assert difference["packages"] == []
    changed = {each["name"]: (each["before"], each["after"]) for each in difference["parameters"]}
    assert changed["params:decimals"] == ("1", "2")
    assert "artifacts/params_decimals.json" in {each["name"] for each in difference["artifacts"]}


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["{lock}", "--all-registered"], 2, "REFERENCE or --all-registered"),
        (["nothing-like-this"], 10, "is not a model"),
        (["{lock}", "--today", "soon"], 3, "is not a date"),
        (["{lock}", "--advisories", "absent.json"], 3, "absent.json"),
        (["{lock}", "--fail-on", "worst"], 2, "worst"),
        (["broken.yml"], 26, "broken.yml"),
        (["0" * 32], 11, "0" * 32),
        (["{run}", "--image", "no-such-image"], 10, "no-such-image"),
        (["{run}", "--lockfile", "absent.yml"], 26, "absent.yml"),
        (["{lock}", "--output", "broken.yml/report.json"], 42, "report.json"),
        (["--all-registered", "--format", "cyclonedx"], 2, "cyclonedx"),
    ],
)
def test_bad_input(
    tool: Tool, trained: Trained, lockfile: Path, tmp_path: Path, argv: list[str], code: int, words: str
) -> None:
    (tmp_path / "broken.yml").write_text("a: [")
    words_of = [each.format(lock=lockfile, run=trained.run_id) for each in argv]
    uri = f"sqlite:///{trained.folder / 'mlflow.db'}"
    done = tool(
        "audit",
        *words_of,
        *(() if "--today" in argv else ("--offline",)),
        cwd=tmp_path,
        code=code,
        MLFLOW_TRACKING_URI=uri,
    )
    assert words in done.err
    assert "Traceback" not in done.err
