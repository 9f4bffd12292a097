"""What goes over the wire and what comes back, whichever way it travels."""

from dataclasses import dataclass, field
from typing import Literal

JSON = "application/json"
ARROW = "application/vnd.apache.arrow.stream"


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    method: Literal["GET", "POST"]
    path: str
    """With the query, without the base URL."""
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class RawAnswer:
    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes


class Fault(Exception):
    """No whole answer came. Raised by the transports only; callers of a client never see it."""


class Unreached(Fault):
    """No connection: nothing was sent."""


class Untrusted(Fault):
    """The server's certificate was refused."""


class Lost(Fault):
    """The connection ended before the whole answer was there."""


class Garbled(Fault):
    """What came is not HTTP."""


class Late(Fault):
    """The deadline passed."""
