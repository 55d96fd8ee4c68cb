"""Logs and measurements are read in bounded, clean pieces, whatever was written."""

from __future__ import annotations

import json
import math
import os
import re
import resource
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcp import Client, MCPError

from tunesmith.resources.loss_plot import loss_svg
from tunesmith.runs import log, measurements, plain_text
from tunesmith.runs.records import Progress
from tunesmith.server.app import TunesmithServer, build_server
from tunesmith.server.settings import Settings
from tunesmith.workspace import new_id

GIB = 2**30
HF_KEY = "hf_Qx7LmT2vRk9ZpW4sNc8YbD3gHj"
KEYS = [
    HF_KEY,
    "hf_abcdefghijklmnopqrstuvwx",
    "sk-proj-Qx7LmT2vRk9ZpW4sNc8YbD3gHj",
    "sk-abcdefghijklmnopqrstuvwx",
    "sk-ant-api03-Qx7-LmT_2vRk9ZpW4sNc8YbD3gHjAA",
    *(f"gh{kind}_Qx7LmT2vRk9ZpW4sNc8YbD3gHj5tUvWxYzA1" for kind in "pousr"),
    "github_pat_11ABCDEFG0Qx7LmT2vRk9Z_pW4sNc8YbD3gHj",
    "AKIAIOSFODNN7EXAMPLE",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
]
LABELLED = [
    ("Authorization: Bearer abc.DEF-123_456", "abc.DEF-123_456"),
    ("authorization: basic dXNlcjpwYXNzd29yZA==", "dXNlcjpwYXNzd29yZA=="),
    ("api_key=abcdef123456", "abcdef123456"),
    ('"api_key": "abcdef123456", "rank": 16', "abcdef123456"),
    ("token: s3cr3tvalue", "s3cr3tvalue"),
    ("export HF_TOKEN='abc123abc123'", "abc123abc123"),
    ("--api-key abcdef123456 --rank 16", "abcdef123456"),
    ("password: correct-horse", "correct-horse"),
    ("GET https://host/file?token=abc123abc123&part=1", "abc123abc123"),
    ("cloning https://ann:pa55@w0rd@host.org/notes.git", "pa55"),
    ("postgresql://tuner:x@db:5432/runs", "tuner:x"),
]
HARMLESS = [
    "task-specific settings for risk-adjusted-learning-rate-schedules",
    "sha256:" + "ab12" * 16,
    "ab12cd34" * 8,
    "tokens: 123456789, 347 tokens/s, max_new_tokens=256, num_tokens=12345678",
    "eos_token: <|im_end|>, pad_token='<|endoftext|>', pad token: 50256",
    "tokenizer: Qwen2TokenizerFast, token_type_ids: torch.Size([4, 512])",
    "token = tokenizer.decode(ids)",
    "api_key = os.environ['KEY'], api_key=None, password: required",
    "sk-learn-contrib-extra, hf_hub_download, hf_transfer",
    "see https://ann@host.org/x and git@github.com:ann/notes and http://localhost:8080/a@b",
    "the bearer authentication scheme",
    "secret: the answer is within",
    "keyboard: qwertyuiop, monkey=12345678a",
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.txt"


def pieces(path: Path, *, finished: bool = True, start: int = 0) -> Iterator[log.Piece]:
    """The log from a byte on, as one who follows it reads it."""
    at = start
    while True:
        piece = log.read(path, at, finished=finished)
        assert piece.end >= at
        assert len(piece.text.encode()) <= log.READ_LIMIT
        yield piece
        if piece.end in (at, piece.size):
            return
        at = piece.end


def whole(path: Path) -> str:
    return "".join(piece.text for piece in pieces(path))


def fastest(action: Callable[[], Any], repeats: int = 7) -> float:
    """Seconds of this thread's work, the least of several: the machine does other things too."""
    times = []
    for _ in range(repeats):
        began = time.thread_time()
        action()
        times.append(time.thread_time() - began)
    return min(times)


def peak_memory(action: Callable[[], Any]) -> int:
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# What is shown


def test_a_log_is_shown_without_colours_overwritten_progress_and_keys(path: Path) -> None:
    path.write_bytes(b"x" * 200_000 + b"\n\x1b[31mred\x1b[0m\rdone hf_abcdefghijklmnopqrstuvwx\n")
    assert log.tail(path, 1) == (["done [redacted]"], 1)


@pytest.mark.parametrize("key", KEYS)
def test_a_key_is_never_shown(key: str) -> None:
    for line in (
        key,
        f"using {key}.",
        f"KEY={key}",
        f'"{key}"',
        f"api_key={key}",
        f"https://{key}@host/x",
        f" \x00{key[:9]}\x00{key[9:]}",
    ):
        shown = plain_text.clean(line)
        assert "[redacted]" in shown
        assert key[6:] not in shown


def test_a_key_with_colours_inside_is_not_shown() -> None:
    assert plain_text.clean(f"\x1b[1m{HF_KEY[:9]}\x1b[0m{HF_KEY[9:]}\x1b[0m") == "[redacted]"


@pytest.mark.parametrize(("line", "secret"), LABELLED)
def test_a_value_that_is_called_a_secret_is_not_shown_and_its_name_is(line: str, secret: str) -> None:
    shown = plain_text.clean(line)
    assert secret not in shown
    assert shown.startswith(line[:4])
    assert shown.count("[redacted]") == 1


@pytest.mark.parametrize("line", HARMLESS)
def test_ordinary_lines_are_left_as_they_are(line: str) -> None:
    assert plain_text.clean(line) == line


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;https://x.org\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bP1$r0m\x1b\\text", "text"),
        ("\x1b]0;never ended\nnext", "0;never ended\nnext"),
        ("\x1b[31;", ""),
        ("\x1b[31mred\x1b", "red"),
        ("\x1b(Btext\x1b7", "text"),
        ("a\x00b\x07c\x7fd", "abcd"),
        ("10%\r20%\r30%\nnext", "30%\nnext"),
        ("10%\r20%\r", "20%"),
        ("one\r\ntwo\r\n", "one\ntwo\n"),
        ("bad \ud800\udfff\ufffd\ufffd end", "bad \ufffd end"),
        ("abc\u202edcba\u2028x", "abcdcbax"),
        ("温度\t3.5 °C", "温度\t3.5 °C"),
    ],
)
def test_what_a_terminal_would_act_on_is_taken_out(written: str, shown: str) -> None:
    assert plain_text.clean(written) == shown


@settings(max_examples=200, deadline=None)
@given(st.text() | st.text(alphabet="\x1b[]0;m\r\n\x07\\Pab\x00\ud800 "))
def test_any_text_is_shown_without_controls(text: str) -> None:
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", plain_text.clean(text))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([*(f"{key} " for key in KEYS), "\x1b[0m", "\x1b[", "\x1b]", "\r", "=", "\x00"])).map(
        "".join
    )
)
def test_keys_in_any_company_are_not_shown(text: str) -> None:
    shown = plain_text.clean(text)
    assert not any(key in shown for key in KEYS)


ATOMS = (
    "\x1b", "\x1b[", "\x1b]", "\x1b]0;", "\x1bP", "\x1b[0;", "\x1b[ ", "\x1b ", "\r", "\x00", "\ufffd", "\ud800", " ",
    "\t", "a", "0", "-", "_", "eyJ", "-eyJ", "eyJaaaaaaaa.", "sk-", "sk-a-", "hf_", "ghp_", "AKIA", "xoxb-", "npm_",
    "pypi-", "://", "://a:", "://a:b", "a:", "@", "://@", "bearer ", "bearer a", "bearer\t", "authorization:basic ",
    "token ", "token=", "token:", "token=aaaaaaa-", "--token ", "api_key", "api_key=", "api key", "api-",
    "secret_key = ", "password:'", "password=abcdef ", "--api-key ", "x-amz-signature=", "token=a1a1a1a1 ",
)  # fmt: skip


@pytest.mark.fault("F20")
@pytest.mark.parametrize("atom", ATOMS)
def test_no_text_makes_cleaning_slow(atom: str) -> None:
    # Linear work on 32 KiB takes up to 10 ms here; a quadratic pattern takes seconds.
    for end in ("", "!", "@", "."):
        text = (atom * log.READ_LIMIT)[: log.READ_LIMIT - 1] + end
        assert fastest(lambda text=text: plain_text.clean(text), 2) < 0.15
        assert fastest(lambda text=text: plain_text.redact_open(text), 2) < 0.15
        assert fastest(lambda text=text: plain_text.unbreakable(text, log.READ_LIMIT // 2, log.CONTEXT), 2) < 0.15


# Reading on


@pytest.mark.fault("F20")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=4000), repeats=st.integers(1, 60))
def test_any_bytes_give_bounded_text_and_the_cursor_reaches_the_end(path: Path, content: bytes, repeats: int) -> None:
    path.write_bytes(content * repeats)
    at = 0
    for piece in pieces(path):
        assert piece.start >= at
        piece.text.encode()
        at = piece.end
    assert at == len(content) * repeats
    shown, left_out = log.tail(path, 20)
    assert sum(map(len, shown)) <= log.TAIL_CHARACTERS
    assert left_out >= 0


LINES = st.lists(
    st.tuples(
        st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=80),
        st.sampled_from(["\n", "\r\n", "\n\n"]),
        st.integers(1, 900),
    ),
    min_size=1,
    max_size=12,
)


@pytest.mark.fault("F20")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=LINES, last=st.text("ab \r", max_size=20))
def test_pieces_together_are_the_whole_log(path: Path, parts: list[tuple[str, str, int]], last: str) -> None:
    text = "".join((line + end) * count for line, end, count in parts) + last
    path.write_bytes(text.encode())
    clean = plain_text.clean(text)
    assert whole(path).removesuffix("\n") == clean.removesuffix("\n")
    for piece in pieces(path):
        assert piece.end == piece.size or path.read_bytes()[piece.end - 1 : piece.end] in (b"\n", b"\r")


def test_following_a_growing_log_loses_and_doubles_no_line(path: Path) -> None:
    text = "".join(f"line {number} {HF_KEY} 温度 \x1b[32mok\x1b[0m\n" for number in range(300)).encode()
    path.write_bytes(b"")
    shown, at = "", 0
    for number in range(0, len(text), 37):
        with path.open("ab") as file:
            file.write(text[number : number + 37])
        piece = log.read(path, at)
        shown, at = shown + piece.text, piece.end
    assert shown == "".join(f"line {number} [redacted] 温度 ok\n" for number in range(300))


def test_a_line_that_is_still_being_written_is_left_for_later_and_read_when_no_more_comes(path: Path) -> None:
    path.write_bytes(b"one\ntwo, half of")
    piece = log.read(path, 0)
    assert (piece.text, piece.end) == ("one\n", 4)
    assert log.read(path, 4).text == ""
    assert log.read(path, 4, finished=True).text == "two, half of"
    assert log.tail(path, 5) == (["one", "two, half of"], 0)


def test_a_progress_bar_is_followed_though_its_line_never_ends(path: Path) -> None:
    path.write_bytes(b"\r10%\r20%\r30")
    first = log.read(path, 0)
    assert first.text == "20%\n"
    with path.open("ab") as file:
        file.write(b"%\r40%\r\nend\n")
    assert log.read(path, first.end).text == "40%\nend\n"


@pytest.mark.parametrize("key", [*KEYS, "Bearer abc.DEF-123_456x", "api_key=abcdef123456", "https://ann:pa55word@host"])
def test_no_offset_shows_the_rest_of_a_key(path: Path, key: str) -> None:
    secret = key.removeprefix("Bearer ").removeprefix("api_key=").removeprefix("https://ann:").removesuffix("@host")
    path.write_bytes(f"before {key} after\n".encode())
    for offset in range(len(key) + 14):
        shown = log.read(path, offset).text
        for length in range(4, len(secret)):
            assert secret[-length:] not in shown


@pytest.mark.fault("F20")
@pytest.mark.parametrize(
    "inside",
    [HF_KEY, f"\x1b[1m{HF_KEY[:9]}\x1b[0m{HF_KEY[9:]}", "\x1b[38;5;196mx", "api_key=abcdef123456", "温度传感器校准"],
)
def test_a_cut_in_a_giant_line_never_falls_into_a_key_a_code_or_a_character(path: Path, inside: str) -> None:
    content = inside.encode()
    for shift in range(len(content) + 2):
        path.write_bytes(b"," * (log.READ_LIMIT - shift) + content + b"," * 9000)
        found = list(pieces(path))
        text = "".join(piece.text for piece in found)
        assert text.replace(",", "") == plain_text.clean(inside)
        assert found[0].end > log.READ_LIMIT - 100


def test_the_beginning_of_a_key_at_the_end_of_a_live_log_is_not_shown(path: Path) -> None:
    for length in range(4, len(HF_KEY)):
        path.write_bytes(f"login with {HF_KEY[:length]}".encode())
        assert log.read(path).text == ""
        assert log.tail(path, 1)[0] == ["login with [redacted]"]
        path.write_bytes(b"," * (log.READ_LIMIT - 2) + HF_KEY[:length].encode())
        assert log.read(path, 0).end == 0


def test_reading_back_page_by_page_misses_no_line(path: Path) -> None:
    path.write_text("".join(f"line {number:06}\n" for number in range(20_000)))
    piece, seen = log.read(path), set()
    while True:
        seen.update(piece.text.splitlines())
        if piece.start == 0:
            break
        piece = log.read(path, log.before(path, piece.start))
    assert len(seen) == 20_000


def test_a_log_that_is_not_there_yet_is_empty(path: Path) -> None:
    assert log.read(path) == log.Piece("", 0, 0, 0, False)
    assert log.tail(path, 5) == ([], 0)
    assert log.before(path, 0) == 0


# The end of a log


def test_what_cannot_be_read_is_as_if_it_were_not_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def assert_empty() -> None:
        assert log.read(path) == log.Piece("", 0, 0, 0, False)
        assert log.tail(path, 5) == ([], 0)
        assert measurements.last_record(path) is None
        assert measurements.last_progress(path)["message"] == ""
        assert measurements.records(path) == []
        assert measurements.sample(path, 5) == measurements.Sample([], 0)
        assert measurements.page(path, 0, 5) == ([], None)

    def refuse(_path: Path, *_args: Any) -> None:
        raise PermissionError(13, "Permission denied")

    path.mkdir()
    assert_empty()
    monkeypatch.setattr(Path, "open", refuse)
    assert_empty()


def test_the_tail_says_how_much_it_left_out(path: Path) -> None:
    path.write_text("".join(f"line {number}\n\n" for number in range(30)) + "x" * 1000 + "\n")
    shown, left_out = log.tail(path, 3)
    assert shown == ["line 28", "line 29", "x" * 400 + " … (600 characters more)"]
    assert left_out == 28


def test_the_tail_never_says_that_nothing_was_left_out_when_something_was(path: Path) -> None:
    path.write_text("".join(f"{number} {'x' * 300}\n" for number in range(200)))
    shown, left_out = log.tail(path, 200)
    assert sum(map(len, shown)) <= log.TAIL_CHARACTERS
    assert shown[-1].startswith("199 ")
    assert left_out > len(shown)


# Giants


def check_bounds(path: Path) -> None:
    """The end of a file of any size is read as fast as that of its last MiB alone, and memory is flat."""
    size = path.stat().st_size
    end = path.with_name("end.txt")
    with path.open("rb") as file:
        file.seek(max(0, size - 2**20))
        end.write_bytes(file.read())
    assert fastest(lambda: log.tail(path, 20)) < 2 * fastest(lambda: log.tail(end, 20)) + 0.001
    assert fastest(lambda: log.read(path)) < 2 * fastest(lambda: log.read(end)) + 0.001
    for offset in (None, 0, size // 2, size - 10):
        assert peak_memory(lambda offset=offset: log.read(path, offset)) < 2**21
    assert peak_memory(lambda: log.tail(path, 200)) < 2**21


@pytest.mark.fault("F20")
def test_the_end_of_a_log_of_1_gib_is_read_at_once(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(GIB)
        file.seek(GIB)
        for number in range(2000):
            file.write(b"step %d/2000  loss 1.2345  lr 1.80e-04  347 tokens/s  eta 12 s\n" % number)
    check_bounds(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    shown, left_out = log.tail(path, 20)
    assert shown[-1].startswith("step 1999/2000")
    assert left_out > 400
    assert log.read(path, GIB // 2).text == ""
    assert log.read(path, GIB // 2).end == GIB // 2 + log.READ_LIMIT
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 * 1024


@pytest.mark.fault("F20")
def test_binary_junk_is_bounded(path: Path) -> None:
    path.write_bytes(os.urandom(2**21))
    check_bounds(path)
    assert sum(1 for _ in pieces(path, start=2**20)) >= 32


@pytest.mark.fault("F20")
def test_a_line_of_50_mb_is_shortened_and_says_so(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b"before\n")
        file.truncate(7)
        file.write(b"x" * 50_000_000)
        file.write(b"\nafter\n")
    check_bounds(path)
    shown, left_out = log.tail(path, 20)
    assert shown == ["after"]
    assert left_out == 1
    assert log.read(path, 0).text == "before\n"
    with path.open("rb+") as file:
        file.truncate(40_000_000)
    (line,), left_out = log.tail(path, 20)
    assert line == f"(more than 32 KiB of this line before) … {'x' * 400}"


@pytest.mark.fault("F20")
def test_a_million_states_of_a_progress_bar_are_one_line(path: Path) -> None:
    path.write_bytes(
        b"loading\n" + b"".join(b"\r%3d%%|#####     | %d/1000000" % (n // 10_000, n) for n in range(1_000_000))
    )
    check_bounds(path)
    assert log.tail(path, 20)[0] == [" 99%|#####     | 999999/1000000"]
    last = log.read(path, path.stat().st_size - 40_000)
    assert last.text.count("\n") == 1
    assert len(last.text) < 60


# Measurements


def measured(step: int, **values: Any) -> dict[str, Any]:
    return {"step": step, "epoch": 0.1, "loss": 2.0 / (1 + step), "eval_loss": None, "grad_norm": 0.123456789, **values}


def write_points(path: Path, points: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(point) + "\n" for point in points))


DAMAGED = [
    b"",
    b"{",
    b'{"step": 3, "loss": 1.',
    b"null",
    b"[1, 2]",
    b'{"step": NaN}',
    b'{"step": 1e999}',
    b'{"message": "\\ud800"}',
    b"\xff\xfe\x00",
    b"[" * 50_000,
    b'{"a":' * 5_000,
    b'{"x": "' + b"y" * 300_000 + b'"}',
]


def test_steps_made_again_after_memory_ran_out_are_shown_as_they_were_last(path: Path) -> None:
    steps = [(1, 3.0, None), (2, 2.0, None), (2, None, 2.5), (3, 1.9, None), (3, None, 2.4), (4, 1.8, None)]
    # Back to step 2, whose look had been taken.
    steps += [(3, 1.7, None)]
    path.write_text("".join(f"{json.dumps({'step': s, 'loss': t, 'eval_loss': e})}\n" for s, t, e in steps))
    shown = measurements.sample(path, 50).points
    assert [(point["step"], point["loss"]) for point in shown if point["loss"]] == [(1, 3.0), (2, 2.0), (3, 1.7)]
    assert [point["step"] for point in shown if point["eval_loss"]] == [2, 3]  # until it is taken again


@pytest.mark.fault("F18")
@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_lines_are_skipped(path: Path, damage: bytes) -> None:
    good, following = (json.dumps(measured(step)).encode() for step in (7, 8))
    path.write_bytes(good + b"\n" + damage + b"\n" + following + b"\n" + damage)
    assert [record["step"] for record in measurements.records(path)] == [7, 8]
    assert [point["step"] for point in measurements.sample(path, 50).points] == [7, 8]
    assert [point["step"] for point in measurements.page(path, 0, 50)[0]][:1] == [7]
    assert measurements.last_record(path) == measured(8)
    assert measurements.last_progress(path)["step"] == 8


@pytest.mark.fault("F18")
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.sampled_from(["fraction", "step", "total_steps", "eta_s", "message", "other"]),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers()),
    )
)
def test_any_last_line_of_progress_can_be_shown(path: Path, record: dict[str, Any]) -> None:
    path.write_text(json.dumps(record) + "\n")
    progress = Progress(**measurements.last_progress(path))
    json.loads(progress.model_dump_json())
    assert progress.fraction is None or 0 <= progress.fraction <= 1
    assert progress.eta_s is None or math.isfinite(progress.eta_s)
    assert len(progress.message) <= 300


def test_progress_of_wrong_types_is_left_out_and_the_rest_kept(path: Path) -> None:
    path.write_text('{"fraction": "abc", "step": 3, "total_steps": true, "eta_s": -1, "message": ["x"]}\n')
    assert measurements.last_progress(path) == {
        "fraction": None,
        "step": 3,
        "total_steps": None,
        "eta_s": None,
        "message": "",
    }


def test_a_giant_last_line_of_progress_falls_back_to_the_one_before(path: Path) -> None:
    path.write_text('{"step": 3, "message": "ok"}\n{"step": 4, "message": "' + "x" * 100_000)
    assert measurements.last_progress(path)["step"] == 3
    path.write_text('{"step": 3}\n{"step": 4, "message": "' + "x" * 20_000 + '"}\n')
    assert measurements.last_progress(path)["step"] == 4
    path.write_bytes(b"\x00" * 3_000_000)
    assert measurements.last_progress(path)["step"] is None


@settings(max_examples=200, deadline=None)
@given(count=st.integers(0, 300), evals=st.sets(st.integers(0, 299)), limit=st.integers(1, 60))
def test_thinned_points_keep_the_first_the_last_and_the_held_out_ones(count: int, evals: set[int], limit: int) -> None:
    points = [measured(step, eval_loss=1.0 if step in evals else None) for step in range(count)]
    kept = measurements.thin(points, limit)
    assert len(kept) == min(count, limit)
    steps = [point["step"] for point in kept]
    assert steps == sorted(set(steps))
    if count and limit > 1:
        assert (steps[0], steps[-1]) == (0, count - 1)
    if limit >= 6 and len(evals) <= limit // 2 - 2:
        assert {step for step in evals if step < count} <= set(steps)


@pytest.mark.fault("F20")
def test_200_mb_of_measurements_are_sampled_in_bounded_time_and_memory(path: Path) -> None:
    block = "".join(
        json.dumps(measured(step, eval_loss=1.5 if step % 1000 == 0 else None)) + "\n"
        for step in range(100_000, 200_000)
    )
    with path.open("w") as file:
        file.write(json.dumps(measured(0)) + "\n")
        for number in range(1, 200_000_000 // len(block) + 1):
            file.write(block.replace('"step": 1', f'"step": {number}'))  # one after the other, as a run writes them
        file.write(json.dumps(measured(9_900_000)) + '\n{"step": 99000')
    assert fastest(lambda: measurements.sample(path, 50)) < 0.05
    assert peak_memory(lambda: measurements.sample(path, 500)) < 16 * 2**20
    sample = measurements.sample(path, 50)
    assert len(sample.points) == 50
    assert (sample.points[0]["step"], sample.points[-1]["step"]) == (0, 9_900_000)
    assert sum(point["eval_loss"] is not None for point in sample.points) > 5
    written = 2 + 200_000_000 // len(block) * 100_000
    assert sample.left_out == pytest.approx(written, rel=0.02)
    assert loss_svg(measurements.sample(path, 640).points).count(",") < 3000


def test_points_are_finite_short_and_without_keys(path: Path) -> None:
    path.write_text(
        json.dumps({"step": 10**400 // 10**395, "loss": 1 / 3, "note": HF_KEY, "more": {"a": 1}, "bad": "nan"}) + "\n"
    )
    (point,) = measurements.sample(path, 5).points
    assert point == {"step": 100_000, "loss": 0.333333, "note": "[redacted]", "more": None, "bad": "nan"}


def test_pages_of_measurements_hold_every_point_once(path: Path) -> None:
    write_points(path, [measured(step) for step in range(7000)])
    with path.open("ab") as file:
        file.write(b'{"step": 7000')
    steps, at = [], 0
    while at is not None:
        points, at = measurements.page(path, at, 500)
        assert len(points) <= 500
        steps += [point["step"] for point in points]
    assert steps == list(range(7000))
    assert measurements.page(path, 10, 1)[0][0]["step"] == 1
    assert measurements.page(path, 10**9, 5) == ([], None)


def test_a_page_gets_past_a_line_longer_than_itself(path: Path) -> None:
    path.write_bytes(b"x" * 600_000 + b'\n{"step": 1}\n')
    steps, at, looks = [], 0, 0
    while at is not None and looks < 10:
        points, at = measurements.page(path, at, 500)
        steps += [point["step"] for point in points]
        looks += 1
    assert steps == [1]


# As resources


@pytest.fixture
def ended(tmp_path: Path) -> tuple[TunesmithServer, str, Path]:
    """A server, a training run that has failed, and the run's folder."""
    server = build_server(Settings(workspace=tmp_path / "ws", allow_roots=[tmp_path]))
    runs = server.services.runs
    run_id = new_id("run")
    runs.store.insert(run_id, "train", ["cpu0"])
    assert runs.store.claim_next() is not None
    runs.store.transition(run_id, "failed", error={"code": "x", "message": "It failed.", "next": "Start again."})
    runs.folder(run_id).mkdir()
    return server, run_id, runs.folder(run_id)


def contents(server: TunesmithServer, *uris: str) -> list[str]:
    async def talk() -> list[str]:
        async with Client(server) as client:
            return [(await client.read_resource(uri)).contents[0].text for uri in uris]

    return anyio.run(talk)


def refusal(server: TunesmithServer, uri: str) -> str:
    async def talk() -> str:
        async with Client(server) as client:
            with pytest.raises(MCPError) as refused:
                await client.read_resource(uri)
            return str(refused.value)

    return anyio.run(talk)


def next_of(text: str) -> str:
    return re.search(r"go on: (runs://\S+?)(?:[;\]])", text.splitlines()[-1])[1]


def test_the_log_resource_shows_the_end_and_says_where_there_is_more(ended: tuple[TunesmithServer, str, Path]) -> None:
    server, run_id, folder = ended
    (folder / "log.txt").write_text("".join(f"line {number:06}\n" for number in range(10_000)))
    (text,) = contents(server, f"runs://{run_id}/log")
    assert text.splitlines()[-2:] == [
        "line 009999",
        f"[bytes 87240 to 120000 of 120000, the end; go on: runs://{run_id}/log?offset=120000; "
        f"before: runs://{run_id}/log?offset=54480]",
    ]
    before, end = contents(server, f"runs://{run_id}/log?offset=54480", next_of(text))
    assert before.splitlines()[0] == "line 004540"
    assert "line 007269\n[bytes 54480 to 87240 of 120000, 32760 bytes after; go on: " in before
    assert end.startswith("[bytes 120000 to 120000 of 120000, the end; ")


def test_following_the_log_resource_gives_the_whole_log(ended: tuple[TunesmithServer, str, Path]) -> None:
    server, run_id, folder = ended
    lines = [f"step {number}: loss 温 {number / 7}" for number in range(6000)]
    (folder / "log.txt").write_text("\n".join(lines))
    seen, uri = [], f"runs://{run_id}/log?offset=0"
    while True:
        (text,) = contents(server, uri)
        *found, place = text.splitlines()
        seen += found
        uri = next_of(text)
        if "the end" in place:
            break
    assert seen == lines


def test_a_live_log_says_that_its_last_line_is_being_written(ended: tuple[TunesmithServer, str, Path]) -> None:
    server, _, _ = ended
    runs = server.services.runs
    run_id = new_id("run")
    runs.store.insert(run_id, "score", ["cpu0"])
    assert runs.store.claim_next() is not None
    runs.folder(run_id).mkdir()
    (runs.folder(run_id) / "log.txt").write_text("one\ntwo, ha")
    first, second = contents(server, f"runs://{run_id}/log", f"runs://{run_id}/log?offset=4")
    assert first.startswith("one\n[bytes 0 to 4 of 11, 7 bytes after; go on: ")
    assert second.startswith("[bytes 4 to 4 of 11, 7 bytes after, a line that is still being written; go on: ")


@pytest.mark.parametrize("offset", ["-1", "abc", "1.5", "9" * 5000, "１"])
def test_a_malformed_offset_is_an_error_that_says_so(ended: tuple[TunesmithServer, str, Path], offset: str) -> None:
    server, run_id, _ = ended
    for name in ("log", "metrics"):
        assert "is not a number of bytes. Next: Give offset=0" in refusal(
            server, f"runs://{run_id}/{name}?offset={offset}"
        )


def test_an_offset_beyond_the_end_names_the_end(ended: tuple[TunesmithServer, str, Path]) -> None:
    server, run_id, folder = ended
    (folder / "log.txt").write_text("one\n")
    assert "has 4 bytes. Next: Give offset=4" in refusal(server, f"runs://{run_id}/log?offset=5")


def test_a_log_that_was_never_written_is_empty(ended: tuple[TunesmithServer, str, Path]) -> None:
    server, run_id, _ = ended
    (text,) = contents(server, f"runs://{run_id}/log")
    assert text == f"[bytes 0 to 0 of 0, the end; go on: runs://{run_id}/log?offset=0]"


def test_measurements_are_a_list_of_points_and_the_first_says_what_was_left_out(
    ended: tuple[TunesmithServer, str, Path],
) -> None:
    server, run_id, folder = ended
    write_points(folder / "metrics.jsonl", [measured(step) for step in range(2000)])
    points = json.loads(contents(server, f"runs://{run_id}/metrics")[0])
    assert len(points) == 500
    assert points[0]["points_left_out"] == 1500
    steps, uri = [], points[0]["all_points"]
    while uri is not None:
        page = json.loads(contents(server, uri)[0])
        steps += [point["step"] for point in page]
        uri = page[-1].get("next")
    assert steps == list(range(2000))
    write_points(folder / "metrics.jsonl", [measured(step) for step in range(20)])
    few = json.loads(contents(server, f"runs://{run_id}/metrics")[0])
    assert [set(point) for point in few] == [set(measured(0))] * 20
    (empty,) = contents(server, f"runs://{run_id}/metrics?offset=100000")
    assert json.loads(empty) == []


@pytest.mark.fault("F18", "F20")
def test_get_run_answers_whatever_its_files_hold(ended: tuple[TunesmithServer, str, Path]) -> None:
    server, run_id, folder = ended

    async def talk() -> Any:
        async with Client(server) as client:
            return await client.call_tool("get_run", {"run_id": run_id, "log_lines": 200})

    for damage in (
        *DAMAGED,
        json.dumps({"fraction": "abc", "step": [1], "eta_s": 1e300}).encode(),
        os.urandom(100_000),
    ):
        for name in ("log.txt", "metrics.jsonl", "events.jsonl"):
            (folder / name).write_bytes(damage * 3)
        answer = anyio.run(talk)
        assert not answer.is_error, answer.content
    (folder / "log.txt").write_text("a line of some length, as they are\n" * 5000)
    write_points(
        folder / "metrics.jsonl", [measured(step, learning_rate=1 / 3, tokens_per_s=100 / 3) for step in range(5000)]
    )
    answer = anyio.run(talk)
    assert len(json.dumps(answer.structured_content)) < 16_000
    assert len(answer.structured_content["metrics"]) == 50
    assert answer.structured_content["log_lines_left_out"] > 500
