"""docs/your-own-model.md as it stands: its files, its commands, then every command of the loop on the result."""

import json
import os
import re
import shlex
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.config.schema import Config
from tests.conftest import Teal

PAGE = Path(__file__).parents[2] / "docs" / "your-own-model.md"
FILE_BLOCK = re.compile(r"^`(?P<path>[\w./]+)`:\n\n```\w+\n(?P<content>.*?)^```", re.MULTILINE | re.DOTALL)
ROW = {"plan": "basic", "months": None, "monthly_fee": 19.9, "support_calls": 2}


def write_churn(path: Path, num_rows: int = 4000) -> None:
    """Customers whose calls and plan drive churn: a signal that any sound model finds."""
    rng = np.random.default_rng(7)
    calls = rng.poisson(1.5, num_rows)
    plans = rng.choice(["basic", "family", "pro"], num_rows)
    chance = 1 / (1 + np.exp(-(-2.5 + 0.8 * calls + 0.7 * (plans == "basic"))))
    lines = ["customer,plan,months,monthly_fee,support_calls,churned"]
    for index in range(num_rows):
        months = "" if rng.random() < 0.1 else str(rng.integers(1, 60))
        churned = int(rng.random() < chance[index])
        lines.append(f"c{index:05d},{plans[index]},{months},{rng.choice([19.9, 49.0])},{calls[index]},{churned}")
    path.write_text("\n".join(lines) + "\n")


def post(url: str, body: Any) -> tuple[int, Any, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, json.load(response), response.headers
    except urllib.error.HTTPError as error:
        return error.code, json.load(error), error.headers


@pytest.fixture(scope="module")
def own(platform: Config, teal: Teal) -> dict[str, str]:
    """The page's files written and its commands run; the environment that they need."""
    directory = Path(os.environ["TEAL_TEST_OWN"])
    text = PAGE.read_text()
    for block in FILE_BLOCK.finditer(text):
        path = directory / block["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block["content"])
    write_churn(directory / "churn.csv")
    environment = {"PWD": str(directory), "TEAL_CONFIGS": str(directory / "configs")}
    commands = [line for line in text.splitlines() if line.startswith("teal ")]
    assert len(commands) == 5, "the page's commands changed: look at this test again"
    for command in commands:
        teal(*shlex.split(command)[1:], **environment)
    return environment


@pytest.fixture(scope="module")
def predict_url(platform: Config) -> str:
    return f"http://127.0.0.1:{platform.cluster.ports.edge}/v1/models/churn:predict"


def test_the_model_answers_and_has_learned(own: dict[str, str], predict_url: str) -> None:
    status, few, _ = post(predict_url, {"instances": [ROW | {"support_calls": 0}]})
    _, many, headers = post(predict_url, {"instances": [ROW | {"support_calls": 8}]})
    assert status == 200
    assert many["predictions"][0]["score"] > few["predictions"][0]["score"] + 0.2
    assert headers["x-model-version"] == "churn:1"
    assert headers["x-slot"] == "blue"


def test_the_same_again_changes_nothing_and_says_so(own: dict[str, str], teal: Teal) -> None:
    assert "nothing was written" in teal("prepare", "data=churn", **own).stdout
    assert "nothing was changed" in teal("deploy", "churn@challenger", **own).stdout
    assert "already running" in teal("up", "data=churn", **own).stdout


def test_a_canary_gets_its_share_and_is_rolled_back(
    own: dict[str, str], teal: Teal, predict_url: str, platform: Config
) -> None:
    teal("shift", "10", "-e", "churn", code=3)  # the canary's slot is empty
    teal("train", "data=churn", "model=wide", "training.seed=5", **own)
    teal("register", "data=churn", **own)
    assert "slot green" in teal("deploy", "churn@challenger", **own).stdout
    moved = json.loads(teal("shift", "30", "-e", "churn", "--json").stdout)
    assert (moved["endpoint"]["share"], moved["is_new"]) == (3000, True)
    slots = []
    for key in range(300):
        request = urllib.request.Request(
            predict_url,
            data=json.dumps({"instances": [ROW]}).encode(),
            headers={"content-type": "application/json", "x-routing-key": f"key-{key}"},
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            slots.append(response.headers["x-slot"])
            assert response.headers["x-generation"] == str(moved["endpoint"]["generation"])
    assert 55 <= slots.count("green") <= 125  # 99.9 % of Binomial(300, 0.3), and some
    assert json.loads(teal("rollback", "-e", "churn", "--json").stdout)["endpoint"]["share"] == 0
    assert "nothing to change" in teal("rollback", "-e", "churn").stdout
    for _ in range(20):
        assert post(predict_url, {"instances": [ROW]})[2]["x-slot"] == "blue"
    history = json.loads(teal("history", "-e", "churn", "--json").stdout)
    assert [row["action"] for row in history][-2:] == ["shift", "rollback"]
    assert {row["actor"] for row in history} == {"tester"}
    assert "is whole" in teal("audit", "verify").stdout


def test_a_worse_candidate_is_refused_and_only_force_gets_past(own: dict[str, str], teal: Teal) -> None:
    teal("train", "data=churn", "model=wide", "training.epochs=1", "training.learning_rate=1e-7", **own)
    refused = teal("compare", "data=churn", code=3, **own)
    assert "Rejected" in refused.stdout
    assert "AUC" in refused.stdout
    refused = teal("register", "data=churn", code=3, **own)
    assert "is rejected" in refused.stderr
    forced = teal("register", "data=churn", "--force", "--reason", "a test", "--json", **own)
    assert json.loads(forced.stdout)["model"]["lineage"]["gate"]["forced_by"] == "tester"
    label = json.loads(forced.stdout)["model"]
    reference = f"{label['name']}:{label['version']}"
    assert "has not passed the gate" in teal("deploy", reference, code=3, **own).stderr
    teal("deploy", reference, "--force", "--reason", "a test", **own)
    last = json.loads(teal("history", "-e", "churn", "--json").stdout)[-1]
    assert (last["forced"], last["detail"]["reason"]) == (True, "a test")


def test_a_prediction_leads_to_its_sources(own: dict[str, str], teal: Teal, predict_url: str, platform: Config) -> None:
    from tests.waiting import wait_until

    answer = post(predict_url, {"instances": [ROW, ROW | {"plan": "pro"}]})[1]
    prediction_id = answer["prediction_id"]

    def traced() -> Any:
        from runtime.core.errors import NotFoundError
        from runtime.pipeline.trace import trace_prediction
        from runtime.store.rollouts import RolloutStore

        try:
            return trace_prediction(platform, RolloutStore(platform.paths.control), prediction_id)
        except NotFoundError:
            return None

    wait_until(traced, timeout_s=20)
    trace = json.loads(teal("trace", prediction_id, "--json").stdout)
    assert [row["plan"] for row in trace["rows"]] == ["basic", "pro"]
    assert trace["rows"][0]["score"] == answer["predictions"][0]["score"]
    assert trace["model"]["version"] == 1
    assert trace["data"]["lineage"]["sources"]["customers"]["sha256"]
    assert "customers" in teal("trace", prediction_id).stdout
    assert "not a uuid7" in teal("trace", "nonsense", code=2).stderr


def test_labels_come_back(own: dict[str, str], predict_url: str) -> None:
    answer = post(predict_url, {"instances": [ROW]})[1]
    labels = {"labels": [{"prediction_id": answer["prediction_id"], "row": 0, "label": 1}]}
    status, accepted, _ = post(predict_url.replace(":predict", ":feedback"), labels)
    assert (status, accepted) == (200, {"accepted": 1})


def test_the_monitor_counts_what_was_served(own: dict[str, str], teal: Teal, predict_url: str) -> None:
    from tests.waiting import wait_until

    def rows() -> int:
        state = json.loads(teal("monitor", "status", "--json").stdout)
        return sum(entry["rows"] for entry in state["entries"] if entry["endpoint"] == "churn")

    before = rows()
    for _ in range(5):
        post(predict_url, {"instances": [ROW] * 10})
    wait_until(lambda: rows() >= before + 50, timeout_s=30)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["shift", "-e", "churn", "--", "-1"], 2, "within 0..100"),
        (["shift", "101", "-e", "churn"], 2, "within 0..100"),
        (["shift", "ten", "-e", "churn"], 2, "but got 'ten'"),
        (["shift", "10", "-e", "nobody"], 2, "no endpoint 'nobody'"),
        (["deploy", "churn:99"], 2, "churn"),
        (["prepare", "data.nme=x"], 2, "did you mean 'data.name'"),
        (["sweep", "data=churn", "tune.families=[nothing]"], 2, "model/nothing"),
        (["register", "--run", "nothing"], 2, "no candidate with run 'nothing'"),
        (["submit", "nothing"], 2, "nothing"),
        (["up", "cluster.ports.edge=1234"], 2, "the platform runs with other settings: cluster.ports.edge is"),
    ],
)
def test_wrong_usage_changes_nothing_and_says_why(
    own: dict[str, str], teal: Teal, arguments: list[str], code: int, message: str
) -> None:
    before = teal("history", "--json").stdout
    failed = teal(*arguments, code=code, **own)
    assert message in failed.stderr
    assert "Traceback" not in failed.stderr
    assert teal("history", "--json").stdout == before


def test_a_job_runs_on_the_cluster(own: dict[str, str], teal: Teal) -> None:
    assert "unchanged" in teal("submit", "prepare", "data=churn", **own).stdout
