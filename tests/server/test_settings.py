"""What a server or a command is started with: odd folders and blank settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.cli_runs import open_runs
from tunesmith.errors import InvalidArgument, WorkspaceUnusable
from tunesmith.server.app import build_services
from tunesmith.server.settings import Settings


def test_a_blank_setting_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_WORKSPACE", "")
    monkeypatch.setenv("TUNESMITH_ALLOW_ROOTS", "")
    assert Settings().workspace is None
    assert Settings().allow_roots == []


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("TUNESMITH_ALLOW_ROOTS", "/home/me/notes"),
        ("TUNESMITH_ALLOW_ROOTS", '"/home/me/notes"'),
        ("TUNESMITH_ALLOW_ROOTS", "[5]"),
        ("TUNESMITH_READ_ONLY", "maybe"),
    ],
)
def test_a_malformed_setting_is_named_with_what_it_should_be(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str
) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(InvalidArgument, match=variable) as caught:
        Settings()
    assert caught.value.next.startswith("Set it to ")


def test_the_folder_a_server_is_started_in_may_be_gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    workspace = build_services(Settings(workspace=tmp_path / "ws")).workspace
    assert workspace.roots.roots == (tmp_path / "ws",)
    assert open_runs(tmp_path / "ws").workspace.root == tmp_path / "ws"
    with pytest.raises(WorkspaceUnusable):
        build_services(Settings(workspace=Path("relative")))


@pytest.mark.parametrize("name", ["~nobody_of_this_name/ws", "/" + "x" * 300])
def test_a_workspace_whose_name_cannot_be_is_one_line(name: str) -> None:
    with pytest.raises(WorkspaceUnusable):
        open_runs(Path(name))
    with pytest.raises(WorkspaceUnusable):
        build_services(Settings(workspace=Path(name)))
