"""The settings: one flat set, from `config/keytrail.toml` and from the environment (`KEYTRAIL_` and the name in capitals).

The environment wins over the file. What is unknown, in either, is refused with its name and the nearest one that is known.
Units stand in the names. config/keytrail.toml shows every setting with its default.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from proxy.errors import SetupError

DEFAULT_FILE = Path("config/keytrail.toml")
_PREFIX = "KEYTRAIL_"
#: Names in the environment that are not settings: where the settings are.
_OTHER_VARIABLES = frozenset({"KEYTRAIL_CONFIG"})


def _has_a_port(address: str) -> str:
    if host_and_port(address)[1] > 65_535:
        raise ValueError("there is no such port")
    return address


Address = Annotated[
    str, StringConstraints(pattern=r"^([0-9.]+|\[[0-9a-fA-F:.]+\]|localhost):[0-9]{1,5}$"), AfterValidator(_has_a_port)
]


class Settings(BaseSettings):
    """Every setting. Made by `load`."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, extra="forbid", frozen=True)

    data: Path = Path("keytrail-data")
    listen: Address = "127.0.0.1:4599"
    admin_listen: Address = "127.0.0.1:4598"
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    region: Annotated[str, StringConstraints(pattern=r"^[a-z]{2,4}(-[a-z]+)+-[0-9]$")] = "us-east-1"
    account_id: Annotated[str, StringConstraints(pattern=r"^[0-9]{12}$")] = "111122223333"
    max_body_bytes: Annotated[int, Field(ge=1_024, le=16 << 20)] = 256 << 10
    request_timeout_s: Annotated[float, Field(gt=0, le=600)] = 10.0
    idle_timeout_s: Annotated[float, Field(gt=0, le=3_600)] = 75.0
    drain_timeout_s: Annotated[float, Field(ge=0, le=600)] = 10.0
    segment_max_bytes: Annotated[int, Field(ge=4_096, le=4 << 30)] = 64 << 20
    segment_max_age_s: Annotated[int, Field(ge=1, le=86_400)] = 3_600
    grant_tokens: Literal["clear", "sha256"] = "clear"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What is given outright, then the environment, then the file. No .env file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load(file: Path | None, environment: Mapping[str, str], **given: object) -> Settings:
    """The settings: what is `given` (None is not), then the environment, then `file`; by default config/keytrail.toml, if there.

    `environment` is searched for names that are unknown; the values pydantic reads itself. Raises `SetupError`.
    """
    known = list(Settings.model_fields)
    path = file or Path(environment.get("KEYTRAIL_CONFIG", DEFAULT_FILE))
    for name in _names_in(path, required=path != DEFAULT_FILE):
        _require_known(name, known, f"{path}: unknown setting `{name}`")
    for variable in environment:
        if variable.startswith(_PREFIX) and variable not in _OTHER_VARIABLES:
            name = variable.removeprefix(_PREFIX).lower()
            _require_known(name, known, f"environment: unknown setting `{variable}`", _PREFIX)

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=path)

    try:
        return FromFile(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        faults = "; ".join(f"`{'.'.join(map(str, fault['loc']))}`: {fault['msg']}" for fault in error.errors())
        raise SetupError(f"setting {faults}") from error


def host_and_port(address: str) -> tuple[str, int]:
    """`127.0.0.1:4599` or `[::1]:4599` as host and port."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _names_in(path: Path, *, required: bool) -> list[str]:
    try:
        return list(tomllib.loads(path.read_text()))
    except FileNotFoundError as error:
        if not required:
            return []
        raise SetupError(f"no settings file {path}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SetupError(f"{path}: {error}") from error


def _require_known(name: str, known: list[str], complaint: str, prefix: str = "") -> None:
    if name in known:
        return
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
    raise SetupError(f"{complaint}; the nearest known one is `{prefix}{nearest.upper() if prefix else nearest}`")
