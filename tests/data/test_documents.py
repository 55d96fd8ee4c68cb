"""Which files are read, how they are decoded, and that whatever is passed over says why."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tunesmith.data.decoding import decode
from tunesmith.data.documents import MAX_FILE_BYTES, MAX_FILE_LINES, Document, SkippedFile, find, read
from tunesmith.errors import BadInput, NotFound, PathRefused
from tunesmith.workspace import Workspace

CHINESE = "记录仪的校准分三步：空气中归零，满度，然后复核。这是我们在苇港的做法，不要跳过任何一步。\n"


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    return folder


@pytest.fixture
def workspace(tmp_path: Path, notes: Path) -> Workspace:
    return Workspace(tmp_path / "workspace", [notes])


def look(workspace: Workspace, notes: Path, **globs: list[str]) -> tuple[list[str], dict[str, str]]:
    """The documents that are read, and the reason for each path that is not."""
    documents: list[str] = []
    skipped: dict[str, str] = {}
    for found in find(workspace, str(notes), **globs):
        outcome = found if isinstance(found, SkippedFile) else read(workspace, *found)
        if isinstance(outcome, Document):
            documents.append(outcome.path)
        else:
            skipped[outcome.path] = outcome.reason
    return documents, skipped


@pytest.mark.parametrize("ending", ["md", "markdown", "mdx", "txt", "rst", "html", "ipynb", "MD"])
def test_every_kind_of_notes_is_read(workspace: Workspace, notes: Path, ending: str) -> None:
    (notes / f"a.{ending}").write_text("# Title\n\nSome text.\n")
    assert look(workspace, notes) == ([f"a.{ending}"], {})


def test_files_come_in_the_order_of_their_names(workspace: Workspace, notes: Path) -> None:
    for name in ("b.md", "a/z.md", "a/b.md", "c.md", "A.md"):
        (notes / name).parent.mkdir(exist_ok=True)
        (notes / name).write_text("text")
    assert look(workspace, notes)[0] == ["A.md", "a/b.md", "a/z.md", "b.md", "c.md"]


def test_what_is_not_notes_is_skipped_with_a_reason(workspace: Workspace, notes: Path) -> None:
    for folder in (".git", "node_modules", ".obsidian"):
        (notes / folder).mkdir()
        (notes / folder / "inside.md").write_text("text")
    (notes / ".hidden.md").write_text("text")
    (notes / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (notes / "binary.md").write_bytes(bytes(range(256)) * 8)
    (notes / "image.md").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 64)
    (notes / "blank.md").write_text(" \n\n")
    (notes / "huge.md").write_bytes(b"x" * (MAX_FILE_BYTES + 1))
    (notes / "lines.md").write_bytes(b"x\n" * (MAX_FILE_LINES + 1))
    (notes / "folder.md").mkdir()
    (notes / "folder.txt").symlink_to(notes / "folder.md")
    documents, skipped = look(workspace, notes)
    assert documents == []
    assert skipped == {
        ".git/": "hidden folder",
        ".hidden.md": "hidden file",
        ".obsidian/": "hidden folder",
        "binary.md": "binary: not text in any encoding",
        "blank.md": "empty",
        "huge.md": "larger than 8 MB",
        "lines.md": "more than 200,000 lines",
        "folder.txt": "link to a folder, not followed",
        "image.md": "binary: not text in any encoding",
        "node_modules/": "folder of packages or caches",
        "picture.png": "not a notes file (.png)",
    }


def test_links_are_read_only_where_they_lead_inside_the_allowed_folders(
    workspace: Workspace, notes: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret.md").write_text("outside")
    (notes / "real.md").write_text("inside")
    (notes / "out.md").symlink_to(tmp_path / "secret.md")
    (notes / "in.md").symlink_to(notes / "real.md")
    (notes / "gone.md").symlink_to(notes / "nothing.md")
    (notes / "loop").symlink_to(notes, target_is_directory=True)
    (notes / "self.md").symlink_to(notes / "self.md")
    os.mkfifo(notes / "pipe.md")
    documents, skipped = look(workspace, notes)
    assert documents == ["in.md", "real.md"]
    assert skipped["out.md"] == "lies outside the allowed folders"
    assert skipped["gone.md"] == "link to a file that is not there"
    assert skipped["loop"] == "link to a folder, not followed"
    assert skipped["pipe.md"] == "not a regular file"
    assert "self.md" in skipped


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_skipped(workspace: Workspace, notes: Path) -> None:
    (notes / "locked.md").write_text("text")
    (notes / "locked.md").chmod(0)
    assert look(workspace, notes)[1] == {"locked.md": "cannot be read (Permission denied)"}


def test_names_that_are_not_utf8_can_be_written_down(workspace: Workspace, notes: Path) -> None:
    (Path(os.fsdecode(os.fsencode(notes) + b"/\xff\xfe.md"))).write_text("text")
    assert look(workspace, notes) == (["\ufffd\ufffd.md"], {})


@pytest.mark.parametrize(
    ("globs", "expected"),
    [
        ({"include": ["*.md"]}, ["a.md", "sub/b.md", "sub/deep/c.md"]),
        ({"include": ["sub/*.md"]}, ["sub/b.md"]),
        ({"include": ["sub/**"]}, ["sub/b.md", "sub/d.txt", "sub/deep/c.md"]),
        ({"include": ["**/c.md"]}, ["sub/deep/c.md"]),
        ({"include": ["[ab].md"]}, ["a.md", "sub/b.md"]),
        ({"include": ["[a-b].md"]}, ["a.md", "sub/b.md"]),
        ({"include": ["[!ab].md"]}, ["sub/deep/c.md"]),
        ({"include": ["[!]].md"]}, ["a.md", "sub/b.md", "sub/deep/c.md"]),
        ({"include": ["[b-a].md"]}, []),
        ({"include": ["[!b-a].md"]}, ["a.md", "sub/b.md", "sub/deep/c.md"]),
        ({"include": ["[^a].md"]}, ["a.md"]),
        ({"include": ["[[a].md", "[", "[]", "[!]", "[!"]}, ["a.md"]),
        ({"exclude": ["deep"]}, ["a.md", "sub/b.md", "sub/d.txt"]),
        ({"exclude": ["sub/"]}, ["a.md"]),
        ({"include": ["*.md"], "exclude": ["?.md"]}, []),
    ],
)
def test_globs_choose_files(
    workspace: Workspace, notes: Path, globs: dict[str, list[str]], expected: list[str]
) -> None:
    for name in ("a.md", "sub/b.md", "sub/d.txt", "sub/deep/c.md"):
        (notes / name).parent.mkdir(parents=True, exist_ok=True)
        (notes / name).write_text("text")
    assert look(workspace, notes, **globs)[0] == expected


def test_a_single_file_is_read_by_its_name(workspace: Workspace, notes: Path) -> None:
    (notes / "one.md").write_text("text")
    [found] = find(workspace, str(notes / "one.md"))
    assert isinstance(found, tuple)
    document = read(workspace, *found)
    assert isinstance(document, Document)
    assert (document.path, document.text) == ("one.md", "text")


def test_a_single_file_of_another_kind_is_refused(workspace: Workspace, notes: Path) -> None:
    (notes / "one.pdf").write_bytes(b"%PDF-1.7")
    with pytest.raises(BadInput, match=r"one\.pdf is not a file of notes.*\.md"):
        find(workspace, str(notes / "one.pdf"))


def test_sources_outside_or_missing_are_refused(workspace: Workspace, notes: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        find(workspace, str(notes / "missing"))
    with pytest.raises(PathRefused):
        find(workspace, str(tmp_path))
    with pytest.raises(PathRefused):
        find(workspace, str(notes / ".." / ".."))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "gb18030"])
def test_chinese_is_decoded_from_any_encoding_it_is_saved_in(encoding: str) -> None:
    assert decode((CHINESE * 3).encode(encoding)) == CHINESE * 3


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Voilà un été à la mer, très déçu par le café.\n" * 3, "cp1252"),
        ("これは日本語の文章です。設定を開いて値を変更してください。" * 3, "shift_jis"),
        ("這是一段繁體中文的文字, 用來測試編碼的偵測。設定檔案應該放在正確的資料夾裡面。" * 3, "big5"),
        ("Это русский текст. Откройте файл настроек и измените значение." * 3, "koi8-r"),
    ],
)
def test_other_encodings_are_guessed(text: str, encoding: str) -> None:
    assert decode(text.encode(encoding)) == text


def test_decoded_text_has_one_kind_of_line_end_and_can_be_stored() -> None:
    assert decode(b"a\r\nb\rc\n") == "a\nb\nc\n"
    assert decode("lone \ud800 and pair \ud83d\ude00".encode("utf-8", "surrogatepass")) == "lone \ufffd and pair 😀"


def test_one_broken_byte_does_not_turn_utf8_into_another_encoding() -> None:
    damaged = (CHINESE * 5).encode() + b"\xff" + CHINESE.encode()
    assert decode(damaged) == CHINESE * 5 + "\ufffd" + CHINESE


def test_a_notebook_may_be_bigger_for_its_pictures(workspace: Workspace, notes: Path) -> None:
    picture = (
        '{"cell_type": "code", "source": ["1"], "outputs": [{"data": {"image/png": "' + "A" * MAX_FILE_BYTES + '"}}]}'
    )
    (notes / "big.ipynb").write_text('{"cells": [' + picture + "]}")
    assert look(workspace, notes) == (["big.ipynb"], {})
