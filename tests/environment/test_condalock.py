import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import yaml

from kbuild.digest import digest_bytes
from kbuild.environment.built.sdists import BuiltWheel
from kbuild.environment.condalock.conda_lock import CondaLockResolver
from kbuild.environment.condalock.reachable import answering
from kbuild.environment.condalock.source import Setting, make_source
from kbuild.environment.index.file_choice import BinaryChoice
from kbuild.environment.index.package_indexes import IndexFile
from kbuild.environment.lockfile import LockedPackage
from kbuild.environment.requirements import applicable
from kbuild.environment.spec import EnvironmentSpec
from kbuild.environment.target import Target
from kbuild.errors import (
    ConfigurationError,
    EnvironmentSpecError,
    HashMismatch,
    IndexUnavailable,
    InterpreterCaptureFailed,
    PackageNotFound,
    PlatformError,
    ResolverFailed,
    SourceOnlyPackage,
    VersionConflict,
)
from kbuild.platform import Platform
from kbuild.process import Completed
from kbuild.progress import Silent

AMD64 = Platform("linux", "amd64")
ARM64 = Platform("linux", "arm64")
OUTPUTS = Path(__file__).parent / "condalock_outputs"


def spec_of(**more: Any) -> EnvironmentSpec:
    values: dict[str, Any] = {
        "python": "3.11.7",
        "conda": (),
        "pip": ("six",),
        "constraints": (),
        "channels": ("https://conda.example/main",),
        "indexes": ("https://index.example/simple",),
        "platforms": (AMD64,),
        "interpreter": "conda",
    }
    return EnvironmentSpec(**(values | more))


def locked(name: str, version: str, **more: Any) -> dict[str, Any]:
    wheel = f"https://files.example/{name}-{version}-py3-none-any.whl"
    return {
        "name": name,
        "version": version,
        "manager": "pip",
        "dependencies": {},
        "url": wheel,
        "hash": {"sha256": "b" * 64},
        "category": "main",
        "optional": False,
    } | more


@dataclass
class FakeCondaLock:
    """A ``Runner`` that answers as conda-lock does: with a file in its working directory, or words and a code."""

    answer: Callable[[Mapping[str, str]], list[dict[str, Any]] | str]
    unread: str = ""
    questions: list[dict[str, str]] = field(default_factory=list)
    environs: list[dict[str, str]] = field(default_factory=list)
    argvs: list[Sequence[str]] = field(default_factory=list)

    def __call__(self, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, **_: Any) -> Completed:
        files = {path.name: path.read_text() for path in cwd.iterdir()}
        self.argvs.append(argv)
        self.questions.append(files)
        self.environs.append(dict(env))
        answer = self.answer(files)
        if isinstance(answer, str):
            if self.unread:
                (cwd / "unread-sdists.jsonl").write_text(self.unread)
            return Completed(tuple(argv), 1, "", answer)
        source = yaml.safe_load(files["environment.yml"])
        subdir = source["platforms"][0]
        metadata = {
            "content_hash": {subdir: "0" * 64},
            "channels": [{"url": channel, "used_env_vars": []} for channel in source["channels"]],
            "platforms": [subdir],
            "sources": ["environment.yml"],
            "custom_metadata": yaml.safe_load(files["metadata.yml"]),
        }
        packages = [package | {"platform": subdir} for package in answer]
        text = yaml.safe_dump({"version": 1, "metadata": metadata, "package": packages})
        (cwd / "conda-lock.yml").write_text(f"# at {cwd}\n{text}")
        return Completed(tuple(argv), 0, "", "")


def resolver(run: FakeCondaLock, tmp_path: Path, environ: Mapping[str, str] | None = None) -> CondaLockResolver:
    return CondaLockResolver(run=run, channel=tmp_path, environ=environ or {}, solver=Path("conda"))


def test_the_lock_records_its_input_digest_and_nothing_of_the_machine(tmp_path: Path) -> None:
    spec = spec_of()
    run = FakeCondaLock(lambda _: [locked("six", "1.16.0")])
    one = resolver(run, tmp_path / "a").resolve(spec, progress=Silent())
    other = resolver(run, tmp_path / "b").resolve(spec, progress=Silent())
    assert one.content == other.content
    assert one.input_digest == resolver(run, tmp_path).input_digest(spec)
    assert str(tmp_path).encode() not in one.content
    assert [package.version for package in one.packages] == ["1.16.0"]


@pytest.mark.parametrize(
    ("build", "kind"), [("h9a34b6e_102_cp313t", "a free-threaded CPython"), ("0_73_pypy", "a PyPy")]
)
def test_an_interpreter_that_takes_other_wheels_is_refused(build: str, kind: str, tmp_path: Path) -> None:
    """conda-forge's builds of python: ``python-freethreading`` brings those with the ABI tag of PEP 703."""
    python = locked(
        "python", "3.11.7", manager="conda", url=f"https://conda.example/linux-64/python-3.11.7-{build}.conda"
    )
    run = FakeCondaLock(lambda _: [python, locked("six", "1.16.0")])
    with pytest.raises(EnvironmentSpecError) as caught:
        resolver(run, tmp_path).resolve(spec_of(), progress=Silent())
    assert f"python 3.11.7 {build}, {kind}" in caught.value.message
    python["url"] = "https://conda.example/linux-64/python-3.11.7-hab00c5b_1_cpython.conda"
    assert resolver(run, tmp_path).resolve(spec_of(), progress=Silent())


def test_the_input_digest_depends_on_the_spec_and_the_c_library_but_not_on_the_solver(tmp_path: Path) -> None:
    def digest(spec: EnvironmentSpec, **more: Any) -> object:
        return CondaLockResolver(run=FakeCondaLock(lambda _: []), channel=tmp_path, environ={}, **more).input_digest(
            spec
        )

    assert digest(spec_of()) == digest(spec_of(), solver=Path("mamba"))
    assert digest(spec_of()) != digest(spec_of(pip=("six", "idna")))
    assert digest(spec_of()) != digest(spec_of(), target=Target(glibc="2.28"))


def test_what_conda_lock_is_asked(tmp_path: Path) -> None:
    run = FakeCondaLock(lambda _: [locked("six", "1.16.0")])
    environ = {"PATH": "/bin", "CONDA_OVERRIDE_GLIBC": "2.1", "POETRY_INSTALLER_NO_BINARY": ":all:", "KEPT": "s"}
    spec = spec_of(
        conda=("numpy >=1.26",), pip=("Foo[b,a]~=1.2.3; python_version > '3'",), constraints=("six==1.16.0",)
    )
    resolver(run, tmp_path, environ).resolve(spec, progress=Silent())
    files = run.questions[0]
    assert yaml.safe_load(files["environment.yml"])["dependencies"] == ["python ==3.11.7", "numpy >=1.26"]
    assert 'dependencies = ["Foo[a,b]==1.2.*,>=1.2.3"]' in files["pyproject.toml"]
    assert 'pip-repositories = ["https://index.example/simple"]' in files["pyproject.toml"]
    assert "allow-pypi-requests = false" in files["pyproject.toml"]
    assert yaml.safe_load(files["virtual-packages.yml"])["subdirs"]["linux-64"]["packages"]["__glibc"] == "2.36"
    assert "--strip-auth" in run.argvs[0]
    given = run.environs[0]
    assert given["KEPT"] == "s"
    assert "CONDA_OVERRIDE_GLIBC" not in given
    assert "POETRY_INSTALLER_NO_BINARY" not in given
    assert given["KBUILD_CHANNEL"] == tmp_path.resolve().as_uri()


def test_constraints_are_a_seed_that_asks_for_nothing() -> None:
    setting = Setting(
        python="3.11.7",
        platform=ARM64,
        channels=("c",),
        indexes=(),
        glibc="2.36",
        input_digest=spec_of().digest,
    )
    pins = applicable(["six==1.16.0", "idna<4", "greenlet==3; platform_machine == 'x86_64'"], "3.11.7", ARM64)
    files = make_source(setting, conda=(), pip={}, pins=pins)
    seed = yaml.safe_load(files["conda-lock.yml"])
    assert [(package["name"], package["version"]) for package in seed["package"]] == [("six", "1.16.0")]
    assert "pyproject.toml" not in files


def test_a_constraint_that_is_missed_is_asked_for_in_the_next_round(tmp_path: Path) -> None:
    def answer(files: Mapping[str, str]) -> list[dict[str, Any]]:
        pinned = "six==1.15.0" in files["pyproject.toml"]
        conda = "pytorch ==2.1" in files["environment.yml"]
        torch = locked("pytorch", "2.1" if conda else "2.2", manager="conda", dependencies={"python": ">=3"})
        library = locked("xxhash", "0.8", manager="conda")  # shares the name of a distribution, needs no python
        return [locked("six", "1.15.0" if pinned else "1.16.0"), locked("certifi", "1"), torch, library]

    run = FakeCondaLock(answer)
    spec = spec_of(pip=("dateutil",), constraints=("six==1.15.0", "flask==3", "torch==2.1", "xxhash==3"))
    lock = resolver(run, tmp_path).resolve(spec, progress=Silent())
    assert {package.name: package.version for package in lock.packages} == {
        "six": "1.15.0",
        "certifi": "1",
        "pytorch": "2.1",
        "xxhash": "0.8",
    }
    assert "six" not in run.questions[0]["pyproject.toml"]
    assert len(run.questions) == 2


def test_a_constraint_that_is_never_kept_is_a_conflict(tmp_path: Path) -> None:
    run = FakeCondaLock(lambda _: [locked("six", "1.16.0")])
    with pytest.raises(VersionConflict, match=r"six==1\.15\.0 became 1\.16\.0"):
        resolver(run, tmp_path).resolve(spec_of(constraints=("six==1.15.0",)), progress=Silent())


def test_pips_own_constraints_bind_what_training_did_not_pin(tmp_path: Path) -> None:
    """pip's "Constraints Files": they bind versions and ask for nothing. What a model was trained with stays."""

    def answer(files: Mapping[str, str]) -> list[dict[str, Any]]:
        asked = files["pyproject.toml"]
        deep = "1.4.5" if "deep<1.5" in asked else "2.0"
        return [locked("six", "1.16.0"), locked("top", "1.0" if "top<2" in asked else "2.0"), locked("deep", deep)]

    run = FakeCondaLock(answer)
    bounds = ("Deep<1.5", "six<1.16", "top<2", "nobody-asks<3", "deep<1; python_version < '3'")
    lock = replace(resolver(run, tmp_path), bounds=bounds).resolve(
        spec_of(pip=("top>=1",), constraints=("six==1.16.0",)), progress=Silent()
    )
    assert {each.name: each.version for each in lock.packages} == {"six": "1.16.0", "top": "1.0", "deep": "1.4.5"}
    assert not any("nobody-asks" in text for files in run.questions for text in files.values())
    assert lock.input_digest == resolver(run, tmp_path).input_digest(
        spec_of(pip=("top>=1",), constraints=("six==1.16.0",))
    )


def test_platforms_are_asked_one_by_one_and_joined(tmp_path: Path) -> None:
    run = FakeCondaLock(lambda files: [locked("six", "1")] if "greenlet" not in files["pyproject.toml"] else [])
    spec = spec_of(pip=("six", "greenlet; platform_machine == 'aarch64'"), platforms=(AMD64, ARM64))
    lock = resolver(run, tmp_path).resolve(spec, progress=Silent())
    assert lock.platforms == (AMD64, ARM64)
    assert [(package.name, package.platform) for package in lock.packages] == [("six", AMD64)]


def test_source_distributions_are_named(tmp_path: Path) -> None:
    sdist = locked("docopt", "0.6.2", url="https://files.example/docopt-0.6.2.tar.gz")
    run = FakeCondaLock(lambda _: [locked("six", "1"), sdist])
    with pytest.raises(SourceOnlyPackage, match=r"docopt 0\.6\.2 for linux/amd64"):
        resolver(run, tmp_path).resolve(spec_of(), progress=Silent())


def test_what_no_binary_refuses_is_named_by_that(tmp_path: Path) -> None:
    sdists = [locked(name, "1", url=f"https://files.example/{name}-1.tar.gz") for name in ("docopt", "idna")]
    run = FakeCondaLock(lambda _: [locked("six", "1"), *sdists])
    asked = replace(resolver(run, tmp_path), binary=BinaryChoice(but=("idna",)))
    with pytest.raises(SourceOnlyPackage, match=r"^--no-binary refuses the wheels of idna,.* idna 1 for") as caught:
        asked.resolve(spec_of(), progress=Silent())
    assert "take idna out of no-binary" in str(caught.value.hint) and "--allow-sdist" in str(caught.value.hint)


def test_an_index_without_hashes(tmp_path: Path) -> None:
    run = FakeCondaLock(lambda _: [locked("six", "1", hash={})])
    with pytest.raises(ResolverFailed, match=r"package\[0\]\.hash\.sha256 is missing"):
        resolver(run, tmp_path).resolve(spec_of(), progress=Silent())


def test_an_index_that_lags_is_answered_with_the_newest_that_solves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(files: Mapping[str, str]) -> list[dict[str, Any]] | str:
        if "mlflow<3.18.0" in files["pyproject.toml"]:
            return [locked("mlflow", "3.17.2")]
        return (OUTPUTS / "index_lags.txt").read_text()

    monkeypatch.setattr("kbuild.environment.condalock.one_platform.find_files", lambda *_, **__: [])
    with pytest.raises(PackageNotFound) as caught:
        resolver(FakeCondaLock(answer), tmp_path).resolve(spec_of(pip=("mlflow==3.18.0",)), progress=Silent())
    assert caught.value.hint == "mlflow 3.17.2 solves here; log the model with that version"


def test_the_interpreter_is_captured_for_this_machine_and_this_python_only(tmp_path: Path) -> None:
    run = FakeCondaLock(lambda _: [])
    with pytest.raises(InterpreterCaptureFailed, match=r"trained with Python 3\.1\.4"):
        resolver(run, tmp_path, os.environ).resolve(spec_of(interpreter="captured", python="3.1.4"), progress=Silent())
    assert run.questions == []


def files_of(*names: str) -> list[IndexFile]:
    return [IndexFile(filename=name, sha256=None, yanked=None) for name in names]


def test_all_that_a_foreign_platform_lacks_is_named_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offered = {
        "pure": files_of("pure-1.0-py3-none-any.whl"),
        "both": files_of("both-1.0-cp311-cp311-manylinux_2_28_aarch64.whl", "both-1.0.tar.gz"),
        "old": files_of("old-1.0.tar.gz"),
        "bound": files_of("bound-1.0-cp311-cp311-manylinux_2_17_x86_64.whl", "bound-0.9-py3-none-any.whl"),
        "other": files_of("other-1.0-cp312-cp312-manylinux_2_28_aarch64.whl", "other-1.0.zip"),
    }

    def answer(files: Mapping[str, str]) -> list[dict[str, Any]] | str:
        if "linux-64" in files["environment.yml"]:
            return [locked("pure", "1.0")]
        return (OUTPUTS / "channel_down.txt").read_text()

    monkeypatch.setattr("kbuild.environment.condalock.conda_lock.host_platform", lambda: AMD64)
    monkeypatch.setattr("kbuild.environment.condalock.one_platform.host_platform", lambda: AMD64)
    monkeypatch.setattr("kbuild.environment.condalock.one_platform.find_files", lambda name, *_, **__: offered[name])
    spec = spec_of(
        pip=("pure", "bound==1.0"),
        constraints=("pure==1.0", "both==1.0", "old==1.0", "other==1.0", "windows==1; sys_platform == 'win32'"),
        platforms=(AMD64, ARM64),
    )
    with pytest.raises(PlatformError) as caught:
        resolver(FakeCondaLock(answer), tmp_path).resolve(spec, progress=Silent())
    assert "linux/arm64 cannot be assembled here: no interpreter, because the conda channel at" in caught.value.message
    lacking = "bound 1.0 (no wheel), old 1.0 (only a source distribution), other 1.0 (only a source distribution)"
    assert caught.value.message.endswith(f"; {lacking}")
    assert "python for linux-aarch64" in str(caught.value.hint)
    assert "wheels of bound, old, other" in str(caught.value.hint)


def test_a_captured_interpreter_is_for_this_machine_and_a_channel_has_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kbuild.environment.condalock.conda_lock.host_platform", lambda: AMD64)
    monkeypatch.setattr("kbuild.environment.captured.interpreters.find_interpreter", lambda *_, **__: None)
    captured = SimpleNamespace(glibc="2.31")
    monkeypatch.setattr("kbuild.environment.captured.capture.capture_interpreter", lambda *_, **__: captured)
    run = FakeCondaLock(lambda _: [locked("six", "1.16.0")])
    lock = resolver(run, tmp_path).resolve(spec_of(interpreter="captured", platforms=(AMD64, ARM64)), progress=Silent())
    channels = {
        source["platforms"][0]: source["channels"]
        for source in (yaml.safe_load(question["environment.yml"]) for question in run.questions)
    }
    assert channels == {"linux-64": ["$KBUILD_CHANNEL"], "linux-aarch64": ["https://conda.example/main"]}
    assert lock.platforms == (AMD64, ARM64)
    assert lock.channels == ("$KBUILD_CHANNEL", "https://conda.example/main")
    assert [package.platform for package in lock.packages] == [AMD64, ARM64]


def test_packages_of_a_channel_that_is_a_folder_travel_with_a_captured_interpreter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "their channel/linux-aarch64/python-3.11.7-h0.conda"
    source.parent.mkdir(parents=True)
    source.write_bytes(b"an interpreter")
    python = locked(
        "python", "3.11.7", manager="conda", url=source.as_uri(), hash={"sha256": digest_bytes(b"an interpreter").hex}
    )
    monkeypatch.setattr("kbuild.environment.condalock.conda_lock.host_platform", lambda: AMD64)
    spec = spec_of(interpreter="captured", platforms=(ARM64,))
    run = FakeCondaLock(lambda _: [python])
    (package,) = resolver(run, tmp_path / "channel").resolve(spec, progress=Silent()).packages
    assert package.url == "$KBUILD_CHANNEL/linux-aarch64/python-3.11.7-h0.conda"
    assert (tmp_path / "channel/linux-aarch64/python-3.11.7-h0.conda").read_bytes() == b"an interpreter"
    source.write_bytes(b"another")
    with pytest.raises(HashMismatch, match="repodata"):
        resolver(run, tmp_path / "other").resolve(spec, progress=Silent())


def test_nothing_of_a_channel_that_is_a_folder_names_this_machine(tmp_path: Path) -> None:
    """Also without a captured interpreter; its packages travel in the local channel."""
    locks = []
    for home in ("ann", "bob"):
        theirs = tmp_path / home / "channel"
        for subdir, name in (("linux-64", "python-3.11.7-h0.conda"), ("noarch", "six-1.0-0.conda")):
            (theirs / subdir).mkdir(parents=True)
            (theirs / subdir / name).write_bytes(name.encode())

        def packages(_: Any, theirs: Path = theirs) -> list[dict[str, Any]]:
            return [
                locked(
                    name.partition("-")[0],
                    name.split("-")[1],
                    manager="conda",
                    url=(theirs / subdir / name).as_uri(),
                    hash={"sha256": digest_bytes(name.encode()).hex},
                )
                for subdir, name in (("linux-64", "python-3.11.7-h0.conda"), ("noarch", "six-1.0-0.conda"))
            ]

        for channel in (str(theirs), theirs.as_uri()):
            spec = spec_of(channels=(channel, "https://conda.example/main"), pip=())
            locks.append(resolver(FakeCondaLock(packages), tmp_path / f"{home}-kept").resolve(spec, progress=Silent()))
        assert (tmp_path / f"{home}-kept/linux-64/six-1.0-0.conda").read_bytes() == b"six-1.0-0.conda"
    assert len({lock.content for lock in locks}) == 1
    assert str(tmp_path).encode() not in locks[0].content
    assert locks[0].channels == ("$KBUILD_CHANNEL", "https://conda.example/main")


@dataclass
class FakeBuilds:
    """Wheels by the name of their package; ``channel`` is where they would lie."""

    wheels: dict[str, BuiltWheel]
    channel: Path = Path("/channel")
    made: list[BuiltWheel] = field(default_factory=list)

    def wheel_of(self, package: LockedPackage, python: str, progress: Any) -> BuiltWheel:
        return self.wheels[package.name]


def wheel_of(name: str, tag: str, glibc: str | None) -> BuiltWheel:
    return BuiltWheel(
        name=name,
        version="1.0",
        sdist_url="https://files.example/x.tar.gz",
        sdist_sha256="c" * 64,
        filename=f"{name}-1.0-{tag}.whl",
        sha256="d" * 64,
        python="3.11",
        requires=(),
        glibc=glibc,
    )


def test_built_wheels_take_the_place_of_source_distributions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sdist(name: str) -> dict[str, Any]:
        return locked(name, "1.0", url=f"https://files.example/{name}-1.0.tar.gz", dependencies={"six": "*"})

    for module in ("condalock.conda_lock", "built.in_locks"):
        monkeypatch.setattr(f"kbuild.environment.{module}.host_platform", lambda: AMD64)
    wheels = {
        "pure": wheel_of("pure", "py3-none-any", None),
        "native": wheel_of("native", "cp311-cp311-linux_x86_64", "2.34"),
        "hidden": wheel_of("hidden", "py3-none-any", "2.5"),
    }
    run = FakeCondaLock(lambda _: [locked("six", "1.16.0"), sdist("pure"), sdist("native")])
    building = replace(resolver(run, tmp_path), builds=FakeBuilds(wheels))  # type: ignore[arg-type]
    lock = building.resolve(spec_of(), progress=Silent())
    native, pure, six = lock.packages
    assert pure.url == f"$KBUILD_CHANNEL/wheels/{'d' * 64}/pure-1.0-py3-none-any.whl#sdist-sha256={'c' * 64}"
    assert (pure.sha256, pure.filename) == ("d" * 64, "pure-1.0-py3-none-any.whl")
    assert native.dependencies == (("__glibc", ">=2.34"), ("six", "*"))
    assert six.url.startswith("https://files.example/six")
    with pytest.raises(SourceOnlyPackage, match=r"native 1\.0 for linux/amd64, pure 1\.0 for linux/amd64") as caught:
        resolver(run, tmp_path).resolve(spec_of(), progress=Silent())
    assert "--allow-sdist" in str(caught.value.hint)
    monkeypatch.setattr(
        "kbuild.environment.condalock.one_platform.find_files", lambda *_, **__: files_of("docopt-0.6.2.tar.gz")
    )
    run = FakeCondaLock(lambda _: (OUTPUTS / "source_only.txt").read_text())
    building = replace(resolver(run, tmp_path), builds=FakeBuilds(wheels))  # type: ignore[arg-type]
    with pytest.raises(SourceOnlyPackage, match=r"docopt 0\.6\.2.*none can be built here") as caught:
        building.resolve(spec_of(pip=("docopt==0.6.2",)), progress=Silent())
    assert "pip wheel" in str(caught.value.hint) and "--allow-sdist" not in str(caught.value.hint)
    run = FakeCondaLock(lambda _: [sdist("pure"), sdist("native"), sdist("hidden")])
    building = replace(resolver(run, tmp_path), builds=FakeBuilds(wheels))  # type: ignore[arg-type]
    with pytest.raises(PlatformError, match=r"hidden 1\.0 for linux/arm64, native 1\.0 for linux/arm64$"):
        building.resolve(spec_of(platforms=(AMD64, ARM64)), progress=Silent())


def test_a_source_distribution_that_says_nothing_is_built_to_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old setuptools write no requires.txt where there is none; docopt 0.6.2 is such a one."""
    for module in ("condalock.conda_lock", "built.in_locks"):
        monkeypatch.setattr(f"kbuild.environment.{module}.host_platform", lambda: AMD64)
    unread = ["old", "1.0", "https://files.example/old-1.0.tar.gz", "c" * 64]
    place = f"file:///channel/wheels/{'d' * 64}/old-1.0-cp311-cp311-linux_x86_64.whl"

    def answer(files: Mapping[str, str]) -> list[dict[str, Any]] | str:
        if place not in json.loads(files["places.json"])["find_links"]:
            return "RepositoryError: old-1.0.tar.gz"
        return [locked("six", "1.16.0"), locked("old", "1.0", url=place, dependencies={"six": "*"})]

    wheels = {"old": wheel_of("old", "cp311-cp311-linux_x86_64", "2.34"), "other": wheel_of("other", "x", None)}
    run = FakeCondaLock(answer, unread=json.dumps(unread) + "\n")
    with pytest.raises(SourceOnlyPackage, match=r"of old 1\.0, the package index has only") as caught:
        resolver(run, tmp_path).resolve(spec_of(pip=("old",)), progress=Silent())
    assert "--allow-sdist" in str(caught.value.hint)
    builds = FakeBuilds(wheels, made=[*wheels.values()])
    building = replace(resolver(run, tmp_path), builds=builds)  # type: ignore[arg-type]
    old, six = building.resolve(spec_of(pip=("old",)), progress=Silent()).packages
    assert old.url == f"$KBUILD_CHANNEL/wheels/{'d' * 64}/old-1.0-cp311-cp311-linux_x86_64.whl#sdist-sha256={'c' * 64}"
    assert (old.dependencies, six.name) == ((("__glibc", ">=2.34"), ("six", "*")), "six")
    assert [wheel.name for wheel in builds.made] == ["old", "other"]
    run = FakeCondaLock(lambda _: "RepositoryError: old-1.0.tar.gz", unread=json.dumps(unread) + "\n")
    building = replace(resolver(run, tmp_path), builds=builds)  # type: ignore[arg-type]
    with pytest.raises(PlatformError, match=r"native code.*old 1\.0 for linux/arm64$"):
        building.resolve(spec_of(pip=("old",), platforms=(ARM64,)), progress=Silent())


def test_no_lock_is_made_without_an_index_that_the_model_names(
    site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its names would be taken from a public index; a port of this machine that nobody listens at has none."""
    monkeypatch.setattr("kbuild.http.PATIENCE", 0.0)
    monkeypatch.setattr("kbuild.http._PASSING", 0.0)
    site.pages |= {"/simple/": (200, "", b""), "/busy/": (503, "", b""), "/broken/": (500, "", b"")}
    site.pages["/closed/"] = (401, "", b"")
    variables = "${KBUILD_INDEX_A_INVALID_USER}:${KBUILD_INDEX_A_INVALID_PASSWORD}@"
    told: list[str] = []

    def ask(index: str) -> tuple[str, ...]:
        return answering(("https://first.invalid", index), {index}, {}, Mock(tell=told.append))

    for index in (f"{site.url}/simple", f"{site.url}/other"):
        assert ask(index) == ("https://first.invalid", index)
    for index, kind, said in (
        (f"https://{variables}a.invalid/x", ConfigurationError, "KBUILD_INDEX_A_INVALID_PASSWORD"),
        ((tmp_path / "gone").as_uri(), ConfigurationError, "not a folder of this machine"),
        (f"{site.url}/closed", ConfigurationError, "401"),
        (f"{site.url}/busy", IndexUnavailable, "does not answer|503"),
        (f"{site.url}/broken", IndexUnavailable, "500"),
        ("https://a.invalid/simple", IndexUnavailable, "does not answer"),
    ):
        with pytest.raises(kind, match=said) as caught:
            ask(index)
        assert "log the model again without its --extra-index-url" in str(caught.value.hint)
    assert told == []
    unknown = "https://${KBUILD_INDEX_127_0_0_1_9_USER}@127.0.0.1:9/x"
    assert ask(unknown) == ("https://first.invalid",) and "passed over" in told[0]
