"""Tracking servers as teams have them: PostgreSQL, S3, passwords, a path prefix with TLS; and a proxy that counts."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import requests
from engines import free_port, no_services, only_one, require
from environments import install
from servers import wait
from tool import BIN, Tool

PROJECT = Path(__file__).parent / "projects" / "tally"
OLDEST = "3.1.*"
NEWEST = "newest"
ADMIN, WRITER, READER = ("admin", "a long password"), ("writer", "another password"), ("reader", "one more password")
_DROPPED = frozenset({"content-length", "content-encoding", "transfer-encoding", "connection", "server", "date"})


@dataclass
class Setup:
    """A running server. ``uri`` and ``variables`` are what its users set; ``asked`` is what it was asked."""

    uri: str
    variables: dict[str, str] = field(default_factory=dict)
    user: tuple[str, str] | None = None
    authority: str | bool = True
    asked: list[str] = field(default_factory=list)

    def tool(self, tool: Tool, **more: str) -> Tool:
        return Tool(
            cache=tool.cache,
            environment={**tool.environment, "MLFLOW_TRACKING_URI": self.uri, **self.variables, **more},
        )

    def ask(self, method: str, path: str, **values: Any) -> Any:
        """One question of MLflow's REST API, as this set-up's user."""
        given = {"params": values} if method == "GET" else {"json": values}
        answer = requests.request(
            method, f"{self.uri}/api/2.0/mlflow/{path}", auth=self.user, verify=self.authority, timeout=60, **given
        )
        assert answer.status_code == 200, answer.text
        return answer.json()

    def version(self) -> str:
        """The server's own word."""
        answer = requests.get(f"{self.uri}/version", auth=self.user, verify=self.authority, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.text.strip()

    def tags(self, run_id: str) -> dict[str, str]:
        data = self.ask("GET", "runs/get", run_id=run_id)["run"]["data"]
        return {tag["key"]: tag["value"] for tag in data.get("tags", ())}

    def version_tags(self, name: str, version: str = "1") -> dict[str, str]:
        found = self.ask("GET", "model-versions/get", name=name, version=version)["model_version"]
        return {tag["key"]: tag["value"] for tag in found.get("tags", ())}

    def register(self, name: str, source: str, run_id: str, **more: str) -> None:
        """A first version of that name; a copy is one whose source is another version, as MLflow's client makes it."""
        self.ask("POST", "registered-models/create", name=name)
        self.ask("POST", "model-versions/create", name=name, source=source, run_id=run_id, **more)


@contextmanager
def counting(
    upstream: str, asked: list[str], *, certificate: tuple[Path, Path] | None = None,
    before: Callable[[str], int | None] = lambda line: None,
) -> Iterator[str]:  # fmt: skip
    """A proxy before a server, which notes each request, and ends TLS where it has a certificate: its address.

    What ``before`` returns is the answer's status, in the place of the server's.
    """
    session = requests.Session()
    session.trust_env = False

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def _pass(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            line = f"{self.command} {self.path}"
            asked.append(line)
            if (status := before(line)) is not None:
                self.send_error(status)
                return
            headers = {
                name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")
            }
            headers["Accept-Encoding"] = "identity"
            try:
                answer = session.request(
                    self.command, upstream + self.path, headers=headers, data=body, allow_redirects=False, timeout=60
                )
            except requests.RequestException:
                self.close_connection = True  # as the server did
                return
            self.send_response(answer.status_code)
            for name, value in answer.headers.items():
                if name.lower() not in _DROPPED:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = _pass

        def log_message(self, *arguments: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    scheme = "http"
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        scheme = "https"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"{scheme}://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        session.close()


@contextmanager
def mlflow_server(
    folder: Path, *options: str, program: Path = BIN / "mlflow", health: str = "health", port: int = 0, **variables: str
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """``mlflow server``: its address and process, which leads a group; ended whole, gently, on leaving."""
    folder.mkdir(parents=True, exist_ok=True)
    uri = f"http://127.0.0.1:{port or free_port()}"
    given = (
        options
        if "--backend-store-uri" in options
        else ("--backend-store-uri", f"sqlite:///{folder}/mlflow.db", *options)
    )
    if not {"--no-serve-artifacts", "--artifacts-destination"} & set(given):
        given = (*given, "--artifacts-destination", str(folder / "artifacts"))
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "KBUILD_", "PYTHONPATH"))}
    environ |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **variables}
    environ["PATH"] = f"{program.parent}:{environ['PATH']}"
    log = folder / "server.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            [str(program), "server", "--host", "127.0.0.1", "--port", uri.rpartition(":")[2], "--workers", "1", *given],
            stdout=out, stderr=out, env=environ, cwd=folder, start_new_session=True,
        )  # fmt: skip
        try:
            wait(uri, process, log, path=health)
            yield uri, process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@dataclass(frozen=True, kw_only=True)
class Postgres:
    """A server with an empty database; ``uri`` has no driver in its scheme."""

    uri: str
    restart: Callable[[], None]


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL of its own, from Debian."""
    programs = _postgres_programs()
    # Its own user must be able to reach the folder, which pytest's are not for.
    folder = Path(tempfile.mkdtemp(prefix="kbuild-postgres-"))
    user: list[str] = []
    if os.geteuid() == 0:
        shutil.chown(folder, "nobody", "nogroup")
        user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
    port = free_port()

    def run(*argv: str) -> None:
        done = subprocess.run([*user, *argv], capture_output=True, text=True, cwd=folder)
        require(done.returncode == 0, f"{argv[0]}: {done.stderr[-400:]}{done.stdout[-400:]}")

    try:
        run(f"{programs}/initdb", "-D", f"{folder}/data", "-U", "mlflow", "-A", "trust", "--no-sync", "-E", "UTF8")
        options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={folder} -c fsync=off"
        run(f"{programs}/pg_ctl", "-D", f"{folder}/data", "-l", f"{folder}/log", "-o", options, "-w", "start")
        try:
            run(f"{programs}/createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "mlflow", "tracking")
            again = ["-D", f"{folder}/data", "-l", f"{folder}/log", "-o", options, "-w", "-m", "immediate", "restart"]
            yield Postgres(
                uri=f"postgresql://mlflow@127.0.0.1:{port}/tracking", restart=lambda: run(f"{programs}/pg_ctl", *again)
            )
        finally:
            run(f"{programs}/pg_ctl", "-D", f"{folder}/data", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _postgres_programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        with only_one(), no_services():
            require(os.geteuid() == 0 and shutil.which("apt-get"), "PostgreSQL is installed from Debian, by root")
            for command in (["update"], ["install", "-y", "--no-install-recommends", "postgresql"]):
                done = subprocess.run(
                    ["apt-get", "-q", *command], capture_output=True, text=True,
                    env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
                )  # fmt: skip
                require(done.returncode == 0, f"apt-get {command[0]} failed: {done.stderr.strip()[-400:]}")
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent


@contextmanager
def on_postgres(folder: Path) -> Iterator[Setup]:
    with postgres() as database, ExitStack() as stack:
        address = database.uri.replace("postgresql:", "postgresql+psycopg2:")
        uri, _ = stack.enter_context(mlflow_server(folder, "--backend-store-uri", address))
        setup = Setup(uri="")
        with counting(uri, setup.asked) as setup.uri:
            yield setup


@contextmanager
def on_s3(folder: Path) -> Iterator[Setup]:
    """Artifacts that clients bring to S3 (moto's) themselves."""
    from moto.server import ThreadedMotoServer

    port = free_port()
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    moto.start()
    variables = {
        "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1",
    }  # fmt: skip
    try:
        made = requests.put(f"http://127.0.0.1:{port}/models", timeout=30)
        assert made.status_code == 200, made.text
        options = ("--no-serve-artifacts", "--default-artifact-root", "s3://models/mlflow")
        with mlflow_server(folder, *options, **variables) as (uri, _):
            setup = Setup(uri="", variables=variables)
            with counting(uri, setup.asked) as setup.uri:
                yield setup
    finally:
        moto.stop()


@contextmanager
def with_passwords(folder: Path) -> Iterator[Setup]:
    """MLflow's basic auth: what the writer makes the reader may read."""
    folder.mkdir(parents=True)
    (folder / "auth.ini").write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{folder}/auth.db\n"
        f"admin_username = {ADMIN[0]}\nadmin_password = {ADMIN[1]}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    variables = {
        "MLFLOW_AUTH_CONFIG_PATH": f"{folder}/auth.ini",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "of this test alone",
    }
    with mlflow_server(folder, "--app-name", "basic-auth", **variables) as (uri, _):
        for user, password in (WRITER, READER):
            Setup(uri=uri, user=ADMIN).ask("POST", "users/create", username=user, password=password)
        setup = Setup(uri="", user=WRITER, variables=credentials(WRITER))
        with counting(uri, setup.asked) as setup.uri:
            yield setup


def credentials(user: tuple[str, str]) -> dict[str, str]:
    return {"MLFLOW_TRACKING_USERNAME": user[0], "MLFLOW_TRACKING_PASSWORD": user[1]}


@contextmanager
def below_a_prefix_with_tls(folder: Path) -> Iterator[Setup]:
    """``https://host/team/mlflow``, with the certificate of the team's own authority."""
    folder.mkdir(parents=True)
    authority, certificate = make_certificates(folder)
    options = ("--static-prefix", "/team/mlflow")
    with mlflow_server(folder, *options, health="team/mlflow/health") as (uri, _):
        setup = Setup(uri="", variables={"MLFLOW_TRACKING_SERVER_CERT_PATH": str(authority)}, authority=str(authority))
        with counting(uri, setup.asked, certificate=certificate) as address:
            setup.uri = f"{address}/team/mlflow"
            yield setup


@contextmanager
def on_the_newest(folder: Path) -> Iterator[Setup]:
    """The MLflow that is installed here, the newest that is supported, as it starts by itself."""
    with mlflow_server(folder) as (uri, _):
        setup = Setup(uri="")
        with counting(uri, setup.asked) as setup.uri:
            yield setup


@contextmanager
def on_the_oldest(folder: Path) -> Iterator[Setup]:
    """The oldest MLflow that is supported, in an environment of its own."""
    install(folder / "venv", [f"mlflow=={OLDEST}", "sqlalchemy<2.1"], dict(os.environ))
    with mlflow_server(folder / "server", program=folder / "venv/bin/mlflow") as (uri, _):
        setup = Setup(uri="")
        with counting(uri, setup.asked) as setup.uri:
            yield setup


def make_certificates(folder: Path) -> tuple[Path, tuple[Path, Path]]:
    """An authority's certificate, and certificate and key of 127.0.0.1 that it signed."""
    ca, ca_key, leaf, key, request = (
        folder / name for name in ("ca.pem", "ca.key", "leaf.pem", "leaf.key", "leaf.csr")
    )
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    (folder / "san").write_text("subjectAltName=IP:127.0.0.1\n")
    for argv in (
        ["req", "-x509", *curve, "-days", "2", "-subj", "/CN=team", "-keyout", ca_key, "-out", ca,
         "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign"],
        ["req", *curve, "-subj", "/CN=127.0.0.1", "-keyout", key, "-out", request],
        ["x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "2", "-out", leaf,
         "-extfile", folder / "san"],
    ):  # fmt: skip
        subprocess.run(["openssl", *map(str, argv)], check=True, capture_output=True)
    return ca, (leaf, key)


SETUPS = {
    "postgresql": on_postgres,
    "s3": on_s3,
    "passwords": with_passwords,
    "prefix-tls": below_a_prefix_with_tls,
    "oldest": on_the_oldest,
    NEWEST: on_the_newest,
}
