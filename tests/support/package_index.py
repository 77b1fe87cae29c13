"""A local package index with a password, and wheels for it."""

from __future__ import annotations

import base64
import hashlib
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PASSWORD = "hunter2/%20@x"


def make_wheel(folder: Path, name: str, version: str, *, requires: tuple[str, ...] = ()) -> Path:
    """Write a wheel with one module, which prints its version."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {each}\n" for each in requires)
    contents = {
        f"{module}.py": f"VERSION = {version!r}\n\ndef main():\n    print(VERSION)\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name} = {module}:main\n",
    }
    rows = []
    for path, text in contents.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        rows.append(f"{path},sha256={digest},{len(text)}\n")
    contents[f"{info}/RECORD"] = "".join(rows) + f"{info}/RECORD,,\n"
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{module}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in contents.items():
            archive.writestr(path, text)
    return wheel


class Index:
    """The wheels of an index (PEP 503), and the requests that it received."""

    def __init__(self, wheels: Path, username: str = "", password: str = "") -> None:
        self.wheels = wheels
        self.asked: list[tuple[str, int]] = []
        login = "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()
        self._expected = login if username else None
        self.url = ""

    def names_asked(self) -> set[str]:
        """The names of the packages that were asked for since the last call."""
        names = {path.split("/")[2] for path, _ in self.asked if path.startswith("/simple/")}
        self.asked.clear()
        return names

    def answer(self, path: str, authorization: str | None) -> tuple[int, bytes]:
        if self._expected and authorization != self._expected:
            return 401, b""
        kind, _, name = path.strip("/").partition("/")
        if kind == "files" and (self.wheels / name).is_file():
            return 200, (self.wheels / name).read_bytes()
        found = sorted(self.wheels.glob(f"{name.replace('-', '_')}-*.whl")) if kind == "simple" else []
        if not found:
            return 404, b""
        return 200, "".join(f'<a href="/files/{wheel.name}">{wheel.name}</a>\n' for wheel in found).encode()


@contextmanager
def serve(index: Index) -> Iterator[Index]:
    """Serve an index during a `with` block."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = index.answer(self.path, self.headers.get("Authorization"))
            index.asked.append((self.path, status))
            self.send_response(status)
            if status == 401:
                self.send_header("WWW-Authenticate", 'Basic realm="index"')
            self.send_header("Content-Type", "text/html" if self.path.startswith("/simple") else "application/zip")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        index.url = f"http://127.0.0.1:{server.server_port}/simple/"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield index
        finally:
            server.shutdown()
            thread.join()
