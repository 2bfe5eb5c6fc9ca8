"""The lock of pages that are read as far as it needs them, against the one of whole pages; from the real index."""

from __future__ import annotations

from pathlib import Path

from tool import Tool, Trained


def test_the_demos_lock_is_the_same_either_way(tool: Tool, trained: Trained, tmp_path: Path) -> None:
    locks = []
    for name, environment in (("now", {}), ("whole", {"KBUILD_WHOLE_INDEX_PAGES": "1"})):
        target = tmp_path / name
        # Each of them learns by itself what the packages need.
        known = {"XDG_CACHE_HOME": str(tmp_path / f"cache-{name}")}
        tool("lock", trained.run_id, "--force", "-o", target, cwd=trained.folder, **environment, **known)
        locks.append(target.read_bytes())
    assert locks[0] == locks[1]
    assert locks[0].count(b"\n- name: ") > 50
