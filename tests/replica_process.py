"""A process with a replica's listener and nothing behind it, to be killed: `python -m tests.replica_process 1 9`.

Prints its port once it listens.
"""

import asyncio
import sys
from typing import Any

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


async def main() -> None:
    listener = Listener(answer, bind_in_range("127.0.0.1", int(sys.argv[1]), int(sys.argv[2])))
    await listener.start()
    print(listener.port, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
