"""The stock tritonclient, all of its calls that make sense here, through a real edge to a real replica."""

import asyncio
import contextlib
import queue
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_grpc_aio
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_http_aio
from tritonclient.utils import InferenceServerException

from runtime.data.contract import feature_names
from runtime.models.bundle import Bundle
from runtime.serving.oip import NUMPY_TYPES
from tests.serving_example import example_row
from tests.serving_slot import Slot, running_slot
from tests.slot_process import ENDPOINT

ROWS = [example_row(index) | {"x0": float(index)} for index in range(4)]
NAMED = {"x-endpoint": ENDPOINT}
MAX_BODY_BYTES = 64 * 1024


@pytest.fixture(autouse=True)
def _no_late_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its finaliser may run in any thread, which gevent does not bear."""
    monkeypatch.delattr(triton_http.InferenceServerClient, "__del__")


@pytest.fixture(scope="module")
def slot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slot]:
    with running_slot(tmp_path_factory.mktemp("slot"), max_body_bytes=MAX_BODY_BYTES) as slot:
        yield slot


@pytest.fixture
def over_http(slot: Slot) -> Iterator[Any]:
    client = triton_http.InferenceServerClient(f"{slot.host}:{slot.port}", concurrency=4)
    yield client
    client.close()


@pytest.fixture
def over_grpc(slot: Slot) -> Iterator[Any]:
    client = triton_grpc.InferenceServerClient(f"{slot.host}:{slot.grpc_port}")
    yield client
    client.close()


@pytest.fixture(params=["http", "grpc"])
def way(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """The module of a client, and one of its clients."""
    kind = triton_http if request.param == "http" else triton_grpc
    return kind, request.getfixturevalue(f"over_{request.param}")


def tensors(
    kind: Any, bundle: Bundle, *, datatype: str = "FP64", shape: tuple[int, ...] = (), **given: Any
) -> list[Any]:
    """Column x0 as this datatype, the others as they are described."""
    inputs = []
    for name in feature_names(bundle.columns):
        values = [row[name] for row in ROWS]
        used = "BYTES" if bundle.columns[name].type == "category" else datatype if name == "x0" else "FP64"
        array = np.array(values, np.object_ if used == "BYTES" else NUMPY_TYPES[used])
        tensor = kind.InferInput(name, [len(ROWS), *shape], used)
        inputs.append(tensor.set_data_from_numpy(array.reshape(len(ROWS), *shape), **given))
    return inputs


def expected(bundle: Bundle) -> list[float]:
    encoded = bundle.encoding.encode_rows(ROWS, bundle.columns)
    scores: list[float] = bundle.model.predict(encoded.numeric, encoded.categorical).tolist()
    return scores


def test_server_and_model_say_what_they_are(slot: Slot, over_http: Any, over_grpc: Any) -> None:
    for client in (over_http, over_grpc):
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(ENDPOINT)
        assert client.is_model_ready(ENDPOINT, "1")
    for model in (("other",), (ENDPOINT, "9")):
        assert not over_http.is_model_ready(*model)
        with pytest.raises(InferenceServerException, match="NOT_FOUND"):
            over_grpc.is_model_ready(*model)
    server = over_http.get_server_metadata()
    assert (server["name"], server["extensions"]) == ("teal", ["binary_tensor_data"])
    assert over_grpc.get_server_metadata(as_json=True)["name"] == "teal"
    by_http, by_grpc = over_http.get_model_metadata(ENDPOINT, "1"), over_grpc.get_model_metadata(ENDPOINT, as_json=True)
    names = list(feature_names(slot.bundle.columns))
    assert [tensor["name"] for tensor in by_http["inputs"]] == [tensor["name"] for tensor in by_grpc["inputs"]] == names
    assert by_http["versions"] == by_grpc["versions"] == ["1"]


@pytest.mark.parametrize("datatype", [name for name in NUMPY_TYPES if name != "BOOL"])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_every_datatype_gives_the_same_bits(
    slot: Slot, over_http: Any, over_grpc: Any, datatype: str, shape: tuple[int, ...]
) -> None:
    found = [
        over_http.infer(ENDPOINT, tensors(triton_http, slot.bundle, datatype=datatype, shape=shape)),
        over_http.infer(ENDPOINT, tensors(triton_http, slot.bundle, datatype=datatype, shape=shape, binary_data=False)),
        over_grpc.infer(ENDPOINT, tensors(triton_grpc, slot.bundle, datatype=datatype, shape=shape), "1"),
    ]
    assert [answer.as_numpy("score").tolist() for answer in found] == [expected(slot.bundle)] * 3


def test_a_boolean_is_no_number(slot: Slot, way: tuple[Any, Any]) -> None:
    kind, client = way
    with pytest.raises(InferenceServerException, match="column 'x0'"):
        client.infer(ENDPOINT, tensors(kind, slot.bundle, datatype="BOOL"))
    half = kind.InferInput("x0", [4], "FP16").set_data_from_numpy(np.zeros(4, np.float16))
    with pytest.raises(InferenceServerException, match="FP16"):
        client.infer(ENDPOINT, [half, *tensors(kind, slot.bundle)[1:]])


@pytest.mark.parametrize("is_binary", [True, False])
def test_outputs_are_those_that_were_asked_for(slot: Slot, over_http: Any, is_binary: bool) -> None:
    inputs = tensors(triton_http, slot.bundle)
    outputs = [triton_http.InferRequestedOutput(name, binary_data=is_binary) for name in ("score", "attributions")]
    answer = over_http.infer(ENDPOINT, inputs, outputs=outputs, request_id="mine", parameters={"explain": True})
    response = answer.get_response()
    assert response["id"] == "mine"
    assert [("data" in output) for output in response["outputs"]] == [not is_binary] * 2
    added = answer.as_numpy("attributions").sum(axis=1) + response["parameters"]["baseline_score"]
    assert np.allclose(added, expected(slot.bundle), atol=1e-9)
    with pytest.raises(InferenceServerException, match="no output 'other'"):
        over_http.infer(ENDPOINT, inputs, outputs=[triton_http.InferRequestedOutput("other")])


def test_outputs_over_grpc_too(slot: Slot, over_grpc: Any) -> None:
    outputs = [triton_grpc.InferRequestedOutput("score")]
    inputs = tensors(triton_grpc, slot.bundle)
    answer = over_grpc.infer(ENDPOINT, inputs, outputs=outputs, request_id="mine")
    assert answer.get_response().id == "mine"
    assert answer.as_numpy("score").tolist() == expected(slot.bundle)
    with pytest.raises(InferenceServerException, match="no output 'other'"):
        over_grpc.infer(ENDPOINT, inputs, outputs=[triton_grpc.InferRequestedOutput("other")])


def test_asynchronous_calls(slot: Slot, over_http: Any, over_grpc: Any) -> None:
    begun = [over_http.async_infer(ENDPOINT, tensors(triton_http, slot.bundle)) for _ in range(4)]
    assert [one.get_result().as_numpy("score").tolist() for one in begun] == [expected(slot.bundle)] * 4
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    for headers in ({}, {"x-slot": "purple"}, {"authorization": "Bearer nobody"}):
        over_grpc.async_infer(
            ENDPOINT,
            tensors(triton_grpc, slot.bundle),
            callback=lambda result, error: answers.put((result, error)),
            headers=headers,
        )
    found = [answers.get(timeout=20) for _ in range(3)]
    assert [error.status() for _, error in found if error is not None] == ["StatusCode.UNAUTHENTICATED"]
    assert [r.as_numpy("score").tolist() for r, _ in found if r is not None] == [expected(slot.bundle)] * 2


def test_clients_for_asyncio(slot: Slot) -> None:
    async def ask() -> list[Any]:
        async with (
            triton_http_aio.InferenceServerClient(f"{slot.host}:{slot.port}") as by_http,
            triton_grpc_aio.InferenceServerClient(f"{slot.host}:{slot.grpc_port}") as by_grpc,
        ):
            assert await by_http.is_model_ready(ENDPOINT)
            assert await by_grpc.is_model_ready(ENDPOINT)
            return [
                await by_http.infer(ENDPOINT, tensors(triton_http, slot.bundle)),
                await by_grpc.infer(ENDPOINT, tensors(triton_grpc, slot.bundle)),
            ]

    assert [answer.as_numpy("score").tolist() for answer in asyncio.run(ask())] == [expected(slot.bundle)] * 2


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compression(slot: Slot, over_http: Any, over_grpc: Any, algorithm: str) -> None:
    """A compressed body is refused in words; who would take a compressed answer gets a plain one. gRPC has both."""
    inputs = tensors(triton_http, slot.bundle)
    with pytest.raises(InferenceServerException, match="must not be compressed"):
        over_http.infer(ENDPOINT, inputs, request_compression_algorithm=algorithm)
    plain = over_http.infer(ENDPOINT, inputs, response_compression_algorithm=algorithm)
    packed = over_grpc.infer(
        ENDPOINT, tensors(triton_grpc, slot.bundle), compression_algorithm=algorithm, headers=NAMED
    )
    assert [answer.as_numpy("score").tolist() for answer in (plain, packed)] == [expected(slot.bundle)] * 2
    with pytest.raises(InferenceServerException, match="x-endpoint"):
        over_grpc.infer(ENDPOINT, tensors(triton_grpc, slot.bundle), compression_algorithm=algorithm)


def test_a_small_message_that_unpacks_to_a_large_one_is_refused(slot: Slot, over_grpc: Any) -> None:
    bomb = triton_grpc.InferInput("x0", [1 << 21], "FP64").set_data_from_numpy(np.zeros(1 << 21))
    with pytest.raises(InferenceServerException) as caught:
        over_grpc.infer(ENDPOINT, [bomb], compression_algorithm="gzip", headers=NAMED)
    assert caught.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
    assert over_grpc.is_model_ready(ENDPOINT)


def test_a_client_waits_as_long_as_it_says(slot: Slot, over_grpc: Any) -> None:
    inputs = tensors(triton_grpc, slot.bundle)
    assert over_grpc.infer(ENDPOINT, inputs, client_timeout=20).as_numpy("score").tolist() == expected(slot.bundle)
    with pytest.raises(InferenceServerException) as caught:
        over_grpc.infer(ENDPOINT, inputs, client_timeout=1e-6)
    assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"


Calls = list[tuple[str, Callable[[Any], Any]]]
BEYOND_THE_PROTOCOL: Calls = [
    ("get_model_config", lambda client: client.get_model_config(ENDPOINT)),
    ("get_inference_statistics", lambda client: client.get_inference_statistics(ENDPOINT)),
    ("get_model_repository_index", lambda client: client.get_model_repository_index()),
    ("load_model", lambda client: client.load_model(ENDPOINT)),
    ("unload_model", lambda client: client.unload_model(ENDPOINT)),
    ("get_trace_settings", lambda client: client.get_trace_settings()),
    ("get_log_settings", lambda client: client.get_log_settings()),
    ("get_system_shared_memory_status", lambda client: client.get_system_shared_memory_status()),
    ("unregister_cuda_shared_memory", lambda client: client.unregister_cuda_shared_memory()),
]


@pytest.mark.parametrize(
    "call", [call for _, call in BEYOND_THE_PROTOCOL], ids=[name for name, _ in BEYOND_THE_PROTOCOL]
)
def test_what_only_triton_has_is_refused_in_words(over_http: Any, over_grpc: Any, call: Callable[[Any], Any]) -> None:
    with pytest.raises(InferenceServerException, match="no such path"):
        call(over_http)
    with pytest.raises(InferenceServerException) as caught:
        call(over_grpc)
    assert caught.value.status() == "StatusCode.UNIMPLEMENTED"
    assert "Open Inference Protocol" in caught.value.message()


def test_streams_are_refused_in_words(slot: Slot, over_grpc: Any) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    over_grpc.start_stream(lambda result, error: answers.put((result, error)), headers=NAMED)
    # The refusal may be there before the first message is.
    with contextlib.suppress(InferenceServerException):
        over_grpc.async_stream_infer(ENDPOINT, tensors(triton_grpc, slot.bundle))
    result, error = answers.get(timeout=20)
    assert result is None
    assert error.status() == "StatusCode.UNIMPLEMENTED"
    assert "ModelInfer" in error.message()
    over_grpc.stop_stream()


@pytest.mark.parametrize(
    ("call", "http_words", "code"),
    [
        ({"model_name": "other"}, "no endpoint", "NOT_FOUND"),
        ({"model_version": "9"}, "no such path", "NOT_FOUND"),
        ({"headers": {"authorization": "Bearer nobody"}}, "token is unknown", "UNAUTHENTICATED"),
        ({"headers": {"x-timeout-ms": "soon"}}, "x-timeout-ms must be", "INVALID_ARGUMENT"),
    ],
)
def test_errors_reach_the_caller(
    slot: Slot, over_http: Any, over_grpc: Any, call: dict[str, Any], http_words: str, code: str
) -> None:
    asked = {"model_name": ENDPOINT} | call
    with pytest.raises(InferenceServerException, match=http_words):
        over_http.infer(
            inputs=tensors(triton_http, slot.bundle), **{**asked, "headers": dict(asked.get("headers", {}))}
        )
    with pytest.raises(InferenceServerException) as caught:
        over_grpc.infer(inputs=tensors(triton_grpc, slot.bundle), **asked)
    assert caught.value.status() == f"StatusCode.{code}"
