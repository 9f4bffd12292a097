"""An HTTP server on a real socket that does, request by request, what a script tells it: also what no server should."""

import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LIMIT_S = 20.0


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int
    """Which connection it came over, counted from 0."""


Step = Callable[[socket.socket, threading.Event], bool]
"""Does something to the connection; whether it stays open. The event is set when the server closes."""


class MisbehavingServer:
    """The last step is repeated for all further requests."""

    def __init__(self, *steps: Step, ssl_context: ssl.SSLContext | None = None) -> None:
        self.seen: list[Seen] = []
        self._steps = steps
        self._ssl_context = ssl_context
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        scheme = "http" if ssl_context is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> "MisbehavingServer":
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        # Wakes accept(), which a close alone does not.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(LIMIT_S)
            assert not thread.is_alive()

    def _accept(self) -> None:
        number = 0
        while not self._closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection, number), daemon=True)
            self._threads.append(thread)
            thread.start()
            number += 1

    def _serve(self, connection: socket.socket, number: int) -> None:
        connection.settimeout(LIMIT_S)
        if self._ssl_context is not None:
            try:
                connection = self._ssl_context.wrap_socket(connection, server_side=True)
            except OSError:
                connection.close()  # the client would not have the certificate
                return
        connection.settimeout(0.05)
        reader = _Reader(connection, self._closing)
        with connection:
            while request := reader.read():
                with self._lock:
                    step = self._steps[min(len(self.seen), len(self._steps) - 1)]
                    self.seen.append(Seen(**request, connection=number))
                if not step(connection, self._closing):
                    return


class _Reader:
    def __init__(self, connection: socket.socket, closing: threading.Event) -> None:
        self._connection, self._closing, self._left = connection, closing, b""

    def read(self) -> dict[str, Any] | None:
        while b"\r\n\r\n" not in self._left:
            if not self._fill():
                return None
        head, _, self._left = self._left.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", 0))
        while len(self._left) < length:
            if not self._fill():
                return None
        body, self._left = self._left[:length], self._left[length:]
        method, path, _ = first.split(" ")
        return {"method": method, "path": path, "headers": headers, "body": body}

    def _fill(self) -> bool:
        while not self._closing.is_set():
            try:
                chunk = self._connection.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                return False
            self._left += chunk
            return bool(chunk)
        return False


def answer(status: int, body: Any, *, is_kept: bool = True, **headers: str) -> Step:
    """A well-formed answer; `body` is bytes or becomes JSON. Then the connection stays, or ends without a warning."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    all_headers = {"content_type": "application/json", "content_length": str(len(content))} | headers
    lines = [f"HTTP/1.1 {status} X", *(f"{name.replace('_', '-')}: {value}" for name, value in all_headers.items())]

    def step(connection: socket.socket, _closing: threading.Event) -> bool:
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + content)
        return is_kept

    return step


def refusal(status: int, code: str, message: str, field: str | None = None, **headers: str) -> Step:
    return answer(status, {"error": {"code": code, "message": message, "field": field}}, is_kept=True, **headers)


def words(content: bytes) -> Step:
    """Exactly these bytes, then the end."""

    def step(connection: socket.socket, _closing: threading.Event) -> bool:
        connection.sendall(content)
        return False

    return step


def hang_up(_connection: socket.socket, _closing: threading.Event) -> bool:
    return False


def reset(connection: socket.socket, _closing: threading.Event) -> bool:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


def silence(_connection: socket.socket, closing: threading.Event) -> bool:
    closing.wait(LIMIT_S)
    return False


def drip(content: bytes) -> Step:
    """One byte every few milliseconds: no single wait is long, and the whole never ends."""

    def step(connection: socket.socket, closing: threading.Event) -> bool:
        try:
            connection.sendall(content)
            while not closing.wait(0.01):
                connection.sendall(b"x")
        except OSError:
            return False  # the client has had enough
        return False

    return step
