"""The notifier's actor on a real cluster: what changes in the store reaches a receiver."""

import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import ray

from runtime.config.notifications import NotifyConfig, SinkConfig
from runtime.config.schema import Config
from runtime.pipeline.notifications import ACTOR_NAME, NAMESPACE, start_notifier
from runtime.store.control import ControlStore


def test_a_change_reaches_a_receiver_while_the_platform_runs(cluster: Config, tmp_path: Path) -> None:
    arrived, bodies = threading.Event(), []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()
            arrived.set()

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (tmp_path / "secret").write_text("s")
    sink = SinkConfig(url=f"http://127.0.0.1:{server.server_port}/", secret_file=str(tmp_path / "secret"))
    paths = replace(cluster.paths, control=f"sqlite:///{tmp_path}/control.db")
    config = replace(cluster, paths=paths, notify=NotifyConfig(sinks={"hook": sink}, poll_s=0.05))
    store = ControlStore.of(paths)
    store.create_schema()
    try:
        assert not start_notifier(replace(config, notify=NotifyConfig()), store)
        assert start_notifier(config, store)
        store.record_event("flights", actor="ann", action="look", detail={"at": "this"})
        assert arrived.wait(30)
        assert [(body["topic"], body["data"]["action"]) for body in bodies] == [("transition", "look")]
    finally:
        ray.kill(ray.get_actor(ACTOR_NAME, namespace=NAMESPACE))
        server.shutdown()
        server.server_close()
        store.close()
