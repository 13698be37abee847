"""One access of a request, as conditions look into it. Pure."""

from __future__ import annotations

from abc import ABC, abstractmethod

from proxy.policy.access import Access, AuthorizationRequest

#: In doubt: a policy variable that has no value here, or several.
NO_VALUE = "a policy variable"


class Asked(ABC):
    """What a condition key's values are, each found once; `unknown` are the keys that could not be told."""

    __slots__ = ("_known", "access", "request", "unknown")

    def __init__(self, request: AuthorizationRequest, access: Access) -> None:
        self.request = request
        self.access = access
        self._known: dict[str, tuple[str, ...]] = {}
        self.unknown: list[str] = []

    def look_up(self, name: str) -> tuple[str, ...] | None:
        """The values of the condition key `name`; None where they are not known."""
        if (known := self._known.get(name)) is not None:
            return known
        values = self._find(name)
        if values is None:
            self.unknown.append(name)
        else:
            self._known[name] = values
        return values

    @abstractmethod
    def _find(self, name: str) -> tuple[str, ...] | None: ...

    @abstractmethod
    def doubts(self) -> tuple[str, ...]:
        """What made a statement doubtful that was just looked at."""
