"""An S3 that fails as told: a small HTTP proxy before a real S3 server, which spoils the n-th request of a kind.

Kinds: PUT, PART (of an upload in parts), START, COMPLETE, ABORT (of such an upload), GET, HEAD, LIST, DELETE.
Faults: "500", "503", "reset" (the connection is reset before an answer), "stall" (never answered), "cut_upload" (reset
after half of the body; the half is thrown away, as S3 does), "cut_answer" (reset after half of the answer's body) and
"lost_answer" (done, then reset instead of the answer).
"""

import contextlib
import http.client
import socket
import struct
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

ENDLESS = 1_000_000
_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}
_NAMES = {"500": "InternalError", "503": "ServiceUnavailable"}


@dataclass
class Rule:
    kind: str
    fault: str
    first: int
    times: int
    below: str
    seen: int = 0

    def strikes(self, kind: str, path: str) -> bool:
        if kind != self.kind or self.below not in path:
            return False
        self.seen += 1
        return self.first <= self.seen < self.first + self.times


class FaultyS3:
    """Use as a context manager; `url` is the endpoint, `log` has (kind, path, fault or "") of every request."""

    def __init__(self, behind: str) -> None:
        self.behind = urlsplit(behind).netloc
        self.rules: list[Rule] = []
        self.log: list[tuple[str, str, str]] = []
        self.lock = threading.Lock()
        self.stopped = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.owner = self
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "FaultyS3":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stopped.set()
        self._server.shutdown()
        self._server.server_close()

    def fail(self, kind: str, fault: str, *, first: int = 1, times: int = 1, below: str = "") -> None:
        """Spoil requests of a kind whose path has `below` in it, from the `first` on, so many times."""
        self.rules.append(Rule(kind, fault, first, times, below))

    def fail_attempt(
        self, kind: str, fault: str, *, first: int = 1, below: str = ""
    ) -> list[tuple[str, str]]:
        """Spoil one attempt of the client; returns what `struck` will show for it.

        aiohttp repeats a request by itself, once, if its connection breaks and its method may be repeated: two faults.
        """
        breaks = fault in ("reset", "cut_upload", "lost_answer") and kind not in ("START", "COMPLETE")
        times = 2 if breaks else 1
        self.fail(kind, fault, first=first, times=times, below=below)
        return [(kind, fault)] * times

    def heal(self) -> None:
        self.rules.clear()
        self.log.clear()

    def struck(self) -> list[tuple[str, str]]:
        """(kind, fault) of the requests that were spoilt."""
        return [(kind, fault) for kind, _, fault in self.log if fault]

    def fault_of(self, method: str, path: str) -> str:
        kind = kind_of(method, path)
        with self.lock:
            hits = [rule.fault for rule in self.rules if rule.strikes(kind, path)]
            self.log.append((kind, path, hits[0] if hits else ""))
        return hits[0] if hits else ""


def kind_of(method: str, path: str) -> str:
    parts = urlsplit(path)
    asked = parse_qs(parts.query, keep_blank_values=True)
    if "uploadId" in asked:
        return {"PUT": "PART", "POST": "COMPLETE", "DELETE": "ABORT"}.get(method, method)
    if method == "POST" and "uploads" in asked:
        return "START"
    if method == "GET" and ("list-type" in asked or "/" not in parts.path.strip("/")):
        return "LIST"
    return method


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    owner: FaultyS3

    def handle_error(self, request: object, client_address: object) -> None:
        """Connections break here by design."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or every answer waits 40 ms for the other side
    server: _Server

    def log_message(self, *arguments: object) -> None:
        pass

    def _serve(self) -> None:
        owner = self.server.owner
        fault = owner.fault_of(self.command, self.path)
        length = int(self.headers.get("Content-Length") or 0)
        if fault == "stall":
            self.rfile.read(length)
            owner.stopped.wait(30)
        if fault in ("reset", "stall"):
            return self._reset()
        if fault == "cut_upload":
            self.rfile.read(length // 2)
            return self._reset()
        body = self.rfile.read(length)
        if fault in _NAMES:
            text = f"<Error><Code>{_NAMES[fault]}</Code><Message>as told</Message></Error>".encode()
            return self._answer(int(fault), [("Content-Type", "application/xml")], text, len(text))
        status, headers, answer = self._ask(body)
        if fault == "lost_answer":
            return self._reset()
        announced = len(answer)
        if self.command == "HEAD":
            announced = int(next((v for k, v in headers if k.lower() == "content-length"), 0))
        if fault == "cut_answer":
            self._answer(status, headers, answer[: len(answer) // 2], announced)
            return self._reset()
        return self._answer(status, headers, answer, announced)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve  # noqa: N815  # as http.server calls them

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.server.owner.behind, timeout=30)
        with contextlib.closing(connection):
            headers = {k: v for k, v in self.headers.items() if k.lower() not in {*_HOP, "expect"}}
            connection.request(self.command, self.path, body, headers | {"Content-Length": str(len(body))})
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, announced: int) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in _HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(announced))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
            self.wfile.flush()

    def _reset(self) -> None:
        """Close with unsent data dropped: the other side sees a reset, not an orderly end."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        # The file objects hold the descriptor; only with them closed does the reset go out.
        for stream in (self.rfile, self.wfile):
            with contextlib.suppress(OSError):
                stream.close()
