"""Deploy the newest model version that the gate has passed to the idle slot: `python jobs/deploy.py`."""

from runtime.config.compose import run_job
from runtime.config.schema import Config
from runtime.pipeline.steps import Session, deploy_version
from runtime.rollout.traffic import current_actor


def main(config: Config) -> None:
    with Session.open(config) as session:
        deployed = deploy_version(session, config.serving.endpoint, actor=current_actor())
    print(f"{deployed.model.label} in slot {deployed.slot}, {'deployed' if deployed.is_new else 'already there'}")


if __name__ == "__main__":
    run_job(main)
