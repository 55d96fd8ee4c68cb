"""The card beside every model: valid for the Hub, whatever names hold, and made of the model's record alone."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from tunesmith.models.card import CARD, model_card, write_card
from tunesmith.models.licences import licence_of
from tunesmith.models.prompt_format import PromptFormat
from tunesmith.models.records import ModelFile, ModelRecord
from tunesmith.models.store import ModelStore
from tunesmith.workspace import Workspace

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
FORMAT = PromptFormat.from_chat_template(CHATML, bos=None, eos="<|im_end|>")
HOSTILE = [
    'a: "b" # c\\',
    "---\nlicense: mit\n---",
    "notes | </table><script>alert(1)</script> `code` [x](javascript:1) *b*",
    "校准 🙂 \x85\u2028\x7f\u200b\ufeff",
    "{{ model }} !!python/object %TAG & * ? - @",
    "# heading",
]
TRAINING: dict[str, Any] = {
    "steps": 40,
    "eval_loss": {"before": 2.5, "after": 1.25, "best": 1.25},
    "perplexity": {"before": 12.18, "after": 3.49},
    "rows": {"train": 90, "eval": 10, "cut": 0},
    "eval_rows_measured": 10,
    "diagnosis": {"health": "attention", "summary": "The loss fell by half.", "symptoms": [{"code": "plateau"}]},
}
LINEAGE = [
    {"dataset_id": "ds_aaaaaaaaaaaa", "name": "notes", "rows": 100, "created_by": "split_dataset", "sha256": "a" * 64,
     "languages": {"en": 60, "zh": 30, "other": 10}, "sources": {"files": 0, "spans": 0}},
    {"dataset_id": "ds_bbbbbbbbbbbb", "name": "notes", "rows": 100, "created_by": "extract_qa", "sha256": "b" * 64,
     "languages": {"en": 70, "zh": 30}, "sources": {"files": 3, "spans": 100}},
]  # fmt: skip


def file(kind: Any, path: str, quantization: str | None = None, **facts: Any) -> ModelFile:
    return ModelFile(
        kind=kind, quantization=quantization, path=path, bytes=2**20, sha256=f"{hash(path):064x}"[-64:], facts=facts
    )


def record(**changes: Any) -> ModelRecord:
    return ModelRecord(
        **{
            "model_id": "mdl_aaaaaaaaaaaa",
            "name": "My notes",
            "run_id": "run_aaaaaaaaaaaa",
            "dataset_id": "ds_aaaaaaaaaaaa",
            "base_model": "Qwen/Qwen2.5-0.5B-Instruct",
            "method": "qlora",
            "prompt_format": FORMAT.as_record(),
            "recipe": {"rank": 16, "max_length": 1024, "target_modules": ["q_proj", "v_proj"]},
            "created_at": "2026-11-24T18:00:00.000+00:00",
            "training": TRAINING,
            "lineage": LINEAGE,
            "base_licence": "Apache-2.0",
            "files": [file("adapter", "adapter")],
            **changes,
        }
    )


def metadata(card: str) -> dict[str, Any]:
    """As the Hub's own library reads it."""
    return ModelCard(card, ignore_metadata_errors=False).data.to_dict()


def test_the_metadata_is_what_the_hub_reads() -> None:
    assert metadata(model_card(record())) == {
        "base_model": "Qwen/Qwen2.5-0.5B-Instruct",
        "base_model_relation": "adapter",
        "library_name": "peft",
        "license": "apache-2.0",
        "language": ["en", "zh"],
        "pipeline_tag": "text-generation",
        "tags": ["tunesmith", "qlora"],
    }


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_breaks_metadata_or_page(name: str) -> None:
    lineage = [{**LINEAGE[0], "name": name, "created_by": name, "dataset_id": name}]
    card = model_card(
        record(name=name, base_licence=name, lineage=lineage, recipe={name: name}, training={name: [name]})
    )
    found = metadata(card)
    assert found["license"] == "other"
    assert found["license_name"] == name
    assert found["base_model"] == "Qwen/Qwen2.5-0.5B-Instruct"
    body = ModelCard(card).content.partition("\n---\n")[2]
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(body)
    assert "<script" not in html
    assert "javascript:" not in re.sub(r">[^<]*<", "><", html)
    assert "<em>b</em>" not in html
    # Every row of every table has as many cells as its head.
    for table in re.findall(r"<table>.*?</table>", html, re.DOTALL):
        counts = {len(re.findall(r"<t[dh][ >]", row)) for row in table.split("</tr>")[:-1]}
        assert len(counts) == 1
    assert html.count("<h1>") == 1
    assert html.count("<h2>") == 7


def test_a_base_that_is_a_folder_is_named_to_people_and_not_to_the_hub() -> None:
    card = model_card(
        record(base_model="/home/me/my base", base_licence=None, files=[file("weights", "weights")], method="full")
    )
    assert "base_model" not in metadata(card)
    assert "license" not in metadata(card)
    assert metadata(card)["library_name"] == "transformers"
    assert "/home/me/my base" in card
    assert "licence is not known" in card
    assert "PeftModel" not in card


def test_results_data_recipe_and_prompt_are_told() -> None:
    card = model_card(record())
    for expected in (
        "| held-out loss, nats per token | 2.5 | 1.25 |", "| held-out perplexity | 12.18 | 3.49 |",
        "90 rows", "10 rows",
        "attention", "`plateau`", "ds_bbbbbbbbbbbb", "taken from notes; 100 rows name their lines in 3 files",
        "`rank`", "q\\_proj", FORMAT.sha256, "`<|im_end|>`", "not exported as GGUF yet", "Apache-2.0",
        "<|im_start|>user\nQUESTION<|im_end|>\n<|im_start|>assistant\n", "PeftModel.from_pretrained(model, 'adapter')",
        "1,024 tokens",
    ):  # fmt: skip
        assert expected in card, expected


def test_every_export_so_far_is_listed_with_what_was_measured_then() -> None:
    on = {"split": "eval", "rows": 10, "tokens": 900, "positions": 450}
    facts = {"mean_kld": 0.01, "p99_kld": 0.2, "same_top_token": 0.975, "perplexity_ratio": 1.01, "verified_on": on}
    stop = {"quantization": "q4_k_m", "asked": 100, "stopped": 99, "rate": 0.99, "limit_tokens": 200}
    matrix = {"used": True, "kld_with": 0.01, "kld_without": 0.02, "tokens": 5000}
    files = [
        file("adapter", "adapter"),
        file(
            "gguf",
            "a-q4_k_m.gguf",
            "q4_k_m",
            **facts,
            merge_kld=1e-6,
            stop_rate=stop,
            importance=matrix,
            trained_kld=0.03,
        ),
        file("gguf", "a-q8_0.gguf", "q8_0", **{**facts, "mean_kld": 0.001}, merge_kld=1e-6, tokenizer_texts=60),
        file("gguf", "a-f16.gguf", "f16"),
        file("lora_gguf", "a-lora-f16.gguf", "f16"),
        file("modelfile", "Modelfile"),
    ]
    card = model_card(record(files=files))
    for expected in (
        "| `a-q4_k_m.gguf` | `q4_k_m` | 1.0 MiB | 0.01 | 0.2 | 97.5% | 1.01 |",
        "| `a-q8_0.gguf` | `q8_0` | 1.0 MiB | 0.001 |",
        "| `a-f16.gguf` | `f16` | 1.0 MiB | – |", "99 of 100 answers", "Not verified: `a-f16.gguf`.",
        "`a-lora-f16.gguf`",
        "60 texts", "5,000 tokens", "0.03 nats from what was trained", "ollama create my-model -f Modelfile",
        "tunesmith serve-model mdl_aaaaaaaaaaaa", "llama-server -m a-q4_k_m.gguf", "--lora a-lora-f16.gguf",
    ):  # fmt: skip
        assert expected in card, expected
    assert card.count("1e-06 nats from base plus adapter") == 1
    assert "gguf" in metadata(card)["tags"]


def test_the_python_of_the_card_asks_with_the_trained_prompt() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", model_card(record()), re.DOTALL)
    compile(code, "card", "exec")
    prompt = re.search(r"prompt = ('.*?')\.replace", code)
    assert prompt is not None
    assert eval(prompt[1]) == FORMAT.render([{"role": "user", "content": "QUESTION"}], add_generation_prompt=True)


def test_it_needs_neither_base_nor_dataset(tmp_path: Path) -> None:
    base = tmp_path / "allowed" / "base"
    base.mkdir(parents=True)
    (base / "README.md").write_text("---\nlicense: other\nlicense_name: my-terms\n---\n# Base\n", encoding="utf-8")
    workspace = Workspace(tmp_path / "ws", [base.parent])
    licence = licence_of(workspace, str(base))
    assert licence == "my-terms"
    assert licence_of(workspace, "Qwen/Qwen2.5-3B-Instruct") == "Qwen research licence"
    assert licence_of(workspace, "embedded") == "Apache-2.0"
    store = ModelStore(workspace)
    made = store.new(
        name="x", base_model=str(base), method="lora", prompt_format=FORMAT.as_record(), recipe={},
        lineage=LINEAGE, base_licence=licence,
    )  # fmt: skip
    shutil.rmtree(base)
    assert licence_of(workspace, str(base)) is None
    write_card(workspace, store.update(made.model_id, base_licence=None))
    card = (store.folder(made.model_id) / CARD).read_text(encoding="utf-8")
    assert metadata(card)["license_name"] == "my-terms"
    assert "ds_bbbbbbbbbbbb" in card
