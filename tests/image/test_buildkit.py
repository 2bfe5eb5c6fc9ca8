from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from plans import EMPTY

from kbuild.cache.room import keeping
from kbuild.digest import digest_bytes
from kbuild.errors import BuildFailed, CacheTooSmall, EngineUnavailable, ProgramNotFound
from kbuild.image.engine import EngineSettings
from kbuild.image.engines.buildkit import BuildKitEngine
from kbuild.image.engines.times import stamp_times
from kbuild.plan.base import ResolvedBase
from kbuild.plan.build_plan import BuildContext
from kbuild.process import Completed
from kbuild.progress import Silent

SCRATCH = ResolvedBase(kind="debs", name="scratch", digest=digest_bytes(b""))
CONTAINERD = '[["driver-type","io.containerd.snapshotter.v1"]]'


class FakeDocker:
    """Answers by the words of the command line; what it was asked is in ``asked``."""

    def __init__(self, **answers: tuple[int, str, str]) -> None:
        self.answers = {
            "version": (0, "26.1.5\n", ""),
            "buildx_version": (0, "github.com/docker/buildx 0.13.1 x\n", ""),
            "buildx_inspect": (0, "Name:   default\nDriver: docker\n", ""),
            "info": (0, CONTAINERD, ""),
            "buildx_build": (1, "", ""),
            **answers,
        }
        self.asked: list[tuple[str, ...]] = []

    def __call__(self, argv: Sequence[str], **_: Any) -> Completed:
        self.asked.append(tuple(argv))
        words = [word for word in argv[1:] if word not in ("--context", "there", "--builder", "far")]
        key = "_".join(words[:2]) if words[0] == "buildx" else words[0]
        code, out, err = self.answers[key]
        return Completed(tuple(argv), code, out, err)


def make_context(folder: Path) -> BuildContext:
    (folder / "Dockerfile").write_text("FROM scratch\n")
    return BuildContext(path=folder, plan=replace(EMPTY, base=SCRATCH.digest))


def test_the_probe_tells_versions() -> None:
    assert BuildKitEngine(FakeDocker()).probe() == "Docker 26.1.5, buildx 0.13.1"


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({"version": (1, "", "permission denied\n")}, "no Docker daemon answers: permission denied"),
        (
            {"version": (1, "", "Cannot connect to the Docker daemon at unix:///d.sock. Is it running?")},
            r"no Docker daemon answers at unix:///d\.sock$",
        ),
        (
            {"version": (1, "", "failed to connect to the docker API at unix:///d.sock; check if the path is correct")},
            r"no Docker daemon answers at unix:///d\.sock$",
        ),
        ({"buildx_version": (1, "", "unknown command\n")}, "docker has no buildx"),
        ({"info": (0, '[["Backing Filesystem","extfs"]]', "")}, "old store"),
    ],
)
def test_the_probe_says_what_is_missing(answers: dict[str, tuple[int, str, str]], words: str) -> None:
    with pytest.raises(EngineUnavailable, match=words) as caught:
        BuildKitEngine(FakeDocker(**answers)).probe()
    assert "--engine native" in str(caught.value.hint)


def test_another_driver_needs_no_containerd_store() -> None:
    docker = FakeDocker(buildx_inspect=(0, "Name: far\nDriver:   docker-container\n", ""), info=(0, "[]", ""))
    assert BuildKitEngine(docker).probe()


def test_no_docker_at_all() -> None:
    def nothing(argv: Sequence[str], **_: object) -> Completed:
        raise ProgramNotFound(f"{argv[0]} is not installed")

    with pytest.raises(EngineUnavailable, match="not installed"):
        BuildKitEngine(nothing).probe()


def test_a_failed_build_is_one_line_with_what_the_step_said(tmp_path: Path) -> None:
    said = (
        "#5 [2/2] RUN make\n#5 0.101 cc: not found\n#5 ERROR: process did not complete\n------\n"
        'ERROR: failed to solve: process "/bin/sh -c make" did not complete successfully: exit code: 127\n'
    )
    docker = FakeDocker(buildx_build=(1, "", said))
    (tmp_path / "context").mkdir()
    with pytest.raises(BuildFailed) as caught:
        BuildKitEngine(docker).build(
            make_context(tmp_path / "context"), SCRATCH, workdir=tmp_path / "work", progress=Silent()
        )
    assert caught.value.message == (
        'BuildKit: process "/bin/sh -c make" did not complete successfully: exit code: 127 (cc: not found)'
    )


def test_the_build_asks_for_no_times_and_no_attestations(tmp_path: Path) -> None:
    docker = FakeDocker()
    (tmp_path / "context").mkdir()
    with pytest.raises(BuildFailed):
        BuildKitEngine(docker).build(
            make_context(tmp_path / "context"), SCRATCH, workdir=tmp_path / "work", progress=Silent()
        )
    (argv,) = docker.asked
    assert {"--provenance=false", "--sbom=false", "--build-arg=SOURCE_DATE_EPOCH=0"} <= set(argv)
    assert any("rewrite-timestamp=true,compression=uncompressed" in word for word in argv)


def test_equal_content_gets_equal_times_and_other_content_others(tmp_path: Path) -> None:
    for name, content in (("a", "same"), ("b/c", "same"), ("d", "diff")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    (tmp_path / "link").symlink_to("b")
    (tmp_path / "other").symlink_to("a")
    stamp_times(tmp_path)
    times = {name: os.lstat(tmp_path / name).st_mtime_ns for name in ("a", "b/c", "d", "link", "other")}
    assert times["a"] == times["b/c"]
    assert len(set(times.values())) == 4
    assert all(0 < time < 2**31 * 10**9 for time in times.values())


REMOTE = "Name: far\nDriver: remote\n\nNodes:\nName: far0\nEndpoint: tcp://far.example:1234\nStatus: running\n"
LISTED = "NAME/NODE DRIVER/ENDPOINT STATUS\nfar remote\n  far0 tcp://far.example:1234 running\ndefault* docker\n"


def test_a_named_builder_is_asked_and_no_daemon() -> None:
    docker = FakeDocker(buildx_inspect=(0, REMOTE, ""))
    engine = BuildKitEngine(docker, EngineSettings(builder="far"))
    assert engine.probe() == "builder far (remote, tcp://far.example:1234), buildx 0.13.1"
    assert ("docker", "version", "--format", "{{.Server.Version}}") not in docker.asked


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ((1, "", 'ERROR: no builder "far" found\n'), 'no builder "far" found'),
        ((0, REMOTE.replace("Status: running", "Error: connection refused"), ""), "connection refused"),
        ((0, REMOTE.replace("running", "stopped"), ""), "it does not run"),
    ],
)
def test_a_builder_that_cannot_be_used_is_one_line_with_the_names_there_are(answer, why: str) -> None:
    docker = FakeDocker(buildx_inspect=answer, buildx_ls=(0, LISTED, ""))
    with pytest.raises(EngineUnavailable) as caught:
        BuildKitEngine(docker, EngineSettings(builder="far")).probe()
    assert caught.value.message == f"builder far cannot be used: {why}"
    assert caught.value.hint is not None and caught.value.hint.endswith("far, default")


def test_secret_texts_are_in_no_command_line(tmp_path: Path) -> None:
    seen: list[Mapping[str, str]] = []

    class Keeping(FakeDocker):
        def __call__(self, argv, *, env=None, **options):
            seen.append(env or {})
            return super().__call__(argv, env=env, **options)

    docker = Keeping(buildx_build=(1, "", "ERROR: no\n"), buildx_inspect=(0, REMOTE, ""))
    settings = EngineSettings(
        builder="far", network="host", contexts={"x": "oci-layout:///y"}, secrets={"a": "s3cr3t", "b": tmp_path / "ca"}
    )
    with pytest.raises(BuildFailed):
        BuildKitEngine(docker, settings).build(
            make_context(tmp_path), SCRATCH, workdir=tmp_path / "work", progress=Silent()
        )
    argv = docker.asked[-1]
    assert "s3cr3t" not in " ".join(argv) and "s3cr3t" in seen[-1].values()
    assert argv[:4] == ("docker", "buildx", "--builder", "far")
    for option in ("--network=host", "--build-context=x=oci-layout:///y"):
        assert option in argv
    assert f"--secret=id=b,src={tmp_path / 'ca'}" in argv and "--secret=id=a,env=KBUILD_SECRET_0" in argv


def test_the_builder_of_a_context_is_reached_by_the_context(tmp_path: Path) -> None:
    inspected = "Name: there\nDriver: docker\n\nNodes:\nName: there\nEndpoint: there\nStatus: running\n"
    docker = FakeDocker(buildx_build=(1, "", "ERROR: no\n"), buildx_inspect=(0, inspected, ""))
    engine = BuildKitEngine(docker, EngineSettings(builder="there"))
    assert engine.probe() == "builder there (docker, there), buildx 0.13.1"
    with pytest.raises(BuildFailed):
        engine.build(make_context(tmp_path), SCRATCH, workdir=tmp_path / "work", progress=Silent())
    assert docker.asked[-1][:5] == ("docker", "--context", "there", "buildx", "build")
    started = [asked for asked in docker.asked if "--bootstrap" in asked]
    assert len(started) == 1, "a builder in a cluster takes its time to start, and to tell of itself"


class Exporting(FakeDocker):
    """Writes its export as a build goes on, a line for each piece, and notes what is reserved then."""

    def __init__(self, keeper: Reserved, pieces: int) -> None:
        super().__init__()
        self.keeper, self.pieces, self.held = keeper, pieces, list[int]()

    def __call__(self, argv: Sequence[str], *, on_line: Callable[[str], None] | None = None, **more: Any) -> Completed:
        (output,) = (word for word in argv if word.startswith("--output="))
        target = Path(output.partition("dest=")[2].partition(",")[0])
        for number in range(1, self.pieces + 1):
            target.write_bytes(b"")
            os.truncate(target, number * 100_000_000)  # of holes: the disk is not used
            assert on_line is not None
            on_line("#5 [2/2] RUN make")
            self.held.append(self.keeper.held + target.stat().st_size)
        return Completed(tuple(argv), 1, "", "ERROR: it ends here")


class Reserved:
    """A ``Keeper`` that has room for ``most`` bytes."""

    def __init__(self, most: int) -> None:
        self.most, self.held = most, 0

    def reserve(self, size: int, ahead: int = 0) -> int:
        if self.held + size > self.most:
            raise CacheTooSmall("too small")
        self.held += size
        return size

    def release(self, size: int) -> None:
        self.held -= size


def test_room_is_made_for_an_export_before_and_while_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "context").mkdir()
    context = make_context(tmp_path / "context")
    (tmp_path / "context/file").write_bytes(bytes(100_000))
    keeper = Reserved(10**9)
    docker = Exporting(keeper, 4)
    with keeping(tmp_path / "work", keeper), pytest.raises(BuildFailed):
        BuildKitEngine(docker).build(context, SCRATCH, workdir=tmp_path / "work", progress=Silent())
    # What is written and what is still reserved are together more than is there, at any time.
    assert all(held > number * 100_000_000 for number, held in enumerate(docker.held, 1))
    assert keeper.held == 0
    for most, pieces in ((50_000, 0), (65_000_000, 1)):
        docker = Exporting(Reserved(most), 3)
        with keeping(tmp_path / "work", docker.keeper), pytest.raises(CacheTooSmall):
            BuildKitEngine(docker).build(context, SCRATCH, workdir=tmp_path / "work", progress=Silent())
        assert len(docker.held) <= pieces and docker.keeper.held == 0
