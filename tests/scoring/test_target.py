"""OUT: what is not kbuild's or is the input is not replaced, and what was stopped goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from scored import Score, table

from kbuild.scoring import local, target
from kbuild.scoring.places import Place

pytestmark = pytest.mark.filterwarnings("ignore")
ENDINGS = (".parquet", ".pq", ".csv")


def test_the_input_is_not_replaced_by_its_answers(score: Score, tmp_path: Path) -> None:
    table(5).to_parquet("in.parquet")
    (tmp_path / "link.parquet").symlink_to("in.parquet")
    before = (tmp_path / "in.parquet").read_bytes()
    for given, out in (("in.parquet", "./in.parquet"), ("link.parquet", "in.parquet"), ("*.parquet", "in.parquet")):
        code, err, _ = score(given, out, "--overwrite")
        assert code == 80 and "in.parquet is the input" in err
    assert (tmp_path / "in.parquet").read_bytes() == before


def test_a_file_that_kbuild_did_not_write_is_not_overwritten(score: Score, tmp_path: Path) -> None:
    table(5).to_parquet("in.parquet")
    (tmp_path / "out.csv").write_text("mine")
    code, err, _ = score("in.parquet", "out.csv", "--overwrite")
    assert code == 82 and "kbuild did not write it" in err and (tmp_path / "out.csv").read_text() == "mine"
    (tmp_path / "out.csv").unlink()
    assert score("in.parquet", "out.csv", "--keep", "id")[0] == 0
    assert score("in.parquet", "out.csv")[0] == 82
    code, err, _ = score("in.parquet", "out.csv", "--overwrite")
    assert code == 0, err
    assert "a" in pd.read_csv("out.csv").columns
    # Nor do rows that were rejected stay beside answers to other rows.
    rejected = tmp_path / "out.csv.rejected.jsonl"
    table(5).assign(a=[13.0, 1, 2, 3, 4]).to_parquet("in.parquet")
    assert score("in.parquet", "out.csv", "--overwrite", "--on-error", "reject")[0] == 0 and rejected.exists()
    table(5).to_parquet("in.parquet")
    assert score("in.parquet", "out.csv", "--overwrite", "--on-error", "reject")[0] == 0 and not rejected.exists()


@pytest.mark.parametrize("out", ["taken", "./taken", "taken/below", "taken/more/out.csv", "dangling/out.parquet"])
def test_a_file_in_the_place_of_a_folder_is_named(out: str, score: Score, tmp_path: Path) -> None:
    """Whatever else is asked: the system's "Not a directory" says neither which nor what to do."""
    table(5).to_csv("in.csv")
    (tmp_path / "taken").write_text("mine")
    (tmp_path / "dangling").symlink_to("nowhere")
    for options in ([], ["--overwrite"]):
        code, err, _ = score("in.csv", out, *options)
        assert code == 82 and f"{out.removeprefix('./').partition('/')[0]} is not a folder" in err, err
        assert "name another OUT" in err and "Errno" not in err
    assert (tmp_path / "taken").read_text() == "mine" and not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("given", "out", "kind", "found"),
    [
        ("in", "in/scored", "parquet", True),
        ("in", "in", "csv", True),
        ("in", "in/out.csv", "csv", True),
        ("in", "in/_scored", "parquet", False),
        ("in", "inner", "parquet", False),
        ("in/*.csv", "in/out.csv", "csv", True),
        ("in/*.csv", "in/out.parquet", "parquet", False),
        ("in/day-*.csv", "in/out.csv", "csv", False),
        ("*/*.csv", "scored", "csv", True),
        ("**/*.csv", "deep/down", "csv", True),
        ("in/**/*.csv", "scored", "csv", False),
        ("linked", "in/scored", "csv", True),
        ("in/a.csv", "in", "csv", False),
    ],
)
def test_answers_do_not_become_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, out: str, kind: str, found: bool
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.csv").touch()
    (tmp_path / "linked").symlink_to("in")
    monkeypatch.chdir(tmp_path)
    made = target.ScoreOutput.of(out)
    if found:
        with pytest.raises(target.InputRefused, match="would be input of"):
            made.refuse_input(given, [], kind)
    else:
        made.refuse_input(given, [], kind)
    # As the search itself has it.
    file = Path(out if made.single else f"{out}/part-00000-000000000000.{kind}")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    assert (str(file.resolve()) in [str(Path(each).resolve()) for each in Place(given).tables(ENDINGS)]) == found


def test_what_was_stopped_between_the_file_and_its_manifest_goes_on(
    score: Score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = table(20)
    frame.to_parquet("in.parquet", row_group_size=10)

    join = local.join

    def stop(*given: Any) -> None:
        join(*given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(local, "join", stop)
        with pytest.raises(KeyboardInterrupt):
            score("in.parquet", "out.parquet", "--part-rows", 10)
    assert (tmp_path / "out.parquet").exists()
    code, err, _ = score("in.parquet", "out.parquet", "--part-rows", 10)
    assert code == 0, err
    assert pd.read_parquet("out.parquet")["id"].tolist() == frame["id"].tolist()
    there = sorted(path.name for path in tmp_path.iterdir())
    assert there == ["in.parquet", "out.parquet", "out.parquet.manifest.json"]


def test_a_part_that_is_gone_is_scored_again(score: Score, tmp_path: Path) -> None:
    frame = table(30)
    frame.to_parquet("in.parquet", row_group_size=10)
    assert score("in.parquet", "out", "--part-rows", 10)[0] == 0
    first = sorted(tmp_path.glob("out/part-*"))
    data = first[1].read_bytes()
    first[1].unlink()
    code, err, _ = score("in.parquet", "out", "--part-rows", 10)
    assert code == 0, err
    assert sorted(tmp_path.glob("out/part-*")) == first and first[1].read_bytes() == data


def test_what_is_written_beside_answers_may_be_somebody_elses(score: Score, tmp_path: Path) -> None:
    table(5).to_parquet("in.parquet")
    for number, text in enumerate(("{", "[]", "null", '{"job": 1}', '{"digest": "x"}', '{"digest": 1, "job": {}}')):
        (tmp_path / f"out{number}/_kbuild").mkdir(parents=True)
        (tmp_path / f"out{number}/_kbuild/job.json").write_text(text)
        for more in ([], ["--overwrite"]):
            code, err, _ = score("in.parquet", f"out{number}", *more)
            assert code == 82 and "job.json is not what this kbuild writes" in err
        (tmp_path / f"one{number}.csv.manifest.json").write_text(text)
        assert score("in.parquet", f"one{number}.csv")[0] == 0
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/_manifest.json").write_text(json.dumps({"name": "an extension"}))
    code, err, _ = score("in.parquet", "taken")
    assert code == 82 and "_manifest.json, which kbuild did not write" in err


def test_a_files_name_and_a_url_of_a_file_say_what_is_written(score: Score, tmp_path: Path) -> None:
    table(5).to_parquet("in.parquet")
    code, err, _ = score("in.parquet", "out.parquet", "--format", "csv")
    assert code == 3 and "out.parquet is not a name for --format csv" in err
    assert score("in.parquet", f"file://{tmp_path}/o.csv")[0] == 0
    assert (tmp_path / "o.csv").is_file() and len(pd.read_csv("o.csv")) == 5


@pytest.mark.parametrize("name", ["out.xlsx", "out.json", "OUT.TSV", "out.csv.gz"])
def test_a_file_of_another_kind_is_no_folder_for_answers(score: Score, tmp_path: Path, name: str) -> None:
    table(5).to_parquet("in.parquet")
    code, err, _ = score("in.parquet", name)
    assert code != 0 and name in err and ".parquet or .csv" in err and not (tmp_path / name).exists()


@pytest.mark.parametrize("url", ["memory://out", "memory://a/b", "simplecache::memory://out"])
def test_answers_are_not_written_to_memory_that_ends_with_the_process(score: Score, url: str) -> None:
    table(5).to_parquet("in.parquet")
    code, err, _ = score("in.parquet", url)
    assert code == 80 and url in err and "name a folder or a file" in err
