"""The model card: what a model was made from, how, and how good its files are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.export.records import ExportResult
from tunesmith.models.records import ModelRecord


def model_card(record: ModelRecord, result: ExportResult, lineage: Sequence[Mapping[str, Any]]) -> str:
    """Markdown for the README.md beside the files.

    Args:
        record: the model, its merged weights and adapter registered.
        result: the export that was just done.
        lineage: the dataset, then those it was made from: dataset_id, name, rows, created_by, sha256.
    """
    parts = [
        _front_matter(record),
        f"# {_line(record.name)}",
        f"Made by tunesmith on {record.created_at[:10]} from `{_code(record.base_model)}` with {record.method}. "
        f"Model id `{record.model_id}`" + (f", training run `{record.run_id}`." if record.run_id else "."),
        "The licence of the base model applies to these files as well.",
        "## Files",
        _table(
            ("file", "precision", "MiB", "mean KL", "p99 KL", "same top token", "perplexity ratio", "SHA-256"),
            [
                (
                    f"`{file.path.rsplit('/', 1)[-1]}`",
                    file.quantization,
                    f"{file.bytes / 2**20:.1f}",
                    _number(file.mean_kld),
                    _number(file.p99_kld),
                    _share(file.same_top_token),
                    _number(file.perplexity_ratio),
                    f"`{file.sha256}`",
                )
                for file in result.files
            ],
        ),
        _checks(result, "trained" if record.method == "full" else "merged"),
        "## Data",
        _lineage(lineage),
        "## Training",
        _settings(record.training) or "No figures were kept.",
        "### Recipe",
        _settings(record.recipe) or "No recipe was kept.",
        "## Prompt format",
        f"`{_code(str(record.prompt_format.get('name', '')))}`, family "
        f"`{_code(str(record.prompt_format.get('family', '')))}`, SHA-256 `{result.prompt_format_sha256}`. "
        "Serve the model with this format and no other: it is the chat template inside the GGUF and the TEMPLATE of "
        "the Modelfile.",
        "## Digests",
        _table(
            ("part", "bytes", "SHA-256"),
            [(f"`{_code(file.path)}`", str(file.bytes), f"`{file.sha256}`") for file in record.files],
        ),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(record: ModelRecord) -> str:
    # JSON strings are YAML strings, whatever a name holds.
    return f"---\nbase_model: {json.dumps(record.base_model)}\ntags: [tunesmith, gguf, {record.method}]\n---"


def _checks(result: ExportResult, weights: str) -> str:
    lines = []
    if result.tokenizer_parity:
        lines.append(f"- Tokenizer: {result.tokenizer_texts} texts are split as by the original tokenizer.")
    if result.merge_kld is not None:
        lines.append(f"- Merging: mean KL divergence of {_number(result.merge_kld)} nats from base plus adapter.")
    if result.verified_on:
        on = result.verified_on
        where = {
            "eval": "held-out rows of the dataset",
            "dataset": "rows of the dataset, which has no eval split",
            "builtin": "built-in dialogues, as there is no dataset",
        }[on.split]
        lines.append(
            f"- Quality: KL divergences in nats from the {weights} 16/32-bit weights, at {on.positions:,} positions "
            f"of {on.rows:,} {where}."
        )
    return "\n".join(lines) or "These files were not verified (verify=false)."


def _lineage(lineage: Sequence[Mapping[str, Any]]) -> str:
    if not lineage:
        return "The dataset is not in the workspace any more, or none was recorded."
    columns = ("dataset_id", "name", "rows", "created_by", "sha256")
    return _table(columns, [tuple(_line(str(entry.get(column, ""))) for column in columns) for entry in lineage])


def _settings(values: Mapping[str, Any]) -> str:
    rows = [(key, _line(_shown(value))) for key, value in values.items() if value is not None]
    return _table(("setting", "value"), rows) if rows else ""


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 300 else f"{text[:300]}… ({len(text) - 300} more characters)"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _code(text: str) -> str:
    return _line(text).replace("`", "'")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
