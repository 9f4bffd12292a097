"""The client for programs on an event loop, on aiohttp."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from runtime.client import calls
from runtime.client.answers import Description, Prediction
from runtime.client.async_connections import AsyncConnections
from runtime.client.calls import Answered, Call, Label
from runtime.client.errors import Unavailable
from runtime.client.exchange import Fault
from runtime.client.retry import DEFAULT_RETRIES, NO_RETRIES, RetryPolicy
from runtime.client.session import Session

if TYPE_CHECKING:
    import pyarrow as pa


class AsyncClient:
    """`Client` with awaitable calls, for one event loop. At most `max_connections` calls are on their way at once."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout_s: float = 10.0,
        connect_timeout_s: float = 2.0,
        retries: RetryPolicy | None = DEFAULT_RETRIES,
        ca_file: str | Path | None = None,
        max_connections: int = 100,
    ) -> None:
        self._session = Session(
            url,
            token=token,
            timeout_s=timeout_s,
            connect_timeout_s=connect_timeout_s,
            retries=retries,
            ca_file=ca_file,
            max_connections=max_connections,
        )
        self._connections = AsyncConnections(self._session)

    async def predict(
        self,
        endpoint: str,
        rows: "Sequence[Mapping[str, Any]] | pa.Table | pa.RecordBatch",
        *,
        routing_key: str | None = None,
        timeout_s: float | None = None,
        explain: bool = False,
        request_id: str | None = None,
        traceparent: str | None = None,
    ) -> Prediction:
        call = calls.predict(endpoint, rows, routing_key=routing_key, explain=explain)
        return await self._run(call, timeout_s=timeout_s, request_id=request_id, traceparent=traceparent)

    async def feedback(
        self, endpoint: str, labels: Iterable[Label | Mapping[str, Any]], *, timeout_s: float | None = None
    ) -> int:
        return await self._run(calls.feedback(endpoint, labels), timeout_s=timeout_s)

    async def describe(self, endpoint: str, *, timeout_s: float | None = None) -> Description:
        return await self._run(calls.describe(endpoint), timeout_s=timeout_s)

    async def ready(self, *, timeout_s: float = 1.0) -> bool:
        try:
            return await self._run(calls.ready(), timeout_s=timeout_s, policy=NO_RETRIES)
        except Unavailable:
            return False

    async def close(self) -> None:
        await self._connections.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncClient({str(self._session.origin)!r})"

    async def _run(
        self,
        call: Call[Answered],
        *,
        timeout_s: float | None = None,
        request_id: str | None = None,
        traceparent: str | None = None,
        policy: RetryPolicy | None = None,
    ) -> Answered:
        attempts = self._session.attempts(
            call, timeout_s=timeout_s, request_id=request_id, traceparent=traceparent, policy=policy
        )
        while True:
            request = attempts.begin()
            try:
                answer = await self._connections.exchange(request, attempts.deadline_at)
            except Fault as fault:
                pause_s = attempts.fault(fault)
            else:
                if answer.status == 200:
                    return attempts.read(call, answer)
                pause_s = attempts.refusal(answer)
            await asyncio.sleep(pause_s)
