import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake.exceptions import CommitFailedError
from deltalake.transaction import create_table_with_add_actions

from runtime.core.errors import ConfigError, ConflictError, ContractError, NotFoundError
from runtime.data import delta
from runtime.data.delta import DataFile
from runtime.data.parquet import check_plain_file, delta_statistics, write_parquet

TABLE = pa.table(
    {
        "at": pa.array([0, 1_000_000, 2_000_000], pa.timestamp("us", tz="UTC")),
        "x": pa.array([1.5, None, 3.5]),
        "s": ["a", "b", None],
    }
)


class Marked(pa.ExtensionType):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__(pa.int64(), "teal.test.marked")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> "Marked":
        raise AssertionError("an extension type of a file was deserialised")


def write(uri: str, name: str, table: pa.Table) -> DataFile:
    digest = write_parquet(Path(uri) / name, table)
    size = (Path(uri) / name).stat().st_size
    return DataFile(path=name, size_bytes=size, num_rows=table.num_rows, stats=delta_statistics(table), sha256=digest)


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return delta.table_uri(str(tmp_path), "t")


def test_names_and_places(tmp_path: Path) -> None:
    assert delta.table_uri(f"file://{tmp_path}", "t") == str(tmp_path / "t")
    for name in ("", "_t", "../t", "a/b", ".t"):
        with pytest.raises(ConfigError, match="table name"):
            delta.table_uri(str(tmp_path), name)
    with pytest.raises(ConfigError, match="must be a local path"):
        delta.table_uri("s3://bucket/warehouse", "t")


def test_versions_replace_content_and_schema_and_stay_readable(uri: str) -> None:
    assert delta.newest_version(uri) is None
    assert delta.history(uri) == []
    first = delta.commit_overwrite(uri, [write(uri, "a.parquet", TABLE)], TABLE.schema, {"k": "1"})
    other = pa.table({"at": TABLE["at"], "x": pa.array(["now text"] * 3)})
    second = delta.commit_overwrite(uri, [write(uri, "b.parquet", other)], other.schema, {"k": "2"})
    assert (first, second) == (0, 1)
    assert delta.read_table(uri, 0).equals(TABLE)
    assert delta.read_table(uri, 1).equals(other)
    assert delta.read_table(uri, None).equals(other)
    assert [commit["k"] for commit in delta.history(uri)] == ["2", "1"]
    assert delta.read_table(uri, 0).schema.equals(TABLE.schema)


def test_reading_a_window_and_some_columns(uri: str) -> None:
    delta.commit_overwrite(uri, [write(uri, "a.parquet", TABLE)], TABLE.schema, {})
    window = delta.read_table(
        uri, 0, columns=["s"], since="1970-01-01T00:00:01Z", until="1970-01-01T00:00:02", time_column="at"
    )
    assert window.to_pydict() == {"s": ["b"]}
    with pytest.raises(ContractError, match="role time"):
        delta.read_table(uri, 0, since="1970-01-01")
    with pytest.raises(NotFoundError, match="no column 'y'"):
        delta.read_table(uri, 0, columns=["y"])
    with pytest.raises(NotFoundError, match="no version 1; its newest is 0"):
        delta.read_table(uri, 1)
    with pytest.raises(NotFoundError, match="no version -1"):
        delta.read_table(uri, -1)


def test_reading_nothing_makes_nothing(uri: str) -> None:
    with pytest.raises(NotFoundError, match="no table at"):
        delta.read_table(uri, None)
    assert not Path(uri).exists()


def test_statistics_prune_and_tell_the_truth(uri: str) -> None:
    stats = json.loads(delta_statistics(TABLE, without=frozenset({"s"})))
    assert stats["minValues"] == {"at": "1970-01-01T00:00:00.000Z", "x": 1.5}
    assert stats["maxValues"] == {"at": "1970-01-01T00:00:02.000Z", "x": 3.5}
    assert stats["nullCount"] == {"at": 0, "x": 1, "s": 1}
    fine = pa.table({"at": pa.array([1_234_567], pa.timestamp("us", tz="UTC"))})
    assert json.loads(delta_statistics(fine))["maxValues"] == {"at": "1970-01-01T00:00:01.235Z"}
    # A row at the very microsecond must be found through the statistics.
    delta.commit_overwrite(uri, [write(uri, "a.parquet", fine)], fine.schema, {})
    moment = datetime(1970, 1, 1, 0, 0, 1, 234567, tzinfo=UTC)
    assert delta.read_table(uri, 0, since=moment, time_column="at").num_rows == 1


def test_a_commit_between_is_a_conflict_and_changes_nothing(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    delta.commit_overwrite(uri, [write(uri, "a.parquet", TABLE)], TABLE.schema, {})
    file = write(uri, "c.parquet", TABLE)
    name = "runtime.data.delta.create_table_with_add_actions"

    def interrupted(*arguments: object, **options: object) -> None:
        monkeypatch.setattr(name, create_table_with_add_actions)
        delta.commit_overwrite(uri, [write(uri, "b.parquet", TABLE)], TABLE.schema, {"by": "other"})
        raise CommitFailedError("version 1 exists")

    monkeypatch.setattr(name, interrupted)
    with pytest.raises(ConflictError, match="somebody else wrote"):
        delta.commit_overwrite(uri, [file], TABLE.schema, {})
    assert delta.newest_version(uri) == 1
    assert delta.history(uri)[0]["by"] == "other"


@pytest.mark.parametrize(
    "field",
    [
        pa.field("x", Marked()),
        pa.field("x", pa.list_(pa.int64())),
        pa.field("x", pa.timestamp("us")),
        pa.field("x", pa.binary()),
    ],
)
def test_only_plain_types_are_stored(field: pa.Field) -> None:
    with pytest.raises(ContractError, match="column 'x'"):
        delta.check_plain_schema(pa.schema([field]))


def test_a_file_with_an_extension_type_is_refused_unread(uri: str, tmp_path: Path) -> None:
    delta.commit_overwrite(uri, [write(uri, "a.parquet", TABLE)], TABLE.schema, {})
    evil = pa.table({"x": pa.ExtensionArray.from_storage(Marked(), pa.array([1]))})
    pq.write_table(evil, tmp_path / "evil.parquet")
    pa.register_extension_type(Marked())
    try:
        with pytest.raises(ContractError, match="extension type"):
            check_plain_file(tmp_path / "evil.parquet")
        pq.write_table(TABLE, tmp_path / "plain.parquet")
        check_plain_file(tmp_path / "plain.parquet")
        pq.write_table(evil, Path(uri) / "a.parquet")
        with pytest.raises(ContractError, match="extension type"):
            delta.read_table(uri, 0)
    finally:
        pa.unregister_extension_type("teal.test.marked")


def test_a_lost_file_and_no_parquet_are_named(uri: str) -> None:
    delta.commit_overwrite(uri, [write(uri, "a.parquet", TABLE)], TABLE.schema, {})
    path = Path(uri) / "a.parquet"
    path.write_text("hello")
    with pytest.raises(ContractError, match="is no Parquet file"):
        delta.read_table(uri, 0)
    path.unlink()
    with pytest.raises(ContractError, match="is gone"):
        delta.read_table(uri, 0)


def test_equal_tables_give_equal_bytes(tmp_path: Path) -> None:
    chunked = pa.concat_tables([TABLE.slice(0, 1), TABLE.slice(1)])
    assert write_parquet(tmp_path / "a", TABLE) == write_parquet(tmp_path / "b", chunked)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_moments() -> None:
    assert delta.parse_moment("2013-02-01") == datetime(2013, 2, 1, tzinfo=UTC)
    assert delta.parse_moment("2013-02-01T01:00:00+01:00") == datetime(2013, 2, 1, tzinfo=UTC)
    with pytest.raises(ConfigError, match="'soon' is no moment"):
        delta.parse_moment("soon")
