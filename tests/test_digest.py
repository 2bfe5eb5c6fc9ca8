import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbuild.digest import Digest, canonical_json, digest_bytes, digest_chunks, digest_file, digest_json


@given(st.binary(), st.integers(min_value=1, max_value=64))
def test_chunks_and_bytes_have_one_digest(data: bytes, size: int) -> None:
    chunks = [data[i : i + size] for i in range(0, len(data), size)]
    assert digest_chunks(chunks) == digest_bytes(data) == Digest(hashlib.sha256(data).hexdigest())


def test_file_digest_reads_the_whole_file(tmp_path: Path) -> None:
    data = b"x" * (2 * (1 << 20) + 7)
    (tmp_path / "file").write_bytes(data)
    assert digest_file(tmp_path / "file") == digest_bytes(data)


@given(st.text())
def test_parse_accepts_nothing_but_what_str_writes(text: str) -> None:
    digest = digest_bytes(text.encode())
    assert Digest.parse(str(digest)) == digest
    with pytest.raises(ValueError):
        Digest.parse(text)


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.booleans()))
def test_canonical_json_does_not_depend_on_order(value: dict[str, object]) -> None:
    assert digest_json(value) == digest_json(dict(reversed(value.items())))


def test_canonical_json_refuses_what_json_cannot_say() -> None:
    with pytest.raises(ValueError):
        canonical_json(float("nan"))
