"""Where policies are on disk: a folder's ``*.json``."""

from __future__ import annotations

from pathlib import Path

from proxy.errors import SetupError


def read_folder(folder: Path) -> list[tuple[str, bytes]]:
    """The names and contents of the ``*.json`` in `folder`, by name; other files and subfolders are not looked at.

    A ``*.json`` that is no regular file, nor a link to one, is refused, and so is a folder without any: a guardrail that is
    meant to be there and is not must not go unnoticed. Raises SetupError.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".json")
        if not paths:
            raise SetupError(f"policies: there is no *.json in {folder}")
        for path in paths:
            if not path.is_file():
                raise SetupError(f"policies: {path} is no regular file")
        return [(path.name, path.read_bytes()) for path in paths]
    except OSError as error:
        raise SetupError(f"policies: {folder} cannot be read: {error}") from error
