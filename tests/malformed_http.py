"""Whole HTTP requests that are wrong somewhere: in the body, in a header, in the framing. As bytes for a socket."""

import json
import struct
from dataclasses import dataclass
from random import Random
from typing import Any

import orjson

from tests.malformed_arrow import broken_bytes, odd_column, odd_stream
from tests.malformed_bytes import mutate_bytes, mutate_document, pick
from tests.serving_example import example_columns, example_row
from tests.serving_protocols import arrow_stream, as_table, oip_binary, oip_json, row_json
from tests.serving_slot import FEEDBACK, INFER, PREDICT

JSON, ARROW, OCTETS = "application/json", "application/vnd.apache.arrow.stream", "application/octet-stream"
UUID7 = "01890a5d-ac96-774b-bcce-b302099a8057"
ROWS = [example_row(index) for index in range(3)]
COLUMNS = example_columns()
NUMBERS = (
    "",
    "0",
    "-1",
    "+5",
    "1.5",
    "1e3",
    "0x10",
    " 7 ",
    "٣",
    "NaN",
    "1,2",
    "9" * 19,
    "9" * 400,
    "3600001",
    "4294967296",
    "1",
    "abc",
)
TYPES = (
    "",
    "text/plain",
    "application/json; charset=utf-16",
    "APPLICATION/JSON",
    ARROW,
    ARROW + ";x",
    OCTETS,
    "a" * 500,
)
ENCODINGS = ("gzip", "deflate", "br", "identity", "gzip, identity", "", "x" * 200)
TRACES = ("", "00-0-0-0", f"00-{'0' * 32}-{'0' * 16}-01", f"ff-{'a' * 32}-{'b' * 16}-01", "é", "00-" + "a" * 5000)
PATHS = (
    "/",
    "//",
    "*",
    "/v1/models/example:predict/",
    "/v1/models/example%3Apredict",
    "/v1/models/example:predict%00",
    "/v1/models/../example:predict",
    "/v1/models/other:predict",
    "/v1/models/:predict",
    "/v2/models/example/versions/99/infer",
    "/v2/models/example/versions/x/infer",
    "/v2/models/example/generate",
    "/v2/models//infer",
    "/v2/health/x",
    "/example-blue/v1/models/example:predict",
    "/-/healthz",
    "/-/routes",
    "http://other/v1/models/example:predict",
    "/v1/models/example:predict?" + "a=b&" * 900,
    "/v1/models/example:predict?" + "a" * 9000,
    "/v1/models/é:predict",
    "/v1/models/example:predict?explain=%ff&explain=\x7f",
)
EXPLAINS = ("maybe", "", "2", "TRUE", "%00", "true&explain=no", "true#x", "[]")
METHODS = (
    "GET",
    "PUT",
    "DELETE",
    "PATCH",
    "OPTIONS",
    "TRACE",
    "HEAD",
    "post",
    "P",
    "BREW",
    "CONNECT",
    "PRI",
    "POST\x00",
)
HEADERS = (
    "x-routing-key: " + "k" * 9000,
    "x-routing-key:",
    "x-routing-key: \xff\xfe",
    "x-request-id: " + "i" * 500,
    "x-request-id: a\tb",
    "x-slot: green",
    "x-slot: purple",
    "x-generation: 99999999999999999999999",
    "x-teal-edge: guess",
    "x-teal-arrived: me/99999999999999999999",
    "x-teal-shadow: 1",
    "x-principal: admin",
    "authorization: Bearer wrong",
    "authorization: Basic !!!",
    "authorization: Bearer " + "t" * 4000,
    "host:",
    "host: a\r\nhost: b",
    "expect: 100-continue",
    "expect: 200-ok",
    "upgrade: websocket\r\nconnection: upgrade",
    "upgrade: h2c\r\nconnection: upgrade, http2-settings\r\nhttp2-settings: AAMAAABkAAQAAP__",
    "connection: close, keep-alive, x-teal-edge",
    "connection: x-timeout-ms",
    "te: trailers, gzip",
    "trailer: x",
    "range: bytes=0-1",
    "accept-encoding: gzip;q=x",
    "accept: nothing/at-all",
    "cookie: " + "c=d; " * 1000,
    "a" * 3000 + ": b",
    "\r\n".join(f"x-h{number}: v" for number in range(150)),
)
BROKEN_HEADERS = (
    "no colon at all",
    ": no name",
    "x y: z",
    "x\x00y: z",
    "x: a\x00b",
    "x: y\r\n folded",
    "\x80: z",
    "x" * 40_000 + ": y",
    "x: " + "y" * 140_000,
)
MAX_HEAD_TEXT = "latin-1"


@dataclass(frozen=True, slots=True)
class Ask:
    """What is sent, and what may be sent."""

    kind: str
    content: bytes
    is_framed: bool
    """Whether it is HTTP with a body as long as it says, so that there must be an answer and the connection goes on."""
    path: str = ""
    headers: "dict[str, str] | None" = None
    body: bytes = b""


def malformed_request(random: Random) -> Ask:
    ask: Ask = pick(
        random,
        (20, _rows),
        (8, _feedback),
        (14, _tensors),
        (14, _binary_tensors),
        (10, lambda r: _arrow(r, "arrow type", odd_column(r))),
        (5, lambda r: _arrow(r, "arrow stream", odd_stream(r))),
        (16, lambda r: _arrow(r, "arrow bytes", broken_bytes(r))),
        (6, _odd_header),
        (3, _odd_path),
        (4, _odd_framing),
    )
    return ask


def framed(kind: str, path: str, headers: dict[str, str], body: bytes, *, method: str = "POST", more: str = "") -> Ask:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"{method} {path} HTTP/1.1\r\nhost: teal\r\n{lines}{more}content-length: {len(body)}\r\n\r\n"
    return Ask(kind, head.encode(MAX_HEAD_TEXT, "replace") + body, True, path, headers, body)


def _rows(random: Random) -> Ask:
    body = mutate_document(random, {"instances": ROWS[: random.choice((1, 1, 3))]})
    return framed("rows", PREDICT, {"content-type": JSON}, body)


def _feedback(random: Random) -> Ask:
    body = mutate_document(random, {"labels": [{"prediction_id": UUID7, "row": 0, "label": 1}] * 2})
    return framed("feedback", FEEDBACK, {"content-type": JSON}, body)


def _tensors(random: Random) -> Ask:
    document: Any = orjson.loads(oip_json(ROWS[: random.choice((1, 3))], COLUMNS))
    document |= {"id": "q", "parameters": {"binary_data_output": False}, "outputs": [{"name": "score"}]}
    return framed("tensors", INFER, {"content-type": JSON}, mutate_document(random, document))


def _binary_tensors(random: Random) -> Ask:
    """The document, the bytes or the length between them."""
    body, given = oip_binary(ROWS, COLUMNS)
    length = int(given["inference_header_content_length"])
    head, tail = body[:length], body[length:]
    way = random.randrange(5)
    said: Any = None
    if way == 0:
        head = mutate_document(random, orjson.loads(head))
    elif way == 1:
        tail = mutate_bytes(random, tail)
    elif way == 2:
        said = random.choice((*NUMBERS, str(length + 1), str(length - 1), str(len(body)), str(len(body) + 1)))
    elif way == 3:
        document = orjson.loads(head)
        tensor = random.choice(document["inputs"])
        sizes = (-1, 0, 1, 2**31, 2**62, 2**63, 2**64, 1.5, "8", None, True)
        shapes: Any = ([3], [3, 1], [-1], [0], [2**62, 4], [2**33, 2**33], [1] * 300, [], [3.0], ["3"], [None], 3)
        if random.random() < 0.5:
            tensor["parameters"]["binary_data_size"] = random.choice(sizes)
        else:
            tensor["shape"] = random.choice(shapes)
        head = json.dumps(document).encode()
    else:
        lengths = (0, 1, 2**31 - 1, 2**31, 2**32 - 1)
        tail = tail[:-8] + struct.pack("<I", random.choice(lengths)) + tail[-4:]
    headers = {"content-type": OCTETS, "inference-header-content-length": str(len(head)) if said is None else said}
    return framed("binary tensors", INFER, headers, head + tail)


def _arrow(_random: Random, kind: str, body: bytes) -> Ask:
    return framed(kind, PREDICT, {"content-type": ARROW}, body)


def _odd_header(random: Random) -> Ask:
    """A valid body of any form, with one header that is odd."""
    path, content_type, body = random.choice(
        (
            (PREDICT, JSON, row_json(ROWS)),
            (PREDICT, ARROW, arrow_stream(as_table(ROWS, COLUMNS))),
            (INFER, JSON, oip_json(ROWS, COLUMNS)),
        )
    )
    headers = {"content-type": content_type}
    way = random.randrange(6)
    if way == 0:
        headers["content-type"] = random.choice(TYPES)
    elif way == 1:
        headers["content-encoding"] = random.choice(ENCODINGS)
    elif way == 2:
        headers["x-timeout-ms"] = random.choice(NUMBERS)
    elif way == 3:
        headers["traceparent"] = random.choice(TRACES)
    elif way == 4:
        path += f"?explain={random.choice(EXPLAINS)}"
    else:
        more = random.choice(HEADERS)
        # Asked to go on or to change its protocol a server may do so, and its next words are no answer.
        is_framed = not more.startswith(("expect", "upgrade", "connection"))
        ask = framed("header", path, headers, body, more=more + "\r\n")
        return ask if is_framed else Ask(ask.kind, ask.content, False, path, headers, body)
    return framed("header", path, headers, body)


def _odd_path(random: Random) -> Ask:
    body = row_json(ROWS)
    path, method = (random.choice(PATHS), "POST") if random.random() < 0.6 else (PREDICT, random.choice(METHODS))
    ask = framed("path or method", path, {"content-type": JSON}, body, method=method)
    return Ask(ask.kind, ask.content, False, path, ask.headers, body)


def _odd_framing(random: Random) -> Ask:
    """Lengths that are not, chunks that are none, heads that never end."""
    body = row_json(ROWS)
    start = f"POST {PREDICT} HTTP/1.1\r\nhost: teal\r\ncontent-type: {JSON}\r\n".encode()
    length = b"content-length: %d\r\n" % len(body)
    chunked = b"transfer-encoding: chunked\r\n"
    whole = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    contents = (
        start + b"content-length: %d\r\n\r\n" % (len(body) + 50) + body,
        start + b"content-length: %d\r\n\r\n" % (len(body) - 50) + body,
        *(start + f"content-length: {number}\r\n\r\n".encode() + body for number in NUMBERS),
        start + length + length + b"\r\n" + body,
        start + length + b"content-length: 1\r\n\r\n" + body,
        start + length + chunked + b"\r\n" + whole,
        start + chunked + chunked + b"\r\n" + whole,
        start + b"transfer-encoding: gzip, chunked\r\n\r\n" + whole,
        start + b"transfer-encoding: identity\r\n\r\n" + body,
        start + b"transfer-encoding: chunked, identity\r\n\r\n" + whole,
        start + b"transfer-encoding: \x0bchunked\r\n\r\n" + whole,
        start + chunked + b"\r\nzz\r\n" + body,
        start + chunked + b"\r\n-1\r\n" + body,
        start + chunked + b"\r\nffffffffffffffffff\r\n" + body,
        start + chunked + b"\r\n5;" + b"e" * 5000 + b"\r\n" + body,
        start + chunked + b"\r\n%x\r\n%b" % (len(body) + 10, body),
        start + chunked + b"\r\n" + whole[:-2] + b"x-teal-edge: guess\r\nx: y\r\n\r\n",
        start + chunked + b"\r\n" + b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n",
        start
        + chunked
        + b"\r\n"
        + b"10000\r\n"
        + b" " * 65536
        + b"\r\n"
        + b"4000\r\n"
        + b" " * 16384
        + b"\r\n0\r\n\r\n",
        start + length + b"\r\n" + body[: len(body) // 2],
        start + length,
        start[: len(start) // 2],
        start.replace(b"HTTP/1.1", b"HTTP/1.0") + length + b"\r\n" + body,
        start.replace(b"HTTP/1.1", b"HTTP/9.9") + length + b"\r\n" + body,
        start.replace(b" HTTP/1.1", b"") + length + b"\r\n" + body,
        start.replace(b"\r\n", b"\n") + length + b"\n" + body,
        b"\r\n" * 5 + start + length + b"\r\n" + body,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + random.randbytes(64),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + random.randbytes(64),
        random.randbytes(200),
        b"",
        *(start + length + header.encode(MAX_HEAD_TEXT) + b"\r\n\r\n" + body for header in BROKEN_HEADERS),
        mutate_bytes(random, start + length + b"\r\n") + body,
        mutate_bytes(random, start + chunked + b"\r\n" + whole),
    )
    return Ask("framing", random.choice(contents), False)
