from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from kbuild.digest import Digest
from kbuild.errors import ContainerFailed, RuntimeUnavailable
from kbuild.image.run import runtimes
from kbuild.image.run.runtimes import Bubblewrap, Namespaces, Runtime, SandboxOrder, choose_runtime
from kbuild.image.run.sandbox import make_order, start_sandbox
from kbuild.image.run.unpack import UnpackedImage
from kbuild.process import Completed, run, start
from kbuild.progress import Silent
from kbuild.verify.scoring import wait_until_ready

SERVER = """
import http.server, os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print('stopping', flush=True), sys.exit(7)))
if os.fork() == 0: time.sleep(100)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self): self.send_response(200 if self.path == '/health' else 404); self.end_headers()
    def log_message(self, *_): pass
http.server.HTTPServer((os.environ['KBUILD_HOST'], int(os.environ['KBUILD_PORT'])), Handler).serve_forever()
"""


def answering(code: int, text: str = "") -> Any:
    return lambda argv, **_: Completed(tuple(argv), code, "", text)


def image(root: Path, **config: Any) -> UnpackedImage:
    return UnpackedImage(root=root, config=config, digest=Digest("0" * 64))


class Unconfined:
    """A fake runtime: the program as it is, on this machine's own root."""

    name = "nothing"

    def probe(self, run: Any) -> str | None:
        return None

    def command(self, order: SandboxOrder, orders: int, info: int) -> tuple[list[str], bytes]:
        text = (
            "import json, os, sys; o = json.load(open(int(sys.argv[1])));"
            "os.write(int(sys.argv[2]), b'{\"child-pid\": %d}' % os.getpid());"
            "os.close(int(sys.argv[2])); os.execve(o['argv'][0], o['argv'], o['env'])"
        )
        content = json.dumps({"argv": order.argv, "env": dict(order.env)}).encode()
        return [sys.executable, "-c", text, str(orders), str(info)], content


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root/etc").mkdir(parents=True)
    (tmp_path / "root/etc/passwd").write_text("root:x:0:0::/:\nserve:x:70:71::/:\n")
    (tmp_path / "root/etc/group").write_text("staff:x:50:\n")
    return tmp_path / "root"


def test_the_order_follows_the_image(root: Path) -> None:
    order = make_order(
        image(root, Entrypoint=["/bin/a"], Cmd=["b"], Env=["X=1=2", "Y="], WorkingDir="/w", User="65532:65532"),
        env={"Y": "3"},
    )
    assert order.argv == ("/bin/a", "b")
    assert (order.env["X"], order.env["Y"], order.cwd) == ("1=2", "3", "/w")
    assert order.env["PATH"].endswith("/bin")
    assert make_order(image(root, Cmd=["x"]), argv=["y"]).argv == ("y",)


@pytest.mark.parametrize(
    ("user", "ids"),
    [
        ("", (65532, 65532)),
        ("0", (65532, 65532)),
        ("root", (65532, 65532)),
        ("1000", (1000, 1000)),
        ("1000:50", (1000, 50)),
        ("serve", (70, 71)),
        ("serve:staff", (70, 50)),
    ],
)
def test_the_user_is_the_images_but_never_root(root: Path, user: str, ids: tuple[int, int]) -> None:
    order = make_order(image(root, Cmd=["x"], User=user))
    assert (order.uid, order.gid) == ids


def test_an_unknown_user_and_a_missing_program_are_errors(root: Path) -> None:
    with pytest.raises(ContainerFailed, match="'nobody', which its /etc/passwd does not know"):
        make_order(image(root, Cmd=["x"], User="nobody"))
    with pytest.raises(ContainerFailed, match="no entrypoint"):
        make_order(image(root))


def test_bubblewrap_is_told_everything_in_a_file(root: Path) -> None:
    order = make_order(image(root, Cmd=["/serve"], Env=["TOKEN=secret"]))
    argv, content = Bubblewrap().command(order, 5, 6)
    assert argv[1:] == ["--args", "5", "--info-fd", "6", "--", "/serve"]
    words = content.decode().split("\0")
    assert words[:3] == ["--ro-bind", str(root), "/"]
    assert words[words.index("TOKEN") - 1 : words.index("TOKEN") + 2] == ["--setenv", "TOKEN", "secret"]
    assert words[words.index("--uid") + 1] == "65532"


def test_the_first_runtime_that_works_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert isinstance(choose_runtime("auto", run=answering(0)), Bubblewrap)
    assert isinstance(choose_runtime("unshare", run=answering(0)), Namespaces)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert isinstance(choose_runtime("auto", run=answering(0)), Namespaces)


def test_where_none_works_every_reason_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    with pytest.raises(RuntimeUnavailable, match="bubblewrap: no luck; Linux namespaces: no luck") as caught:
        choose_runtime("auto", run=answering(1, "first\nno luck\n"))
    assert "bubblewrap" in (caught.value.hint or "")
    with pytest.raises(RuntimeUnavailable, match="no runtime is called 'podman'"):
        choose_runtime("podman", run=answering(0))


def test_a_server_becomes_ready_and_stops_whole(root: Path, tmp_path: Path) -> None:
    order = make_order(image(root, Cmd=[sys.executable, "-c", SERVER]))
    running = start_sandbox(order, runtime=Unconfined(), start=start, log=tmp_path / "log")
    try:
        wait_until_ready(running, timeout=20, progress=Silent())
        assert running.alive()
        assert running.describe() == f"nothing, process {running.pid}"
        assert running.url.startswith("http://127.0.0.1:")
    finally:
        running.stop()
        # The fake has no process namespace; what the server forked is in its session.
        os.killpg(running.process.pid, signal.SIGKILL)
    assert not running.alive()
    assert running.wait(1) == 7
    assert running.logs() == "stopping\n"
    running.stop()


def test_a_program_that_ends_is_no_server(root: Path, tmp_path: Path) -> None:
    order = make_order(image(root, Cmd=[sys.executable, "-c", "raise SystemExit('no model here')"]))
    running = start_sandbox(order, runtime=Unconfined(), start=start, log=tmp_path / "log")
    with pytest.raises(ContainerFailed, match="stopped before it answered: no model here"):
        wait_until_ready(running, timeout=20, progress=Silent())
    assert running.wait(1) == 1


def test_a_program_that_is_never_ready_is_given_up(root: Path, tmp_path: Path) -> None:
    order = make_order(image(root, Cmd=[sys.executable, "-c", "import time; time.sleep(60)"]))
    running = start_sandbox(order, runtime=Unconfined(), start=start, log=tmp_path / "log")
    with pytest.raises(ContainerFailed, match=r"did not answer /health within 0\.3 s"):
        wait_until_ready(running, timeout=0.3, progress=Silent())
    running.stop()
    assert running.wait(1) == -signal.SIGTERM


def test_a_sandbox_that_cannot_be_made_says_why(root: Path, tmp_path: Path) -> None:
    class Broken(Unconfined):
        def command(self, order: SandboxOrder, orders: int, info: int) -> tuple[list[str], bytes]:
            return [sys.executable, "-c", "raise SystemExit('unshare: not permitted')"], b""

    with pytest.raises(ContainerFailed, match="nothing cannot start the image: unshare: not permitted"):
        start_sandbox(make_order(image(root, Cmd=["x"])), runtime=Broken(), start=start, log=tmp_path / "log")


def test_files_are_read_inside_the_image_only(root: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    (root / "out").symlink_to(tmp_path / "secret")
    running = start_sandbox(
        make_order(image(root, Cmd=[sys.executable, "-c", ""])), runtime=Unconfined(), start=start, log=tmp_path / "log"
    )
    running.stop()
    assert (running.read_file("/etc/group") or b"").startswith(b"staff")
    assert running.read_file("/out") is None
    assert running.read_file("/../secret") is None
    assert running.read_file("/none") is None


def shell_root(root: Path) -> Path:
    """This machine's /bin/sh and its libraries, and where a sandbox mounts something."""
    libraries = re.findall(r"(/\S+) \(0x", run(["ldd", "/bin/sh"]).stdout)
    for file in ("/bin/sh", *libraries):
        target = root / file.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    for name in ("proc", "dev", "tmp", "etc"):
        (root / name).mkdir()
    return root


@pytest.mark.parametrize("runtime", [kind() for kind in runtimes.RUNTIMES.values()], ids=lambda r: r.name)
def test_the_real_thing_where_it_works(runtime: Runtime, tmp_path: Path) -> None:
    """A shell alone: read-only, not root, first process of its namespace, and all of it gone when stopped."""
    reason = runtime.probe(run)
    if reason is not None:
        pytest.skip(f"{runtime.name} does not run here: {reason}")
    root = shell_root(tmp_path / "root")
    script = (
        'while read -r key id rest; do [ "$key" = Uid: ] && echo "$id"; done < /proc/self/status; echo $$;'
        "(echo x > /etc/x) 2> /dev/null || echo read-only; echo x > /tmp/x && echo writes;"
        "trap 'exit 3' TERM; (while :; do :; done) & wait"
    )
    order = make_order(image(root, Cmd=["/bin/sh", "-c", script], User="1234:1234"))
    running = start_sandbox(order, runtime=runtime, start=start, log=tmp_path / "log")
    try:
        for _ in range(100):
            if "writes" in running.logs() or running.wait(0.05) is not None:
                break
    finally:
        running.stop()
    assert running.logs().split() == ["1234", "1", "read-only", "writes"]
    assert running.wait(1) == 3
