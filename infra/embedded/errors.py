"""What can go wrong on a laptop, in words for the person in front of it. Paths are fine here: they are their own."""

from __future__ import annotations

from typing import Any

from common.errors import FillfleetError


class StartFailed(FillfleetError):
    """Something that was to be started did not start; everything that had been started is stopped again."""

    def __init__(self, message: str, code: str = "start_failed") -> None:
        super().__init__(code, message)

    def __reduce__(self) -> tuple[type[FillfleetError], tuple[str, str], dict[str, Any]]:
        return (type(self), (self.message, self.code), self.__dict__)


class GuardianLost(StartFailed):
    """The guardian process is gone, and with it all that it ran."""

    def __init__(
        self, message: str = "the guardian process is gone, and with it all that it ran", code: str = "guardian_lost"
    ) -> None:
        super().__init__(message, code)
