"""What a prediction does besides answering, as Python tells it: files written, servers asked, programs run.

Events: https://docs.python.org/3/library/audit_events.html. What C libraries do by themselves is not among them.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_DOING = frozenset(
    (
        *("ftplib.connect", "os.exec", "os.link", "os.mkdir", "os.posix_spawn", "os.remove", "os.rename", "os.rmdir"),
        *("os.symlink", "os.system", "os.truncate", "shutil.copyfile", "shutil.move", "shutil.rmtree"),
        *("smtplib.connect", "socket.connect", "socket.sendmsg", "socket.sendto", "sqlite3.connect"),
        *("subprocess.Popen", "urllib.Request"),
    )
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Effects:
    """Watches threads. The hook it adds when it is first used stays, as all audit hooks do, and then does nothing."""

    def __init__(self) -> None:
        self._mine = threading.local()
        self._hooked = False

    @contextmanager
    def watch(self) -> Iterator[list[str]]:
        """What this thread does meanwhile, one text each."""
        if not self._hooked:
            self._hooked = True
            sys.addaudithook(self._note)
        seen: list[str] = []
        self._mine.seen = seen
        try:
            yield seen
        finally:
            self._mine.seen = None

    def _note(self, event: str, values: tuple[Any, ...]) -> None:
        seen = getattr(self._mine, "seen", None)
        if seen is None:
            return
        if event == "open" and len(values) == 3 and values[0] != os.devnull:
            if isinstance(values[2], int) and values[2] & _WRITING:
                seen.append(f"it writes {values[0]}")
        elif event in _DOING:
            seen.append(event)


EFFECTS = Effects()
