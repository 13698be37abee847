"""The repository as its readers have it: tracked files, and the markdown among them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_FENCED = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(<?([^)\s>]+)>?[^)]*\)")
_HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)


def tracked_files() -> list[Path]:
    """What is in git, and what is about to be (new and not ignored)."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout.decode()
    return sorted(path for name in set(listed.split("\0")) if name and (path := ROOT / name).is_file())


def markdown_files() -> list[Path]:
    return [path for path in tracked_files() if path.suffix == ".md"]


def read_required(name: str) -> str:
    """The text of the file `name`; where it is missing, the test says so."""
    path = ROOT / name
    assert path.is_file(), f"{name} is missing"
    return path.read_text()


def relative_links(markdown: str) -> list[str]:
    """The targets of the links that stay in the repository, outside code blocks."""
    targets = _LINK.findall(_FENCED.sub("", markdown))
    return [target for target in targets if "://" not in target and not target.startswith("mailto:")]


def anchors(markdown: str) -> set[str]:
    """The anchors that the headings of `markdown` get when it is shown."""
    headings = _HEADING.findall(_FENCED.sub("", markdown))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
