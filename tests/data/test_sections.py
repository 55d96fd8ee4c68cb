"""Documents become sections with true headings and true lines, and no false ones."""

from __future__ import annotations

import json
from random import Random

import pytest

from tunesmith.data import markdown, markdown_shortcut
from tunesmith.data.documents import Document, DocumentKind
from tunesmith.data.headings import in_language, needs_context, without_number
from tunesmith.data.sections import Outline, Section, outline
from tunesmith.data.text import cut_at_sentence, plain_inline, unwrap


def read(text: str, kind: DocumentKind = "markdown") -> Outline:
    return outline(Document("a", "0" * 64, kind, text))


def headings(text: str, kind: DocumentKind = "markdown") -> list[str]:
    return [section.heading for section in read(text, kind).sections]


def only(text: str, kind: DocumentKind = "markdown") -> Section:
    [section] = read(text, kind).sections
    return section


def test_a_section_knows_its_heading_parents_and_lines() -> None:
    text = (
        "# Manual\n\nIntro text.\n\n## Setup\n\n### Power\n\nUse two cells.\n\nAnd a fuse.\n\n\n## Use\n\nPress it.\n"
    )
    found = read(text)
    assert found.title == "Manual"
    assert [(s.heading, s.parents, s.first_line, s.last_line) for s in found.sections] == [
        ("Manual", (), 1, 3),
        ("Power", ("Manual", "Setup"), 7, 11),
        ("Use", ("Manual",), 14, 16),
    ]


def test_headings_inside_fences_are_no_headings() -> None:
    text = (
        "# Real\n\n````md\n# Not this\n\n```bash\n# nor this\n```\n\n## Nor this\n````\n\n"
        "- item\n\n  ```sh\n  # a comment\n  ```\n\n~~~\n# nothing\n~~~\n\n    # indented code\n\n"
        "## Also real\n\nText.\n"
    )
    assert headings(text) == ["Real", "Also real"]


def test_an_unclosed_fence_swallows_the_rest_as_the_format_says() -> None:
    assert headings("# A\n\ntext\n\n```\n# B\n\n## C\n") == ["A"]


def test_setext_headings_are_headings_but_a_rule_under_a_sentence_is_not() -> None:
    text = "Title\n=====\n\nOne.\n\nPart\n----\n\nTwo.\n\nThis is a whole sentence.\n---\n\nThree.\n"
    assert headings(text) == ["Title", "Part"]


def test_front_matter_is_no_heading_and_gives_the_title() -> None:
    found = read('---\ntitle: "The Manual"\ntags: [a]\n---\n\nText before any heading.\n\n## One\n\nMore.\n')
    assert found.title == "The Manual"
    assert [section.heading for section in found.sections] == ["", "One"]


def test_footnotes_comments_and_module_lines_leave_nothing_behind() -> None:
    text = "import Tabs from './tabs'\n\n# A\n\nFact[^1] here. <!-- hidden -->\n\n[^1]: The source.\n\n![only](a.png)\n"
    assert [block.text for block in only(text).blocks] == ["Fact here."]


def test_lists_tables_and_code_are_blocks_of_their_own() -> None:
    text = (
        "# A\n\nText:\n\n- one\n  two\n- **x**: y\n\n| a | b |\n|---|---|\n| 1 | [2](u) |\n\n```py\n"
        "x = 1\n```\n\n> quoted\n> more\n"
    )
    section = only(text)
    assert [block.kind for block in section.blocks] == ["paragraph", "list", "table", "code", "quote"]
    assert [(item.term, item.meaning) for item in section.blocks[1].items] == [("", ""), ("x", "y")]
    assert section.blocks[2].items[1].cells == ("1", "2")
    assert section.blocks[3].text == "```py\nx = 1\n```"
    assert [(block.first_line, block.last_line) for block in section.blocks] == [
        (3, 3),
        (5, 7),
        (9, 11),
        (13, 15),
        (17, 18),
    ]


def test_code_in_a_list_keeps_every_character() -> None:
    text = "# A\n\n- do *this*:\n\n  ```sh\n  echo **not bold** [x](y)\n  ```\n"
    assert only(text).blocks[0].text == "- do this:\n\n  ```sh\n  echo **not bold** [x](y)\n  ```"


def test_prose_in_a_fence_without_a_language_is_prose() -> None:
    text = "# A\n\n```\n训练之前先想清楚要教什么。\n数据比参数重要得多。\n```\n\n```\nx = load()\nprint(x)\n```\n"
    assert [block.kind for block in only(text).blocks] == ["paragraph", "code"]


def test_inline_marks_become_text() -> None:
    source = (
        "**Bold** and *it* and `co*de*`, [link](http://x/a_(b)), ![alt](i.png), <br>&amp; \\*star\\*, snake_case_name"
    )
    assert plain_inline(source) == "Bold and it and `co*de*`, link, alt,  & *star*, snake_case_name"
    assert plain_inline("see [`f`](u)[^2] and [[page|Name]] <b>x</b> for List<String>") == (
        "see `f` and Name x for List<String>"
    )


def test_references_become_text_where_they_are_defined() -> None:
    text = "# A\n\nTake [`Error`][], [the guide][g] and [g], not [x] or [y][z].\n\n[`Error`]: u\n[g]: v\n"
    assert only(text).blocks[0].text == "Take `Error`, the guide and g, not [x] or [y][z]."


def test_pointers_to_other_pages_leave_no_residue() -> None:
    text = "# A\n\n这是正文（参照文档：x），到此为止。\n参照文档：[别处](b.md)\n\nDone (see [there](b.md)).\n"
    assert "\n".join(block.text for block in only(text).blocks) == "这是正文，到此为止。\nDone."


def test_hard_wrapped_lines_are_joined_and_short_lines_are_not() -> None:
    long = "This line was broken by an editor because it had become too long for"
    assert unwrap(f"{long}\nthe window.") == f"{long} the window."
    assert unwrap("one\ntwo") == "one\ntwo"
    han = "这一行因为太长而被编辑器折断所以它有三十个以上的汉字才能算得上是满行了"
    assert unwrap(f"{han}\n下一行。") == f"{han}下一行。"


def test_text_is_cut_at_a_sentence() -> None:
    assert cut_at_sentence("One. Two is e.g. long. Three goes on", 30) == "One. Two is e.g. long."
    assert cut_at_sentence("版本 3.1 可用。请升级到最新的版本", 14) == "版本 3.1 可用。"
    assert cut_at_sentence("no end in sight", 8) == ""


PASTED = """AI 第 54 天
AI 第 54 天: 微调实战
2026-05-25
今天的目标 / Today's Goal
完成一次完整的微调流程：
准备数据，训练，导出。
知识点1：环境准备 / Environment Setup
安装依赖 / Installing Dependencies
# === Step 1: 创建环境 / Create the Environment ===
conda create -n finetune python=3.11 -y
pip install torch / --index-url https://example.com
# 打印
print(f"GPU: {a} / {b}")
要点 / Key Points
显存不足时先关闭其他程序。
思考1：数据最重要 / Data First
花在数据上的时间从不浪费。
"""


def test_headings_of_a_pasted_page_are_guessed_without_false_ones() -> None:
    assert headings(PASTED, "text") == [
        "AI 第 54 天: 微调实战",
        "今天的目标 / Today's Goal",
        "安装依赖 / Installing Dependencies",
        "要点 / Key Points",
        "思考1：数据最重要 / Data First",
    ]


def test_short_lines_in_plain_text_are_not_taken_for_headings() -> None:
    letter = (
        "Dear all,\n\nthe meeting is on Tuesday. Please bring the forms that were sent to you.\n\nRegards\n\nAnna\n"
    )
    poem = "Roses\n\nViolets\n\nSugar\n\nAnd so are you, my dear, and so is everything that I see.\n"
    assert headings(letter, "text") == [""]
    assert headings(poem, "text") in ([""], ["Roses"])


def test_plain_text_with_underlines_and_lone_titles_is_divided() -> None:
    text = (
        "Field guide\n\nThis guide says how the logger is used in the bog, from day one.\n\nWaking\n======\n\n"
        "Hold the magnet on the mark.\n\nCleaning the rings\n\n"
        "Use a soft brush and rain water, never alcohol of any kind.\n"
    )
    assert headings(text, "text") == ["Field guide", "Waking", "Cleaning the rings"]


def test_a_text_file_with_markdown_in_it_is_read_as_markdown() -> None:
    assert headings("# A\n\n## B\n\ntext\n\n## C\n\nmore\n", "text") == ["B", "C"]


def test_html_is_read_by_its_structure() -> None:
    page = (
        "<html><head><title>Guide</title><style>h1{}</style></head><body><nav><h2>Menu</h2></nav>\n<h1>Setup</h1>\n"
        "<p>Use <b>two</b>\ncells &amp; a fuse.</p>\n<ul><li>one</li><li>two</li></ul>\n"
        "<pre><code class='language-py'># no heading\nx = 1</code></pre>\n<table><tr><th>a</th><th>b</th></tr>\n"
        "<tr><td>1</td><td>2</td></tr></table><footer>Imprint</footer></body></html>"
    )
    found = read(page, "html")
    section = found.sections[0]
    assert (found.title, section.heading, section.first_line) == ("Guide", "Setup", 2)
    assert [block.text for block in section.blocks] == [
        "Use two cells & a fuse.",
        "- one\n- two",
        "```py\n# no heading\nx = 1\n```",
        "| a | b |\n|---|---|\n| 1 | 2 |",
    ]
    assert [(block.first_line, block.last_line) for block in section.blocks] == [(3, 4), (5, 5), (6, 7), (8, 9)]


def test_notebooks_give_markdown_and_code_at_lines_of_the_file() -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# Loading\n", "\n", 'Read the "log" first.']},
        {"cell_type": "code", "source": ["# not a heading\n", "x = 1"], "outputs": [{"text": ["# no"]}]},
    ]
    text = json.dumps({"cells": cells, "metadata": {"language_info": {"name": "python"}}}, indent=1)
    section = only(text, "notebook")
    assert (section.heading, [block.kind for block in section.blocks]) == ("Loading", ["paragraph", "code"])
    line = text.split("\n")[section.blocks[0].first_line - 1]
    assert json.loads(line.strip()) == 'Read the "log" first.'
    assert section.blocks[1].code == "# not a heading\nx = 1"


@pytest.mark.parametrize("text", ["{}", "[1]", "not json", '{"cells": [1, {"cell_type": "markdown"}]}', '{"cells": 3}'])
def test_what_is_no_notebook_has_no_sections(text: str) -> None:
    assert read(text, "notebook").sections == ()


def test_rst_is_read_by_its_adornments() -> None:
    text = (
        "======\nManual\n======\n\nIntro with ``code`` and :ref:`a link <x>`.\n\nSetup\n-----\n\nRun this::\n\n"
        "    # no heading\n    make\n    ====\n\n.. code-block:: python\n   :linenos:\n\n   y = 2\n\n"
        ".. note:: Keep it dry.\n\n"
        "term\n    its meaning\n\nDeep\n~~~~\n\n- one\n- two\n"
    )
    found = read(text, "rst")
    assert [(s.heading, s.parents) for s in found.sections] == [
        ("Manual", ()),
        ("Setup", ("Manual",)),
        ("Deep", ("Manual", "Setup")),
    ]
    assert found.sections[0].blocks[0].text == "Intro with `code` and a link."
    assert [block.kind for block in found.sections[1].blocks] == ["paragraph", "code", "code", "quote", "terms"]
    assert found.sections[1].blocks[2].code == "y = 2"


@pytest.mark.parametrize(
    ("heading", "zh", "en"),
    [
        ("知识点1：环境准备 / Environment Setup", "环境准备", "Environment Setup"),
        ("Day 19: Roadmap / 第十九天：路线图", "路线图", "Roadmap"),
        ("Alpaca / ShareGPT 格式 / Formats", "Alpaca / ShareGPT 格式", "Formats"),
        ("1. Install", "Install", "Install"),
        ("4.6 Bittern", "4.6 Bittern", "4.6 Bittern"),
        ("第三章 校准", "校准", "校准"),
        ("一、安装", "安装", "安装"),
        ("🚀 Start", "Start", "Start"),
        ("TCP/IP", "TCP/IP", "TCP/IP"),
    ],
)
def test_headings_are_taken_in_one_language_without_numbering(heading: str, zh: str, en: str) -> None:
    assert (in_language(heading, "zh"), in_language(heading, "en")) == (zh, en)


def test_numbers_of_an_outline_are_stripped_and_versions_are_not() -> None:
    outlined = "# 1 Setup\n\na\n\n## 1.1 Power\n\nb\n\n## 1.2 Radio\n\nc\n"
    versions = "## 4.6 Bittern\n\na\n\n## 4.5 Avocet\n\nb\n"
    assert headings(outlined) == ["Setup", "Power", "Radio"]
    assert headings(versions) == ["4.6 Bittern", "4.5 Avocet"]


def test_headings_that_say_too_little_are_known() -> None:
    assert all(map(needs_context, ["Usage", "Overview", "1.2.0", "Where it lies", "概述", "注意事项"]))
    assert not any(map(needs_context, ["Seal rings", "校准周期", "Why Rust"]))
    assert without_number("Step 3:") == "Step 3:"


def test_sentences_that_only_send_the_reader_elsewhere_are_left_out() -> None:
    text = (
        "# A\n\nIt is blue. See [the guide](g.md) for more. It floats.\n\n"
        "- It sinks.\n- 有关设置，请参见[这里](x.md)。\n- It rusts.\n\n详见：[指南](z.md)\n"
    )
    assert [block.text for block in only(text).blocks] == ["It is blue. It floats.", "- It sinks.\n- It rusts."]
    html = '<h1>A</h1><p>It is blue. See <a href="g">the guide</a> for more.</p>'
    assert [block.text for block in only(html, "html").blocks] == ["It is blue."]
    rst = "Pump\n====\n\nIt is blue. For more information see :ref:`guide`.\n"
    assert [block.text for block in only(rst, "rst").blocks] == ["It is blue."]


def test_menus_of_a_page_are_left_out() -> None:
    html = '<div class="sidebar"><ul><li>Home</li></ul></div><h1>A</h1><p>It is blue.</p>'
    assert [block.text for block in only(html, "html").blocks] == ["It is blue."]


def test_roles_show_what_their_reader_would_see() -> None:
    rst = "Pump\n====\n\nUse :class:`~a.b.Name`, :meth:`_orm.Query.all` and :ref:`the guide <guide-label>`.\n"
    assert only(rst, "rst").blocks[0].text == "Use Name, Query.all and the guide."
    assert only("# A\n\nUse {class}`~a.b.Name` here.\n").blocks[0].text == "Use `Name` here."


def test_what_stands_inside_of_rst_lists_and_terms_keeps_its_structure() -> None:
    rst = "Pump\n====\n\nterm\n  Meaning of it::\n\n    code = 1\n\n- Entry::\n\n    code = 2\n"
    terms, entries = only(rst, "rst").blocks
    assert terms.items[0].meaning == "Meaning of it:\n\n```\ncode = 1\n```"
    assert "```\n  code = 2\n  ```" in entries.text


def test_every_entry_of_a_definition_list_has_its_own_meaning() -> None:
    [block] = only("# A\n\nOne\n: The first.\n\nTwo\n: The second.\n").blocks
    assert [(item.term, item.meaning) for item in block.items] == [("One", "The first."), ("Two", "The second.")]


def test_myst_notes_are_read_and_its_machinery_is_not() -> None:
    text = "(label)=\n# A\n\n```{note}\nIt is blue.\n```\n\n```{toctree}\na\nb\n```\n"
    assert [block.text for block in only(text).blocks] == ["It is blue."]


def test_a_text_file_of_rst_is_read_as_rst() -> None:
    text = "Loggers\n=======\n\n.. note::\n   It is blue.\n"
    assert only(text, "text").blocks[0].text == "It is blue."


def test_a_document_that_is_folded_away_keeps_its_headings() -> None:
    text = "# A\n\n<details>\n<summary>Older</summary>\n\n## B\n\nIt is blue.\n\n## C\n\nIt is red.\n\n</details>\n"
    assert [section.heading for section in read(text).sections] == ["B", "C"]


@pytest.mark.parametrize("body", ["```{include} ../CHANGES.md\n```", "(label)="])
def test_a_section_of_machinery_alone_is_there_to_be_skipped(body: str) -> None:
    [section] = [section for section in read(f"# A\n\n{body}\n\n# B\n\nText.\n").sections if section.heading == "A"]
    assert all(block.linked for block in section.blocks)


PIECES = (
    *("- a\n", "  - b\n", "- c\n\n", "\n  d\n", "    - e\n", "1. f\n", "   - g\n", "2. i\n", "10. j\n", "      k\n"),
    *(
        "\n     l\n",
        "- ",
        "* ",
        "1. ",
        "2) ",
        "> ",
        "# ",
        "## ",
        "```",
        "~~~",
        "---",
        "===",
        "***",
        "a | b\n",
        "--|--\n",
    ),
    *("[x]: http://a", "[^1]: ", "[a](b)", "<div>", "</div>", "<details><summary>Q?</summary>", "</details>", "text"),
    *(
        "**bold** x",
        "`code` z",
        "1.5 GB",
        ": def",
        "~ def",
        "::: tip",
        "\n",
        "\n",
        "\n",
        "\n\n",
        "  ",
        "    ",
        "\t",
        " ",
    ),
    *("中文，说明", "[ ] todo", "-", "1.", "#no", "\nline one\nline two\n\n"),
)


def test_the_shortcut_finds_what_the_parser_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    random = Random(4)
    texts = ["".join(random.choices(PIECES, k=random.randint(2, 22))) for _ in range(1500)]
    markdown._parser.cache_clear()
    found = [markdown.read_markdown(text) for text in texts]
    markdown._parser.cache_clear()
    monkeypatch.setattr(markdown_shortcut, "take_shortcuts", lambda _parser: None)
    expected = [markdown.read_markdown(text) for text in texts]
    markdown._parser.cache_clear()
    assert found == expected
