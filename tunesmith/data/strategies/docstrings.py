"""Code that explains itself: docstrings, documentation comments, and commands under the comment that says what for."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from tunesmith.data.candidates import MIN_ANSWER_CHARS, Candidate, View
from tunesmith.data.code_lines import is_code_line
from tunesmith.data.language import HAN, Language
from tunesmith.data.questions import in_context, pick
from tunesmith.data.sections import Block
from tunesmith.data.text import cut_at_sentence

PRIORITY = 40

_PYTHON = frozenset(("", "python", "py", "python3", "ipython", "ipython3", "pycon"))
_SHELL = frozenset(("bash", "sh", "shell", "zsh", "console", "powershell", "ps1", "shell-session"))
_C_LIKE_NAMES = "js javascript jsx ts typescript tsx java c cpp c++ cs csharp go rust rs kotlin kt swift php scala dart"
_C_LIKE = frozenset(_C_LIKE_NAMES.split())
_LOOSE_DOCSTRING = re.compile(
    r"(?:^[ \t]*(?:async\s+)?(?P<what>def|class)\s+(?P<name>\w+)[^\n]*:[^\n]*\n)?"
    r"^[ \t]*(?P<quote>\"\"\"|''')(?P<doc>(?:(?!(?P=quote)).){1,4000})(?P=quote)",
    re.MULTILINE | re.DOTALL,
)
_DOC_COMMENT = re.compile(
    r"(?P<doc>/\*\*(?:(?!\*/).){10,4000}?\*/|(?:^[ \t]*///[ \t][^\n]*\n)+"
    r"|(?:^//[ \t][A-Z]\w+[ \t][^\n]*\n)(?:^//[ \t][^\n]*\n)*(?=func|type|var|const))\s*"
    r"(?:@\w+[^\n]*\n\s*)*"
    r"(?:(?:export|default|public|private|protected|static|async|pub|final|override|abstract|unsafe|const)\s+)*"
    r"(?P<what>function|class|interface|type|enum|struct|trait|fn|func|let|var|(?:[\w<>\[\]]+)(?=\s+\w+\s*\())?"
    r"\s*(?:\([^()\n]*\)\s*)?(?P<name>[A-Za-z_]\w*)",
    re.MULTILINE | re.DOTALL,
)
_COMMENT_MARK = re.compile(r"^[ \t]*(?:/\*\*?|\*/|\*|///?)[ \t]?|\*/[ \t]*$", re.MULTILINE)
_SHELL_COMMENT = re.compile(
    r"#+\s*(?:[=\-*#]{2,}\s*)?(?:(?:Step|步骤)\s*\d+\s*[:：.]\s*|\d+[.)、]\s*)?(?P<text>.*?)(?:\s*[=\-*#]{2,})?\s*$",
    re.I,
)
_FILE_NAME = re.compile(r"[\w\-./]+\.\w{1,5}")
_HAN = re.compile(f"[{HAN}]")

_ZH = ("`{n}` 是做什么的？", "`{n}` 有什么作用？", "请解释 `{n}`。", "代码里的 `{n}` 做了什么？")
_EN = ("What does `{n}` do?", "What is `{n}` for?", "Explain `{n}`.", "Describe what `{n}` does.")
_ZH_MODULE = ("「{h}」里的代码是做什么的？", "「{h}」这段代码有什么用？", "请说明「{h}」中的脚本。")
_EN_MODULE = (
    'What is the code under "{h}" for?',
    'What does the code in "{h}" do?',
    'Describe the script under "{h}".',
)
_ZH_COMMAND = ("用什么命令可以做到：{t}？", "「{t}」的命令怎么写？", "想要「{t}」，该运行什么？")
_EN_COMMAND = ('Which commands are for "{t}"?', 'What do I run for "{t}"?', 'Show the commands for "{t}".')


@dataclass(frozen=True, slots=True)
class _Documented:
    """A documented piece of code; `name` is empty for a module, `line` counts from the code's first, which is 0."""

    name: str
    text: str
    line: int
    last: int


def find(view: View) -> list[Candidate]:
    """Every docstring, documentation comment and commented command of the section's code."""
    found: list[Candidate] = []
    for number in view.free:
        block = view.section.blocks[number]
        if block.kind == "code":
            found += _from_code(view, number, block)
    return found


def _from_code(view: View, number: int, block: Block) -> Iterator[Candidate]:
    if block.language in _SHELL:
        yield from _commands(view, number, block)
        return
    documented: list[_Documented] = []
    if block.language in _PYTHON and ('"""' in block.code or "'''" in block.code):
        documented = _python(block.code)
    elif block.language in _C_LIKE:
        documented = list(_comments(block.code))
    for piece in documented:
        answer = cut_at_sentence(piece.text, view.max_chars)
        if len(answer) < MIN_ANSWER_CHARS:
            continue
        language = view.language(answer)
        lines = (block.code_line + piece.line, block.code_line + piece.last)
        questions = in_context(view, language, _ask(view, language, piece.name))
        yield Candidate(
            piece.name or questions[0], questions, answer, *lines, frozenset([number]), shortened=answer != piece.text
        )


def _ask(view: View, language: Language, name: str) -> str:
    key = f"{view.path}\x1f{name}"
    if language == "other":
        return f"`{name}`" if name else view.heading(language)
    if name:
        return pick(_ZH if language == "zh" else _EN, key).format(n=name)
    return pick(_ZH_MODULE if language == "zh" else _EN_MODULE, key).format(h=view.heading(language))


def _python(code: str) -> list[_Documented]:
    try:
        tree = ast.parse(textwrap.dedent(code))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return list(_loose(code))
    return list(_of_tree(tree, ""))


def _of_tree(node: ast.AST, prefix: str) -> Iterator[_Documented]:
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        name = "" if isinstance(node, ast.Module) else prefix + node.name
        doc = ast.get_docstring(node, clean=True)
        text = _without_file_name(doc.strip()) if doc else ""
        if text:
            first = node.body[0]
            start = first.lineno if isinstance(node, ast.Module) else node.lineno
            yield _Documented(name, text, start - 1, (first.end_lineno or first.lineno) - 1)
        inner = f"{name}." if isinstance(node, ast.ClassDef) else ""
        for child in node.body:
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield from _of_tree(child, inner)


def _loose(code: str) -> Iterator[_Documented]:
    """Docstrings of code that does not parse: fragments, or pasted without its indentation."""
    for match in _LOOSE_DOCSTRING.finditer(code):
        at_top = not code[: match.start()].strip()
        if not match["name"] and not at_top:
            continue
        text = _without_file_name(inspect.cleandoc(match["doc"]).strip())
        if text:
            line = code.count("\n", 0, match.start())
            yield _Documented(match["name"] or "", text, line, line + match.group().count("\n"))


def _without_file_name(doc: str) -> str:
    first, _, rest = doc.partition("\n")
    return rest.strip() if _FILE_NAME.fullmatch(first.strip()) else doc


def _comments(code: str) -> Iterator[_Documented]:
    for match in _DOC_COMMENT.finditer(code):
        kept = [line.strip() for line in _COMMENT_MARK.sub("", match["doc"]).split("\n")]
        text = "\n".join(line for line in kept if line and not line.startswith("@"))
        if text and not is_code_line(text.split("\n")[0]):
            line = code.count("\n", 0, match.start("doc"))
            yield _Documented(match["name"], text, line, line + match.group().rstrip().count("\n"))


def _commands(view: View, number: int, block: Block) -> Iterator[Candidate]:
    lines = block.code.split("\n")
    starts = [index for index, line in enumerate(lines) if line.lstrip().startswith("#") and not line.startswith("#!")]
    for start, stop in zip(starts, [*starts[1:], len(lines)], strict=False):
        match = _SHELL_COMMENT.fullmatch(lines[start].strip())
        text = match["text"].strip(" .。:：") if match else ""
        body = "\n".join(lines[start + 1 : stop]).strip("\n")
        if not _says_what_for(text) or not MIN_ANSWER_CHARS <= len(body) <= view.max_chars:
            continue
        language = view.language(text)
        key = f"{view.path}\x1f{text}"
        question = (
            text if language == "other" else pick(_ZH_COMMAND if language == "zh" else _EN_COMMAND, key).format(t=text)
        )
        span = (block.code_line + start, block.code_line + _last_filled(lines, start, stop))
        yield Candidate(text.lower(), in_context(view, language, question), body, *span, frozenset([number]))


def _last_filled(lines: list[str], start: int, stop: int) -> int:
    return max(index for index in range(start, stop) if lines[index].strip())


def _says_what_for(text: str) -> bool:
    if is_code_line(text) or len(text) > 80:
        return False
    return len(_HAN.findall(text)) >= 4 or len(text.split()) >= 3
