"""Deltas of many replicas written together: each waits for one transaction that many share.

It knows neither deltas nor the store.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future


class Intake:
    """One thread, which writes whenever somebody waits, and rests for `spacing_s` in between."""

    def __init__(self, write: Callable[[], None], *, spacing_s: float) -> None:
        self._write = write
        self._spacing_s = spacing_s
        self._next: Future[None] | None = None
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="teal-monitor-writes", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def written(self) -> Future[None]:
        """Done when a write has returned that began after this call; it has the error if that one failed."""
        with self._changed:
            if self._next is None:
                self._next = Future()
                self._next.set_running_or_notify_cancel()  # one who no longer waits must not cancel it for the others
                self._changed.notify()
            return self._next

    def close(self) -> None:
        """Write once more for those who wait, and end the thread."""
        self._closing.set()
        with self._changed:
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._next is not None or self._closing.is_set())
                waiting, self._next = self._next, None
            if waiting is None:
                return
            try:
                self._write()
            except BaseException as error:  # noqa: BLE001 - whoever waits decides
                waiting.set_exception(error)
            else:
                waiting.set_result(None)
            self._closing.wait(self._spacing_s)
