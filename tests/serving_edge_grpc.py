"""A gRPC client of an edge, and a server that tells what came."""

import json
from typing import Any

import grpc

from tests.serving_edge import Edge

INFER = "/inference.GRPCInferenceService/ModelInfer"


class Echo(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers any call with the metadata that came, as JSON."""

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        metadata = {str(key): str(value) for key, value in call.invocation_metadata}

        def answer(request: bytes, _context: grpc.ServicerContext) -> bytes:
            return json.dumps({"method": call.method, "metadata": metadata, "size": len(request)}).encode()

        return grpc.unary_unary_rpc_method_handler(answer)


def message(name: str, size: int = 0) -> bytes:
    """A ModelInferRequest: model_name, and `size` bytes of raw_input_contents."""
    text = bytes([0x0A, len(name)]) + name.encode()
    if size:
        rest, length = size, b""
        while rest >= 128:
            length, rest = length + bytes([rest & 127 | 128]), rest >> 7
        text += b"\x3a" + length + bytes([rest]) + b"x" * size
    return text


class GrpcClient:
    def __init__(self, edge: Edge, root_certificates: bytes | None = None) -> None:
        options = [("grpc.max_send_message_length", -1)]
        address = f"localhost:{edge.cluster.ports.edge_grpc}"
        if root_certificates is None:
            self._channel = grpc.insecure_channel(address, options=options)
        else:
            self._channel = grpc.secure_channel(
                address, grpc.ssl_channel_credentials(root_certificates), options=options
            )

    def call(self, body: bytes, *, method: str = INFER, gzip: bool = False, **metadata: str) -> tuple[Any, Any]:
        """Status and answer, or status and details."""
        named = [(name.replace("_", "-"), value) for name, value in metadata.items()]
        compression = grpc.Compression.Gzip if gzip else None
        try:
            answer = self._channel.unary_unary(method)(body, metadata=named, timeout=10, compression=compression)
        except grpc.RpcError as error:
            return error.code(), error.details()
        return grpc.StatusCode.OK, json.loads(answer)

    def close(self) -> None:
        self._channel.close()
