"""An object store with presigned URLs: an HTTP server on loopback, and a fake file system that signs its URLs."""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import fsspec
from fsspec.implementations.local import LocalFileSystem

SECRET = "5ec7e7f00d"
TOKEN = f"Signature={SECRET}-for-all"


class Objects:
    """An HTTP server for the files of a directory. A URL needs the signature of its path, or `TOKEN`, as its query.

    :param root: the directory.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.requests: list[str] = []
        self.served = 0
        # The HTTP status of responses after a number of requests.
        self.statuses: dict[int, int] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests.append(self.path)
                parts = urlsplit(self.path)
                path = unquote(parts.path)
                file = outer.root / path.lstrip("/")
                status = max(
                    (code for start, code in outer.statuses.items() if len(outer.requests) > start), default=200
                )
                if status == 200 and dict(parse_qsl(parts.query)).get("Signature") not in (
                    outer.signature(path),
                    TOKEN.partition("=")[2],
                ):
                    status = 403
                if status == 200 and not file.is_file():
                    status = 404
                content = file.read_bytes() if status == 200 else b""
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
                outer.served += bool(content)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Objects:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @staticmethod
    def signature(path: str) -> str:
        return SECRET + hashlib.sha256(f"{SECRET}{path}".encode()).hexdigest()

    def sign(self, path: str, *, expiration: int = 86400) -> str:
        return f"{self.address}{path}?Expires={expiration}&Signature={self.signature(path)}"


class FakeObjectStore(LocalFileSystem):
    """A fake of a file system that signs URLs, as s3fs does: a local directory, whose URLs lead to `Objects`."""

    protocol = "fakes3"
    local_file = False
    objects: Objects

    def sign(self, path: str, expiration: int = 100, **_: Any) -> str:
        name = Path(self._strip_protocol(path)).relative_to(self.objects.root).as_posix()
        return self.objects.sign(f"/{name}", expiration=expiration)


fsspec.register_implementation("fakes3", FakeObjectStore, clobber=True)
