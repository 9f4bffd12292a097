"""The loop once: prepare, sweep, gate, register, deploy to the idle slot. Traffic stays where it is."""

from runtime.config.compose import run_job
from runtime.config.schema import Config
from runtime.pipeline.steps import Session, deploy_version, prepare_data, register_candidate, sweep_models
from runtime.rollout.traffic import current_actor


def main(config: Config) -> None:
    actor = current_actor()
    with Session.open(config) as session:
        version = prepare_data(session).version
        print(f"data {version.label}: {version.num_rows} rows")
        best = sweep_models(session, version).best
        print(f"best candidate {best.run_id} ({best.family}): {best.metrics}")
        registered = register_candidate(session, best.run_id, actor=actor)
        print(f"gate {registered.report.verdict}; registered {registered.model.label}")
        deployed = deploy_version(session, registered.model.label, actor=actor)
        print(f"{deployed.model.label} in slot {deployed.slot}; `teal shift 10` gives it traffic")


if __name__ == "__main__":
    run_job(main)
