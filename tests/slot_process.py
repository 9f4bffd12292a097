"""A replica without Ray: `-m tests.slot_process HOME MAX_ROWS MAX_BODY_BYTES FIRST_PORT LAST_PORT`.

What `runtime.serving.replica` makes of the bundle in HOME/bundle, in a process of its own: both listeners, both logs,
registered in the control store. Ends when its standard input does.
"""

import asyncio
import sys
import time
from pathlib import Path

import torch
import uvloop

from runtime.models.bundle import load_bundle
from runtime.serving.delta_log import DeltaLog
from runtime.serving.edge_files import read_secret
from runtime.serving.grpc_listener import GrpcListener
from runtime.serving.listener import Listener, bind_in_range
from runtime.serving.payload import Answer, Feedback, PayloadTable, build_feedback, feedback_uri, payload_uri
from runtime.serving.registration import Registration
from runtime.serving.service import Limits, SlotIdentity, SlotService
from runtime.store.records import Replica
from runtime.store.rollouts import RolloutStore
from tests.serving_example import example_model_version

ENDPOINT, SLOT = "example", "blue"
HOST = "127.0.0.1"
FLUSH_S = 0.5
GRACE_S = 2.0


async def main(home: Path, max_rows: int, max_body_bytes: int, ports: tuple[int, int]) -> None:
    torch.set_num_threads(1)
    bundle = load_bundle(home / "bundle")
    model = example_model_version(home / "bundle")
    table = PayloadTable(
        bundle.columns, slot=SLOT, model_name=model.name, model_version=model.version, data_version="example@0"
    )
    payload = DeltaLog[Answer](payload_uri(str(home / "payload"), ENDPOINT), table.build, flush_s=FLUSH_S)
    feedback = DeltaLog[Feedback](feedback_uri(str(home / "payload"), ENDPOINT), build_feedback, flush_s=FLUSH_S)
    service = SlotService(
        bundle,
        identity=SlotIdentity(
            endpoint=ENDPOINT,
            slot=SLOT,
            app=f"{ENDPOINT}-{SLOT}",
            model_name=model.name,
            model_version=model.version,
            bundle_sha256=model.bundle_sha256,
            data_version="example@0",
        ),
        limits=Limits(max_body_bytes=max_body_bytes, max_rows=max_rows),
        secret=read_secret(str(home / "run")),
        payload=payload,
        feedback=feedback,
    )
    service.warm_up()
    listener = Listener(service, bind_in_range(HOST, *ports))
    grpc_listener = GrpcListener(service, host=HOST, first=ports[0], last=ports[1])
    await listener.start()
    replica = Replica(
        replica_id="one",
        endpoint=ENDPOINT,
        slot="blue",
        host=HOST,
        port=listener.port,
        grpc_port=await grpc_listener.start(),
        bundle_sha256=model.bundle_sha256,
        state="ready",
        at=time.time(),
    )
    registration = Registration(RolloutStore(f"sqlite:///{home}/control.db"), replica)
    await asyncio.to_thread(registration.start)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await asyncio.to_thread(registration.remove)
    await asyncio.gather(listener.stop(grace_s=GRACE_S), grpc_listener.stop(grace_s=GRACE_S))
    payload.close()
    feedback.close()


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), (int(sys.argv[4]), int(sys.argv[5]))))
