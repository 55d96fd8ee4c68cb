"""Proof that a package works: it is imported and used, in a process of its own.

Importing these libraries can take long, print a lot, patch other libraries or
crash the interpreter. None of that may happen to the server, so each probe is a
child with a deadline, and its last line of output is the verdict.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from tunesmith.machine.records import Record

DEADLINE_S = 40.0  # a tool call may not take more than 50 s

_REPORT = """
import json
def report(detail):
    print()
    print(json.dumps({"ok": True, "detail": detail}))
"""
# Each uses what training will use: a product, a 4-bit round trip, a compiled kernel, Unsloth's own kernel.
SCRIPTS = {
    "torch": """
import torch
device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
square = torch.full((64, 64), 2.0, device=device)
assert (square @ square)[0, 0].item() == 256.0, "a product came out wrong"
report(f"a matrix product on {torch.cuda.get_device_name() if device == 'cuda' else device}")
""",
    "bitsandbytes": """
import torch
import bitsandbytes.functional as bnb
device = "cuda" if torch.cuda.is_available() else "cpu"
weights = torch.linspace(-1, 1, 64 * 64, device=device).reshape(64, 64)
packed, state = bnb.quantize_4bit(weights, quant_type="nf4")
error = (bnb.dequantize_4bit(packed, state) - weights).abs().max().item()
assert error < 0.2, f"4-bit weights came back wrong by {error}"
report(f"4-bit weights on {device}, largest error {error:.3f}")
""",
    "triton": """
import importlib, pathlib, sys
import torch
if not torch.cuda.is_available():
    raise SystemExit("torch sees no CUDA card, and Triton compiles for one")
# Triton reads a kernel's source from its file.
pathlib.Path("tunesmith_probe_kernel.py").write_text('''
import triton
import triton.language as tl

@triton.jit
def double(source, target, count: tl.constexpr):
    at = tl.arange(0, count)
    tl.store(target + at, tl.load(source + at) * 2)
''')
sys.path.insert(0, ".")
kernel = importlib.import_module("tunesmith_probe_kernel")
source = torch.arange(128, device="cuda", dtype=torch.float32)
target = torch.empty_like(source)
kernel.double[(1,)](source, target, 128)
assert torch.equal(target, source * 2), "the compiled kernel computed something else"
report("a kernel compiled and ran")
""",
    "unsloth": """
import unsloth
import torch
from unsloth import FastLanguageModel
from unsloth.kernels import fast_rms_layernorm
if not torch.cuda.is_available():
    raise SystemExit("torch sees no CUDA card, and Unsloth trains on one")
class Norm:
    weight = torch.ones(256, device="cuda", dtype=torch.float32)
    variance_epsilon = 1e-6
rows = torch.arange(512, device="cuda", dtype=torch.float32).reshape(1, 2, 256)
wanted = rows * torch.rsqrt(rows.pow(2).mean(-1, keepdim=True) + 1e-6)
error = (fast_rms_layernorm(Norm, rows) - wanted).abs().max().item()
assert error < 1e-2, f"its kernel is off by {error}"
assert callable(FastLanguageModel.from_pretrained)
report(f"version {unsloth.__version__}, its kernels run")
""",
}


class ProbeResult(Record):
    """What became of one probe."""

    ok: bool
    detail: str = Field(description="What was done, or what went wrong.")
    seconds: float
    timed_out: bool = Field(default=False, description="Ended at the deadline: not proven, and not disproven either.")


def probe_packages(names: Sequence[str], *, deadline_s: float = DEADLINE_S) -> dict[str, ProbeResult]:
    """Run the probes of `names` beside each other; none outlives `deadline_s` seconds.

    Raises:
        KeyError: a name that has no probe; see SCRIPTS.
    """
    ends = time.monotonic() + deadline_s
    results: dict[str, ProbeResult] = {}

    def run(name: str, script: str) -> None:
        results[name] = run_probe(script, seconds=ends - time.monotonic())

    threads = [threading.Thread(target=run, args=(name, SCRIPTS[name]), name=f"probe-{name}") for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {name: results[name] for name in names}


def run_probe(script: str, *, seconds: float) -> ProbeResult:
    """Run one script as `python -c` in an empty folder; killed with its children after `seconds`."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tunesmith-probe-", ignore_cleanup_errors=True) as folder:
        # Into files, not pipes: a grandchild that keeps a pipe open would hold us beyond the deadline.
        output, errors = Path(folder) / "output.txt", Path(folder) / "errors.txt"
        with output.open("wb") as out, errors.open("wb") as err:
            child = subprocess.Popen(
                [sys.executable, "-P", "-c", _REPORT + script],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=_environment(folder),
                start_new_session=True,
            )
            try:
                code = child.wait(timeout=max(seconds, 0.1))
            except subprocess.TimeoutExpired:
                code = None
            finally:
                _end(child)
        took = round(time.monotonic() - started, 1)
        said, complaint = (path.read_bytes()[-20_000:].decode("utf-8", "replace") for path in (output, errors))
    if code is None:
        return ProbeResult(ok=False, detail=f"not done after {took:.0f} s", seconds=took, timed_out=True)
    verdict = _verdict(said)
    if code == 0 and verdict is not None:
        return ProbeResult(ok=True, detail=verdict, seconds=took)
    return ProbeResult(ok=False, detail=_last_words(complaint, said, code), seconds=took)


def _environment(folder: str) -> dict[str, str]:
    return os.environ | {
        # Caches go with the folder; nothing is asked of the outside world.
        "TRITON_CACHE_DIR": str(Path(folder) / "triton"),
        "UNSLOTH_COMPILE_LOCATION": str(Path(folder) / "unsloth"),
        "UNSLOTH_DISABLE_STATISTICS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "ignore",
    }


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill the child's whole session, whatever is left of it."""
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
    elif child.poll() is None:
        child.kill()
    child.wait()


def _verdict(output: str) -> str | None:
    lines = output.strip().splitlines()
    try:
        record = json.loads(lines[-1]) if lines else None
    except ValueError:
        return None
    return str(record["detail"]) if isinstance(record, dict) and record.get("ok") is True else None


def _last_words(errors: str, output: str, code: int) -> str:
    """The line that says why: the exception at a traceback's end, else the last line of all."""
    lines = [line.strip() for line in (errors + "\n" + output).splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Interrupt|Exit)\b", line)]
    said = (named or lines or ["it said nothing"])[-1]
    how = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
    return f"{said[:300]} ({how})" if code < 0 or not named else said[:300]
