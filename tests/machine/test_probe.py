"""Probes run in children that cannot take the caller with them."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from tests.ollama_double import refused_url
from tunesmith.machine import check, probe
from tunesmith.machine.check import check_machine
from tunesmith.machine.packages import find_version
from tunesmith.machine.probe import run_probe
from tunesmith.workspace import Workspace


def test_a_probe_reports_what_it_did() -> None:
    result = run_probe("print('chatter'); report('it works')", seconds=20)
    assert (result.ok, result.detail) == (True, "it works")


def test_a_failing_probe_says_why() -> None:
    result = run_probe("import sys; print('warning', file=sys.stderr); import no_such_package_here", seconds=20)
    assert not result.ok
    assert result.detail == "ModuleNotFoundError: No module named 'no_such_package_here'"


def test_an_exit_without_a_verdict_is_a_failure() -> None:
    result = run_probe("raise SystemExit('torch sees no CUDA card')", seconds=20)
    assert not result.ok
    assert result.detail == "torch sees no CUDA card (exit status 1)"
    assert not run_probe("pass", seconds=20).ok


def test_a_crash_is_reported_with_its_signal() -> None:
    result = run_probe("import os; os.kill(os.getpid(), 11)", seconds=20)
    assert not result.ok
    assert "killed by signal 11" in result.detail


def test_a_hanging_probe_ends_with_its_children(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"""
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
open({str(pids)!r}, "w").write(f"{{os.getpid()}} {{child.pid}}")
time.sleep(60)
"""
    started = time.monotonic()
    result = run_probe(script, seconds=2)
    assert time.monotonic() - started < 10
    assert not result.ok
    assert result.timed_out
    assert "not done after 2 s" in result.detail
    deadline = time.monotonic() + 10
    while any(alive(int(pid)) for pid in pids.read_text().split()):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_probe_leaves_nothing_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "json.py").write_text("raise RuntimeError('the folder of the caller is on the path')")
    result = run_probe("open('left.txt', 'w').write('x'); report('done')", seconds=20)
    assert result.ok, result.detail
    assert [path.name for path in tmp_path.iterdir()] == ["json.py"]


def test_probing_proves_torch_in_a_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if find_version("torch") is None:
        pytest.skip("torch is not installed")
    monkeypatch.setenv("OLLAMA_HOST", refused_url())
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        from tunesmith.machine.check import check_machine
        from tunesmith.workspace import Workspace
        torch = check_machine(Workspace(Path(sys.argv[1])), probe=True).packages["torch"]
        print(torch.ok, torch.problem, "torch" in sys.modules)
    """)
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)
    assert done.stdout.strip() == "True None False"


def test_what_a_probe_finds_goes_into_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", refused_url())
    monkeypatch.setitem(probe.SCRIPTS, "torch", "raise ImportError('libcudart.so.13: cannot open shared object file')")
    monkeypatch.setattr(check, "PROBED", ("torch",))
    report = check_machine(Workspace(tmp_path), probe=True)
    facts = report.packages["torch"]
    assert not facts.ok
    assert "libcudart" in (facts.problem or "")
    assert not report.can_train
    (problem,) = [problem for problem in report.problems if problem.code == "probe_failed"]
    assert "libcudart" in problem.message
    assert problem.fix


def test_a_probe_that_takes_too_long_is_not_called_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", refused_url())
    monkeypatch.setitem(probe.SCRIPTS, "torch", "import time; time.sleep(60)")
    monkeypatch.setattr(check, "PROBED", ("torch",))
    probe_packages = probe.probe_packages
    monkeypatch.setattr(probe, "probe_packages", lambda names: probe_packages(names, deadline_s=0.5))
    report = check_machine(Workspace(tmp_path), probe=True)
    assert "not done after" in (report.packages["torch"].problem or "")
    (problem,) = [problem for problem in report.problems if problem.code == "probe_failed"]
    assert "again" in problem.fix
    assert "reinstall" not in problem.fix
    assert report.problems[0].code == "probe_failed"
    assert report.problems[-1].code == "ollama_unreachable"
