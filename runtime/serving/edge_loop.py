"""The edge's controller: reads desired state, makes HAProxy serve it, keeps HAProxy alive, acknowledges. No Ray.

Each round re-reads what is and acts on it, so it may be killed anywhere. If the store is away the last good state
stays, and `status` says how old it is.
"""

import logging
import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from runtime.config.cluster import ClusterConfig
from runtime.config.serving import EdgeConfig, ServingConfig
from runtime.core.clock import utc_now
from runtime.core.errors import TealError, UnreachableError
from runtime.serving.edge_config import render_config
from runtime.serving.edge_counters import EdgeLife, read_lives
from runtime.serving.edge_files import EdgeFiles
from runtime.serving.edge_limits import complete_limits, limits_value
from runtime.serving.edge_nodes import edge_id_of
from runtime.serving.edge_placement import Placement
from runtime.serving.edge_policy import EdgePolicy, parse_map
from runtime.serving.edge_process import EdgeProcess, Maps
from runtime.serving.edge_shares import share_value
from runtime.serving.edge_tls import Certificates
from runtime.serving.registration import STALE_S
from runtime.store.principals import Grant
from runtime.store.records import EdgeLimits, EndpointState, Replica

logger = logging.getLogger(__name__)

HINT_CHECK_S = 0.025
HEARTBEAT_S = 1.0
"""How often generations are acknowledged again, as a sign of life."""
STOP_TIMEOUT_S = 20.0


@dataclass(kw_only=True, slots=True)
class _Observed:
    applied: dict[str, EndpointState] = field(default_factory=dict)
    replicas: list[Replica] = field(default_factory=list)
    grants: tuple[Grant, ...] = ()
    limits: tuple[EdgeLimits, ...] = ()
    applied_limits: tuple[EdgeLimits, ...] | None = None
    access: dict[str, str] | None = None
    """The grants' map as it was applied."""
    certificate: str | None = None
    pid: int | None = None
    read_at: float | None = None
    """When the store was last read, seconds since 1970."""
    acknowledged_at: float = 0.0
    store_error: str | None = None
    process_error: str | None = None
    place_error: str | None = None
    num_starts: int = 0


class DesiredState(Protocol):
    """What the edge needs of the control store."""

    def generations(self) -> Mapping[str, int]:
        """UnreachableError if the store is away; so do the others."""

    def endpoints(self) -> list[EndpointState]: ...

    def replicas(self) -> list[Replica]: ...

    def grants(self) -> list[Grant]: ...

    def edge_limits(self) -> list[EdgeLimits]: ...

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
        serving: ServingConfig,
        edge: EdgeConfig | None = None,
        edge_id: str | None = None,
        serve_hosts: Sequence[str] = (),
    ) -> None:
        """`edge_id`: by default that of an edge on a machine of its own. `serve_hosts`: see `render_config`."""
        self.edge_id = edge_id or edge_id_of(cluster, None)
        self._serve_hosts = tuple(serve_hosts)
        self._store = store
        self._cluster = cluster
        self._files = files
        self._secret = secret
        self._serving = serving
        self._edge = edge or EdgeConfig()
        self._certificates = Certificates(self._edge, files)
        self._host = self._edge.host or cluster.host
        self._process = EdgeProcess(files, address=(self._host, cluster.ports.edge), grpc_port=cluster.ports.edge_grpc)
        self._observed = _Observed()
        self._placement = Placement()
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

    def read_lives(self, apps: Sequence[str]) -> list[EdgeLife]:
        """What its clients saw of these backends. OSError or TealError if HAProxy does not tell. For any thread."""
        process = EdgeProcess(self._files, address=(self._host, self._cluster.ports.edge))
        return read_lives(process, self.edge_id, apps)

    def status(self) -> dict[str, Any]:
        """What is applied, and how old the knowledge of it is."""
        observed = self._observed
        return {
            "edge_id": self.edge_id,
            "address": f"{self._host}:{self._cluster.ports.edge}",
            "pid": observed.pid,
            "generations": {name: endpoint.generation for name, endpoint in observed.applied.items()},
            "replicas": self._placement.told(),
            "green_shares": {name: endpoint.green_share for name, endpoint in observed.applied.items()},
            "staleness_s": None if observed.read_at is None else round(time.time() - observed.read_at, 3),
            "store_error": observed.store_error,
            "process_error": observed.process_error,
            "place_error": observed.place_error,
            "num_grants": len(observed.grants),
            "certificate_error": self._certificates.error,
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
        access = self._policy().entries(utc_now())
        try:
            certificate = self._certificates.current()
        except TealError as error:
            self._note_failure(error)
            return
        observed = self._observed
        # With the store away those last known stay.
        self._placement.want(wanted.values(), observed.replicas, alive_since=(observed.read_at or 0.0) - STALE_S)
        is_changed = self._placement.is_short or (access, certificate, observed.limits) != (
            observed.access,
            observed.certificate,
            observed.applied_limits,
        )
        if is_new or is_changed or not is_running:
            self._apply(wanted, access, certificate, is_running=is_running)
        if self._observed.process_error is None:
            self._place_replicas()
        is_due = time.time() - self._observed.acknowledged_at >= HEARTBEAT_S
        if self._observed.process_error is None and (is_new or is_due):
            self._acknowledge()

    def _read_wanted(self) -> dict[str, EndpointState]:
        """What is applied, with every endpoint replaced of which the store has a higher generation."""
        wanted = dict(self._observed.applied)
        try:
            generations = self._store.generations()
            is_new = any(name not in wanted or generations[name] > wanted[name].generation for name in generations)
            endpoints = self._store.endpoints() if is_new else []
            self._observed.replicas = self._store.replicas()
            self._observed.grants = tuple(self._store.grants())
            self._observed.limits = tuple(self._store.edge_limits())
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

    def _policy(self) -> EdgePolicy:
        return EdgePolicy(
            grants=self._observed.grants,
            require_token=self._edge.require_token,
            anonymous_rate=self._edge.anonymous_rate,
        )

    def _apply(
        self, wanted: dict[str, EndpointState], access: dict[str, str], certificate: str | None, *, is_running: bool
    ) -> None:
        config, maps = self._render(wanted, access, certificate)
        try:
            if is_running:
                is_new_worker = self._process.apply(config, maps)
            else:
                if self._process.find() is not None:
                    self._placement.distrust()
                self._observed.pid = self._process.start(config, maps)
                self._observed.num_starts += 1
                is_new_worker = True
        except (TealError, OSError) as error:
            self._note_failure(error)
            return
        self._placement.declare(is_new_worker=is_new_worker)
        self._observed.process_error = None
        self._observed.applied = wanted
        # What the last edge left behind holds only until the store answers, whatever that says.
        is_left_behind = self._observed.store_error is not None and not wanted
        self._observed.access = None if is_left_behind else access
        self._observed.certificate = certificate
        self._observed.applied_limits = self._observed.limits

    def _note_failure(self, error: Exception) -> None:
        message = str(error)
        if message != self._observed.process_error:
            logger.warning("edge: %s", message)
        self._observed.process_error = message

    def _place_replicas(self) -> None:
        try:
            self._placement.tell(self._process)
        except (TealError, OSError) as error:
            self._observed.place_error = str(error)
            return
        self._observed.place_error = None

    def _render(
        self, wanted: dict[str, EndpointState], access: dict[str, str], certificate: str | None
    ) -> tuple[str, Maps]:
        files = self._files
        if self._observed.store_error is not None and not wanted and files.config.exists():
            # Started while the store is away: what the last edge applied is better than nothing.
            return files.config.read_text(), {
                path: parse_map(path.read_text())
                for path in (files.shares, files.grants, files.limits)
                if path.exists()
            }
        endpoints = [wanted[name] for name in sorted(wanted)]
        limits = complete_limits(endpoints, self._observed.limits, self._serving)
        config = render_config(
            endpoints,
            self._cluster,
            files=files,
            secret=self._secret,
            serving=self._serving,
            limits=limits,
            edge=self._edge,
            certificate=certificate,
            serve_hosts=self._serve_hosts,
            num_places=self._placement.num_places,
        )
        shares = {endpoint.name: share_value(endpoint) for endpoint in endpoints}
        held_to = {name: limits_value(of_one) for name, of_one in limits.items()}
        return config, {files.shares: shares, files.limits: held_to, files.grants: access}

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
