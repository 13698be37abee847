"""CloudTrail's layout: which names its files have. Pure; times are whole seconds since the epoch.

    [PREFIX/]AWSLogs/ACCOUNT/CloudTrail/REGION/YYYY/MM/DD/ACCOUNT_CloudTrail_REGION_YYYYMMDDTHHMMZ_UNIQUE.json.gz
    [PREFIX/]AWSLogs/ACCOUNT/CloudTrail-Digest/REGION/YYYY/MM/DD/ACCOUNT_CloudTrail-Digest_REGION_TRAIL_HOME_YYYYMMDDTHHMMSSZ.json.gz

The time of a log file is that of its delivery, that of a digest its end. UNIQUE comes from what the file holds, so that a
file under another name, or with other contents under its name, gives itself away.

Source: AWS CloudTrail User Guide, "Finding your CloudTrail log files" and "CloudTrail digest file structure".
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import NamedTuple

_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_LOG_KEY = re.compile(
    r"AWSLogs/(?P<account>\d{12})/CloudTrail/(?P<region>[a-z0-9-]+)/(?P<day>\d{4}/\d\d/\d\d)/"
    r"(?P=account)_CloudTrail_(?P=region)_(?P<time>\d{8}T\d{4})Z_(?P<unique>[A-Z2-7]{16})\.json\.gz"
)
_DIGEST_KEY = re.compile(
    r"AWSLogs/(?P<account>\d{12})/CloudTrail-Digest/(?P<region>[a-z0-9-]+)/(?P<day>\d{4}/\d\d/\d\d)/"
    r"(?P=account)_CloudTrail-Digest_(?P=region)_(?P<trail>[A-Za-z0-9._-]+)_(?P<home>[a-z0-9-]+)_(?P<time>\d{8}T\d{6})Z\.json\.gz"
)


class Place(NamedTuple):
    """Whose files, and of which region: each has log files and a chain of digests of its own."""

    account_id: str
    region: str

    def __str__(self) -> str:
        return f"{self.account_id}/{self.region}"


class LogKey(NamedTuple):
    """What the name of a log file says; `minute` is the time of its delivery, to the minute."""

    place: Place
    minute: int
    unique: str


class DigestKey(NamedTuple):
    """What the name of a digest says."""

    place: Place
    trail: str
    home_region: str
    end: int


@dataclass(frozen=True, slots=True)
class Trail:
    """Whose trail it is, and where its files go: `bucket` (of a folder: its name), `prefix` without slashes around it, or ""."""

    name: str
    home: Place
    bucket: str
    prefix: str

    @property
    def arn(self) -> str:
        return f"arn:{partition_of(self.home.region)}:cloudtrail:{self.home.region}:{self.home.account_id}:trail/{self.name}"

    @property
    def root(self) -> str:
        """What all its keys begin with."""
        return f"{self.prefix}/AWSLogs/" if self.prefix else "AWSLogs/"

    def log_key(self, place: Place, time: int, body: bytes) -> str:
        """The key of the log file with the uncompressed `body`, delivered at `time`."""
        name = f"{place.account_id}_CloudTrail_{place.region}_{_stamp(time, '%Y%m%dT%H%MZ')}_{unique_of(body)}.json.gz"
        return f"{self._folder(place, 'CloudTrail', time)}/{name}"

    def digest_key(self, place: Place, end: int) -> str:
        """The key of the digest that ends at `end`."""
        names = (place.account_id, "CloudTrail-Digest", place.region, self.name, self.home.region, _stamp(end, "%Y%m%dT%H%M%SZ"))
        return f"{self._folder(place, 'CloudTrail-Digest', end)}/{'_'.join(names)}.json.gz"

    def _folder(self, place: Place, kind: str, time: int) -> str:
        return f"{self.root}{place.account_id}/{kind}/{place.region}/{_stamp(time, '%Y/%m/%d')}"

    def parse(self, key: str) -> LogKey | DigestKey | None:
        """What `key` is the name of; None for a name that no file of a trail has."""
        name = key.removeprefix(f"{self.prefix}/") if self.prefix else key
        found = _LOG_KEY.fullmatch(name) or _DIGEST_KEY.fullmatch(name)
        if found is None:
            return None
        place, is_log = Place(found["account"], found["region"]), "unique" in found.groupdict()
        try:
            moment = datetime.strptime(found["time"] + "+0000", "%Y%m%dT%H%M%z" if is_log else "%Y%m%dT%H%M%S%z")
        except ValueError:
            return None
        if moment.strftime("%Y/%m/%d") != found["day"]:
            return None
        if is_log:
            return LogKey(place, int(moment.timestamp()), found["unique"])
        return DigestKey(place, found["trail"], found["home"], int(moment.timestamp()))


def unique_of(body: bytes) -> str:
    """The sixteen letters and digits in a log file's name: 80 bits of the SHA-256 of its uncompressed bytes, base32."""
    return base64.b32encode(sha256(body).digest()[:10]).decode()


def timestamp(time: int) -> str:
    """As CloudTrail writes times: ``2026-01-02T03:04:05Z``."""
    return _stamp(time, "%Y-%m-%dT%H:%M:%SZ")


def seconds(text: str) -> int:
    """What `timestamp` wrote. Raises ValueError."""
    if not _TIME.fullmatch(text):
        raise ValueError("no time as CloudTrail writes it")
    return int(datetime.fromisoformat(text).timestamp())


def partition_of(region: str) -> str:
    """The partition of AWS that `region` is in, as it stands in ARNs."""
    if region.startswith("cn-"):
        return "aws-cn"
    return "aws-us-gov" if region.startswith("us-gov-") else "aws"


def _stamp(time: int, form: str) -> str:
    return datetime.fromtimestamp(time, UTC).strftime(form)
