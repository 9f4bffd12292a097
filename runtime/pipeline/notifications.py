"""The detached Ray actor "teal-notifier": empties the outbox to the configured receivers. Not there without any."""

import logging
import threading
import time
from typing import Any

from runtime.cluster.nodes import ON_HEAD
from runtime.config.schema import Config
from runtime.core.errors import TealError
from runtime.governance.notify import Notifier
from runtime.store.control import ControlStore
from runtime.telemetry.logs import configure_logging

logger = logging.getLogger(__name__)

ACTOR_NAME = "teal-notifier"
NAMESPACE = "teal"


class NotifierActor:
    """Killed at any point, Ray starts it again; what was not marked delivered is sent once more."""

    def __init__(self, config: Config) -> None:
        configure_logging()
        self._poll_s = config.notify.poll_s
        self._notifier = Notifier(store=ControlStore.of(config.paths), config=config.notify)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="teal-notifier", daemon=True)
        self._thread.start()

    def ready(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopped.wait(self._poll_s):
            try:
                self._notifier.deliver_due(time.time())
            except TealError as error:
                # The store is away or contended: the outbox keeps what is due, and the next round takes it.
                logger.error("the outbox cannot be read", extra={"reason": str(error)})


def start_notifier(config: Config, store: ControlStore) -> bool:
    """Subscribe the configured receivers; with any, start the actor on the joined cluster. True if it runs now."""
    import ray

    Notifier(store=store, config=config.notify).subscribe()
    if not config.notify.sinks:
        return False
    options: dict[str, Any] = dict(name=ACTOR_NAME, namespace=NAMESPACE, lifetime="detached", get_if_exists=True)
    actor = ray.remote(NotifierActor).options(**options, num_cpus=0.05, resources=ON_HEAD, max_restarts=-1)
    handle: Any = actor.remote(config)
    return bool(ray.get(handle.ready.remote(), timeout=config.cluster.start_timeout_s))
