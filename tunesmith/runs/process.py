"""The only file that knows the platform: locks, process identity, detached processes, signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path

import psutil

LOCK_VARIABLE = "TUNESMITH_LOCK_FD"
LOCK_NAME = "alive.lock"
_START_TOLERANCE_S = 1.0

if sys.platform != "win32":
    import fcntl


def boot_id() -> str:
    """Changes at every boot, so that a pid written before a reboot is never believed."""
    path = Path("/proc/sys/kernel/random/boot_id")
    if path.exists():
        return path.read_text().strip()
    return str(uuid.uuid5(uuid.NAMESPACE_OID, str(round(psutil.boot_time()))))


def take_lock(run_dir: Path) -> int | None:
    """Take the run's lock; the descriptor is handed to every process of the run.

    The kernel frees it when the last of them is gone, however it died. Returns
    None where the platform has no flock; raises `BlockingIOError` when it is held.
    """
    if sys.platform == "win32":
        return None
    descriptor = os.open(run_dir / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def is_locked(run_dir: Path) -> bool | None:
    """Whether some process of the run lives. None where the platform cannot tell."""
    if sys.platform == "win32":
        return None
    try:
        descriptor = os.open(run_dir / LOCK_NAME, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def started_at(pid: int) -> float | None:
    """When a process started (seconds since the epoch), or None if it is gone or a zombie."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return process.create_time()
    except psutil.Error:
        return None


def is_same_process(pid: int | None, started: float | None) -> bool:
    """Whether `pid` is still the process that was written down: pids are reused, start times are not."""
    if pid is None or started is None:
        return False
    now = started_at(pid)
    return now is not None and abs(now - started) < _START_TOLERANCE_S


def send(pid: int | None, started: float | None, number: signal.Signals) -> bool:
    """Signal a process, but only if it is the one that was written down."""
    if pid is None or not is_same_process(pid, started):
        return False
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def kill_group(leader: int) -> None:
    """SIGKILL every process of the worker's group, children that outlived it included."""
    if sys.platform == "win32":
        for child in psutil.Process(leader).children(recursive=True) if psutil.pid_exists(leader) else ():
            child.kill()
        return
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # all gone already, or only zombies left
        return


def spawn(command: Sequence[str], log: Path, lock: int | None, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, its output appended to `log`, holding the run's lock."""
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            pass_fds=() if lock is None else (lock,),
            env={**environment, LOCK_VARIABLE: "" if lock is None else str(lock)},
        )
