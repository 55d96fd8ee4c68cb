"""`tunesmith runs`, as people and scripts use it: in terminals and in pipes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.cells import cell_len

from tests.runs.conftest import NEVER, WORKER, began, ended, kill_all_of, until
from tests.server.terminal import Terminal
from tunesmith import cli_runs, cli_text
from tunesmith.errors import InvalidArgument
from tunesmith.runs.records import Progress, Run
from tunesmith.runs.supervisor import Supervisor
from tunesmith.workspace import Workspace

TRAINING = [sys.executable, str(Path(__file__).parent / "training_double.py")]
CARD = ("device0",)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    supervisor = Supervisor(Workspace(tmp_path / "ws"))
    monkeypatch.setenv("TUNESMITH_WORKSPACE", str(tmp_path / "ws"))
    yield supervisor
    kill_all_of(supervisor.workspace)


def tunesmith(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tunesmith", "runs", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def refused(*arguments: str) -> str:
    """The one line of an error."""
    done = tunesmith(*arguments)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert " Next: " in line
    return line


def two_ended(runs: Supervisor) -> tuple[str, str]:
    """A run that succeeded and one that failed."""
    good = runs.submit("score", WORKER, {"steps": 3})
    bad = runs.submit("score", WORKER, {"fail": True})
    ended(runs, good)
    ended(runs, bad)
    return good, bad


# list


def test_a_list_in_a_pipe_is_plain_newest_first_and_unbroken(runs: Supervisor) -> None:
    good, bad = two_ended(runs)
    done = tunesmith("list")
    heading, first, second = done.stdout.splitlines()
    assert heading.split() == ["run", "kind", "state", "progress", "started", "took", "note"]
    assert first.startswith(bad)
    assert first.endswith("[bad_input] It was asked to fail.")
    assert second.startswith(good)
    assert "100 % 3/3" in second
    assert "\x1b" not in done.stdout
    assert done.returncode == 0


def test_a_list_can_be_narrowed_and_says_what_it_leaves_out(runs: Supervisor) -> None:
    good, bad = two_ended(runs)
    assert bad in tunesmith("list", "--state", "failed").stdout
    assert good not in tunesmith("list", "--state", "failed").stdout
    assert "No such runs" in tunesmith("list", "--kind", "train").stdout
    short = tunesmith("list", "--limit", "1")
    assert good not in short.stdout
    assert short.stderr.strip() == "The newest 1 of 2; --all shows every one."
    assert good in tunesmith("list", "--limit", "1", "--all").stdout


def test_a_program_gets_what_list_runs_gives(runs: Supervisor) -> None:
    good, bad = two_ended(runs)
    page = json.loads(tunesmith("list", "--json", "--limit", "1").stdout)
    assert [run["run_id"] for run in page["runs"]] == [bad]
    assert page["total"] == 2
    assert page["next_cursor"]
    assert [run["run_id"] for run in json.loads(tunesmith("list", "--json", "--all").stdout)["runs"]] == [bad, good]


def test_a_list_in_a_narrow_terminal_breaks_no_line_and_is_coloured(runs: Supervisor) -> None:
    two_ended(runs)
    with Terminal(["runs", "list"], columns=80) as terminal:
        assert terminal.end() == 0
        lines = terminal.text.splitlines()
        assert max(cell_len(line) for line in lines) <= 80
        assert any(line.strip() == "[bad_input] It was asked to fail." for line in lines)
        assert "\x1b[1;31mfailed\x1b[0m" in terminal.raw
        assert "\x1b[32msucceeded\x1b[0m" in terminal.raw


def test_columns_are_aligned_on_the_screen_whatever_the_width_of_the_characters() -> None:
    found = [
        _run(message="校准每十四个月做一次,在二十度的水槽里等待二十五分钟之后才开始读数。" * 3),
        _run(state="failed", message="plain"),
    ]
    for width in (80, 120):
        lines = [line.plain for line in cli_text.table(found, width=width, now=datetime(2026, 1, 2, tzinfo=UTC))]
        assert max(cell_len(line) for line in lines) <= width
        assert any(line.endswith("…") for line in lines)
        at = {cell_len(line[: line.index(state)]) for line in lines for state in ("running", "failed") if state in line}
        assert len(at) == 1


def test_a_clock_that_was_set_back_gives_no_negative_times() -> None:
    found = _run(started_at="2026-01-02T00:00:00.000Z", finished_at="2026-01-01T23:00:00.000Z", state="succeeded")
    line = cli_text.table([found], width=None, now=datetime(2026, 1, 1, tzinfo=UTC))[1].plain
    assert "0 s ago" in line
    assert "-" not in line.replace("–", "")


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0 s"), (59.6, "1 m 00 s"), (200, "3 m 20 s"), (7500, "2 h 05 m"), (352800, "4 d 2 h")]
)
def test_lengths_of_time_are_said_in_two_units(seconds: float, said: str) -> None:
    assert cli_text.span(seconds) == said


# show


def test_show_has_everything_of_a_run_in_a_pipe_and_in_a_terminal(runs: Supervisor) -> None:
    good, bad = two_ended(runs)
    shown = tunesmith("show", good).stdout
    assert "counted   3" in shown
    assert "step 3" in shown
    assert str(runs.folder(good)) in shown
    assert "\x1b" not in shown
    assert json.loads(tunesmith("show", good, "--json").stdout)["result"] == {"counted": 3}
    with Terminal(["runs", "show", bad], columns=80) as terminal:
        assert terminal.end() == 0
        assert "[bad_input] It was asked to fail." in terminal.text
        assert "Ask for something else." in terminal.text


def test_a_run_can_be_named_by_letters_that_only_it_begins_or_ends_with(runs: Supervisor) -> None:
    for letters in ("aaaaaaaaaaab", "aaaaaaaaaaac", "baaaaaaaaaaa"):
        runs.store.insert(f"run_{letters}", "score", ("cpu0",))
    find = cli_runs.find_run
    assert find(runs, "aab") == "run_aaaaaaaaaaab"
    assert find(runs, "run_b") == "run_baaaaaaaaaaa"
    assert find(runs, "BAA") == "run_baaaaaaaaaaa"
    assert find(runs, "run_aaaaaaaaaaac") == "run_aaaaaaaaaaac"
    for text in ("aaaa", "run_aaa"):
        with pytest.raises(InvalidArgument, match=r"could be .*run_aaaaaaaaaaac, run_aaaaaaaaaaab"):
            find(runs, text)


# wrong input


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["list", "--kind", "cooking"], "[invalid_argument] There is no kind 'cooking'."),
        (["list", "--state", "asleep"], "[invalid_argument] There is no state 'asleep'."),
        (["list", "--limit", "0"], "[invalid_argument] --limit 0"),
        (["show", "zzzz"], "[not_found] There is no run 'zzzz'"),
        (["show", ""], "[not_found] There is no run ''"),
        (["show", "../../etc\n\x1b[31m"], "[not_found] There is no run '../../etc\\n\\x1b[31m'"),
        (["show", "ds_abcdefghijkl"], "[invalid_argument] 'ds_abcdefghijkl' is a dataset id"),
        (["follow"], "[not_found] No run is active"),
        (["cancel", "run_abcdefghijkl"], "[not_found]"),
        (["resume", "run_abcdefghijkl"], "[not_found]"),
        (["resume", "x", "--set", "epochs"], "[invalid_argument] --set 'epochs' is not NAME=VALUE."),
        (["resume", "x", "--set", "epochs=five"], "[invalid_argument] --set epochs: 'five' is not JSON."),
        (["resume", "x", "--set", "epochs=NaN"], "[invalid_argument] --set epochs: 'NaN' is not JSON."),
        (["resume", "x", "--set", "a=1", "--set", "a=2"], "[invalid_argument] --set a was given twice."),
    ],
)
def test_what_cannot_be_done_is_one_line_with_a_next_step(runs: Supervisor, arguments: list[str], said: str) -> None:
    assert refused(*arguments).startswith(said)


def test_a_workspace_that_is_not_there_is_said_and_not_made(tmp_path: Path) -> None:
    assert refused("list", "--workspace", str(tmp_path / "typo")).startswith("[workspace_unusable] There is no")
    assert list(tmp_path.iterdir()) == []


def test_the_option_names_the_workspace_before_the_variable_does(runs: Supervisor, tmp_path: Path) -> None:
    good, _ = two_ended(runs)
    (tmp_path / "other").mkdir()
    assert "yet" in tunesmith("list", "--workspace", str(tmp_path / "other")).stdout
    assert good in tunesmith("list").stdout


def test_a_damaged_database_is_one_line(runs: Supervisor) -> None:
    runs.workspace.database.path.write_bytes(b"garbage" * 1000)
    assert refused("list").startswith("[store_corrupt]")


# follow


def test_following_in_a_pipe_prints_every_line_of_the_log_and_how_it_ended(runs: Supervisor) -> None:
    run_id = runs.submit("train", TRAINING, {"steps": 300}, slots=CARD)
    done = tunesmith("follow", run_id)
    assert done.returncode == 0
    steps = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("step ")]
    assert steps == [f"{step}/300" for step in range(1, 301)]
    assert "\x1b" not in done.stdout
    *_, end, following = done.stdout.splitlines()
    assert end.startswith(f"{run_id} succeeded after ")
    assert "mdl_bbbbbbbbbbbb, held-out loss 3.000 → 1.250" in end
    assert following.startswith("Next: ask your assistant for diagnose_run(")


def test_following_a_run_that_failed_ends_with_its_error_and_status_1(runs: Supervisor) -> None:
    _, bad = two_ended(runs)
    done = tunesmith("follow", bad)
    assert done.returncode == 1
    assert "[bad_input] It was asked to fail. Next: Ask for something else." in done.stdout


def test_a_terminal_shows_a_bar_with_step_loss_speed_and_time_to_go_below_the_log(
    runs: Supervisor, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    runs.submit("train", TRAINING, {"steps": 4, "pause_at": 3, "until": str(gate)}, slots=CARD)
    for columns in (80, 120):
        with Terminal(["runs", "follow"], columns=columns) as terminal:
            bar = terminal.wait_for(r"train [━╸╺]+ +75% 3/4 · loss 1\.000 · 340 tokens/s · 50 s left")
            assert "step 3/4" in terminal.text[: bar.start()]
            assert cell_len(bar[0]) < columns
            if columns == 80:
                continue  # closing the terminal ends the follower, and not the run
            gate.touch()
            terminal.wait_for("succeeded after")
            assert terminal.end() == 0
            assert "held-out loss 3.000 → 1.250" in terminal.text


def test_ctrl_c_stops_following_and_the_run_goes_on(runs: Supervisor) -> None:
    run_id = runs.submit("train", TRAINING, {"steps": 4, "pause_at": 2}, slots=CARD)
    with Terminal(["runs", "follow", run_id]) as terminal:
        terminal.wait_for("50%")
        terminal.press(b"\x03")
        assert terminal.end() == 130
        assert f"The run goes on: tunesmith runs follow {run_id}" in terminal.text
        assert f"To cancel it: tunesmith runs cancel {run_id}" in terminal.text
    assert runs.row(run_id).state == "running"
    runs.cancel(run_id)
    assert ended(runs, run_id).state == "cancelled"


def test_a_follower_tells_what_a_queued_run_waits_for(runs: Supervisor) -> None:
    first = runs.submit("train", WORKER, {"until": NEVER}, slots=CARD)
    second = runs.submit("train", WORKER, {}, slots=CARD)
    with Terminal(["runs", "follow", second]) as terminal:
        terminal.wait_for(f"train queued.* Waiting for {first}")
        runs.cancel(first)
        terminal.wait_for(f"{second} succeeded")
        assert terminal.end() == 0


def test_without_a_run_the_newest_active_one_is_followed_and_else_the_newest_that_waits(runs: Supervisor) -> None:
    first = runs.submit("train", WORKER, {"until": NEVER}, slots=CARD)
    waiting = runs.submit("train", WORKER, {"until": NEVER}, slots=CARD)
    assert cli_runs.newest_active(runs) == first
    other = runs.submit("score", WORKER, {"until": NEVER})
    assert cli_runs.newest_active(runs) == other
    for run_id in (other, first):
        runs.cancel(run_id)
        ended(runs, run_id)
    until(lambda: runs.row(waiting).state == "running")
    assert cli_runs.newest_active(runs) == waiting


def test_a_flood_of_lines_and_a_very_long_one_are_followed_to_the_end(runs: Supervisor) -> None:
    flood = (
        "import json, pathlib, sys; sys.stdout.write(''.join(f'line {n}\\n' for n in range(20000)));"
        "sys.stdout.write('x' * 1_000_000 + '\\nlast'); sys.stdout.flush();"
        "pathlib.Path(sys.argv[1], 'result.json').write_text(json.dumps({'result': {}}))"
    )
    run_id = runs.submit("score", [sys.executable, "-c", flood], {})
    ended(runs, run_id)
    lines = tunesmith("follow", run_id).stdout.splitlines()
    assert [line for line in lines if line.startswith("line ")] == [f"line {number}" for number in range(20000)]
    assert "last" in lines
    assert max(map(len, lines)) < 3000
    with Terminal(["runs", "follow", run_id]) as terminal:
        terminal.wait_for(r"\(what comes before is in ")
        assert terminal.end() == 0
        assert "last" in terminal.text


# cancel, clean, resume


def test_cancel_asks_and_with_wait_stays_to_the_end(runs: Supervisor) -> None:
    asked = runs.submit("score", WORKER, {"until": NEVER})
    began(runs, asked)
    done = tunesmith("cancel", asked)
    assert done.returncode == 0
    assert done.stdout.startswith(f"{asked}: cancel")
    ended(runs, asked)
    waited = runs.submit("score", WORKER, {"until": NEVER})
    began(runs, waited)
    done = tunesmith("cancel", waited[-8:], "--wait")
    assert done.returncode == 0
    assert done.stdout.startswith(f"{waited}: cancelled.")
    assert runs.row(waited).state == "cancelled"
    assert refused("cancel", waited).startswith(f"[conflict] Run {waited} has already ended: cancelled.")


def test_only_training_can_be_resumed(runs: Supervisor) -> None:
    _, bad = two_ended(runs)
    assert refused("resume", bad).startswith("[invalid_argument]")


def test_changes_are_json_values() -> None:
    parsed = cli_runs.parse_changes(["epochs=5", "learning_rate = 2e-4", "packing=true", 'scheduler="cosine"'])
    assert parsed == {"epochs": 5, "learning_rate": 2e-4, "packing": True, "scheduler": "cosine"}


def test_there_is_nothing_to_clean_where_nothing_was_trained(runs: Supervisor) -> None:
    two_ended(runs)
    assert "nothing to remove" in tunesmith("clean").stdout


def test_clean_says_what_it_would_remove_and_then_removes_it(runs: Supervisor) -> None:
    run_id = runs.submit("train", TRAINING, {"steps": 1}, slots=CARD)
    ended(runs, run_id)
    half = runs.folder(run_id) / "checkpoints" / "checkpoint-7"
    half.mkdir(parents=True)
    (half / "adapter.bin").write_bytes(b"x" * 3 * 2**20)
    dry = tunesmith("clean", "--dry-run")
    assert f"{run_id}      3 MiB  checkpoint-7: " in dry.stdout
    assert dry.stdout.endswith("3 MiB would be freed.\n")
    assert half.exists()
    assert tunesmith("clean").stdout.endswith("3 MiB freed.\n")
    assert not half.exists()


def _run(**changes: object) -> Run:
    message = str(changes.pop("message", ""))
    fields = {
        "run_id": "run_" + "a" * 12,
        "kind": "train",
        "state": "running",
        "created_at": "2026-01-01T00:00:00.000Z",
        "started_at": "2026-01-01T00:00:00.000Z",
        "finished_at": None,
        "progress": Progress(message=message),
        "result": None,
        "error": {"code": "crashed", "message": message, "next": "Look."} if changes.get("state") == "failed" else None,
        "log_tail": [],
        "resources": [],
        "next": "",
    }
    return Run.model_validate(fields | changes)
