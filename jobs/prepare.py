"""Prepare a table: `python jobs/prepare.py data=flights data.until=2013-06-01`."""

from runtime.config.compose import run_job
from runtime.config.schema import Config
from runtime.pipeline.steps import Session, prepare_data


def main(config: Config) -> None:
    with Session.open(config) as session:
        prepared = prepare_data(session)
    version = prepared.version
    print(f"{version.label}: {version.num_rows} rows, {'written' if prepared.is_new else 'unchanged'}")


if __name__ == "__main__":
    run_job(main)
