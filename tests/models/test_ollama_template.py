"""Ollama's template says what the model's own template says."""

from __future__ import annotations

import pytest

from tests.models.dialogues import PROMPTS, talk
from tests.models.go_template import render as go_render
from tests.models.templates import EXAMPLES, Example
from tunesmith.errors import NotSupported
from tunesmith.export.modelfile import unreadable
from tunesmith.models.prompt_format import PromptFormat
from tunesmith.models.trimming import BLANKS


def made(example: Example) -> PromptFormat:
    return PromptFormat.from_chat_template(example.text, bos=example.bos, eos=example.eos)


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
def test_ollama_renders_every_dialogue_as_the_model_was_trained(example: Example) -> None:
    prompt_format = made(example)
    template = prompt_format.ollama_template()
    for dialogue in PROMPTS:
        messages = [message for message in dialogue if example.system or message["role"] != "system"]
        assert go_render(template, messages) == prompt_format.ollama_prompt(messages)


def test_ollama_renders_alpaca_text() -> None:
    alpaca = PromptFormat.alpaca("<|im_end|>")
    for messages in PROMPTS:
        assert go_render(alpaca.ollama_template(), messages) == alpaca.ollama_prompt(messages)


@pytest.mark.parametrize("name", ["llama3_dated", "gemma", "mistral_trims_answers"])
def test_ollama_takes_the_blanks_off_messages_that_the_model_was_trained_without(name: str) -> None:
    prompt_format = made(EXAMPLES[name])
    template = prompt_format.ollama_template()
    for blank in BLANKS:
        messages = talk(
            f"{blank}q{blank}", f"{blank * 2}an{blank}swer{blank}", f"\n{blank} r", system=f"{blank}s{blank}"
        )
        assert go_render(template, messages) == prompt_format.ollama_prompt(messages)
    assert go_render(template, talk(" " * 500 + "q" + "\n" * 500)) == prompt_format.ollama_prompt(
        talk(" " * 500 + "q" + "\n" * 500)
    )


def test_only_what_the_model_takes_off_is_taken_off() -> None:
    text = EXAMPLES["chatml"].text.replace("message.content", "message.content.lstrip('\n').rstrip(' ')")
    prompt_format = PromptFormat.from_chat_template(text, bos=None, eos="<|im_end|>")
    messages = talk("\n\n \tq\n \n  ", "\ta ", " r\t")
    assert "user\n \tq\n \n<|im_end|>" in prompt_format.ollama_prompt(messages)
    assert go_render(prompt_format.ollama_template(), messages) == prompt_format.ollama_prompt(messages)


def test_the_template_is_plain_ascii_where_a_modelfile_would_drop_a_character() -> None:
    text = EXAMPLES["gemma"].text.replace("'<end_of_turn>\n'", "'<end_of_turn>\u3000\n'")
    template = PromptFormat.from_chat_template(text, bos="<bos>", eos="<eos>").ollama_template()
    assert not unreadable(template)
    assert go_render(template, talk("q", "a", "r")).count("<end_of_turn>\u3000\n") == 3


def test_the_first_token_is_left_to_the_runtime_which_adds_it() -> None:
    prompt_format = made(EXAMPLES["llama3_dated"])
    text = prompt_format.render(talk("x"), add_generation_prompt=True)
    assert text == "<|begin_of_text|>" + prompt_format.ollama_prompt(talk("x"))
    assert "<|begin_of_text|>" not in prompt_format.ollama_template()


def test_a_first_token_that_opens_a_turn_is_kept() -> None:
    prompt_format = PromptFormat.from_chat_template(EXAMPLES["chatml"].text, bos="<|im_start|>", eos="<|im_end|>")
    assert prompt_format.ollama_prompt(talk("x")).startswith("<|im_start|>user\n")


def test_braces_in_a_template_reach_ollama_as_text() -> None:
    text = EXAMPLES["chatml"].text.replace(
        "'<|im_start|>' + message.role", "'<|im_start|>' + message.role + ' {{\"x\"}} '"
    )
    prompt_format = PromptFormat.from_chat_template(text, bos=None, eos="<|im_end|>")
    assert go_render(prompt_format.ollama_template(), talk("q", "a", "r")) == prompt_format.ollama_prompt(
        talk("q", "a", "r")
    )


def test_a_template_that_ollama_cannot_say_is_refused_for_ollama_only() -> None:
    numbered = EXAMPLES["chatml"].text.replace("message.role +", "message.role + loop.index | string +")
    prompt_format = PromptFormat.from_chat_template(numbered, bos=None, eos="<|im_end|>")
    assert prompt_format.segments(talk("q", "a"))
    with pytest.raises(NotSupported, match="Ollama"):
        prompt_format.ollama_template()
