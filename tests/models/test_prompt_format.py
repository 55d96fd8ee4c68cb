"""Messages become text, and back to what is learned."""

from __future__ import annotations

import json
import types
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.dialogues import ANSWERED, PROMPTS, Messages, talk
from tests.models.templates import EXAMPLES, Example
from tunesmith.errors import BadInput, EmptyInput, InvalidArgument, NotSupported
from tunesmith.models.prompt_format import PromptFormat


def made(example: Example) -> PromptFormat:
    return PromptFormat.from_chat_template(example.text, bos=example.bos, eos=example.eos)


def allowed(example: Example, messages: Messages) -> Messages:
    return messages if example.system else [message for message in messages if message["role"] != "system"]


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
def test_the_family_and_the_token_that_ends_an_answer_are_read_off_the_template(example: Example) -> None:
    prompt_format = made(example)
    assert (prompt_format.family, prompt_format.eos) == (example.family, example.end)
    assert prompt_format.supports_system is example.system
    assert prompt_format.trims is example.trims
    assert prompt_format.stops[0] == example.end


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
def test_what_is_learned_is_each_answer_with_its_end_and_nothing_else(example: Example) -> None:
    prompt_format = made(example)
    for dialogue in ANSWERED:
        messages = allowed(example, dialogue)
        if messages[0]["role"] == "system" and prompt_format.turns.system_in_last_user:
            continue  # see below
        segments = prompt_format.segments(messages)
        assert "".join(segment.text for segment in segments) == prompt_format.render(messages)
        answers = [message["content"] for message in messages if message["role"] == "assistant"]
        learned = [segment.text.strip() for segment in segments if segment.trained]
        assert learned == [answer.strip() + example.end for answer in answers]


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
def test_what_precedes_the_last_answer_is_exactly_the_prompt_at_use(example: Example) -> None:
    prompt_format = made(example)
    for messages in ANSWERED:
        if any(message["role"] == "system" for message in messages):
            continue
        text = prompt_format.render(messages)
        last = [segment for segment in prompt_format.segments(messages) if segment.trained][-1].text
        prompt = prompt_format.render(messages[:-1], add_generation_prompt=True)
        assert text.startswith(prompt + last)


@pytest.mark.skipif(find_spec("transformers") is None, reason="needs transformers")
@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
def test_rendering_equals_that_of_transformers_byte_for_byte(example: Example) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    prompt_format = made(example)
    special = {name: token for name, token in (("bos_token", example.bos), ("eos_token", example.eos)) if token}
    for messages in map(allowed, [example] * 40, PROMPTS + ANSWERED):
        for ask in (False, True):
            theirs, _ = render_jinja_template(
                [messages], chat_template=example.text, add_generation_prompt=ask, enable_thinking=False, **special
            )
            assert prompt_format.render(messages, add_generation_prompt=ask) == theirs[0]


def _published_templates() -> list[Path]:
    spec = find_spec("trl")
    folder = Path(spec.origin).parent / "chat_templates" if spec and spec.origin else None
    names = ("qwen2_5", "qwen3", "qwen3_instruct_2507", "llama3", "llama3_1", "llama3_2", "gemma", "gemma3", "phi3")
    return [folder / f"{name}.jinja" for name in names if (folder / f"{name}.jinja").is_file()] if folder else []


@pytest.mark.parametrize("path", _published_templates(), ids=lambda path: path.stem)
def test_published_templates_render_as_in_transformers_and_show_their_answers(path: Path) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    from tests.models.go_template import render as go_render

    template = path.read_text(encoding="utf-8")
    bos, eos = {"l": ("<|begin_of_text|>", "<|eot_id|>"), "g": ("<bos>", "<eos>"), "p": ("<s>", "<|endoftext|>")}.get(
        path.stem[0], (None, "<|im_end|>")
    )
    prompt_format = PromptFormat.from_chat_template(template, bos=bos, eos=eos)
    special = {name: token for name, token in (("bos_token", bos), ("eos_token", eos)) if token}
    go = prompt_format.ollama_template()
    for dialogue in PROMPTS + ANSWERED:
        messages = [message for message in dialogue if prompt_format.supports_system or message["role"] != "system"]
        for ask in (False, True):
            theirs, _ = render_jinja_template(
                [messages], chat_template=template, add_generation_prompt=ask, enable_thinking=False, **special
            )
            assert prompt_format.render(messages, add_generation_prompt=ask) == theirs[0]
        trimmed = [{**message, "content": message["content"].strip()} for message in messages]
        if messages[-1]["role"] == "user":
            assert go_render(go, trimmed) == prompt_format.ollama_prompt(trimmed)
        learned = [segment.text for segment in prompt_format.segments(messages) if segment.trained]
        answers = [message["content"] for message in messages if message["role"] == "assistant"]
        assert learned == [answer.strip() + prompt_format.eos for answer in answers]


texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(questions=st.lists(texts, min_size=1, max_size=3), answer=texts, name=st.sampled_from(sorted(EXAMPLES)))
def test_any_text_can_be_an_answer(questions: list[str], answer: str, name: str) -> None:
    example = EXAMPLES[name]
    messages = talk(*[turn for question in questions for turn in (question, answer)])
    segments = made(example).segments(messages)
    assert "".join(segment.text for segment in segments) == made(example).render(messages)
    learned = [segment.text for segment in segments if segment.trained]
    assert len(learned) == len(questions)
    for text in learned:
        assert text.endswith(example.end)
        assert text.removesuffix(example.end).strip() == answer.strip()


def test_a_date_in_a_template_is_fixed_when_the_format_is_made() -> None:
    prompt_format = made(EXAMPLES["llama3_dated"])
    assert f"Today Date: {datetime.now():%d %b %Y}\n" in prompt_format.render(talk("x"))
    assert "strftime_now(" not in prompt_format.template
    assert PromptFormat.from_record(prompt_format.as_record()).render(talk("x")) == prompt_format.render(talk("x"))


def test_a_template_that_computes_a_date_otherwise_is_refused() -> None:
    template = "{% set f = '%Y' %}{{ strftime_now(f) }}" + EXAMPLES["chatml"].text
    with pytest.raises(NotSupported, match="time"):
        PromptFormat.from_chat_template(template, bos=None, eos="<|im_end|>")


def test_thinking_is_off_in_training_and_in_use() -> None:
    prompt_format = made(EXAMPLES["chatml_thinking"])
    prompt = prompt_format.render(talk("x"), add_generation_prompt=True)
    assert prompt.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert prompt_format.render(talk("x", "y")) == prompt + "y<|im_end|>\n"
    again = PromptFormat.from_chat_template(prompt_format.template, bos=None, eos="<|im_end|>")
    assert again == prompt_format


def test_the_blank_that_a_template_puts_before_an_answer_is_learned() -> None:
    segments = made(EXAMPLES["mistral_system_first"]).segments(talk("q", "a", "r", "b"))
    assert [segment.text for segment in segments if segment.trained] == [" a</s>", " b</s>"]


@pytest.mark.parametrize("name", ["mistral_system_last", "mistral_trims_answers"])
def test_a_system_message_that_moves_with_the_last_question_is_learned_as_it_is_used(name: str) -> None:
    prompt_format = made(EXAMPLES[name])
    assert "Be kind." not in prompt_format.render(talk("q", "a", system="Be kind."))  # the template drops it
    for messages in (
        talk("q", "a", system="Be kind."),
        talk("q", "a", "r", "b", system=""),
        talk("q", "a", system=" "),
    ):
        prompt, answer = prompt_format.segments(messages)
        assert prompt.text == prompt_format.render(messages[:-1], add_generation_prompt=True)
        assert not prompt.trained
        assert (answer.text, answer.trained) == (f" {messages[-1]['content']}</s>", True)


def test_a_system_message_that_the_template_drops_is_refused() -> None:
    dropping = EXAMPLES["mistral_system_first"].text.replace("none %}", "none %}{% set system = none %}", 1)
    prompt_format = PromptFormat.from_chat_template(dropping, bos="<s>", eos="</s>")
    with pytest.raises(BadInput, match="system message"):
        prompt_format.segments(talk("q", "a", system="Be kind."))


def test_a_conversation_that_the_template_refuses_is_refused_with_its_words() -> None:
    prompt_format = made(EXAMPLES["mistral_no_system"])
    with pytest.raises(BadInput, match="Roles must alternate"):
        prompt_format.render(talk("q", system="Be kind."))


def test_an_answer_that_the_template_rewrites_is_refused() -> None:
    template = EXAMPLES["chatml"].text.replace("message.content", "message.content.split('</think>')[-1]")
    prompt_format = PromptFormat.from_chat_template(template, bos=None, eos="<|im_end|>")
    assert prompt_format.segments(talk("q", "a"))
    with pytest.raises(BadInput, match="alters answer 1"):
        prompt_format.segments(talk("q", "<think>well</think>a"))


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '</s>' }}{% endfor %}",
        "[INST] <<SYS>>{{ messages[0].content }}<</SYS>> [/INST]",
        "{{ '<|im_start|>' + messages[-1].content }}",
        "{% for m in messages %}<|im_start|>{{ m.content }}!{% endfor %}",
    ],
)
def test_a_template_of_no_known_family_is_refused(template: str) -> None:
    with pytest.raises(NotSupported) as caught:
        PromptFormat.from_chat_template(template, bos="<s>", eos="</s>")
    assert "alpaca" in caught.value.next


def test_a_template_that_is_not_jinja_is_refused() -> None:
    with pytest.raises(BadInput, match="not valid Jinja"):
        PromptFormat.from_chat_template("<|im_start|>{% for %}", bos=None, eos="<|im_end|>")


@pytest.mark.parametrize(
    "attack", ["messages.__class__.__mro__", "messages.append(1)", "''.__class__.__subclasses__()"]
)
def test_a_template_cannot_reach_out_of_its_sandbox(attack: str) -> None:
    with pytest.raises((BadInput, NotSupported)):
        PromptFormat.from_chat_template("<|im_start|>{{ " + attack + " }}", bos=None, eos="<|im_end|>").render(
            talk("x")
        )


def test_the_record_of_a_format_gives_the_format_back() -> None:
    for example in EXAMPLES.values():
        prompt_format = made(example)
        record = json.loads(json.dumps(prompt_format.as_record()))
        assert PromptFormat.from_record(record) == prompt_format
        assert record["sha256"] == prompt_format.sha256


def test_a_record_that_was_changed_is_refused() -> None:
    record = made(EXAMPLES["chatml"]).as_record()
    with pytest.raises(BadInput, match="SHA-256"):
        PromptFormat.from_record({**record, "eos": "</s>"})
    with pytest.raises(BadInput, match="lacks"):
        PromptFormat.from_record({"name": "chat"})


def test_two_formats_that_render_differently_have_different_digests() -> None:
    digests = {made(example).sha256 for example in EXAMPLES.values()}
    assert len(digests) == len(EXAMPLES)


def test_messages_may_be_objects_or_mappings() -> None:
    prompt_format = made(EXAMPLES["chatml"])
    objects = [types.SimpleNamespace(**message) for message in ANSWERED[1]]
    assert prompt_format.render(objects) == prompt_format.render(ANSWERED[1])


def test_what_is_no_conversation_is_refused() -> None:
    prompt_format = made(EXAMPLES["chatml"])
    with pytest.raises(EmptyInput):
        prompt_format.render([])
    with pytest.raises(InvalidArgument, match="role 'tool'"):
        prompt_format.render([{"role": "tool", "content": "x"}])
    with pytest.raises(InvalidArgument, match="NoneType"):
        prompt_format.segments([{"role": "user", "content": None}])


def test_alpaca_text_is_as_everybody_knows_it() -> None:
    alpaca = PromptFormat.alpaca("</s>", bos="<s>")
    assert alpaca.render(talk("Add.\n\n2 and 3", "5")) == (
        "<s>Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\nAdd.\n\n2 and 3\n\n### Response:\n5</s>\n\n"
    )
    assert alpaca.render(talk("Add.", system="You add."), add_generation_prompt=True) == (
        "<s>You add.\n\n### Instruction:\nAdd.\n\n### Response:\n"
    )
    assert [part.text for part in alpaca.segments(talk("q", "a", "r", "b")) if part.trained] == ["a</s>", "b</s>"]
    assert alpaca.stops == ("</s>", "### Instruction:")
    assert PromptFormat.from_record(alpaca.as_record()) == alpaca
    with pytest.raises(InvalidArgument, match="end token"):
        PromptFormat.alpaca("")
