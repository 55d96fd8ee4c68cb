from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from tunesmith.export.child import Child, ChildFailed, run_child


class Stop(Exception):
    pass


def nothing() -> None:
    pass


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_program_that_ends_well_returns_its_last_lines() -> None:
    assert run_child(python("print('one'); print('two')"), check=nothing) == "one\ntwo"


def test_a_failure_holds_the_last_lines_without_colours() -> None:
    code = r"import sys; [print('line', i) for i in range(99)]; print('\x1b[31mthe reason\x1b[0m'); sys.exit(3)"
    with pytest.raises(ChildFailed) as caught:
        run_child(python(code), check=nothing)
    assert caught.value.code == 3
    assert caught.value.tail.endswith("the reason")
    assert "line 5\n" not in caught.value.tail


def test_a_c_abort_ends_the_child_and_not_us() -> None:
    with pytest.raises(ChildFailed) as caught:
        run_child(python("import os; print('assertion failed', flush=True); os.abort()"), check=nothing)
    assert caught.value.code == -6
    assert caught.value.how == "was ended by signal 6"
    assert "assertion failed" in caught.value.tail


def test_a_cancelled_run_takes_the_program_with_it(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    code = f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(60)"

    def check() -> None:
        if pid_file.is_file() and pid_file.read_text():
            raise Stop

    started = time.monotonic()
    with pytest.raises(Stop):
        run_child(python(code), check=check)
    assert time.monotonic() - started < 20
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)


def test_a_program_waits_for_what_it_is_told_and_is_ended_where_nothing_comes() -> None:
    echo = python("import sys; print(sys.stdin.read())")
    with Child(echo, told=True) as child:
        child.tell("weights")
        assert child.finish(nothing) == "weights"
    waiting = Child(echo, told=True)
    began = time.monotonic()
    waiting.end()
    assert time.monotonic() - began < 4


def test_a_program_that_ended_before_it_was_told_gives_its_reason() -> None:
    with Child(python("import sys; sys.stdin.close(); sys.exit('no module named torch')"), told=True) as child:
        time.sleep(0.3)
        child.tell("x" * 200_000)
        with pytest.raises(ChildFailed) as caught:
            child.finish(nothing)
    assert caught.value.tail == "no module named torch"
