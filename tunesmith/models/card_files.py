"""The part of a model card about its files: what there is, how good it is, and how that was found out."""

from __future__ import annotations

from collections.abc import Mapping

from tunesmith.models.card_text import code, code_cell, number, share, size, table
from tunesmith.models.records import ModelFile, ModelRecord


def files_table(record: ModelRecord) -> str:
    exported = [file for file in record.files if file.kind == "gguf"]
    others = [file for file in record.files if file.kind not in ("gguf", "modelfile")]
    tables = [
        table(
            ("GGUF", "precision", "size", "mean KL", "p99 KL", "same top token", "perplexity ratio", "SHA-256"),
            [
                (
                    code_cell(file.path),
                    code_cell(file.quantization or ""),
                    size(file.bytes),
                    number(file.facts.get("mean_kld")),
                    number(file.facts.get("p99_kld")),
                    share(file.facts.get("same_top_token")),
                    number(file.facts.get("perplexity_ratio")),
                    code_cell(file.sha256),
                )
                for file in exported
            ],
        ),
        table(
            ("part", "what", "size", "SHA-256"),
            [(code_cell(file.path), _what(file), size(file.bytes), code_cell(file.sha256)) for file in others],
        ),
    ]
    if any(file.path.count("/") == 0 and file.kind in ("adapter", "weights", "merged") for file in others):
        tables.append("The SHA-256 of a folder is that of its sorted list of digests and names.")
    return "\n\n".join(part for part in tables if part) or "There are no files yet."


def _what(file: ModelFile) -> str:
    names = {
        "adapter": "LoRA adapter, safetensors",
        "weights": "trained weights, safetensors",
        "merged": "base and adapter merged, safetensors",
        "lora_gguf": f"LoRA adapter as GGUF, {file.quantization}",
    }
    return names.get(file.kind, file.kind)


def checks(record: ModelRecord) -> list[str]:
    """What was measured when the files were made, each fact once."""
    exported = [file for file in record.files if file.kind in ("gguf", "lora_gguf")]
    if not exported:
        return []
    lines: dict[str, None] = {}
    for file in exported:
        for said in _facts(file, "trained" if record.method == "full" else "merged"):
            lines[f"- {said}"] = None
    unproven = [code(file.path) for file in exported if file.kind == "gguf" and file.facts.get("mean_kld") is None]
    if unproven:
        lines[f"- Not verified: {', '.join(unproven)}."] = None
    return ["### How the files were checked", "\n".join(lines)] if lines else []


def _facts(file: ModelFile, weights: str) -> list[str]:
    facts, said = file.facts, []
    if facts.get("tokenizer_texts"):
        said.append(f"Tokenizer: {facts['tokenizer_texts']} texts are split as by the original tokenizer.")
    if facts.get("merge_kld") is not None:
        said.append(f"Merging: mean KL divergence of {number(facts['merge_kld'])} nats from base plus adapter.")
    if facts.get("trained_kld") is not None:
        said.append(
            f"16-bit base: mean KL divergence of {number(facts['trained_kld'])} nats from what was trained, the 4-bit "
            "base plus adapter."
        )
    on = facts.get("verified_on")
    if isinstance(on, Mapping):
        where = {
            "eval": "held-out rows of the dataset",
            "dataset": "rows of the dataset, which has no eval split",
            "builtin": "built-in dialogues, as there is no dataset",
        }[on["split"]]
        said.append(
            f"Quality: KL divergences in nats from the {weights} 16/32-bit weights, at {on['positions']:,} positions "
            f"of {on['rows']:,} {where}."
        )
    kept = facts.get("adapter_kept")
    if isinstance(kept, float):
        said.append(f"Adapter: {code(file.quantization or '')} holds {kept:.0%} of what it changed in the weights.")
    trial = facts.get("importance")
    if isinstance(trial, Mapping):
        used = "used" if trial["used"] else "not used, as it did not help"
        said.append(
            f"Importance matrix of {code(file.quantization or '')}, from {trial['tokens']:,} tokens of training rows: "
            f"{used} (mean KL {number(trial['kld_with'])} with it, {number(trial['kld_without'])} without)."
        )
    stop = facts.get("stop_rate")
    if isinstance(stop, Mapping):
        said.append(
            f"Stopping: {stop['stopped']} of {stop['asked']} answers of {code(stop['quantization'])} ended by "
            "themselves."
        )
    return said
