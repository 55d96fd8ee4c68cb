"""Held-out planted defects: written from the list of checks alone, before its author had read how the checks work.

`defects(pairs, seed, count)` gives rows with one defect each, `harmless_heldout.look_alikes` rows that only look like
one. Carriers are real rows that a plain rule calls clean (`is_clean`), never the checks. Each row names its kind, so
that misses can be read by kind. Since the first measurement the checks were mended for kinds that they missed, so only
that first one was truly held out; later seeds and other carriers show how far the mending carries. Keep this file as
it is: a generator tuned to the checks measures nothing.
"""

# ruff: noqa: E501 (tables of text, one entry a line)

from __future__ import annotations

import random
import re
import string
from collections.abc import Callable, Iterator
from typing import NamedTuple

Pair = tuple[str, str]


class Planted(NamedTuple):
    """`check` is what must be found (empty: nothing may be), `kind` how it was made."""

    check: str
    language: str
    kind: str
    question: str
    answer: str


HAN = re.compile(r"[\u4e00-\u9fff]")
SENTENCE = {"en": re.compile(r"(?<=[.!?])\s+(?=[A-Z])"), "zh": re.compile(r"(?<=[。！？])")}


def is_clean(question: str, answer: str, language: str) -> bool:
    """Whether a careful reader would see nothing: prose in one language, whole, without marks or long numbers."""
    both = question + answer
    share = len(HAN.findall(answer)) / max(1, len(re.sub(r"\s", "", answer)))
    return (
        80 <= len(answer) <= 1500
        and 8 <= len(question) <= 600
        and answer.rstrip()[-1] in ".!?。！？"
        and (share > 0.6 if language == "zh" else share == 0 and both.isascii())
        and bool(HAN.search(question)) == (language == "zh")
        and not re.search(r"[{}\[\]<>`*#|_@\\~^=]|\d{6}|https?:|\.\.\.|…|_{2}|\bX{2,}\b|[×xX]{2,}", both)
        and not re.search(
            r"(?i)translat|languag|english|chinese|french|spanish|german|翻译|英|中文|语言|词|句", question
        )
        and not re.search(r"[,;:，；：、]\s*$", answer)
    )


def pieces(answer: str, language: str) -> list[str]:
    return [part for part in SENTENCE[language].split(answer) if part.strip()]


def put(answer: str, extra: str, language: str, chance: random.Random, glue: str | None = None) -> str:
    """`extra` before, between or after the sentences of `answer`."""
    parts = pieces(answer, language)
    parts.insert(chance.randint(0, len(parts)), extra)
    return (glue if glue is not None else " " if language == "en" else "").join(parts)


def letters(chance: random.Random, count: int, alphabet: str = string.ascii_letters + string.digits) -> str:
    return "".join(chance.choice(alphabet) for _ in range(count))


def digits(chance: random.Random, count: int) -> str:
    return letters(chance, count, string.digits)


# --- private data ---

NAMES = ["wei.zhang", "m.oconnor", "liuyang1987", "sara_k", "thomas-mueller", "chen", "j.p.ortiz", "priya99"]
HOSTS = ["gmail.com", "qq.com", "163.com", "outlook.de", "uni-mainz.de", "acme-parts.co.uk", "foxmail.com", "corp.io"]


def id_card(chance: random.Random) -> str:
    body = chance.choice(["110105", "310104", "440305", "510107", "330106"])
    body += f"{chance.randint(1950, 2008)}{chance.randint(1, 12):02}{chance.randint(1, 28):02}{digits(chance, 3)}"
    weights = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2]
    return body + "10X98765432"[sum(int(d) * w for d, w in zip(body, weights, strict=True)) % 11]


def bank_card(chance: random.Random) -> str:
    body = chance.choice(["622202", "621700", "4539", "5425", "4916"])
    body += digits(chance, (18 if body.startswith("62") else 15) - len(body))
    total = 0
    for place, digit in enumerate(reversed(body)):
        value = int(digit) * (2 if place % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return body + str(-total % 10)


def spaced(number: str) -> str:
    return " ".join(number[at : at + 4] for at in range(0, len(number), 4))


def mobile(chance: random.Random) -> str:
    return chance.choice(["138", "139", "150", "177", "186", "199", "166"]) + digits(chance, 8)


def public_ip(chance: random.Random) -> str:
    return f"{chance.choice([47, 52, 101, 118, 203, 81])}." + ".".join(str(chance.randint(11, 250)) for _ in range(3))


def _grouped_mobile(chance: random.Random) -> str:
    number, gap = mobile(chance), chance.choice([" ", "-"])
    return gap.join((number[:3], number[3:7], number[7:]))


PRIVATE: dict[str, Callable[[random.Random], str]] = {
    "e-mail": lambda c: f"{c.choice(NAMES)}@{c.choice(HOSTS)}",
    "e-mail capitals": lambda c: f"{c.choice(NAMES)}+news@{c.choice(HOSTS)}".upper(),
    "mobile": mobile,
    "mobile +86": lambda c: c.choice(["+86", "+86 ", "0086-", "(+86) "]) + mobile(c),
    "mobile grouped": _grouped_mobile,
    "id card": id_card,
    "bank card": bank_card,
    "bank card spaced": lambda c: spaced(bank_card(c)),
    "landline": lambda c: c.choice(["010-6", "021-5", "0755-8", "(010) 8"]) + digits(c, 7),
    "phone us": lambda c: c.choice(["({}) {}-{}", "{}-{}-{}", "+1 {} {} {}", "+1-{}-{}-{}"]).format(
        c.choice(["212", "415", "617", "312"]), c.randint(221, 499), digits(c, 4)
    ),
    "phone abroad": lambda c: c.choice(["+44 20 7{} {}", "+49 30 2{} {}", "+33 1 4{} {}"]).format(
        digits(c, 3), digits(c, 4)
    ),
    "ip": public_ip,
    "passport": lambda c: c.choice(["E", "G", "EA", "EJ"]) + digits(c, 8),
}
SAYING: dict[str, list[str]] = {
    "en": ["Contact {}.", "You can reach her at {} on weekdays.", "({})", "Customer: Li Na, {}, Shenzhen.", "{}: ask."],
    "zh": ["联系方式：{}。", "有问题请找我{}谢谢。", "（王女士 {}）", "客户李娜，{}，深圳市南山区。", "请发到{}即可。"],
}
NAMED = {
    "ip": {"en": ["The login came from {}.", "Server IP: {}"], "zh": ["登录来自{}。", "服务器IP地址为{}，请放行。"]},
    "passport": {"en": ["Passport No. {}.", "passport number: {}"], "zh": ["护照号码：{}。", "他的护照号是{}。"]},
    "id card": {"en": ["ID number {}.", "National ID: {}"], "zh": ["身份证号{}。", "身份证：{}，已核验。"]},
    "bank card": {"en": ["Card: {}.", "Pay to account {}"], "zh": ["卡号{}。", "请转账到{}。"]},
    "bank card spaced": {"en": ["Card: {}.", "Pay to account {}"], "zh": ["卡号{}。", "请转账到{}。"]},
    "landline": {"en": ["Tel. {}.", "Call our office on {}"], "zh": ["电话{}。", "办公室座机：{}，欢迎来电。"]},
    "phone us": {"en": ["Call {}.", "Phone: {}"], "zh": ["电话{}。", "美国联系电话：{}。"]},
    "phone abroad": {"en": ["Call {}.", "Phone: {}"], "zh": ["电话{}。", "海外电话：{}。"]},
}


# --- secrets (made up at run time, so that no file holds anything that looks like one) ---

B64 = string.ascii_letters + string.digits + "+/"
SECRET: dict[str, Callable[[random.Random], str]] = {
    "aws id": lambda c: "AK" + "IA" + letters(c, 16, string.ascii_uppercase + "234567"),
    "aws secret": lambda c: "aws_secret_access_key = " + letters(c, 40, B64),
    "github": lambda c: c.choice(["ghp_", "gho_", "ghs_"]) + letters(c, 36),
    "github fine": lambda c: "github_pat_" + letters(c, 22) + "_" + letters(c, 59),
    "gitlab": lambda c: "glpat-" + letters(c, 20),
    "slack": lambda c: f"xoxb-{digits(c, 12)}-{digits(c, 12)}-{letters(c, 24)}",
    "openai": lambda c: c.choice(["sk-" + letters(c, 48), "sk-proj-" + letters(c, 74)]),
    "anthropic": lambda c: "sk-ant-api03-" + letters(c, 93),
    "google": lambda c: "AIza" + letters(c, 35),
    "stripe": lambda c: "sk_" + "live_" + letters(c, 24),
    "hugging face": lambda c: "hf_" + letters(c, 34, string.ascii_letters),
    "npm": lambda c: "npm_" + letters(c, 36),
    "jwt": lambda c: f"eyJ{letters(c, 33)}.eyJ{letters(c, 60)}.{letters(c, 43)}",
    "pem": lambda c: "\n".join(
        [
            "-----BEGIN RSA PRIVATE" + " KEY-----",
            *(letters(c, 64, B64) for _ in range(4)),
            "-----END RSA PRIVATE KEY-----",
        ]
    ),
    "openssh": lambda c: (
        "-----BEGIN OPENSSH PRIVATE" + " KEY-----\n" + letters(c, 70, B64) + "\n" + letters(c, 70, B64)
    ),
    "postgres": lambda c: f"postgresql://app_rw:{letters(c, 12)}@db{c.randint(1, 9)}.corp.io:5432/orders",
    "mongodb": lambda c: f"mongodb+srv://admin:{letters(c, 10)}@cluster0.{letters(c, 5).lower()}.mongodb.net/test",
    "redis": lambda c: f"redis://:{letters(c, 16)}@10.2.{c.randint(1, 99)}.7:6379/0",
    "url login": lambda c: f"https://deploy:{letters(c, 14)}@git.corp.io/infra.git",
    "aliyun": lambda c: "LT" + "AI" + letters(c, 20),
    "tencent": lambda c: "SecretId: AK" + "ID" + letters(c, 32),
    "azure": lambda c: (
        f"DefaultEndpointsProtocol=https;AccountName=st{c.randint(1, 9)};AccountKey={letters(c, 86, B64)}=="
    ),
    "password set": lambda c: c.choice(['password = "{}"', "DB_PASSWORD={}", "passwd: '{}'", "密码：{}"]).format(
        letters(c, 9) + c.choice("!#$%&") + digits(c, 2)
    ),
    "bearer": lambda c: "Authorization: Bearer " + letters(c, 40),
    "api key set": lambda c: c.choice(["api_key: {}", 'API_KEY="{}"', '"apiKey": "{}"', "X-Api-Key: {}"]).format(
        letters(c, 32, string.hexdigits.lower())
    ),
}
HIDING = {
    "en": ["Use this: {}", "Set it in the config:\n{}\nThen restart.", "```\n{}\n```", "Mine is {} , it works."],
    "zh": ["请使用：{}", "在配置里写入：\n{}\n然后重启。", "```\n{}\n```", "我的是{}，可以直接用。"],
}


# --- text that was not finished or not filled in ---

BLANKS = {
    "en": """{{{{company_name}}}}|{{name}}|[Your Name]|[insert date here]|<your email>|[Company Name]|TODO: add the rest|TBD
        |[PLACEHOLDER]|Lorem ipsum dolor sit amet, consectetur adipiscing elit.|<INSERT TEXT>|${{product}}|%(user)s|FIXME
        |[City, State]|(insert example)|{{% user.name %}}|XXXX|[TODO]|to be added|<NAME>|[Recipient's Name]|___________""",
    "zh": """{{{{公司名称}}}}|{{name}}|【公司名称】|[您的姓名]|[插入日期]|待补充|此处填写具体内容|TODO|（待完善）|<你的名字>|XX公司
        |[公司名]|{{{{ author }}}}|（请在此处填写）|$"""
    + """{{product}}|[日期]|某某公司XXX|【待定】|内容待填|[请填写地址]|____年__月__日|占位符|[客户姓名]""",
}
BLANK_FORMS = {
    "en": ["Dear {},", "Best regards, {}", "Our product {} is ready.", "{}", "Note: {}", "It was made by {} in 2019."],
    "zh": ["尊敬的{}:", "此致，{}", "我们的产品{}已经上线。", "{}", "备注：{}", "它由{}于2019年开发。"],
}

RESIDUE = {
    "en": """![screenshot](images/step-2.png)|![](./assets/logo.svg)|See [the guide](../setup/install.md).|<!-- more -->
        |As said before[^3].|{#section-two}|:::tip|[TOC]|<br/>|[[Install Notes]]|See [here](#usage).|&nbsp;|<div align="center">
        |{: .no_toc }|</details>|[link text][ref-1]|[ref-1]: docs/a.md|!!! note|<img src="a.png" width="300">|{{% hint %}}
        |<a name="top"></a>|:::|[Back to top](#top)|{{< figure src="x.png" >}}""",
    "zh": """![截图](images/step-2.png)|![](./assets/logo.svg)|详见[安装指南](../setup/install.md)。|<!-- 更多 -->|如前所述[^3]。
        |{#section-two}|:::tip|[TOC]|<br/>|[[安装笔记]]|见[这里](#usage)。|&nbsp;|<div align="center">|参照文档：[部署](deploy.md)
        |</details>|[链接][ref-1]|[ref-1]: docs/a.md|!!! note|<img src="a.png" width="300">|[返回顶部](#top)|:::|[toc]
        |<a name="top"></a>""",
}


def options(table: str) -> list[str]:
    return [part.strip() for part in table.split("|") if part.strip()]


def _placeholder(q: str, a: str, language: str, c: random.Random) -> tuple[str, str, str]:
    blank = c.choice(options(BLANKS[language])).replace("{{", "{").replace("}}", "}")
    extra = c.choice(BLANK_FORMS[language]).replace("{}", blank)
    if c.random() < 0.15:
        return blank, put(q, extra, language, c), a
    return blank, q, put(a, extra, language, c, c.choice([None, "\n\n"]))


def _residue(q: str, a: str, language: str, c: random.Random) -> tuple[str, str, str]:
    made = c.randint(0, 5)
    if made == 0:
        return "front matter", q, f"---\ntitle: {q[:20]}\nsidebar_position: {c.randint(1, 9)}\n---\n\n{a}"
    if made == 1:
        return "open fence", q, put(a, c.choice(["```python", "```", "~~~"]), language, c, "\n")
    mark = c.choice(options(RESIDUE[language]))
    return mark, q, put(a, mark, language, c, c.choice(["\n\n", "\n", None]))


LEFT_OPEN = {
    "en": ["and", "because the", "such as", "for example,", "the following:", "(see", "which", "of", '"I think', "3."],
    "zh": ["并且", "因为", "例如", "包括以下几点：", "(见", "其中", "的话，", "“我认为", "3.", "以及"],
}


def _truncated(q: str, a: str, language: str, c: random.Random) -> tuple[str, str, str]:
    """Cut well inside a sentence, at least 5 characters from its ends, with most of the answer before it."""
    parts = pieces(a, language)
    long = [at for at, part in enumerate(parts) if len(part) >= (14 if language == "zh" else 40)]
    at = c.choice(long or [len(parts) - 1])
    part = parts[at]
    cut = part[: c.randint(5, max(6, len(part) - 5))]
    before = (" " if language == "en" else "").join(parts[:at])
    before = before + (" " if language == "en" and before else "")
    made = c.randint(0, 9)
    if made <= 4:  # as a token limit leaves it
        return "token limit", q, (before + cut).rstrip(" ,，.。")
    if made <= 6:  # between words (Chinese: at a comma where there is one)
        stop = max(cut.rfind(" " if language == "en" else "，"), 5)
        return "between words", q, (before + cut[: stop + 1]).rstrip(" ")
    if made == 7:
        return "list", q, f"{a}\n\n1. {parts[0].strip()}\n2. {cut.strip()}\n3."
    if made == 8:
        return (
            "code",
            q,
            f"{a}\n\n```python\ndef total(items):\n    result = 0\n    for item in items:\n        result +=",
        )
    return "left open", q, a.rstrip() + (" " if language == "en" else "") + c.choice(LEFT_OPEN[language])


# --- damage to characters ---

WORDS = {
    "en": ["café", "naïve", "it’s", "“quoted”", "São Paulo", "5 €", "Zürich — north", "résumé"],
    "zh": ["模型训练", "数据", "“引号”", "用户手册", "深圳市南山区"],
}


def _damage(word: str, language: str, c: random.Random) -> tuple[str, str]:
    raw = word.encode()
    made = c.randint(0, 6)
    if made == 0:
        return "utf-8 as cp1252", raw.decode("cp1252", "replace") if language == "zh" else raw.decode(
            "cp1252", "ignore"
        )
    if made == 1:
        return "utf-8 as latin-1", raw.decode("latin-1")
    if made == 2:
        return "replacement", "".join("\ufffd" if ord(ch) > 127 else ch for ch in word)
    if made == 3 and language == "zh":
        return "utf-8 as gbk", raw.decode("gbk", "replace")
    if made == 3:
        return "twice encoded", raw.decode("latin-1").encode().decode("latin-1")
    if made == 4:
        return "escapes", word.encode("unicode_escape").decode()
    if made == 5:
        return "control", word[:2] + c.choice("\x00\x08\x1b\x07\x02") + word[2:]
    return (
        ("gbk as latin-1", word.encode("gbk", "ignore").decode("latin-1"))
        if language == "zh"
        else ("cp1252 as utf-8", word.encode("cp1252").decode("utf-8", "replace"))
    )


def _encoding(q: str, a: str, language: str, c: random.Random) -> tuple[str, str, str]:
    if c.random() < 0.2:  # the whole answer was read wrongly
        kind, wrong = (
            ("whole gbk", a.encode().decode("gbk", "replace"))
            if language == "zh"
            else ("nul bytes", a.encode("utf-16-le").decode("latin-1"))
        )
        return kind, q, wrong
    word = c.choice(WORDS[language])
    kind, wrong = _damage(word, language, c)
    form = c.choice(
        ["The word {} is used here.", "He said {} twice.", "{}."]
        if language == "en"
        else ["其中{}很重要。", "关于{}的说明。"]
    )
    return kind, q, put(a, form.format(wrong), language, c)


# --- other languages ---

FOREIGN = {
    "French": "Pour commencer, il faut préparer les ingrédients et chauffer le four. Ensuite, mélangez la farine et le sucre.",
    "German": "Zuerst müssen die Zutaten vorbereitet werden. Danach wird der Ofen auf zweihundert Grad geheizt und gewartet.",
    "Spanish": "Primero hay que preparar los ingredientes y calentar el horno. Después se mezcla la harina con el azúcar.",
    "Russian": "Сначала нужно подготовить все продукты и разогреть духовку. Затем смешайте муку с сахаром и добавьте яйца.",
    "Japanese": "まず材料を準備して、オーブンを温めます。次に小麦粉と砂糖を混ぜて、卵を加えてください。最後に焼きます。",
    "Korean": "먼저 재료를 준비하고 오븐을 예열합니다. 그 다음 밀가루와 설탕을 섞고 달걀을 넣어 주세요. 마지막으로 굽습니다.",
}


def _mismatch(q: str, a: str, language: str, c: random.Random, other: list[Pair]) -> tuple[str, str, str]:
    made = c.random()
    if made < 0.55:
        return "the other's answer", q, c.choice(other)[1]
    if made < 0.75:  # it begins rightly and goes on in the other language
        return "changes over", q, pieces(a, language)[0] + "\n\n" + "\n".join(c.choice(other)[1] for _ in range(2))
    name = c.choice(list(FOREIGN))
    return name, q, FOREIGN[name]


# --- empty, short, long, the same ---

NOTHING = ["", " ", "\n", "\n\n  \t", "\u3000\u3000", "\u200b", "\xa0\n", "\ufeff", "\r\n\r\n", "\u2003"]
BRIEF = {
    "en": ["Yes.", "No", "OK", "See above.", "42", "I don't know.", "Done!", "It depends.", "Same as before."],
    "zh": ["好的。", "是", "不知道", "见上文。", "42", "同上", "已完成！", "看情况吧。", "以上就是答案。"],
}


def _brief(q: str, a: str, language: str, c: random.Random) -> tuple[str, str, str]:
    if c.random() < 0.5:
        return "fixed", q, c.choice(BRIEF[language])
    stop = c.randint(4, 17)
    return "cut", q, a[:stop].rstrip(" ,.，。") + ("." if language == "en" else "。")


def _same(q: str, a: str, language: str, c: random.Random) -> tuple[str, str, str]:
    forms: dict[str, Callable[[str], str]] = {
        "copy": lambda t: t,
        "case": lambda t: t.upper() if c.random() < 0.5 else t.lower(),
        "space": lambda t: f"\n{t}  ",
        "stop": lambda t: t.rstrip("?.!。？！") + c.choice([".", "?", "。", "", "！"]),
        "quotes": lambda t: f"“{t}”" if language == "zh" else f'"{t}"',
        "wide": lambda t: t.replace("，", ",").replace("？", "?").replace("。", ".").replace(" ", "  "),
        "lines": lambda t: t.replace(" ", "\n", 1).replace("，", "，\n", 1),
    }
    kind = c.choice(list(forms))
    return kind, q, forms[kind](q)


def _private(q: str, a: str, language: str, c: random.Random) -> tuple[str, str, str]:
    kind = c.choice(list(PRIVATE))
    says = NAMED.get(kind, {}).get(language) or SAYING[language]
    extra = c.choice(says).format(PRIVATE[kind](c))
    if c.random() < 0.2:
        return kind, put(q, extra, language, c), a
    return kind, q, put(a, extra, language, c)


def _secret(q: str, a: str, language: str, c: random.Random) -> tuple[str, str, str]:
    kind = c.choice(list(SECRET))
    extra = c.choice(HIDING[language]).replace("{}", SECRET[kind](c))
    if c.random() < 0.2:
        return kind, q + "\n" + extra, a
    return kind, q, put(a, extra, language, c, "\n")


def defects(pairs: dict[str, list[Pair]], seed: int, count: int) -> Iterator[Planted]:
    """`count` rows a check and language, from clean `pairs`."""
    makers: dict[str, Callable[[str, str, str, random.Random], tuple[str, str, str]]] = {
        "empty_instruction": lambda q, a, la, c: ("nothing", c.choice(NOTHING), a),
        "empty_output": lambda q, a, la, c: ("nothing", q, c.choice(NOTHING)),
        "short_output": _brief,
        "output_equals_instruction": _same,
        "markdown_residue": _residue,
        "placeholder": _placeholder,
        "truncated_output": _truncated,
        "encoding_damage": _encoding,
        "pii": _private,
        "secret": _secret,
    }
    for language, own in pairs.items():
        other = pairs["zh" if language == "en" else "en"]
        for check in [*makers, "language_mismatch", "long_output"]:
            c = random.Random(f"{seed} {check} {language}")
            for _ in range(count):
                q, a = c.choice(own)
                if check == "language_mismatch":
                    kind, q, a = _mismatch(q, a, language, c, other)
                elif check == "long_output":
                    kind, length = "joined", c.randint(2050, 6000)
                    while len(a) <= length:
                        a += "\n\n" + c.choice(own)[1]
                else:
                    kind, q, a = makers[check](q, a, language, c)
                yield Planted(check, language, kind, q, a)
