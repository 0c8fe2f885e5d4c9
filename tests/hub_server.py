"""A small Hugging Face hub on loopback for the tests: it lists and hands out the files of one data set, or fails."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

from storage.objects import sha256_bytes

REPOSITORY = "shelves/cups"


class Hub:
    """What the hub has, by revision, and how it behaves: `fault` is None, a status, or stall."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {"main": {}}
        self.fault: int | str | None = None
        self.token: str | None = None
        self.asked: list[str] = []
        self.endpoint = ""

    def put_folder(self, folder: Path, revision: str = "main") -> None:
        """Take the files of a folder for those of a revision."""
        found = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }
        self.files[revision] = found

    def answer(
        self, path: str, token: str | None, wanted: tuple[int, int] | None
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of a GET."""
        parts = unquote(urlsplit(path).path).strip("/").split("/")
        if self.token is not None and token != f"Bearer {self.token}":
            return 401, {"X-Error-Code": "RepoNotFound"}, b"{}"
        if parts[:1] == ["api"] and "/".join(parts[2:4]) == REPOSITORY:
            kind, revision, *below = [*parts[4:], "revision", "main"][: max(2, len(parts) - 4)]
            if revision not in self.files:
                return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
            if kind == "tree":
                return self._tree(self.files[revision], "/".join(below))
            return 200, {}, json.dumps({"id": REPOSITORY, "sha": "0" * 40, "siblings": []}).encode()
        if parts[:1] == ["datasets"] and "/".join(parts[1:3]) == REPOSITORY and parts[3] == "resolve":
            data = self.files[parts[4]].get("/".join(parts[5:]))
            if data is None:
                return 404, {"X-Error-Code": "EntryNotFound"}, b""
            start, end = wanted or (0, len(data) - 1)
            return (206 if wanted else 200), {}, data[start : end + 1]
        return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"

    def _tree(self, files: dict[str, bytes], below: str) -> tuple[int, dict[str, str], bytes]:
        start = f"{below}/" if below else ""
        entries: dict[str, dict[str, Any]] = {}
        for name, data in files.items():
            if name.startswith(start):
                for depth in range(start.count("/") + 1, name.count("/") + 1):
                    folder = "/".join(name.split("/")[:depth])
                    entries[folder] = {
                        "type": "directory",
                        "path": folder,
                        "oid": sha256_bytes(folder.encode())[:40],
                        "size": 0,
                    }
                entries[name] = {
                    "type": "file",
                    "path": name,
                    "oid": sha256_bytes(data)[:40],
                    "size": len(data),
                }
        if below and not entries:
            return 404, {"X-Error-Code": "EntryNotFound"}, b"{}"
        return 200, {}, json.dumps(list(entries.values())).encode()


@contextmanager
def asked_by(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Clients inside the block ask this hub, without a token."""
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("HF_HOME", str(folder / "none"))
    monkeypatch.setenv("SALIENCY_R1_CACHE", str(folder / "cache"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("storage.hub._current", None)
    yield


@contextmanager
def hub_server() -> Iterator[Hub]:
    """A hub that runs inside the block; recursive listings are given whole, whatever is asked."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            hub.asked.append(self.path)
            if hub.fault == "stall":
                time.sleep(3)
            if isinstance(hub.fault, int):
                status, headers, body = hub.fault, {}, b"{}"
            else:
                status, headers, body = hub.answer(
                    self.path, self.headers.get("Authorization"), self._range()
                )
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            with suppress(ConnectionError):  # who asked has given up
                self.end_headers()
                self.wfile.write(body)

        def _range(self) -> tuple[int, int] | None:
            told = self.headers.get("Range")
            if told is None:
                return None
            start, end = told.removeprefix("bytes=").split("-")
            return int(start), int(end)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
