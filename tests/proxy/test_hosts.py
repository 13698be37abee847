"""Which names are KMS's, by AWS's own table of regions and by names that only look like KMS's."""

from __future__ import annotations

from urllib.parse import urlsplit

import botocore.loaders
import pytest
from botocore.endpoint_provider import EndpointProvider

from proxy.kms.hosts import Service, endpoint_host, kms_region, partition_of, sts_region

_LOADER = botocore.loaders.create_loader()
_PARTITIONS = _LOADER.load_data("partitions")
_KMS, _STS = (EndpointProvider(_LOADER.load_service_model(name, "endpoint-rule-set-1"), _PARTITIONS) for name in ("kms", "sts"))
REGIONS = [
    (region, partition["id"])
    for partition in _PARTITIONS["partitions"]
    for region in partition["regions"]
    if not region.endswith("-global")
]


@pytest.mark.parametrize(("region", "partition"), REGIONS)
@pytest.mark.parametrize("fips", [False, True])
@pytest.mark.parametrize("dual_stack", [False, True])
def test_names_are_those_of_the_sdks(region: str, partition: str, fips: bool, dual_stack: bool) -> None:
    url = _KMS.resolve_endpoint(Region=region, UseFIPS=fips, UseDualStack=dual_stack).url
    theirs = urlsplit(url).hostname
    assert theirs is not None
    assert partition_of(region).name == partition
    assert endpoint_host(region, fips=fips, dual_stack=dual_stack) == theirs
    assert kms_region(theirs) == kms_region(theirs.upper() + ".") == region
    assert sts_region(theirs) is None


@pytest.mark.parametrize(("region", "partition"), REGIONS)
@pytest.mark.parametrize("fips", [False, True])
@pytest.mark.parametrize("dual_stack", [False, True])
def test_the_names_of_sts_are_those_of_the_sdks(region: str, partition: str, fips: bool, dual_stack: bool) -> None:
    """But for FIPS in AWS GovCloud, where the SDKs ask the usual name."""
    url = _STS.resolve_endpoint(Region=region, UseFIPS=fips, UseDualStack=dual_stack, UseGlobalEndpoint=False).url
    theirs = urlsplit(url).hostname
    assert theirs is not None
    is_usual = partition == "aws-us-gov" and not dual_stack
    assert endpoint_host(region, service="sts", fips=fips and not is_usual, dual_stack=dual_stack) == theirs
    assert sts_region(theirs) == sts_region(theirs.upper() + ".") == region
    assert kms_region(theirs) is None


def test_sts_has_a_name_without_a_region() -> None:
    url = _STS.resolve_endpoint(Region="eu-west-1", UseFIPS=False, UseDualStack=False, UseGlobalEndpoint=True).url
    assert urlsplit(url).hostname == "sts.amazonaws.com"
    assert sts_region("sts.amazonaws.com") == sts_region("STS.amazonaws.com.") == "us-east-1"


@pytest.mark.parametrize(
    "host",
    [
        "vpce-0123456789abcdef0-abcdefgh.kms.us-east-1.vpce.amazonaws.com",
        "vpce-0123456789abcdef0-abcdefgh-us-east-1a.kms.us-east-1.vpce.amazonaws.com",
        "vpce-0123456789abcdef0-abcdefgh.kms-fips.us-east-1.vpce.amazonaws.com",
    ],
)
def test_vpc_endpoints_have_the_region_after_kms(host: str) -> None:
    assert kms_region(host) == "us-east-1"


@pytest.mark.parametrize("service", ["kms", "sts"])
@pytest.mark.parametrize(
    "host",
    [
        "",
        ".",
        "kms",
        "kms.amazonaws.com",
        "kms.us-east-1.amazonaws.com.evil.example",
        "evil.kms.us-east-1.amazonaws.com",
        "kms.us-east-1.amazonaws.com..",
        "xkms.us-east-1.amazonaws.com",
        "kms.us-east-1.amazonaws.co",
        "kms.us-east-1xamazonaws.com",
        "kms.us-east-1.amazonaws.com.cn",
        "kms.cn-north-1.amazonaws.com",
        "kms.us-east-1.amazonaws.com:443",
        "kms.us-east-1.amazonaws.com\n",
        "kms.us-east-1.amazonaws.com\x00",
        "kms.us-eаst-1.amazonaws.com",  # a Cyrillic letter
        "kms.us-east-١.amazonaws.com",  # a digit, but not ours
        "-.kms.us-east-1.vpce.amazonaws.com",
        "a.b.kms.us-east-1.vpce.amazonaws.com",
        "kms.us-east-1.vpce.amazonaws.com",
        "s3.kms.us-east-1.amazonaws.com",
    ],
)
def test_what_only_looks_like_it_is_not(host: str, service: Service) -> None:
    found = {"kms": kms_region, "sts": sts_region}[service]
    expected = "us-east-1" if (service, host) == ("sts", "kms.amazonaws.com") else None  # which KMS has not
    assert found(host.replace("kms", service)) == expected
