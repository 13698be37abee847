"""Whether a sealer apart is alive, by the oldest record that no checkpoint covers."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit.instance import Instance
from audit.log import Mark
from proxy.sealer_watch import LIMIT_S, SealerWatch


class World:
    def __init__(self, data: Path) -> None:
        self.instance = Instance.create(data, "111122223333", "eu-central-1", "2026-01-02T03:04:05Z").with_logs(["w0"])
        self.now_s = 1_000.0
        self.watch = SealerWatch(lambda: Instance.load(data), lambda: self.now_s)

    def log(self, records: int, log: str = "w0") -> None:
        (self.instance.log_folder(log) / "mark").write_bytes(Mark(records, 0, 100, 0).encode())

    def sign(self, size: int, log: str = "w0") -> None:
        (self.instance.checkpoint_folder(log) / "latest").write_text(f"{self.instance.origin(log)}\n{size}\nAAAA\n\n")

    def after(self, seconds: float) -> bool:
        self.now_s += seconds
        self.watch.look()
        return self.watch.status().ready


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_an_idle_log_needs_no_new_checkpoint(world: World) -> None:
    assert world.watch.status().ready and world.after(0)
    world.log(5)
    world.sign(5)
    assert world.after(0) and world.after(1e6)


def test_records_that_wait_too_long_tell_that_it_is_not_running(world: World) -> None:
    world.log(5)
    assert world.after(0) and world.after(LIMIT_S)
    assert not world.after(1)
    assert world.watch.status().reason == "no checkpoint covers records of the log w0 for 11 s: is it running?"
    world.sign(4)
    assert not world.after(0)
    world.sign(5)
    assert world.after(0)


def test_a_sealer_that_follows_a_busy_log_is_alive(world: World) -> None:
    for number in range(1, 20):
        world.log(number * 100)
        assert world.after(2)
        world.sign(number * 100 - 10)


def test_one_log_that_stands_still_is_enough(world: World) -> None:
    world.log(5)
    world.log(3, "admin")
    world.sign(3, "admin")
    world.after(0)
    world.log(9, "admin")
    world.sign(9, "admin")
    assert not world.after(LIMIT_S + 1)
