"""Which names are KMS's, by AWS's own table of regions and by names that only look like KMS's."""

from __future__ import annotations

from urllib.parse import urlsplit

import botocore.loaders
import pytest
from botocore.endpoint_provider import EndpointProvider

from proxy.kms.hosts import endpoint_host, kms_region, partition_of

_LOADER = botocore.loaders.create_loader()
_PARTITIONS = _LOADER.load_data("partitions")
_RULES = EndpointProvider(_LOADER.load_service_model("kms", "endpoint-rule-set-1"), _PARTITIONS)
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
    url = _RULES.resolve_endpoint(Region=region, UseFIPS=fips, UseDualStack=dual_stack).url
    theirs = urlsplit(url).hostname
    assert theirs is not None
    assert partition_of(region).name == partition
    assert endpoint_host(region, fips=fips, dual_stack=dual_stack) == theirs
    assert kms_region(theirs) == kms_region(theirs.upper() + ".") == region


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
        "sts.us-east-1.amazonaws.com",
        "s3.kms.us-east-1.amazonaws.com",
    ],
)
def test_what_only_looks_like_kms_is_not(host: str) -> None:
    assert kms_region(host) is None
