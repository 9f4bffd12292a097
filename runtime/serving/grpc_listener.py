"""A gRPC server on a port of its own, beside the HTTP listener, for the same service. On the caller's event loop."""

import random

import grpc

from runtime.core.errors import TealError
from runtime.serving.oip_grpc import build_grpc_servicer, server_options
from runtime.serving.service import SlotService


class GrpcListener:
    def __init__(self, service: SlotService, *, host: str, first: int, last: int) -> None:
        self._service = service
        self._host = f"[{host}]" if ":" in host else host
        self._ports = random.sample(range(first, last + 1), last + 1 - first)
        self._server: grpc.aio.Server | None = None

    async def start(self) -> int:
        """Returns the port. TealError if every port of the range is taken."""
        # Without it gRPC shares a port with whoever has it, and each gets some of the calls.
        options = [*server_options(self._service), ("grpc.so_reuseport", 0)]
        for port in self._ports:
            server = grpc.aio.server(options=options)
            server.add_generic_rpc_handlers((build_grpc_servicer(self._service),))
            try:
                server.add_insecure_port(f"{self._host}:{port}")
            except RuntimeError:
                continue
            await server.start()
            self._server = server
            return port
        raise TealError(f"no free port for a replica on {self._host}; widen cluster.ports.listener_*")

    async def stop(self, *, grace_s: float) -> None:
        """Accept nothing more, answer what was read, then close."""
        if self._server is not None:
            await self._server.stop(grace_s)
