from pathlib import Path

import pytest
from dockerfile_parse import DockerfileParser

from kbuild.errors import TemplateError
from kbuild.plan.make import make_plan
from kbuild.plan.render import SHIPPED, Template, check_template_file, installs_in_container, parse_template


@pytest.fixture
def render(ingredients):
    def render(template: Template = Template()) -> str:  # noqa: B008
        return make_plan(ingredients, (), template).dockerfile

    return render


def own(tmp_path: Path, text: str) -> Template:
    file = tmp_path / "my.Dockerfile.j2"
    file.write_text(text)
    return Template(file=file)


def instructions(text: str, tmp_path: Path) -> list[tuple[str, str]]:
    parser = DockerfileParser(str(tmp_path))
    parser.content = text
    return [(step["instruction"], step["value"]) for step in parser.structure]


def test_the_default_dockerfile_has_no_run(render, tmp_path) -> None:
    steps = instructions(render(), tmp_path)
    kinds = [kind for kind, _ in steps]
    assert "RUN" not in kinds
    assert kinds[0] == "FROM" and kinds[-1] == "ENTRYPOINT"
    assert kinds.count("COPY") == 5
    assert ("USER", "65532:65532") in steps
    assert ("EXPOSE", "8080") in steps
    assert {"HEALTHCHECK", "STOPSIGNAL", "LABEL", "ENV"} <= set(kinds)


def test_labels_with_quotes_and_dollars_stay_on_their_line(render) -> None:
    line = next(line for line in render().splitlines() if "io.kbuild.signature" in line)
    assert r"\\\"quoted\\\" \$name" in line


def test_a_template_of_the_users_own_fills_a_block(render, tmp_path) -> None:
    template = own(tmp_path, '{% extends "model.Dockerfile.j2" %}{% block before_user %}\nRUN echo hi\n{% endblock %}')
    text = render(template)
    assert text.index("COPY") < text.index("RUN echo hi") < text.index("USER")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{% extends "model.Dockerfile.j2" %}\n{% block x %}', "my.Dockerfile.j2, line 2"),
        ("FROM {{ nothing }}", "my.Dockerfile.j2 does not render: 'nothing' is undefined"),
        ("FROM {{ plan.nothing }}", "has no attribute 'nothing'"),
        (
            '{% extends "model.Dockerfile.j2" %}\n{% block befor_user %}RUN x{% endblock %}',
            "my.Dockerfile.j2, line 2: model.Dockerfile.j2 has no block befor_user",
        ),
        ('{% extends "no.j2" %}', "extends or includes no.j2, which is nowhere"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ plan.layers | no_filter }}", "line 1: No filter named 'no_filter'"),
        ("{{ ''.__class__.__mro__ }}", "does not render"),
    ],
)
def test_a_broken_template_is_one_line_with_its_place(render, tmp_path, text: str, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        render(own(tmp_path, text))
    assert message in caught.value.message
    assert "\n" not in caught.value.message


def test_a_template_that_is_not_there_is_named(render, tmp_path) -> None:
    with pytest.raises(TemplateError, match=r"there is no template .*: copy and in-container are those of kbuild"):
        render(Template(file=tmp_path / "nowhere.j2"))
    own(tmp_path, "FROM scratch").file.rename(tmp_path / "mine.j2")
    with pytest.raises(TemplateError) as caught:
        check_template_file(Template(file=tmp_path / "mien.j2"))
    assert caught.value.hint == f"did you mean {tmp_path / 'mine.j2'}?"
    with pytest.raises(TemplateError, match="is a folder, not a template"):
        check_template_file(Template(file=tmp_path))


def test_what_a_template_lacks_is_known_without_a_plan(tmp_path) -> None:
    for text, message in (
        ("{% block x", "line 1"),
        ('{% extends "model.Dockerfile.j2" %}{% block befor_user %}{% endblock %}', "has no block befor_user"),
        ('{% extends "no.j2" %}', "extends or includes no.j2, which is nowhere"),
    ):
        with pytest.raises(TemplateError, match=message):
            check_template_file(own(tmp_path, text))
    check_template_file(Template())
    check_template_file(own(tmp_path, '{% extends "model.Dockerfile.j2" %}{% block before_user %}{% endblock %}'))


def test_the_in_container_template_copies_the_same_layers_from_its_stage(render, tmp_path) -> None:
    here = instructions(render(), tmp_path)
    text = render(Template(name=SHIPPED["in-container"], install_base="registry.example/python:3"))
    assert installs_in_container(text) and not installs_in_container(render())
    there = instructions(text, tmp_path)
    assert there[0] == ("FROM", "registry.example/python:3 AS kbuild-install")
    final = there[[name for name, _ in there].index("FROM", 1) :]
    assert [(name, value.removeprefix("--from=kbuild-install ")) for name, value in final] == here
    sent = [value for name, value in final if name == "COPY" and not value.startswith("--from=")]
    assert sent == ['["base/", "/"]', '["model/", "/"]']
    # The stage is the only place with a RUN, and gets credentials by mounts alone.
    runs = [value for name, value in there if name == "RUN"]
    assert len(runs) == 2 and "RUN" not in [name for name, _ in final]
    assert "--mount=type=secret,id=kbuild-indexes" in runs[0] and "secret" not in runs[1]


def test_a_template_of_ones_own_may_extend_the_in_container_one(render, tmp_path) -> None:
    text = render(
        own(tmp_path, '{% extends "in-container.Dockerfile.j2" %}{% block before_user %}RUN true{% endblock %}')
    )
    assert installs_in_container(text)
    assert text.index("RUN true") > text.index("COPY --from=kbuild-install")


def test_shipped_templates_have_names_and_files_paths() -> None:
    assert parse_template(None) == parse_template("copy") == Template()
    assert parse_template("in-container").name == "in-container.Dockerfile.j2"
    assert parse_template("./copy").file == Path("copy")
