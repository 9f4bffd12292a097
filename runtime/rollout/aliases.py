"""MLflow's `champion` after a promotion. The store is the truth; what MLflow shows follows through the outbox.

The message is stored with the promotion itself, so a kill loses none, and a locked MLflow is asked again later.
"""

import logging
from collections.abc import Callable

from runtime.store.control import ControlStore

logger = logging.getLogger(__name__)

TOPIC = "alias"
CONSUMER = "mlflow-aliases"
FIRST_RETRY_S, MAX_RETRY_S = 2.0, 300.0
GIVE_UP_S = 86_400.0

SetAlias = Callable[[str, str, int], None]
"""Of a model, an alias and a version, in MLflow alone. Raises whatever MLflow's trouble is."""


def announce_alias(store: ControlStore, name: str, alias: str, version: int, *, at: float) -> None:
    """Within the transaction that sets it in the store."""
    store.enqueue(TOPIC, {"name": name, "alias": alias, "version": version}, at=at)


class AliasProjection:
    """Delivers in order of change, each at least once; twice does no harm."""

    def __init__(self, store: ControlStore, set_alias: SetAlias) -> None:
        self._store = store
        self._set_alias = set_alias

    def subscribe(self) -> None:
        self._store.subscribe(CONSUMER, [TOPIC])

    def deliver_due(self, now: float) -> int:
        """How many messages were delivered. `now` is seconds since 1970."""
        num_delivered = 0
        for message in self._store.pending(CONSUMER, now=now):
            name, alias = str(message.payload["name"]), str(message.payload["alias"])
            # What holds now, not then: a message that comes again, or late, must not bring back an old champion.
            model = self._store.alias(name, alias)
            try:
                if model is not None:
                    self._set_alias(name, alias, model.version)
            except Exception as error:  # noqa: BLE001 - MLflow raises what its database raises
                if now - message.created_at > GIVE_UP_S:
                    self._store.delivered(message.id)
                    logger.error("MLflow never took %s@%s and is not asked again: %s", name, alias, error)
                    continue
                wait_s = min(MAX_RETRY_S, FIRST_RETRY_S * 2.0 ** min(message.num_attempts, 20))
                self._store.failed(message.id, str(error), now + wait_s)
                logger.warning("MLflow does not take %s@%s: %s", name, alias, error)
                continue
            self._store.delivered(message.id)
            num_delivered += 1
        return num_delivered
