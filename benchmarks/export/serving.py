"""What `tunesmith serve-model` costs on top of llama.cpp: time to the first token, and tokens per second.

    .venv/bin/python benchmarks/export/serving.py [--model embedded] [--workspace DIR] [--rounds 30]

Starts the server, then asks the same prompts in turn through its address and at the llama.cpp server behind it, by the
same client. Each prompt begins with a number of its own, so that none is in llama.cpp's cache. Prints one JSON line:
medians, the median over the rounds of (through the front) / (llama.cpp directly), and the processor time that the front
itself took for a whole answer, which does not depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from tunesmith.models.references import parse_reference
from tunesmith.models.servable import servable
from tunesmith.workspace import Workspace

WORDS = "The valve on the left side of the tank opens when the pressure falls below two bars and the pump is idle. "
TOKENS = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--workspace", type=Path, default=Path(tempfile.gettempdir()) / "tunesmith-serving")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--repeat", type=int, default=8, help="how often the sentence of 23 words stands in the prompt")
    options = parser.parse_args()
    workspace = Workspace(options.workspace)
    one = servable(workspace, parse_reference(options.model, workspace))
    command = [sys.executable, "-m", "tunesmith", "serve-model", options.model, "--port", "0", "--name", "served"]
    process = subprocess.Popen(
        [*command, "--slots", "1", "--workspace", str(options.workspace)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    printed = next(line for line in process.stdout if "is served at" in line)
    found = re.search(r"http://127\.0\.0\.1:(\d+)/v1", printed)
    assert found is not None
    front, behind = int(found[1]), port_of_llama_cpp(process.pid)
    firsts: list[tuple[float, float]] = []
    rates: list[tuple[float, float]] = []
    cpu: list[float] = []
    prompt_tokens = 0
    for number in range(options.rounds + 1):
        messages = [{"role": "user", "content": f"{100_000 + number} {WORDS * options.repeat}"}]
        other = [{"role": "user", "content": f"{500_000 + number} {WORDS * options.repeat}"}]
        prompt_tokens = len(one.encode(messages))
        asked = {"model": "served", "messages": messages, "temperature": 0, "max_tokens": TOKENS, "stream": True}
        direct = {
            "prompt": one.encode(other), "temperature": 0, "n_predict": TOKENS, "stream": True,
            "stop": list(one.prompt_format.stops),
        }  # fmt: skip
        calls = [(front, "/v1/chat/completions", asked), (behind, "/completion", direct)]
        # Whoever goes first finds the processor in another state.
        order = calls if number % 2 else calls[::-1]
        before = cpu_s(process.pid)
        took = {port: timed(port, path, body) for port, path, body in order}
        if number:  # the first round warms up
            firsts.append((took[front][0], took[behind][0]))
            cpu.append(cpu_s(process.pid) - before)
            rates.append((took[front][1], took[behind][1]))
    process.send_signal(signal.SIGINT)
    process.wait(30)
    print(
        json.dumps(
            {
                "model": one.gguf.name,
                "prompt_tokens": prompt_tokens,
                "rounds": options.rounds,
                "first_token_ms": {"front": ms(firsts, 0), "llama_cpp": ms(firsts, 1)},
                "first_token_ratio": ratio(firsts),
                "ms_per_token": {"front": ms(rates, 0), "llama_cpp": ms(rates, 1)},
                "ms_per_token_ratio": ratio(rates),
                "front_cpu_ms_per_answer": round(statistics.median(cpu) * 1000, 1),
                "load": round(psutil.getloadavg()[0], 1),
            }
        )
    )


def port_of_llama_cpp(pid: int) -> int:
    """The port of the server that the front started."""
    for child in psutil.Process(pid).children(recursive=True):
        for one in child.net_connections():
            if one.status == psutil.CONN_LISTEN:
                return one.laddr.port
    raise SystemExit("no llama.cpp server was found")


def cpu_s(pid: int) -> float:
    """Processor time that the front has taken, without llama.cpp, which is a process of its own."""
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def timed(port: int, path: str, body: dict[str, Any]) -> tuple[float, float]:
    """Seconds to the first piece of text, and seconds for each later one."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    began = time.perf_counter()
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    times = [time.perf_counter() for text in pieces(connection.getresponse()) if text]
    connection.close()
    return times[0] - began, (times[-1] - times[0]) / max(1, len(times) - 1)


def pieces(response: http.client.HTTPResponse) -> Iterator[str]:
    assert response.status == 200, response.read()
    for line in response:
        if line.startswith(b"data: {"):
            event = json.loads(line.removeprefix(b"data: "))
            choices = event.get("choices")
            yield (
                event.get("content", "")
                if choices is None
                else choices[0]["delta"].get("content", "")
                if choices
                else ""
            )


def ms(pairs: list[tuple[float, float]], side: int) -> float:
    return round(statistics.median(pair[side] for pair in pairs) * 1000, 2)


def ratio(pairs: list[tuple[float, float]]) -> float:
    return round(statistics.median(mine / theirs for mine, theirs in pairs), 4)


if __name__ == "__main__":
    main()
