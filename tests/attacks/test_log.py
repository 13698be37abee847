"""Attacks on the lines of a log: by root alone, and by root with the sealer's key."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from audit.canonical import timestamp
from audit.checkpoint import claimed_checkpoint, split_notes
from audit.segments import segment_name
from tests.attacks.honest import Honest
from tests.attacks.root import Root, assert_caught, assert_passes, renumbered


def test_nothing_is_found_where_nothing_was_done(honest: Honest) -> None:
    """With all that can be asked for: what the attacks below fail by, is not there by itself."""
    assert_passes(
        honest.data,
        *honest.keys,
        *("--checkpoint", str(honest.saved), "--receipts", str(honest.receipts), "--policy", str(honest.policy)),
        *("--delivery", str(honest.delivered), "--index"),
    )


def changed_byte(root: Root, number: int) -> None:
    path = next(path for path in reversed(root.segments()) if int(path.name[:20]) <= number)
    root.change(lambda lines: [line.replace(b'"tenant":"t', b'"tenant":"u') for line in lines], path)


def deleted_line(root: Root, number: int) -> None:
    path = next(path for path in reversed(root.segments()) if int(path.name[:20]) <= number)
    at = number - int(path.name[:20])
    root.change(lambda lines: lines[:at] + lines[at + 1 :], path)


def swapped_lines(root: Root, number: int) -> None:
    path = next(path for path in reversed(root.segments()) if int(path.name[:20]) <= number)
    at = number - int(path.name[:20])
    other = at - 1 if at else at + 1

    def swap(lines: list[bytes]) -> list[bytes]:
        lines[at], lines[other] = lines[other], lines[at]
        return lines

    root.change(swap, path)


def deleted_segment(root: Root, number: int) -> None:
    next(path for path in reversed(root.segments()) if int(path.name[:20]) <= number).unlink()


def deleted_calls(root: Root, number: int) -> None:
    """All calls of a segment. Its heartbeats stay, so that no silence tells of it, however long the segment took."""
    path = next(path for path in reversed(root.segments()) if int(path.name[:20]) <= number)
    root.change(lambda lines: [line for line in lines if orjson.loads(line)["eventSource"] == "keytrail"], path)


EDITS = pytest.mark.parametrize("edit", [changed_byte, deleted_line, swapped_lines, deleted_segment])
EDITS_TO_SIGN = pytest.mark.parametrize("edit", [changed_byte, deleted_line, swapped_lines, deleted_calls])


def victim(honest: Honest, root: Root) -> int:
    """A call that was recorded before the checkpoint was saved."""
    return max(number for number in root.calls() if number < honest.saved_size - 2)


@EDITS
def test_an_edit_by_root(honest: Honest, root: Root, edit: Callable[[Root, int], None]) -> None:
    before = root.lines()
    edit(root, victim(honest, root))
    assert root.lines() != before
    assert_caught(root.data, 5)


@EDITS_TO_SIGN
def test_an_edit_that_is_signed_anew(honest: Honest, root: Root, edit: Callable[[Root, int], None]) -> None:
    edit(root, victim(honest, root))
    root.replace(root.lines())
    root.sign_anew()
    assert_passes(root.data, *honest.keys)
    assert_caught(root.data, 7, "--checkpoint", str(honest.saved))
    assert_caught(root.data, 11, "--policy", str(honest.policy))


def test_a_cut_tail(honest: Honest, root: Root) -> None:
    root.cut(honest.saved_size)
    assert_passes(root.data, *honest.keys, "--checkpoint", str(honest.saved))
    assert_caught(root.data, 10, "--receipts", str(honest.receipts))


def test_an_edit_with_its_checkpoints_taken_away(honest: Honest, root: Root) -> None:
    """Without the sealer's key: nothing is signed for what was changed, and the checkpoints that were over it are gone."""
    number = next(number for number in root.calls() if number >= honest.saved_size)
    lines = root.lines()
    root.cut(honest.saved_size)
    lines[number] = lines[number].replace(b'"tenant":"t', b'"tenant":"u')
    root.replace(lines)
    assert_passes(root.data, *honest.keys, "--checkpoint", str(honest.saved))
    assert_caught(root.data, 10, "--receipts", str(honest.receipts))
    assert_caught(root.data, 14, "--max-age", "1s")


def test_an_edit_with_an_older_cosigned_checkpoint(honest: Honest, root: Root) -> None:
    """What witnesses gave for the log is kept: an old note of theirs, put in the place of the newest, covers less."""
    older = split_notes((root.witnessed / "cosignatures").read_text("utf-8"))[0]
    covered = claimed_checkpoint(older).size
    number = next(number for number in root.calls() if number >= covered)
    lines = root.lines()
    lines[number] = lines[number].replace(b'"tenant":"t', b'"tenant":"u')
    root.replace(lines)
    root.sign_anew()
    (root.witnessed / "cosigned").write_text(older, "utf-8")
    assert_passes(root.data, *honest.keys, "--policy", str(honest.policy))
    age_s = time.time() - (honest.data / "witnessed" / "w0" / "cosigned").stat().st_mtime + 5
    assert_caught(root.data, 11, "--policy", str(honest.policy), "--max-age", f"{age_s:.0f}s")


def emptied(root: Root) -> None:
    """Nothing was ever written to the log, or signed for it."""
    root.replace([])
    for path in (root.folder / segment_name(0), *root.checkpoints.iterdir(), *root.witnessed.iterdir()):
        path.unlink()


def test_a_log_emptied(honest: Honest, root: Root) -> None:
    commands = Root(root.data, "admin")
    emptied(commands)
    assert_passes(root.data, *honest.keys)
    assert_caught(root.data, 7, "--checkpoint", str(honest.saved))
    assert_caught(root.data, 11, "--policy", str(honest.policy))
    assert_caught(root.data, 14, "--max-age", "1000 days")


def test_a_log_begun_anew_a_moment_ago(honest: Honest, root: Root) -> None:
    line = orjson.loads(root.lines()[0])
    emptied(root)
    line["additionalEventData"]["keytrail"]["time"] = timestamp(time.time_ns() // 1_000)
    root.replace([orjson.dumps(line)])
    assert_passes(root.data, *honest.keys, "--max-age", "1000 days")
    assert_caught(root.data, 7, "--checkpoint", str(honest.saved))
    assert_caught(root.data, 11, "--policy", str(honest.policy))


def test_a_record_rewritten_behind_the_saved_checkpoint(honest: Honest, root: Root) -> None:
    lines = root.lines()
    number = next(number for number in root.calls() if number >= honest.saved_size)
    lines[number] = lines[number].replace(b'"tenant":"t', b'"tenant":"u')
    root.replace(lines)
    root.sign_anew()
    assert_passes(root.data, *honest.keys, "--checkpoint", str(honest.saved))
    assert_caught(root.data, 10, "--receipts", str(honest.receipts))
    assert_caught(root.data, 11, "--policy", str(honest.policy))


def test_a_forged_file_in_the_log(honest: Honest, root: Root) -> None:
    number = root.calls()[2]
    forged = renumbered(root.lines()[number].replace(b'"tenant":"t', b'"tenant":"u'), "w0", number)
    (root.folder / segment_name(number)).write_bytes(forged + b"\n")
    assert_caught(root.data, 5)


def test_a_forged_file_behind_the_log(honest: Honest, root: Root) -> None:
    """Who can write the log can have anything recorded at its end: no tree tells who wrote a line."""
    lines = root.lines()
    forged = renumbered(lines[root.calls()[0]], "w0", len(lines))
    (root.folder / segment_name(len(lines))).write_bytes(forged + b"\n")
    assert_passes(root.data, *honest.keys, "--checkpoint", str(honest.saved), "--receipts", str(honest.receipts))
    assert_caught(root.data, 14, "--max-age", "1s")  # as long as it is under no checkpoint


def test_a_forged_log(honest: Honest, root: Root) -> None:
    for kind in ("log", "checkpoints"):
        shutil.copytree(root.data / kind / "w0", root.data / kind / "w1")
    forged = Root(root.data, "w1")
    forged.replace(root.lines())
    forged.sign_anew()
    assert_caught(root.data, 1)
    document = orjson.loads((root.data / "keytrail.json").read_bytes())
    document["logs"].append("w1")
    (root.data / "keytrail.json").write_bytes(orjson.dumps(document))
    assert_passes(root.data, *honest.keys, "--checkpoint", str(honest.saved), "--receipts", str(honest.receipts))
    assert_caught(root.data, 11, "--policy", str(honest.policy))


def test_a_log_copied_from_another_host(honest: Honest, root: Root, initialised: Path, tmp_path: Path) -> None:
    shutil.copytree(initialised, tmp_path / "other")
    document = orjson.loads((tmp_path / "other" / "keytrail.json").read_bytes())
    document["instance"] = "0123456789abcdef"  # another host's `init` made this
    (tmp_path / "other" / "keytrail.json").write_bytes(orjson.dumps(document))
    shutil.copytree(root.data / "log" / "w0", tmp_path / "other" / "log" / "w0")
    (tmp_path / "other" / "checkpoints" / "w0").mkdir()
    other = Root(tmp_path / "other")
    other.replace([line for line in root.lines() if b"GenerateDataKey" in line])
    other.sign_anew()
    for kind in ("log", "checkpoints"):
        shutil.rmtree(root.data / kind / "w0")
        shutil.copytree(other.data / kind / "w0", root.data / kind / "w0")
    assert_caught(root.data, 4)
    root.sign_anew()
    assert_passes(root.data, *honest.keys)
    assert_caught(root.data, 7, "--checkpoint", str(honest.saved))


def test_a_log_removed_with_all_that_names_it(honest: Honest, root: Root) -> None:
    shutil.rmtree(root.folder)
    assert_caught(root.data, 1)
    shutil.rmtree(root.checkpoints)
    assert_caught(root.data, 1)
    document = orjson.loads((root.data / "keytrail.json").read_bytes())
    document["logs"].remove("w0")
    (root.data / "keytrail.json").write_bytes(orjson.dumps(document))
    assert_passes(root.data)
    assert_passes(root.data, "--policy", str(honest.policy))
    assert_caught(root.data, 1, *honest.keys)
    assert_caught(root.data, 1, "--checkpoint", str(honest.saved))
    assert_caught(root.data, 1, "--receipts", str(honest.receipts))
