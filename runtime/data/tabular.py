"""The builder for a user's own file: one CSV or Parquet named `rows` (or the only source), columns as declared.

`prepare` casts to the contract's types and leaves undeclared columns out, so this only reads.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.csv as pacsv

from runtime.config.schema import DataConfig
from runtime.core.errors import ConfigError
from runtime.data.parquet import check_plain_file

if TYPE_CHECKING:
    from ray.data import Dataset

SOURCE = "rows"


def build(config: DataConfig, sources: dict[str, Path]) -> "Dataset":
    """Every row of the file. ConfigError if there is no such source, or its ending is none of .csv and .parquet."""
    import ray.data

    if SOURCE not in sources and len(sources) != 1:
        raise ConfigError(f"data.sources must have one entry, or one named {SOURCE!r}, but has {sorted(sources)}")
    path = sources.get(SOURCE, next(iter(sources.values())))
    if path.suffix == ".parquet":
        check_plain_file(path)
        return ray.data.read_parquet(str(path), override_num_blocks=1, partitioning=None)
    if path.suffix == ".csv":
        # Text first: types guessed block by block differ between blocks, and a bad value would lose its name.
        texts = pacsv.ConvertOptions(
            column_types=dict.fromkeys(config.columns, pa.string()), strings_can_be_null=True, null_values=[""]
        )
        return ray.data.read_csv(str(path), convert_options=texts, override_num_blocks=1)
    raise ConfigError(f"source {str(path)!r} must end in .csv or .parquet")
