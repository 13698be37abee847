"""What somebody may do to the folder of a log behind its writer's back."""

from __future__ import annotations

import os
import shutil

from audit.commit import LogPlace
from audit.segments import list_segments


def remove_folder(place: LogPlace) -> None:
    shutil.rmtree(place.folder)


def remove_segment(place: LogPlace) -> None:
    list_segments(place.folder)[-1].path.unlink()


def replace_segment(place: LogPlace) -> None:
    path = list_segments(place.folder)[-1].path
    path.unlink()
    path.touch()


def cut_segment(place: LogPlace) -> None:
    os.truncate(list_segments(place.folder)[-1].path, 0)


def cut_a_line(place: LogPlace) -> None:
    path = list_segments(place.folder)[-1].path
    os.truncate(path, path.read_bytes()[:-1].rindex(b"\n") + 1)
