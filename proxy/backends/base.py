"""What the pipeline asks of a backend."""

from __future__ import annotations

from typing import Protocol

from proxy.domain import Answer, KmsCall


class Backend(Protocol):
    """Answers authorised calls. `name` stands in the record."""

    @property
    def name(self) -> str: ...

    @property
    def forwards(self) -> bool:
        """Whether it asks AWS, which may know more than this version: then it gets unknown operations too, and requests that
        break constraints of the service model, for AWS to judge."""
        ...

    async def call(self, call: KmsCall) -> Answer:
        """Answer one call; a change is durable when this returns.

        Raises KmsError for every refusal, in AWS's words, with the keys that were found to be meant. Calls may run
        concurrently on one event loop. A caller that is cancelled does not undo a change that has begun.
        """
        ...
