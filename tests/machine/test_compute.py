"""The dtype for a CPU is measured, in a process where torch may be imported."""

from __future__ import annotations

import json
import re
import subprocess
import sys


def test_the_faster_dtype_is_chosen_with_both_speeds() -> None:
    script = (
        "import json, time, torch\n"
        "from tunesmith.machine.compute import choose_cpu_dtype\n"
        "choose_cpu_dtype()\n"
        "started = time.perf_counter()\n"
        "dtype, reason = choose_cpu_dtype()\n"
        "print(json.dumps([dtype, reason, time.perf_counter() - started]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    dtype, reason, seconds = json.loads(done.stdout)
    assert dtype in ("float32", "bfloat16")
    figures = re.findall(r"(float32|bfloat16)[a-z ]* ([\d.]+) GFLOP/s", reason)
    assert [name for name, _ in figures] == ["float32", "bfloat16"]
    single, half = (float(speed) for _, speed in figures)
    assert single > 0
    assert half > 0
    # The figures are rounded, so only a clear case is judged.
    if not 1.3 < half / single < 1.7:
        assert (dtype == "bfloat16") == (half > single * 1.5)
    assert seconds < 2
