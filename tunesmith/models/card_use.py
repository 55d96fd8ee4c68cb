"""The part of a model card that says how to use the model, with what there is of it."""

from __future__ import annotations

from tunesmith.errors import UserError
from tunesmith.models.card_text import code, fenced
from tunesmith.models.prompt_format import PromptFormat
from tunesmith.models.records import ModelRecord
from tunesmith.models.servable import choose_gguf

_TRANSFORMERS = """\
from transformers import AutoModelForCausalLM, AutoTokenizer
{imports}
tokenizer = AutoTokenizer.from_pretrained({folder!r})
model = AutoModelForCausalLM.from_pretrained({base!r}, dtype="auto"){load}
prompt = {prompt!r}.replace("QUESTION", "What is ...?")
ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
answer = model.generate(**ids, max_new_tokens=256, stop_strings={stops!r}, tokenizer=tokenizer)
print(tokenizer.decode(answer[0, ids["input_ids"].shape[1]:], skip_special_tokens=True))"""


def how_to_use(record: ModelRecord, *, base: str | None) -> str:
    """Markdown: a way for each kind of file.

    Args:
        base: the base's id on the Hub; None for a folder.
    """
    parts = []
    gguf = choose_gguf(record.files)
    recipes = [f"ollama create my-model -f {file.path}" for file in record.files if file.kind == "modelfile"]
    if recipes:
        either = "With Ollama, in this folder" + (", one of:" if len(recipes) > 1 else ":")
        parts.append(f"{either}\n\n{fenced(chr(10).join(recipes), 'sh')}")
    if gguf is not None:
        served = f"tunesmith serve-model {record.model_id}"
        parts.append(f"As an OpenAI-compatible endpoint with the trained prompt:\n\n{fenced(served, 'sh')}")
        own = f"llama-server -m {gguf.path} --jinja"
        parts.append(f"With a llama.cpp of your own, which reads the same prompt from the file:\n\n{fenced(own, 'sh')}")
    else:
        parts.append(
            f"It is not exported as GGUF yet: {code('export_gguf')} makes files for Ollama and llama.cpp. Until then "
            f"{code('ask_model')} asks it through transformers."
        )
    lora = record.file("lora_gguf")
    if lora is not None:
        on_base = f"llama-server -m GGUF_OF_THE_BASE --lora {lora.path} --jinja"
        parts.append(f"The adapter alone, on a GGUF of the base:\n\n{fenced(on_base, 'sh')}")
    snippet = _transformers(record, base)
    if snippet:
        parts.append(snippet)
    return "\n\n".join(parts)


def _transformers(record: ModelRecord, base: str | None) -> str:
    whole, adapter = record.file("weights") or record.file("merged"), record.file("adapter")
    part = whole or adapter
    if part is None:
        return ""
    try:
        prompt_format = PromptFormat.from_record(record.prompt_format)
        prompt = prompt_format.render([{"role": "user", "content": "QUESTION"}], add_generation_prompt=True)
    except UserError:  # a record that was damaged is told where it is used
        return ""
    imports, load = "", ""
    if whole is None:
        imports = "from peft import PeftModel\n"
        load = f"\nmodel = PeftModel.from_pretrained(model, {part.path!r})"
    text = _TRANSFORMERS.format(
        imports=imports,
        folder=part.path,
        base=part.path if whole else base or "FOLDER_OF_THE_BASE",
        load=load,
        prompt=prompt,
        stops=list(prompt_format.stops),
    )
    libraries = "transformers" if whole else "transformers and PEFT"
    return f"With {libraries}, in this folder, in the trained prompt:\n\n{fenced(text, 'python')}"
