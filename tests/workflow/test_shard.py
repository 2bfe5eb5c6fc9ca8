"""Shares of many models: whatever the models, every machine comes to the same ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbuild.errors import ConfigurationError
from kbuild.workflow.fleet.shard import Shard, digest_models, folder_sizes

MODELS = st.lists(st.text(min_size=1, max_size=8), unique=True, max_size=40)
COUNTS = st.integers(1, 12)


def shares(models: list[str], sizes: dict[str, int], count: int) -> list[list[str]]:
    return [Shard(number=number, count=count).of(models, sizes) for number in range(1, count + 1)]


@given(MODELS, COUNTS, st.data())
def test_every_model_is_in_one_share_whatever_the_order(models: list[str], count: int, data: st.DataObject) -> None:
    sizes = data.draw(st.dictionaries(st.sampled_from(models), st.integers(0, 10**12))) if models else {}
    found = shares(models, sizes, count)
    assert sorted(model for share in found for model in share) == sorted(models)
    assert all(share == [each for each in models if each in share] for share in found), "in the order of the list"
    other = data.draw(st.permutations(models))
    assert [set(each) for each in shares(other, sizes, count)] == [set(each) for each in found]
    assert digest_models(other, sizes) == digest_models(models, sizes)


@given(MODELS, COUNTS)
def test_models_of_one_size_are_dealt_out_evenly(models: list[str], count: int) -> None:
    for sizes in ({}, dict.fromkeys(models, 10**9)):
        lengths = [len(share) for share in shares(models, sizes, count)]
        assert max(lengths) - min(lengths) <= 1


@given(st.lists(st.integers(1, 10**12), min_size=1, max_size=40), COUNTS)
def test_no_share_is_larger_than_a_list_of_such_sizes_has_to_have(bytes: list[int], count: int) -> None:
    sizes = {f"m{number}": size for number, size in enumerate(bytes)}
    largest = max(sum(sizes[each] for each in share) for share in shares(list(sizes), sizes, count))
    # Graham 1969: a list scheduler ends within the mean and one job more. 20 MB a model are for questions to servers.
    assert largest <= sum(bytes) / count + max(bytes) + 20_000_000 * len(bytes)


def test_what_is_of_unknown_size_is_taken_for_one_of_the_usual() -> None:
    """Not for the largest: that one has a share of its own here."""
    found = shares(["huge", "a", "unknown", "b"], {"huge": 10**12, "a": 10**8, "b": 10**8}, 2)
    assert sorted(found) == [["a", "unknown", "b"], ["huge"]]


def test_shares_are_the_same_on_every_machine() -> None:
    """As `printf %s models:/churn-0/1 | sha256sum` and the like, sorted, deal them; all are of one size."""
    models = [f"models:/churn-{number}/1" for number in range(8)]
    assert [each[8:15] for each in Shard(number=2, count=3).of(models, {models[0]: 10**9})] == [
        "churn-0",
        "churn-2",
        "churn-4",
    ]
    assert str(digest_models(["b", "a"], {"a": 1}))[7:23] == "36d006fc82293203"


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "a/3", "1/3/5", "-1/3", "1.0/3", "", "\u0661/3"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a shard"):
        Shard.parse(text)


def test_a_share_is_read() -> None:
    assert str(Shard.parse(" 03/40")) == "3/40"


def test_a_folder_is_as_large_as_its_files(tmp_path: Path) -> None:
    (tmp_path / "m" / "deep").mkdir(parents=True)
    (tmp_path / "m" / "deep" / "w").write_bytes(b"12345")
    (tmp_path / "m" / "MLmodel").write_bytes(b"12")
    assert folder_sizes({"m": tmp_path / "m"}) == {"m": 7}


def test_a_folder_whose_size_nobody_can_tell_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines with other sizes would leave models out."""
    (tmp_path / "a").write_text("1")

    def refuse(path: Path, **_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(ConfigurationError, match="the size of models:/m is not known: Permission denied"):
        folder_sizes({"models:/m": tmp_path})
