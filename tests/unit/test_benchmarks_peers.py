"""What the peers are measured with is what it says it is: the same model, and a load that keeps its clock."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.open_loop import REFUSED, Asked, OpenLoad, open_loop, run_open_loop
from benchmarks.peers.plain_model import PlainModel
from benchmarks.wrk import Contestant, write_script
from runtime.models.bundle import load_bundle
from tests.misbehaving_server import MisbehavingServer, answer, reset, silence
from tests.serving_example import example_row, save_example_bundle
from tests.waiting import wait_until


def test_the_plain_model_scores_as_the_bundle_does(tmp_path: Path) -> None:
    save_example_bundle(tmp_path / "bundle")
    bundle, plain = load_bundle(tmp_path / "bundle"), PlainModel(tmp_path / "bundle")
    rows: list[dict[str, Any]] = [example_row(seed) for seed in range(50)]
    rows += [example_row(50) | {"hour": None}, example_row(51) | {"carrier": "never seen"}]
    encoded = bundle.encoding.encode_rows(rows, bundle.columns)
    expected = bundle.model.predict(encoded.numeric, encoded.categorical)
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    for tensors in (plain.encode_rows(rows), plain.encode_columns(columns)):
        np.testing.assert_allclose(plain.scores(*tensors), expected, rtol=0, atol=1e-6)


def test_an_open_loop_sends_what_it_says() -> None:
    with MisbehavingServer(answer(200, {}), answer(429, {}), reset, answer(200, {})) as server:
        load = run_open_loop(
            f"{server.url}/p", b"\x00body", {"content-type": "text/x", "x-more": "1"}, rate_per_s=100, duration_s=0.3
        )
    assert load.statuses == {200: 28, 429: 1, 0: 1}
    assert len(server.seen) == 30
    assert {(seen.method, seen.path, seen.body) for seen in server.seen} == {("POST", "/p", b"\x00body")}
    assert (server.seen[0].headers["content-type"], server.seen[0].headers["x-more"]) == ("text/x", "1")


def test_a_request_that_finds_no_free_connection_is_sent_late_and_told() -> None:
    with MisbehavingServer(silence) as server:
        load = run_open_loop(f"{server.url}/p", b"", {}, rate_per_s=20, duration_s=0.1, max_connections=1, drain_s=0.3)
    assert load.statuses == {0: 2}
    assert load.late_share(50.0) == 0.5
    assert load.lag_percentile_ms(0.0) < 50.0 < load.lag_percentile_ms(1.0)


def test_a_connection_that_nobody_takes_is_told_from_one_that_breaks() -> None:
    with MisbehavingServer(reset) as server:
        assert run_open_loop(f"{server.url}/p", b"", {}, rate_per_s=50, duration_s=0.1).statuses == {0: 5}
    assert run_open_loop(f"{server.url}/p", b"", {}, rate_per_s=50, duration_s=0.1).statuses == {REFUSED: 5}


def test_a_load_ends_early_when_told_and_loses_nothing() -> None:
    with (
        MisbehavingServer(answer(200, {})) as server,
        open_loop(f"{server.url}/p", b"", {}, rate_per_s=50, duration_s=600) as running,
    ):
        wait_until(lambda: len(server.seen) > 5, timeout_s=20)
        running.end()
        load = running.result()
    assert 5 < len(load.asked) == len(server.seen) < 1000
    assert load.statuses.keys() == {200}
    assert load.duration_s == pytest.approx(len(load.asked) / 50)


def test_an_answer_that_came_too_late_is_no_goodput() -> None:
    latencies_ms = [1.0] * 98 + [50.0, 900.0]
    asked = [Asked(due_s=0.5, status=200, lag_ms=0.0, latency_ms=latency) for latency in latencies_ms]
    asked += [Asked(due_s=1.5, status=status, lag_ms=0.0, latency_ms=2.0) for status in (429, 200)]
    load = OpenLoad(rate_per_s=51, duration_s=2.0, asked=asked)
    assert load.goodput_per_s(within_ms=100) == pytest.approx(50.0)
    assert load.percentile_ms(0.5) == 1.0
    assert load.percentile_ms(0.999) == 900.0
    settled = load.settled(1.0)
    assert settled.goodput_per_s(within_ms=100) == pytest.approx(1.0)
    assert (settled.share(429), settled.percentile_ms(0.99, 429), settled.percentile_ms(0.99, 500)) == (0.5, 2.0, 0.0)


def test_wrk_is_given_the_bytes_and_the_headers(tmp_path: Path) -> None:
    contestant = Contestant(name="one", url="http://x", body=b"]]\x00", headers={"authorization": "Bearer t"})
    script = write_script(contestant, tmp_path)
    assert (tmp_path / "one.body").read_bytes() == b"]]\x00"
    assert 'wrk.headers["authorization"]="Bearer t"' in script.read_text()
    assert str(tmp_path / "one.body") in script.read_text()
