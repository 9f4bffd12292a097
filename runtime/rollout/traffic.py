"""Move an endpoint's traffic between its slots. One transaction a call; edges follow and acknowledge.

Knows the store alone: no cluster, no network. That a slot is ready for traffic is checked by the caller.
"""

import getpass
import os
import time
from collections.abc import Mapping

from runtime.core.errors import UnreachableError, UsageError
from runtime.store.control import ControlStore
from runtime.store.records import FULL_SHARE, EndpointState
from runtime.store.rollouts import RolloutStore, check_no_rollout

ACK_POLL_S = 0.01
EDGE_ALIVE_S = 10.0
"""An edge that has not written to the store for so long counts as gone."""
SILENT_S = 2.5
"""Edges write each second: one that has not for so long may be lost."""


def parse_percent(text: str) -> int:
    """Basis points of a percentage such as "10" or "12.5". UsageError outside 0..100 or finer than 0.01."""
    try:
        share = round(float(text.removesuffix("%")) * 100, 6)
    except ValueError:
        raise UsageError(f"a share must be a percentage within 0..100 but got {text!r}") from None
    if not 0 <= share <= FULL_SHARE:
        raise UsageError(f"a share must be within 0..100 % but got {text!r}")
    if share != int(share):
        raise UsageError(f"a share has steps of 0.01 % but got {text!r}")
    return int(share)


def current_actor() -> str:
    """Who runs this command: TEAL_ACTOR, else the login name."""
    return os.environ.get("TEAL_ACTOR") or getpass.getuser()


def shift(
    store: RolloutStore,
    endpoint: str,
    share: int,
    *,
    actor: str,
    reason: str = "",
    generation: int | None = None,
    force: bool = False,
) -> tuple[EndpointState, bool]:
    """Give the canary `share` basis points. The flag is False if it had them already and nothing was written.

    RefusedError while a rollout moves the endpoint's traffic; `force` ends that as Aborted.
    """
    how = f"shift to {share / 100:g} %"
    with store.superseding(endpoint, actor=actor, how=how, at=time.time()) as active:
        if not force:
            check_no_rollout(active)
        state = store.endpoint(endpoint)
        if state.share == share and generation in (None, state.generation):
            return state, False
        return store.set_share(endpoint, share, actor=actor, reason=reason, expected_generation=generation), True


def rollback(
    store: RolloutStore, endpoint: str, share: int = 0, *, actor: str, reason: str = ""
) -> tuple[EndpointState, bool]:
    """Take the canary back to `share` basis points; a rollout that is under way ends as Aborted in the same moment.

    UsageError if that would give it more than it has.
    """
    how = f"rollback to {share / 100:g} %"
    with store.superseding(endpoint, actor=actor, how=how, at=time.time()):
        state = store.endpoint(endpoint)
        if share > state.share:
            raise UsageError(
                f"the canary of {endpoint!r} has {state.share / 100:g} %: a rollback to {share / 100:g} % would give "
                "it more; use `teal shift`"
            )
        if state.share == share:
            return state, False
        return store.set_share(endpoint, share, actor=actor, action="rollback", reason=reason), True


def wait_acknowledged(store: ControlStore, state: EndpointState, *, timeout_s: float = 5.0) -> float:
    """Wait until every live edge applies this generation or a later one; returns the seconds it took.

    UnreachableError if none is alive or one does not follow: what is desired stands, and edges apply it when back.
    """
    started = time.monotonic()
    while True:
        acknowledged = store.acknowledged(state.name, alive_since=time.time() - EDGE_ALIVE_S)
        if acknowledged and min(acknowledged.values()) >= state.generation:
            return time.monotonic() - started
        if time.monotonic() - started > timeout_s:
            raise UnreachableError(
                f"generation {state.generation} of {state.name!r} is stored, but "
                f"{_who_is_behind(state.generation, acknowledged, store.edge_signs(), time.time(), timeout_s)}; "
                "see `teal status`"
            )
        time.sleep(ACK_POLL_S)


def _who_is_behind(
    generation: int, acknowledged: Mapping[str, int], signs: Mapping[str, float], now: float, timeout_s: float
) -> str:
    """Which edges follow, which do not, and until when those are waited for.

    `signs`: edge to its last sign of life, seconds since 1970.
    """
    if not acknowledged:
        return f"no live edge has acknowledged it within {timeout_s:g} s; the next one to start applies it"
    behind = sorted(edge for edge, found in acknowledged.items() if found < generation)
    follows = sorted(acknowledged.keys() - set(behind))
    by = f"edge {', '.join(follows)} applies it" if follows else "none applies it yet"
    parts = []
    for edge in behind:
        silent_s = max(0.0, now - signs.get(edge, now))
        what = f"edge {edge} has not acknowledged it within {timeout_s:g} s"
        if silent_s < SILENT_S:
            what += " though it lives, and applies it as soon as it can"
        else:
            what += (
                f": silent for {silent_s:.1f} s, it counts as gone in {max(0.0, EDGE_ALIVE_S - silent_s):.1f} s at the "
                "latest, or once Ray calls its node dead, and is waited for no more; should it come back, it applies it"
            )
        parts.append(what)
    return f"{'; '.join(parts)}; {by}"
