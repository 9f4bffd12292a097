import subprocess
import sys
from pathlib import Path

import pytest

from runtime.core.clock import utc_now
from runtime.core.errors import NotFoundError, UsageError
from runtime.registry.references import check_name, resolve
from runtime.store.control import ControlStore
from runtime.store.records import ModelVersion


@pytest.fixture
def store(tmp_path: Path) -> ControlStore:
    store = ControlStore(f"sqlite:///{tmp_path}/control.db")
    store.create_schema()
    for version in (1, 2):
        store.record_model_version(
            ModelVersion(
                name="flights",
                version=version,
                run_id="r",
                bundle_uri="/b",
                bundle_sha256=str(version),
                lineage={},
                created_at=utc_now(),
            )
        )
    store.set_alias("flights", "champion", 1)
    return store


@pytest.mark.parametrize(("reference", "version"), [("flights", 2), ("flights:1", 1), ("flights@champion", 1)])
def test_resolves(store: ControlStore, reference: str, version: int) -> None:
    assert resolve(store, reference).version == version


@pytest.mark.parametrize(
    "reference", ["", "flights:", "flights@", "flights:new", "flights:1@champion", "a b", "../x:1"]
)
def test_malformed_references_are_usage_errors(store: ControlStore, reference: str) -> None:
    with pytest.raises(UsageError, match="must look like 'name', 'name:3' or 'name@champion'"):
        resolve(store, reference)


@pytest.mark.parametrize(
    ("reference", "complaint"),
    [
        ("flights:9", "no model version 'flights:9'; its newest version is 2"),
        ("flights@challenger", "model 'flights' has no alias 'challenger'; its newest version is 2"),
        ("ships@champion", "no model version 'ships'"),
    ],
)
def test_references_that_lead_nowhere_say_what_there_is(store: ControlStore, reference: str, complaint: str) -> None:
    with pytest.raises(NotFoundError, match=complaint):
        resolve(store, reference)


@pytest.mark.parametrize("name", ["flights:3", "a@b", "a/b", ""])
def test_names_that_no_reference_could_hold_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="model name"):
        check_name(name)


def test_resolving_loads_neither_mlflow_nor_torch_nor_ray() -> None:
    program = (
        "import sys, runtime.registry.mlflow_registry, runtime.registry.references\n"
        "print([name for name in ('mlflow', 'torch', 'ray', 'pandas', 'pyarrow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
