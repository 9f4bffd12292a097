"""The edge's controller: reads desired state, makes HAProxy serve it, keeps HAProxy alive, acknowledges. No Ray.

Each round re-reads what is and acts on it, so it may be killed anywhere. If the store is away the last good state
stays, and `status` says how old it is.
"""

import logging
import random
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from runtime.config.schema import ClusterConfig
from runtime.core.errors import TealError, UnreachableError
from runtime.serving.edge_config import render_config
from runtime.serving.edge_files import EdgeFiles
from runtime.serving.edge_process import EdgeProcess
from runtime.serving.edge_shares import render_shares
from runtime.store.records import EndpointState

logger = logging.getLogger(__name__)

HINT_CHECK_S = 0.025
HEARTBEAT_S = 1.0
"""How often generations are acknowledged again, as a sign of life."""
STOP_TIMEOUT_S = 20.0


@dataclass(kw_only=True, slots=True)
class _Observed:
    applied: dict[str, EndpointState] = field(default_factory=dict)
    pid: int | None = None
    read_at: float | None = None
    """When the store was last read, seconds since 1970."""
    acknowledged_at: float = 0.0
    store_error: str | None = None
    process_error: str | None = None
    num_starts: int = 0


class DesiredState(Protocol):
    """What the edge needs of the control store."""

    def endpoints(self) -> list[EndpointState]:
        """UnreachableError if the store is away."""

    def acknowledge(self, edge_id: str, generations: Mapping[str, int], at: float) -> None: ...


class EdgeLoop:
    """Runs one edge from a thread of its own."""

    def __init__(
        self,
        store: DesiredState,
        cluster: ClusterConfig,
        *,
        files: EdgeFiles,
        secret: str,
        max_body_bytes: int,
        edge_id: str | None = None,
    ) -> None:
        self.edge_id = edge_id or f"{socket.gethostname()}:{cluster.ports.edge}"
        self._store = store
        self._cluster = cluster
        self._files = files
        self._secret = secret
        self._max_body_bytes = max_body_bytes
        self._process = EdgeProcess(files, address=(cluster.host, cluster.ports.edge))
        self._observed = _Observed()
        self._hint_mtime = self._read_hint()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._polls = threading.Condition()
        self._num_asked = 0
        self._num_answered = 0
        self._thread = threading.Thread(target=self._run, name="edge", daemon=True)

    def start(self) -> None:
        """Make one round, then go on in the background whatever came of it: `status` tells."""
        self._round_safely()
        self._thread.start()

    def stop(self) -> None:
        """End the loop and HAProxy."""
        self.detach()
        self._process.stop()

    def detach(self) -> None:
        """End the loop and leave HAProxy running, for the next loop to take over."""
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(STOP_TIMEOUT_S)

    def poll_now(self, timeout_s: float = 5.0) -> bool:
        """Read the store and apply what is new; True once a round that began after this call is over."""
        with self._polls:
            self._num_asked += 1
            ticket = self._num_asked
            self._wake.set()
            return self._polls.wait_for(lambda: self._num_answered >= ticket, timeout_s)

    def status(self) -> dict[str, Any]:
        """What is applied, and how old the knowledge of it is."""
        observed = self._observed
        return {
            "edge_id": self.edge_id,
            "address": f"{self._cluster.host}:{self._cluster.ports.edge}",
            "pid": observed.pid,
            "generations": {name: endpoint.generation for name, endpoint in observed.applied.items()},
            "green_shares": {name: endpoint.green_share for name, endpoint in observed.applied.items()},
            "staleness_s": None if observed.read_at is None else round(time.time() - observed.read_at, 3),
            "store_error": observed.store_error,
            "process_error": observed.process_error,
            "num_starts": observed.num_starts,
        }

    # -- the loop --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wait_for_round()
            if self._stopping.is_set():
                return
            self._wake.clear()
            with self._polls:
                answered = self._num_asked
            self._round_safely()
            with self._polls:
                self._num_answered = answered
                self._polls.notify_all()

    def _wait_for_round(self) -> None:
        """Until the next poll is due, somebody asks, a hint comes or HAProxy dies."""
        deadline = time.monotonic() + self._cluster.edge_poll_s * random.uniform(0.8, 1.2)
        while time.monotonic() < deadline:
            if self._wake.wait(HINT_CHECK_S):
                return
            if (mtime := self._read_hint()) != self._hint_mtime:
                self._hint_mtime = mtime
                return
            if self._observed.pid is not None and not self._process.is_alive(self._observed.pid):
                return

    def _round_safely(self) -> None:
        try:
            self._round()
        except Exception as error:
            self._observed.process_error = f"{type(error).__name__}: {error}"
            logger.exception("the edge's round failed")

    def _round(self) -> None:
        wanted = self._read_wanted()
        applied = self._observed.applied
        is_new = any(name not in applied or wanted[name].generation > applied[name].generation for name in wanted)
        is_running = self._observed.pid is not None and self._process.is_alive(self._observed.pid)
        if is_new or not is_running:
            self._apply(wanted, is_running=is_running)
        is_due = time.time() - self._observed.acknowledged_at >= HEARTBEAT_S
        if self._observed.process_error is None and (is_new or is_due):
            self._acknowledge()

    def _read_wanted(self) -> dict[str, EndpointState]:
        """What is applied, with every endpoint replaced of which the store has a higher generation."""
        wanted = dict(self._observed.applied)
        try:
            endpoints = self._store.endpoints()
        except UnreachableError as error:
            self._observed.store_error = str(error)
            return wanted
        self._observed.store_error = None
        self._observed.read_at = time.time()
        for endpoint in endpoints:
            known = wanted.get(endpoint.name)
            if known is None or endpoint.generation > known.generation:
                wanted[endpoint.name] = endpoint
        return wanted

    def _apply(self, wanted: dict[str, EndpointState], *, is_running: bool) -> None:
        config, shares = self._render(wanted)
        try:
            if is_running:
                self._process.apply(config, shares)
            else:
                self._observed.pid = self._process.start(config, shares)
                self._observed.num_starts += 1
        except (TealError, OSError) as error:
            message = str(error)
            if message != self._observed.process_error:
                logger.warning("edge: %s", message)
            self._observed.process_error = message
            return
        self._observed.process_error = None
        self._observed.applied = wanted

    def _render(self, wanted: dict[str, EndpointState]) -> tuple[str, str]:
        if self._observed.store_error is not None and not wanted and self._files.config.exists():
            # Started while the store is away: what the last edge applied is better than nothing.
            return self._files.config.read_text(), self._files.shares.read_text()
        endpoints = [wanted[name] for name in sorted(wanted)]
        config = render_config(
            endpoints,
            self._cluster,
            files=self._files,
            secret=self._secret,
            max_body_bytes=self._max_body_bytes,
        )
        return config, render_shares(endpoints)

    def _acknowledge(self) -> None:
        generations = {name: endpoint.generation for name, endpoint in self._observed.applied.items()}
        now = time.time()
        try:
            self._store.acknowledge(self.edge_id, generations, now)
        except TealError as error:
            self._observed.store_error = str(error)
            return
        self._observed.acknowledged_at = now

    def _read_hint(self) -> int:
        try:
            return self._files.hint.stat().st_mtime_ns
        except OSError:
            return 0
