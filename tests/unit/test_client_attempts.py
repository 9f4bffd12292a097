"""Which failures are tried again, after how long, and what is raised when they are not. A clock moved by hand."""

import json
import pickle
from typing import Any

import pytest

from runtime.client import errors
from runtime.client.attempts import Attempts
from runtime.client.exchange import Fault, Garbled, Late, Lost, RawAnswer, Request, Unreached, Untrusted
from runtime.client.retry import RetryBudget, RetryPolicy
from runtime.core.errors import ContractError, NotFoundError, RefusedError, TealError, UnreachableError, UsageError

REQUEST = Request(method="POST", path="/", headers={"x-request-id": "one"})


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def start(
    clock: Clock | None = None,
    *,
    timeout_s: float = 10.0,
    policy: RetryPolicy | None = None,
    budget: RetryBudget | None = None,
    rows: list[Any] | None = None,
    drawn: float = 0.5,
) -> Attempts:
    policy = policy or RetryPolicy(base_s=0.2, cap_s=1.0)
    return Attempts(
        REQUEST,
        policy=policy,
        budget=budget or RetryBudget(policy),
        timeout_s=timeout_s,
        rows=rows or [],
        clock=clock or Clock(),
        draw=lambda: drawn,
    )


def refused(status: int, code: str = "c", field: str | None = None, **headers: str) -> RawAnswer:
    error = {"code": code, "message": "because", "field": field}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return RawAnswer(status=status, headers=named, body=json.dumps({"error": error}).encode())


def test_each_attempt_is_told_the_time_that_is_left() -> None:
    clock = Clock()
    attempts = start(clock, timeout_s=2.5)
    assert attempts.begin().headers == {"x-request-id": "one", "x-timeout-ms": "2500"}
    clock.now += 1.25
    attempts.fault(Lost("x"))
    assert attempts.begin().headers == {"x-request-id": "one", "x-timeout-ms": "1250"}
    clock.now += 1.2495
    assert attempts.begin().headers["x-timeout-ms"] == "1"
    clock.now += 0.001
    with pytest.raises(errors.DeadlineExceeded, match=r"within 2.5 s and 3 attempts") as caught:
        attempts.begin()
    assert caught.value.num_attempts == 3


@pytest.mark.parametrize("fault", [Unreached("refused"), Lost("reset")])
def test_a_broken_connection_is_tried_again_until_the_attempts_are_used_up(fault: Fault) -> None:
    attempts = start()
    pauses = []
    for _ in range(3):
        attempts.begin()
        pauses.append(attempts.fault(fault))
    assert pauses == [0.1, 0.2, 0.4]
    attempts.begin()
    with pytest.raises(errors.Unavailable, match=str(fault)) as caught:
        attempts.fault(fault)
    assert (caught.value.num_attempts, caught.value.request_id, caught.value.status) == (4, "one", None)
    assert caught.value.__cause__ is fault


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Late(""), errors.DeadlineExceeded),
        (Garbled("x"), errors.InvalidAnswer),
        (Untrusted("self-signed"), errors.Unavailable),
    ],
)
def test_what_would_fail_again_is_not_tried_again(fault: Fault, kind: type[errors.RequestFailed]) -> None:
    attempts = start()
    attempts.begin()
    with pytest.raises(kind):
        attempts.fault(fault)


@pytest.mark.parametrize("status", [502, 503, 504])
def test_an_edge_without_replicas_is_asked_again(status: int) -> None:
    attempts = start()
    attempts.begin()
    assert attempts.refusal(refused(status)) == 0.1


def test_the_pause_that_an_answer_asks_for_is_kept_and_jitter_added() -> None:
    attempts = start()
    attempts.begin()
    assert attempts.refusal(refused(429, retry_after="3")) == 3.1
    attempts.begin()
    assert attempts.refusal(refused(503, retry_after="1")) == 1.2


@pytest.mark.parametrize("headers", [{}, {"retry_after": "soon"}, {"retry_after": "-1"}, {"retry_after": "nan"}])
def test_a_limit_without_an_end_is_not_tried_again(headers: dict[str, str]) -> None:
    attempts = start()
    attempts.begin()
    with pytest.raises(errors.TooManyRequests) as caught:
        attempts.refusal(refused(429, **headers))
    assert caught.value.retry_after_s is None


def test_nobody_waits_for_an_attempt_past_the_deadline() -> None:
    attempts = start(timeout_s=3.0)
    attempts.begin()
    with pytest.raises(errors.TooManyRequests) as caught:
        attempts.refusal(refused(429, retry_after="3"))
    assert caught.value.retry_after_s == 3.0
    assert "past the deadline" in caught.value.__notes__[0]


def fail_until_it_ends(attempts: Attempts) -> None:
    while True:
        attempts.begin()
        attempts.fault(Lost("x"))


def test_a_spent_budget_ends_the_attempts_of_every_call() -> None:
    policy = RetryPolicy(base_s=0, budget=0.1, reserve=2)
    budget = RetryBudget(policy)
    num_attempts = 0
    for _ in range(100):
        attempts = start(policy=policy, budget=budget)
        with pytest.raises(errors.Unavailable):
            fail_until_it_ends(attempts)
        num_attempts += attempts.num_attempts
    assert 100 + 2 + 9 <= num_attempts <= 100 + 2 + 10


@pytest.mark.parametrize(
    ("status", "kind", "base", "exit_code"),
    [
        (400, errors.BadRequest, UsageError, 2),
        (401, errors.Unauthenticated, RefusedError, 3),
        (403, errors.Forbidden, RefusedError, 3),
        (404, errors.NotFound, NotFoundError, 2),
        (405, errors.BadRequest, UsageError, 2),
        (408, errors.DeadlineExceeded, UnreachableError, 4),
        (413, errors.BadRequest, UsageError, 2),
        (415, errors.BadRequest, UsageError, 2),
        (422, errors.ContractViolated, ContractError, 2),
        (500, errors.ServerFailed, TealError, 1),
        (204, errors.InvalidAnswer, TealError, 1),
        (302, errors.InvalidAnswer, TealError, 1),
        (418, errors.InvalidAnswer, TealError, 1),
    ],
)
def test_each_cause_is_an_error_of_its_own(
    status: int, kind: type[errors.RequestFailed], base: type[TealError], exit_code: int
) -> None:
    attempts = start()
    attempts.begin()
    with pytest.raises(kind, match="because") as caught:
        attempts.refusal(refused(status, "word", "hour", x_request_id="theirs"))
    error = caught.value
    assert type(error) is kind
    assert isinstance(error, base)
    assert (error.exit_code, error.status, error.code, error.field) == (exit_code, status, "word", "hour")
    assert error.request_id == "theirs"


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b'{"error": "text"}', b'{"error": {"message": 1}}', b"[" * 9000]
)
def test_an_error_that_is_not_teals_is_raised_all_the_same(body: bytes) -> None:
    attempts = start()
    attempts.begin()
    with pytest.raises(errors.ServerFailed, match="HTTP 500 without"):
        attempts.refusal(RawAnswer(status=500, headers={}, body=body))


def test_a_broken_contract_names_column_and_value() -> None:
    attempts = start(rows=[{"hour": 25}])
    attempts.begin()
    with pytest.raises(errors.ContractViolated) as caught:
        attempts.refusal(refused(422, "contract", "hour"))
    error = caught.value
    assert (error.column, error.row, error.value) == ("hour", 0, 25)
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.column, copy.value, copy.status) == ("because", "hour", 25, 422)


def test_rows_that_are_wrong_as_a_whole_have_no_column() -> None:
    attempts = start(rows=[{"hour": 25}])
    attempts.begin()
    with pytest.raises(errors.ContractViolated) as caught:
        attempts.refusal(refused(422, "contract", "instances"))
    assert (caught.value.column, caught.value.value) == (None, None)


@pytest.mark.parametrize("rows", [[{"hour": 1}, {"hour": 2}], [5], []])
def test_a_value_that_cannot_be_told_is_left_out(rows: list[Any]) -> None:
    attempts = start(rows=rows)
    attempts.begin()
    with pytest.raises(errors.ContractViolated) as caught:
        attempts.refusal(refused(422, "contract", "hour"))
    assert caught.value.value is None


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf")])
def test_a_wrong_timeout_is_refused(timeout_s: float) -> None:
    with pytest.raises(UsageError, match="timeout_s must be above 0"):
        start(timeout_s=timeout_s)
