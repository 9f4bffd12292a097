"""What an edge and a replica promise to callers whom they do not know: the OpenAPI document, and no fault of theirs."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from random import SystemRandom

import pytest
from hypothesis import settings

from runtime.serving.edge_counters import read_lives
from tests.malformed_run import ask_malformed
from tests.serving_example import example_row
from tests.serving_protocols import row_json
from tests.serving_slot import INFER, PREDICT, Slot, running_slot
from tests.slot_process import ENDPOINT, SLOT

NUM_MALFORMED, NUM_FUZZ_MALFORMED = 2000, 50_000
NUM_EXAMPLES = 12
NUM_FUZZ_EXAMPLES = 300
SCHEMATHESIS_LIMIT_S = 900
OPERATIONS_BY_EDGE_AND_REPLICA = 13

# 408 is the caller's own deadline. That tensors must fit together is nothing that a JSON Schema can say.
CONFIGURATION = """
[checks]
negative_data_rejection.expected-statuses = ["400", "401", "403", "404", "405", "408", "413", "415", "422", "429"]
positive_data_acceptance.expected-statuses = ["2xx", "401", "403", "404", "408", "429"]

[[operations]]
include-operation-id-regex = "^modelInfer"
checks.positive_data_acceptance.enabled = false
"""


@pytest.fixture(scope="module")
def slot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slot]:
    with running_slot(tmp_path_factory.mktemp("slot")) as slot:
        yield slot


def is_fuzz() -> bool:
    """Whether `make fuzz` looks for what nobody has seen yet."""
    return settings.get_current_profile_name() == "fuzz"


def test_the_openapi_document_is_true(slot: Slot, tmp_path: Path) -> None:
    """Schemathesis with all of its checks: statuses, bodies and headers, what is refused and what is taken."""
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    command = [sys.executable, "-m", "schemathesis.cli", "--no-color", "run", f"{slot.url}/v1/openapi.json"]
    command += ["--url", slot.url, "--suppress-health-check", "all"]
    if is_fuzz():
        command += ["--max-examples", str(NUM_FUZZ_EXAMPLES)]
    else:
        command += ["--max-examples", str(NUM_EXAMPLES), "--seed", "1", "--generation-deterministic"]
        command += ["--phases", "examples,coverage,fuzzing"]
    environment = os.environ | {"PYTHONPATH": str(Path.cwd()), "SCHEMATHESIS_HOOKS": "tests.schemathesis_hooks"}
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=SCHEMATHESIS_LIMIT_S,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert f"Tested: {OPERATIONS_BY_EDGE_AND_REPLICA}" in done.stdout, done.stdout


def test_malformed_requests_are_the_callers_fault(slot: Slot) -> None:
    before = slot.pids()
    seed = SystemRandom().randrange(1 << 30) if is_fuzz() else 7
    outcome = ask_malformed(slot, NUM_FUZZ_MALFORMED if is_fuzz() else NUM_MALFORMED, seed=seed)
    assert outcome.num_asked >= NUM_MALFORMED
    assert outcome.faults == {}, "\n".join([f"seed {seed}", *outcome.examples])
    assert slot.pids() == before
    assert None not in before.values()
    assert "Traceback" not in slot.log.read_text()
    asked = {status.rpartition(" ")[0] for status in outcome.statuses}
    assert {"rows", "feedback", "tensors", "binary tensors", "arrow bytes", "framing", "grpc bytes"} <= asked


def ask(slot: Slot, method: str, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = HTTPConnection(slot.host, slot.port, timeout=20)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, row_json([example_row(0)]) if method == "POST" else None, named)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, {name.lower(): value for name, value in response.getheaders()}, body


def errors(slot: Slot) -> float:
    app = f"{ENDPOINT}-{SLOT}"
    return sum(life.apps[app]["errors"][0] for life in read_lives(slot.loop._process, "edge", [app]))


def test_a_wait_that_the_caller_limited_is_no_error_of_the_slot(slot: Slot) -> None:
    """A 504 counts against a canary, and any caller may send a millisecond."""
    before = errors(slot)
    os.kill(slot.replica.pid, signal.SIGSTOP)
    try:
        for path in (PREDICT, INFER):
            status, _, body = ask(slot, "POST", path, content_type="application/json", x_timeout_ms="5")
            assert (status, b'"code": "deadline"' in body) == (408, True), body
    finally:
        os.kill(slot.replica.pid, signal.SIGCONT)
    assert errors(slot) == before


@pytest.mark.parametrize("path", ["/v2", "/v1/models", "/v2/health/live", "/v2/health/ready", "/-/metrics"])
def test_what_the_edge_answers_itself_is_read_only(slot: Slot, path: str) -> None:
    assert ask(slot, "GET", path)[0] == 200
    assert ask(slot, "HEAD", path)[::2] == (200, b"")
    for method in ("POST", "PUT", "DELETE", "TRACE"):
        status, headers, _ = ask(slot, method, path)
        assert (status, headers["allow"]) == (405, "GET,HEAD")
