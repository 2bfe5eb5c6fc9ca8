"""Slimming with an environment of files that a test wrote, and a program that tells what it finds of them."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kbuild.answers import DEFAULT
from kbuild.digest import digest_bytes
from kbuild.environment.lockfile import LockedPackage
from kbuild.errors import ModelNotTrusted, PlatformError
from kbuild.plan.left_out import NOTHING, LeftOut, select_files
from kbuild.plan.make import Ingredients
from kbuild.plan.split import PackageGroup
from kbuild.platform import Platform, host_platform
from kbuild.process import Completed
from kbuild.progress import Progress
from kbuild.workflow import Tools
from kbuild.workflow.slimming import Slimming, find_left_out

NAMES = ("mlflow", "flask", "pandas")
FILES = {
    "mlflow": ("mlflow.py",),
    "flask": ("flask.py",),
    "pandas": ("pandas.py", "tables/tests/test_a.py", "tables/a.h"),
}
SITE = "opt/env/lib/python3.11/site-packages"


class Notes:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)

    tell = made = note

    def count(self, done: int, total: int | None, unit: str = "bytes") -> None:
        pass


class Program:
    """What is started: the model, which reads mlflow and pandas; ``answer`` is given the packages that are there."""

    def __init__(self, answer: Callable[[set[str]], Any]) -> None:
        self.answer = answer
        self.starts = 0

    def __call__(self, argv: Sequence[str], *, env: Mapping[str, str], **_: object) -> Completed:
        self.starts += 1
        assert Path(env["PYTHONPATH"], f"{argv[2].replace('.', '/')}.py").is_file(), "what it runs is there"
        prefix = Path(argv[0]).parent.parent
        there = {path.stem for path in (prefix / "lib/python3.11/site-packages").glob("*.py")}
        assert prefix.joinpath("bin/python3.11").is_file()
        files = [f"lib/python3.11/site-packages/{name}.py" for name in ("mlflow", "pandas")]
        said = self.answer(there)
        if said is None:
            return Completed(tuple(argv), 1, "", "ImportError: no model\n")
        told = {"files": files, "answers": [said], "seconds": 3.0 / self.starts}
        Path(argv[-1]).write_text(json.dumps(told), encoding="utf-8")
        return Completed(tuple(argv), 0, "", "")


class Layout:
    """Stands for Environment: each package is one module, and one has tests. ``gone`` is what was left out so far."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gone: list[str] = []
        python = folder / "interpreter" / "opt/env/bin/python3.11"
        python.parent.mkdir(parents=True)
        python.write_text("")

    def interpreter(self, downloads: Mapping[LockedPackage, Path]) -> Path:
        return self.folder / "interpreter"

    def wheels(
        self, groups: Sequence[PackageGroup], downloads: Mapping[LockedPackage, Path], *, into: Path, progress: Progress
    ) -> dict[str, tuple[Path, ...]]:
        for group in groups:
            for package in group.packages:
                gone = select_files(FILES[package.name], group.left_out.get(package.name, ()))
                self.gone += gone
                for path in {*FILES[package.name]} - gone:
                    file = into / group.name / SITE / path
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_text("x" * 1_000_000)
        return {group.name: (into / group.name,) for group in groups}


@pytest.fixture
def slimming(tmp_path: Path) -> Slimming:
    packages = tuple(
        LockedPackage(
            name=name,
            version="1",
            manager="pip",
            platform=host_platform(),
            url=f"https://index.example/{name}-1-py3-none-any.whl",
            sha256=digest_bytes(name.encode()).hex,
            dependencies=(("flask", "*"),) if name == "mlflow" else (),
        )
        for name in NAMES
    )
    lockfile: Any = SimpleNamespace(digest=digest_bytes(b"lock"), packages=packages, content=b"version: 1\npackage: []")
    spec: Any = SimpleNamespace(python="3.11.7", pip=("mlflow==1", "pandas"))
    base: Any = None
    environment: Any = Layout(tmp_path)
    facts = SimpleNamespace(tolerance=DEFAULT, pickled=(), loader_module="one", stated={})
    bundle: Any = SimpleNamespace(root=tmp_path, digest=digest_bytes(b"model"), facts=facts, files=())
    ingredients = Ingredients(
        bundle=bundle,
        lockfile=lockfile,
        base=base,
        platform=host_platform(),
        runtime=digest_bytes(b"runtime"),
        recipe="1",
    )
    groups = (PackageGroup(name="dependencies", packages=packages),)
    return Slimming(ingredients=ingredients, spec=spec, environment=environment, groups=groups)


def find(slimming: Slimming, folder: Path, program: Program, *, trust: bool = False) -> tuple[LeftOut, list[str]]:
    """What is left out, and the notes."""
    notes = Notes()

    @contextmanager
    def phases(phase: str) -> Iterator[Notes]:
        yield notes

    def download() -> dict[LockedPackage, Path]:
        files = {}
        for package in slimming.groups[0].packages:
            files[package] = folder / f"{package.name}.whl"
            with zipfile.ZipFile(files[package], "w") as archive:
                for path in FILES[package.name]:
                    archive.writestr(path, "x" * 1_000_000)
        return files

    store: Any = None
    tools = Tools(store=store, run=program, cache=folder / "cache", phases=phases, trust_model=trust)
    return find_left_out(slimming, tools, folder, download), notes.lines


def test_what_only_mlflow_asks_for_is_left_out_and_remembered(slimming: Slimming, tmp_path: Path) -> None:
    program = Program(lambda there: [200, "1.5"])
    left_out, notes = find(slimming, tmp_path, program)
    assert left_out.packages == ("flask",)
    assert {"tests/", "*.h"} <= {*left_out.patterns("pandas")}
    # The second time the model is asked without them.
    environment: Any = slimming.environment
    assert sorted(environment.gone) == ["tables/a.h", "tables/tests/test_a.py"]
    assert notes[-2] == "asking it without flask, 2 files that serve developers"
    assert notes[-1] == (
        "1 of 3 packages and 2 files of the others left out, 2 instead of 5 MB; "
        "first prediction after 1.50 instead of 3.00 s of processor time"
    )
    assert program.starts == 2
    again, notes = find(slimming, tmp_path, program)
    assert (again.to_json(), notes) == (left_out.to_json(), [])
    assert program.starts == 2


@pytest.mark.parametrize("what", ["model", "lock", "runtime", "recipe"])
def test_what_was_measured_holds_for_that_alone(slimming: Slimming, tmp_path: Path, what: str) -> None:
    program = Program(lambda there: [200, "1.5"])
    find(slimming, tmp_path, program)
    if what == "model":
        slimming.ingredients.bundle.digest = digest_bytes(b"another")
    elif what == "lock":
        slimming.ingredients.lockfile.digest = digest_bytes(b"another")
    else:
        given: dict[str, Any] = {what: digest_bytes(b"another") if what == "runtime" else "2"}
        slimming = replace(slimming, ingredients=replace(slimming.ingredients, **given))
    find(slimming, tmp_path, program)
    assert program.starts == 4


def test_a_damaged_memory_is_made_again(slimming: Slimming, tmp_path: Path) -> None:
    program = Program(lambda there: [200, "1.5"])
    find(slimming, tmp_path, program)
    (record,) = (tmp_path / "cache" / "slim").iterdir()
    for text in ("[", '{"packages": ["no such package"], "files": {}}', "{}", '["flask"]'):
        record.write_text(text)
        assert find(slimming, tmp_path, program)[0].packages == ("flask",)
    assert program.starts == 10


def test_another_answer_without_it_keeps_everything_and_says_so(slimming: Slimming, tmp_path: Path) -> None:
    program = Program(lambda there: [200, "flask" in there])
    left_out, notes = find(slimming, tmp_path, program)
    assert left_out == NOTHING
    assert notes[-1].startswith("the model answers otherwise without them: ")
    assert 'of request 0, the answer: expected "True", got "False"; nothing is left out' in notes[-1]
    assert find(slimming, tmp_path, program) == (NOTHING, []) and program.starts == 2, "that is known then"


@pytest.mark.parametrize("needed", ["flask", "nothing that is there"])
def test_a_model_that_cannot_be_asked_keeps_everything_and_says_so(
    slimming: Slimming, tmp_path: Path, needed: str
) -> None:
    program = Program(lambda there: [200] if needed in there else None)
    left_out, notes = find(slimming, tmp_path, program)
    assert left_out == NOTHING
    assert notes[-1] == "the model cannot be asked here: ImportError: no model; nothing is left out"
    asked = program.starts
    find(slimming, tmp_path, program)
    assert program.starts == 2 * asked, "another time it may be asked"


def test_an_image_for_another_machine_cannot_be_measured(slimming: Slimming, tmp_path: Path) -> None:
    other = next(p for p in map(Platform.parse, ("linux/amd64", "linux/arm64")) if p != host_platform())
    with pytest.raises(PlatformError, match="only seen by running it"):
        elsewhere = replace(slimming, ingredients=replace(slimming.ingredients, platform=other))
        find(elsewhere, tmp_path, Program(lambda there: [200]))


@pytest.mark.parametrize(
    ("data", "harm"), [(b"\x80\x02cos\nsystem\n.", True), (b"\x80\x02cemail.utils\nquote\n.", False)]
)
def test_a_model_that_would_do_harm_is_not_asked_unless_it_is_trusted(
    slimming: Slimming, tmp_path: Path, data: bytes, harm: bool
) -> None:
    (tmp_path / "python_model.pkl").write_bytes(data)
    bundle: Any = slimming.ingredients.bundle
    bundle.files = (SimpleNamespace(path="python_model.pkl", size=len(data)),)
    program = Program(lambda there: 1)
    if harm:
        with pytest.raises(ModelNotTrusted, match=r"python_model\.pkl would call os\.system") as caught:
            find(slimming, tmp_path, program)
        assert program.starts == 0 and "KBUILD_TRUST_MODEL=1" in str(caught.value.hint)
    _, notes = find(slimming, tmp_path, program, trust=harm)
    assert program.starts and any(
        "did not record the model" in note and "loading python_model.pkl" in note for note in notes
    )
