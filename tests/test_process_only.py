from pathlib import Path

import kbuild


def test_processes_are_started_in_one_room_only() -> None:
    root = Path(kbuild.__file__).parent
    found = {
        path.relative_to(root).as_posix() for path in root.rglob("*.py") if "import subprocess" in path.read_text()
    }
    assert found == {"process/foreground.py", "process/runner.py", "process/starter.py"}
