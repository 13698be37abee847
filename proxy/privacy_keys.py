"""The keys behind `proxy.context_privacy`, for a worker: opened, made in time, forgotten when they are shredded.

A subject's key is made, and durable, before the call's first record, its intent included; the loop does not wait for the disk.
Where it cannot be made, the call is refused: its record says so, and withholds the value.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from audit.errors import AuditError
from audit.instance import Instance
from audit.privacy import Rules
from audit.private_keys import SubjectKey
from audit.subjects import Subjects, make_privacy_key, subjects_path
from proxy.context_privacy import ContextPrivacy
from proxy.domain import Members
from proxy.errors import KmsError, SetupError

_log = logging.getLogger(__name__)
_NOT_CONFIDED = "The call cannot be recorded as private as it is to be, so it is not answered."


class PrivacyKeys:
    """`privacy` hides with them; `confide` is for the pipeline."""

    def __init__(self, rules: Rules, instance: Instance, random: Callable[[int], bytes]) -> None:
        """Makes what was never made. Raises SetupError where the privacy key is gone, or not that of the subjects' keys."""
        try:
            key = make_privacy_key(instance, random)
            self._subjects = Subjects(subjects_path(instance), key, random)
        except AuditError as error:
            raise SetupError(f"context_privacy: {error}") from error
        self.privacy = ContextPrivacy(rules, key, self._at_hand, random)
        self.encrypts = rules.encrypts
        self._makers = ThreadPoolExecutor(1, "subject-keys")
        self._told = ""

    async def confide(self, members: Members) -> None:
        """Have a key for each subject in `members`. Raises KmsError where that is not possible."""
        try:
            for subject in dict.fromkeys(self.privacy.subjects(members)):
                if self._subjects.find(subject) is None:
                    await asyncio.get_running_loop().run_in_executor(self._makers, self._subjects.make, subject)
                    self._told = ""
        except AuditError as error:
            if str(error) != self._told:  # once, and not for each call
                self._told = str(error)
                _log.error("calls are refused: %s", error)
            raise KmsError("KMSInternalException", _NOT_CONFIDED, status=500) from error

    def forget_shredded(self) -> None:
        """For now and then: what was shredded is in this process's memory no longer than until the next time."""
        with suppress(AuditError):  # who needs the keys is told
            self._subjects.forget_shredded()

    def close(self) -> None:
        self._makers.shutdown()
        self._subjects.close()

    def _at_hand(self, subject: str) -> SubjectKey | None:
        try:
            return self._subjects.find(subject)
        except AuditError:
            return None


def privacy_keys(words: tuple[str, ...], instance: Instance, random: Callable[[int], bytes]) -> PrivacyKeys | None:
    """By the setting `context_privacy`; None where nothing is private. Raises SetupError."""
    rules = Rules.parse(words)
    return None if rules.are_all_clear else PrivacyKeys(rules, instance, random)
