"""One HTTP request and its reply, between an ASGI server and a slot's protocols."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from runtime.serving.codec import RequestFault, shown
from runtime.serving.scoring import Call

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Header = tuple[bytes, bytes]

JSON_TYPE: Header = (b"content-type", b"application/json")
MAX_TIMEOUT_MS = 3_600_000


class Reply(NamedTuple):
    status: int
    body: bytes
    headers: tuple[Header, ...] = (JSON_TYPE,)
    rows: int = 0


class Request(NamedTuple):
    headers: dict[bytes, bytes]
    query: bytes
    receive: Receive
    at_ns: int
    waited_ns: int = 0
    """Since it arrived at the edge."""

    async def read_body(self, max_bytes: int) -> bytes:
        """RequestFault 413 above `max_bytes`, 415 where the body is compressed."""
        headers = self.headers
        if integer(headers.get(b"content-length")) > max_bytes:
            raise _too_large(max_bytes)
        if b"content-encoding" in headers and headers[b"content-encoding"] != b"identity":
            raise RequestFault(415, "content_encoding", "the body must not be compressed", "content-encoding")
        message = await self.receive()
        body: bytes = message.get("body", b"")
        if not message.get("more_body"):
            return body
        chunks = [body]
        size = len(body)
        while message.get("more_body"):
            message = await self.receive()
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > max_bytes:
                raise _too_large(max_bytes)
            chunks.append(chunk)
        return b"".join(chunks)

    def call(self) -> Call:
        headers = self.headers
        is_explained = bool(self.query) and _is_explained(self.query)
        timeout = headers.get(b"x-timeout-ms")
        return Call(
            self.at_ns,
            integer(headers.get(b"x-generation")),
            headers.get(b"x-request-id", b"").decode("latin-1"),
            0 if timeout is None else deadline_ns(self.at_ns - self.waited_ns, timeout),
            is_explained,
            b"x-teal-shadow" in headers,
            headers.get(b"traceparent", b"").decode("latin-1"),
        )


def integer(value: bytes | None) -> int:
    """The number in a header; 0 where there is none or no number. Never raises: the edge sets these."""
    return int(value) if value is not None and value.isdigit() and len(value) < 20 else 0


def _is_explained(query: bytes) -> bool:
    """RequestFault 400 unless `explain` says yes or no where it stands."""
    values = parse_qs(query.decode("latin-1"), keep_blank_values=True).get("explain", ["false"])
    if (value := values[-1].lower()) not in ("true", "1", "false", "0"):
        raise RequestFault(400, "malformed", f"explain must be true or false but got {shown(values[-1])}", "explain")
    return value in ("true", "1")


def deadline_ns(at_ns: int, timeout_ms: bytes) -> int:
    """RequestFault 400 unless it is a number of milliseconds from 1 to an hour's."""
    milliseconds = integer(timeout_ms)
    if not 1 <= milliseconds <= MAX_TIMEOUT_MS:
        shown = timeout_ms[:80].decode("latin-1")
        message = f"x-timeout-ms must be an integer from 1 to {MAX_TIMEOUT_MS} but got {shown!r}"
        raise RequestFault(400, "malformed", message, "x-timeout-ms")
    return at_ns + milliseconds * 1_000_000


def _too_large(limit: int) -> RequestFault:
    return RequestFault(413, "too_large", f"the request body is larger than {limit} bytes")
