"""Proof that Ollama makes the prompts that the model was trained on, byte by byte."""

from __future__ import annotations

from collections.abc import Callable

from tunesmith.errors import CheckFailed, NotSupported
from tunesmith.export.dialogues import PROMPTS, Dialogue
from tunesmith.export.records import FirstDifference, RenderParity
from tunesmith.machine.ollama import OllamaClient
from tunesmith.models.prompt_format import PromptFormat

CONTEXT_BYTES = 24  # shown on each side of the first difference


def check_rendering(
    client: OllamaClient,
    name: str,
    prompt_format: PromptFormat,
    *,
    system: str | None = None,
    check: Callable[[], None] = lambda: None,
) -> RenderParity:
    """Hold Ollama's rendering of dialogues against the prompt format's.

    Raises:
        CheckFailed: shows the first differing byte.
    """
    for number, dialogue in enumerate(PROMPTS, start=1):
        check()
        messages = _allowed(prompt_format, dialogue)
        try:
            got = client.render(name, messages)
        except NotSupported as error:
            return RenderParity(dialogues=0, identical=0, first_difference=None, reason=error.message)
        # Ollama puts the model's own system prompt in front unless the dialogue brings one, be it empty.
        if system and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": system})
        expected = prompt_format.ollama_prompt(messages)
        if got != expected:
            raise _differs(_first_difference(number, expected, got))
    return RenderParity(dialogues=len(PROMPTS), identical=len(PROMPTS), first_difference=None)


def _allowed(prompt_format: PromptFormat, dialogue: Dialogue) -> Dialogue:
    """The dialogue, without its system turn where the model's template has no place for one (Gemma's)."""
    return [message for message in dialogue if message["role"] != "system" or prompt_format.supports_system]


def _first_difference(number: int, expected: str, got: str) -> FirstDifference:
    ours, theirs = expected.encode(), got.encode()
    same = 0
    while same < min(len(ours), len(theirs)) and ours[same] == theirs[same]:
        same += 1
    start, end = max(0, same - CONTEXT_BYTES), same + CONTEXT_BYTES
    return FirstDifference(
        dialogue=number,
        byte=same,
        expected=ours[start:end].decode("utf-8", "replace"),
        got=theirs[start:end].decode("utf-8", "replace"),
    )


def _differs(first: FirstDifference) -> CheckFailed:
    return CheckFailed(
        f"Ollama renders dialogue {first.dialogue} of {len(PROMPTS)} differently from the format the model was trained "
        f"on ({first.dialogue - 1} before it are identical). First differing byte: {first.byte}. "
        f"Expected {first.expected!r}, got {first.got!r}. The model was not registered.",
        next="Update Ollama and call again. If it differs still, serve the GGUF with llama-server, which uses the chat "
        "template inside the file.",
    )
