"""cluster.yaml against the schema of the Ray that is installed. Starts nothing."""

import copy
from pathlib import Path

from ray.autoscaler._private.util import prepare_config, validate_config

from runtime.cluster.launcher import check_launcher_file, launcher_problems

FILE = Path(__file__).resolve().parents[2] / "cluster.yaml"


def test_our_file_is_valid_for_ray() -> None:
    content = check_launcher_file(FILE)
    prepared = prepare_config(copy.deepcopy(content))
    validate_config(prepared)
    assert prepared["head_start_ray_commands"] == content["head_start_ray_commands"]
    assert prepared["worker_start_ray_commands"] == content["worker_start_ray_commands"]


def test_ray_accepts_a_file_without_auth_and_we_do_not() -> None:
    content = check_launcher_file(FILE)
    del content["auth"]
    validate_config(prepare_config(copy.deepcopy(content)))
    assert len(launcher_problems(content)) == 1
