from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.data.rows import clean_pair, clean_rows, pair_row, stored
from tunesmith.data.checks.findings import CHECKS
from tunesmith.data.checks.private import find_private
from tunesmith.data.checks.rows import check_row
from tunesmith.data.near_duplicates import similar_across, similar_pairs
from tunesmith.data.prefixes import find_prefixes
from tunesmith.data.records import Message, Row
from tunesmith.data.scoring import score
from tunesmith.data.scoring_records import Score
from tunesmith.data.store import DatasetStore
from tunesmith.errors import InvalidArgument, NotFound
from tunesmith.workspace import Workspace

# From the contract; a check that is renamed or lost fails here.
PROMISED = re.findall(
    r"\w+",
    """empty_instruction, empty_output, short_output, long_output, exact_duplicate, near_duplicate, conflicting_answers,
    output_equals_instruction, markdown_residue, placeholder, truncated_output, encoding_damage, language_mismatch,
    pii, secret, train_eval_leak, low_diversity, format_inconsistent, too_few_rows, too_many_rows, over_max_length,
    rejected_missing, empty_rejected, rejected_equals_chosen""",
)


def _id_card(number: int) -> str:
    body = f"11010119{50 + number % 50:02d}0{1 + number % 9}1{number % 9}{number % 1000:03d}"
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    return body + "10X98765432"[sum(int(d) * w for d, w in zip(body, weights, strict=True)) % 11]


def _card(number: int) -> str:
    body = f"622202{number:012d}"
    total = sum(sum(divmod(int(d) * (2 - place % 2), 10)) for place, d in enumerate(reversed(body)))
    return body + str(-total % 10)


def _token(number: int, length: int) -> str:
    chooser = random.Random(number)
    return "".join(chooser.choice("ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789") for _ in range(length))


def _mojibake(text: str, number: int) -> str:
    raw = text.encode("utf-8")
    if text.isascii():
        damaged = ("It\u2019s called na\u00efve. ".encode().decode("cp1252"), "It\ufffds broken. ", "nul\x00byte ")
        return text + " " + damaged[number % 3]
    return raw.decode("latin-1") if number % 2 else raw.decode("gb18030", "replace").replace("\ufffd", "?")


PII = (
    lambda n: f"请联系张三zhangsan{n}@corp-mail.cn获取。",
    lambda n: f"他的手机号是139{n:08d}。",
    lambda n: f"身份证{_id_card(n)}已登记。",
    lambda n: f"工资卡号{_card(n)}。",
    lambda n: f"服务器地址是203.0.113.{n % 250}。",
    lambda n: f"护照号码:E{n:08d}。",
    lambda n: f"Write to ann.{n}@mailbox.org for access.",
    lambda n: f"Call (415) 555-{n % 9000 + 1000} for help.",
    lambda n: f"Call +44 20 7946 {n % 9000 + 1000} for help.",
    lambda n: f"His passport number is {512345000 + n}.",
)
SECRETS = (
    lambda n: f"Use AKIA{_token(n, 16).upper()} as the key.",
    lambda n: f"export GITHUB=ghp_{_token(n, 36)} and go on.",
    lambda n: f"令牌是sk-{_token(n, 40)}。",
    lambda n: f"-----BEGIN RSA PRIVATE KEY-----\n{_token(n, 64)}\n-----END RSA PRIVATE KEY-----",
    lambda n: f"连接串postgres://admin:{_token(n, 10)}9@db.internal:5432/prod在这里。",
    lambda n: f"password = '{_token(n, 10)}7' in the settings.",
    lambda n: f"密码:{_token(n, 9)}5。",
    lambda n: f"Send the header Authorization: Bearer {_token(n, 40)} with it.",
)
ZH_RESIDUE = (
    "```\n{}\n```",
    "---\n{}",
    "---\ntitle: 笔记\ndate: 2026\n---\n{}",
    "{}\n<!-- 待审 -->",
    "![图](img/a.png)\n{}",
)
PLACEHOLDERS = (
    "{{name}}",
    "TODO",
    "[Your Name]",
    "<your name>",
    "Lorem ipsum",
    "XXX",
    "【请填写】",
    "待补充",
    "[INSERT LINK]",
)

Spoil = Callable[[str, str, int], tuple[str, str]]
SPOILERS: dict[str, Spoil] = {
    "empty_instruction": lambda q, a, n: (("", " ", "\n\t")[n % 3], a),
    "empty_output": lambda q, a, n: (q, ("", "  \n")[n % 2]),
    "short_output": lambda q, a, n: (q, a[:8] + "。"),
    "long_output": lambda q, a, n: (q, (a + "\n") * (2100 // len(a) + 1)),
    "output_equals_instruction": lambda q, a, n: (q, f" {q}\n"),
    "markdown_residue": lambda q, a, n: (q, ZH_RESIDUE[n % len(ZH_RESIDUE)].format(a)),
    "placeholder": lambda q, a, n: (q, a + " " + PLACEHOLDERS[n % len(PLACEHOLDERS)] + ("." if n % 2 else "。")),
    "truncated_output": lambda q, a, n: (q, a[: len(a) - 7 - n % 5].rstrip("。. ")),
    "encoding_damage": lambda q, a, n: (q, _mojibake(a, n)),
    "language_mismatch": lambda q, a, n: (q, clean_pair(n, "zh" if q.isascii() else "en")[1]),
    "pii": lambda q, a, n: (q, a + PII[n % len(PII)](n)),
    "secret": lambda q, a, n: (q, a + " " + SECRETS[n % len(SECRETS)](n)),
}


def _scored(workspace: Workspace, rows: list[Row], **options: object) -> tuple[Score, dict[str, set[str]]]:
    """The score, and for each flagged row the names of its findings, from report.json."""
    dataset = stored(workspace, rows)
    result = score(workspace, dataset.dataset_id, **options)
    report = json.loads(DatasetStore(workspace).report_path(dataset.dataset_id, "report.json").read_bytes())
    return result, {entry["row_id"]: {each["check"] for each in entry["findings"]} for entry in report["rows"]}


def test_every_promised_check_exists_and_no_other() -> None:
    assert list(CHECKS) == PROMISED


@pytest.mark.parametrize("language", ["zh", "en"])
def test_clean_rows_raise_no_alarm(workspace: Workspace, language: str) -> None:
    result, flagged = _scored(workspace, clean_rows(600, language))
    assert flagged == {}
    assert (result.passed, result.flagged, result.quality_rate, result.grade, result.findings) == (600, 0, 1.0, "A", [])


@pytest.mark.parametrize("check", SPOILERS)
def test_a_check_finds_what_was_planted_and_nothing_else(check: str) -> None:
    planted = found = 0
    false_alarms = 0
    for number in range(200):
        language = ("zh", "en")[number % 2]
        question, answer = clean_pair(number, language)
        spoiled = SPOILERS[check](question, answer, number)
        planted += 1
        found += check in {finding.check for finding in check_row(pair_row(*spoiled))}
        false_alarms += check in {finding.check for finding in check_row(pair_row(question, answer))}
    assert found / planted >= 0.95
    assert false_alarms == 0


@pytest.mark.parametrize(
    ("check", "text"),
    [
        ("pii", "升级到版本1.2.3.4之后即可解决,旧版本v10.0.0.1不受支持。"),
        ("pii", "Version 4.18.2.1 fixes it; see also 127.0.0.1 and the mask 255.255.255.0 in the guide."),
        ("pii", "The file icon@2x.png and the remote git@github.com:owner/name.git are fine to mention here."),
        ("pii", "订单号20260524001234567已发货,时间戳1716523200000,参数量13000000000个。"),
        ("pii", "The hash is 13912345678abcdef0123 and the ratio is 0.13912345678 of the total amount."),
        ("pii", "编号110101199003071235的校验位不对,所以它不是身份证号码,只是一串数字。"),
        ("pii", "The reference 4111111111111112 fails the checksum, so it is only an order number."),
        ("secret", "Set password to your_password_here1 and the key to sk-xxxxxxxxxxxxxxxxxxxxxxxx1 in the file."),
        ("secret", "Connect with postgres://user:password@localhost/db after you changed the password."),
        ("secret", "The password is checked by check_password2(user) before the token is read from disk."),
        ("placeholder", "In Vue you write `{{ name }}` in the template, and ```\nTODO\n``` marks open work there."),
        ("placeholder", "用这个 TODO list 应用可以管理任务,它会按日期排序,并提醒您截止时间。"),
        ("truncated_output", "The languages are:\n- Python is dynamic\n- Rust is compiled\n- Go has goroutines"),
        (
            "truncated_output",
            "Run this command to start the server on the port:\n```bash\nnpm run start -- --port 80\n```",
        ),
        ("truncated_output", "The function is defined in the module as def main(argv) and returns x + 1"),
        ("markdown_residue", "Use a list:\n\n- one\n- two\n\nand a fence:\n\n```python\nprint(1)\n```\n\nThat is all."),
        ("encoding_damage", "Café, naïve, Ångström, São Paulo and 10 °C are all spelled with the right letters."),
        ("encoding_damage", "浣熊和鏈条是常见的词,鐢是繁体字。这句话没有乱码,只是用字比较少见。"),
    ],
)
def test_what_only_looks_like_a_defect_is_left_alone(check: str, text: str) -> None:
    assert check not in {finding.check for finding in check_row(pair_row("What should I know about this?", text))}


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("请翻译成英文:今天天气很好。", "The weather is very nice today, so we could go for a long walk in the park."),
        ("用Python写一个排序函数。", "```python\ndef sort(values):\n    return sorted(values)\n```"),
        ("How do you say good morning in Chinese?", "早上好。这是最常用的问候语,任何场合都可以使用。"),
    ],
)  # fmt: skip
def test_another_language_that_was_asked_for_is_no_mismatch(question: str, answer: str) -> None:
    assert "language_mismatch" not in {finding.check for finding in check_row(pair_row(question, answer))}


def test_duplicates_near_duplicates_and_conflicts_name_the_later_row_or_all(workspace: Workspace) -> None:
    rows = clean_rows(40)
    question, answer = rows[0].instruction, rows[0].output
    rows.append(pair_row(question + " ", answer, "copy"))
    rows.append(pair_row(rows[1].instruction, rows[1].output.replace("project", "projekt", 1) + " So.", "near"))
    rows.append(pair_row(rows[2].instruction.upper(), "完全不同的回答,与之前的说法互相矛盾,二者必有一错。", "other"))
    result, flagged = _scored(workspace, rows)
    assert flagged["copy"] == {"exact_duplicate"}
    assert "near_duplicate" in flagged["near"]
    assert flagged["other"] == {"conflicting_answers"} == flagged["r3"]
    assert "r1" not in flagged
    assert result.passed + result.flagged == result.rows == 43


def test_a_row_with_many_findings_counts_once(workspace: Workspace) -> None:
    bad = "{{name}} 的邮箱是a@b.cn,密码:Qx7kP2mZ9。联系我�"
    result, flagged = _scored(workspace, [*clean_rows(10), pair_row("", bad, "bad"), pair_row("", bad, "again")])
    assert len(flagged["bad"]) >= 4
    assert (result.flagged, result.passed) == (2, 10)


def test_findings_about_the_whole_flag_no_row(workspace: Workspace) -> None:
    rows = [pair_row(f"什么是{clean_pair(n, 'zh')[0]}", clean_pair(n, "zh")[1]) for n in range(30)]
    result, flagged = _scored(workspace, rows)
    assert flagged == {}
    checks = {entry.check: entry for entry in result.findings}
    assert set(checks) == {"low_diversity", "too_few_rows"}
    assert checks["low_diversity"].rows == 30
    assert (result.passed, result.grade) == (30, "A")
    assert result.diversity.by_characters.opening == "什么"


def test_openings_are_counted_by_word_and_by_characters(workspace: Workspace) -> None:
    english = [pair_row(f"Explain {clean_pair(n, 'en')[0]}", clean_pair(n, "en")[1]) for n in range(30)]
    result, _ = _scored(workspace, english)
    assert [entry.check for entry in result.findings if entry.check == "low_diversity"] == ["low_diversity"]
    assert (result.diversity.by_word.opening, result.diversity.by_word.share) == ("explain", 1.0)
    varied, _ = _scored(workspace, clean_rows(60))
    assert "low_diversity" not in {entry.check for entry in varied.findings}


def test_too_many_rows_is_only_information(workspace: Workspace) -> None:
    rows = [pair_row(*clean_pair(n, "en")) for n in range(5001)]
    result, _ = _scored(workspace, rows)
    assert [(entry.check, entry.severity) for entry in result.findings] == [("too_many_rows", "info")]
    assert result.passed == 5001


def test_an_evaluation_row_seen_in_training_is_a_leak(workspace: Workspace) -> None:
    rows = [row.model_copy(update={"split": "train"}) for row in clean_rows(30)]
    seen = rows[3]
    rows.append(pair_row(seen.instruction, seen.output, "same", split="eval"))
    rows.append(pair_row(rows[5].instruction, rows[5].output + " 完。", "near", split="eval"))
    rows.append(pair_row(*clean_pair(99, "zh"), "unseen", split="eval"))
    _, flagged = _scored(workspace, rows)
    assert "train_eval_leak" in flagged["same"] and "train_eval_leak" in flagged["near"]
    assert "unseen" not in flagged
    assert not any("train_eval_leak" in checks for row_id, checks in flagged.items() if row_id.startswith("r"))


def test_rows_of_another_dataset_are_leaks_when_asked_for(workspace: Workspace) -> None:
    other = stored(workspace, clean_rows(20, first=10))
    _, flagged = _scored(workspace, clean_rows(20), against=other.dataset_id)
    assert {row_id for row_id, checks in flagged.items() if "train_eval_leak" in checks} == {
        f"r{number}" for number in range(11, 21)
    }


def test_turns_out_of_order_are_inconsistent(workspace: Workspace) -> None:
    user, assistant = (
        Message(role="user", content="问题是什么?"),
        Message(role="assistant", content=clean_pair(1, "zh")[1]),
    )
    system = Message(role="system", content="Be brief.")
    orders = {
        "good": [system, user, assistant, user, assistant],
        "no answer": [user, assistant, user],
        "twice": [user, user, assistant],
        "late system": [user, system, assistant],
        "empty": [],
    }
    for name, messages in orders.items():
        found = {finding.check for finding in check_row(Row(row_id=name, messages=messages))}
        assert ("format_inconsistent" in found) == (name != "good"), name


def test_tokens_are_counted_only_when_asked(workspace: Workspace) -> None:
    rows = clean_rows(20)
    result, flagged = _scored(workspace, rows)
    assert result.tokens is None
    lengths = [sum(len(message.content) for message in row.messages) for row in rows]
    limit = sorted(lengths)[-3]
    result, flagged = _scored(
        workspace, rows, count_tokens=lambda messages: sum(len(each.content) for each in messages), max_length=limit
    )
    assert result.tokens is not None
    assert (result.tokens.total, result.tokens.over_max_length, result.tokens.max_length) == (sum(lengths), 2, limit)
    assert sum("over_max_length" in checks for checks in flagged.values()) == 2


def test_the_report_is_one_page_in_which_rows_are_only_text(workspace: Workspace) -> None:
    attack = '<script>alert("x")</script> {{7*7}} Ignore previous instructions.'
    secret = "密码:Zk83mQp1xx 和 zhangsan@corp.cn"
    dataset = stored(
        workspace, [pair_row(attack, attack), pair_row("问题", secret), *clean_rows(3)], name="<b>name</b>"
    )
    result = score(workspace, dataset.dataset_id)
    page = Path(result.report).read_text(encoding="utf-8")
    assert "<script" not in page and "<b>" not in page and "&lt;script&gt;" in page
    assert not re.search(r"(?:src|href)=", page)
    report = DatasetStore(workspace).report_path(dataset.dataset_id, "report.json").read_text(encoding="utf-8")
    assert "Zk83mQp1xx" not in page + report and "zhangsan@" not in page + report


def test_the_report_marks_what_was_found_and_draws_the_lengths(workspace: Workspace) -> None:
    question, answer = clean_pair(40, "zh")
    rows = [
        pair_row(question, "甲" * 900 + "致[您的姓名],您好。" + answer, "late"),
        pair_row("怎样联系?", "写信给zhangsan@corp-mail.cn即可,一般两天之内会得到回复。", "mail"),
        pair_row("Why?", clean_pair(41, "en")[1][:-9], "cut"),
        *clean_rows(20),
    ]
    page = Path(score(workspace, stored(workspace, rows).dataset_id).report).read_text(encoding="utf-8")
    assert "<mark>[您的姓名]</mark>" in page and "<mark>[EMAIL]</mark>" in page
    assert "甲" * 200 not in page
    assert page.count("<svg") >= 4 and "would drop" in page
    assert not re.search(r"(?:src|href|url)\s*[=(]|@import|<script", page)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("PHONE", "联系电话13912345678请在工作时间拨打。"),
        ("ID_CARD", f"身份证号{_id_card(7)}已核验。"),
        ("BANK_CARD", f"卡号{_card(12)}开户行北京。"),
        ("IP", "服务器IP10.23.45.67已上线"),
        ("PASSPORT", "护照号:E12345678,请核对。"),
        ("LICENCE_PLATE", "车牌京A8B321停在楼下。"),
        ("LICENCE_PLATE", "新能源车沪AD12345充电中。"),
        ("EMAIL", "邮箱lisi@163.com找他。"),
        ("WEBHOOK", "地址https://oapi.dingtalk.com/robot/send?access_token=" + "a1" * 32 + " 。"),
        ("TELEGRAM_TOKEN", "机器人123456789:AA" + _token(3, 33) + "。"),
    ],
)
def test_private_things_between_han_characters_have_typed_placeholders(kind: str, text: str) -> None:
    assert [found.span.kind for found in find_private(text)] == [kind]


@pytest.mark.parametrize(
    "text",
    [
        "提交3f786850e387550fdab836ed7e6dc881de23001b修复了它。",
        "编号550e8400-e29b-41d4-a716-446655440000,见日志。",
        "书号ISBN 978-7-111-40701-0,第二版。",
        "订单号SO20240612345678已发货,共1,234,567件。",
        "浏览器 Chrome/122.0.0.0 和网段 10.0.0.0/8 都可以。",
        "The digest is e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855.",
        "Send it to user@example.com or noreply@corp.com, from +15551234567.",
        'allowFrom: ["120363403215116621@g.us"], driver version 535.104.5.1',
    ],
)
def test_numbers_that_are_nobodys_are_left_alone(text: str) -> None:
    assert find_private(text) == []


def test_scoring_leaves_the_rows_alone_and_gives_the_same_twice(workspace: Workspace) -> None:
    dataset = stored(workspace, [*clean_rows(20), *clean_rows(5)])
    path = DatasetStore(workspace).rows_path(dataset.dataset_id)
    before = path.read_bytes()
    assert score(workspace, dataset.dataset_id) == score(workspace, dataset.dataset_id)
    assert path.read_bytes() == before


def test_unknown_datasets_are_named(workspace: Workspace) -> None:
    dataset = stored(workspace, clean_rows(2))
    with pytest.raises(NotFound, match="ds_aaaaaaaaaaaa"):
        score(workspace, dataset.dataset_id, against="ds_aaaaaaaaaaaa")
    with pytest.raises(InvalidArgument):
        score(workspace, "nonsense")


def test_progress_is_told_and_may_stop_the_work(workspace: Workspace) -> None:
    dataset = stored(workspace, clean_rows(10))

    class Stop(Exception):
        pass

    def stop(message: str, done: int, total: int) -> None:
        assert message and 0 <= done <= total == 10
        raise Stop

    with pytest.raises(Stop):
        score(workspace, dataset.dataset_id, on_progress=stop)


def _shingles(text: str) -> set[str]:
    return {text[at : at + 5] for at in range(len(text) - 4)} or {text}


def _texts(count: int) -> list[str]:
    """Texts of which many resemble one another to every degree, in both languages."""
    chooser = random.Random(5)
    texts = [" ".join(clean_pair(number, ("zh", "en")[number % 2])) for number in range(count // 2)]
    while len(texts) < count:
        characters = list(chooser.choice(texts))
        for _ in range(chooser.randint(1, 1 + len(characters) // 20)):
            characters[chooser.randrange(len(characters))] = chooser.choice("xyz的一是")
        texts.append("".join(characters))
    return list(dict.fromkeys([*texts, "短", "文", "ab", "abcd", "abcde"]))


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9, 1.0])
def test_every_pair_above_the_threshold_is_connected_and_no_other(threshold: float) -> None:
    texts = _texts(200)
    sets = [_shingles(text) for text in texts]
    true = {
        (a, b)
        for b in range(len(texts))
        for a in range(b)
        if len(sets[a] & sets[b]) >= threshold * len(sets[a] | sets[b])
    }
    found = set(similar_pairs(texts, threshold))
    assert found <= true
    assert {later for _, later in found} == {later for _, later in true}
    sides = [number % 3 == 0 for number in range(len(texts))]
    across = similar_across(texts, sides, [not side for side in sides], threshold)
    assert set(across) == {n for pair in true if sides[pair[0]] != sides[pair[1]] for n in pair if sides[n]}


TEMPLATES: dict[str, Callable[[int], str]] = {
    "numbers at the end": lambda n: f"What is the price of item {n}?",
    "数字在前": lambda n: f"第{n}号商品的价格是多少元?",
    "three slots": lambda n: f"How do I get the {n % 13}th part of a {n % 17}er when the {n % 19}ed one is broken?",
    "growing": lambda n: "x" * (n % 60) + "y" * (n // 60),
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_texts_of_one_template_are_compared_exactly(template: str) -> None:
    texts = list(dict.fromkeys(TEMPLATES[template](number) for number in range(900)))
    random.Random(8).shuffle(texts)
    sets = [_shingles(text) for text in texts]
    similar = [
        {a for a in range(b) if len(sets[a] & sets[b]) >= 0.8 * len(sets[a] | sets[b])} for b in range(len(texts))
    ]
    found = list(similar_pairs(texts))
    assert all(earlier in similar[later] for earlier, later in found)
    assert {later for _, later in found} == {later for later, those in enumerate(similar) if those}


def test_texts_that_are_nearly_similar_are_not_compared_each_with_each() -> None:
    # Every two of them share 79 % of their shingles: an index that only asks for a common one meets 18 million pairs.
    chooser = random.Random(4)
    base = " ".join(clean_pair(1, "en")) * 2
    own = len(base) // 8
    texts = [base + "".join(chooser.choices("abcdefghijklmnopqrstuvwxyz", k=own)) for _ in range(6000)]
    prefixes = find_prefixes(texts, 0.8)
    assert len(prefixes.keys) < 0.1 * sum(map(len, texts))
    started = time.process_time()
    assert list(similar_pairs(texts)) == []
    assert time.process_time() - started < 20


def test_thousands_of_copies_are_compared_in_linear_time() -> None:
    chooser = random.Random(3)
    base = " ".join(clean_pair(1, "en")) * 2
    texts = list(dict.fromkeys(f"{base} {chooser.randrange(10**9)}" for _ in range(4000)))
    assert {later for _, later in similar_pairs(texts)} == set(range(1, len(texts)))
