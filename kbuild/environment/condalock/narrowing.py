"""Pages of package indexes, narrowed to the links of one release: a text for poetry to read as it would the whole.

conda-lock's vendored poetry makes an object of every link of every release, of which a pinned environment needs one
release a page. Here the links of other releases are taken out of a page's text before poetry reads it, so that poetry
itself decides all that it decided before. Nothing of conda-lock is imported here: that takes long, and a process that
only asks for pages (ahead.py) needs none of it.

Formats: PyPA's "Simple repository API" (PEP 503), as Python's ``html.parser`` reads it.
"""

from __future__ import annotations

import re
from functools import cache
from urllib.parse import unquote

from packaging.version import InvalidVersion, Version

# poetry's own (its utils/patterns.py): what it takes for a file of a release. Those of the conda-lock that is installed
# are compared with these before a narrowed page is used (pages.py).
WHEEL = (
    r"^(?P<namever>(?P<name>.+?)-(?P<ver>\d[^-]*))"
    r"(-(?P<build>\d[^-]*))?"
    r"-(?P<pyver>[^-]+)"
    r"-(?P<abi>[^-]+)"
    r"-(?P<plat>[^-]+)"
    r"\.whl$"
)
SDIST = (
    r"^(?P<namever>(?P<name>.+?)-(?P<ver>\d[^-]*?))"
    r"(\.sdist)?\.(?P<format>(zip|tar(\.(gz|bz2|xz|Z))?))$"
)
_WHEEL = re.compile(WHEEL, re.VERBOSE)
_SDIST = re.compile(SDIST)

_SPACE = r"[ \t\r\n\f]"
_OTHER = rf'(?:{_SPACE}+(?!href)[a-z-]+(?:="[^"<]*")?)*'
_BREAK = rf"(?:{_SPACE}*<br{_SPACE}*/?>)?"
# A link that is written plainly, alone or with a line break: nothing around it changes when it is taken out. Its url
# has only characters that poetry leaves as they are, and no query, so that the file's name is what follows the last
# slash.
_HREF = r'href="(?P<href>[!#-%\'-;=@A-Z^-~]*)"'
_LINK = rf"<a{_OTHER}{_SPACE}+{_HREF}{_OTHER}{_SPACE}*>[^<>]*</a>{_BREAK}"
_PLAIN = (
    r"<!--(?:(?!--)[^<>])*-->",
    r"<![a-z][^<>]*>",
    rf"""</?[a-z][a-z0-9]*(?:{_SPACE}+[a-z-]+(?:=(?:"[^"<]*"|'[^'<]*'|[^\s"'<>=`]+))?)*{_SPACE}*/?>""",
)
_TOKEN = re.compile(f"{_LINK}|{'|'.join(_PLAIN)}|(?P<odd><)", re.IGNORECASE)


def only_release(content: str, version: str) -> str | None:
    """A page's text without links to files of other releases than ``version``, None where the text is not plain.

    What might be of the release stays. Raises InvalidVersion.
    """
    release = Version(version)
    wanted: dict[str, bool] = {}
    odd = False

    def kept(token: re.Match[str]) -> str:
        nonlocal odd
        href = token["href"]
        if href is None:
            odd = odd or token["odd"] is not None
            return token[0]
        name = unquote(href.partition("#")[0].rpartition("/")[2])
        file = _WHEEL.match(name) or _SDIST.match(name)
        if file is None:
            return token[0]
        spelled = file["ver"]
        if spelled not in wanted:
            wanted[spelled] = _may_be(spelled, release)
        # Not nothing: what stood apart must not become a tag together.
        return token[0] if wanted[spelled] else " "

    rest = _TOKEN.sub(kept, content)
    return None if odd else rest


def _may_be(spelled: str, release: Version) -> bool:
    found = _parsed(spelled)
    return found is None or found == release


@cache
def _parsed(spelled: str) -> Version | None:
    try:
        return Version(spelled)
    except InvalidVersion:
        return None
