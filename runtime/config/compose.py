"""Compose `configs/` and overrides into one validated `Config`. The only home of Hydra and OmegaConf."""

import difflib
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from runtime.config.schema import Config, ModelConfig
from runtime.core.errors import ConfigError, TealError
from runtime.core.files import write_atomic

CONFIG_DIR = Path(__file__).resolve().parents[2] / "configs"
SEARCH_VARIABLE = "TEAL_CONFIGS"
"""Environment variable: directories searched after teal's own `configs/`, separated as in PATH."""

_OVERRIDE = re.compile(r"^(?P<prefix>[+~]{0,2})(?P<key>[A-Za-z_][\w./@-]*)(?P<rest>=.*)?$", re.DOTALL)


def compose(overrides: Sequence[str] = ()) -> Config:
    """The configuration with these Hydra overrides applied.

    Raises ConfigError naming the key, the file or override it stands in, and the nearest right key.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    _register_resolvers()
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(config_dir=str(CONFIG_DIR), version_base="1.3"):
            composed = hydra_compose("config", overrides=native_overrides(overrides), return_hydra_config=True)
            choices = OmegaConf.to_container(composed.hydra.runtime.choices)
            values = {str(key): composed[key] for key in composed if key != "hydra"}
            plain = OmegaConf.to_container(OmegaConf.create(values, parent=None), resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_first_line(error)) from error
    return validate(plain, choices=choices if isinstance(choices, dict) else {}, overrides=overrides)


def compose_family(name: str) -> ModelConfig:
    """The configuration of one model family, by the name of its file in the `model` group."""
    return compose([f"model={name}"]).model


def native_overrides(overrides: Sequence[str]) -> list[str]:
    """The overrides as Hydra wants them.

    A choice of a group stays as it is. A value gets `++`, so that keys which a file leaves to their default can be
    set too: whether a key exists is for the dataclasses to say, which know the nearest right one.
    """
    groups = {path.name for directory in search_path() for path in directory.iterdir() if path.is_dir()}
    extra = ",".join(f"'file://{directory}'" for directory in search_path()[1:])
    native = [f"hydra.searchpath=[{extra}]"]
    for override in overrides:
        match = _OVERRIDE.match(override)
        if match is None or (match["rest"] is None and match["prefix"] != "~"):
            raise ConfigError(f"override {override!r} must look like 'group=choice' or 'group.key=value'")
        is_value = (
            not match["prefix"]
            and match["key"].partition("@")[0] not in groups
            and not match["key"].startswith("hydra.")
        )
        native.append(f"++{override}" if is_value else override)
    return native


def search_path() -> list[Path]:
    """teal's own `configs/`, then the user's directories. ConfigError if one of those is not there."""
    directories = [CONFIG_DIR]
    for text in filter(None, os.environ.get(SEARCH_VARIABLE, "").split(os.pathsep)):
        directory = Path(text).resolve()
        if not directory.is_dir():
            raise ConfigError(f"{SEARCH_VARIABLE} names {text!r}, which is not a directory")
        directories.append(directory)
    return directories


def validate(plain: Any, *, choices: dict[Any, Any] | None = None, overrides: Sequence[str] = ()) -> Config:
    """A Config of plain containers, or a ConfigError for the first thing wrong with them."""
    if isinstance(plain, dict):
        plain.pop("experiment", None)
    try:
        return TypeAdapter(Config).validate_python(plain)
    except ValidationError as error:
        raise ConfigError(_explain(error, plain, choices or {}, overrides)) from error


def save_config(config: Config, path: Path) -> None:
    """Write the configuration as JSON, readable by its owner only: URLs may hold passwords."""
    write_atomic(path, TypeAdapter(Config).dump_json(config, indent=1), mode=0o600)


def load_config(path: Path) -> Config:
    """Read what `save_config` wrote."""
    try:
        return validate(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}") from error


def to_plain(value: Any) -> Any:
    """A configuration dataclass as JSON-able containers."""
    return TypeAdapter(type(value)).dump_python(value, mode="json")


def run_job(job: Callable[[Config], None]) -> None:
    """Run a Hydra entry of `jobs/`: compose from the command line, validate, call; errors of teal end in their code."""
    import hydra
    from omegaconf import DictConfig, OmegaConf

    _register_resolvers()

    def task(composed: DictConfig) -> None:
        try:
            job(validate(OmegaConf.to_container(composed, resolve=True)))
        except TealError as error:
            _exit(error)

    try:
        flags = [argument for argument in sys.argv[1:] if argument.startswith("-")]
        overrides = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
        sys.argv[1:] = flags + native_overrides(overrides)
    except TealError as error:
        _exit(error)
    hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="config")(task)()


def _exit(error: TealError) -> None:
    print(f"error: {error}", file=sys.stderr)  # noqa: T201
    raise SystemExit(error.exit_code)


def _register_resolvers() -> None:
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("absolute", lambda path: str(Path(path).expanduser().resolve()), replace=True)


def _explain(error: ValidationError, plain: Any, choices: dict[Any, Any], overrides: Sequence[str]) -> str:
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    key = ".".join(path)
    given = any(override.lstrip("+~").startswith((f"{key}=", f"{key}.")) for override in overrides)
    group = path[0]
    # `monitoring@alerts: alerts` stands as alerts, and its file in monitoring.
    placed = next((str(name) for name in choices if str(name).endswith(f"@{group}")), group)
    chosen = choices.get(placed)
    file = f"{placed.partition('@')[0]}/{chosen}.yaml"
    place = "on the command line" if given else f"in {file}" if chosen else "in config.yaml"
    if first["type"] == "unexpected_keyword_argument":
        known = _known_keys(path[:-1])
        near = difflib.get_close_matches(path[-1], known, n=1)
        hint = f"did you mean {'.'.join([*path[:-1], near[0]])!r}?" if near else f"known keys: {', '.join(known)}"
        return f"unknown key {key!r} {place}; {hint}"
    if first["type"] in ("missing", "missing_argument"):
        return f"key {key!r} is missing {place}"
    message = first["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(first["input"], dict) or "got" in message else f", but got {first['input']!r}"
    return f"{key or 'configuration'} {place}: {message}{shown}"


def _known_keys(path: Sequence[str]) -> list[str]:
    """Field names of the dataclass at a path of the configuration, empty where there is none."""
    schema: Any = TypeAdapter(Config).json_schema()
    definitions = schema.get("$defs", {})
    node = schema
    for part in path:
        node = node.get("properties", {}).get(part) or node.get("additionalProperties") or {}
        while "$ref" in node:
            node = definitions[node["$ref"].rsplit("/", 1)[-1]]
    return sorted(node.get("properties", {}))


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:6])
