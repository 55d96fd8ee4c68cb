"""What every reader of a file of rows yields, and how large a row may be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tunesmith.data.formats import RowRejected

Records = Iterator[tuple[int, dict[str, Any] | RowRejected]]
MAX_ROW_BYTES = 16 * 2**20
