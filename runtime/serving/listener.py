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

from runtime.core.errors import TealError

App = Callable[[Any, Any, Any], Awaitable[None]]

KEEP_ALIVE_S = 3600
"""Longer than the edge keeps an idle connection, so that it is never this side that closes one under a request."""
BACKLOG = 2048


def bind_in_range(host: str, first: int, last: int) -> socket.socket:
    """A listening-ready socket on a free port of `first..last`. TealError if all are taken."""
    ports = list(range(first, last + 1))
    random.shuffle(ports)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in ports:
        bound = socket.socket(family, socket.SOCK_STREAM)
        try:
            bound.bind((host, port))
        except OSError:
            bound.close()
            continue
        return bound
    raise TealError(f"no free port for a replica on {host} within {first}..{last}; widen cluster.ports.listener_*")


class Listener:
    """Serves one ASGI application from `start` to `stop`. Use it on one event loop."""

    def __init__(self, app: App, bound: socket.socket) -> None:
        self._socket = bound
        self.host, self.port = bound.getsockname()[:2]
        config = uvicorn.Config(
            app,
            interface="asgi3",
            http="httptools",
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
