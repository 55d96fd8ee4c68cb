"""All checks that need to see one row only."""

from __future__ import annotations

from tunesmith.data.checks.encoding import encoding_findings
from tunesmith.data.checks.findings import Finding
from tunesmith.data.checks.private import private_findings
from tunesmith.data.checks.shape import shape_findings
from tunesmith.data.checks.wording import wording_findings
from tunesmith.data.records import Row


def check_row(row: Row) -> list[Finding]:
    """What is wrong with a row by itself; at most one finding of each check."""
    instruction, output = row.instruction, row.output
    texts = [message.content for message in row.messages]
    if row.rejected is not None:
        texts.append(row.rejected)
    damage = list(encoding_findings(texts))
    return [
        *shape_findings(row, instruction, output),
        # Which language a damaged text is in nobody can say.
        *(
            each
            for each in wording_findings(row, instruction, output)
            if not damage or each.check != "language_mismatch"
        ),
        *damage,
        *private_findings(texts),
    ]
