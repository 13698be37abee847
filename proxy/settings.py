"""The settings: one flat set, from `config/keytrail.toml` and from the environment (`KEYTRAIL_` and the name in capitals).

The environment wins over the file. What is unknown, in either, is refused with its name and the nearest one that is known.
Units stand in the names. config/keytrail.toml shows every setting with its default.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    SecretStr,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from audit.privacy import Rules
from proxy.errors import SetupError

DEFAULT_FILE = Path("config/keytrail.toml")
_PREFIX = "KEYTRAIL_"
#: Names in the environment that are not settings: where the settings are.
_OTHER_VARIABLES = frozenset({"KEYTRAIL_CONFIG"})


#: The subject is what a subject of NATS may be, without wildcards.
_NATS_URL = re.compile(r"(nats|tls)://([^\s@/]+@)?[A-Za-z0-9.\[\]:-]+(/[A-Za-z0-9_.-]*)?")


def _has_a_port(address: str) -> str:
    if host_and_port(address)[1] > 65_535:
        raise ValueError("there is no such port")
    return address


def _is_a_key(place: str) -> str:
    if place.startswith("awskms:") and not re.fullmatch(r"awskms:[a-zA-Z0-9_:/-]{1,2048}", place):
        raise ValueError("after awskms: there should be the ARN, the id or the alias of a KMS key")
    return place


Address = Annotated[
    str, StringConstraints(pattern=r"^([0-9.]+|\[[0-9a-fA-F:.]+\]|localhost):[0-9]{1,5}$"), AfterValidator(_has_a_port)
]


#: As `Address`, or "" for no such listener.
MaybeAddress = Annotated[str, AfterValidator(lambda address: address and TypeAdapter(Address).validate_python(address))]
#: A path, or "" for none.
MaybePath = Annotated[Path | None, BeforeValidator(lambda path: path or None)]
#: A list; in the environment, its items with commas between them.
Words = Annotated[
    tuple[str, ...],
    NoDecode,
    BeforeValidator(lambda words: [w.strip() for w in words.split(",") if w.strip()] if isinstance(words, str) else words),
]
#: What of the admin listener is open to other hosts.
AdminAreas = Annotated[
    tuple[Literal["health", "metrics", "tlog", "cloudtrail"], ...],
    NoDecode,
    BeforeValidator(lambda words: [w.strip() for w in words.split(",") if w.strip()] if isinstance(words, str) else words),
]


def _are_rules(words: tuple[str, ...]) -> tuple[str, ...]:
    Rules.parse(words)
    return words


#: Shown nowhere but to the worker, by its pipe.
Secret = Annotated[SecretStr, PlainSerializer(lambda secret: secret.get_secret_value(), when_used="json")]
Seconds = Annotated[float, Field(gt=0, le=600)]


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
    index: bool = True
    tlog_entries: bool = False
    cloudtrail_api: bool = False
    admin_remote: AdminAreas = ("health", "cloudtrail")
    heartbeat_s: Annotated[float, Field(ge=0, le=86_400)] = 60.0
    sealer: Literal["here", "apart"] = "here"
    sealer_user: Annotated[str, StringConstraints(pattern=r"^([a-z_][a-z0-9_-]{0,31})?$")] = ""
    sealer_key: Annotated[str, AfterValidator(_is_a_key)] = ""
    sealer_state: MaybePath = None
    sealer_kms_endpoint: Annotated[str, StringConstraints(pattern=r"^(https?://[A-Za-z0-9.{}\[\]:-]+/?)?$")] = ""
    sealer_kms_profile: str = ""
    witness_policy: MaybePath = None
    timestamp_urls: Words = ()
    timestamp_ca: MaybePath = None
    timestamp_every_s: Annotated[int, Field(ge=1, le=31_536_000)] = 3_600
    delivery: Annotated[str, StringConstraints(pattern=r"^(s3://[a-z0-9][a-z0-9.-]+(/[^\s]*)?|[^:]*)$")] = ""
    delivery_endpoint: Annotated[str, StringConstraints(pattern=r"^(https?://[^\s@]+)?$")] = ""
    delivery_trail: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{1,126}[A-Za-z0-9]$")] = "keytrail"
    delivery_interval_s: Annotated[int, Field(ge=1, le=86_400)] = 300
    delivery_digest_s: Annotated[int, Field(ge=1, le=86_400)] = 3_600
    delivery_retention_days: Annotated[int, Field(ge=0, le=36_500)] = 0
    delivery_retention_mode: Literal["GOVERNANCE", "COMPLIANCE"] = "GOVERNANCE"
    ship_otlp: Annotated[str, StringConstraints(pattern=r"^(https?://[^\s@?#]+)?$")] = ""
    ship_syslog: Annotated[str, StringConstraints(pattern=r"^((tls|tcp)://[^\s@/?#]+)?$")] = ""
    ship_nats: Secret = SecretStr("")
    ship_form: Literal["cloudtrail", "ocsf"] = "cloudtrail"
    ship_headers: Secret = SecretStr("")
    ship_ca_bundle: MaybePath = None
    ship_certificate: MaybePath = None
    ship_key: MaybePath = None
    grant_tokens: Literal["clear", "sha256"] = "clear"
    context_privacy: Annotated[Words, AfterValidator(_are_rules)] = ()
    grant_delay_s: Annotated[float, Field(ge=0, le=600)] = 0.0
    clock: MaybePath = None
    calls_at_once: Annotated[int, Field(ge=1, le=100_000)] = 1_000
    calls_per_caller_s: Annotated[float, Field(ge=0, le=1_000_000)] = 0.0
    policies: MaybePath = None
    backend: Literal["local", "aws"] = "local"
    attestation_root: MaybePath = None
    xks_hosts: Words = ()
    xks_ca_bundle: MaybePath = None
    xks_timeout_s: Seconds = 0.25
    aws_signing: Literal["re-sign", "pass-through"] = "re-sign"
    aws_role: Annotated[str, StringConstraints(pattern=r"^(arn:[a-z-]+:iam::[0-9]{12}:role/[\w+=,.@/{}-]+)?$")] = ""
    aws_role_session_s: Annotated[int, Field(ge=900, le=43_200)] = 3_600
    aws_role_source_identity: bool = True
    aws_endpoint: Annotated[str, StringConstraints(pattern=r"^(https?://[A-Za-z0-9.{}\[\]:-]+/?)?$")] = ""
    aws_fips: bool = False
    aws_dual_stack: bool = False
    aws_ca_bundle: MaybePath = None
    aws_egress_proxy: Secret = SecretStr("")
    aws_nameservers: Words = ()
    aws_hosts: Words = ()
    aws_connections: Annotated[int, Field(ge=1, le=10_000)] = 64
    aws_connect_timeout_s: Seconds = 3.0
    aws_read_timeout_s: Seconds = 10.0
    aws_call_timeout_s: Seconds = 20.0
    access_keys: MaybePath = None
    master_key: MaybePath = None
    keystore_url: Secret = SecretStr("")
    keystore_stale_after_s: Annotated[float, Field(ge=2, le=600)] = 10.0
    tls_listen: MaybeAddress = ""
    tls_certificate: MaybePath = None
    tls_key: MaybePath = None
    tls_client_certificates: Literal["none", "optional", "required"] = "none"
    tls_client_ca: MaybePath = None
    forward_listen: MaybeAddress = ""
    forward_others: Literal["refuse", "tunnel", "listed"] = "refuse"
    forward_listed: Words = ()
    ca_certificate: MaybePath = None
    ca_key: MaybePath = None
    trusted_networks: Words = ()
    proxy_protocol: bool = False

    @model_validator(mode="after")
    def _fit_together(self) -> Settings:
        for name, needs, is_missing in (
            ("aws_signing", 'backend = "aws"', self.aws_signing == "pass-through" and self.backend != "aws"),
            ("aws_role", 'aws_signing = "re-sign"', bool(self.aws_role) and self.aws_signing != "re-sign"),
            ("aws_endpoint", 'aws_signing = "re-sign"', bool(self.aws_endpoint) and self.aws_signing != "re-sign"),
            ("tls_listen", "tls_certificate and tls_key", bool(self.tls_listen) and not (self.tls_certificate and self.tls_key)),
            ("tls_client_certificates", "tls_client_ca", self.tls_client_certificates != "none" and self.tls_client_ca is None),
            ("forward_listed", 'forward_others = "listed"', bool(self.forward_listed) and self.forward_others != "listed"),
            ("ca_certificate", "ca_key", (self.ca_certificate is None) != (self.ca_key is None)),
            ("delivery_endpoint", 'delivery = "s3://…"', bool(self.delivery_endpoint) and not self._delivers_to_s3),
            ("delivery_retention_days", 'delivery = "s3://…"', self.delivery_retention_days > 0 and not self._delivers_to_s3),
            ("timestamp_urls", "timestamp_ca", bool(self.timestamp_urls) and self.timestamp_ca is None),
            ("ship_headers", "ship_otlp", bool(self.ship_headers.get_secret_value()) and not self.ship_otlp),
            ("ship_certificate", "ship_key", (self.ship_certificate is None) != (self.ship_key is None)),
            ("proxy_protocol", "trusted_networks", self.proxy_protocol and not self.trusted_networks),
            ("sealer_user", "sealer_key, outside the data folder", bool(self.sealer_user) and not self.sealer_key),
            ("sealer_kms_endpoint", "sealer_key", bool(self.sealer_kms_endpoint) and not self.sealer_key.startswith("awskms:")),
            ("sealer_kms_profile", "sealer_key", bool(self.sealer_kms_profile) and not self.sealer_key.startswith("awskms:")),
        ):
            if is_missing:
                raise ValueError(f"`{name}` needs {needs}")
        if (url := self.keystore_url.get_secret_value()) and not url.startswith(("postgresql://", "postgres://")):
            raise ValueError("`keystore_url` begins with postgresql://")
        if (url := self.ship_nats.get_secret_value()) and not _NATS_URL.fullmatch(url):
            raise ValueError("`ship_nats` is nats://[USER:PASSWORD@]HOST:PORT[/SUBJECT], or tls://…")
        if self.aws_egress_proxy.get_secret_value() and (self.aws_nameservers or self.aws_hosts):
            raise ValueError("with `aws_egress_proxy` it is that proxy that finds AWS: no aws_nameservers or aws_hosts then")
        for name, clash in (("aws_fips", self.aws_fips), ("aws_dual_stack", self.aws_dual_stack)):
            if clash and self.aws_endpoint:
                raise ValueError(f"`{name}` and `aws_endpoint` exclude each other")
        return self

    @property
    def _delivers_to_s3(self) -> bool:
        return self.delivery.startswith("s3://")

    @property
    def ca_files(self) -> tuple[Path, Path]:
        """Certificate and key of the forward proxy's CA: by default in the data folder, where `keytrail ca init` puts them."""
        return self.ca_certificate or self.data / "ca" / "ca.pem", self.ca_key or self.data / "ca" / "ca.key"

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
        told = [
            ": ".join([*(f"`{part}`" for part in fault["loc"]), fault["msg"].removeprefix("Value error, ")])
            for fault in error.errors(include_input=False)
        ]
        # From None: the error's own text shows values, and one of them may be a password.
        raise SetupError(f"setting {'; '.join(told)}") from None


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
