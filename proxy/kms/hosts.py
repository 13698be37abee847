"""The names that real AWS KMS has, and STS: which region a host name stands for, and which name a region has. Pure.

A name is KMS's only as a whole: ``kms.us-east-1.amazonaws.com.evil.example`` is not. The table is AWS's partitions; a region is
told to be in one by its first letters, as botocore does, so that a region that opens tomorrow is known today. STS has one name
without a region besides.

Source: botocore/data/partitions.json, kms/2014-11-01/endpoint-rule-set-1.json and sts/2011-06-15/endpoint-rule-set-1.json; AWS
KMS developer guide, "VPC endpoints".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

Service: TypeAlias = Literal["kms", "sts"]


@dataclass(frozen=True, slots=True)
class Partition:
    """A part of AWS with names and accounts of its own. `dual_stack` is the suffix of names with IPv6, where it has any."""

    name: str
    region: str  # a pattern
    suffix: str
    dual_stack: str | None


#: In the order in which they are tried: the first takes what no other does.
PARTITIONS = (
    Partition("aws", r"(?:us|eu|ap|sa|ca|me|af|il|mx)-[a-z]+-[0-9]{1,2}", "amazonaws.com", "api.aws"),
    Partition("aws-cn", r"cn-[a-z]+-[0-9]{1,2}", "amazonaws.com.cn", "api.amazonwebservices.com.cn"),
    Partition("aws-us-gov", r"us-gov-[a-z]+-[0-9]{1,2}", "amazonaws.com", "api.aws"),
    Partition("aws-eusc", r"eusc-[a-z]+-[a-z]+-[0-9]{1,2}", "amazonaws.eu", "api.amazonwebservices.eu"),
    Partition("aws-iso", r"us-iso-[a-z]+-[0-9]{1,2}", "c2s.ic.gov", "api.aws.ic.gov"),
    Partition("aws-iso-b", r"us-isob-[a-z]+-[0-9]{1,2}", "sc2s.sgov.gov", "api.aws.scloud"),
    Partition("aws-iso-e", r"eu-isoe-[a-z]+-[0-9]{1,2}", "cloud.adc-e.uk", "api.cloud-aws.adc-e.uk"),
    Partition("aws-iso-f", r"us-isof-[a-z]+-[0-9]{1,2}", "csp.hci.ic.gov", "api.aws.hci.ic.gov"),
)
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"


#: STS's name in no region of its own, and the region that calls to it are signed for.
STS_GLOBAL = "sts.amazonaws.com"
_STS_GLOBAL_REGION = "us-east-1"


def _pattern(service: Service, partition: Partition) -> str:
    suffix = re.escape(partition.suffix)
    names = [
        rf"{service}(?:-fips)?\.(?P<r1>{partition.region})\.{suffix}",
        rf"(?:{_LABEL}\.){service}(?:-fips)?\.(?P<r2>{partition.region})\.vpce\.{suffix}",
    ]
    if partition.dual_stack is not None:
        names.append(rf"{service}(?:-fips)?\.(?P<r3>{partition.region})\.{re.escape(partition.dual_stack)}")
    return "|".join(names)


def _patterns(service: Service) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(_pattern(service, partition), re.ASCII) for partition in PARTITIONS)


_KMS_HOSTS, _STS_HOSTS = _patterns("kms"), _patterns("sts")
_REGIONS = tuple((re.compile(partition.region, re.ASCII), partition) for partition in PARTITIONS)


def kms_region(host: str) -> str | None:
    """The region of a real KMS host name, in any case, with no port and at most one dot at its end; None for any other name."""
    return _region(host, _KMS_HOSTS)


def sts_region(host: str) -> str | None:
    """As `kms_region`, of STS's names; us-east-1 for the one without a region."""
    return _STS_GLOBAL_REGION if host.lower().removesuffix(".") == STS_GLOBAL else _region(host, _STS_HOSTS)


def _region(host: str, patterns: tuple[re.Pattern[str], ...]) -> str | None:
    name = host.lower().removesuffix(".")
    for pattern in patterns:
        if (found := pattern.fullmatch(name)) is not None:
            return found[found.lastgroup or 0]
    return None


def partition_of(region: str) -> Partition:
    """The partition of `region`; the first one where none fits, as the SDKs do."""
    return next((partition for pattern, partition in _REGIONS if pattern.fullmatch(region)), PARTITIONS[0])


def endpoint_host(region: str, *, service: Service = "kms", fips: bool = False, dual_stack: bool = False) -> str:
    """The host name of `service` in `region`: ``kms.eu-central-1.amazonaws.com``."""
    partition = partition_of(region)
    suffix = partition.dual_stack if dual_stack and partition.dual_stack is not None else partition.suffix
    return f"{service}{'-fips' if fips else ''}.{region}.{suffix}"
