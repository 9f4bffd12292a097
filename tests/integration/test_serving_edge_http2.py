"""HTTP/2 at a real edge, frame by frame: what a client library would hide is what some of them fail on."""

import socket
import struct
from collections.abc import Iterator

import pytest

from tests.serving_edge import Edge

DATA, HEADERS, RST_STREAM, SETTINGS = 0, 1, 3, 4
END_STREAM, END_HEADERS = 1, 4
STREAM = 1


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def header(name: str, value: str) -> bytes:
    """HPACK's literal without indexing, for texts below 127 bytes."""
    return b"\0" + b"".join(bytes([len(text)]) + text.encode() for text in (name, value))


def read_frames(connection: socket.socket) -> Iterator[tuple[int, int, int]]:
    """Kind, flags and stream of each, until the edge closes."""
    with connection.makefile("rb") as stream:
        while len(head := stream.read(9)) == 9:
            stream.read(int.from_bytes(head[:3], "big"))
            yield head[3], head[4], int.from_bytes(head[5:], "big")


@pytest.mark.parametrize("size", [2, 60_000])
@pytest.mark.parametrize("path", ["/v1/models/e:predict", "/v1/models/nobody:predict"])
def test_a_refusal_is_whole_and_its_stream_is_not_reset(edge: Edge, path: str, size: int) -> None:
    """A reset, though allowed, makes stock clients (curl 7.88) drop the answer that came before it."""
    request = [(":method", "POST"), (":path", path), (":scheme", "http"), (":authority", "edge")]
    request += [("content-length", str(size)), ("authorization", "Bearer nobody's")]
    with socket.create_connection((edge.cluster.host, edge.cluster.ports.edge), timeout=20) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0))
        connection.sendall(frame(HEADERS, END_HEADERS, STREAM, b"".join(header(*one) for one in request)))
        for start in range(0, size, 16_384):
            left = min(16_384, size - start)
            is_last = start + left == size
            connection.sendall(frame(DATA, END_STREAM if is_last else 0, STREAM, b"x" * left))
        # The edge answers this one after what it has to say on the stream.
        connection.shutdown(socket.SHUT_WR)
        told = [frame for frame in read_frames(connection) if frame[2] == STREAM]
    assert RST_STREAM not in [kind for kind, _, _ in told]
    found = [(kind, flags) for kind, flags, _ in told if kind in (HEADERS, DATA)]
    assert found[0][0] == HEADERS
    assert found[-1][1] & END_STREAM
