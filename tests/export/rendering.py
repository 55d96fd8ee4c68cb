"""Prompts rendered from the text that Ollama was sent, as Ollama does: TEMPLATE in Go's language, or a GGUF's Jinja."""

from __future__ import annotations

from tests.models import go_template
from tunesmith.models import chat_templates


class Faithful:
    """A renderer for the double, which keeps what it was asked to render."""

    def __init__(self, *, bos: str | None = "<|im_start|>", eos: str = "<|im_end|>") -> None:
        self.seen: list[list[dict[str, str]]] = []
        self.templates: list[str] = []
        self.bos, self.eos = bos, eos

    def __call__(self, template: str, messages: list[dict[str, str]]) -> str:
        self.seen.append(messages)
        self.templates.append(template)
        if "{%" not in template:
            return go_template.render(template, messages)
        return chat_templates.render(template, messages, bos=self.bos, eos=self.eos, add_generation_prompt=True)
