"""A server that stays for the next question, and goes when its time is up or its memory is wanted."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tunesmith.models.embedded import gguf_path
from tunesmith.models.warm import CONTEXT_STEP, WarmServers


def servers() -> list[int]:
    """Process ids of the servers that live."""
    return [
        child.pid
        for child in psutil.Process().children(recursive=True)
        if child.status() != psutil.STATUS_ZOMBIE and "server_process" in " ".join(child.cmdline())
    ]


def until(true: Callable[[], bool], within_s: float = 10) -> bool:
    deadline = time.monotonic() + within_s
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_the_next_question_finds_the_server_of_the_last_one_while_it_fits(tmp_path: Path) -> None:
    warm, gguf = WarmServers(), tmp_path / "model.gguf"
    shutil.copy(gguf_path(), gguf)
    try:
        with warm.serving(gguf, context=300) as first:
            pid = first.pid
        with warm.serving(gguf, context=CONTEXT_STEP) as second:
            assert second is first
            assert servers() == [pid]
        # Another file, though of the same name: it would answer as the old one.
        shutil.copy(gguf_path(), gguf)
        gguf.touch()
        with warm.serving(gguf, context=300) as third:
            assert third.pid != pid
            assert servers() == [third.pid]
        # What failed may still be busy.
        with pytest.raises(ZeroDivisionError), warm.serving(gguf, context=300):
            raise ZeroDivisionError
        assert servers() == []
    finally:
        warm.release()


def test_a_server_goes_when_nobody_asked_for_a_while() -> None:
    warm = WarmServers(idle_s=0.2)
    with warm.serving(gguf_path(), context=300) as first:
        pass
    with warm.serving(gguf_path(), context=300) as second:
        assert second is first
        time.sleep(0.4)  # longer than the idle time, but it is not idle
        assert second.pid is not None
    assert until(lambda: servers() == [])
    warm.release()
