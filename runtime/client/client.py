"""The client for programs that block."""

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from runtime.client import calls
from runtime.client.answers import Description, Prediction
from runtime.client.calls import Answered, Call, Label
from runtime.client.connections import Connections
from runtime.client.errors import Unavailable
from runtime.client.exchange import Fault
from runtime.client.retry import DEFAULT_RETRIES, NO_RETRIES, RetryPolicy
from runtime.client.session import Session

if TYPE_CHECKING:
    import pyarrow as pa


class Client:
    """Predictions and feedback over keep-alive connections; one for a whole program, its threads may share it.

    `timeout_s` is for a call as a whole, attempts and pauses included; the server is told what is left of it.
    `retries=None` turns retries off. `ca_file` holds the authority of an https server with a certificate of its own.
    Failures are `RequestFailed`, a subclass for each cause; a wrong argument is `UsageError`.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout_s: float = 10.0,
        connect_timeout_s: float = 2.0,
        retries: RetryPolicy | None = DEFAULT_RETRIES,
        ca_file: str | Path | None = None,
        max_connections: int = 32,
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
        self._connections = Connections(self._session)

    def predict(
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
        """Scores of the rows, in their order. An Arrow table travels as Arrow, which is faster for many rows.

        Requests with the same `routing_key` stay on the same slot. `traceparent` is W3C's, passed on as it is.
        """
        call = calls.predict(endpoint, rows, routing_key=routing_key, explain=explain)
        return self._run(call, timeout_s=timeout_s, request_id=request_id, traceparent=traceparent)

    def feedback(
        self, endpoint: str, labels: Iterable[Label | Mapping[str, Any]], *, timeout_s: float | None = None
    ) -> int:
        """How many labels were taken. A label that was sent before counts once."""
        return self._run(calls.feedback(endpoint, labels), timeout_s=timeout_s)

    def describe(self, endpoint: str, *, timeout_s: float | None = None) -> Description:
        """What the endpoint serves now, and the contract of its columns."""
        return self._run(calls.describe(endpoint), timeout_s=timeout_s)

    def ready(self, *, timeout_s: float = 1.0) -> bool:
        """Whether every endpoint has a slot that answers, asked once. False where nobody can be reached."""
        try:
            return self._run(calls.ready(), timeout_s=timeout_s, policy=NO_RETRIES)
        except Unavailable:
            return False

    def close(self) -> None:
        self._connections.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({str(self._session.origin)!r})"

    def _run(
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
                answer = self._connections.exchange(request, attempts.deadline_at)
            except Fault as fault:
                pause_s = attempts.fault(fault)
            else:
                if answer.status == 200:
                    return attempts.read(call, answer)
                pause_s = attempts.refusal(answer)
            time.sleep(pause_s)
