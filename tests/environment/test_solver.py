import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from listening import listening

from kbuild.environment.condalock.failures import explain_failure
from kbuild.environment.condalock.rattler_solver import overridden_packages
from kbuild.environment.condalock.solver import find_solver, write_built_in_solver


def test_an_installed_solver_is_preferred_fastest_first(tmp_path: Path) -> None:
    installed = {"conda": "/c/conda", "mamba": "/c/mamba"}
    assert find_solver(tmp_path, which=installed.get) == Path("/c/mamba")
    assert find_solver(tmp_path, which=lambda _: None) == tmp_path / "kbuild-solver"


def test_conda_locks_question_for_the_version_costs_no_solver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    script = write_built_in_solver(tmp_path)
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == "conda 24.1.0\n"
    assert subprocess.run([script, "create", "--version"]).returncode == 1


def test_virtual_packages_come_from_condas_variables() -> None:
    environ = {"CONDA_OVERRIDE_GLIBC": "2.36", "CONDA_OVERRIDE_ARCHSPEC": "x86_64", "CONDA_OVERRIDE_CUDA": "", "X": "1"}
    assert overridden_packages(environ) == [("__archspec", "1", "x86_64"), ("__glibc", "2.36", "0")]


@pytest.fixture
def channel(tmp_path: Path) -> Path:
    def record(name: str, version: str, *depends: str) -> dict[str, object]:
        return {
            "name": name,
            "version": version,
            "build": "0",
            "build_number": 0,
            "depends": list(depends),
            "md5": "0" * 32,
            "sha256": "a" * 64,
            "subdir": "linux-64",
        }

    records = [
        record("python", "3.11.7", "__glibc >=2.30"),
        record("python", "3.12.1"),
        record("x", "1", "python 3.10.*"),
    ]
    packages = {f"{r['name']}-{r['version']}-0.conda": r for r in records}
    for subdir, offered in (("linux-64", packages), ("noarch", {})):
        (tmp_path / subdir).mkdir()
        repodata = {"info": {"subdir": subdir}, "packages": {}, "packages.conda": offered, "repodata_version": 1}
        (tmp_path / subdir / "repodata.json").write_text(json.dumps(repodata))
    return tmp_path


def solve(
    channel: Path, *specs: str, glibc: str = "2.36", url: str | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    solver = write_built_in_solver(channel)
    flags = ["--prefix", "p", "--dry-run", "--json", "--override-channels", "--channel", url or channel.as_uri()]
    environ = {**os.environ, "CONDA_SUBDIR": "linux-64", "CONDA_OVERRIDE_GLIBC": glibc, **variables}
    return subprocess.run(
        [solver, "create", *flags, *specs], env=environ, capture_output=True, text=True, check=False, timeout=60
    )


def test_the_built_in_solver_answers_as_conda_does(channel: Path) -> None:
    done = solve(channel, "python 3.11.7")
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["success"]) == (0, True)
    (fetched,) = answer["actions"]["FETCH"]
    assert fetched["url"] == f"{channel.as_uri()}/linux-64/python-3.11.7-0.conda"
    assert (fetched["sha256"], fetched["md5"], fetched["depends"]) == ("a" * 64, "0" * 32, ["__glibc >=2.30"])


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["{name}::python 3.12.1", "{url}::python 3.12.1", "{name}/linux-64::python =3.12"])
def test_a_channel_is_known_by_its_name_wherever_it_lies(channel: Path, spec: str) -> None:
    """conda's docs, "Package match specifications": ``conda-forge::x``, of a mirror as of the public channel."""
    done = solve(channel, spec.format(name=channel.name, url=channel.as_uri()))
    (fetched,) = json.loads(done.stdout)["actions"]["FETCH"]
    assert fetched["version"] == "3.12.1"


def test_a_channel_that_is_not_listed_is_not_taken_for_one_that_is(channel: Path) -> None:
    assert json.loads(solve(channel, "other::python 3.12.1").stdout)["exception_name"] == "UnsatisfiableError"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("specs", "glibc", "kind"),
    [
        (("gone",), "2.36", "UnsatisfiableError"),
        (("x", "python 3.12.*"), "2.36", "UnsatisfiableError"),
        (("python 3.11.7",), "2.28", "UnsatisfiableError"),
        (("python [",), "2.36", "InvalidMatchSpec"),
    ],
)
def test_its_failures_are_condas_json(channel: Path, specs: tuple[str, ...], glibc: str, kind: str) -> None:
    done = solve(channel, *specs, glibc=glibc)
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["exception_name"]) == (1, kind)
    assert answer["message"].startswith(f"{kind}: ")


def test_other_commands_are_refused(channel: Path) -> None:
    solver = write_built_in_solver(channel)
    done = subprocess.run([solver, "install", "x"], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, json.loads(done.stdout)["exception_name"]) == (1, "CommandError")
    assert subprocess.run([solver, "--version"], capture_output=True, check=True, timeout=60).stdout


@pytest.mark.slow
def test_credentials_of_netrc_are_sent_to_their_channel(site: Any, channel: Path) -> None:
    for subdir in ("linux-64", "noarch"):
        page = (channel / subdir / "repodata.json").read_bytes()
        site.pages[f"/{subdir}/repodata.json"] = (200, "application/json", page)
    netrc = channel / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password pw\n")
    netrc.chmod(0o600)
    done = solve(channel, "python 3.11.7", url=site.url, NETRC=str(netrc), HOME=str(channel))
    assert done.returncode == 0, done.stdout
    # RFC 7617: base64 of "me:pw".
    assert ("/linux-64/repodata.json", "Basic bWU6cHc=") in site.seen


@pytest.mark.slow
def test_a_channel_lies_where_condas_settings_say(channel: Path, tmp_path: Path) -> None:
    condarc = tmp_path / "condarc"
    condarc.write_text(f"custom_channels: {{{channel.name}: '{channel.parent.as_uri()}'}}\n")
    done = solve(channel, f"{channel.name}::python 3.12.1", url=channel.name, CONDARC=str(condarc))
    (fetched,) = json.loads(done.stdout)["actions"]["FETCH"]
    assert fetched["url"] == f"{channel.as_uri()}/linux-64/python-3.12.1-0.conda"
    condarc.write_text(f"default_channels: ['{channel.as_uri()}']\n")
    assert solve(channel, "python 3.11.7", url="defaults", CONDARC=str(condarc)).returncode == 0


@pytest.mark.slow
def test_condas_settings_that_cannot_be_read_are_an_answer_of_condas_kind(channel: Path, tmp_path: Path) -> None:
    (tmp_path / "condarc").write_text("channel_alias: [\n")
    done = solve(channel, "python 3.11.7", CONDARC=str(tmp_path / "condarc"))
    assert (done.returncode, json.loads(done.stdout)["exception_name"]) == (1, "ConfigurationLoadError")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_certificates_that_conda_and_pip_trust_are_trusted(channel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(variable, raising=False)
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    argv = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    argv += ["-subj", "/CN=channel", "-addext", "subjectAltName=IP:127.0.0.1"]
    argv += ["-addext", "basicConstraints=critical,CA:FALSE", "-keyout", "key", "-out", "cert"]
    subprocess.run(argv, cwd=channel, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(channel / "cert", channel / "key")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(channel)))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with listening(server) as address:
        url = address.replace("http:", "https:")
        done = solve(channel, "python 3.11.7", url=url, REQUESTS_CA_BUNDLE=str(channel / "cert"))
        assert done.returncode == 0, done.stdout
        monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
        condarc = channel / "condarc"
        for verify, code in ((channel / "cert", 0), ("false", 0), ("true", 1)):
            condarc.write_text(f"ssl_verify: {verify}\n")
            done = solve(channel, "python 3.11.7", url=url, CONDARC=str(condarc))
            assert done.returncode == code, (verify, done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "told"), [("https", True), ("http", False)])
def test_a_client_certificate_that_it_cannot_show_is_named(
    scheme: str, told: bool, channel: Path, tmp_path: Path
) -> None:
    """Only where a channel does not answer: others may ask for none."""
    (tmp_path / ".condarc").write_text("client_ssl_cert: /etc/own.pem\n")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"{scheme}://127.0.0.1:{taken.getsockname()[1]}/own"
        done = solve(channel, "python 3.11.7", url=url, HOME=str(tmp_path))
    message = json.loads(done.stdout)["message"]
    assert done.returncode == 1 and message.startswith("CondaHTTPError")
    assert ("client_ssl_cert" in message) == told
    if told:
        failed = f"Could not lock the environment for platform linux-64\n{message}\n    Command: x"
        assert "cannot show the client_ssl_cert" in explain_failure(failed, releases=lambda _: {}).message
