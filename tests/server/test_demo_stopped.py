"""However the demo is stopped, it takes the training it started with it."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from tests.runs.conftest import kill_all_of, until
from tests.server.terminal import Terminal
from tunesmith.runs.supervisor import Supervisor
from tunesmith.workspace import Workspace


@pytest.mark.slow
@pytest.mark.parametrize(("how", "status"), [("SIGTERM", 143), ("the terminal is closed", 129), ("Ctrl-C", 130)])
def test_the_demo_cancels_its_training_when_it_is_stopped(tmp_path: Path, how: str, status: int) -> None:
    runs = Supervisor(Workspace(tmp_path / "ws"))

    def training() -> list[str]:
        return [row.run_id for row in runs.store.page(kind="train", state=None, limit=1, before=None)[0]]

    try:
        with Terminal(["demo", "--workspace", str(tmp_path / "ws")]) as terminal:
            terminal.wait_for("plan: .* steps", 90)
            until(training, 60)
            if how == "SIGTERM":
                terminal.process.terminate()
                assert terminal.end(60) == status
                assert "Stopped by SIGTERM" in terminal.text
            elif how == "Ctrl-C":
                terminal.press(b"\x03")
                assert terminal.end(60) == status
                assert "Stopped by SIGINT" in terminal.text
            else:
                terminal.hang_up()
                assert terminal.process.wait(60) == status
            assert "Traceback" not in terminal.text
        # That it then ends is for the tests of runs to show; here it would first load its libraries.
        assert runs.row(training()[0]).state in ("cancelling", "cancelled")
        assert not [found for found in psutil.process_iter() if _serves(found, tmp_path)]
    finally:
        kill_all_of(runs.workspace)


def _serves(found: psutil.Process, workspace: Path) -> bool:
    try:
        command = found.cmdline()
    except psutil.Error:
        return False
    return "serve" in command and any(str(workspace) in part for part in command)
