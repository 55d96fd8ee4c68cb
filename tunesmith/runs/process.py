"""The only file that knows the platform: locks, process identity, detached processes, signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

ALIVE, SHIM = "alive.lock", "shim.lock"  # held while any process of a run lives; held by the one that supervises it
ALIVE_VARIABLE, SHIM_VARIABLE = "TUNESMITH_LOCK_FD", "TUNESMITH_SHIM_LOCK_FD"
RUN_VARIABLE = "TUNESMITH_RUN_ID"  # in the environment of a worker and of whatever it starts
_START_TOLERANCE_S = 0.02 if sys.platform.startswith("linux") else 1.0  # a kernel tick is 0.01 s

if sys.platform != "win32":
    import fcntl


def boot_id() -> str:
    """Changes at every boot, so that a pid written before a reboot is never believed."""
    path = Path("/proc/sys/kernel/random/boot_id")
    if path.exists():
        return path.read_text().strip()
    return str(uuid.uuid5(uuid.NAMESPACE_OID, str(round(psutil.boot_time()))))


def uptime_s() -> float:
    """Seconds on a clock that all processes share and nobody can set. Starts anew at a boot."""
    return time.monotonic()


def take_lock(run_dir: Path, name: str) -> int | None:
    """Take one of a run's locks; the descriptor is handed to the processes that are to hold it.

    The kernel frees it when the last of them is gone, however it died. Returns
    None where the platform has no flock; raises `BlockingIOError` when it is held.
    """
    if sys.platform == "win32":
        return None
    descriptor = os.open(run_dir / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def is_locked(run_dir: Path, name: str) -> bool | None:
    """Whether a lock of a run is held. None where that cannot be told: no flock here, no file, or another user's."""
    if sys.platform == "win32":
        return None
    try:
        descriptor = os.open(run_dir / name, os.O_RDWR | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):
        return None  # removed by hand, its holders may live on
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def inherited_lock(variable: str) -> int | None:
    """The descriptor of a lock that this process was started with."""
    text = os.environ.get(variable)
    return int(text) if text else None


def started_at(pid: int) -> float | None:
    """When a process started, or None if it is gone or a zombie.

    On Linux in seconds since the boot, as the kernel keeps it: the time of day would move when the clock is set.
    """
    if sys.platform.startswith("linux"):
        try:
            # After the command in brackets, which may hold anything: state is the first field, the start the twentieth.
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            return None
        return None if fields[0] in (b"Z", b"X") else int(fields[19]) / os.sysconf("SC_CLK_TCK")
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
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
    except (ProcessLookupError, PermissionError):  # gone, or another user's: its shim finds the wish in the store
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


def processes_of(run_id: str) -> list[psutil.Process]:
    """The processes that a run's worker is and started, known by their environment, whatever group they are in."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(RUN_VARIABLE) == run_id and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):  # gone meanwhile, or somebody else's
            continue
    return found


def kill_run(run_id: str) -> None:
    """SIGKILL what is left of a run's worker and of whatever it started."""
    for process in processes_of(run_id):
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def spawn(
    command: Sequence[str], log: Path, locks: Mapping[str, int | None], environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, its output appended to `log`, holding the given locks.

    No Python that it starts imports from the folder it happens to be in, where a `json.py` may lie.

    Args:
        locks: the variable by which the process finds a lock's descriptor, and the descriptor.
    """
    named = {variable: "" if lock is None else str(lock) for variable, lock in locks.items()}
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            pass_fds=[lock for lock in locks.values() if lock is not None],
            env={**environment, **named, "PYTHONSAFEPATH": "1"},
        )
