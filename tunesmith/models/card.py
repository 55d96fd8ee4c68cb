"""The model card: what a model was made from, how, how good it is, and how to use it.

It lies as README.md beside every model, from the end of its training on, and is
written anew whenever there is more to say. It is made of the model's record alone:
base and dataset may be gone by then.
"""

from __future__ import annotations

from collections.abc import Mapping

from tunesmith.errors import UserError
from tunesmith.files import write_atomic
from tunesmith.models import catalogue
from tunesmith.models.card_files import checks, files_table
from tunesmith.models.card_text import code, code_cell, fenced, line, number, settings, table, yaml_text
from tunesmith.models.card_use import how_to_use
from tunesmith.models.licences import hub_licence
from tunesmith.models.prompt_format import PromptFormat
from tunesmith.models.records import ModelRecord
from tunesmith.models.references import EMBEDDED
from tunesmith.workspace import Workspace

CARD = "README.md"
EMBEDDED_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
_LIBRARY = {"adapter": "peft", "weights": "transformers", "merged": "transformers"}
_MADE_BY = {
    "extract_qa": "questions and answers taken from notes",
    "import_dataset": "rows of a file or a data set that was imported",
    "add_examples": "rows that were added by hand",
    "clean_dataset": "the rows below, cleaned",
    "split_dataset": "the rows below, divided into training and held-out rows",
}


def write_card(workspace: Workspace, record: ModelRecord) -> None:
    """Write README.md into the model's folder.

    Raises:
        DiskFull: it cannot be written.
    """
    write_atomic(workspace.models / record.model_id / CARD, model_card(record))


def model_card(record: ModelRecord) -> str:
    """The card as Markdown, with the metadata that the Hugging Face Hub reads."""
    parts = [
        _front_matter(record),
        f"# {line(record.name)}",
        _summary(record),
        "## Results",
        _results(record),
        "## Files",
        files_table(record),
        *checks(record),
        "## How to use it",
        how_to_use(record, base=base_id(record)),
        "## Data",
        _data(record),
        "## Training",
        _training(record),
        "### Recipe",
        settings(record.recipe) or "No recipe was kept.",
        "## Prompt format",
        _prompt_format(record),
        "## Limits",
        _limits(record),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def base_id(record: ModelRecord) -> str | None:
    """The base's id on the Hub; None for a folder of this machine, which says nothing elsewhere."""
    base = record.base_model.strip()
    if base == EMBEDDED:
        return EMBEDDED_HUB_ID
    is_id = base.count("/") == 1 and not base.startswith((".", "/", "~")) and "\\" not in base
    return base if is_id else None


def _front_matter(record: ModelRecord) -> str:
    kinds = {file.kind for file in record.files}
    base = base_id(record)
    fields: list[tuple[str, str]] = []
    if base is not None:
        fields.append(("base_model", yaml_text(base)))
        fields.append(("base_model_relation", "adapter" if record.method != "full" else "finetune"))
    library = next((name for kind, name in _LIBRARY.items() if kind in kinds), None)
    if library is not None:
        fields.append(("library_name", library))
    if record.base_licence:
        known = hub_licence(record.base_licence)
        fields.append(("license", yaml_text(known or "other")))
        if known is None:
            fields.append(("license_name", yaml_text(record.base_licence)))
    languages = sorted(record.lineage[0].get("languages", {})) if record.lineage else []
    languages = [language for language in languages if language in ("en", "zh")]  # "other" is none
    if languages:
        fields.append(("language", f"[{', '.join(languages)}]"))
    fields.append(("pipeline_tag", "text-generation"))
    tags = ["tunesmith", record.method, *(["gguf"] if kinds & {"gguf", "lora_gguf"} else [])]
    fields.append(("tags", f"[{', '.join(yaml_text(tag) for tag in tags)}]"))
    return "\n".join(["---", *(f"{name}: {value}" for name, value in fields), "---"])


def _summary(record: ModelRecord) -> str:
    known = catalogue.find(record.base_model)
    base = code(record.base_model)
    if record.base_model == EMBEDDED:
        base = f"{code(EMBEDDED)} ({code(EMBEDDED_HUB_ID)}, as its Q4\\_1 GGUF)"
    elif known is not None:
        base = f"{base} ({known.parameters_b:g} billion parameters)"
    licence = (
        f"The base's licence, {line(record.base_licence)}, applies to these files as well."
        if record.base_licence
        else "The base's licence is not known here; it applies to these files as well."
    )
    run = f", training run {code(record.run_id)}" if record.run_id else ""
    return (
        f"Made by tunesmith on {line(record.created_at[:10])} from {base} by {_method(record)}. "
        f"Model {code(record.model_id)}{run}. {licence}"
    )


def _method(record: ModelRecord) -> str:
    names = {
        "qlora": "QLoRA (an adapter on 4-bit weights)",
        "lora": "LoRA (an adapter)",
        "full": "training every weight",
    }
    aim = ", to prefer the chosen of two answers (DPO)" if record.training.get("objective") == "dpo" else ""
    return names.get(record.method, line(record.method)) + aim


def _results(record: ModelRecord) -> str:
    figures = record.training
    rows = []
    for name, title in (("eval_loss", "held-out loss, nats per token"), ("perplexity", "held-out perplexity")):
        values = figures.get(name)
        if isinstance(values, Mapping):
            rows.append((title, number(values.get("before")), number(values.get("after"))))
    if not rows:
        return "No figures of the training were kept."
    parts = [table(("", "before", "after"), rows)]
    counted = figures.get("rows")
    if isinstance(counted, Mapping):
        held_out = figures.get("eval_rows_measured", counted.get("eval"))
        parts.append(
            f"Trained on {counted.get('train')} rows; the losses are those of {held_out} rows that were held out."
        )
    diagnosis = figures.get("diagnosis")
    if isinstance(diagnosis, Mapping):
        found = [str(symptom.get("code")) for symptom in diagnosis.get("symptoms", []) if isinstance(symptom, Mapping)]
        parts.append(
            f"Diagnosis of the run: {line(str(diagnosis.get('health')))}"
            + (f" ({', '.join(code(name) for name in found)})" if found else "")
            + f". {line(str(diagnosis.get('summary', '')))}"
        )
    return "\n\n".join(parts)


def _data(record: ModelRecord) -> str:
    if not record.lineage:
        return "The dataset is not in the workspace any more, or none was recorded."
    rows = []
    for entry in record.lineage:
        sources = entry.get("sources") or {}
        told = _MADE_BY.get(str(entry.get("created_by")), str(entry.get("created_by", "")))
        if sources.get("files"):
            told += f"; {sources['spans']} rows name their lines in {sources['files']} files"
        rows.append(
            (
                code_cell(str(entry.get("dataset_id", ""))),
                line(str(entry.get("name", ""))),
                f"{entry.get('rows', '')}",
                line(told),
                code_cell(str(entry.get("sha256", ""))),
            )
        )
    return (
        table(("dataset", "name", "rows", "what", "SHA-256 of its rows"), rows)
        + "\n\nThe first one was trained on; each was made from those below it. Under which terms the notes and data "
        "may be used was not recorded: whoever passes this model on must know."
    )


def _training(record: ModelRecord) -> str:
    shown = {"results", "eval_loss", "perplexity", "diagnosis", "rows"}
    return settings({name: value for name, value in record.training.items() if name not in shown and value != []})


def _prompt_format(record: ModelRecord) -> str:
    known = record.prompt_format
    stops = ", ".join(code(str(stop)) for stop in known.get("stops", []))
    said = (
        f"{code(str(known.get('name', '')))}, family {code(str(known.get('family', '')))}, SHA-256 "
        f"{code(str(known.get('sha256', '')))}. Answers end at {stops}. Serve the model with this format and no other: "
        "it is the chat template inside the GGUF and the TEMPLATE of the Modelfile. A prompt looks like this:"
    )
    example = [{"role": "user", "content": "QUESTION"}]
    try:
        text = PromptFormat.from_record(known).render(example, add_generation_prompt=True)
    except UserError:  # a record that was damaged is told where it is used
        return said.removesuffix(" A prompt looks like this:")
    return f"{said}\n\n{fenced(text, 'text')}"


def _limits(record: ModelRecord) -> str:
    languages = ", ".join(sorted(record.lineage[0].get("languages", {}))) if record.lineage else ""
    longest = record.recipe.get("max_length")
    said = [
        "It was made from notes, and states wrong things with the same confidence as right ones. Check what matters.",
        "The held-out loss says how well it predicts answers like those it was trained on, not whether they are true. "
        "What it does outside its subject was not measured.",
    ]
    if languages:
        said.append(f"Languages of its rows: {line(languages)}.")
    if longest:
        said.append(f"Nothing longer than {longest:,} tokens, prompt and answer together, was seen in training.")
    return "\n".join(f"- {text}" for text in said)
