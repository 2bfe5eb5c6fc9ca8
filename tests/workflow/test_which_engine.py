"""Which engine builds a Dockerfile, and what BuildKit is handed where the native one cannot."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from world import MODEL, World

from kbuild.errors import TemplateError, UnsupportedInstruction
from kbuild.image.engine import make_engine
from kbuild.plan.render import Template, parse_template
from kbuild.resources import data_path
from kbuild.workflow import engines
from kbuild.workflow.build import build_image
from kbuild.workflow.delivery import Delivery


class Handed(Exception):
    """Ends a build where BuildKit would begin."""


@dataclass
class BuildKit:
    """Keeps what it is given, and builds nothing."""

    name: str = "buildkit"
    settings: list[Any] = field(default_factory=list)
    files: set[str] = field(default_factory=set)
    dockerfile: str = ""
    probed: int = 0

    def probe(self) -> str:
        self.probed += 1
        return "29.1"

    def build(self, context: Any, base: Any, *, workdir: Path, progress: Any, known: Any) -> Any:
        self.files = {str(path.relative_to(context.path)) for path in context.path.rglob("*") if path.is_file()}
        self.dockerfile = (context.path / "Dockerfile").read_text()
        assert workdir.is_dir() and not any(workdir.iterdir())
        raise Handed


@pytest.fixture
def buildkit(monkeypatch: pytest.MonkeyPatch) -> BuildKit:
    made = BuildKit()

    def make(name: str, run: Any, settings: Any = None) -> Any:
        if name != "buildkit":
            return make_engine(name, run, settings)  # type: ignore[arg-type]
        made.settings.append(settings)
        return made

    monkeypatch.setattr(engines, "make_engine", make)
    return made


def own(world: World, tmp_path: Path) -> Template:
    """The usual template with a step that runs something: kbuild itself executes no RUN."""
    text = (data_path("dockerfiles") / "model.Dockerfile.j2").read_text("utf-8")
    place = tmp_path / "own.j2"
    first, rest = text.rsplit("\nENTRYPOINT", 1)
    place.write_text(f'{first}\nRUN ["/opt/env/bin/python", "-V"]\nENTRYPOINT{rest}', "utf-8")
    return parse_template(place)


def build(world: World, **given: Any) -> Any:
    return build_image(world.request(**given), Delivery(record=False), world.tools)


@pytest.mark.slow
def test_what_the_native_engine_cannot_execute_goes_to_buildkit_unless_native_was_asked_for(
    world: World, buildkit: BuildKit, tmp_path: Path
) -> None:
    template = own(world, tmp_path)
    with pytest.raises(Handed):
        build(world, template=template)
    assert any("building with buildkit instead" in note for note in world.heard.notes), world.heard.notes
    assert buildkit.probed == 1 and 'RUN ["/opt/env/bin/python", "-V"]' in buildkit.dockerfile
    # All that is copied is there, not only what no earlier build packed.
    assert {f"model/opt/model/{name}" for name in MODEL} <= buildkit.files
    assert any(name.endswith("/two.py") for name in buildkit.files)
    with pytest.raises(UnsupportedInstruction, match="RUN"):
        build(world, template=template, engine="native")
    assert buildkit.probed == 1


def test_a_step_that_the_base_cannot_run_is_told_before_a_package_is_fetched(
    world: World, buildkit: BuildKit, tmp_path: Path
) -> None:
    place = own(world, tmp_path).file
    assert place is not None
    place.write_text(place.read_text("utf-8").replace('RUN ["/opt/env/bin/python", "-V"]', "RUN python -V"), "utf-8")
    shutil.rmtree(world.tools.cache / "downloads", ignore_errors=True)
    with pytest.raises(TemplateError, match="shell"):
        build(world, template=parse_template(place))
    assert not (world.tools.cache / "downloads").exists() and buildkit.probed == 0


@pytest.mark.slow
def test_buildkit_is_asked_with_the_builder_and_network_of_the_request(world: World, buildkit: BuildKit) -> None:
    with pytest.raises(Handed):
        build(world, engine="buildkit", builder="mine", network="host")
    (settings,) = buildkit.settings
    assert settings.secrets == {}, "no stage installs anything"
    assert (settings.builder, settings.network) == ("mine", "host")
    assert "building with buildkit instead" not in " ".join(world.heard.notes)
    assert any(note == "build: buildkit engine: 29.1" for note in world.heard.notes)
    assert any(name.endswith("/two.py") for name in buildkit.files)


@pytest.mark.slow
def test_packages_that_are_installed_in_a_stage_are_sent_as_a_list(world: World, buildkit: BuildKit) -> None:
    template = parse_template("in-container")
    with pytest.raises(UnsupportedInstruction, match="no stage to install packages in"):
        build(world, template=template, engine="native")
    for engine in ("auto", "buildkit"):
        with pytest.raises(Handed):
            build(world, template=template, engine=engine)
        assert "RUN " in buildkit.dockerfile
        assert {f"model/opt/model/{name}" for name in MODEL} <= buildkit.files
        assert not any(name.endswith("/two.py") for name in buildkit.files), "the stage installs it"
        # What lets it fetch them reaches it as secrets, of which the image keeps none.
        assert json.loads(buildkit.settings[-1].secrets["kbuild-indexes"])["cache_key"]
    assert buildkit.probed == 2
