"""Leaving bitsandbytes out of a process that will not round weights or optimizer states.

peft imports it wherever it is installed, and it compiles functions while it is imported: 3 seconds of peft's 10 on two
cores of 2026 (`python -c "import peft"`, with and without it).
"""

from __future__ import annotations

import sys


def leave_out_bitsandbytes() -> None:
    """From now on it is not installed, for this process. No effect where it is imported already."""
    sys.modules.setdefault("bitsandbytes", None)  # type: ignore[arg-type]  # Python's own sign for it
