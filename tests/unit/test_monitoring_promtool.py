"""Alert and recording rules as Prometheus itself reads them: `promtool` checks them and runs alerts over series."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from runtime.config.alerting import AlertsConfig
from runtime.config.compose import compose
from runtime.monitoring.rules import render_rules
from runtime.telemetry.metrics import render_metrics
from tests.unit.test_monitoring_watch import Site

PROMTOOL = shutil.which("promtool")
GRAFANA = Path(__file__).resolve().parents[2] / "configs/grafana"
RECORDING_RULES, DASHBOARD = GRAFANA / "recording_rules.yaml", GRAFANA / "dashboard.json"

pytestmark = pytest.mark.skipif(PROMTOOL is None, reason="no promtool on this machine (Debian's package prometheus)")


@pytest.fixture(scope="module")
def config() -> AlertsConfig:
    return compose([]).alerts


@pytest.fixture
def rule_file(tmp_path: Path, config: AlertsConfig) -> Path:
    path = tmp_path / "rules.yaml"
    path.write_text(render_rules(config))
    return path


def promtool(*arguments: str | Path, text: str = "") -> str:
    assert PROMTOOL is not None
    command = [PROMTOOL, *map(str, arguments)]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_rule_file_and_the_recording_rules_pass_the_check(rule_file: Path, config: AlertsConfig) -> None:
    num_pages = sum(rule.severity == "page" for rule in config.rules.values())
    assert f"SUCCESS: {len(config.rules) + num_pages + 1} rules found" in promtool("check", "rules", rule_file)
    assert "SUCCESS" in promtool("check", "rules", RECORDING_RULES)


def signal(name: str, value: float, *, slot: str = "") -> list[dict[str, str]]:
    """A signal that stays where it is, as teal exports it: labels without a value are empty."""
    version = f"flights:{1 if slot == 'blue' else 2}" if slot else ""
    labels = f'endpoint="flights",slot="{slot}",model_version="{version}",signal="{name}"'
    return [
        {"series": f'teal_signal{{{labels},bound="{bound}"}}', "values": f"{value:g}+0x90"}
        for bound in ("value", "low", "high")
    ]


def test_prometheus_understands_every_panel_of_the_dashboard(tmp_path: Path) -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    found = [target["expr"].replace("$endpoint", ".*") for panel in panels for target in panel["targets"]]
    rules = [{"record": f"panel:{number}", "expr": expression} for number, expression in enumerate(found)]
    path = tmp_path / "panels.yaml"
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    assert f"SUCCESS: {len(found)} rules found" in promtool("check", "rules", path)


def test_what_the_otel_collector_scrapes_is_a_scrape_configuration_of_prometheus(tmp_path: Path) -> None:
    collector = yaml.safe_load((GRAFANA.parent / "otel/collector.yaml").read_text())
    path = tmp_path / "prometheus.yaml"
    path.write_text(json.dumps(collector["receivers"]["prometheus"]["config"]))
    assert "SUCCESS" in promtool("check", "config", path)


def test_the_scrape_configuration_is_one_of_prometheus() -> None:
    assert "SUCCESS" in promtool("check", "config", GRAFANA.parent / "prometheus/prometheus.yaml")


def test_what_is_exported_is_as_prometheus_wants_it(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.run(3)
    promtool("check", "metrics", text=render_metrics(site.monitor.samples))


LOOKS = [{"series": "teal_alerts_last_look_timestamp_seconds", "values": "0+10x90"}]
NOTICE, PAGE = "notice", "page"


@pytest.mark.parametrize(
    ("series", "fires"),
    [
        pytest.param(LOOKS, [], id="nothing is wrong"),
        pytest.param([], [("TealAlertsGone", NOTICE, "")], id="nobody looks"),
        pytest.param(
            LOOKS + signal("drift", 2.0), [("TealDataDrift", NOTICE, "")], id="drift that hurts nobody is a notice"
        ),
        pytest.param(
            LOOKS + signal("drift", 2.0) + signal("auc_loss", 0.05, slot="blue"),
            [
                ("TealDataDrift", NOTICE, ""),
                ("TealDataDrift", PAGE, ""),
                ("TealQualityDecay", NOTICE, "blue"),
                ("TealQualityDecay", PAGE, "blue"),
            ],
            id="drift of an endpoint pages with harm in any of its slots",
        ),
        pytest.param(
            LOOKS + signal("latency_p95_ms", 5000, slot="blue") + signal("error_rate", 0.5, slot="green"),
            [("TealErrors", NOTICE, "green"), ("TealErrors", PAGE, "green"), ("TealSlow", NOTICE, "blue")],
            id="harm in one slot makes no page of the other",
        ),
    ],
)
def test_prometheus_fires_what_teal_fires(
    rule_file: Path, tmp_path: Path, series: list[dict[str, str]], fires: list[tuple[str, str, str]]
) -> None:
    expected = [
        {"labels": f'{{alertname="{name}",severity="{severity}"' + (f',slot="{slot}"}}' if slot else "}"), "value": 1}
        for name, severity, slot in fires
    ]
    fired = {
        "expr": 'count by (alertname, severity, slot) (ALERTS{alertstate="firing"})',
        "eval_time": "10m",
        "exp_samples": expected,
    }
    test = {"interval": "10s", "input_series": series, "promql_expr_test": [fired]}
    path = tmp_path / "test.yaml"
    path.write_text(json.dumps({"rule_files": [str(rule_file)], "evaluation_interval": "10s", "tests": [test]}))
    promtool("test", "rules", path)
