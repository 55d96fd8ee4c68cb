"""Every exception tunesmith raises on purpose.

    TunesmithError
    └── UserError                 the caller can fix it: code, what happened, what to do next
        ├── InvalidArgument       invalid_argument      an argument is unknown, of the wrong type or out of range
        ├── NotFound              not_found             no dataset, run, model or file of that name
        ├── PathRefused           path_refused          outside the allowed roots, or not a regular file or folder
        ├── BadInput              bad_input             a file was read and what is in it cannot be used
        ├── EmptyInput            empty_input           there is nothing to work on
        ├── Conflict              conflict              it exists already, or has already ended
        ├── NotSupported          not_supported         a valid request that this version or machine cannot do
        ├── MissingExtra          missing_extra         a package is not installed; `next` names the install command
        ├── DoesNotFit            does_not_fit          more memory or disk is needed than there is
        ├── DiskFull              disk_full             a write failed for lack of space
        ├── OutOfMemory           out_of_memory         memory ran out while working
        ├── Unreachable           unreachable           Ollama or an endpoint did not answer
        ├── ServiceFailed         service_failed        Ollama or an endpoint answered with an error
        ├── CheckFailed           check_failed          a verification failed, so nothing was handed out
        ├── StoreBusy             store_busy            another process holds the database; try again
        ├── StoreCorrupt          store_corrupt         the database cannot be read; nothing was deleted
        ├── StoreTooNew           store_too_new         a newer tunesmith wrote this workspace
        └── WorkspaceUnusable     workspace_unusable    missing, read-only, or somebody else's

Anything else that escapes is a bug of ours: it is logged with its traceback and
shown as one line.
"""

from __future__ import annotations

from typing import ClassVar


class TunesmithError(Exception):
    """Root of the tree."""


class UserError(TunesmithError):
    """Something the caller can fix.

    Args:
        message: what happened, one or two sentences.
        next: the exact next step, an imperative sentence or a call.
        code: overrides the class's stable code where one class serves several.
    """

    code: ClassVar[str] = "user_error"

    def __init__(self, message: str, *, next: str, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.next = next
        self.error_code = code or type(self).code

    def __str__(self) -> str:
        return f"[{self.error_code}] {self.message} Next: {self.next}"

    def as_record(self) -> dict[str, str]:
        """The error as it is stored with a run and shown in a result."""
        return {"code": self.error_code, "message": self.message, "next": self.next}


class InvalidArgument(UserError):
    code = "invalid_argument"


class NotFound(UserError):
    code = "not_found"


class PathRefused(UserError):
    code = "path_refused"


class BadInput(UserError):
    code = "bad_input"


class EmptyInput(UserError):
    code = "empty_input"


class Conflict(UserError):
    code = "conflict"


class NotSupported(UserError):
    code = "not_supported"


class MissingExtra(UserError):
    """A package is missing.

    Args:
        package: the import that was looked for.
        extra: the extra of tunesmith that brings it.
        purpose: what it is needed for, completing "… is needed to".
    """

    code = "missing_extra"

    def __init__(self, package: str, *, extra: str, purpose: str) -> None:
        super().__init__(
            f"The package {package!r} is needed to {purpose} and is not installed.",
            next=f"Run: pip install 'tunesmith[{extra}]'",
        )


class DoesNotFit(UserError):
    code = "does_not_fit"


class DiskFull(UserError):
    code = "disk_full"


class OutOfMemory(UserError):
    code = "out_of_memory"


class Unreachable(UserError):
    code = "unreachable"


class ServiceFailed(UserError):
    code = "service_failed"


class CheckFailed(UserError):
    code = "check_failed"


class StoreBusy(UserError):
    code = "store_busy"


class StoreCorrupt(UserError):
    code = "store_corrupt"


class StoreTooNew(UserError):
    code = "store_too_new"


class WorkspaceUnusable(UserError):
    code = "workspace_unusable"
