"""A slot's service with a real bundle, called as a server calls it. No server, no Ray."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from runtime.models.bundle import Bundle
from runtime.serving.delta_log import DeltaLog
from runtime.serving.payload import Answer, Feedback, PayloadTable, build_feedback
from runtime.serving.service import Limits, SlotIdentity, SlotService

SECRET = "the edge's secret"
IDENTITY = SlotIdentity(
    endpoint="example",
    slot="blue",
    app="example-blue",
    model_name="m",
    model_version=3,
    bundle_sha256="abc",
    data_version="example@0",
)


class Answered(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Caller:
    """Calls the application and keeps what its logs would write."""

    def __init__(
        self, bundle: Bundle, directory: Path, *, max_rows: int = 8, max_body: int = 4096, **kept: Any
    ) -> None:
        table = PayloadTable(bundle.columns, slot="blue", model_name="m", model_version=3, data_version="d")
        self.payload = DeltaLog[Answer](str(directory / "p"), table.build, flush_s=3600)
        self.feedback = DeltaLog[Feedback](str(directory / "f"), build_feedback, flush_s=3600)
        self.service = SlotService(
            bundle,
            identity=IDENTITY,
            limits=Limits(max_body_bytes=max_body, max_rows=max_rows),
            secret=SECRET,
            payload=self.payload,
            feedback=self.feedback,
            **kept,
        )

    def ask(self, path: str, body: bytes | list[bytes] = b"", *, method: str = "POST", **headers: str) -> Answered:
        return asyncio.run(self.answer(path, body, method=method, **headers))

    async def answer(
        self, path: str, body: bytes | list[bytes] = b"", *, method: str = "POST", **headers: str
    ) -> Answered:
        given = {"x-teal-edge": SECRET, "content-type": "application/json"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        path, _, query = path.partition("?")
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in given.items() if value],
        }
        chunks = [body] if isinstance(body, bytes) else body
        messages: Iterator[dict[str, Any]] = iter(
            {"type": "http.request", "body": chunk, "more_body": index < len(chunks) - 1}
            for index, chunk in enumerate(chunks)
        )
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return next(messages)

        async def send(message: Any) -> None:
            sent.append(message)

        await self.service(scope, receive, send)
        start, content = sent
        found = {name.decode(): value.decode() for name, value in start["headers"]}
        assert int(found["content-length"]) == len(content["body"])
        return Answered(start["status"], found, content["body"])
