from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.export.ollama_modelfile import read
from tunesmith.errors import InvalidArgument
from tunesmith.export.modelfile import default_parameters, modelfile, unreadable

TEMPLATE = (
    '{{ range .Messages }}{{ if eq .Role "user" }}<|im_start|>user\n{{ .Content }}<|im_end|>\n{{ end }}{{ end }}\n'
)


def make(system: str | None = None, **changes: object) -> str:
    arguments = {"template": TEMPLATE, "stops": ["<|im_end|>"], "parameters": {"temperature": 0.7}, **changes}
    return modelfile("notes-q4_k_m.gguf", system=system, **arguments)  # type: ignore[arg-type]


def test_a_modelfile_reads_back_as_what_it_was_made_from() -> None:
    text = make(
        "Be brief.",
        stops=["<|im_end|>", "\n### Instruction:"],
        parameters={"temperature": 0.7, "top_k": 40, "use_mmap": True},
        comment="one\nline",
    )
    assert read(text) == [
        ("FROM", "./notes-q4_k_m.gguf"),
        ("TEMPLATE", TEMPLATE),
        ("SYSTEM", "Be brief."),
        ("PARAMETER temperature", "0.7"),
        ("PARAMETER top_k", "40"),
        ("PARAMETER use_mmap", "true"),
        ("PARAMETER stop", "<|im_end|>"),
        ("PARAMETER stop", "\n### Instruction:"),
    ]
    assert text.startswith("# one line\n")


@pytest.mark.parametrize(
    "system",
    [
        "Be brief.\nFROM /etc/passwd\nPARAMETER stop x",
        'She said """stop""" and left.',
        '"',
        '""',
        'ends in a quote"',
        'ends in three"""',
        '"""starts with three',
        "# not a comment\r\nSYSTEM no",
        "  blanks around  \n\n",
        "\ttabs\t",
        "你是助手。\n请用中文回答。",
    ],
)
def test_a_system_prompt_cannot_break_out(system: str) -> None:
    commands = read(make(system))
    assert ("SYSTEM", system) in commands
    assert [name for name, _ in commands] == ["FROM", "TEMPLATE", "SYSTEM", "PARAMETER temperature", "PARAMETER stop"]


@pytest.mark.parametrize("system", ['one"""\nFROM evil', 'a\n""" \t\r\nFROM evil', 'x\n""\u200b"\nFROM evil'])
def test_what_a_modelfile_cannot_hold_is_refused_not_bent(system: str) -> None:
    with pytest.raises(InvalidArgument, match="three double quotes"):
        make(system)


@settings(deadline=None, max_examples=300)
@given(st.text(alphabet=st.sampled_from('"\n\r\t a#\u200bFROM'), max_size=14))
def test_any_system_prompt_is_read_back_or_refused(system: str) -> None:
    try:
        text = make(system)
    except InvalidArgument:
        return
    expected = "".join(character for character in system if character not in unreadable(system))
    assert read(text)[2:-2] == ([("SYSTEM", expected)] if system else [])


def test_characters_that_ollama_drops_are_named_in_the_file() -> None:
    assert "U+200D" in make("👩\u200d💻").splitlines()[0]


def test_the_context_is_the_trained_length_within_reason() -> None:
    assert default_parameters(2048, 8192) == {"temperature": 0.7, "top_p": 0.9, "top_k": 40, "num_ctx": 2048}
    assert default_parameters(64, 8192)["num_ctx"] == 512
    assert default_parameters(16384, 8192)["num_ctx"] == 8192
    assert default_parameters(None, None)["num_ctx"] == 2048


@pytest.mark.parametrize("name", ["../x.gguf", "a b.gguf", "x.gguf\nSYSTEM y", ""])
def test_a_file_that_is_not_a_plain_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument):
        modelfile(name, template="", stops=[], parameters={})
