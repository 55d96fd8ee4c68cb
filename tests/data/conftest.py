from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.workspace import Workspace


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """A folder that callers may name files in."""
    folder = tmp_path / "notes"
    folder.mkdir()
    return folder


@pytest.fixture
def workspace(tmp_path: Path, notes: Path) -> Workspace:
    return Workspace(tmp_path / "workspace", [notes])
