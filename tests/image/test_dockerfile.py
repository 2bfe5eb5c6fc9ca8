from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbuild.errors import BuildFailed, UnsupportedInstruction
from kbuild.image.engines.dockerfile import (
    Instruction,
    expand,
    key_values,
    parse_dockerfile,
    read_exec_form,
    split_words,
    take_flags,
)
from kbuild.plan.quoting import quote_env, quote_label

VARIABLES = {"A": "one", "EMPTY": "", "PATH": "/bin"}


def instruction(value: str, name: str = "ENV") -> Instruction:
    return Instruction(name=name, value=value, line=7)


def test_comments_and_continued_lines_are_joined() -> None:
    text = "# a comment\n\nFROM scratch\nlabel a=b \\\n  # inside\n  c=d\nCOPY x/ /\n"
    assert [(item.name, item.value.split(), item.line) for item in parse_dockerfile(text)] == [
        ("FROM", ["scratch"], 3),
        ("LABEL", ["a=b", "c=d"], 4),
        ("COPY", ["x/", "/"], 7),
    ]


def test_a_line_that_is_no_instruction_is_named() -> None:
    with pytest.raises(BuildFailed, match="line 2"):
        parse_dockerfile("FROM scratch\nENTRYPOINT\n")


def test_another_escape_character_is_refused() -> None:
    with pytest.raises(UnsupportedInstruction, match="escape"):
        parse_dockerfile("# syntax=docker/dockerfile:1\n# escape=`\nFROM scratch\n")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("plain", "plain"),
        ("$A", "one"),
        ("${A}x$A", "onexone"),
        ("$UNSET.", "."),
        ("${UNSET:-other}", "other"),
        ("${EMPTY:-$A}", "one"),
        ("${A:+set}${UNSET:+not}", "set"),
        ("'$A'", "$A"),
        ('"$A \\"q\\" \\$A \\\\ \\n"', 'one "q" $A \\ \\n'),
        ("\\$A\\ b", "$A b"),
        ("a$", "a$"),
        ("$.", "$."),
    ],
)
def test_variables_and_quotes(text: str, value: str) -> None:
    assert expand(text, VARIABLES, instruction(text)) == value


@pytest.mark.parametrize("text", ["${A", '"open', "'open", "${A:-x"])
def test_what_is_left_open_is_refused(text: str) -> None:
    with pytest.raises((BuildFailed, UnsupportedInstruction), match="line 7"):
        expand(text, VARIABLES, instruction(text))


@pytest.mark.parametrize("text", ["${A%x}", "${A/b/c}", "$1", "${A:?no}"])
def test_forms_of_bash_are_left_to_buildkit(text: str) -> None:
    with pytest.raises(UnsupportedInstruction):
        expand(text, VARIABLES, instruction(text))


values = st.text(alphabet=st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=40)


@given(value=values)
def test_what_a_template_quotes_is_read_back(value: str) -> None:
    text = f"FROM scratch\nENV {quote_env('NAME', value)}\nLABEL {quote_label('a.b/c', value)}\n"
    _, env, label = parse_dockerfile(text)
    assert key_values(env, VARIABLES) == [("NAME", value)]
    assert key_values(label, VARIABLES) == [("a.b/c", value)]


def test_pairs_and_the_old_form() -> None:
    assert key_values(instruction("a=1 b='2 3' c=$A"), VARIABLES) == [("a", "1"), ("b", "2 3"), ("c", "one")]
    assert key_values(instruction("old  two words"), VARIABLES) == [("old", "two words")]
    with pytest.raises(BuildFailed):
        key_values(instruction("a=1 b"), VARIABLES)


def test_words_split_outside_quotes() -> None:
    assert split_words('a  \'b c\'\t"d \\" e" f\\ g') == ["a", "'b c'", '"d \\" e"', "f\\ g"]


def test_exec_form_is_json_or_nothing() -> None:
    assert read_exec_form('["a", "b \\" c"]') == ["a", 'b " c']
    assert read_exec_form("a b") is None
    assert read_exec_form('["a", 1]') is None
    assert read_exec_form("[a]") is None


def test_flags_come_before_the_arguments() -> None:
    assert take_flags(instruction("--chown=1:2 --link a/ --not=this", "COPY")) == (
        {"chown": "1:2", "link": ""},
        "a/ --not=this",
    )
