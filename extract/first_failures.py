"""Stop a run whose first files all fail for one cause: a mount gone, a library broken."""

from __future__ import annotations

from extract.errors import ExtractError

_FIRST_FILES = 16  # that all fail for one cause, which then does not lie in them
_NO_FAULT = {"no audio stream", "no video stream"}  # a corpus may well lack a modality


class FirstFailures:
    """Watches what becomes of a shard's files until one works or two causes differ.

    Files are counted, not utterances: one broken film may hold many of those.

    Args:
        name: Of the shard, for messages.
        known_to_work: Whether a file of this feature set has worked already.
    """

    def __init__(self, name: str, known_to_work: bool) -> None:
        self._name, self._over = name, known_to_work
        self._reasons: set[str] = set()
        self._files: set[str] = set()

    def success(self) -> None:
        """Note that a file is fine."""
        self._over = True

    def failure(self, file: str, reason: str) -> None:
        """Note that a file is not.

        Raises:
            ExtractError: none of the first files was, for one cause.
        """
        self._reasons.add(reason)
        self._files.add(file)
        self._over = self._over or len(self._reasons) > 1 or reason in _NO_FAULT
        if not self._over and len(self._files) >= _FIRST_FILES:
            raise ExtractError(
                f"{self._name}: the first {len(self._files)} files all failed for one cause, so "
                f"nothing was set aside: {reason} (first: {min(self._files)}); mend that and run "
                "again, or take these rows out of the table if the files are beyond use"
            )
