"""A process with a replica's two ports and nothing behind them, to be killed or stopped: `-m tests.replica_process`.

Takes the first and last port that it may have. Prints its HTTP and its gRPC port once it listens.
"""

import asyncio
import sys
from typing import Any

import grpc
import uvloop

from runtime.serving.listener import Listener, bind_in_range

BODY = b'{"by":"replica"}'
HEADERS = [
    (b"content-type", b"application/json"),
    (b"content-length", b"%d" % len(BODY)),
    (b"x-model-version", b"m:1"),
]


async def answer(_scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})


async def answer_grpc(_request: bytes, _context: Any) -> bytes:
    return BODY


async def main() -> None:
    listener = Listener(answer, bind_in_range("127.0.0.1", int(sys.argv[1]), int(sys.argv[2])))
    await listener.start()
    calls = {"ModelInfer": grpc.unary_unary_rpc_method_handler(answer_grpc)}
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("inference.GRPCInferenceService", calls),))
    grpc_port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(listener.port, grpc_port, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
