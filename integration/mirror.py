"""A package index of our own: wheels by the simple repository API, on 127.0.0.1."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from packaging.utils import canonicalize_name


@dataclass
class Mirror:
    """``url`` is the simple API's; files named in ``gone`` answer 410, ``yanked`` gives reasons by file name."""

    url: str
    files: dict[str, Path]
    gone: set[str] = field(default_factory=set)
    yanked: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def page(self, name: str) -> bytes | None:
        """The links of one project (PEP 503, yanked by PEP 592)."""
        links = []
        for file, path in sorted(self.files.items()):
            if canonicalize_name(file.partition("-")[0]) == name and file not in self.gone:
                sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
                yanked = f' data-yanked="{self.yanked[file]}"' if file in self.yanked else ""
                links.append(f'<a href="../../files/{file}#sha256={sha256}"{yanked}>{file}</a>')
        return "<br>".join(links).encode() if links else None


@contextmanager
def serve_wheels(paths: Iterable[Path]) -> Iterator[Mirror]:
    """An index of these files."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            mirror.asked.append(self.path)
            kind, name, *_ = [*self.path.strip("/").split("/"), ""]
            data: bytes | None = None
            if kind == "simple":
                data = mirror.page(name)
            elif kind == "files" and name in mirror.files and name not in mirror.gone:
                data = mirror.files[name].read_bytes()
            if data is None:
                self.send_error(410 if name in mirror.gone else 404)
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/html" if kind == "simple" else "application/octet-stream")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        mirror = Mirror(url=f"http://127.0.0.1:{server.server_port}/simple", files={path.name: path for path in paths})
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield mirror
        finally:
            server.shutdown()
            thread.join()
