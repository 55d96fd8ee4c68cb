"""Held-out loss: the planner's recipe against the tutorial's, at the same number of epochs, on real weights and rows.

    python benchmarks/training/quality.py --out quality.jsonl
    python benchmarks/training/quality.py --only script,planner,packed2 --seeds 42,43,44
    python benchmarks/training/quality.py --cpu --only script,as-on-a-card --rows 200 --epochs 2
    python benchmarks/training/quality.py --dry-run          # a tiny model on the CPU, a few steps

SmolLM2-135M-Instruct on the pairs that `extract_qa` makes of examples/notes, split by `split_dataset`: the same rows to
train on and the same rows held out for everybody, in the Alpaca format. `script` is the tutorial's script (Unsloth,
4-bit, dropout 0.05, batch 2 × 4, loss on prompt and answer); `recipe` is the same recipe through tunesmith's worker,
with loss on the answer only. Every figure is the same sum over the same tokens: nats per token of the held-out answers.
Seeds draw the order of the rows and the adapter. The base, the epochs and the rows are the same; the number of
optimizer steps is not, which is what the comparison is about. With --cpu the script is TRL and PEFT in 32 bits instead
of Unsloth in 4, and `as-on-a-card` is what the planner makes for a card, of which packing is what matters here.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import setting
from runs import left_by, prepare, several
from setting import ALPACA, HERE, TARGETS, environment

EPOCHS = 3
PACKED = {"packing": True, "max_length": 2048, "gradient_accumulation": 1}
RATE = 2e-4
TUTORIAL = {
    "method": "qlora",
    "engine": "unsloth",
    "rank": 16,
    "alpha": 32,
    "dropout": 0.05,
    "batch_size": 2,
    "gradient_accumulation": 4,
    "max_length": 2048,
    "packing": False,
    "learning_rate": RATE,
    "warmup_steps": 10,
    "gradient_checkpointing": "on",
}
# Name → recipe; what is left out the planner decides. `script` is no recipe: it runs by itself.
VARIANTS: dict[str, dict[str, Any]] = {
    "script": {},
    "recipe": TUTORIAL,
    "planner": {},
    "packed1": {**PACKED, "batch_size": 1},
    "packed2": {**PACKED, "batch_size": 2},
    "packed4": {**PACKED, "batch_size": 4},
    "packed2-lr1.4": {**PACKED, "batch_size": 2, "learning_rate": RATE * 2**0.5},
    "packed4-lr2": {**PACKED, "batch_size": 4, "learning_rate": RATE * 2},
    "packed2-lr2": {**PACKED, "batch_size": 2, "learning_rate": RATE * 2},
    "packed4-lr4": {**PACKED, "batch_size": 4, "learning_rate": RATE * 4},
    "packed1-lr1.4": {**PACKED, "batch_size": 1, "learning_rate": RATE * 2**0.5},
    "as-on-a-card": {"packing": True, "method": "lora", "engine": "transformers"},
    "packed8-lr4": {**PACKED, "batch_size": 8, "learning_rate": RATE * 4},
}
USUAL = "script,planner,packed1-lr1.4,packed2,packed4,packed2-lr1.4,packed2-lr2,packed4-lr2"


def notes_dataset(scratch: Path, rows: int | None) -> tuple[Any, str]:
    """(workspace, id of the split dataset of the example notes, or of some of its rows)."""
    from tunesmith.data.extraction import extract
    from tunesmith.data.splitting import split
    from tunesmith.data.store import DatasetStore
    from tunesmith.workspace import Workspace

    workspace = Workspace(scratch / "ws", [scratch, setting.NOTES])
    marker = scratch / "dataset-notes"
    if not marker.is_file():
        found = extract(workspace, str(setting.NOTES))
        marker.write_text(split(workspace, found.dataset.dataset_id).dataset_id)
    if rows is None:
        return workspace, marker.read_text()
    store = DatasetStore(workspace)
    by_split: dict[str, list[Any]] = {"train": [], "eval": []}
    for row in store.rows(marker.read_text()):
        by_split.setdefault(row.split or "train", []).append(row)
    kept = [
        row
        for name, count in (("train", rows), ("eval", rows // 4))
        for row in by_split[name][:: max(1, len(by_split[name]) // count)][:count]
    ]
    return workspace, store.create(kept, name="some", created_by="benchmark").dataset_id


def base_of(scratch: Path, workspace: Any, *, dry: bool) -> Path:
    if dry:
        return setting.model_folder("tiny", scratch, setting.tokenizer_folder(None, scratch))
    from tunesmith.models import embedded

    return embedded.embedded_folder(workspace)


def script(spec: dict[str, Any]) -> None:
    """The tutorial's script, in this process. Writes {before, final, by_epoch, steps, seconds} to spec["out"]."""
    cpu = spec["dry"]
    if not cpu:
        from unsloth import FastLanguageModel
    import torch
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback, set_seed
    from trl import SFTConfig, SFTTrainer

    seed, rows = spec["seed"], spec["train"]
    lora = {"r": 16, "target_modules": TARGETS, "lora_alpha": 32, "lora_dropout": 0.05, "bias": "none"}
    if cpu:
        set_seed(seed)
        tokenizer = AutoTokenizer.from_pretrained(spec["base"])
        model = AutoModelForCausalLM.from_pretrained(spec["base"], dtype=torch.float32)
        model = get_peft_model(model, LoraConfig(**lora, task_type="CAUSAL_LM"))
    else:
        model, tokenizer = FastLanguageModel.from_pretrained(
            model_name=spec["base"], max_seq_length=2048, dtype=None, load_in_4bit=True
        )
        model = FastLanguageModel.get_peft_model(model, **lora, use_gradient_checkpointing="unsloth", random_state=seed)
    texts = [ALPACA.format(**row) + tokenizer.eos_token for row in rows]
    trainer = SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_dict({"text": texts}),
        args=SFTConfig(
            output_dir=spec["out"] + ".trainer",
            per_device_train_batch_size=2,
            gradient_accumulation_steps=4,
            num_train_epochs=spec["epochs"],
            learning_rate=RATE,
            lr_scheduler_type="cosine",
            warmup_steps=10,
            optim="adamw_torch" if cpu else "adamw_8bit",
            weight_decay=0.01,
            max_grad_norm=0.3,
            bf16=not cpu,
            use_cpu=cpu,
            logging_steps=1000,
            save_strategy="no",
            report_to="none",
            max_length=2048,
            dataset_text_field="text",
            packing=False,
            disable_tqdm=True,
            seed=seed,
        ),
    )
    from tunesmith.training.engines.sft import pad

    held_out = sorted((SimpleNamespace(**row) for row in spec["held_out"]), key=lambda row: -len(row.input_ids))

    def loss() -> float:
        """As the worker's `heldout_loss`: the summed loss of all held-out answers, by their tokens."""
        total, tokens = 0.0, 0
        trainer.model.eval()
        os.environ["UNSLOTH_RETURN_LOGITS"] = "0"
        for start in range(0, len(held_out), 8):
            part: Any = held_out[start : start + 8]
            count = sum(label != -100 for row in part for label in row.labels[1:])
            with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, enabled=not cpu):
                batch = pad(part, tokenizer.pad_token_id, trainer.args.device)
                total += float(trainer.model(**batch).loss) * count
            tokens += count
        trainer.model.train()
        return total / tokens

    found: dict[str, Any] = {"before": loss(), "by_epoch": []}

    class Look(TrainerCallback):
        def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            found["by_epoch"].append(round(loss(), 4))

    trainer.add_callback(Look())
    began = time.monotonic()
    trainer.train()
    found |= {"final": loss(), "steps": trainer.state.global_step, "seconds": round(time.monotonic() - began, 1)}
    Path(spec["out"]).write_text(json.dumps(found))


def run_scripts(specs: list[Path], ends: float) -> None:
    """Each in a process of its own, all at once: a step of this model waits for the processor, not for the card."""
    processes = []
    for path in specs:
        with path.with_suffix(".log").open("wb") as log:
            variables = {"UNSLOTH_COMPILE_LOCATION": str(path.with_suffix(".cache"))}
            command = [sys.executable, str(HERE / "quality.py"), "--script", str(path)]
            processes.append(
                subprocess.Popen(command, stdout=log, stderr=log, env={**environment(), **variables}, cwd=path.parent)
            )
    for process in processes:
        try:
            process.wait(timeout=max(1.0, ends - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def line_of(name: str, seed: int, folder: Path) -> dict[str, Any]:
    """One training by the worker."""
    run = left_by(folder)
    recipe = run["plan"]["recipe"]
    shown = {key: recipe[key] for key in ("engine", "method", "batch_size", "gradient_accumulation", "packing")}
    shown |= {"learning_rate": recipe["learning_rate"], "gradient_checkpointing": recipe["gradient_checkpointing"]}
    line = {"name": name, "seed": seed, "recipe": shown, "epochs": recipe["epochs"]}
    content = run["result"] or {}
    if "result" not in content:
        return {**line, "state": "failed", "why": content.get("error"), "log": run["log"][-12:]}
    result = content["result"]
    texts = (folder / "metrics.jsonl").read_text().splitlines()
    looks = [found["eval_loss"] for found in map(json.loads, texts) if found["eval_loss"] is not None]
    return {
        **line,
        "state": "succeeded",
        "before": round(result["eval_loss"]["before"], 4),
        "final": round(looks[-1], 4),  # of the last step, as of the script; the best may be another
        "best": round(result["eval_loss"]["best"], 4),
        "looks": [round(loss, 4) for loss in looks],
        "steps": result["steps"],
        "engine": result["engine"],
        "tokens_per_s": result["tokens_per_s"],
        "seconds": result["duration_s"],
    }


def verdicts(lines: list[dict[str, Any]], against: str) -> list[dict[str, Any]]:
    """Each variant's mean and spread, and whether it learned worse than `against`, seed by seed.

    The spread of a mean of so few differences is large: "no worse" wants the mean no higher, or within the reach of
    two standard errors of the paired differences; the difference itself is shown, so that anybody can ask for more.
    """
    good = [line for line in lines if line["state"] == "succeeded"]
    of = {name: {line["seed"]: line["final"] for line in good if line["name"] == name} for name in VARIANTS}
    found = []
    for name, by_seed in of.items():
        if not by_seed:
            continue
        finals = list(by_seed.values())
        steps = next(line["steps"] for line in good if line["name"] == name)
        summary: dict[str, Any] = {"summary": name, "seeds": len(finals), "steps": steps}
        summary["mean"] = round(statistics.mean(finals), 4)
        summary["spread"] = round(statistics.stdev(finals), 4) if len(finals) > 1 else None
        paired = [by_seed[seed] - of[against][seed] for seed in by_seed if seed in of.get(against, {})]
        if paired and name != against:
            mean = statistics.mean(paired)
            error = statistics.stdev(paired) / math.sqrt(len(paired)) if len(paired) > 1 else 0.0
            summary |= {f"minus_{against}": round(mean, 4), "standard_error": round(error, 4)}
            summary["verdict"] = "better" if mean < -2 * error else "no worse" if mean <= 2 * error else "worse"
        found.append(summary)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--scratch", type=Path, default=None)
    parser.add_argument("--tokenizer", type=Path, default=None, help="not used: the base has its own")
    parser.add_argument("--only", default=USUAL)
    parser.add_argument("--against", default="script")
    parser.add_argument("--seeds", default="42,43,44")
    parser.add_argument("--epochs", type=float, default=EPOCHS)
    parser.add_argument("--budget-s", type=float, default=1e9)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--rows", type=int, default=None, help="so many rows to train on, and a quarter of it held out")
    parser.add_argument("--script", type=Path, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.script is not None:
        script(json.loads(options.script.read_text()))
        return
    compare(options)


def compare(options: argparse.Namespace) -> None:
    import threading

    began = time.monotonic()
    ends = began + options.budget_s
    scratch = (options.scratch or setting.big_scratch()).resolve()
    scratch.mkdir(parents=True, exist_ok=True)
    epochs = 0.1 if options.dry_run else options.epochs
    workspace, dataset_id = notes_dataset(scratch, options.rows)
    base = base_of(scratch, workspace, dry=options.dry_run)
    seeds = [int(text) for text in options.seeds.split(",")]
    fixed = {"epochs": epochs, "prompt_format": "alpaca", "early_stopping_patience": 1000, "save_steps": 100_000}
    folders: dict[tuple[str, int], Path] = {}
    threads, specs = [], []
    for name in options.only.split(","):
        if name == "script":
            specs = script_specs(
                scratch, workspace, dataset_id, base, seeds=seeds, epochs=epochs, dry=options.dry_run or options.cpu
            )
            threads.append(threading.Thread(target=run_scripts, args=(specs, ends)))
            continue
        recipe = {**fixed, **VARIANTS[name]}
        if options.dry_run:
            recipe |= {"method": "lora", "engine": "transformers"}
        for seed in seeds:
            folders[name, seed] = prepare(workspace, dataset_id, base, {**recipe, "seed": seed})
        group = [folders[name, seed] for seed in seeds]
        threads.append(threading.Thread(target=several, args=(group, 900.0 if options.cpu else 120.0, ends)))
    print(f"{len(folders) + len(specs)} trainings, planned in {time.monotonic() - began:.0f} s", flush=True)
    width = 1 if options.dry_run or options.cpu else len(threads)
    for start in range(0, len(threads), width):
        for thread in threads[start : start + width]:
            thread.start()
        for thread in threads[start : start + width]:
            thread.join()
    lines = [line_of(name, seed, folder) for (name, seed), folder in folders.items()]
    for spec in specs:
        seed, out = json.loads(spec.read_text())["seed"], spec.with_suffix(".out")
        line: dict[str, Any] = {"name": "script", "seed": seed, "epochs": epochs}
        if out.is_file():
            found = json.loads(out.read_text())
            found |= {key: round(found[key], 4) for key in ("before", "final")}
            lines.append({**line, "state": "succeeded", **found})
        else:
            log = spec.with_suffix(".log").read_text(errors="replace").splitlines()
            lines.append({**line, "state": "failed", "log": log[-12:]})
    lines += [{**entry, "seconds": round(time.monotonic() - began)} for entry in verdicts(lines, options.against)]
    out = options.out or (Path(os.environ["OUT"]) / "quality.jsonl" if os.environ.get("OUT") else None)
    if out is not None:
        out.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    for line in lines:
        print(json.dumps(line, ensure_ascii=False)[:900], flush=True)


def script_specs(
    scratch: Path, workspace: Any, dataset_id: str, base: Path, *, seeds: list[int], epochs: float, dry: bool
) -> list[Path]:
    """What the script gets: rows to train on as text, rows held out as tokens that the worker would measure too."""
    from tunesmith.data.store import DatasetStore
    from tunesmith.models.bases import prompt_format_for, tokenizer_for
    from tunesmith.training.examples import split_rows, tokenise

    split = split_rows(DatasetStore(workspace).rows(dataset_id), eval_fraction=0.1, seed=42)
    prompt_format = prompt_format_for(workspace, str(base), "alpaca")
    held_out = tokenise(split.eval, prompt_format, tokenizer_for(workspace, str(base)), max_length=2048)
    train = [{"instruction": row.messages[0].content, "output": row.messages[1].content} for row in split.train]
    paths = []
    for seed in seeds:
        path = scratch / f"script-{seed}.spec"
        out = path.with_suffix(".out")
        out.unlink(missing_ok=True)
        content = {"base": str(base), "seed": seed, "epochs": epochs, "dry": dry, "out": str(out), "train": train}
        path.write_text(
            json.dumps(
                {**content, "held_out": [{"input_ids": row.input_ids, "labels": row.labels} for row in held_out]}
            )
        )
        paths.append(path)
    return paths


if __name__ == "__main__":
    main()
