"""In which words an endpoint wants to be asked, learnt from its refusals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunesmith.models.endpoints import AskFailed, Draw

# What an endpoint answers to a request whose form it does not know.
_REFUSALS = (400, 415, 422, 501)


@dataclass(frozen=True)
class Terms:
    """How an endpoint wants to be asked, as far as its refusals have told.

    Attributes:
        form: 0: answers follow a JSON schema; 1: they are JSON; 2: they are text.
        renamed: the longest answer is called `max_completion_tokens`, as newer services do.
        proven: a request in this form was answered; a refusal has another cause then.
    """

    form: int = 0
    renamed: bool = False
    proven: bool = False

    def wording(self, draw: Draw, schema: Mapping[str, Any] | None) -> dict[str, Any]:
        """The part of a request that differs from endpoint to endpoint."""
        found: dict[str, Any] = {"max_completion_tokens" if self.renamed else "max_tokens": draw.max_tokens}
        if not self.renamed or draw.temperature != 0:
            # The services that renamed it think before they answer and take no temperature of 0.
            found["temperature"] = draw.temperature
        if schema is not None and self.form == 0:
            wanted = {"name": "answer", "strict": True, "schema": dict(schema)}
            found["response_format"] = {"type": "json_schema", "json_schema": wanted}
        elif schema is not None and self.form == 1:
            found["response_format"] = {"type": "json_object"}
        return found

    def after(self, error: AskFailed, *, with_schema: bool) -> Terms | None:
        """The terms to try after a refusal, None where other words would not help."""
        if error.status not in _REFUSALS and not (error.status == 500 and "response_format" in str(error)):
            return None
        if not self.renamed and "max_completion_tokens" in str(error):
            return replace(self, renamed=True)
        if not with_schema or self.proven or self.form == 2:
            return None
        return replace(self, form=self.form + 1)
