"""Who owns what once the sealer is a user of its own; what others put there is not followed."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from audit.errors import AuditError
from audit.instance import Instance
from audit.sealing.keys import KeyPlace, create_key
from audit.sealing.process import seal_once
from proxy.errors import SetupError
from proxy.separation import acting_as, separate
from proxy.settings import Settings


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in list(os.environ):
        if name.startswith("KEYTRAIL_"):
            monkeypatch.delenv(name)
    (tmp_path / "signer").mkdir()
    return Settings(data=tmp_path / "data", sealer_user="nobody", sealer_key=str(tmp_path / "signer" / "signing.key"))


@pytest.fixture
def instance(settings: Settings) -> Instance:
    settings.data.mkdir()
    made = Instance.create(settings.data, "111122223333", "eu-central-1", "2026-01-02T03:04:05Z").with_logs(["w0"])
    create_key(made, KeyPlace(settings.sealer_key))
    seal_once(made, KeyPlace(settings.sealer_key))
    return made


@pytest.fixture
def signer() -> pwd.struct_passwd:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    return pwd.getpwnam("nobody")


def owned(path: Path) -> tuple[int, int, int]:
    told = path.stat()
    return told.st_uid, told.st_gid, told.st_mode & 0o7777


def test_the_checkpoints_and_the_key_are_the_sealers_and_the_logs_may_be_read(
    instance: Instance, settings: Settings, signer: pwd.struct_passwd
) -> None:
    for _ in range(2):  # again changes nothing
        separate(instance, settings)
        uid, group = signer.pw_uid, signer.pw_gid  # the folder was of root's group
        assert owned(settings.data) == (0, group, 0o2710)
        assert owned(settings.data / "keytrail.json") == (0, group, 0o640)
        assert owned(settings.data / "log" / "w0") == (0, group, 0o2750)
        assert owned(settings.data / "log" / "w0" / "mark") == (0, group, 0o640)
        assert owned(settings.data / "checkpoints" / "w0") == (uid, group, 0o2750)
        assert owned(Path(settings.sealer_key)) == (uid, group, 0o600)
    made = instance.with_logs(["w1"])
    assert owned(made.log_folder("w1")) == (0, signer.pw_gid, 0o2750), "what is made later is of that group too"
    assert owned(settings.data / "keytrail.json") == (0, signer.pw_gid, 0o640)


def test_a_link_is_not_followed(instance: Instance, settings: Settings, signer: pwd.struct_passwd, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_bytes(b"")
    before = owned(precious), owned(precious / "file")
    folder = settings.data / "checkpoints" / "w0"
    (folder / "latest").symlink_to(precious / "file")
    (folder / "more").symlink_to(precious)
    os.mkfifo(folder / "pipe")
    separate(instance, settings)
    assert (owned(precious), owned(precious / "file")) == before
    assert owned(folder)[0] == signer.pw_uid and os.lstat(folder / "pipe").st_uid == 0


def test_it_is_for_root_and_for_a_user_that_is_there(
    instance: Instance, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SetupError, match="needs the setting `sealer_user`"):
        separate(instance, settings.model_copy(update={"sealer_user": ""}))
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 1_000)
        with pytest.raises(SetupError, match="is for root"):
            separate(instance, settings)
        patch.setattr(os, "geteuid", lambda: 0)
        with pytest.raises(AuditError, match="there is no user nobody-at-all"):
            separate(instance, settings.model_copy(update={"sealer_user": "nobody-at-all"}))


def test_acting_as_another_makes_what_is_theirs(signer: pwd.struct_passwd, tmp_path: Path) -> None:
    os.chown(tmp_path, signer.pw_uid, signer.pw_gid)
    folder = os.open(tmp_path, os.O_RDONLY)  # its parents are root's alone
    try:
        with acting_as(signer.pw_uid, signer.pw_gid):
            os.close(os.open("theirs", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=folder))
            with acting_as(0, 0):
                os.close(os.open("ours", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=folder))
            assert os.geteuid() == signer.pw_uid
    finally:
        os.close(folder)
    assert os.geteuid() == 0
    assert [os.stat(tmp_path / name).st_uid for name in ("theirs", "ours")] == [signer.pw_uid, 0]
