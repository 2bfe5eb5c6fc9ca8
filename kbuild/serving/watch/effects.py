"""What a prediction does besides answering, as Python tells it: files written, servers asked, programs run.

Events: https://docs.python.org/3/library/audit_events.html. What C libraries do by themselves is not among them, nor
what is done with what is open already: a file, a connection. So watch from the first prediction on, which opens them.
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
    """Watches a process. The hook it adds when it is first used stays, as all audit hooks do, and then does nothing."""

    def __init__(self) -> None:
        self._watches: dict[int, list[str]] = {}  # by the thread that watches
        self._hooked = False

    @contextmanager
    def watch(self) -> Iterator[list[str]]:
        """What is done meanwhile, one text each: by this thread and all others but those of the server itself."""
        if not self._hooked:
            self._hooked = True
            sys.addaudithook(self._note)
        seen: list[str] = []
        self._watches[threading.get_ident()] = seen
        try:
            yield seen
        finally:
            del self._watches[threading.get_ident()]

    def _note(self, event: str, values: tuple[Any, ...]) -> None:
        if not self._watches:
            return
        if event == "open":
            if len(values) != 3 or values[0] == os.devnull or not (isinstance(values[2], int) and values[2] & _WRITING):
                return
            told = f"it writes {values[0]}"
        elif event in _DOING:
            told = event
        else:
            return
        # The import system's cache of what was compiled, and joblib's question how many cores there are, asked once.
        if values and isinstance(values[0], str) and ("__pycache__" in values[0] or values[0] == "lscpu"):
            return
        thread = threading.get_ident()
        if thread in self._watches:
            self._watches[thread].append(told)
        elif not _is_servers(threading.current_thread()):
            for seen in list(self._watches.values()):
                seen.append(told)


def _is_servers(thread: threading.Thread) -> bool:
    """The event loop's, or one of OpenTelemetry's, which send what was measured."""
    return thread is threading.main_thread() or thread.name.startswith("Otel")


EFFECTS = Effects()
