"""A slot's protocols over real sockets: stock tritonclient by HTTP and gRPC, and the same bits by every way."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from runtime.data.contract import feature_names
from runtime.models.bundle import Bundle
from runtime.serving.listener import Listener
from runtime.serving.oip_grpc import build_grpc_servicer, server_options
from runtime.serving.oip_proto import inference_pb2 as messages
from tests.serving_caller import SECRET, Caller
from tests.serving_example import example_row
from tests.serving_protocols import (
    Rows,
    arrow_scores,
    arrow_stream,
    as_table,
    oip_binary,
    oip_binary_scores,
    oip_json,
    row_json,
)

MAX_ROWS = 512


def edge_headers(**more: str) -> dict[str, str]:
    """A new one each time: tritonclient writes into what it is given."""
    return {"x-teal-edge": SECRET} | {name.replace("_", "-"): value for name, value in more.items()}


class Servers:
    """Both servers of one slot on an event loop of their own thread, as in a replica."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._started.wait(30)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(30)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._stopping = asyncio.Event()
        bound = socket.socket()
        bound.bind(("127.0.0.1", 0))
        listener = Listener(self._caller.service, bound)
        await listener.start()
        server = grpc.aio.server(options=server_options(self._caller.service))
        server.add_generic_rpc_handlers((build_grpc_servicer(self._caller.service),))
        self.http, self.grpc = f"127.0.0.1:{listener.port}", f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        self._started.set()
        await self._stopping.wait()
        await server.stop(0)
        await listener.stop(grace_s=1)


@pytest.fixture(autouse=True)
def _no_late_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its finaliser may run in any thread, which gevent does not bear."""
    monkeypatch.delattr(triton_http.InferenceServerClient, "__del__")


@pytest.fixture(scope="module")
def caller(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Caller:
    caller = Caller(bundle, tmp_path_factory.mktemp("logs"), max_rows=MAX_ROWS, max_body=1 << 20)
    caller.service.warm_up()
    return caller


@pytest.fixture(scope="module")
def servers(caller: Caller) -> Iterator[Servers]:
    servers = Servers(caller)
    yield servers
    servers.close()


def tensors(kind: Any, rows: Rows, bundle: Bundle, **given: Any) -> list[Any]:
    inputs = []
    for name in feature_names(bundle.columns):
        is_text = bundle.columns[name].type == "category"
        tensor = kind.InferInput(name, [len(rows)], "BYTES" if is_text else "FP64")
        values = [row[name] for row in rows]
        tensor.set_data_from_numpy(np.array(values, dtype=np.object_ if is_text else np.float64), **given)
        inputs.append(tensor)
    return inputs


def rows_of(number: int) -> Rows:
    return [example_row(index) for index in range(number)]


def expected_scores(bundle: Bundle, rows: Rows) -> list[float]:
    encoded = bundle.encoding.encode_rows(rows, bundle.columns)
    scores: list[float] = bundle.model.predict(encoded.numeric, encoded.categorical).tolist()
    return scores


@pytest.mark.parametrize("is_binary", [True, False])
def test_tritonclient_by_http(servers: Servers, bundle: Bundle, is_binary: bool) -> None:
    client = triton_http.InferenceServerClient(servers.http)
    assert client.is_server_live(edge_headers())
    assert client.is_server_ready(edge_headers())
    assert client.is_model_ready("example", "3", edge_headers())
    assert "binary_tensor_data" in client.get_server_metadata(edge_headers())["extensions"]
    assert client.get_model_metadata("example", headers=edge_headers())["outputs"][0]["name"] == "score"
    rows = rows_of(7)
    inputs = tensors(triton_http, rows, bundle, binary_data=is_binary)
    outputs = [triton_http.InferRequestedOutput("score", binary_data=is_binary)]
    answer = client.infer("example", inputs, outputs=outputs, request_id="mine", headers=edge_headers())
    assert answer.as_numpy("score").tolist() == expected_scores(bundle, rows)
    assert answer.get_response()["id"] == "mine"
    with pytest.raises(InferenceServerException, match="column 'distance'"):
        client.infer("example", tensors(triton_http, [rows[0] | {"distance": -1}], bundle), headers=edge_headers())
    with pytest.raises(InferenceServerException, match="through the edge"):
        client.infer("example", inputs)
    client.close()


def test_tritonclient_by_grpc(servers: Servers, bundle: Bundle, caller: Caller) -> None:
    client = triton_grpc.InferenceServerClient(servers.grpc)
    assert client.is_server_live(edge_headers())
    assert client.is_server_ready(edge_headers())
    assert client.is_model_ready("example", headers=edge_headers())
    assert client.get_server_metadata(edge_headers()).name == "teal"
    assert [tensor.name for tensor in client.get_model_metadata("example", headers=edge_headers()).inputs] == list(
        feature_names(bundle.columns)
    )
    rows = rows_of(5)
    caller.service.take()
    answer = client.infer("example", tensors(triton_grpc, rows, bundle), request_id="mine", headers=edge_headers())
    assert answer.as_numpy("score").tolist() == expected_scores(bundle, rows)
    assert answer.get_response().id == "mine"
    taken = caller.service.take()
    assert (taken.requests, taken.rows, taken.errors) == (1, 5, 0)
    client.close()


@pytest.mark.parametrize(
    ("call", "code"),
    [
        ({"row": {"distance": -1.0}}, "INVALID_ARGUMENT"),
        ({"model": "other"}, "NOT_FOUND"),
        ({"version": "9"}, "NOT_FOUND"),
        ({"rows": MAX_ROWS + 1}, "RESOURCE_EXHAUSTED"),
        ({"headers": {}}, "PERMISSION_DENIED"),
        ({"headers": edge_headers(x_timeout_ms="soon")}, "INVALID_ARGUMENT"),
    ],
)
def test_faults_have_the_protocols_codes(servers: Servers, bundle: Bundle, call: dict[str, Any], code: str) -> None:
    client = triton_grpc.InferenceServerClient(servers.grpc)
    rows = [row | call.get("row", {}) for row in rows_of(call.get("rows", 1))]
    with pytest.raises(InferenceServerException) as caught:
        client.infer(
            call.get("model", "example"),
            tensors(triton_grpc, rows, bundle),
            model_version=call.get("version", ""),
            headers=call.get("headers", edge_headers()),
        )
    assert caught.value.status() == f"StatusCode.{code}"
    with pytest.raises(InferenceServerException) as caught:
        client.get_model_repository_index(headers=edge_headers())
    assert caught.value.status() == "StatusCode.UNIMPLEMENTED"
    client.close()


def test_typed_contents_are_answered_with_typed_contents(servers: Servers, bundle: Bundle) -> None:
    rows = rows_of(3)
    request = messages.ModelInferRequest(model_name="example")
    for name in feature_names(bundle.columns):
        values = [row[name] for row in rows]
        if bundle.columns[name].type == "category":
            tensor = request.inputs.add(name=name, datatype="BYTES", shape=[3, 1])
            tensor.contents.bytes_contents.extend(value.encode() for value in values)
        elif name == "hour":
            request.inputs.add(name=name, datatype="INT32", shape=[3]).contents.int_contents.extend(values)
        else:
            request.inputs.add(name=name, datatype="FP64", shape=[3]).contents.fp64_contents.extend(values)
    with grpc.insecure_channel(servers.grpc) as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=messages.ModelInferRequest.SerializeToString,
            response_deserializer=messages.ModelInferResponse.FromString,
        )
        answer, call = infer.with_call(request, metadata=tuple(edge_headers().items()))
    assert list(answer.outputs[0].contents.fp64_contents) == expected_scores(bundle, rows)
    trailing = dict(call.trailing_metadata())
    assert trailing["x-prediction-id"] == answer.parameters["prediction_id"].string_param
    assert trailing["x-model-version"] == "m:3"


def test_the_same_bits_by_every_protocol_and_in_any_company(servers: Servers, bundle: Bundle) -> None:
    """Each row alone, in small and in large company, at every place: always the bits that the model gives it alone."""
    rows = rows_of(MAX_ROWS)
    alone = [expected_scores(bundle, [row])[0] for row in rows]
    random = np.random.default_rng(0)
    picks = [random.integers(0, MAX_ROWS, size).tolist() for size in (1, 2, 3, 15, 16, 17, 63, 64, 65, 200, MAX_ROWS)]

    async def by_http(session: aiohttp.ClientSession, path: str, body: bytes, **headers: str) -> Any:
        async with session.post(f"http://{servers.http}{path}", data=body, headers=edge_headers(**headers)) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.read(), {name.lower(): value for name, value in answer.headers.items()}, answer

    async def ask_all(picked: Rows) -> dict[str, list[float]]:
        predict, infer = "/v1/models/example:predict", "/v2/models/example/infer"
        async with aiohttp.ClientSession() as session:
            body, given = oip_binary(picked, bundle.columns)
            of_rows, of_arrow, of_json, of_binary = await asyncio.gather(
                by_http(session, predict, row_json(picked), content_type="application/json"),
                by_http(
                    session,
                    predict,
                    arrow_stream(as_table(picked, bundle.columns)),
                    content_type="application/vnd.apache.arrow.stream",
                ),
                by_http(session, infer, oip_json(picked, bundle.columns), content_type="application/json"),
                by_http(session, infer, body, content_type="application/octet-stream", **given),
            )
        json_of_rows, json_of_tensors = await of_rows[2].json(), await of_json[2].json()
        return {
            "rows": [row["score"] for row in json_of_rows["predictions"]],
            "arrow": arrow_scores(of_arrow[0]),
            "oip json": json_of_tensors["outputs"][0]["data"],
            "oip binary": oip_binary_scores(of_binary[0], of_binary[1]),
        }

    client = triton_grpc.InferenceServerClient(servers.grpc)
    for pick in picks:
        picked = [rows[index] for index in pick]
        found = asyncio.run(ask_all(picked))
        by_grpc = client.infer("example", tensors(triton_grpc, picked, bundle), headers=edge_headers()).as_numpy(
            "score"
        )
        for way, scores in (found | {"grpc": by_grpc.tolist()}).items():
            assert scores == [alone[index] for index in pick], (way, len(pick))
    client.close()


def test_batch_company_changes_no_bit(bundle: Bundle, tmp_path: Path) -> None:
    """With micro-batching, requests of many callers meet in one batch."""
    caller = Caller(bundle, tmp_path, max_rows=MAX_ROWS, max_body=1 << 20, max_batch_rows=64)
    caller.service.warm_up()
    servers = Servers(caller)
    rows = rows_of(120)

    def ask(index: int) -> list[float]:
        client = triton_http.InferenceServerClient(servers.http)
        picked = rows[index : index + 1 + index % 5]
        answer = client.infer("example", tensors(triton_http, picked, bundle), headers=edge_headers())
        client.close()
        scores: list[float] = answer.as_numpy("score").tolist()
        return scores

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(100)))
    assert found == [expected_scores(bundle, rows[index : index + 1 + index % 5]) for index in range(100)]
    servers.close()
