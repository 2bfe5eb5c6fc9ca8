from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from plans import EMPTY

from kbuild.digest import digest_bytes
from kbuild.errors import TemplateError
from kbuild.plan.base import BaseFacts, ResolvedBase
from kbuild.plan.build_plan import BuildPlan, LayerPlan
from kbuild.workflow.template_check import check_template

NO_SHELL, SHELL = BaseFacts(glibc="2.36", shell=False), BaseFacts(glibc="2.36", shell=True)  # noqa: S604  no process is started
DEBS = ResolvedBase(kind="debs", name="debian:bookworm", digest=digest_bytes(b""))
REGISTRY = ResolvedBase(
    kind="registry", name="registry.example/base:1", digest=digest_bytes(b""), reference="r@sha256:1"
)


def plan(dockerfile: str, from_line: str = "scratch") -> BuildPlan:
    layers = tuple(LayerPlan(name=n, source=n, content=DEBS.digest) for n in ("base", "interpreter"))
    return replace(EMPTY, base=DEBS.digest, from_line=from_line, layers=layers, dockerfile=dockerfile)


LAYERS = 'FROM scratch\nCOPY ["base/", "/"]\nCOPY ["interpreter/", "/"]\n'


@pytest.mark.parametrize(
    ("run", "lacks"),
    [
        ("RUN apt-get update && apt-get install -y libgomp1", "shell"),
        ("run --mount=type=tmpfs,target=/x echo hello", "shell"),
        ("RUN echo a \\\n  && echo b", "shell"),
        ('RUN ["/bin/sh", "-c", "true"]', "shell"),
        ('RUN ["bash", "-c", "true"]', "shell"),
        ('RUN ["apt-get", "update"]', "apt-get"),
        ('RUN ["/usr/bin/ldconfig"]', "/usr/bin/ldconfig"),
        ('SHELL ["/bin/bash", "-c"]\nRUN true', "shell"),
    ],
)
def test_a_run_on_a_base_without_what_it_needs(tmp_path: Path, run: str, lacks: str) -> None:
    base = replace(DEBS, path=tmp_path)
    with pytest.raises(TemplateError, match=rf"line \d: RUN .*: base image debian:bookworm has no {lacks}$") as caught:
        check_template(plan(f"{LAYERS}{run}\nUSER 1\n"), base, NO_SHELL)
    assert "\n" not in caught.value.message
    assert caught.value.hint is not None and "--base" in caught.value.hint


@pytest.mark.parametrize(
    "run",
    [
        'RUN ["/opt/env/bin/python", "-c", "print(1)"]',
        'RUN ["ldconfig"]',
        "COPY --from=tools /bin/busybox /bin/sh\nRUN true",
        "COPY mine/ /\nRUN true",
        "RUN []",  # the engines say what that is
        "USER 1",
    ],
)
def test_what_may_run(tmp_path: Path, run: str) -> None:
    (tmp_path / "sbin").mkdir()
    (tmp_path / "sbin/ldconfig").touch()
    check_template(plan(f"{LAYERS}{run}\n"), replace(DEBS, path=tmp_path), NO_SHELL)


def test_a_base_with_a_shell_runs_anything() -> None:
    text = 'FROM r@sha256:1\nRUN apt-get update\nRUN ["apt-get", "update"]\n'
    check_template(plan(text, "r@sha256:1"), REGISTRY, SHELL)
    with pytest.raises(TemplateError, match="has no shell"):
        check_template(plan(text, "r@sha256:1"), REGISTRY, NO_SHELL)


@pytest.mark.parametrize(
    ("dockerfile", "named"),
    [
        ("FROM docker.io/library/alpine:3\n", "docker.io/library/alpine:3"),
        ("FROM r@sha256:1 AS a\nFROM other\n", "other"),
        ("FROM other AS a\nFROM a\n", "other"),
        # Of two stages of one name the later counts (BuildKit's instructions.HasStage).
        ("FROM r@sha256:1 AS a\nFROM other AS a\nFROM a\n", "other"),
        ("ARG B=r@sha256:1\nFROM $B\n", r"\$B"),
    ],
)
def test_another_base_than_the_one_that_labels_name(dockerfile: str, named: str) -> None:
    wanted = rf"ends in an image FROM {named}, but the base image is registry\.example/base:1"
    with pytest.raises(TemplateError, match=wanted):
        check_template(plan(dockerfile, "r@sha256:1"), REGISTRY, SHELL)


def test_stages_are_looked_through() -> None:
    text = "FROM other AS tools\nRUN make\nFROM --platform=linux/amd64 r@sha256:1 AS Mine\nFROM mine\nRUN make\n"
    check_template(plan(text, "r@sha256:1"), REGISTRY, SHELL)
    with pytest.raises(TemplateError, match="line 5: RUN make"):
        check_template(plan(text, "r@sha256:1"), REGISTRY, NO_SHELL)


def test_what_only_buildkit_reads_is_left_to_it() -> None:
    check_template(plan("# escape=`\nFROM other\nRUN x\n"), DEBS, NO_SHELL)


def test_a_template_without_a_stage_is_left_to_the_engines() -> None:
    check_template(plan("# nothing\n"), DEBS, NO_SHELL)


@pytest.mark.parametrize(
    ("dockerfile", "lacking"),
    [
        ('FROM scratch\nCOPY ["interpreter/", "/"]\n', "base"),
        ("FROM scratch\nCOPY interpreter/ /\nUSER 1\n", "base"),
        ("FROM scratch\n", "base, no interpreter"),
        ("FROM scratch AS a\nCOPY base/ /\nFROM scratch\nCOPY interpreter/ /\n", "base"),
    ],
)
def test_a_layer_that_no_copy_brings(dockerfile: str, lacking: str) -> None:
    with pytest.raises(TemplateError, match=rf"copies no {lacking}, so the image would be without it") as raised:
        check_template(plan(dockerfile), DEBS, NO_SHELL)
    assert "extends" in str(raised.value.hint)


@pytest.mark.parametrize(
    "dockerfile",
    [
        LAYERS,
        "FROM scratch AS a\nCOPY base/ /\nFROM a\nCOPY interpreter/ /\n",
        "FROM other AS a\nRUN make\nFROM scratch\nCOPY base/ /\nCOPY --from=a interpreter/ /\n",
        "FROM scratch\nCOPY interpreter/ /\nCOPY rootfs/ /\n",  # who knows what it brings
        "FROM scratch\nCOPY . /\n",
        'FROM scratch\nCOPY interpreter/ /\nRUN ["/opt/env/bin/python"]\n',
    ],
)
def test_layers_that_come_in_other_ways(dockerfile: str) -> None:
    check_template(plan(dockerfile), DEBS, NO_SHELL)
