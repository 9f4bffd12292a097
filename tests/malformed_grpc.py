"""gRPC calls that are wrong somewhere: in bytes that are no message, tensors that do not fit, odd metadata."""

from dataclasses import dataclass
from random import Random
from typing import Any

import grpc

from runtime.data.contract import feature_names
from runtime.serving.oip_proto import inference_pb2 as messages
from tests.malformed_bytes import mutate_bytes, pick
from tests.malformed_http import COLUMNS, NUMBERS, ROWS, TRACES
from tests.serving_protocols import raw_tensor

SERVICE = "/inference.GRPCInferenceService/"
ENDPOINT = "example"
METHODS = ("ModelInfer", "ModelMetadata", "ModelReady", "ServerLive", "ServerReady", "ServerMetadata")
MISSING = (
    "ModelStreamInfer",
    "ModelStatistics",
    "RepositoryIndex",
    "X",
    "",
    "ModelInfer/",
    "../ModelInfer",
    "modelinfer",
)
TYPES = ("BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT64", "FP16", "FP32", "FP64", "BYTES", "BF16", "", "x")
CONTENTS = ("bool", "int", "int64", "uint", "uint64", "fp32", "fp64", "bytes")
SHAPES: tuple[list[int], ...] = (
    [3],
    [3, 1],
    [-1],
    [0],
    [-3],
    [2**62, 4],
    [2**33, 2**33],
    [2**63 - 1],
    [-(2**63)],
    [1] * 200,
    [],
    [3, 3],
)
TEXTS = ("", "x0", "late", "a" * 5000, "\x00", "ünï", "score", "attributions")
METADATA = (
    ("x-endpoint", "other"),
    ("x-endpoint", "a" * 3000),
    ("x-slot", "green"),
    ("x-request-id", "i" * 500),
    ("x-routing-key", "k" * 5000),
    ("authorization", "Bearer wrong"),
    ("x-teal-edge", "guess"),
    ("grpc-encoding", "gzip"),
)


@dataclass(frozen=True, slots=True)
class Call:
    """One unary call as it goes over a raw channel."""

    kind: str
    method: str
    message: bytes
    metadata: tuple[tuple[str, str], ...]
    compression: Any = grpc.Compression.NoCompression


def valid_message() -> Any:
    message = messages.ModelInferRequest(model_name=ENDPOINT, id="q")
    for name in feature_names(COLUMNS):
        is_text = COLUMNS[name].type == "category"
        message.inputs.add(name=name, datatype="BYTES" if is_text else "FP64", shape=[len(ROWS)])
        message.raw_input_contents.append(raw_tensor(ROWS, name, COLUMNS[name]))
    return message


def malformed_call(random: Random) -> Call:
    call: Call = pick(random, (5, _bytes), (8, _tensors), (2, _fields), (2, _metadata), (1, _method))
    return call


def _named(random: Random) -> tuple[tuple[str, str], ...]:
    """The edge reads the name from the message, where there is one to read, or is told it."""
    return (("x-endpoint", ENDPOINT),) if random.random() < 0.7 else ()


def _bytes(random: Random) -> Call:
    way = random.randrange(5)
    if way == 0:
        message = random.randbytes(random.randrange(200))
    elif way == 1:
        message = bytes((random.choice((0x3B, 0x1B, 0x2B)),)) * random.choice((1, 99, 20_000))
    elif way == 2:
        # A field of the message within itself, again and again.
        message = b""
        for _ in range(random.choice((50, 150))):
            message = b"\x2a" + _varint(len(message)) + message
    elif way == 3:
        message = valid_message().SerializeToString() + b"\x0a" + _varint(random.choice((2**31 - 1, 2**63, 2**64 - 1)))
    else:
        message = mutate_bytes(random, valid_message().SerializeToString())
    return Call("grpc bytes", "ModelInfer", message, _named(random))


def _tensors(random: Random) -> Call:
    message = valid_message()
    for _ in range(random.choice((1, 1, 2, 3))):
        place = random.randrange(len(message.inputs))
        tensor = message.inputs[place]
        way = random.randrange(9)
        if way == 0:
            tensor.datatype = random.choice(TYPES)
        elif way == 1:
            del tensor.shape[:]
            tensor.shape.extend(random.choice(SHAPES))
        elif way == 2:
            tensor.name = random.choice(TEXTS)
        elif way == 3:
            raw = message.raw_input_contents
            if place < len(raw):
                raw[place] = mutate_bytes(random, raw[place])
        elif way == 4:
            del message.raw_input_contents[random.randrange(len(message.inputs) + 1) :]
        elif way == 5:
            _fill(random, tensor.contents)
        elif way == 6:
            del message.raw_input_contents[:]
            for each in message.inputs:
                _fill(random, each.contents)
        elif way == 7:
            message.inputs.add().CopyFrom(tensor)
        elif len(message.inputs) > 1:
            del message.inputs[place]
    return Call("grpc tensors", "ModelInfer", message.SerializeToString(), _named(random))


def _fill(random: Random, contents: Any) -> None:
    kind = random.choice(CONTENTS)
    values = getattr(contents, f"{kind}_contents")
    number = random.choice((0, 1, 3, 3, 3, 100))
    made: dict[str, Any] = {
        "bool": True,
        "bytes": random.choice((b"AA", b"\xff\xfe", b"")),
        "fp32": random.choice((1.0, float("nan"), float("inf"))),
        "fp64": random.choice((1.0, 1e308, float("nan"), -float("inf"))),
    }
    values.extend([made.get(kind, 1)] * number)


def _fields(random: Random) -> Call:
    message = valid_message()
    way = random.randrange(5)
    if way == 0:
        message.model_version = random.choice(("", "0", "99", "x", "1" * 500))
    elif way == 1:
        message.model_name = random.choice(TEXTS)
    elif way == 2:
        for _ in range(random.choice((1, 500))):
            message.outputs.add(name=random.choice(TEXTS))
    elif way == 3:
        message.id = "i" * random.choice((0, 20_000))
    else:
        parameter = message.parameters[random.choice(("explain", "", "sequence_id"))]
        setattr(parameter, *random.choice((("string_param", "true"), ("int64_param", -1), ("bool_param", True))))
    return Call("grpc fields", "ModelInfer", message.SerializeToString(), _named(random))


def _metadata(random: Random) -> Call:
    message = valid_message().SerializeToString()
    way = random.randrange(4)
    if way == 0:
        given = (("x-timeout-ms", random.choice([number for number in NUMBERS if number.isascii()])),)
    elif way == 1:
        given = (("traceparent", random.choice([trace for trace in TRACES if trace.isascii()])),)
    elif way == 2:
        return Call("grpc compressed", "ModelInfer", message, _named(random), grpc.Compression.Gzip)
    else:
        given = (random.choice(METADATA),)
    return Call("grpc metadata", "ModelInfer", message, given)


def _method(random: Random) -> Call:
    if random.random() < 0.5:
        return Call("grpc method", random.choice(MISSING), valid_message().SerializeToString(), _named(random))
    message = mutate_bytes(random, messages.ModelReadyRequest(name=ENDPOINT, version="1").SerializeToString())
    return Call("grpc method", random.choice(METHODS), message, _named(random))


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)
