"""A real server on a real port, in the test's own event loop."""

import asyncio
import socket
from typing import Any

import pytest

from runtime.core.errors import TealError
from runtime.serving.listener import GATHERED_BYTES, Listener, _Gathering, bind_in_range


class App:
    """Answers once it may."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.has_request = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.has_request.set()
        await self.may_answer.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


async def ask(listener: Listener) -> bytes:
    reader, writer = await asyncio.open_connection(listener.host, listener.port)
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    return answer


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_what_was_read_is_answered_before_it_closes() -> None:
    async def scenario() -> None:
        app = App()
        port = free_port()
        listener = Listener(app, bind_in_range("127.0.0.1", port, port))
        await listener.start()
        asked = asyncio.create_task(ask(listener))
        await app.has_request.wait()
        assert listener.num_ongoing == 1
        stopped = asyncio.create_task(listener.stop(grace_s=10))
        while True:  # until it accepts no more
            try:
                _, writer = await asyncio.open_connection(listener.host, listener.port)
            except (ConnectionRefusedError, ConnectionResetError):
                break
            writer.close()
        assert not stopped.done()
        app.may_answer.set()
        assert (await asked).endswith(b"ok")
        await stopped
        assert listener.num_ongoing == 0

    asyncio.run(asyncio.wait_for(scenario(), 30))


class Sink(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.is_closed = False

    def write(self, data: Any) -> None:
        self.written.append(data)

    def close(self) -> None:
        self.is_closed = True


def test_head_and_body_leave_in_one_write() -> None:
    async def scenario() -> None:
        sink = Sink()
        gathering = _Gathering(sink, asyncio.get_running_loop())
        gathering.write(b"head")
        gathering.write(b"body")
        assert sink.written == []
        await asyncio.sleep(0)
        assert sink.written == [b"headbody"]
        gathering.write(b"more")
        gathering.close()
        assert (sink.written, sink.is_closed) == ([b"headbody", b"more"], True)

    asyncio.run(scenario())


def test_a_taken_port_is_passed_over_and_a_full_range_is_named() -> None:
    port = free_port()
    with bind_in_range("127.0.0.1", port, port):
        with pytest.raises(TealError, match=rf"within {port}..{port}; widen cluster.ports.listener"):
            bind_in_range("127.0.0.1", port, port)
        with bind_in_range("127.0.0.1", port, port + 3) as other:
            assert other.getsockname()[1] != port


def test_a_listener_that_never_started_gives_its_port_back() -> None:
    port = free_port()
    listener = Listener(None, bind_in_range("127.0.0.1", port, port))  # type: ignore[arg-type]
    asyncio.run(listener.stop(grace_s=1))
    bind_in_range("127.0.0.1", port, port).close()


@pytest.mark.parametrize(
    ("num_bytes", "is_whole"), [(100_000, True), (GATHERED_BYTES, True), (GATHERED_BYTES * 3, False)]
)
def test_a_body_that_comes_in_pieces_is_handed_over_whole(num_bytes: int, is_whole: bool) -> None:
    handed: list[bytes] = []

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        has_more = True
        while has_more:
            message = await receive()
            handed.append(message["body"])
            has_more = message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    sent = bytes(index % 251 for index in range(num_bytes))

    async def scenario() -> bytes:
        port = free_port()
        listener = Listener(app, bind_in_range("127.0.0.1", port, port))
        await listener.start()
        reader, writer = await asyncio.open_connection(listener.host, listener.port)
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % num_bytes)
        for start in range(0, num_bytes, 16_000):
            writer.write(sent[start : start + 16_000])
            await writer.drain()
        answer = await reader.read()
        writer.close()
        await listener.stop(grace_s=10)
        return answer

    assert asyncio.run(asyncio.wait_for(scenario(), 30)).endswith(b"ok")
    assert b"".join(handed) == sent
    assert (len(handed) == 1) == is_whole
