"""The links of a page where a text stands, against taking the whole page apart at its links."""

import re

from hypothesis import example, given
from hypothesis import strategies as st

from kbuild.environment.links import links_near

PIECES = st.sampled_from(
    ["<a href='x-1.whl'>", "<A\n", "<a", "<abbr ", "</a>", "x-1", "x-2", ".whl", " ", "\t", "é", ""]
)


@given(st.lists(PIECES, max_size=30).map("".join), st.sets(st.sampled_from(["x-1", "x-2.whl", "y"]), max_size=3))
@example("<a", {"x-1"})
@example("<abbr x-1", {"x-1"})
@example("x-1<a x-1<a\tx-2.whl", {"x-1", "x-2.whl"})
def test_as_if_the_page_was_taken_apart_at_each_link(html: str, near: set[str]) -> None:
    links = re.split(r"(?=<[aA]\s)", html)
    assert links_near(html, near) == "".join(link for link in links if any(text in link for text in near))
