import json
import re

import pytest
from dockerfile_parse import DockerfileParser
from hypothesis import given
from hypothesis import strategies as st

from kbuild.errors import LabelError
from kbuild.plan.quoting import exec_form, quote_env, quote_label, quote_value

printable = st.text(st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="\u2028\u2029"))


def unquote(word: str) -> str:
    """Read a double-quoted word as the Dockerfile reference describes it, independently of quote_value."""
    assert word[0] == word[-1] == '"'
    body, out, i = word[1:-1], [], 0
    while i < len(body):
        if body[i] == "\\" and i + 1 < len(body) and body[i + 1] in '"\\$':
            i += 1
        else:
            assert body[i] not in '"$'
        out.append(body[i])
        i += 1
    return "".join(out)


@given(printable)
def test_a_quoted_value_reads_back_and_stays_on_its_line(value: str) -> None:
    quoted = quote_value(value)
    assert unquote(quoted) == value
    assert len(quoted.splitlines()) == 1


@pytest.mark.slow
@given(st.dictionaries(st.from_regex(r"[a-z][a-z.]{0,8}[a-z]", fullmatch=True), st.text("ab \\'=#%{}[]", max_size=12)))
def test_a_label_reads_back_through_a_dockerfile_parser(tmp_path_factory: pytest.TempPathFactory, labels: dict) -> None:
    parser = DockerfileParser(str(tmp_path_factory.mktemp("d")), env_replace=False)
    parser.content = "FROM scratch\n" + "".join(f"LABEL {quote_label(k, v)}\n" for k, v in labels.items())
    # dockerfile-parse leaves the escape of a backslash in place.
    assert {k: v.replace("\\\\", "\\") for k, v in parser.labels.items()} == labels


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "\x00", "a\u2028b", "\x85", "\t"])
def test_control_characters_are_refused_by_name(value: str) -> None:
    with pytest.raises(LabelError, match=re.escape(repr(value))):
        quote_label("team", value)


@pytest.mark.parametrize("name", ["", "a b", "1A", "A=B", "A-B", "Ä"])
def test_what_is_no_variable_name_is_refused(name: str) -> None:
    with pytest.raises(LabelError):
        quote_env(name, "x")


@pytest.mark.parametrize("key", ["", "a b", 'a"b', "a\nb", "-a", "a="])
def test_what_is_no_label_key_is_refused(key: str) -> None:
    with pytest.raises(LabelError):
        quote_label(key, "x")


@given(st.lists(st.text(st.characters(exclude_categories=("Cs",)))))
def test_exec_form_is_json_on_one_line(words: list[str]) -> None:
    assert json.loads(exec_form(words)) == words
    assert len(exec_form(words).splitlines()) == 1
