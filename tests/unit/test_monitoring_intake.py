"""Many who wait for one write: each is told of one that began after it asked, also when it failed."""

import threading
from concurrent.futures import Future

import pytest

from runtime.monitoring.intake import Intake


class Gate:
    """A write that lasts until it is let through; it may fail."""

    def __init__(self) -> None:
        self.began = threading.Semaphore(0)
        self.may_end = threading.Semaphore(0)
        self.fails = False

    def write(self) -> None:
        self.began.release()
        assert self.may_end.acquire(timeout=10)
        if self.fails:
            raise OSError("the store is away")


def ask(intake: Intake) -> "Future[None]":
    return intake.written()


def test_who_asks_during_a_write_waits_for_the_next() -> None:
    gate = Gate()
    intake = Intake(gate.write, spacing_s=0.0)
    intake.start()
    first = ask(intake)
    assert gate.began.acquire(timeout=10)
    second, third = ask(intake), ask(intake)
    assert second is third is not first
    gate.may_end.release()
    first.result(10)
    assert not second.done()
    gate.may_end.release()
    second.result(10)
    intake.close()


def test_one_who_gives_up_cancels_it_for_nobody_else() -> None:
    gate = Gate()
    gate.may_end.release()
    intake = Intake(gate.write, spacing_s=0.0)
    waiting = ask(intake)
    assert not waiting.cancel()
    intake.start()
    waiting.result(10)
    intake.close()


def test_a_failed_write_is_told_and_the_next_one_is_tried() -> None:
    gate = Gate()
    gate.fails = True
    gate.may_end.release()
    intake = Intake(gate.write, spacing_s=0.0)
    intake.start()
    with pytest.raises(OSError, match="the store is away"):
        ask(intake).result(10)
    gate.fails = False
    gate.may_end.release()
    ask(intake).result(10)
    intake.close()


def test_writes_of_many_are_spaced_and_the_end_does_not_wait_for_that() -> None:
    writes: list[int] = []
    intake = Intake(lambda: writes.append(1), spacing_s=3600.0)
    intake.start()
    ask(intake).result(10)
    waiting = [ask(intake) for _ in range(100)]
    assert not any(one.done() for one in waiting)
    intake.close()
    assert all(one.done() for one in waiting)
    assert len(writes) == 2
