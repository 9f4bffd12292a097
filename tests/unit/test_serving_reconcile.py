"""The Serve configuration that the store's state becomes. No Serve."""

import socket
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from runtime.config.cluster import ClusterConfig
from runtime.config.serving import ServingConfig
from runtime.serving.reconcile import _is_applied, _reason, _settings_of, _wants, probe, render_serve_config
from runtime.serving.replica import ReplicaArguments
from runtime.store.records import EndpointState, ModelVersion, SlotState
from tests.serving_example import example_config

MODEL = ModelVersion(
    name="m",
    version=4,
    run_id="r",
    bundle_uri="/bundle",
    bundle_sha256="abc",
    lineage={"data_version": "flights@2"},
    created_at="",
)
BLUE_ONLY = EndpointState(
    name="example",
    generation=1,
    primary="blue",
    share=0,
    blue=SlotState(slot="blue", model=MODEL),
    green=SlotState(slot="green", model=None),
)


def render(tmp_path: Path, *endpoints: EndpointState, serving: ServingConfig | None = None) -> dict[str, Any]:
    config = example_config(tmp_path)
    config = replace(config, serving=serving or config.serving, cluster=ClusterConfig())
    settings = {endpoint.name: replace(config.serving, endpoint=endpoint.name) for endpoint in endpoints}
    return render_serve_config(endpoints, config, settings)


def details_of(wanted: dict[str, Any], status: str = "RUNNING") -> dict[str, Any]:
    return {
        "applications": {app["name"]: {"status": status, "deployed_app_config": app} for app in wanted["applications"]}
    }


def test_every_filled_slot_is_one_application(tmp_path: Path) -> None:
    both = replace(BLUE_ONLY, name="both", green=SlotState(slot="green", model=MODEL))
    wanted = render(tmp_path, BLUE_ONLY, both)
    assert [app["name"] for app in wanted["applications"]] == ["example-blue", "both-blue", "both-green"]
    assert [app["route_prefix"] for app in wanted["applications"]] == ["/example-blue", "/both-blue", "/both-green"]


def test_the_arguments_are_what_the_replica_takes(tmp_path: Path) -> None:
    values = render(tmp_path, BLUE_ONLY)["applications"][0]["args"]
    arguments = TypeAdapter(ReplicaArguments).validate_python(values)
    assert (arguments.model_version, arguments.data_version, arguments.slot) == (4, "flights@2", "blue")
    assert arguments.to_json() == values


def test_share_and_generation_replace_no_replica(tmp_path: Path) -> None:
    both = replace(BLUE_ONLY, green=SlotState(slot="green", model=MODEL))
    before = render(tmp_path, both)["applications"]
    after = render(tmp_path, replace(both, share=5000, generation=2, primary="green"))["applications"]
    assert before == after


def test_a_share_changes_how_many_replicas_there_are_and_replaces_none(tmp_path: Path) -> None:
    serving = ServingConfig(endpoint="example", min_replicas=4, max_replicas=8, idle_replicas=0)
    both = replace(BLUE_ONLY, green=SlotState(slot="green", model=MODEL))
    before = render(tmp_path, both, serving=serving)["applications"]
    after = render(tmp_path, replace(both, share=3000, generation=2), serving=serving)["applications"]
    least = [app["deployments"][0]["autoscaling_config"]["min_replicas"] for app in (*before, *after)]
    assert least == [4, 0, 3, 2]
    assert [app["args"] for app in before] == [app["args"] for app in after]


def test_serve_accepts_the_schema(tmp_path: Path) -> None:
    from ray.serve.schema import ServeDeploySchema

    assert ServeDeploySchema.model_validate(render(tmp_path, BLUE_ONLY)).applications[0].name == "example-blue"


def test_what_runs_is_not_applied_again(tmp_path: Path) -> None:
    wanted = render(tmp_path, BLUE_ONLY)
    assert _is_applied(wanted, details_of(wanted))
    assert not _is_applied(wanted, details_of(wanted, "DEPLOY_FAILED"))
    assert not _is_applied(wanted, {})
    assert not _is_applied(wanted, {"applications": {}})
    assert not _is_applied({**wanted, "applications": []}, details_of(wanted))
    other = render(tmp_path, replace(BLUE_ONLY, blue=SlotState(slot="blue", model=replace(MODEL, version=5))))
    assert not _is_applied(other, details_of(wanted))


def test_other_endpoints_keep_the_settings_they_were_deployed_with(tmp_path: Path) -> None:
    config = example_config(tmp_path)
    first = replace(config, serving=replace(config.serving, endpoint="first", max_rows_per_request=7))
    _settings_of(first, [replace(BLUE_ONLY, name="first")])
    endpoints = [replace(BLUE_ONLY, name=name) for name in ("first", "second", "unknown")]
    second = replace(config, serving=replace(config.serving, endpoint="second", max_rows_per_request=9))
    settings = _settings_of(second, endpoints)
    assert settings["first"].max_rows_per_request == 7
    assert settings["second"].max_rows_per_request == 9
    assert settings["unknown"] == ServingConfig(endpoint="unknown")


def test_replicas_that_no_node_has_room_for_are_told_with_what_they_want() -> None:
    replicas = [{"state": "STARTING", "pid": None}, {"state": "RUNNING", "pid": 7}]
    deployment = {"required_resources": {"CPU": 0.1, "GPU": 0.5, "memory": 0}, "replicas": replicas}
    text = _wants({"deployments": {"SlotReplica": deployment}})
    assert text.startswith("1 replicas wait for a node with 0.1 CPU, 0.5 GPU free: see `ray status`")
    assert _wants({"deployments": {"SlotReplica": deployment | {"replicas": replicas[1:]}}}) == ""
    assert _wants({}) == ""


def test_the_reason_is_the_replicas_own_exception() -> None:
    message = (
        "The deployment failed to start 1 times in a row.\nTraceback (most recent call last):\n"
        '  File "x.py", line 1, in y\nruntime.core.errors.RefusedError: model.safetensors was changed'
    )
    application = {"message": "Deploying app failed", "deployments": {"SlotReplica": {"message": message}}}
    assert _reason(application) == "runtime.core.errors.RefusedError: model.safetensors was changed"
    assert _reason({"message": "no such module", "deployments": {}}) == "no such module"
    assert _reason({}) == "Serve gives no reason"


def test_a_port_that_speaks_grpc_now_is_no_answer_of_a_replica() -> None:
    settings_frame = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00\n"
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(settings_frame)

        thread = threading.Thread(target=answer)
        thread.start()
        assert probe(f"http://127.0.0.1:{server.getsockname()[1]}/v2/health/ready", "secret") == {}
        thread.join()
