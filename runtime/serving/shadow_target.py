"""Whom a replica asks in the shadow: the other slot's replicas, as the control store knows them. No Ray."""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import Protocol

import aiohttp

from runtime.core.errors import TealError
from runtime.serving.edge_servers import Address, wanted_addresses
from runtime.serving.edge_shares import app_name
from runtime.serving.registration import STALE_S
from runtime.serving.shadow import HEADER
from runtime.store.records import EndpointState, Replica, Slot, other_slot

logger = logging.getLogger(__name__)

REFRESH_S = 2.0
TIMEOUT_S = 2.0


class EndpointRows(Protocol):
    """What is needed of the control store; each call may raise TealError."""

    def endpoint(self, name: str) -> EndpointState: ...

    def replicas(self, endpoint: str | None = None) -> list[Replica]: ...


class ShadowTarget:
    """Sends to the other slot while this one is the primary and the other has replicas. For one event loop."""

    def __init__(self, store: EndpointRows, *, endpoint: str, slot: Slot, secret: str) -> None:
        self._store = store
        self._endpoint = endpoint
        self._slot = slot
        self._headers = {"x-teal-edge": secret, HEADER: "1"}
        self._addresses: list[Address] = []
        self._session: aiohttp.ClientSession | None = None

    async def send(self, body: bytes, content_type: str) -> tuple[int, bytes]:
        """OSError, TimeoutError or aiohttp's error if the replica that was picked does not answer."""
        host, port = random.choice(self._addresses)
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S), headers=self._headers)
        url = f"http://{host}:{port}/v1/models/{self._endpoint}:predict"
        async with self._session.post(url, data=body, headers={"content-type": content_type}) as response:
            return response.status, await response.read()

    async def watch(self, on_change: Callable[[bool], None]) -> None:
        """Keep the addresses true until cancelled; tells whether there is anybody to ask."""
        try:
            while True:
                had = bool(self._addresses)
                try:
                    self._addresses = await asyncio.to_thread(self._read)
                except TealError as error:
                    logger.warning("the shadow keeps its last addresses: %s", error)
                if bool(self._addresses) != had:
                    on_change(bool(self._addresses))
                await asyncio.sleep(REFRESH_S)
        finally:
            if self._session is not None:
                await self._session.close()

    def _read(self) -> list[Address]:
        state = self._store.endpoint(self._endpoint)
        if state.primary != self._slot:
            return []
        wanted = wanted_addresses([state], self._store.replicas(self._endpoint), alive_since=time.time() - STALE_S)
        return wanted.get(app_name(self._endpoint, other_slot(self._slot)), [])
