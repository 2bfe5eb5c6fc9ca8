"""The borders of CVSS's words, by vectors whose scores FIRST's own calculator gives (CVSS v3.1, section 5)."""

import pytest

from kbuild.audit.severity import read_severity

BORDERS = {
    "CVSS:3.1/AV:P/AC:H/PR:H/UI:R/S:U/C:L/I:N/A:N": "low",  # 1.6
    "CVSS:3.1/AV:L/AC:L/PR:N/UI:N/S:U/C:L/I:N/A:N": "medium",  # 4.0
    "CVSS:3.1/AV:N/AC:L/PR:L/UI:N/S:U/C:H/I:N/A:N": "medium",  # 6.5
    "CVSS:3.1/AV:L/AC:H/PR:L/UI:N/S:U/C:H/I:H/A:H": "high",  # 7.0
    "CVSS:3.1/AV:N/AC:L/PR:L/UI:N/S:U/C:H/I:H/A:H": "high",  # 8.8
    "CVSS:3.1/AV:N/AC:H/PR:N/UI:N/S:C/C:H/I:H/A:H": "critical",  # 9.0
}


@pytest.mark.parametrize("vector", BORDERS)
def test_the_borders_are_where_the_standard_has_them(vector: str) -> None:
    record = {"id": "X-1", "severity": [{"type": "CVSS_V3", "score": vector}]}
    assert read_severity(record) == BORDERS[vector]
