"""Every metric and label that the dashboard, the recording rules and the documentation name is exported."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import yaml

from runtime.config.alerting import Severity, SignalName
from runtime.config.cluster import PortsConfig
from runtime.monitoring.alerts import Phase
from runtime.telemetry.metrics import METRIC_NAMES

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = json.loads((ROOT / "configs/grafana/dashboard.json").read_text())
RULES = yaml.safe_load((ROOT / "configs/grafana/recording_rules.yaml").read_text())
COLLECTOR = yaml.safe_load((ROOT / "configs/otel/collector.yaml").read_text())
DOCUMENT = (ROOT / "docs/metrics.md").read_text()
EXPORTED = {metric.name: metric for metric in METRIC_NAMES}
RECORDED = {rule["record"]: rule["expr"] for group in RULES["groups"] for rule in group["rules"]}
PROMETHEUS = yaml.safe_load((ROOT / "configs/prometheus/prometheus.yaml").read_text())
NAME = re.compile(r"\b(?:teal[_:]|haproxy_)[a-z0-9_:]+")
ROW = re.compile(r"\| `(?P<name>\w+)` \| (?P<kind>counter|gauge|histogram) \|(?P<labels>[\w, ]*)\| ")
DOCUMENTED = {row["name"]: row for row in map(ROW.match, DOCUMENT.splitlines()) if row}
OF_THE_EDGE = {name: row for name, row in DOCUMENTED.items() if name.startswith("haproxy_")}
"""Held to what an edge exports by tests/integration/test_serving_edge_counters.py."""
RELABELLED = ("endpoint", "slot")


def names_in(expression: str) -> set[str]:
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in NAME.findall(expression)}


def labels_of(name: str) -> set[str]:
    if name in EXPORTED:
        return {*EXPORTED[name].labels, "le"}
    if name in OF_THE_EDGE:
        return {*re.findall(r"\w+", OF_THE_EDGE[name]["labels"]), *RELABELLED}
    return set.union(*(labels_of(one) for one in names_in(RECORDED[name])))


def expressions() -> Iterator[str]:
    yield from RECORDED.values()
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield target["expr"]


@pytest.mark.parametrize("expression", expressions())
def test_expressions_name_what_is_exported(expression: str) -> None:
    names = names_in(expression)
    assert names
    assert names <= EXPORTED.keys() | RECORDED.keys() | OF_THE_EDGE.keys()
    used = {label for found in re.findall(r"by \(([^)]*)\)", expression) for label in re.split(r",\s*", found)}
    used |= set(re.findall(r"(\w+)!?=~?\"", expression))
    assert used <= set.union(*(labels_of(name) for name in names))


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in DASHBOARD["panels"]:
        assert {"type", "title", "gridPos", "targets", "datasource"} <= panel.keys()
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        for target in panel["targets"]:
            assert all(
                label in labels_of_all(target["expr"]) for label in re.findall(r"{{(\w+)}}", target["legendFormat"])
            )
    names = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD))) <= names


def test_panels_select_values_that_exist() -> None:
    known = {
        "signal": set(get_args(SignalName)),
        "phase": set(get_args(Phase)),
        "severity": set(get_args(Severity)),
        "bound": {"value", "low", "high"},
    }
    known |= {"proxy": {"edge", "edge-grpc"}, "code": {"4xx"}}
    selected = [found for one in expressions() for found in re.findall(r'(\w+)=~?"([^"]*)"', one)]
    assert {label for label, _ in selected} >= known.keys()
    for label, values in selected:
        assert label == "endpoint" or set(values.split("|")) <= known[label]


def labels_of_all(expression: str) -> set[str]:
    return set.union(*(labels_of(name) for name in names_in(expression)))


def test_the_documentation_names_exactly_what_is_exported() -> None:
    assert DOCUMENTED.keys() - OF_THE_EDGE.keys() == EXPORTED.keys()
    for name, metric in EXPORTED.items():
        row = DOCUMENTED[name]
        assert row["kind"] == {"latency": "histogram"}.get(metric.kind, metric.kind)
        assert tuple(re.findall(r"\w+", row["labels"])) == metric.labels


def test_prometheus_and_the_collector_scrape_every_port_alike() -> None:
    ports = PortsConfig()
    collected = COLLECTOR["receivers"]["prometheus"]["config"]["scrape_configs"]
    for jobs, dollar in ((PROMETHEUS["scrape_configs"], "$"), (collected, "$$")):
        own, edge = jobs
        assert own["static_configs"] == [
            {"targets": [f"127.0.0.1:{ports.monitor_metrics}", f"127.0.0.1:{ports.alerts_metrics}"]}
        ]
        assert edge["static_configs"] == [{"targets": [f"127.0.0.1:{ports.edge}"]}]
        for rule, label, group in zip(edge["metric_relabel_configs"], RELABELLED, (1, 2), strict=True):
            assert (rule["target_label"], rule["replacement"]) == (label, f"{dollar}{group}")
            found = [re.fullmatch(rule["regex"], name) for name in ("a-b-green-grpc", "flights-blue", "edge-local")]
            values = [one and one[group] for one in found]
            assert values == {"endpoint": ["a-b", "flights", None], "slot": ["green", "blue", None]}[label]
    (rules,) = PROMETHEUS["rule_files"]
    assert (ROOT / "configs/prometheus" / rules).resolve() == ROOT / "configs/grafana/recording_rules.yaml"


def test_the_otel_collector_uses_only_what_it_defines() -> None:
    (pipeline,) = COLLECTOR["service"]["pipelines"].values()
    assert {kind: set(names) for kind, names in pipeline.items()} == {
        kind: set(COLLECTOR[kind]) for kind in ("receivers", "processors", "exporters")
    }
    assert pipeline["processors"][0] == "memory_limiter"  # the collector asks for it to come first


def test_no_label_grows_with_traffic() -> None:
    of_the_contract = {"endpoint", "slot", "model_version", "feature"}
    of_the_configuration = {"rule", "severity", "phase", "signal", "bound"}
    assert {label for metric in METRIC_NAMES for label in metric.labels} <= of_the_contract | of_the_configuration
