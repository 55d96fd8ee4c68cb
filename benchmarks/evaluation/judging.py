"""What becomes of a judged comparison when endpoints fail, and when its process is killed again and again.

    python benchmarks/evaluation/judging.py [--questions 40] [--faults 0.2] [--kills 5]

Three scripted models and a judge, in a process of their own. A share of all requests fails (HTTP 503), stalls until the
time is up, or brings no JSON. Then a comparison without faults is killed with SIGKILL at random moments and gone on
with, and what the endpoints saw is counted: a request whose answer was on the disk must never come again; those that
were in flight at a kill must. The last lines are JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.evaluation.apart import Apart
from tunesmith.data import llm_asking
from tunesmith.data.llm_cache import answer_key
from tunesmith.data.records import Message
from tunesmith.evaluation import asking_models, judge_at_work, judge_prompts
from tunesmith.evaluation.asking import AnswerFile
from tunesmith.evaluation.comparing import Comparing
from tunesmith.evaluation.judgements import JUDGEMENTS_FILE, Desk
from tunesmith.evaluation.records import Answer, Question
from tunesmith.evaluation.store import ANSWERS_FILE
from tunesmith.models import answering
from tunesmith.work import Work, run_by_hand
from tunesmith.workspace import Workspace

TIMEOUT_S = 3.0
MODELS = 3


def with_faults(questions: int, share: float) -> dict[str, Any]:
    answering.REMOTE_TIMEOUT_S = asking_models.REMOTE_TIMEOUT_S = TIMEOUT_S
    llm_asking.FIRST_PAUSE_S = 0.1
    with Apart(MODELS, seconds=0.02, faults=share) as apart, tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder) / "workspace", [Path(folder)])
        began = time.monotonic()
        made = Comparing(Work(run_by_hand(workspace, "compare", apart.arguments(questions, judged=True)))).run()
        took = time.monotonic() - began
        seen = [requests for requests, _ in apart.seen()]
    assert made.judge is not None
    text = json.dumps(seen[-1])
    return {
        "measured": f"{share:.0%} of all requests fail, stall or are malformed",
        "answers_wanted": MODELS * questions,
        "answers": sum(one.answered for one in made.models),
        "answer_errors": sum(one.errors for one in made.models),
        "answer_retries_counted": sum(one.retries for one in made.models),
        "answer_requests_seen": sum(map(len, seen[:-1])),
        "judgements_wanted": made.judge.asked,
        "judgements_failed": made.judge.failed,
        "judge_requests_counted": made.judge.requests,
        "judge_requests_seen": len(seen[-1]),
        "names_seen_by_the_judge": sum(name in text for name in ("Contestant-", "acme-")),
        "verdict": made.verdict.answer,
        "seconds": round(took, 1),
    }


def with_kills(questions: int, kills: int) -> dict[str, Any]:
    draw = random.Random(3)
    in_flight = MODELS * asking_models.SLOTS + judge_at_work.SLOTS
    with Apart(MODELS, seconds=0.2) as apart, tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder) / "workspace", [Path(folder)])
        run_dir = run_by_hand(workspace, "compare", apart.arguments(questions, judged=True))
        command = [sys.executable, "-m", "tunesmith.evaluation.worker", str(run_dir)]
        lines, done, kept = [], 0, []
        while done < kills:
            worker = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            began = _lines(workspace)
            while worker.poll() is None and _lines(workspace) <= began:
                time.sleep(0.02)
            time.sleep(draw.uniform(0.2, 1.5))
            if worker.poll() is not None:
                break
            os.kill(worker.pid, signal.SIGKILL)
            worker.wait()
            done += 1
            lines.append(_lines(workspace))
            kept.append(([len(requests) for requests, _ in apart.seen()], _kept(workspace)))
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        made = json.loads((run_dir / "result.json").read_text(encoding="utf-8"))["result"]
        seen = [[_asked(one) for one in requests] for requests, _ in apart.seen()]
    again = sum(
        one in known[place]
        for counts, known in kept
        for place, requests in enumerate(seen)
        for one in requests[counts[place] :]
    )
    wanted = MODELS * questions + made["judge"]["asked"]
    return {
        "measured": f"killed {done} times",
        "kept_lines_at_each_kill": lines,
        "answers_and_judgements_wanted": wanted,
        "requests_seen": sum(map(len, seen)),
        "asked_again_though_kept": again,
        "in_flight_at_kills": sum(map(len, seen)) - wanted,
        "slots_times_kills": done * in_flight,
        "judgements_failed": made["judge"]["failed"],
        "verdict": made["verdict"]["answer"],
    }


def _asked(request: dict[str, Any]) -> str:
    """What tells one request to an endpoint from all others: a question, or the key of a judgement."""
    messages = [Message(**one) for one in request["messages"]]
    if "response_format" not in request:
        return messages[-1].content
    schema = request["response_format"]["json_schema"]["schema"]
    # The judge's identity is the same for all: it does not matter here.
    return answer_key("", judge_prompts.VERSION, messages, schema, judge_prompts.MAX_TOKENS)


def _kept(workspace: Workspace) -> list[set[str]]:
    """By endpoint, what was on the disk: questions that were answered, and keys of judgements as `_asked` has them."""
    (folder,) = workspace.comparisons.glob("cmp_*")
    found: list[set[str]] = [set() for _ in range(MODELS + 1)]
    by_place: dict[tuple[int, int], str] = {}
    for answer in AnswerFile(folder / ANSWERS_FILE).read():
        place = int(answer.label.rpartition("-")[2])
        if answer.reply is not None:
            by_place[place, answer.question] = answer.reply
            found[place - 1].add(f"What is part {answer.question} for?")
    asked = {
        number: Question(
            question=number,
            messages=[Message(role="user", content=f"What is part {number} for?")],
            reference=f"Part {number} holds the lid of the box.",
        )
        for _, number in by_place
    }
    desk = Desk("", judge_at_work.WINDOW, asked, lambda text: text)
    for line in (folder / JUDGEMENTS_FILE).read_bytes().splitlines() if (folder / JUDGEMENTS_FILE).is_file() else []:
        entry = json.loads(line) if line.endswith(b"}") else {}
        labels = [entry[name] for name in ("answer", "first", "second") if name in entry]
        answers = [_answer(label, entry["question"], by_place) for label in labels]
        if len(answers) == 1:
            found[-1].add(desk.score(answers[0])[0])
        elif len(answers) == 2:
            found[-1].add(desk.compare(*answers)[0])
    return found


def _answer(label: str, number: int, by_place: dict[tuple[int, int], str]) -> Answer:
    return Answer(
        label=label, question=number, repetition=1, key="", reply=by_place[int(label.rpartition("-")[2]), number],
        finish_reason="stop", tokens=None, seconds=0.0, attempts=1, error=None,
    )  # fmt: skip


def _lines(workspace: Workspace) -> int:
    return sum(
        len(path.read_bytes().splitlines())
        for folder in workspace.comparisons.glob("cmp_*")
        for path in (folder / ANSWERS_FILE, folder / JUDGEMENTS_FILE)
        if path.is_file()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--faults", type=float, default=0.2)
    parser.add_argument("--kills", type=int, default=5)
    args = parser.parse_args()
    found = [with_kills(args.questions, args.kills), with_faults(args.questions, args.faults)]
    for record in found:
        print(json.dumps(record))


if __name__ == "__main__":
    main()
