"""Train candidates of one family: `python jobs/train.py model=mlp`, or of several in turn: `-m model=mlp,linear`."""

from dataclasses import replace

from runtime.config.compose import run_job
from runtime.config.schema import Config
from runtime.pipeline.steps import Session, sweep_models


def main(config: Config) -> None:
    config = replace(config, tune=replace(config.tune, families=[config.model.name]))
    with Session.open(config) as session:
        result = sweep_models(session)
    for candidate in result.candidates:
        print(candidate.run_id, candidate.family, candidate.metrics)


if __name__ == "__main__":
    run_job(main)
