import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import yaml
from run_files import RunFiles

from kbuild.digest import digest_bytes
from kbuild.environment.bounds import read_bounds
from kbuild.environment.built.built_wheels import parse_side, wheel_url
from kbuild.environment.built.sdists import BuiltWheel
from kbuild.environment.condalock.channels import channel_urls
from kbuild.environment.index.file_choice import BinaryChoice
from kbuild.environment.index.package_indexes import Indexes, IndexFile
from kbuild.environment.lockfile import INPUT_DIGEST_KEY, Lockfile, parse_lockfile
from kbuild.environment.locking import lock_model as locking
from kbuild.environment.locking.kept import write_lockfile
from kbuild.environment.locking.lock_model import Locked, lock_bundle
from kbuild.environment.locking.stored import LockPlace, bring_packages
from kbuild.environment.locking.wanted import LockRequest
from kbuild.environment.spec import EnvironmentSpec
from kbuild.errors import (
    ConfigurationError,
    HashMismatch,
    IndexUnavailable,
    InterpreterCaptureFailed,
    LockfileInvalid,
    LockfileStale,
    PackageNotFound,
    VersionConflict,
)
from kbuild.model.bundle import ModelBundle, ModelFacts
from kbuild.platform import Platform
from kbuild.progress import Silent

AMD64 = Platform("linux", "amd64")
ARM64 = Platform("linux", "arm64")
CAPTURED = b"a captured interpreter"


class FakeResolver:
    """Locks what is asked for, and counts how often."""

    def __init__(self, channel: Path) -> None:
        self.channel = channel
        self.asked: list[EnvironmentSpec] = []
        self.fails = False

    def input_digest(self, spec: EnvironmentSpec):
        return spec.digest

    def input_digests(self, spec: EnvironmentSpec, glibcs: Any):
        return [spec.digest for _ in glibcs]

    def resolve(self, spec: EnvironmentSpec, *, progress: Any) -> Lockfile:
        if self.fails:
            raise PackageNotFound("no such package")
        self.asked.append(spec)
        package = self.channel / "linux-64" / "python.conda"
        package.parent.mkdir(parents=True, exist_ok=True)
        package.write_bytes(CAPTURED)
        return parse_lockfile(lock_text(spec), source="fake")


def lock_text(spec: EnvironmentSpec) -> bytes:
    package = {
        "name": "python",
        "version": spec.python,
        "manager": "conda",
        "platform": "linux-64",
        "dependencies": {},
        "url": "$KBUILD_CHANNEL/linux-64/python.conda",
        "hash": {"sha256": digest_bytes(CAPTURED).hex},
        "category": "main",
        "optional": False,
    }
    metadata = {
        "content_hash": {"linux-64": "0"},
        "channels": [{"url": "conda-forge", "used_env_vars": []}],
        "platforms": ["linux-64"],
        "sources": [],
        "custom_metadata": {INPUT_DIGEST_KEY: str(spec.digest)},
    }
    six = next((line.removeprefix("six==") for line in spec.pip if line.startswith("six==")), "1.17.0")
    wheels = [wheel_of("six", six), wheel_of("python-dateutil", "2.9.0", six=">=1.5")]
    return yaml.safe_dump({"version": 1, "metadata": metadata, "package": [package, *wheels]}).encode()


def wheel_of(name: str, version: str, **dependencies: str) -> dict[str, Any]:
    """As the index that the bench has offers it."""
    filename = f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    return {
        "name": name,
        "version": version,
        "manager": "pip",
        "platform": "linux-64",
        "dependencies": dependencies,
        "url": f"https://index.example/files/{filename}",
        "hash": {"sha256": digest_bytes(filename.encode()).hex},
        "category": "main",
    }


@pytest.fixture
def bundle(tmp_path: Path) -> ModelBundle:
    root = tmp_path / "model"
    root.mkdir()
    facts = ModelFacts(
        uri=None,
        name=None,
        run_id="b" * 32,
        model_id=None,
        created=0,
        python_version="3.11.7",
        mlflow_version=None,
        loader_module="",
        flavors=(),
        conda_env={"channels": ["conda-forge"], "dependencies": ["python=3.11.7", {"pip": ["six==1.17.0"]}]},
        constraints=None,
        signature=None,
        input_example=None,
        record={},
    )
    return ModelBundle(root=root, files=(), facts=facts)


class Bench:
    """Everything that lock_bundle needs, on one machine; ``elsewhere`` is another machine with the same store."""

    def __init__(self, bundle: ModelBundle, folder: Path, store: RunFiles, patch: pytest.MonkeyPatch) -> None:
        self.bundle, self.cache, self.store = bundle, folder, store
        self.resolver = FakeResolver(folder / "channel")
        self.given: dict[str, Any] = {}
        self.environ: dict[str, str] = {}
        self.progress: Any = Silent()
        patch.setattr(locking, "CondaLockResolver", lambda **given: self.given.update(given) or self.resolver)
        patch.setattr(locking, "package_indexes", lambda **_: Indexes(urls=("https://index.example/simple",)))
        patch.setattr("kbuild.environment.condalock.channels.choose_interpreter", lambda *_, **__: "captured")

    def lock(self, *, force: bool = False, **request: Any) -> Locked:
        return lock_bundle(
            self.bundle,
            LockRequest(**{"platforms": (AMD64,), **request}),
            store=self.store,
            cache=self.cache,
            run=None,  # type: ignore[arg-type]
            progress=self.progress,
            environ=self.environ,
            force=force,
        )


@pytest.fixture
def bench(bundle: ModelBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(bundle, tmp_path / "one", RunFiles(), monkeypatch)


def test_the_first_lock_is_resolved_and_stored_with_the_run(bench: Bench) -> None:
    locked = bench.lock()
    assert locked.origin == "resolved" and locked.spec.interpreter == "captured"
    assert bench.store.files["kbuild/conda-lock.yml"] == locked.lockfile.content
    assert bench.store.files["kbuild/packages/linux-64/python.conda"] == CAPTURED


def test_a_fresh_lock_of_the_run_is_used_and_not_resolved_again(bench: Bench) -> None:
    first = bench.lock()
    again = bench.lock()
    assert again.origin == "stored with the run"
    assert again.lockfile == first.lockfile
    assert len(bench.resolver.asked) == 1


def test_another_machine_gets_the_captured_package_from_the_run(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.lock()
    other = Bench(bench.bundle, tmp_path / "two", bench.store, monkeypatch)
    locked = other.lock()
    assert locked.origin == "stored with the run"
    assert (locked.channel / "linux-64" / "python.conda").read_bytes() == CAPTURED
    assert other.resolver.asked == []


def test_a_captured_package_that_is_damaged_or_gone_is_said(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.lock()
    none = InterpreterCaptureFailed("not on this machine")
    monkeypatch.setattr("kbuild.environment.captured.interpreters.find_interpreter", Mock(side_effect=none))
    bench.store.files["kbuild/packages/linux-64/python.conda"] = b"other bytes"
    other = Bench(bench.bundle, tmp_path / "two", bench.store, monkeypatch)
    with pytest.raises(HashMismatch, match=r"python\.conda"):
        other.lock()
    del bench.store.files["kbuild/packages/linux-64/python.conda"]
    with pytest.raises(HashMismatch, match=r"python\.conda"):
        other.lock()


@pytest.mark.parametrize("content", [CAPTURED, b"another interpreter's"])
def test_a_captured_package_that_nobody_keeps_is_made_again_by_the_same_interpreter(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    bench.lock()
    del bench.store.files["kbuild/packages/linux-64/python.conda"]

    def capture(channel: Path, **_: Any) -> Any:
        channel.mkdir(parents=True, exist_ok=True)
        (channel / "made.conda").write_bytes(content)
        return Mock(package=channel / "made.conda")

    monkeypatch.setattr("kbuild.environment.captured.interpreters.find_interpreter", Mock())
    monkeypatch.setattr("kbuild.environment.captured.capture.capture_interpreter", capture)
    other = Bench(bench.bundle, tmp_path / "two", bench.store, monkeypatch)
    if content != CAPTURED:  # as an older kbuild captured it
        given = tmp_path / "given.yml"
        given.write_bytes(bench.lock().lockfile.content)
        for asked in ({"lockfile": given}, {"digest": str(bench.lock().lockfile.digest)}):
            with pytest.raises(HashMismatch, match=r"python\.conda .*capture has changed"):
                other.lock(**asked)
        with pytest.raises(LockfileStale, match=r"capture has changed.*--locked"):
            other.lock(locked=True)
        assert other.lock().origin == "resolved" and len(other.resolver.asked) == 1
        assert bench.store.files["kbuild/packages/linux-64/python.conda"] == CAPTURED
        return
    assert (other.lock().channel / "linux-64" / "python.conda").read_bytes() == CAPTURED
    assert other.resolver.asked == []


@pytest.mark.parametrize("subdir", ["linux-64", "noarch"])
def test_a_package_that_nobody_keeps_is_taken_from_the_folder_that_is_its_channel_here(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subdir: str
) -> None:
    lockfile = bench.lock().lockfile
    del bench.store.files["kbuild/packages/linux-64/python.conda"]
    monkeypatch.setattr(
        "kbuild.environment.captured.interpreters.find_interpreter", Mock(side_effect=AssertionError("asked"))
    )
    (tmp_path / "here" / subdir).mkdir(parents=True)
    (tmp_path / "here" / subdir / "python.conda").write_bytes(CAPTURED)
    target = tmp_path / "channel"
    (tmp_path / "scratch").mkdir()
    place = LockPlace(bundle=bench.bundle, store=bench.store, channel=target, run=Mock(), environ={}, progress=Silent())
    channels = ("https://conda.example/main", str(tmp_path / "here"))
    bring_packages(lockfile, place, tmp_path / "scratch", channels=channels)
    assert (target / "linux-64/python.conda").read_bytes() == CAPTURED
    assert (tmp_path / "here" / subdir / "python.conda").is_file()


def test_a_lock_that_pips_constraints_do_not_allow_is_made_anew(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "bounds.txt"
    file.write_text("# of the company\nPython_Dateutil<3\nsix<1\nunheard-of==1\n-r gone.txt\n")
    indexes = Indexes(urls=("https://index.example/simple",), constraints=(str(file),))
    bench.lock()
    monkeypatch.setattr(locking, "package_indexes", lambda **_: indexes)
    assert bench.lock().origin == "stored with the run"  # six is as the model asks for it
    assert bench.given["bounds"] == ("Python_Dateutil<3", "six<1", "unheard-of==1")
    file.write_text("Python_Dateutil<2.9\n")
    assert bench.lock().origin == "resolved"  # it has 2.9.0, which training did not pin
    file.unlink()
    with pytest.raises(ConfigurationError, match=r"cannot read .*bounds\.txt, which pip's constraint names"):
        bench.lock()


def test_a_password_in_the_url_of_a_constraint_is_not_told() -> None:
    told: list[str] = []
    progress: Any = SimpleNamespace(tell=told.append)
    assert read_bounds(["https://me:s3cret@index.example/bounds.txt?token=s3cret"], progress) == ()
    assert len(told) == 1 and "index.example/bounds.txt" in told[0] and "s3cret" not in told[0]


def test_a_lock_that_is_stale_is_made_anew(bench: Bench) -> None:
    bench.lock()
    env = {"channels": ["conda-forge"], "dependencies": ["python=3.11.7", {"pip": ["six==1.16.0"]}]}
    bench.bundle = replace(bench.bundle, facts=replace(bench.bundle.facts, conda_env=env))
    assert bench.lock().origin == "resolved"
    assert len(bench.resolver.asked) == 2


def test_a_lock_made_without_an_index_of_the_model_is_neither_kept_nor_stored(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip = ["six==1.17.0", "--extra-index-url https://own.example/simple"]
    env = {"channels": ["conda-forge"], "dependencies": ["python=3.11.7", {"pip": pip}]}
    bench.bundle = replace(bench.bundle, facts=replace(bench.bundle.facts, conda_env=env))
    asked = "kbuild.environment.condalock.reachable.answering"
    monkeypatch.setattr(asked, lambda indexes, own, *_: tuple(each for each in indexes if each not in own))
    less = bench.lock()
    assert less.origin == "resolved" and less.spec.indexes == ("https://index.example/simple",)
    assert bench.store.files == {} and not list(bench.cache.rglob("conda-lock.yml"))
    monkeypatch.setattr(asked, lambda indexes, *_: indexes)
    assert bench.lock().origin == "resolved"
    assert bench.lock().origin == "stored with the run"


def test_a_lock_from_a_mirror_that_only_the_solver_knows_is_refused_when_it_is_made(bench: Bench) -> None:
    def resolve(spec: EnvironmentSpec, *, progress: Any) -> Lockfile:
        document = yaml.safe_load(lock_text(spec))
        document["package"][0]["url"] = "https://mirror.example/conda-forge/linux-64/python-3.11.7-0.conda"
        return parse_lockfile(yaml.safe_dump(document).encode(), source="fake")

    bench.resolver.resolve = resolve  # type: ignore[method-assign]
    with pytest.raises(LockfileInvalid, match=r"python 3\.11\.7 from https://mirror\.example.*conda-forge$") as caught:
        bench.lock()
    assert "CONDA_CHANNEL_ALIAS=URL" in str(caught.value.hint) and "--channel" in str(caught.value.hint)
    assert bench.store.files == {} and not list(bench.cache.rglob("conda-lock.yml"))
    bench.environ = {"CONDA_CHANNEL_ALIAS": "https://mirror.example"}
    assert [bench.lock().origin, bench.lock().origin] == ["resolved", "stored with the run"]
    bench.environ = {}
    with pytest.raises(LockfileInvalid) as caught:
        bench.lock()
    assert "CONDA_CHANNEL_ALIAS=URL" in str(caught.value.hint)
    assert bench.lock(allowed_channels=("https://mirror.example/conda-forge",)).origin == "stored with the run"


def test_credentials_of_a_channels_url_go_to_processes_and_stay_out_of_the_lock(bench: Bench) -> None:
    locked = bench.lock(channels=("https://me:pa%20ss@conda.corp/main", "https://conda.corp/t/tok-1/other"))
    known = bench.given["environ"]
    assert {name: value for name, value in known.items() if name.startswith("KBUILD_CHANNEL_")} == {
        "KBUILD_CHANNEL_CONDA_CORP_USER": "me",
        "KBUILD_CHANNEL_CONDA_CORP_PASSWORD": "pa%20ss",
        "KBUILD_CHANNEL_CONDA_CORP_TOKEN": "tok-1",
    }
    assert locked.environ == known
    for secret in ("pa%20ss", "tok-1"):
        assert secret not in locked.lockfile.content.decode() and secret not in repr(locked)


def test_a_channel_by_http_that_the_user_names_gets_its_credentials(bench: Bench) -> None:
    own = "KBUILD_CHANNEL_CONDA_CORP_8080"
    url = f"http://${{{own}_USER}}:${{{own}_PASSWORD}}@conda.corp:8080/main"
    bench.environ = {f"{own}_USER": "me", f"{own}_PASSWORD": "pw"}
    locked = bench.lock(channels=(url,))
    assert channel_urls(locked.spec.channels, locked.environ) == ["http://me:pw@conda.corp:8080/main"]
    assert channel_urls(locked.spec.channels, bench.given["environ"]) == ["http://me:pw@conda.corp:8080/main"]
    # A model or a lock that names it gives no such permission.
    env = {"channels": [url], "dependencies": ["python=3.11.7", {"pip": ["six==1.17.0"]}]}
    bench.bundle = replace(bench.bundle, facts=replace(bench.bundle.facts, conda_env=env))
    locked = bench.lock()
    with pytest.raises(ConfigurationError, match="unencrypted") as caught:
        channel_urls(locked.spec.channels, locked.environ)
    assert f"{own}_HTTP=1" in str(caught.value.hint)


def test_variables_of_condas_activation_are_said_not_to_be_in_the_image(bench: Bench) -> None:
    told: list[str] = []
    bench.progress = SimpleNamespace(tell=told.append, note=told.append)
    bench.lock()
    assert not any("variables" in line for line in told)
    conda_env = {**bench.bundle.facts.conda_env, "variables": {"PROJ_DATA": "/data", "A": "1"}}
    bench.bundle = replace(bench.bundle, facts=replace(bench.bundle.facts, conda_env=conda_env))
    bench.lock()
    (said,) = [line for line in told if "variables" in line]
    assert "not set in the image: A, PROJ_DATA;" in said


def test_what_only_uv_is_told_of_is_said_where_a_lock_is_made(bench: Bench) -> None:
    told: list[str] = []
    bench.progress = SimpleNamespace(tell=told.append, note=told.append)
    bench.environ["UV_DEFAULT_INDEX"] = "https://own.example/simple"
    bench.lock()
    (said,) = [line for line in told if "uv is told" in line]
    assert "https://own.example/simple, and pip is not" in said
    bench.lock()  # a fresh one is taken as it is
    assert len([line for line in told if "uv is told" in line]) == 1
    bench.environ["UV_DEFAULT_INDEX"] = "https://index.example/simple/"  # pip is told of it as well
    bench.lock(force=True)
    assert len([line for line in told if "uv is told" in line]) == 1


def test_force_resolves_again(bench: Bench) -> None:
    bench.lock()
    assert bench.lock(force=True).origin == "resolved"


def test_locked_never_resolves(bench: Bench) -> None:
    with pytest.raises(LockfileStale, match="--locked") as caught:
        bench.lock(locked=True)
    assert "kbuild lock" in str(caught.value.hint)
    bench.lock()
    assert bench.lock(locked=True).origin == "stored with the run"


def test_a_given_lockfile_is_used_or_refused(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "given.yml"
    path.write_bytes(bench.lock().lockfile.content)
    assert bench.lock(lockfile=path).origin == "given"
    env = {"channels": [], "dependencies": ["python=3.11.7", {"pip": ["six==1.16.0"]}]}
    bench.bundle = replace(bench.bundle, facts=replace(bench.bundle.facts, conda_env=env))
    with pytest.raises(LockfileStale, match=r"given\.yml"):
        bench.lock(lockfile=path)


def test_without_a_store_the_cache_remembers(bench: Bench) -> None:
    bench.store.down = True
    assert bench.lock().origin == "resolved"
    assert bench.lock().origin == "cached"
    bench.store.down = False
    assert bench.lock().origin == "cached"
    assert bench.lock().origin == "stored with the run"


def test_a_resolver_that_fails_leaves_no_lock(bench: Bench) -> None:
    bench.resolver.fails = True
    with pytest.raises(PackageNotFound):
        bench.lock()
    assert not list(bench.cache.rglob("conda-lock.yml"))
    assert bench.store.files == {}


def test_what_decides_the_environment_decides_the_digest(bench: Bench) -> None:
    first = bench.lock().spec
    (bench.bundle.root / "constraints.txt").write_text("six==1.17.0\n")
    (bench.bundle.root / "requirements.txt").write_text("-c constraints.txt\n")
    env = {"dependencies": ["python=3.11.7", {"pip": ["six==1.17.0", "-c constraints.txt"]}], "channels": []}
    bench.bundle = replace(bench.bundle, facts=replace(bench.bundle.facts, conda_env=env))
    second = bench.lock().spec
    assert second.constraints == ("six==1.17.0",)
    assert first.digest != second.digest


def test_a_pipe_is_written_to_and_not_replaced(bench: Bench, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    lockfile = bench.lock().lockfile
    with ThreadPoolExecutor() as pool:
        read = pool.submit(pipe.read_bytes)
        write_lockfile(lockfile, pipe)
        assert read.result(10) == lockfile.content
    assert pipe.is_fifo()


def test_a_lock_of_more_platforms_is_fresh_for_one_of_them_and_not_the_other_way(bench: Bench) -> None:
    both = (AMD64, ARM64)
    wide = bench.lock(platforms=both)
    narrow = bench.lock()
    assert narrow.origin == "stored with the run" and narrow.lockfile == wide.lockfile
    assert len(bench.resolver.asked) == 1
    bench.store.files.clear()
    assert bench.lock().lockfile == wide.lockfile
    assert bench.lock(channels=("elsewhere",)).origin == "resolved"
    assert bench.lock(platforms=both, channels=("elsewhere",)).origin == "resolved"


def test_the_lock_that_an_image_names_counts_whatever_made_it(bench: Bench) -> None:
    first = bench.lock(channels=("elsewhere",))
    assert bench.lock(digest=str(first.lockfile.digest), locked=True).lockfile == first.lockfile
    with pytest.raises(LockfileStale):
        bench.lock(digest="sha256:other", locked=True)


def test_built_wheels_are_stored_with_the_run_and_fetched_from_it(bench: Bench, tmp_path: Path) -> None:
    wheel = BuiltWheel(
        name="tiny",
        version="1.0",
        sdist_url="https://files.example/tiny-1.0.tar.gz",
        sdist_sha256="c" * 64,
        filename="tiny-1.0-py3-none-any.whl",
        sha256=digest_bytes(b"a wheel").hex,
        python="3.11",
        requires=("hatchling==1.27.0",),
        glibc=None,
    )
    package = {
        "name": "tiny",
        "version": "1.0",
        "manager": "pip",
        "platform": "linux-64",
        "dependencies": {},
        "url": wheel_url(wheel),
        "hash": {"sha256": wheel.sha256},
    }

    def resolve(spec: EnvironmentSpec, *, progress: Any) -> Lockfile:
        path = bench.resolver.channel / "wheels" / wheel.sha256 / wheel.filename
        path.parent.mkdir(parents=True)
        path.write_bytes(b"a wheel")
        assert bench.given["builds"] is not None
        bench.given["builds"].made.append(wheel)
        document = yaml.safe_load(lock_text(spec))
        document["package"][0] = package
        return parse_lockfile(yaml.safe_dump(document).encode(), source="fake")

    bench.resolver.resolve = resolve  # type: ignore[method-assign]
    first = bench.lock(allow_sdist=True)
    stored = f"kbuild/packages/wheels/{wheel.sha256}/{wheel.filename}"
    assert bench.store.files[stored] == b"a wheel"
    assert parse_side(bench.store.files["kbuild/built-wheels.json"], source="side") == (wheel,)
    # Elsewhere, without the permission to build: the lock says which wheel it is, and the run has it.
    bench.cache = tmp_path / "two"
    again = bench.lock()
    assert again.origin == "stored with the run" and again.lockfile == first.lockfile
    assert (tmp_path / "two/channel/wheels" / wheel.sha256 / wheel.filename).read_bytes() == b"a wheel"
    bench.lock(allow_sdist=True)
    assert tuple(bench.given["builds"].known) == (wheel,)
    del bench.store.files[stored]
    bench.cache = tmp_path / "three"
    with pytest.raises(HashMismatch, match=r"the built tiny-1\.0-py3-none-any\.whl") as caught:
        bench.lock()
    assert "--allow-sdist" in str(caught.value.hint)


@pytest.mark.parametrize("kept", ["stored with the run", "cached"])
def test_a_lock_from_one_folder_is_not_fresh_for_another_that_offers_other_files(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: str
) -> None:
    chosen = "kbuild.environment.condalock.channels.choose_interpreter"
    monkeypatch.setattr(chosen, lambda asked, *_, **__: asked if asked == "captured" else "conda")
    bench.store.down = kept == "cached"
    one, copy, two, gone = (tmp_path / name for name in ("one-channel", "copy", "two", "gone"))
    for folder, content in ((one, CAPTURED), (copy, CAPTURED), (two, b"another build's")):
        (folder / "linux-64").mkdir(parents=True)
        (folder / "linux-64/python.conda").write_bytes(content)
    first = bench.lock(channels=(one.as_uri(),))
    given = tmp_path / "given.yml"
    given.write_bytes(first.lockfile.content)
    assert str(tmp_path).encode() not in first.lockfile.content
    # The same files elsewhere are the same channel, also when it has grown; and one that is not here says nothing.
    (copy / "linux-64/more.conda").write_bytes(b"more")
    for channel in (one.as_uri(), str(copy), gone.as_uri()):
        assert bench.lock(channels=(channel,), interpreter="conda").origin == kept
        assert bench.lock(channels=(channel,), interpreter="conda", lockfile=given).origin == "given"
    with pytest.raises(LockfileStale, match=r"another channel: python\.conda of the lock .* is not what .*/two has"):
        bench.lock(channels=(two.as_uri(),), interpreter="conda", lockfile=given)
    with pytest.raises(LockfileStale):
        bench.lock(channels=(two.as_uri(),), interpreter="conda", locked=True)
    assert len(bench.resolver.asked) == 1
    assert bench.lock(channels=(two.as_uri(),), interpreter="conda").origin == "resolved"
    assert bench.lock(channels=(str(two),), interpreter="captured").origin == "resolved"
    assert bench.lock(channels=(one.as_uri(),), interpreter="captured", locked=True).origin == kept


def test_a_wheel_of_a_folder_that_was_made_anew_is_locked_anew_for_the_next_model(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip installs the file that the folder has now, whatever had its name and version before."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    file = wheels / "team-1.0-py3-none-any.whl"
    found = Indexes(urls=("https://index.example/simple",), find_links=(wheels.as_uri(),))
    monkeypatch.setattr(locking, "package_indexes", lambda **_: found)

    def resolve(spec: EnvironmentSpec, *, progress: Any) -> Lockfile:
        bench.resolver.asked.append(spec)
        content = file.read_bytes()
        sha256 = digest_bytes(content).hex
        path = bench.resolver.channel / "wheels" / sha256 / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        document = yaml.safe_load(lock_text(spec))
        url = f"$KBUILD_CHANNEL/wheels/{sha256}/{file.name}"
        document["package"][0] = {**wheel_of("team", "1.0"), "url": url, "hash": {"sha256": sha256}}
        return parse_lockfile(yaml.safe_dump(document).encode(), source="fake")

    bench.resolver.resolve = resolve  # type: ignore[method-assign]
    file.write_bytes(b"first")
    assert bench.lock().origin == "resolved"
    run = bench.store
    bench.store = RunFiles()  # the next model: of the same requirements, in another run
    assert bench.lock().origin == "cached"
    file.write_bytes(b"second")
    bench.store = RunFiles()
    anew = bench.lock()
    assert anew.origin == "resolved"
    assert digest_bytes(b"second").hex in anew.lockfile.content.decode()
    # What was locked of a run stays what that run had; and a folder without the file says nothing.
    bench.store = run
    kept = bench.lock()
    assert kept.origin == "stored with the run" and digest_bytes(b"first").hex in kept.lockfile.content.decode()
    file.unlink()
    bench.store = RunFiles()
    assert bench.lock().origin == "cached"


SIX = "six-1.17.0-py3-none-any.whl"
VARIABLES = "${KBUILD_INDEX_INDEX_EXAMPLE_USER}:${KBUILD_INDEX_INDEX_EXAMPLE_PASSWORD}"
EDITS: dict[str, dict[str, Any]] = {
    "another host": {"url": f"https://evil.example/{SIX}"},
    "a host that begins so": {"url": f"https://index.example.evil.example/{SIX}"},
    "a host that ends so": {"url": f"https://evil-index.example/{SIX}"},
    "the host as a user": {"url": f"https://index.example@evil.example/{SIX}"},
    "a backslash": {"url": f"https://evil.example\\@index.example/{SIX}"},
    "another port": {"url": f"https://index.example:8443/{SIX}"},
    "in clear": {"url": f"http://index.example/{SIX}"},
    "in clear with the password": {"url": f"http://{VARIABLES}@index.example/{SIX}"},
    "the password elsewhere": {"url": f"https://{VARIABLES}@evil.example/{SIX}"},
    "letters beyond ASCII": {"url": f"https://\u0456ndex.example/{SIX}"},
    "a variable": {"url": f"https://index.example/$AWS_SECRET_ACCESS_KEY/{SIX}"},
    "a variable as host": {"url": f"https://${{HOME}}.example/{SIX}"},
    "out of the channel": {"url": f"$KBUILD_CHANNEL/../../{SIX}"},
    "out of the channel, encoded": {"url": f"$KBUILD_CHANNEL/%2e%2e/{SIX}"},
    "another protocol": {"url": f"ftp://index.example/{SIX}"},
    "no hash": {"hash": {}},
    "another kind of hash": {"hash": {"md5": "0" * 32}},
    "a hash that is a path": {"hash": {"sha256": "../../../../etc/passwd"}},
    "hidden in a category": {"category": "dev"},
    "of another platform": {"platform": "linux-aarch64"},
    "of another manager": {"manager": "conda", "url": "https://evil.example/conda-forge/linux-64/six-1.17.0-0.conda"},
    "no name": {"name": ""},
    "taken out": {"name": "other", "url": "https://index.example/files/other-1.17.0-py3-none-any.whl"},
    "older than a package asks for": {"version": "1.4", "url": "https://index.example/files/six-1.4-py3-none-any.whl"},
    "another one than the model asks for": {
        "version": "1.16.0",
        "url": "https://index.example/files/six-1.16.0-py3-none-any.whl",
    },
}


@pytest.mark.parametrize("edit", EDITS)
def test_nothing_is_built_from_an_edited_lock(bench: Bench, tmp_path: Path, edit: str, monkeypatch: Any) -> None:
    # The index answers, and leads nowhere else.
    monkeypatch.setattr("kbuild.environment.locking.checked.find_files", lambda *_, **__: [])
    document = yaml.safe_load(lock_text(bench.lock().spec))
    six = next(each for each in document["package"] if each["name"] == "six")
    six |= EDITS[edit]
    path = tmp_path / "edited.yml"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises((LockfileInvalid, ConfigurationError)) as caught:
        bench.lock(lockfile=path)
    assert caught.value.hint and len(caught.value.message.splitlines()) == 1


@pytest.mark.parametrize(
    ("constraint", "fits"),
    [
        # As conda-lock writes what poetry read in real metadata.
        *((">=1.5", True), ("*", True), ("", True), ("1.17.0", True), ("1.17", True), (">=1.5,<2 || >3", True)),
        *(("==1.16.0.*", False), ("1.16.0", False), (">=2 || <1.17", False), ("<2,!=1.17.0", False), ("a text", True)),
    ],
)
def test_a_lock_whose_packages_do_not_fit_each_other_is_none(
    bench: Bench, tmp_path: Path, constraint: str, fits: bool
) -> None:
    """conda-lock 4's solver gave torch another cuBLAS than its cuda-toolkit asks for."""
    document = yaml.safe_load(lock_text(bench.lock().spec))
    document["package"][-1]["dependencies"] = {"six": constraint}
    path = tmp_path / "given.yml"
    path.write_text(yaml.safe_dump(document))
    bench.resolver.resolve = lambda spec, *, progress: parse_lockfile(path.read_bytes(), source="fake")  # type: ignore[method-assign]
    if fits:
        assert bench.lock(lockfile=path).lockfile.content == path.read_bytes()
        assert bench.lock(force=True).origin == "resolved"
        return
    told = rf"six 1\.17\.0, where python-dateutil 2\.9\.0 asks for {re.escape(constraint)}"
    with pytest.raises(LockfileInvalid, match=told) as caught:
        bench.lock(lockfile=path)
    assert "--force" in (caught.value.hint or "")
    with pytest.raises(VersionConflict, match=f"the solver takes {told}"):
        bench.lock(force=True)


def test_the_models_own_index_may_lead_to_another_server_too(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    pip = ["six==1.17.0", "--extra-index-url https://own.example/simple"]
    env = {"channels": ["conda-forge"], "dependencies": ["python=3.11.7", {"pip": pip}]}
    bench.bundle = replace(bench.bundle, facts=replace(bench.bundle.facts, conda_env=env))
    monkeypatch.setattr("kbuild.environment.condalock.reachable.answering", lambda indexes, *_: indexes)
    wheel = wheel_of("six", "1.17.0") | {"url": f"https://cdn.example/{SIX}"}

    def resolve(spec: EnvironmentSpec, *, progress: Any) -> Lockfile:
        document = yaml.safe_load(lock_text(spec))
        document["package"] = [wheel]
        return parse_lockfile(yaml.safe_dump(document).encode(), source="fake")

    bench.resolver.resolve = resolve  # type: ignore[method-assign]
    bench.lock()
    file = IndexFile(filename=SIX, sha256=wheel["hash"]["sha256"], yanked=None, url=wheel["url"])
    offers: dict[str, Any] = {"https://index.example/simple": [], "https://own.example/simple": [file]}

    def ask(_: str, indexes: Indexes, **__: Any) -> list[IndexFile]:
        (url,) = indexes.urls
        if isinstance(offers[url], Exception):
            raise offers[url]
        return offers[url]

    monkeypatch.setattr("kbuild.environment.locking.checked.find_files", ask)
    assert bench.lock().origin == "stored with the run"
    offers["https://index.example/simple"] = IndexUnavailable("down")
    assert bench.lock().origin == "stored with the run"
    offers["https://own.example/simple"] = []
    with pytest.raises(IndexUnavailable, match="is not known: down"):
        bench.lock()
    offers["https://index.example/simple"] = []
    with pytest.raises(LockfileInvalid, match=r"six 1\.17\.0 from https://cdn\.example"):
        bench.lock()


def test_a_wheel_on_a_server_that_the_index_leads_to_is_the_locks(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = yaml.safe_load(lock_text(bench.lock().spec))
    six = next(each for each in document["package"] if each["name"] == "six")
    six["url"] = f"https://cdn.example/{SIX}"
    path = tmp_path / "given.yml"
    path.write_text(yaml.safe_dump(document))
    file = IndexFile(filename=SIX, sha256=six["hash"]["sha256"], yanked=None, url=six["url"])
    monkeypatch.setattr("kbuild.environment.locking.checked.find_files", lambda *_, **__: [file])
    assert bench.lock(lockfile=path).origin == "given"
    allowed = ("https://index.example/files", "https://cdn.example/")
    monkeypatch.setattr("kbuild.environment.locking.checked.find_files", Mock(side_effect=AssertionError("asked")))
    assert bench.lock(lockfile=path, allowed_indexes=allowed).origin == "given"
    with pytest.raises(LockfileInvalid, match=r"six 1\.17\.0 from https://cdn\.example"):
        bench.lock(lockfile=path, allowed_indexes=allowed[:1])


@pytest.mark.parametrize(("build", "kind"), [("100_cp311t", "a free-threaded CPython"), ("0_73_pypy", "a PyPy")])
def test_a_lock_of_another_python_is_refused_wherever_it_comes_from(
    bench: Bench, tmp_path: Path, build: str, kind: str
) -> None:
    document = yaml.safe_load(lock_text(bench.lock().spec))
    python = next(each for each in document["package"] if each["name"] == "python")
    python["url"] = f"https://conda.anaconda.org/conda-forge/linux-64/python-3.11.7-{build}.conda"
    path = tmp_path / "given.yml"
    path.write_text(yaml.safe_dump(document))
    digest = str(parse_lockfile(path.read_bytes(), source="x").digest)
    for request in ({}, {"digest": digest}):
        with pytest.raises(LockfileInvalid, match=f"python 3.11.7 {build}, {kind}") as caught:
            bench.lock(lockfile=path, **request)
        assert caught.value.hint
    bench.store.files["kbuild/conda-lock.yml"] = path.read_bytes()
    shutil.rmtree(bench.cache / "locks", ignore_errors=True)
    with pytest.raises(LockfileInvalid, match=kind):
        bench.lock()


def test_arbitrary_equality_takes_no_local_version(bench: Bench, tmp_path: Path) -> None:
    """PEP 440: ``===1.17.0`` is not ``1.17.0+cpu``, which ``==1.17.0`` takes."""

    def ask(requirement: str) -> None:
        env = {"channels": ["conda-forge"], "dependencies": ["python=3.11.7", {"pip": [requirement]}]}
        bench.bundle = replace(bench.bundle, facts=replace(bench.bundle.facts, conda_env=env))

    document = yaml.safe_load(lock_text(bench.lock().spec))
    ask("six===1.17.0")
    exact = bench.lock()
    assert exact.origin == "resolved"
    six = next(each for each in document["package"] if each["name"] == "six")
    six |= {"version": "1.17.0+cpu", "url": "https://index.example/files/six-1.17.0%2Bcpu-py3-none-any.whl"}

    def resolve(spec: EnvironmentSpec, *, progress: Any) -> Lockfile:
        document["metadata"]["custom_metadata"] = {INPUT_DIGEST_KEY: str(spec.digest)}
        return parse_lockfile(yaml.safe_dump(document).encode(), source="fake")

    path = tmp_path / "given.yml"
    path.write_bytes(resolve(exact.spec, progress=None).content)
    with pytest.raises(LockfileInvalid, match=r"six 1\.17\.0\+cpu, where six===1\.17\.0 is asked for"):
        bench.lock(lockfile=path)
    bench.resolver.resolve = resolve  # type: ignore[method-assign]
    with pytest.raises(VersionConflict, match=r"six 1\.17\.0\+cpu, where six===1\.17\.0 is asked for") as caught:
        bench.lock(force=True)
    assert "six==1.17.0" in (caught.value.hint or "")
    ask("six==1.17.0")
    assert bench.lock(force=True).origin == "resolved"


def test_a_pipe_that_nobody_reads_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kbuild.environment.locking.kept._PATIENCE", 0.1)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="No such device or address"):
        write_lockfile(SimpleNamespace(content=b"x"), tmp_path / "pipe")  # type: ignore[arg-type]


def test_no_binary_of_all_packages_is_refused_with_what_to_write(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    indexes = Indexes(urls=("https://index.example/simple",), binary=BinaryChoice(every=True))
    monkeypatch.setattr(locking, "package_indexes", lambda **_: indexes)
    with pytest.raises(ConfigurationError, match="no-binary refuses the wheels of :all: packages") as caught:
        bench.lock()
    assert "PIP_NO_BINARY=" in str(caught.value.hint) and "pip config" in str(caught.value.hint)
