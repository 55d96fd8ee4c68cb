"""Rows with a known defect, as real data has them: written from what goes wrong in practice, not from the checks.

Every spoiler takes a clean question and answer, a language and a seeded source of chance, and gives them back
with one defect. Values of keys, numbers and names are drawn; the words around them come from many frames.
"""

# ruff: noqa: E501, SIM905  # tables of words and frames read better with long lines
from __future__ import annotations

import base64
import random
import string
from collections.abc import Callable, Sequence

Pair = tuple[str, str]
Spoiler = Callable[[str, str, str, random.Random, Sequence[Pair]], Pair]

ALNUM = string.ascii_letters + string.digits
HEX = string.digits + "abcdef"
EN_NAMES = "maria.lopez j_smith oconnor82 wei.zhang peter+work ann-marie h.tanaka dkumar lena_w tom.b".split()
ZH_NAMES = "zhangsan liwei wangfang chen.jie zhao_lei sunli88 zhouxm wu-yan linhai hexiaoming".split()
DOMAINS = "gmail.com 163.com qq.com outlook.com corp-mail.cn mail.tsinghua.edu.cn acme.io kontor.de foxmail.com".split()
ZH_PEOPLE = "张伟 李娜 王芳 刘洋 陈静 杨磊 赵敏 黄强 周婷 欧阳锋".split()


def drawn(chance: random.Random, alphabet: str, length: int) -> str:
    return "".join(chance.choices(alphabet, k=length))


def key_like(chance: random.Random, alphabet: str, length: int) -> str:
    """Random characters of which at least one is a digit and one a letter, as in all real keys of that length."""
    while True:
        value = drawn(chance, alphabet, length)
        if any(map(str.isdigit, value)) and any(map(str.isalpha, value)):
            return value


def id_card(chance: random.Random) -> str:
    area = chance.choice("110101 310115 440305 510107 330106 420111 610113 320102 500103 210202".split())
    born = f"{chance.randint(1950, 2012)}{chance.randint(1, 12):02d}{chance.randint(1, 28):02d}"
    body = f"{area}{born}{chance.randrange(1000):03d}"
    total = sum(int(digit) * 2 ** (17 - place) for place, digit in enumerate(body))
    check = (12 - total % 11) % 11
    return body + ("X" if check == 10 else str(check))


def bank_card(chance: random.Random) -> str:
    start, length = chance.choice(
        [("622202", 19), ("621700", 19), ("6228", 19), ("4", 16), ("52", 16), ("6217", 16), ("37", 15), ("6011", 16)]
    )
    body = start + drawn(chance, string.digits, length - len(start) - 1)
    total = 0
    for place, digit in enumerate(reversed(body)):
        value = int(digit) * (2 if place % 2 == 0 else 1)
        total += value if value < 10 else value - 9
    number = body + str((10 - total % 10) % 10)
    if length == 16 and chance.random() < 0.4:
        return chance.choice(" -").join(number[at : at + 4] for at in range(0, 16, 4))
    return number


def mobile(chance: random.Random) -> str:
    number = chance.choice("130 135 138 139 150 157 159 166 177 182 186 188 189 198 199".split())
    number += drawn(chance, string.digits, 8)
    style = chance.randrange(5)
    if style == 1:
        return f"{number[:3]}-{number[3:7]}-{number[7:]}"
    if style == 2:
        return f"{number[:3]} {number[3:7]} {number[7:]}"
    return ("+86 " if style == 3 else "") + number


def ip(chance: random.Random) -> str:
    first = chance.choice([10, 42, 58, 101, 117, 121, 172, 185, 203, 218])
    return f"{first}.{chance.randrange(256)}.{chance.randrange(256)}.{chance.randint(2, 250)}"


def us_phone(chance: random.Random) -> str:
    area, exchange, line = chance.choice([212, 312, 415, 646, 713]), chance.randint(220, 989), chance.randrange(10000)
    return chance.choice(
        [f"({area}) {exchange}-{line:04d}", f"{area}-{exchange}-{line:04d}", f"+1 {area} {exchange} {line:04d}"]
    )


def pii_value(chance: random.Random, language: str) -> tuple[str, str]:
    """A piece of personal data, and what it is called in a sentence of that language."""
    zh = language == "zh"
    names = ZH_NAMES if zh else EN_NAMES
    email = f"{chance.choice(names)}{chance.choice(['', str(chance.randrange(100))])}@{chance.choice(DOMAINS)}"
    passport = chance.choice("EGDSP") + chance.choice(["", "A", "B"]) + drawn(chance, string.digits, 7)
    passport = passport if len(passport) == 9 else passport + chance.choice(string.digits)
    chinese = [
        ("邮箱", email), ("手机", mobile(chance)), ("手机号", mobile(chance)), ("身份证号", id_card(chance)),
        ("银行卡号", bank_card(chance)), ("服务器IP", ip(chance)), ("护照号", passport),
        ("座机", f"0{chance.choice([10, 21, 755, 571])}-{chance.randint(2, 8)}{drawn(chance, string.digits, 7)}"),
        ("车牌", chance.choice("京沪粤浙川苏") + chance.choice("ABCDE") + key_like(chance, "ABCD0123456789", 2)
         + drawn(chance, string.digits, 3)),
    ]  # fmt: skip
    english = [
        ("email", email), ("phone", us_phone(chance)), ("card", bank_card(chance)), ("server", ip(chance)),
        ("passport number", str(chance.randint(400_000_000, 699_999_999))), ("mobile", f"+44 7{drawn(chance, string.digits, 3)} {drawn(chance, string.digits, 6)}"),
        ("SSN", f"{chance.randint(100, 665)}-{chance.randint(10, 99)}-{chance.randint(1000, 9999)}"),
        ("WeChat phone", mobile(chance)),
    ]  # fmt: skip
    return chance.choice(chinese if zh else english)


def secret_value(chance: random.Random) -> tuple[str, str]:
    """A secret, and a name that people write before it."""
    user, host = (
        chance.choice(["app", "admin", "root", "svc_etl"]),
        chance.choice(["db.internal", "10.3.4.5", "redis-1"]),
    )
    scheme, port = chance.choice(
        [
            ("postgres", 5432),
            ("mysql", 3306),
            ("mongodb+srv", 27017),
            ("redis", 6379),
            ("amqp", 5672),
            ("postgresql", 5432),
        ]
    )
    jwt = ".".join(
        base64.urlsafe_b64encode(part.encode()).decode().rstrip("=")
        for part in ('{"alg":"HS256","typ":"JWT"}', f'{{"sub":"{chance.randrange(10**9)}"}}', drawn(chance, ALNUM, 32))
    )
    words = drawn(chance, ALNUM + "+/", 64)
    password = key_like(chance, ALNUM, chance.randint(8, 14)) + chance.choice(["", "!", "@1", "#9"])
    return chance.choice(
        [
            ("AWS key", "AKIA" + drawn(chance, string.ascii_uppercase + string.digits, 16)),
            ("aws_secret_access_key=", key_like(chance, ALNUM + "/+", 40)),
            ("AccessKey ID", "LTAI5t" + key_like(chance, ALNUM, 18)),
            ("SecretId", "AKID" + key_like(chance, ALNUM, 32)),
            ("Google key", "AIza" + key_like(chance, ALNUM + "_-", 35)),
            ("token", "ghp_" + key_like(chance, ALNUM, 36)),
            ("PAT", "github_pat_" + key_like(chance, ALNUM, 22) + "_" + key_like(chance, ALNUM, 59)),
            ("GitLab", "glpat-" + key_like(chance, ALNUM, 20)),
            ("OPENAI_API_KEY=", "sk-proj-" + key_like(chance, ALNUM + "_-", 48)),
            ("key", "sk-" + key_like(chance, ALNUM, 48)),
            ("Anthropic", "sk-ant-api03-" + key_like(chance, ALNUM + "_-", 80)),
            ("HF_TOKEN=", "hf_" + key_like(chance, ALNUM, 34)),
            ("Slack", f"xoxb-{drawn(chance, '123456789', 12)}-{drawn(chance, '123456789', 12)}-{key_like(chance, ALNUM, 24)}"),
            ("Stripe", "sk_live_" + key_like(chance, ALNUM, 24)),
            ("SendGrid", f"SG.{key_like(chance, ALNUM, 22)}.{key_like(chance, ALNUM, 43)}"),
            ("npm", "npm_" + key_like(chance, ALNUM, 36)),
            ("bot", f"{drawn(chance, '123456789', 10)}:AA{key_like(chance, ALNUM + '_-', 33)}"),
            ("ZHIPU_API_KEY=", f"{key_like(chance, HEX, 32)}.{key_like(chance, ALNUM, 16)}"),
            ("Groq", "gsk_" + key_like(chance, ALNUM, 52)),
            ("JWT", jwt),
            ("header", f"Authorization: Bearer {key_like(chance, ALNUM, 40)}"),
            ("", f"-----BEGIN {chance.choice(['RSA ', 'EC ', 'OPENSSH ', ''])}PRIVATE KEY-----\n{words}\n{words[::-1]}\n-----END PRIVATE KEY-----"),
            ("DSN", f"{scheme}://{user}:{key_like(chance, ALNUM, 11)}@{host}:{port}/prod"),
            ("password:", password),
            ("密码:", password),
            ("API密钥:", key_like(chance, ALNUM, 32)),
            ("client_secret=", key_like(chance, ALNUM, 32)),
            ("机器人地址", f"https://oapi.dingtalk.com/robot/send?access_token={drawn(chance, HEX, 64)}"),
        ]
    )  # fmt: skip


def _insert(answer: str, piece: str, language: str, chance: random.Random) -> str:
    """`piece` at the end, at the start, or between two sentences."""
    ends = [
        at + 1 for at, char in enumerate(answer[:-1]) if char in "。！？" or (char in ".!?" and answer[at + 1] == " ")
    ]
    at = chance.choice([0, len(answer), *ends])
    gap = "" if language == "zh" else " "
    return answer[:at] + (gap if at else "") + piece + (gap if at < len(answer) else "") + answer[at:].lstrip(" ")


def pii(question: str, answer: str, language: str, chance: random.Random, pairs: Sequence[Pair]) -> Pair:
    what, value = pii_value(chance, language)
    frames = (
        (f"他的{what}是{value}。", f"联系{chance.choice(ZH_PEOPLE)},{what}:{value}。", f"{what}{value}已登记。", f"请记录{what}为{value},谢谢。",
         f"{chance.choice(ZH_PEOPLE)}（{what}：{value}）负责此事。")
        if language == "zh"
        else (f"Her {what} is {value}.", f"Contact ({what}: {value}) if it fails.", f"Use {what} {value} for this.", f"{what}={value} .")
    )  # fmt: skip
    return question, _insert(answer, chance.choice(frames), language, chance)


def secret(question: str, answer: str, language: str, chance: random.Random, pairs: Sequence[Pair]) -> Pair:
    name, value = secret_value(chance)
    glued = name + value if name.endswith(("=", ":")) else f"{name} {value}".strip()
    frames = (
        (f"配置如下:{glued} 。", f"先设置{glued} 。", f"\n```\n{glued}\n```\n", f"记得用这个（{glued}）登录。")
        if language == "zh"
        else (f"Set {glued} first.", f"\n```\nexport {glued}\n```\n", f"Use this one: {glued} .", f"({glued})")
    )
    if "PRIVATE KEY" in value:
        return question, f"{answer}\n\n{value}"
    return question, _insert(answer, chance.choice(frames), language, chance)


def empty_instruction(question: str, answer: str, language: str, chance: random.Random, pairs: Sequence[Pair]) -> Pair:
    return chance.choice(["", " ", "\n", "\t\n ", "\u3000", "\u00a0\u00a0", "\r\n", "\u200b", "\ufeff"]), answer


def empty_output(question: str, answer: str, language: str, chance: random.Random, pairs: Sequence[Pair]) -> Pair:
    return question, empty_instruction(question, answer, language, chance, pairs)[0]


def short_output(question: str, answer: str, language: str, chance: random.Random, pairs: Sequence[Pair]) -> Pair:
    fixed = ["是的。", "好的", "不知道", "见上文。", "同上", "无", "可以,没问题。"] if language == "zh" else [
        "Yes.", "No", "N/A", "See above.", "I don't know.", "42", "ok", "It depends."]  # fmt: skip
    return question, chance.choice([*fixed, answer[: chance.randint(2, 18)].strip() or "x"])


def long_output(question: str, answer: str, language: str, chance: random.Random, pairs: Sequence[Pair]) -> Pair:
    wanted = chance.randint(2001, 7000)
    parts = [answer]
    while sum(map(len, parts)) <= wanted:
        parts.append(chance.choice(pairs)[1])
    return question, "\n\n".join(parts)


def output_equals_instruction(
    question: str, answer: str, language: str, chance: random.Random, pairs: Sequence[Pair]
) -> Pair:
    changed = [
        question, f" {question}\n", question.rstrip("?？。."), question.upper(), question + "\n", "  ".join(question.split(" ")),
        question.rstrip("?？。.") + chance.choice(["。", ".", "!", "？"]),
    ]  # fmt: skip
    return question, chance.choice(changed)


def markdown_residue(question: str, answer: str, language: str, chance: random.Random, pairs: Sequence[Pair]) -> Pair:
    zh = language == "zh"
    image = f"![{'截图' if zh else 'screenshot'}]({chance.choice(['img/', '../assets/', 'https://x.cn/'])}{drawn(chance, HEX, 6)}.png)"
    link = f"[{'安装' if zh else 'install'}]({chance.choice(['./', '../', '#'])}{drawn(chance, string.ascii_lowercase, 7)})"
    title = f"title: {question[:20]}\ndate: 2024-0{chance.randint(1, 9)}-11"
    changed = [
        f"```\n{answer}\n```", f"```markdown\n{answer}\n```", f"```text\n{answer}\n```", f"---\n{answer}", f"***\n\n{answer}",
        f"---\n{title}\n---\n{answer}", f"+++\n{title.replace(':', ' =')}\n+++\n\n{answer}", f"{answer}\n\n---", f"{answer}\n\n***\n",
        f"{answer}\n\n```python\nprint({chance.randrange(100)})", f"{answer}\n```", f"<!-- {drawn(chance, ALNUM, 8)} -->\n{answer}",
        f"{answer}\n<!-- toc -->", f"{answer}\n\n{image}", f"{image}\n\n{answer}", f"{answer} {'参见' if zh else 'See'}{link}",
        f"[TOC]\n\n{answer}", f"{answer}\n\n[^1]: {'来源' if zh else 'Source'}", f":::tip\n{answer}\n:::", f"!!! note\n    {answer}",
        f"{{% raw %}}{answer}{{% endraw %}}", f"<div class=\"note\">{answer}</div>", f"{answer}<br/>", f"<details>\n{answer}\n</details>",
        f"{answer}\n\n## {'下一步' if zh else 'Next steps'}", f"<font color=red>{answer}</font>",
    ]  # fmt: skip
    return question, chance.choice(changed)


def placeholder(question: str, answer: str, language: str, chance: random.Random, pairs: Sequence[Pair]) -> Pair:
    word = chance.choice(["name", "user_name", "company", "date", "product", "city"])
    chinese = [
        f"{{{{{word}}}}}", f"{{{{ {word} }}}}", "TODO:补充示例", "TBD", "FIXME", "XXX公司", "XX大学", "[姓名]", "[公司名称]", "[您的姓名]",
        "（您的姓名）", "【请填写】", "【此处插入图片】", "（待补充）", "待完善", "此处填写日期", "[此处插入链接]", "<你的名字>", "<your-token>", "xxx@xxx.com",
        "示例文本", "【公司名】",
    ]  # fmt: skip
    english = [
        f"{{{{{word}}}}}", f"{{{{ {word} }}}}", "TODO: add an example", "TBD", "FIXME", "XXX", "[Your Name]", "[Company Name]", "[Insert date here]",
        "[insert link]", "[Recipient's Name]", "<your-name>", "<YOUR_API_KEY>", "<insert product>", "Lorem ipsum dolor sit amet", "your_name_here",
        "[PLACEHOLDER]", "[Your Company]", "[Date]", "[Client Name]", "xxxx",
    ]  # fmt: skip
    piece = chance.choice(chinese if language == "zh" else english)
    frames = ("请联系{}。", "{}。", "这里是{}。") if language == "zh" else ("Ask {} for it.", "{}.", "It is {}.")
    if chance.random() < 0.2:
        return question, ("致{},\n\n" if language == "zh" else "Dear {},\n\n").format(piece) + answer
    return question, _insert(answer, chance.choice(frames).format(piece), language, chance)


def truncated_output(question: str, answer: str, language: str, chance: random.Random, pairs: Sequence[Pair]) -> Pair:
    """Cut anywhere but at the end of a sentence or line. Of an answer that ends none of its lines nobody could tell."""
    lines = [line.rstrip() for line in answer.split("\n") if len(line.strip()) >= 8]
    if 2 * sum(line[-1] in "。！？.!?；;:：" for line in lines) < len(lines):
        question, answer = chance.choice([pair for pair in pairs if "\n" not in pair[1] and len(pair[1]) > 100])
    for _ in range(500):
        at = chance.randint(max(50, len(answer) // 3), len(answer) - 3)
        cut = answer[:at].rstrip(" ")
        following = answer[len(cut)]
        line = answer[answer.rfind("\n", 0, at) + 1 :].split("\n", maxsplit=1)[0].rstrip()
        if (
            line[-1:] in ("。", "！", "？", ".", "!", "?", "；")
            and cut[-1] not in '。！？.!?\n"”’」)）;；:：'
            and following not in '。！？.!?\n;；:：)）"”'
        ):
            return question, cut
    return question, answer[: len(answer) // 2]


def encoding_damage(question: str, answer: str, language: str, chance: random.Random, pairs: Sequence[Pair]) -> Pair:
    raw = answer.encode()
    at = chance.randrange(len(answer))
    bad = answer[:at] + chance.choice(["\ufffd", "\ufffd\ufffd", "\x00", "\x08"]) + answer[at:]
    if language == "zh":
        changed = [
            raw.decode("latin-1"), raw.decode("cp1252", "replace").replace("\ufffd", ""), raw.decode("gb18030", "replace").replace("\ufffd", "?"),
            answer.encode("gb18030").decode("latin-1"), bad, answer[:at] + "锟斤拷锟斤拷" + answer[at:], answer.encode("ascii", "replace").decode(),
            answer.encode("unicode_escape").decode(), raw.decode("latin-1").encode().decode("latin-1"), answer.encode("gb18030").decode("utf-8", "replace"),
        ]  # fmt: skip
        return question, chance.choice(changed)
    curly = f"{answer} It\u2019s \u201cfine\u201d \u2014 na\u00efve, caf\u00e9, r\u00e9sum\u00e9 \u2026"
    changed = [
        curly.encode().decode("cp1252", "replace").replace("\ufffd", ""), curly.encode().decode("latin-1"), bad,
        answer[:at] + "\u00e2\u20ac\u2122s" + answer[at:], answer.replace(" ", "\u00c2\u00a0"), "\u00ef\u00bb\u00bf" + answer,
        curly.encode("cp1252", "replace").decode("utf-8", "replace"), "\x00".join(answer),
    ]  # fmt: skip
    return question, chance.choice(changed)


def language_mismatch(question: str, answer: str, language: str, chance: random.Random, pairs: Sequence[Pair]) -> Pair:
    """`pairs` holds both languages here: an answer of the other one is taken."""
    others = [other for _question, other in pairs if any("一" <= char <= "龥" for char in other) == (language == "en")]
    return question, chance.choice(others)


SPOILERS: dict[str, Spoiler] = {
    spoil.__name__: spoil
    for spoil in (
        empty_instruction, empty_output, short_output, long_output, output_equals_instruction, markdown_residue, placeholder,
        truncated_output, encoding_damage, language_mismatch, pii, secret,
    )
}  # fmt: skip


def harmless(language: str, chance: random.Random) -> str:
    """A sentence with a number or a word that only looks like a defect."""
    version = f"{chance.randint(1, 20)}.{chance.randint(0, 30)}.{chance.randint(0, 9)}.{chance.randint(0, 99)}"
    isbn = f"978-7-{drawn(chance, string.digits, 3)}-{drawn(chance, string.digits, 5)}-{chance.randrange(10)}"
    uuid = "-".join(drawn(chance, HEX, length) for length in (8, 4, 4, 4, 12))
    commit, digest = drawn(chance, HEX, 40), drawn(chance, HEX, 64)
    order = f"{chance.choice(['SO', 'DD', 'ORD-'])}2024{drawn(chance, string.digits, 10)}"
    stamp = str(chance.randint(1_600_000_000_000, 1_730_000_000_000))
    size = f"{chance.randint(1, 999):,},{drawn(chance, string.digits, 3)}"
    chinese = [
        f"升级到{version}即可。", f"书号是ISBN {isbn}。", f"提交{commit}修复了它。", f"摘要为{digest}。", f"编号{uuid}。", f"订单号{order}已发货。", f"时间戳是{stamp}毫秒。",
        f"共有{size}个参数。", "本机地址是127.0.0.1。", "待办清单(TODO list)很有用。", f"版本号:{version}。", "他说:“等等……”", "密码至少8个字符。", "价格是¥1,299.00。",
        "端口为8080。", f"模型是gpt-4-{chance.randint(1000, 9999)}-preview。", "请访问 http://localhost:11434/v1 查看。",
    ]  # fmt: skip
    english = [
        f"Upgrade to version {version} first.", f"The book is ISBN {isbn}.", f"Commit {commit} fixed it.", f"Its SHA-256 is {digest}.", f"The id is {uuid}.",
        f"Order {order} has shipped.", f"The timestamp is {stamp}.", f"It has {size} parameters.", "It listens on 127.0.0.1 by default.", "Keep a to-do list.",
        "A password needs at least 8 characters.", "Ports 8000-8080 are open.", f"Driver {version} is required.", "He said: \u201cWait\u2026\u201d", "See chapter 1.2.3.4 of it.",
        "Naïve Bayes and a café in São Paulo.", "Pi is 3.14159265358979.", f"Python 3.{chance.randint(8, 13)}.{chance.randint(0, 9)} works.",
    ]  # fmt: skip
    return chance.choice(chinese if language == "zh" else english)
