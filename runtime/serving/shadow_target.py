"""Whom a replica asks in the shadow: the other slot's replicas, as the control store knows them. No Ray."""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import aiohttp

from runtime.core.errors import TealError
from runtime.serving.edge_servers import Address, wanted_addresses
from runtime.serving.edge_shares import app_name
from runtime.serving.registration import STALE_S
from runtime.serving.shadow import HEADER, Asked
from runtime.store.records import EndpointState, Replica, Slot, other_slot

logger = logging.getLogger(__name__)

REFRESH_S = 2.0
TIMEOUT_S = 2.0


class EndpointRows(Protocol):
    """What is needed of the control store; each call may raise TealError."""

    def endpoint(self, name: str) -> EndpointState: ...

    def replicas(self, endpoint: str | None = None) -> list[Replica]: ...

    def shadow_asked(self, endpoint: str) -> tuple[str, float] | None: ...

    def record_shadow(self, rollout_id: str, replica: str, counts: Mapping[str, Any], *, at: float) -> bool: ...


class ShadowTarget:
    """Sends to the other slot while this one is the primary, the other has replicas, and a rollout or the configuration
    wants it. For one event loop."""

    def __init__(
        self, store: EndpointRows, *, endpoint: str, slot: Slot, secret: str, replica_id: str, fraction: float = 0.0
    ) -> None:
        """`fraction`: of the requests that are asked while no rollout says otherwise."""
        self._store = store
        self._endpoint = endpoint
        self._slot = slot
        self._replica_id = replica_id
        self._fraction = fraction
        self._headers = {"x-teal-edge": secret, HEADER: "1"}
        self._addresses: list[Address] = []
        self._session: aiohttp.ClientSession | None = None

    async def send(self, body: bytes, content_type: str, traceparent: str | None = None) -> tuple[int, bytes]:
        """OSError, TimeoutError or aiohttp's error if the replica that was picked does not answer."""
        host, port = random.choice(self._addresses)
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S), headers=self._headers)
        url = f"http://{host}:{port}/v1/models/{self._endpoint}:predict"
        headers = {"content-type": content_type} | ({"traceparent": traceparent} if traceparent else {})
        async with self._session.post(url, data=body, headers=headers) as response:
            return response.status, await response.read()

    async def watch(self, on_change: Callable[[Asked | None], None], read_counts: Callable[[], dict[str, Any]]) -> None:
        """Keep the addresses true until cancelled; tells what is to be asked, None where nothing is or nobody there.

        A rollout in whose shadow this is gets `read_counts`, what was counted since `on_change`, again and again.
        """
        asked: Asked | None = None
        try:
            while True:
                try:
                    if asked is not None and asked.rollout is not None:
                        await asyncio.to_thread(self._record, asked.rollout, read_counts())
                    wanted, self._addresses = await asyncio.to_thread(self._read)
                    if wanted != asked:
                        asked = wanted
                        on_change(asked)
                except TealError as error:
                    logger.warning("the shadow keeps its last addresses: %s", error)
                await asyncio.sleep(REFRESH_S)
        finally:
            if self._session is not None:
                await self._session.close()

    def _record(self, rollout: str, counts: dict[str, Any]) -> None:
        self._store.record_shadow(rollout, self._replica_id, counts, at=time.time())

    def _read(self) -> tuple[Asked | None, list[Address]]:
        state = self._store.endpoint(self._endpoint)
        if state.primary != self._slot:
            return None, []
        of_rollout = self._store.shadow_asked(self._endpoint)
        asked = Asked(self._fraction) if of_rollout is None else Asked(of_rollout[1], of_rollout[0])
        if not asked.fraction:
            return None, []
        wanted = wanted_addresses([state], self._store.replicas(self._endpoint), alive_since=time.time() - STALE_S)
        addresses = wanted.get(app_name(self._endpoint, other_slot(self._slot)), [])
        return (asked if addresses else None), addresses
