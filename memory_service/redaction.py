"""Secrets in texts: found by their exact forms, and put out of sight as `[redacted:kind]`. In linear time, no I/O.

Nothing that is derived from a text holds them: no prompt, extract, summary, insight or chunk, no text that is embedded,
no copy in an engine. The text itself, as its caller stored it, stays as it is.

A form is exact: a prefix that nothing else has, a checksum, or a word before it that says what it is. What merely looks
random is left alone: hashes, UUIDs and order numbers are no secrets.
"""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Callable
from functools import partial
from threading import Lock
from typing import Any, NamedTuple

from msgspec.structs import replace

from memory_service.values import Memory, Turn


class Form(NamedTuple):
    """What is matched is a secret of this kind, or its group is, if `holds` says so.

    `hints`: one of these is in it, in small letters, so that most texts need no closer look.
    """

    kind: str
    pattern: re.Pattern[str]
    hints: tuple[str, ...]
    holds: Callable[[str], bool]


def form(kind: str, pattern: str, *hints: str, holds: Callable[[str], bool] = lambda found: True) -> Form:
    return Form(kind, re.compile(pattern), hints, holds)


_ISSUERS = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}|3[47]\d{13}"
    r"|3(?:0[0-5]|[689]\d)\d{11}|(?:6011|65\d\d|64[4-9]\d|35\d\d)\d{12}|62\d{14,17}"
)
"""First digits and lengths that payment cards have."""


def is_card(found: str) -> bool:
    digits = re.sub(r"[ -]", "", found)
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits))]
    luhn = sum(number // 10 + number % 10 for number in doubled) % 10 == 0
    return luhn and bool(_ISSUERS.fullmatch(digits))


def is_iban(found: str) -> bool:
    compact = found.replace(" ", "")
    moved = "".join(str(int(letter, 36)) for letter in compact[4:] + compact[:4])
    return 15 <= len(compact) <= 34 and int(moved) % 97 == 1


def is_jwt(found: str) -> bool:
    head = found.partition(".")[0]
    try:
        return "alg" in json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    except (ValueError, TypeError, RecursionError):
        return False


_BLOCK = r"[A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
_WITH_DIGIT = r"(?=[^\s\d]{0,200}\d)"
"""Before what a word alone makes a secret: of "password: required" nothing is."""
_VALUE = r"(?!\[redacted:)([^\s\"'`,;<>]{4,200})"
_GAP, _QUOTE = r"[ \t]{0,5}", r"[\"'`]?"
_WORD = (
    r"(?i:passwords?|passwd|pwd|passphrase|passwort|kennwort|mot de passe|contraseña|senha|пароль|密码|パスワード"
    r"|(?:api|access|account|secret|private|signing|encryption)[ _-]?key|client[ _-]?secret"
    r"|(?:access|auth|refresh|bearer|api)[ _-]?token)"
)
_WORD_HINTS = (
    *("passw", "pwd", "passphrase", "kennwort", "mot de passe", "contraseña", "senha", "пароль", "密码", "パスワード"),
    *("key", "secret", "token"),
)
_SAYS = r"(?:[:：]|\bis\b|\bwas\b|\bist\b|\best\b|\bes\b|是)"

FORMS: tuple[Form, ...] = (
    form("private_key", rf"-----BEGIN {_BLOCK}[\s\S]*?(?:-----END {_BLOCK}|\Z)", "-----begin "),
    form("password", r"(?<=://)[^\s/:@]{0,100}:(?!\[redacted:)([^\s/@]{1,200})(?=@)", "://"),
    form("service_key", r"\bmem_[A-Za-z0-9]{6,16}_[\w-]{16,200}", "mem_"),
    form("aws_key", r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}\b", "akia", "asia", "abia", "acca"),
    form("azure_key", r"\b(?:Account|SharedAccess)Key=([A-Za-z0-9+/]{40,100}={0,2})", "key="),
    form("azure_key", r"[?&]sig=([A-Za-z0-9%+/]{40,120}={0,2})", "sig="),
    form("azure_secret", r"(?<![\w~.-])[\w~.-]{3}\dQ~[\w~.-]{31,34}(?![\w~])", "q~"),
    form("google_key", r"\bAIza[\w-]{35}(?![\w-])", "aiza"),
    form("google_key", r"\bya29\.[\w-]{20,500}|\bGOCSPX-[\w-]{28}(?![\w-])", "ya29.", "gocspx-"),
    form("github_token", r"\bgh[pousr]_[A-Za-z0-9]{36,255}\b", "ghp_", "gho_", "ghu_", "ghs_", "ghr_"),
    form("github_token", r"\bgithub_pat_\w{82}\b", "github_pat_"),
    form("gitlab_token", r"\bgl(?:pat|ptt|dt|rt|cbt|ft|soat|agent|oas|imt)-[\w.-]{20,300}", "gl"),
    form("slack_token", r"\bxox[abeoprs]-[A-Za-z0-9-]{10,250}|\bxapp-\d-[A-Za-z0-9-]{10,250}", "xox", "xapp-"),
    form("slack_token", r"hooks\.slack\.com/(?:services|workflows)/([A-Za-z0-9/]{20,200})", "hooks.slack.com"),
    form("stripe_key", r"\b(?:[rs]k_(?:live|test)|whsec)_[A-Za-z0-9]{16,250}\b", "k_live_", "k_test_", "whsec_"),
    form("model_key", r"\bsk-(?:ant|proj|svcacct|admin|or)-[\w-]{20,300}|\bsk-[A-Za-z0-9]{32,100}\b", "sk-"),
    form("model_key", r"\bhf_[A-Za-z0-9]{30,60}\b", "hf_"),
    form("package_token", r"\bnpm_[A-Za-z0-9]{36}\b|\bpypi-AgEI[\w-]{50,300}", "npm_", "pypi-agei"),
    form("mail_key", r"\bSG\.[\w-]{16,32}\.[\w-]{16,64}", "sg."),
    form("bot_token", r"\b\d{8,10}:AA[\w-]{33}(?![\w-])", ":aa"),
    form(
        "cloud_token", r"\bdo[opr]_v1_[0-9a-f]{64}\b|\bdapi[0-9a-f]{32}\b|\bhvs\.[\w-]{24,200}", "_v1_", "dapi", "hvs."
    ),
    form("jwt", r"(?<![\w-])eyJ[\w-]{8,2000}+(?:\.[\w-]{0,20000}+){2,4}", "eyj", holds=is_jwt),
    form("authorization", rf"(?i:\b(?:bearer|basic)) {{1,5}}{_WITH_DIGIT}([\w.~+/=-]{{16,4000}})", "bearer", "basic"),
    form("password", rf"{_WORD}{_QUOTE}{_GAP}=>?{_GAP}{_QUOTE}{_VALUE}", *_WORD_HINTS),
    form("password", rf"{_WORD}{_QUOTE}{_GAP}{_SAYS}{_GAP}{_QUOTE}{_WITH_DIGIT}{_VALUE}", *_WORD_HINTS),
    form("card", r"(?<![\w.+-])\d(?:[ -]?\d){12,18}(?![\w-])", holds=is_card),
)
IBAN = form("iban", r"\b[A-Z]{2}\d\d(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b", holds=is_iban)


class Redactor:
    """Takes secrets out of texts, and counts them by kind. For any thread."""

    def __init__(self, forms: tuple[Form, ...] = FORMS) -> None:
        self._forms = forms
        self._counted: Counter[str] = Counter()
        self._lock = Lock()

    def text(self, text: str) -> str:
        """The text without secrets."""
        small, found = text.lower(), Counter[str]()
        for one in self._forms:
            if _may_hold(small, one.hints):
                text = one.pattern.sub(partial(_put_out_of_sight, one, found), text)
        if found:
            with self._lock:
                self._counted += found
        return text

    def turn(self, turn: Turn) -> Turn:
        """A turn as what is derived from it may know it."""
        messages = tuple(
            replace(message, content=self.text(message.content), name=message.name and self.text(message.name))
            for message in turn.messages
        )
        return turn if messages == turn.messages else replace(turn, messages=messages)

    def memory(self, memory: Memory) -> Memory:
        """Likewise a memory that its caller wrote."""
        text, metadata = self.text(memory.text), self._inside(memory.metadata)
        return replace(memory, text=text, metadata=metadata, tags=tuple(map(self.text, memory.tags)))

    def _inside(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {key: self._inside(inner) for key, inner in value.items()}
        return [self._inside(inner) for inner in value] if isinstance(value, list) else value

    def stats(self) -> dict[str, Any]:
        """How often a secret was taken out of a text that was about to be used; the same one counts each time."""
        return {
            "on": bool(self._forms),
            "redacted": self._counted.total(),
            "kinds": dict(sorted(self._counted.items())),
        }


def _may_hold(small: str, hints: tuple[str, ...]) -> bool:
    for hint in hints:
        if hint in small:
            return True
    return not hints


def _put_out_of_sight(one: Form, found: Counter[str], match: re.Match[str]) -> str:
    whole, group = match[0], min(1, match.re.groups)
    if not one.holds(match[group]):
        return whole
    found[one.kind] += 1
    begin, end = match.start(group) - match.start(), match.end(group) - match.start()
    return f"{whole[:begin]}[redacted:{one.kind}]{whole[end:]}"
