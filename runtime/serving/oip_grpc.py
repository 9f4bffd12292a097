"""The Open Inference Protocol v2 over gRPC: `GRPCInferenceService` of one slot, for a grpc.aio server.

An RPC that is not here (Triton has more) answers UNIMPLEMENTED, which is what gRPC does with unknown names.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import version
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from runtime.serving.arrival import ArrivalClock
from runtime.serving.asgi import deadline_ns, integer
from runtime.serving.codec import RequestFault
from runtime.serving.oip import (
    Tensor,
    check_listed,
    check_outputs,
    check_tensor,
    describe_model,
    encode_question,
    output_array,
    read_raw,
)
from runtime.serving.oip_proto import inference_pb2 as messages
from runtime.serving.scoring import Call
from runtime.serving.service import SlotService

SERVICE = "inference.GRPCInferenceService"
EXTENSIONS = ["binary_tensor_data"]
CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    415: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
}
_CONTENTS = {
    "BOOL": "bool_contents",
    **{f"INT{bits}": "int_contents" for bits in (8, 16, 32)},
    **{f"UINT{bits}": "uint_contents" for bits in (8, 16, 32)},
    "INT64": "int64_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}

Handler = Callable[[Any, Any], Awaitable[Any]]


def server_options(service: SlotService) -> list[tuple[str, Any]]:
    """Options for `grpc.aio.server`: messages as large as bodies may be."""
    return [("grpc.max_receive_message_length", service.limits.max_body_bytes)]


def _reader(kind: Any) -> Callable[[bytes], Any]:
    """Reads a message of that kind; what is none becomes the error, for which gRPC itself would blame the server."""

    def read(content: bytes) -> Any:
        try:
            return kind.FromString(content)
        except DecodeError as error:
            return error

    return read


def build_grpc_servicer(service: SlotService) -> grpc.GenericRpcHandler:
    """For `server.add_generic_rpc_handlers`, on the event loop that the service's HTTP runs on."""
    servicer = OipGrpc(service)
    calls: dict[str, tuple[Handler, Any]] = {
        "ServerLive": (servicer.server_live, messages.ServerLiveRequest),
        "ServerReady": (servicer.server_ready, messages.ServerReadyRequest),
        "ModelReady": (servicer.model_ready, messages.ModelReadyRequest),
        "ServerMetadata": (servicer.server_metadata, messages.ServerMetadataRequest),
        "ModelMetadata": (servicer.model_metadata, messages.ModelMetadataRequest),
        "ModelInfer": (servicer.model_infer, messages.ModelInferRequest),
    }
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            servicer.guard(handle),
            request_deserializer=_reader(request),
            response_serializer=lambda answer: answer.SerializeToString(),
        )
        for name, (handle, request) in calls.items()
    }
    handler: grpc.GenericRpcHandler = grpc.method_handlers_generic_handler(SERVICE, handlers)
    return handler


class OipGrpc:
    def __init__(self, service: SlotService) -> None:
        self._service = service
        self._scorer = service.scorer
        self._metadata = (
            ("x-model-version", service.identity.model_label),
            ("x-data-version", service.identity.data_version),
        )

    def guard(self, handle: Handler) -> Handler:
        """Let in what came through the edge, and answer faults as gRPC's codes."""

        async def guarded(request: Any, context: Any) -> Any:
            metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
            at_ns = time.time_ns()
            waited_ns = self._service.arrivals.waited_ns(metadata.get("x-teal-arrived", "").encode(), at_ns)
            self._service.grpc_load.begin()
            try:
                if not self._service.is_from_edge(metadata.get("x-teal-edge", "").encode()):
                    raise RequestFault(403, "forbidden", "requests must come through the edge")
                if isinstance(request, DecodeError):
                    raise RequestFault(400, "malformed", f"the message cannot be read: {request}")
                return await handle(request, context)
            except RequestFault as fault:
                if fault.status >= 500:
                    self._log_failure(metadata, fault.code, fault.__cause__)
                extra = [("x-error-code", fault.code)]
                if fault.field is not None and fault.field.isascii() and fault.field.isprintable():
                    extra.append(("x-error-field", fault.field))
                if fault.retry_after_s is not None:
                    extra.append(("retry-after", str(fault.retry_after_s)))
                context.set_trailing_metadata((*self._metadata, *extra))
                await context.abort(CODES.get(fault.status, grpc.StatusCode.INTERNAL), fault.message[:2000])
            except grpc.aio.AbortError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets an answer and the log the trace
                self._log_failure(metadata, "internal", error)
                await context.abort(grpc.StatusCode.INTERNAL, "the replica failed; its log says why")
            finally:
                self._service.grpc_load.end((time.time_ns() - at_ns + waited_ns) / 1e9)

        return guarded

    def _log_failure(self, metadata: dict[str, str], code: str, cause: BaseException | None) -> None:
        path = f"/{SERVICE}"
        self._service.log_failure(
            code, path, metadata.get("x-request-id", ""), metadata.get("traceparent", ""), cause=cause
        )

    async def server_live(self, _request: Any, _context: Any) -> Any:
        return messages.ServerLiveResponse(live=True)

    async def server_ready(self, _request: Any, _context: Any) -> Any:
        return messages.ServerReadyResponse(ready=True)

    async def server_metadata(self, _request: Any, _context: Any) -> Any:
        return messages.ServerMetadataResponse(name="teal", version=version("teal-runtime"), extensions=EXTENSIONS)

    async def model_ready(self, request: Any, _context: Any) -> Any:
        self._check_model(request.name, request.version)
        return messages.ModelReadyResponse(ready=True)

    async def model_metadata(self, request: Any, _context: Any) -> Any:
        self._check_model(request.name, request.version)
        return messages.ModelMetadataResponse(**describe_model(self._scorer))

    async def model_infer(self, request: Any, context: Any) -> Any:
        at_ns, started = time.time_ns(), time.perf_counter()
        status, rows = 500, 0
        try:
            self._check_model(request.model_name, request.model_version)
            answer, rows = await self._infer(request, context, at_ns)
            status = 200
        except RequestFault as fault:
            status = fault.status
            raise
        finally:
            self._service.tally.add(status, rows, (time.perf_counter() - started) * 1000)
        return answer

    async def _infer(self, request: Any, context: Any, at_ns: int) -> tuple[Any, int]:
        call = _call(request, context, at_ns, self._service.arrivals)
        outputs = check_outputs([output.name for output in request.outputs], is_explained=call.is_explained)
        tensors = _read_tensors(request)
        question = encode_question(tensors, self._scorer, max_rows=self._service.limits.max_rows)
        (prediction_id, scores), explained = await self._service.explainer.answer(question, call)
        answer = messages.ModelInferResponse(
            model_name=request.model_name, model_version=str(self._scorer.identity.model_version), id=request.id
        )
        answer.parameters["prediction_id"].string_param = prediction_id
        if explained is not None:
            answer.parameters["baseline_score"].double_param = explained.baseline_score
            answer.parameters["features"].string_param = ",".join(explained.features)
        for name in outputs:
            array = output_array(name, scores, explained)
            output = answer.outputs.add(name=name, datatype="FP64", shape=array.shape)
            # Answered as it was asked: whoever packs bytes can also read them.
            if request.raw_input_contents:
                answer.raw_output_contents.append(array.tobytes())
            else:
                output.contents.fp64_contents.extend(array.ravel().tolist())
        context.set_trailing_metadata((*self._metadata, ("x-prediction-id", prediction_id)))
        return answer, len(scores)

    def _check_model(self, name: str, asked_version: str) -> None:
        identity = self._scorer.identity
        if name != identity.endpoint or asked_version not in ("", str(identity.model_version)):
            shown = f"{name[:80]!r}" + (f" version {asked_version[:80]!r}" if asked_version else "")
            raise RequestFault(404, "not_found", f"no such model: {shown}; here is {identity.endpoint!r}")


def _call(request: Any, context: Any, at_ns: int, arrivals: ArrivalClock) -> Call:
    metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
    deadline = 0
    waited_ns = arrivals.waited_ns(metadata.get("x-teal-arrived", "").encode(), at_ns)
    if (timeout := metadata.get("x-timeout-ms")) is not None:
        deadline = deadline_ns(at_ns - waited_ns, timeout.encode())
    elif (remaining_s := context.time_remaining()) is not None and remaining_s < 3600:
        deadline = at_ns - waited_ns + int(remaining_s * 1e9)
    parameter = request.parameters.get("explain")
    return Call(
        at_ns,
        integer(metadata.get("x-generation", "").encode()),
        metadata.get("x-request-id", ""),
        deadline,
        parameter is not None and parameter.bool_param,
        traceparent=metadata.get("traceparent", ""),
    )


def _read_tensors(request: Any) -> list[Tensor]:
    raw: Sequence[bytes] = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        message = f"raw_input_contents has {len(raw)} entries for {len(request.inputs)} inputs"
        raise RequestFault(400, "malformed", message, "raw_input_contents")
    tensors = []
    for index, entry in enumerate(request.inputs):
        shape = tuple(entry.shape)
        rows = check_tensor(entry.name, entry.datatype, shape)
        if raw:
            if entry.HasField("contents"):
                message = f"input {entry.name!r} has contents, which raw_input_contents excludes"
                raise RequestFault(400, "malformed", message, entry.name)
            tensors.append(
                Tensor(entry.name, entry.datatype, shape, read_raw(entry.name, entry.datatype, rows, raw[index]))
            )
            continue
        tensor = Tensor(entry.name, entry.datatype, shape, _listed(entry))
        check_listed(tensor, set(map(type, tensor.values)))
        tensors.append(tensor)
    return tensors


def _listed(entry: Any) -> list[Any]:
    values = list(getattr(entry.contents, _CONTENTS[entry.datatype]))
    if entry.datatype != "BYTES":
        return values
    try:
        return [value.decode() for value in values]
    except UnicodeDecodeError as error:
        raise RequestFault(400, "malformed", f"input {entry.name!r} holds text that is no UTF-8", entry.name) from error
