"""Lists in pages: Limit and Marker in, Truncated and NextMarker out.

A marker is the operation, what its list is of, and the last name that was given; opaque to clients, refused for
another list.
"""

from __future__ import annotations

import asyncio
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, TypeVar

import orjson

from proxy.domain import KmsCall
from proxy.errors import KmsError

T = TypeVar("T")
#: A row that nobody looked into before takes some 15 µs, so these hold the event loop for about one millisecond.
AT_ONCE = 50


def page(
    call: KmsCall,
    items_after: Callable[[str], Iterable[T]],
    name_of: Callable[[T], str],
    *,
    of: str = "",
    default: int,
    most: int,
) -> tuple[list[T], dict[str, Any]]:
    """One page, and the members that say whether there is more. `items_after("")` is the whole list, by name.

    A larger Limit than `most` gives `most`: AWS's documentation bounds it, and says that fewer may come than were
    asked for.
    """
    after, limit = _asked(call, of, default, most)
    return _cut(call, list(islice(items_after(after), limit + 1)), limit, name_of, of)


async def page_in_turns(
    call: KmsCall,
    items_after: Callable[[str], Iterable[T]],
    name_of: Callable[[T], str],
    *,
    of: str = "",
    default: int,
    most: int,
) -> tuple[list[T], dict[str, Any]]:
    """As `page`, of items that take long to make: other calls have their turn after each `AT_ONCE`, and what they change behind
    the last item is seen."""
    after, limit = _asked(call, of, default, most)
    items: list[T] = []
    while True:
        some = list(islice(items_after(after), min(AT_ONCE, limit + 1 - len(items))))
        items += some
        if len(some) < AT_ONCE or len(items) > limit:
            return _cut(call, items, limit, name_of, of)
        after = name_of(some[-1])
        await asyncio.sleep(0)


def _asked(call: KmsCall, of: str, default: int, most: int) -> tuple[str, int]:
    """Behind which name the page begins, and how many items it has at most."""
    marker = call.parameters.get("Marker")
    after = "" if marker is None else _read(marker, call.operation.name, of)
    return after, min(call.parameters.get("Limit") or default, most)


def _cut(call: KmsCall, items: list[T], limit: int, name_of: Callable[[T], str], of: str) -> tuple[list[T], dict[str, Any]]:
    """The page of `items`, which are one more than `limit` where there is more."""
    if len(items) <= limit:
        return items, {"Truncated": False}
    items.pop()
    return items, {"Truncated": True, "NextMarker": _write(call.operation.name, of, name_of(items[-1]))}


def _write(operation: str, of: str, last: str) -> str:
    return urlsafe_b64encode(orjson.dumps([operation, of, last])).decode()


def _read(marker: str, operation: str, of: str) -> str:
    try:
        match orjson.loads(urlsafe_b64decode(marker)):
            case [str(marked), str(marked_of), str(last)] if (marked, marked_of) == (operation, of) and last:
                return last
    except ValueError:
        pass
    raise KmsError("InvalidMarkerException", "The marker is not valid for this list.")
