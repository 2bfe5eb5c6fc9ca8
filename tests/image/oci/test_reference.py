from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbuild.digest import Digest
from kbuild.errors import InvalidReference
from kbuild.image.oci.image_reference import ImageReference

HEX = "ab" * 32

components = st.from_regex(re.compile(r"[a-z0-9]{1,6}([._-][a-z0-9]{1,4})?", re.ASCII), fullmatch=True)
references = st.builds(
    ImageReference,
    registry=st.sampled_from(
        ["docker.io", "localhost", "localhost:5000", "127.0.0.1:5000", "ghcr.io", "[::1]:80", "Up"]
    ),
    repository=st.lists(components, min_size=1, max_size=3).map("/".join),
    tag=st.none() | st.from_regex(re.compile(r"\w[\w.-]{0,12}", re.ASCII), fullmatch=True),
    digest=st.none() | st.just(Digest(HEX)),
)


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("demo", "docker.io/library/demo"),
        ("demo:1", "docker.io/library/demo:1"),
        ("team/demo:1", "docker.io/team/demo:1"),
        ("index.docker.io/demo", "docker.io/library/demo"),
        ("localhost/demo", "localhost/demo"),
        ("localhost:5000/demo:1", "localhost:5000/demo:1"),
        ("ghcr.io/a/b__c/d-e:v1.2", "ghcr.io/a/b__c/d-e:v1.2"),
        (f"demo:1@sha256:{HEX}", f"docker.io/library/demo:1@sha256:{HEX}"),
        ("[::1]:5000/a:b", "[::1]:5000/a:b"),
    ],
)
def test_familiar_names_become_full_ones(text: str, full: str) -> None:
    assert str(ImageReference.parse(text)) == full


@pytest.mark.parametrize(
    "text",
    [
        "", ":1", "Demo", "a/Demo", "demo:", "demo:-x", f"demo:{'x' * 129}", "demo@sha256:123", "demo@",
        "a//b", "a/", "/a",
        "a b", "a\nb", "demo:1\n", HEX, "https://ghcr.io/a", f"ghcr.io/{'a' * 250}", "a..b/c", "ghcr.io:port/a", "é",
        "ghcr.io:65536/a", "ghcr.io:0/a",
    ],
)  # fmt: skip
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(InvalidReference):
        ImageReference.parse(text)


@given(reference=references)
def test_the_full_form_reads_back(reference: ImageReference) -> None:
    if reference.registry == "docker.io" and "/" not in reference.repository:
        return  # such names are written with library/
    assert ImageReference.parse(str(reference)) == reference
    assert ImageReference.parse(reference.familiar) == reference


@given(text=st.text(alphabet="aA0:/@.-_[]% \n", max_size=30))
def test_parsing_refuses_or_gives_what_reads_back(text: str) -> None:
    try:
        reference = ImageReference.parse(text)
    except InvalidReference:
        return
    assert ImageReference.parse(str(reference)) == reference


def test_the_short_form_is_what_docker_shows() -> None:
    assert ImageReference.parse("docker.io/library/demo:1").familiar == "demo:1"
    assert ImageReference.parse("docker.io/team/demo").familiar == "team/demo"
    assert ImageReference.parse("docker.io/library/localhost/x").familiar == "library/localhost/x"


def test_a_tag_and_a_digest_replace_each_other() -> None:
    tagged = ImageReference.parse("demo:1")
    assert str(tagged.with_digest(Digest(HEX))) == f"docker.io/library/demo@sha256:{HEX}"
    assert tagged.with_digest(Digest(HEX)).with_tag("2").familiar == "demo:2"


def test_a_wrong_name_is_told_as_it_was_typed() -> None:
    with pytest.raises(InvalidReference) as caught:
        ImageReference.parse("a b")
    assert caught.value.message == "not an image reference: 'a b': 'a b' is not a repository name"
