"""Registered models of thousands of versions are read in pages that a busy server is done with in time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from kbuild.tracking.mlflow_client import find_newest, version_with_alias


class Page(list[Any]):
    token: str | None = None


class FakeClient:
    """A registry as MLflow's client tells it, the newest version of a name first; ``asked`` are the pages' sizes."""

    def __init__(self, versions: dict[str, int]) -> None:
        self.versions = [
            SimpleNamespace(name=name, version=str(number))
            for name, newest in sorted(versions.items())
            for number in range(newest, 0, -1)
        ]
        self.asked: list[int] = []

    def search_model_versions(
        self, text: str, *, max_results: int, order_by: list[str], page_token: str | None
    ) -> Page:
        assert order_by == ["name ASC", "version_number DESC"]
        self.asked.append(max_results)
        name = text.partition("'")[2].rstrip("'")
        found = [version for version in self.versions if not name or version.name == name]
        start = int(page_token or 0)
        page = Page(found[start : start + max_results])
        page.token = str(start + max_results) if start + max_results < len(found) else None
        return page


def test_three_thousand_versions_are_read_in_pages() -> None:
    client: Any = FakeClient({"large": 1500, **{f"m{number:03}": 5 for number in range(300)}})
    newest = find_newest(client)
    assert len(newest) == 301 and newest["large"] == "1500" and newest["m299"] == "5"
    assert len(client.asked) == 6 and max(client.asked) == 500


def test_for_the_newest_of_a_name_no_page_is_read_whole() -> None:
    client: Any = FakeClient({"large": 1500, "other": 3})
    assert version_with_alias(client, "large", "latest") == "1500"
    assert client.asked == [20]
