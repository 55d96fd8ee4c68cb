"""Whether other tools take what export_dataset writes. A table, then JSON lines.

    python -m venv /tmp/v && /tmp/v/bin/pip install llamafactory==0.9.5
    python benchmarks/data/acceptance.py --notes examples/notes --llamafactory /tmp/v/bin/python

Notes go through extract, score, clean and split; beside them a ShareGPT set with system messages and several turns is
imported. Both are exported in every format, as .jsonl and .json. LLaMA-Factory reads them with its own loader and a
dataset_info.json made of what the export returned; `datasets` and TRL, as Axolotl and Unsloth use them, read them in
this environment. What they understood is compared, text by text, with the rows of the dataset.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

FORMATS = ("alpaca", "sharegpt", "messages", "prompt_completion")
Turns = list[tuple[str, str]]
records: list[dict[str, Any]] = []


def record(**figures: Any) -> None:
    records.append(figures)
    print("  ".join(f"{value!s:<24}" for value in figures.values()).rstrip(), flush=True)


def make(folder: Path, notes: Path) -> None:
    """The exports, `dataset_info.json`, and `expected.json`: the turns of every row of both datasets."""
    from tunesmith.data.cleaning import clean
    from tunesmith.data.exporting import export_dataset
    from tunesmith.data.extraction import extract
    from tunesmith.data.importing import import_dataset
    from tunesmith.data.scoring import score
    from tunesmith.data.splitting import split
    from tunesmith.data.store import DatasetStore
    from tunesmith.workspace import Workspace

    workspace = Workspace(folder / "workspace", [folder, notes])
    made = extract(workspace, str(notes)).dataset
    score(workspace, made.dataset_id)
    made = split(workspace, clean(workspace, made.dataset_id).dataset_id)
    source = folder / "dialogues-in.jsonl"
    source.write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in dialogues()), encoding="utf-8")
    talks = import_dataset(workspace, str(source))
    source = folder / "inputs-in.jsonl"
    inputs = [
        {
            "instruction": f"Translate, {number}:",
            "input": f"你好 {number}" if number % 2 else "",
            "output": f"Hello {number}.",
        }
        for number in range(60)
    ]
    source.write_text("".join(json.dumps(each) + "\n" for each in inputs), encoding="utf-8")
    asked = import_dataset(workspace, str(source))
    store = DatasetStore(workspace)
    info: dict[str, Any] = {}
    expected: dict[str, Any] = {}
    for name, dataset_id in (("notes", made.dataset_id), ("dialogues", talks.dataset_id), ("inputs", asked.dataset_id)):
        expected[name] = [[(turn.role, turn.content) for turn in row.messages] for row in store.rows(dataset_id)]
        for format in FORMATS:
            for ending in ("jsonl", "json"):
                path = folder / f"{name}-{format}-{ending}.{ending}"
                info |= export_dataset(workspace, dataset_id, format=format, path=str(path)).llama_factory or {}
    (folder / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    (folder / "expected.json").write_text(json.dumps(expected), encoding="utf-8")


def dialogues() -> list[dict[str, Any]]:
    """Rows with and without a system message, of one to three turns, with quotes, newlines and Chinese."""
    made = []
    for number in range(60):
        turns = [{"from": "system", "value": f"Be brief, {number}."}] if number % 3 else []
        for turn in range(1 + number % 3):
            turns.append({"from": "human", "value": f'Question {number}.{turn}: "what"?\n=1+1 什么是LoRA?'})
            turns.append({"from": "gpt", "value": f"Answer {number}.{turn}: {{'a': 1}}\n\n- 低秩适配。"})
        made.append({"conversations": turns})
    return made


# --- what others understood ---


def read_by_llamafactory(folder: Path) -> dict[str, list[Turns]]:
    """In its own environment. Its loader gives _prompt, _response and _system."""
    from llamafactory.data.loader import _load_single_dataset
    from llamafactory.data.parser import get_dataset_list
    from llamafactory.hparams import DataArguments, ModelArguments
    from transformers import Seq2SeqTrainingArguments

    found = {}
    for name in json.loads((folder / "dataset_info.json").read_text(encoding="utf-8")):
        data = DataArguments(dataset=name, dataset_dir=str(folder), overwrite_cache=True)
        (attributes,) = get_dataset_list([name], str(folder))
        training = Seq2SeqTrainingArguments(output_dir=str(folder / "out"), use_cpu=True)
        rows = _load_single_dataset(attributes, ModelArguments(model_name_or_path="none"), data, training)
        found[name] = [
            ([("system", row["_system"])] if row["_system"] else [])
            + [(turn["role"], turn["content"]) for turn in (*row["_prompt"], *row["_response"])]
            for row in rows
        ]
    return found


def read_by_datasets(path: Path, format: str) -> list[Turns]:
    """As Axolotl's and Unsloth's loaders do: `load_dataset`, the fields their prompt strategies name; TRL's checks."""
    from datasets import load_dataset
    from trl.data_utils import is_conversational, maybe_convert_to_chatml

    found: list[Turns] = []
    for row in load_dataset("json", data_files=str(path), split="train", cache_dir=str(path.parent / "cache")):
        if format == "alpaca":
            system = [("system", row["system"])] if row.get("system") else []
            past = [pair for turn in row.get("history") or [] for pair in zip(("user", "assistant"), turn, strict=True)]
            asked = f"{row['instruction']}\n\n{row['input']}" if row["input"] else row["instruction"]
            found.append([*system, *past, ("user", asked), ("assistant", row["output"])])
            continue
        if format == "sharegpt":
            # TRL renames the fields; the speakers are renamed as Axolotl's and Unsloth's role mappings do by default.
            row = maybe_convert_to_chatml(row)  # noqa: PLW2901
            for turn in row["messages"]:
                turn["role"] = {"human": "user", "gpt": "assistant"}.get(turn["role"], turn["role"])
        if format == "prompt_completion" and isinstance(row["prompt"], str):
            found.append([("user", row["prompt"]), ("assistant", row["completion"])])
            continue
        assert is_conversational(row), f"TRL does not see a conversation in {path.name}"
        turns = row["messages"] if "messages" in row else [*row["prompt"], *row["completion"]]
        found.append([(turn["role"], turn["content"]) for turn in turns])
    return found


def compare(reader: str, name: str, found: list[Turns], expected: list[Turns]) -> bool:
    same = sum(
        [tuple(turn) for turn in left] == [tuple(turn) for turn in right]
        for left, right in zip(found, expected, strict=False)
    )
    right = same == len(expected) == len(found)
    record(
        reader=reader, file=name, rows=f"{len(found)} of {len(expected)}", same=same, verdict="ok" if right else "WRONG"
    )
    return right


def one_newline(turns: Turns) -> Turns:
    """LLaMA-Factory joins Alpaca's instruction and input with one newline where everybody else leaves a blank line."""
    return [(role, content.replace("\n\n", "\n")) for role, content in turns]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--notes", type=Path, default=Path("examples/notes"))
    parser.add_argument("--llamafactory", help="Python of an environment with llamafactory 0.9.5.")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        (options.read / "understood.json").write_text(json.dumps(read_by_llamafactory(options.read)), encoding="utf-8")
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make(folder, options.notes.resolve())
        expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
        right = True
        for path in sorted(folder.glob("*-*-*.json*")):
            name, format, _ending = path.stem.split("-")
            right &= compare("datasets and TRL", path.name, read_by_datasets(path, format), expected[name])
        if options.llamafactory:
            command = [options.llamafactory, __file__, "--read", str(folder)]
            with (folder / "log").open("w") as log:
                subprocess.run(command, check=False, stdout=log, stderr=log)
            try:
                understood = json.loads((folder / "understood.json").read_text(encoding="utf-8"))
            except FileNotFoundError:
                print((folder / "log").read_text()[-3000:])
                return 1
            for name, found in understood.items():
                wanted = expected[name.partition("-")[0]]
                if name.startswith("inputs-alpaca"):
                    wanted = [one_newline(turns) for turns in wanted]
                right &= compare("LLaMA-Factory 0.9.5", name, found, wanted)
    for each in records:
        print(json.dumps(each))
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
