"""Scoring and cleaning: what the checks find, rightly and wrongly, near-duplicates, speed. A table, then JSON lines.

    pip download llamafactory==0.9.5 --no-deps --no-binary :all: && tar xzf llamafactory-0.9.5.tar.gz
    python benchmarks/data/scoring.py --rows llamafactory-0.9.5/data [--notes examples/notes] [--only checks,near,...]
        [--peer datasketch=/tmp/v/bin/python ...]

Planted defects come from `planted.py`, 250 a check and language, on real rows that have no finding themselves. A
finding is right when it names what was planted in that row. Real rows are counted apart, as they are. The 50,000 rows
for speed are recombined from the sentences of the real ones. Times are wall time and CPU time of the process.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import harmless_heldout
import planted
import planted_heldout

from tunesmith.data.checks.rows import check_row
from tunesmith.data.cleaning import clean
from tunesmith.data.formats import join_input
from tunesmith.data.near_duplicates import similar_pairs
from tunesmith.data.records import Message, Row
from tunesmith.data.scoring import score
from tunesmith.data.store import DatasetStore
from tunesmith.workspace import Workspace

PER_CHECK, ROWS, NEAR_COPIES, HELD_OUT = 250, 50_000, 4_000, 200
Pair = tuple[str, str]
records: list[dict[str, Any]] = []


def record(what: str, **figures: Any) -> None:
    """One line of the table now, one line of JSON at the end."""
    records.append({"what": what, **figures})
    shown = "  ".join(
        f"{name} {value:,.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in figures.items()
    )
    print(f"{what:<34} {shown}", flush=True)


def row_of(question: str, answer: str, row_id: str = "") -> Row:
    messages = [Message(role="user", content=question), Message(role="assistant", content=answer)]
    return Row(row_id=row_id, messages=messages)


def checks_of(question: str, answer: str) -> set[str]:
    return {finding.check for finding in check_row(row_of(question, answer))}


def real_pairs(folder: Path, language: str) -> list[Pair]:
    entries = json.loads((folder / f"alpaca_{language}_demo.json").read_text(encoding="utf-8"))
    return [(join_input(entry["instruction"], entry.get("input") or ""), entry["output"]) for entry in entries]


def preference_pairs(folder: Path, language: str) -> list[Pair]:
    """First question and chosen answer of the preference demos: other writers than Alpaca's."""
    entries = json.loads((folder / f"dpo_{language}_demo.json").read_text(encoding="utf-8"))
    return [
        (entry["conversations"][0]["value"], entry["chosen"]["value"])
        for entry in entries
        if len(entry["conversations"]) == 1
    ]


# --- what single rows show ---


def measure_checks(pairs: dict[str, list[Pair]]) -> None:
    carriers = {
        language: [
            (question, answer)
            for question, answer in found
            if 80 <= len(answer) <= 1500
            and answer.rstrip()[-1] in "。.！!？?"
            and len(question) >= 6
            and not checks_of(question, answer)
            and not re.search(r"(?i)translat|language|english|chinese|翻译|英文|英语|中文|语言|词|句", question)
        ]
        for language, found in pairs.items()
    }  # fmt: skip
    everyone = carriers["en"] + carriers["zh"]
    rows: list[tuple[str, str, set[str]]] = []
    for language, own in carriers.items():
        for check, spoil in planted.SPOILERS.items():
            chance = random.Random(f"{check}{language}")
            for _ in range(PER_CHECK):
                question, answer = chance.choice(own)
                answers = everyone if check == "language_mismatch" else own
                rows.append((language, check, checks_of(*spoil(question, answer, language, chance, answers))))
        chance = random.Random(language)
        for _ in range(4 * PER_CHECK):
            question, answer = chance.choice(own)
            rows.append(
                (
                    language,
                    "",
                    checks_of(question, answer + " " * (language == "en") + planted.harmless(language, chance)),
                )
            )
    for check in planted.SPOILERS:
        for language in carriers:
            named = [(check in found, truth == check) for where, truth, found in rows if where == language]
            right = sum(said and true for said, true in named)
            # An empty answer is short by another name, and so on: what follows from the planted defect is not counted.
            wrong = Counter(
                t
                for where, t, found in rows
                if where == language and check in found and t not in (check, *implied(check))
            )
            record(
                f"planted {check}", language=language, recall=right / PER_CHECK,
                precision=right / max(1, right + wrong.total()),
                wrongly_in=dict(wrong),
            )  # fmt: skip
    for language in carriers:
        alarms = Counter(check for where, truth, found in rows if where == language and not truth for check in found)
        record("harmless look-alikes", language=language, rows=4 * PER_CHECK, false_alarms=dict(alarms))


# --- what was planted by somebody who had not read the checks ---


# A check -> planted defects that truly are this one too (an empty answer is short).
ALSO_TRUE = {
    "short_output": ("empty_output", "output_equals_instruction"),
    "truncated_output": (
        "short_output",
        "output_equals_instruction",
        "markdown_residue",
        "encoding_damage",
        "placeholder",
    ),
    "markdown_residue": ("truncated_output",),
    "placeholder": ("markdown_residue",),
    "long_output": ("encoding_damage",),
    "encoding_damage": ("empty_instruction", "empty_output"),
}


def measure_heldout(
    pairs: dict[str, list[Pair]], seed: int, carriers: str, notes: Path | None, misses: Path | None
) -> None:
    """Recall a check and language, the share of its findings that are right, and false alarms on look-alikes."""
    clean = {
        language: [pair for pair in found if planted_heldout.is_clean(*pair, language)]
        for language, found in pairs.items()
    }
    if notes:
        for row in note_rows(notes):
            question, answer = row.messages[0].content, row.messages[-1].content
            for language, own in clean.items():
                if planted_heldout.is_clean(question, answer, language):
                    own.append((question, answer))
    odd = {"odd": 1, "even": 0}.get(carriers)
    own = {
        language: [pair for place, pair in enumerate(found) if odd is None or place % 2 == odd]
        for language, found in clean.items()
    }
    rows = [
        *planted_heldout.defects(own, seed, HELD_OUT),
        *harmless_heldout.look_alikes(own, seed, HELD_OUT),
        *(planted_heldout.Planted("", language, "untouched", *pair) for language in own for pair in own[language]),
    ]
    found = [checks_of(row.question, row.answer) for row in rows]
    for language in own:
        for check in sorted({row.check for row in rows} - {""}):
            seen = [(row, names) for row, names in zip(rows, found, strict=True) if row.language == language]
            planted_here = [check in names for row, names in seen if row.check == check]
            # A defect that follows from the planted one (an empty answer is short) is not counted as wrong.
            wrong = sum(
                check in names and row.check != check and row.check not in ALSO_TRUE.get(check, ())
                for row, names in seen
            )
            alike = [check in names for row, names in seen if not row.check and row.kind == check]
            right = sum(planted_here)
            record(
                f"held-out {language} {check}",
                planted=len(planted_here),
                recall=right / len(planted_here),
                precision=right / (right + wrong) if right + wrong else 1.0,
                look_alikes=len(alike),
                flagged=sum(alike),
            )
        for kind in sorted({row.kind for row in rows if not row.check}):
            named = [
                names
                for row, names in zip(rows, found, strict=True)
                if not row.check and row.kind == kind and row.language == language
            ]
            record(f"held-out {language} harmless {kind}", rows=len(named), flagged=sum(map(bool, named)))
    if misses:
        with misses.open("w", encoding="utf-8") as file:
            for row, names in zip(rows, found, strict=True):
                extra = {name for name in names if name != row.check and row.check not in ALSO_TRUE.get(name, ())}
                if extra or (row.check and row.check not in names):
                    file.write(json.dumps({**row._asdict(), "found": sorted(names)}, ensure_ascii=False) + "\n")


def implied(check: str) -> tuple[str, ...]:
    """Planted defects that are also, truly, this one."""
    return {
        # The question given back, or cut short: too short, or broken off.
        "short_output": ("output_equals_instruction", "empty_output"),
        "truncated_output": ("short_output", "output_equals_instruction"),
        # A null byte after every character doubles the length.
        "long_output": ("encoding_damage",),
    }.get(check, ())


def measure_real(pairs: dict[str, list[Pair]], notes: Path | None) -> None:
    for language, found in pairs.items():
        counts = Counter(check for question, answer in found for check in checks_of(question, answer))
        record("real rows", source=f"alpaca_{language}_demo", rows=len(found), findings=dict(counts))
    if notes is not None:
        rows = note_rows(notes)
        counts = Counter(finding.check for row in rows for finding in check_row(row))
        record("real rows", source=str(notes), rows=len(rows), findings=dict(counts))


def note_rows(notes: Path) -> list[Row]:
    from tunesmith.data.extraction import extract

    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder), [notes.resolve()])
        extracted = extract(workspace, str(notes.resolve()))
        return list(DatasetStore(workspace).rows(extracted.dataset.dataset_id))


# --- near-duplicates ---


def sentences(text: str) -> list[str]:
    return [part for part in re.split(r"(?<=[。！？])|(?<=[.!?]) |\n+", text) if part and len(part) > 12]


def recombined(pairs: dict[str, list[Pair]], count: int) -> list[Pair]:
    """Rows made of the sentences of real ones, half in each language: as varied as they are, and as many as wanted."""
    chance = random.Random(7)
    stock = {
        language: [part for _question, answer in found for part in sentences(answer)]
        for language, found in pairs.items()
    }
    made: list[Pair] = []
    for number in range(count):
        language = ("en", "zh")[number % 2]
        gap = " " if language == "en" else ""
        question = chance.choice(pairs[language])[0][:200]
        made.append((f"{question} ({number})", gap.join(chance.choices(stock[language], k=chance.randint(2, 9)))))
    return made


def near_copy(text: str, chance: random.Random) -> str:
    characters = list(text)
    for _ in range(max(1, round(len(characters) * chance.uniform(0.002, 0.03)))):
        at = chance.randrange(len(characters))
        characters[at : at + chance.randint(0, 2)] = chance.choice(["", "x", "的", "了", "a ", characters[at]])
    return "".join(characters)


def shingles(text: str) -> set[str]:
    return {text[at : at + 5] for at in range(len(text) - 4)} or {text}


def jaccard(one: set[str], other: set[str]) -> float:
    return len(one & other) / len(one | other)


def near_texts(pairs: dict[str, list[Pair]]) -> tuple[list[str], dict[int, tuple[str, float]]]:
    """50,000 texts, and of each planted copy its language and its true similarity to what it was made from."""
    chance = random.Random(11)
    texts = ["\n".join(pair) for pair in recombined(pairs, ROWS - NEAR_COPIES)]
    truth: dict[int, tuple[str, float]] = {}
    for _ in range(NEAR_COPIES):
        at = chance.randrange(ROWS - NEAR_COPIES)
        copy = near_copy(texts[at], chance)
        truth[len(texts)] = (("en", "zh")[at % 2], jaccard(shingles(copy), shingles(texts[at])))
        texts.append(copy)
    return texts, truth


def measure_near(pairs: dict[str, list[Pair]], peers: dict[str, str]) -> None:
    texts, truth = near_texts(pairs)
    found, figures = in_child(_similar, texts)
    record_near("near-duplicates, tunesmith", texts, truth, {later for _earlier, later in found}, figures)
    wrong = sum(jaccard(shingles(texts[a]), shingles(texts[b])) < 0.8 for a, b in found)
    record("near-duplicates, pairs below 0.8", pairs=len(found), wrong=wrong)
    for name, python in peers.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "texts.json"
            path.write_text(json.dumps(texts), encoding="utf-8")
            command = [python, str(Path(__file__).parent / "peers.py"), name, str(path)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
        if done.returncode:
            record(f"near-duplicates, {name}", failed=done.stderr.strip().splitlines()[-1][:200])
            continue
        answer = json.loads(done.stdout.splitlines()[-1])
        record_near(f"near-duplicates, {name}", texts, truth, set(answer["later"]), answer["figures"])


def record_near(
    what: str, texts: Sequence[str], truth: dict[int, tuple[str, float]], later: set[int], figures: dict[str, float]
) -> None:
    recall = {}
    for language in ("en", "zh"):
        true = [number for number, (where, similarity) in truth.items() if where == language and similarity >= 0.8]
        recall[f"recall_{language}"] = round(sum(number in later for number in true) / len(true), 4)
    record(what, rows_per_cpu_s=round(len(texts) / figures["cpu_s"]), **recall, **figures)


def measure_templates() -> None:
    chance = random.Random(5)
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=9)) for _ in range(60)]
    long = " ".join(chance.choices(words, k=90))
    families: dict[str, Callable[[int], str]] = {
        "price of item N": lambda number: f"What is the price of item {number}?",
        "第N号商品": lambda number: f"第{number}号商品的价格是多少元?",
        "900 characters, 110 of their own": lambda number: long + "".join(chance.choices(words[0] + words[1], k=112)),
        "4 slots of 60 words": lambda number: (
            f"Please describe the {chance.choice(words)} line, its {chance.choice(words)} variants "
            f"and how the {chance.choice(words)} "
            f"department handles {chance.choice(words)} orders that customers of the northern region place in winter."
        ),
        "copies with a number at the end": lambda number: f"{long} {number}",
    }
    for name, make in families.items():
        for count in (10_000, 20_000, 40_000):
            texts = list(dict.fromkeys(make(number) for number in range(count)))
            found, figures = in_child(_similar, texts)
            record(f"template: {name}", rows=len(texts), found=len({later for _earlier, later in found}), **figures)
        texts = chance.sample(texts, 700)
        sets = [shingles(text) for text in texts]
        true = {
            later
            for later in range(len(texts))
            if any(jaccard(sets[later], sets[earlier]) >= 0.8 for earlier in range(later))
        }
        record(
            "  by brute force, 700 of them",
            true=len(true),
            found=len(true & {later for _e, later in similar_pairs(texts)}),
        )


def _similar(texts: list[str]) -> list[tuple[int, int]]:
    return list(similar_pairs(texts))


# --- everything, 50,000 rows ---


def measure_speed(pairs: dict[str, list[Pair]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder))
        texts, _truth = near_texts(pairs)
        rows = (row_of(text.partition("\n")[0], text.partition("\n")[2]) for text in texts)
        dataset = DatasetStore(workspace).create(rows, name="speed", created_by="benchmark")
        size = DatasetStore(workspace).rows_path(dataset.dataset_id).stat().st_size
        (flagged, _), figures = in_child(_score, (folder, dataset.dataset_id))
        record("score", rows=dataset.rows, megabytes=round(size / 1e6, 1), flagged=flagged, **figures)
        (kept, dropped), figures = in_child(_clean, (folder, dataset.dataset_id))
        record("clean", rows=dataset.rows, kept=kept, dropped=dropped, **figures)


def _score(args: tuple[str, str]) -> tuple[int, int]:
    result = score(Workspace(Path(args[0])), args[1])
    return result.flagged, result.passed


def _clean(args: tuple[str, str]) -> tuple[int, int]:
    result = clean(Workspace(Path(args[0])), args[1])
    assert result.rows_in == result.kept + result.dropped
    return result.kept, result.dropped


def in_child(work: Callable[[Any], Any], argument: Any) -> tuple[Any, dict[str, float]]:
    """The answer, and wall seconds, CPU seconds and peak MB of a fresh process without its start."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_measured, (work, argument))


def _measured(work: Callable[[Any], Any], argument: Any) -> tuple[Any, dict[str, float]]:
    wall, cpu = time.perf_counter(), time.process_time()
    answer = work(argument)
    figures = {"wall_s": round(time.perf_counter() - wall, 2), "cpu_s": round(time.process_time() - cpu, 2)}
    return answer, {**figures, "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rows", type=Path, required=True, help="the folder that holds alpaca_en_demo.json and alpaca_zh_demo.json"
    )
    parser.add_argument("--notes", type=Path, help="notes to extract rows from, as more clean rows")
    parser.add_argument("--only", default="checks,real,near,templates,speed", help="parts to run")
    parser.add_argument(
        "--peer", action="append", default=[], metavar="NAME=PYTHON", help="a peer and an interpreter that has it"
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of the held-out rows")
    parser.add_argument("--carriers", default="all", choices=["all", "odd", "even", "preference"])
    parser.add_argument("--misses", type=Path, help="write held-out misses and false alarms there, as JSON lines")
    arguments = parser.parse_args()
    pairs = {language: real_pairs(arguments.rows, language) for language in ("en", "zh")}
    parts = {
        "checks": lambda: measure_checks(pairs),
        "heldout": lambda: measure_heldout(
            {language: preference_pairs(arguments.rows, language) for language in pairs}
            if arguments.carriers == "preference"
            else pairs,
            arguments.seed,
            arguments.carriers,
            arguments.notes,
            arguments.misses,
        ),
        "real": lambda: measure_real(pairs, arguments.notes),
        "near": lambda: measure_near(pairs, dict(peer.split("=", 1) for peer in arguments.peer)),
        "templates": measure_templates,
        "speed": lambda: measure_speed(pairs),
    }
    for part in arguments.only.split(","):
        parts[part]()
    for entry in records:
        print(json.dumps(entry, ensure_ascii=False))


if __name__ == "__main__":
    main()
