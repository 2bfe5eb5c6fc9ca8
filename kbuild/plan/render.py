"""Rendering: the Dockerfile of a plan, from Jinja templates whose blocks a user's template extends."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jinja2
from jinja2 import nodes
from jinja2.sandbox import SandboxedEnvironment

from kbuild.errors import LabelError, TemplateError
from kbuild.files import meant_beside
from kbuild.plan.build_plan import BuildPlan
from kbuild.plan.quoting import exec_form, quote_env, quote_label, quote_value
from kbuild.resources import data_path

DEFAULT_TEMPLATE = "model.Dockerfile.j2"
SHIPPED = {"copy": DEFAULT_TEMPLATE, "in-container": "in-container.Dockerfile.j2"}
"""What ``--template`` calls the shipped templates."""

DEFAULT_INSTALL_BASE = "docker.io/library/python:3.13-slim"
"""Where in-container.Dockerfile.j2 installs; by tag, for nothing of it reaches the image."""

INSTALL_FOLDER = "kbuild-install"
"""The folder of the build context with what a stage that installs is given."""

_INSTALLS = re.compile(rf"^COPY .*\b{INSTALL_FOLDER}/", re.M)


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """The name of a shipped template, or a file of the user's (which may ``{% extends "model.Dockerfile.j2" %}``).

    ``install_base`` is what stands after FROM of the stage that installs, in templates that have one.
    """

    name: str = DEFAULT_TEMPLATE
    file: Path | None = None
    install_base: str | None = None


def parse_template(text: str | Path | None) -> Template:
    """What ``--template`` says: a name of ``SHIPPED``, else a file; ``./copy`` is the file of that name."""
    if text is None:
        return Template()
    name = SHIPPED.get(str(text))
    return Template(file=Path(text)) if name is None else Template(name=name)


def installs_in_container(dockerfile: str) -> bool:
    """Whether a builder stage of the Dockerfile installs the packages, so that the build context has none."""
    return _INSTALLS.search(dockerfile) is not None


def _environment(*folders: str) -> SandboxedEnvironment:
    environment = SandboxedEnvironment(
        loader=jinja2.FileSystemLoader(folders),
        undefined=jinja2.StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(quote=quote_value, exec_form=exec_form)
    environment.globals.update(label=quote_label, env=quote_env)
    return environment


def _check_blocks(environment: SandboxedEnvironment, name: str) -> None:
    """Raises TemplateError for a block at the top of a template that nothing it extends has: Jinja passes it over."""
    own: list[nodes.Block] = []
    known: set[str] = set()
    extended, loader = name, environment.loader
    while True:
        source = loader.get_source(environment, extended)[0] if loader is not None else ""
        tree = environment.parse(source, name=extended)
        if extended == name:
            own = [node for node in tree.body if isinstance(node, nodes.Block)]
        else:
            known |= {block.name for block in tree.find_all(nodes.Block)}
        parent = tree.find(nodes.Extends)
        if parent is None or not isinstance(parent.template, nodes.Const) or parent.template.value == extended:
            break
        extended = str(parent.template.value)
    lost = [block for block in own if block.name not in known]
    if lost and extended != name:
        raise TemplateError(
            f"{name}, line {lost[0].lineno}: {extended} has no block {lost[0].name}, so nothing of it would be there",
            hint=f"its blocks are {', '.join(sorted(known))}",
        )


@cache
def _shipped() -> SandboxedEnvironment:
    """With the templates that it compiled, which takes longer than all else of a plan."""
    return _environment(str(data_path("dockerfiles")))


def check_template_file(template: Template) -> None:
    """Raises TemplateError for a file that is not there, does not parse or fills a block that nothing has.

    What its values are is known only with a plan: ``render_dockerfile``.
    """
    if template.file is not None:
        environment, name = _find(template)
        with _telling(name):
            _check_blocks(environment, name)


def render_dockerfile(plan: BuildPlan, template: Template) -> str:
    """The Dockerfile's text; raises TemplateError with file and line, or LabelError for a value it cannot carry."""
    environment, name = _find(template)
    values = {"plan": plan, "config": plan.config, "install_base": template.install_base or DEFAULT_INSTALL_BASE}
    with _telling(name):
        if template.file is not None:
            _check_blocks(environment, name)
        text = environment.get_template(name).render(values)
    if not text.isprintable() and any(ord(c) < 32 and c not in "\n\t" for c in text):
        raise TemplateError(f"{name} rendered to text with control characters")
    return text


def _find(template: Template) -> tuple[SandboxedEnvironment, str]:
    """What a template is read with, and its name there."""
    file = template.file
    if file is None:
        return _shipped(), template.name
    if not file.is_file():
        what = f"{file} is a folder, not a template" if file.is_dir() else f"there is no template {file}"
        near = None if file.is_dir() else meant_beside(file)
        raise TemplateError(
            f"{what}: {' and '.join(SHIPPED)} are those of kbuild",
            hint=f"did you mean {shlex.quote(str(near))}?" if near else None,
        )
    return _environment(str(file.parent), str(data_path("dockerfiles"))), file.name


@contextmanager
def _telling(name: str) -> Iterator[None]:
    try:
        yield
    except jinja2.TemplateSyntaxError as error:
        where = Path(error.filename).name if error.filename else error.name or name
        raise TemplateError(f"{where}, line {error.lineno}: {error.message}") from error
    except jinja2.TemplateNotFound as error:
        raise TemplateError(
            f"{name} extends or includes {error.name}, which is nowhere",
            hint=f"shipped are {', '.join(SHIPPED.values())}",
        ) from error
    except (LabelError, TemplateError):
        raise
    except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise TemplateError(f"{name} does not render: {' '.join(str(error).split())}") from error
