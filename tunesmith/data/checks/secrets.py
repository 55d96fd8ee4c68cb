"""Keys, tokens, passwords and connection strings that were pasted into notes."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tunesmith.data.checks.spans import Span

_KEY_LABEL = r"(?:[A-Z]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----"
_PRIVATE_KEY = re.compile(rf"-----BEGIN {_KEY_LABEL}[\s\S]*?(?:-----END {_KEY_LABEL}|\Z)")
# (placeholder, what must be in the text, pattern): the cheap test saves most texts the pattern.
_KEYS: tuple[tuple[str, tuple[str, ...], re.Pattern[str]], ...] = (
    ("AWS_KEY", ("AKIA", "ASIA"), re.compile(r"(?<![A-Za-z0-9])A(?:KI|SI)A[A-Z0-9]{16}(?![A-Za-z0-9])")),
    ("ALIYUN_KEY", ("LTAI",), re.compile(r"(?<![A-Za-z0-9])LTAI[A-Za-z0-9]{12,26}(?![A-Za-z0-9])")),
    ("TENCENT_KEY", ("AKID",), re.compile(r"(?<![A-Za-z0-9])AKID[A-Za-z0-9]{13,40}(?![A-Za-z0-9])")),
    ("GOOGLE_KEY", ("AIza",), re.compile(r"(?<![A-Za-z0-9])AIza[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])")),
    (
        "GITHUB_TOKEN",
        ("gh", "github_pat_"),
        re.compile(r"(?<![A-Za-z0-9])(?:gh[pousr]_[A-Za-z0-9]{30,255}|github_pat_[A-Za-z0-9_]{30,255})"),
    ),
    ("GITLAB_TOKEN", ("glpat-",), re.compile(r"(?<![A-Za-z0-9])glpat-[A-Za-z0-9_-]{20,}")),
    ("HF_TOKEN", ("hf_",), re.compile(r"(?<![A-Za-z0-9])hf_[A-Za-z0-9]{30,}")),
    ("NPM_TOKEN", ("npm_",), re.compile(r"(?<![A-Za-z0-9])npm_[A-Za-z0-9]{36}")),
    ("PYPI_TOKEN", ("pypi-",), re.compile(r"(?<![A-Za-z0-9])pypi-[A-Za-z0-9_-]{50,}")),
    ("SLACK_TOKEN", ("xox",), re.compile(r"(?<![A-Za-z0-9])xox[abeoprs]-[A-Za-z0-9-]{10,}")),
    ("STRIPE_KEY", ("k_live_", "k_test_"), re.compile(r"(?<![A-Za-z0-9])[rs]k_(?:live|test)_[A-Za-z0-9]{16,}")),
    ("API_KEY", ("sk-",), re.compile(r"(?<![A-Za-z0-9])sk-(?:proj-|ant-|svcacct-|or-)?[A-Za-z0-9_-]{20,}")),
    ("SENDGRID_KEY", ("SG.",), re.compile(r"(?<![A-Za-z0-9])SG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{16,64}")),
    ("TELEGRAM_TOKEN", (":AA",), re.compile(r"(?<![A-Za-z0-9])[0-9]{8,10}:AA[A-Za-z0-9_-]{32,35}(?![A-Za-z0-9])")),
    ("VOLCENGINE_KEY", ("AKLT",), re.compile(r"(?<![A-Za-z0-9])AKLT[A-Za-z0-9_-]{20,60}={0,2}")),
    ("TWILIO_KEY", ("SK", "AC"), re.compile(r"(?<![A-Za-z0-9])(?:SK|AC)[0-9a-f]{32}(?![A-Za-z0-9])")),
    (
        "API_KEY",
        (
            *("gsk_", "xai-", "pplx-", "r8_", "nvapi-", "tvly-", "dop_v1_", "shp", "dckr_pat_", "lin_api_", "ntn_"),
            *("dapi", "GOCSPX-", "ya29.", "sq0", "key-", "fc-", "glsa_", "figd_", "AGE-SECRET-KEY-"),
        ),
        re.compile(
            r"(?<![A-Za-z0-9])(?:(?:gsk_|xai-|pplx-|r8_|nvapi-|tvly-|dop_v1_|shp(?:at|ca|pa|ss)_|dckr_pat_|lin_api_|ntn_"
            r"|glsa_|figd_)[A-Za-z0-9_-]{20,200}|(?:dapi|key-|fc-)[0-9a-f]{32}|GOCSPX-[A-Za-z0-9_-]{20,40}"
            r"|ya29\.[A-Za-z0-9_-]{20,300}|sq0(?:atp|csp)-[A-Za-z0-9_-]{22,43}|AGE-SECRET-KEY-[A-Z0-9]{40,80})"
        ),
    ),
    ("API_KEY", (".",), re.compile(r"(?<![A-Za-z0-9])[0-9a-f]{32}\.[A-Za-z0-9]{16}(?![A-Za-z0-9])")),
    (
        "WEBHOOK",
        ("hooks.slack.com", "/webhooks/", "access_token=", "webhook/send?key=", "/bot/v2/hook/"),
        re.compile(
            r"https://(?:hooks\.slack\.com/(?:services|workflows)/[A-Za-z0-9/]{20,}"
            r"|discord(?:app)?\.com/api/webhooks/[0-9]{15,}/[\w-]{20,}"
            r"|oapi\.dingtalk\.com/robot/send\?access_token=[0-9a-f]{32,}"
            r"|qyapi\.weixin\.qq\.com/cgi-bin/webhook/send\?key=[\w-]{20,}"
            r"|open\.(?:feishu|larksuite)\.(?:cn|com)/open-apis/bot/v2/hook/[\w-]{20,})"
        ),
    ),
    ("TOKEN", ("eyJ",), re.compile(r"(?<![A-Za-z0-9])eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}")),
    ("TOKEN", ("earer ",), re.compile(r"(?<=[Bb]earer )[A-Za-z0-9._~+/-]{20,}=*")),
)
_CONNECTION = re.compile(
    r"(?<![A-Za-z0-9])[A-Za-z][A-Za-z0-9+.-]{1,30}://[^\s/:@'\"<>，。]{0,80}:([^\s/@'\"<>，。]{1,120})@[^\s'\"<>，。；)）]+"
)
_ACCOUNT_KEY = re.compile(r"(?:AccountKey|SharedAccessKey|[Pp]wd|[Pp]assword)=([!#-&(-:<-~]{8,})")
_NAME = (
    r"(?:(?i:password|passwd|pwd|passphrase|secret(?:[ _-]?(?:access)?[ _-]?key)?|api[ _-]?key"
    r"|access[ _-]?(?:token|key)|(?:auth|refresh|bot|session)[ _-]?token|private[ _-]?key"
    r"|client[ _-]?secret)|密码|口令|密钥|令牌|授权码)"
)
_NAMED_VALUE = re.compile(
    _NAME
    + r"[\"'`]?\s{0,3}(?:[:=：]{1,2}|是|为|(?<=[A-Za-z]) is )\s{0,3}[\"'`“「]?([A-Za-z0-9!#$%&*+./=?@^_~-]{8,200})"
)
_NAMES = (
    "passw",
    "pwd",
    "passphrase",
    "secret",
    "api",
    "access",
    "token",
    "private",
    "accountkey",
    "sharedaccesskey",
    "密码",
    "口令",
    "密钥",
    "令牌",
    "授权码",
)
_DUMMY = re.compile(
    r"(?i:\.\.\.|…|your|example|placeholder|change_?me|x{4}|^x{3}|\*\*\*|dummy|sample|insert|replace|redacted"
    r"|getenv|environ|process\.env|^\$|^%|^pass(?:word|wd)?\d{0,3}$|^secret$|^[a-z]*password[a-z]*$"
    r"|^(?:hmac|aes|rsa|sha|md5|base64|bcrypt|argon2|pbkdf2|utf)[-_]?\d|^hmac)|(.)\1{5}"
)
_CHANGES_CASE = re.compile("[a-z](?=[A-Z])")
_CALL = re.compile(r"[A-Za-z_][\w.]*\(")
_COMMON_PASSWORDS = {"password", "passwd", "pass", "pwd", "secret"}


def secret_spans(text: str) -> Iterator[Span]:
    """Secrets of a text, the surest kinds first; spans may overlap."""
    if "PRIVATE KEY" in text:
        for match in _PRIVATE_KEY.finditer(text):
            yield Span(match.start(), match.end(), "PRIVATE_KEY")
    if "://" in text and "@" in text:
        for match in _CONNECTION.finditer(text):
            if not _is_dummy(match[1]):
                yield Span(match.start(), match.end(), "CONNECTION_STRING")
    for kind, marks, pattern in _KEYS:
        if any(mark in text for mark in marks):
            for match in pattern.finditer(text):
                # Documentation writes sk-xxxxxxxx and ghp_your_token_here; words alone are no key.
                if kind == "AWS_KEY" or (_is_random(match[0]) and not _is_dummy(match[0])):
                    yield Span(match.start(), match.end(), kind)
    lowered = text.lower()
    if any(name in lowered for name in _NAMES):
        yield from _named_values(text)


def _named_values(text: str) -> Iterator[Span]:
    for pattern in (_ACCOUNT_KEY, _NAMED_VALUE):
        for match in pattern.finditer(text):
            value = match[1].rstrip(".")
            mixed = any(map(str.isdigit, value)) and any(map(str.isalpha, value))
            # Code, as in `password = getpass2(`.
            called = text[match.end(1) : match.end(1) + 1] in ("(", "[") or _CALL.match(value)
            if mixed and len(value) >= 8 and not called and not _is_dummy(value):
                yield Span(match.start(1), match.start(1) + len(value), "PASSWORD")


def _is_random(value: str) -> bool:
    """Whether a key holds digits, or capitals amid small letters (some kinds are letters only): no words do."""
    return any(map(str.isdigit, value)) or len(_CHANGES_CASE.findall(value)) >= 4


def _is_dummy(value: str) -> bool:
    return (
        value.startswith(("$", "{", "<", "[", "%")) or value.lower() in _COMMON_PASSWORDS or bool(_DUMMY.search(value))
    )
