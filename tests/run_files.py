"""A run's files in a dictionary, for what stores them with a run and finds them there."""

from __future__ import annotations

from pathlib import Path

from kbuild.errors import TrackingUnavailable


class RunFiles:
    """Of a ``ModelStore`` what puts and takes files; it answers nobody while it is ``down``."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.down = False

    def download(self, run_id: str, path: str, into: Path) -> Path | None:
        if self.down:
            raise TrackingUnavailable("down")
        if path not in self.files:
            return None
        into.mkdir(parents=True, exist_ok=True)
        (into / "file").write_bytes(self.files[path])
        return into / "file"

    def upload(self, run_id: str, files: list[Path], path: str) -> None:
        if self.down:
            raise TrackingUnavailable("down")
        self.files |= {f"{path}/{file.name}": file.read_bytes() for file in files}
