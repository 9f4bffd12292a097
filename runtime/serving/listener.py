"""An HTTP server on a port of its own, inside a process that has another job: uvicorn on the caller's event loop.

A replica answers the edge here. Serve's own way to the same application counts and wraps every request, which costs
more than a small model does (docs/decisions/0008).
"""

import asyncio
import random
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from runtime.core.errors import TealError

App = Callable[[Any, Any, Any], Awaitable[None]]

KEEP_ALIVE_S = 3600
"""Longer than the edge keeps an idle connection, so that it is never this side that closes one under a request."""
BACKLOG = 2048
GATHERED_BYTES = 1024 * 1024
"""A body up to here is handed over whole; a larger one in pieces as it comes, and no faster than it is read."""


def bind_in_range(host: str, first: int, last: int) -> socket.socket:
    """A socket that listens on a free port of `first..last`. TealError if all are taken."""
    ports = list(range(first, last + 1))
    random.shuffle(ports)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in ports:
        bound = socket.socket(family, socket.SOCK_STREAM)
        # Connections of a replica that is gone linger on its port; one that still listens refuses the second line.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((host, port))
            bound.listen(BACKLOG)
        except OSError:
            bound.close()
            continue
        return bound
    raise TealError(f"no free port for a replica on {host} within {first}..{last}; widen cluster.ports.listener_*")


class _Gathering:
    """A transport that writes once what was written in one turn of the event loop.

    Head and body of an answer are two writes of uvicorn's. A process that is killed between them leaves half an answer,
    which nobody can ask for again; half of nothing the edge asks elsewhere. One write is also cheaper than two.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def _flush(self) -> None:
        if self._parts:
            parts, self._parts = self._parts, []
            self._transport.write(b"".join(parts))


class _WholeAnswers(HttpToolsProtocol):
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_Gathering(transport, self.loop))  # type: ignore[arg-type]

    def on_body(self, body: bytes) -> None:
        # The application would be woken for every piece of a large body, only to wait for the next one.
        if len(self.cycle.body) + len(body) > GATHERED_BYTES:
            super().on_body(body)
        elif not self.cycle.response_complete:
            self.cycle.body += body


class Listener:
    """Serves one ASGI application from `start` to `stop`. Use it on one event loop."""

    def __init__(self, app: App, bound: socket.socket) -> None:
        self._socket = bound
        self.host, self.port = bound.getsockname()[:2]
        config = uvicorn.Config(
            app,
            interface="asgi3",
            http=_WholeAnswers,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        self._server = uvicorn.Server(config)
        self._ticking: asyncio.Task[None] | None = None

    @property
    def num_ongoing(self) -> int:
        """Requests that were read and not yet answered."""
        return len(self._server.server_state.tasks)

    async def start(self) -> None:
        # Not Server.serve: that takes the process's signal handlers, which are another's here.
        config = self._server.config
        config.load()
        self._server.lifespan = config.lifespan_class(config)
        await self._server.startup(sockets=[self._socket])
        self._ticking = asyncio.create_task(self._server.main_loop())

    async def stop(self, *, grace_s: float) -> None:
        """Accept nothing more, answer what was read, close. What takes longer than `grace_s` is cut off."""
        if self._ticking is None:
            self._socket.close()
            return
        self._server.config.timeout_graceful_shutdown = max(1, round(grace_s))
        self._server.should_exit = True
        await self._ticking
        self._ticking = None
        await self._server.shutdown(sockets=[self._socket])
