"""An instance's facts: what its `keytrail.json` may say. Who writes that file need not be who has the signing key."""

from __future__ import annotations

import base64
from pathlib import Path

import orjson
import pytest

from audit.checkpoint import Checkpoint, SigningKey
from audit.companion import Status
from audit.instance import Instance, NoInstance
from audit.sealing.keys import create_key, load_key
from audit.sealing.process import Sealer
from audit.segments import create_log
from tests.audit.forge import Forge, line

CREATED = "2026-01-02T03:04:05Z"


def rewrite(of: Instance, **changes: object) -> None:
    """Change members of `keytrail.json`."""
    path = of.data / "keytrail.json"
    path.write_bytes(orjson.dumps(orjson.loads(path.read_bytes()) | changes))


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    made = Instance.create(tmp_path, "111122223333", "eu-central-1", CREATED)
    create_key(made)
    made.save()
    return made


def test_it_comes_back_as_it_was_saved(instance: Instance) -> None:
    more = instance.with_logs(["w0", "w63", "trail"])
    assert Instance.load(instance.data) == more
    assert more.logs == ("admin", "w0", "w63", "trail")


NO_NAMES = ["", ".", "..", "../w0", "w0/..", "w 0", "w0\n", "w0\n5", "W0", "0", "w0+", "w\u00e9", "w" * 33, 5, None]
OF_OTHER_MEANING = ["keys", "lock", "rotation", "sealer-keys"]


@pytest.mark.parametrize("name", [*NO_NAMES, *OF_OTHER_MEANING])
def test_a_log_of_no_such_name(instance: Instance, name: object) -> None:
    rewrite(instance, logs=["admin", name])
    with pytest.raises(NoInstance, match="damaged"):
        Instance.load(instance.data)


@pytest.mark.parametrize("id", ["", "0" * 15, "0" * 17, "0123456789ABCDEF", "0" * 16 + "\n", "0" * 14 + "/w", 5, None])
def test_an_id_that_is_none(instance: Instance, id: object) -> None:
    rewrite(instance, instance=id)
    with pytest.raises(NoInstance, match="damaged"):
        Instance.load(instance.data)


class Noting:
    """A `SigningKey` that keeps what it signed."""

    def __init__(self, key: SigningKey) -> None:
        self.public_key, self._sign = key.public_key, key.sign
        self.signed: list[bytes] = []

    def sign(self, data: bytes, /) -> bytes:
        self.signed.append(data)
        return self._sign(data)


@pytest.mark.parametrize("member", ["logs", "instance"])
def test_no_name_makes_the_sealer_sign_another_logs_checkpoint(
    instance: Instance, monkeypatch: pytest.MonkeyPatch, member: str
) -> None:
    """Lines in a name would be lines of the checkpoint: origin, size and root of whoever's choice, and the real ones behind."""
    forge = Forge(instance)
    forge.grow(3)
    key = Noting(load_key(instance.sealer_key))
    monkeypatch.setattr("audit.sealing.keys.load_key", lambda path: key)
    forged = Checkpoint(instance.origin("admin"), 1_000, bytes(32))
    name = f"admin\n1000\n{base64.b64encode(bytes(32)).decode()}\nx"
    changes: dict[str, object] = {"logs": ["admin", name]} if member == "logs" else {"instance": f"{instance.id}/{name}"}
    if member == "logs":
        create_log(instance.log_folder(name))
        Forge(instance, name).append(line(0, name))
    rewrite(instance, **changes)
    told: list[Status] = []
    Sealer(instance.data, told.append).seal_all()
    assert not told[-1].ready and "damaged" in str(told[-1].reason)
    assert not [text for text in key.signed if text.startswith(forged.text().encode())]
