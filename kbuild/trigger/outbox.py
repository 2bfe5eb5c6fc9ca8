"""The outbox: messages that no server has taken yet, one file each, written whole or not at all."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kbuild.errors import OutputError
from kbuild.trigger.event import TrainingEvent, parse_event


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """An event and the kind of trigger that is to tell it."""

    path: Path
    kind: str
    event: TrainingEvent


@dataclass(frozen=True, slots=True)
class Outbox:
    """A folder of messages, the oldest first by name."""

    folder: Path

    def put(self, kind: str, event: TrainingEvent) -> Message:
        """Keep a message; one of the same kind and event that is there already is kept as it is. Raises OutputError."""
        found = next(iter(self.folder.glob(f"*-{kind}-{event.id}.json")), None)
        if found is not None:
            return Message(path=found, kind=kind, event=event)
        path = self.folder / f"{time.time_ns():020d}-{kind}-{event.id}.json"
        write_whole(path, json.dumps({"kind": kind, "event": event.to_json()}, indent=1).encode())
        return Message(path=path, kind=kind, event=event)

    def messages(self) -> list[Message]:
        """All that wait. Raises TriggerFailed naming a file that is no message."""
        found = []
        for path in sorted(self.folder.glob("[0-9]*.json")):
            try:
                value = json.loads(path.read_bytes())
            except FileNotFoundError:
                continue  # delivered by somebody else meanwhile
            except ValueError:
                value = None
            fields = value if isinstance(value, dict) else {}
            event = parse_event(fields.get("event"), str(path))
            found.append(Message(path=path, kind=str(fields.get("kind")), event=event))
        return found

    def remove(self, message: Message) -> None:
        """Forget a message that was delivered."""
        message.path.unlink(missing_ok=True)

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Yields whether this process is the only one that now delivers; the others leave it to that one."""
        _make_state_folder(self.folder)
        with (self.folder / ".lock").open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True


def write_whole(path: Path, data: bytes) -> None:
    """Write a file of the state folder so that it is there whole, even after a power cut, or not at all.

    Raises OutputError.
    """
    try:
        _make_state_folder(path.parent)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error


def _make_state_folder(folder: Path) -> None:
    """Make a folder inside the state folder; what is in there is not for the project's repository."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        ignore = folder.parent / ".gitignore"
        if not ignore.exists():
            ignore.write_text("# Written by kbuild: logs and undelivered messages.\n*\n", encoding="utf-8")
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"cannot write {path}: {error.strerror or error}", hint="state_folder in kbuild.yml names another place"
    )
