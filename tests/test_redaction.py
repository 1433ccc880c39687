"""Secrets are found by their exact forms, in linear time, and what only looks random is left alone."""

from __future__ import annotations

import base64
import json
import random
import string
import time
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from memory_service.redaction import FORMS, IBAN, Redactor
from memory_service.values import Message
from tests.support.values import a_memory, a_turn

CHANCE = random.Random(7)
MIXED, UPPER, LOWER_HEX = string.ascii_letters + string.digits, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", "0123456789abcdef"


def some(count: int, letters: str = MIXED) -> str:
    """Made anew, so that no secret stands in this file."""
    return "".join(CHANCE.choices(letters, k=count))


def part(value: dict[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def jwt() -> str:
    return f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part({'sub': 'ana'})}.{some(43)}"


PEM = f"-----BEGIN RSA PRIVATE KEY-----\n{some(64)}\n{some(64)}\n-----END RSA PRIVATE KEY-----"
SECRETS: list[tuple[str, str]] = [
    ("aws_key", f"AKIA{some(16, UPPER)}"),
    ("aws_key", f"ASIA{some(16, UPPER)}"),
    ("azure_key", f"{some(86)}=="),
    ("azure_secret", f"{some(3)}8Q~{some(34)}"),
    ("google_key", f"AIza{some(35)}"),
    ("google_key", f"ya29.{some(60)}"),
    ("github_token", f"ghp_{some(36)}"),
    ("github_token", f"github_pat_{some(22)}_{some(59)}"),
    ("gitlab_token", f"glpat-{some(20)}"),
    ("slack_token", f"xoxb-{some(12, string.digits)}-{some(24)}"),
    ("slack_token", f"T{some(8)}/B{some(8)}/{some(24)}"),
    ("stripe_key", f"sk_live_{some(24)}"),
    ("stripe_key", f"whsec_{some(32)}"),
    ("model_key", f"sk-{some(48)}"),
    ("model_key", f"sk-proj-{some(40)}_{some(20)}"),
    ("model_key", f"sk-ant-api03-{some(60)}"),
    ("model_key", f"hf_{some(34)}"),
    ("package_token", f"npm_{some(36)}"),
    ("mail_key", f"SG.{some(22)}.{some(43)}"),
    ("bot_token", f"1234567890:AA{some(33)}"),
    ("cloud_token", f"dop_v1_{some(64, LOWER_HEX)}"),
    ("service_key", f"mem_{some(8)}_{some(32)}"),
    ("jwt", jwt()),
    ("private_key", PEM),
    ("card", "4111 1111 1111 1111"),
    ("card", "5555-5555-5555-4444"),
    ("card", "378282246310005"),
]
AROUND = {"azure_key": "AccountKey={}", "slack_token": "https://hooks.slack.com/services/{}"}


def redact(text: str) -> str:
    return Redactor((*FORMS, IBAN)).text(text)


@pytest.mark.parametrize(("kind", "secret"), SECRETS, ids=[f"{n}-{kind}" for n, (kind, _) in enumerate(SECRETS)])
@pytest.mark.parametrize("around", ["{}", "my key: {}, keep it", "({})", "'{}'", "Voilà: {}。", "a\n{}\nb"])
def test_a_secret_is_put_out_of_sight_wherever_it_stands(kind: str, secret: str, around: str) -> None:
    given = AROUND.get(kind, "{}").format(secret) if not secret.startswith("xox") else secret
    redactor = Redactor()
    text = redactor.text(around.format(given))
    assert secret not in text
    assert f"[redacted:{kind}]" in text or "[redacted:password]" in text
    assert redactor.stats()["redacted"] == sum(redactor.stats()["kinds"].values()) == 1
    assert redactor.text(text) == text
    assert redactor.stats()["redacted"] == 1


@pytest.mark.parametrize(
    "text",
    [
        "password={}",
        "PASSWORD = '{}'",
        '{{"password": "{}"}}',
        "DB_PASSWORD={}",
        "my password is {}",
        "Mein Passwort: {}",
        "mot de passe : {}",
        "contraseña: {}",
        "пароль: {}",
        "密码：{}",
        "密码是{}",
        "aws_secret_access_key = {}",
        "api key: {}",
        "client_secret={}&x=1",
        "Authorization: Bearer {}abcdefgh",
        "authorization: basic {}abcdefgh",
        "postgres://ana:{}@db.example/x",
        "redis://:{}@cache:6380/0",
    ],
)
def test_what_a_word_before_it_calls_a_secret_is_one(text: str) -> None:
    secret = "hunter2Zq9"
    told = redact(text.format(secret))
    assert secret not in told
    assert "[redacted:" in told
    assert redact(told) == told


HARMLESS = [
    "I live in Lisbon, and my bank is around the corner. The secret of a good soup is patience.",
    "Password: required. The password is wrong, they said; token rings and key lime pie; the passwords were reset.",
    "Basic understanding, bearer responsibilities, internationalization and counterrevolutionaries.",
    "What is a private key? Keep your API keys safe. The monkey=banana; skip-level meetings; sk-learn is a library.",
    "Das Passwort ist falsch. Le mot de passe est obligatoire. 密码是什么？",
    str(uuid.UUID(int=CHANCE.getrandbits(128))),
    "12345678-1234-1234-1234-123456789012",
    some(32, LOWER_HEX),
    some(40, LOWER_HEX),
    some(64, LOWER_HEX),
    "sha256:" + some(64, LOWER_HEX),
    "Order 2024-1234-5678-9012, invoice 1000000000000000, parcel 003404341608904",
    "Call +49 170 1234567, +1 (415) 555-2671, 0049 170 12345678 or 020 7946 0958",
    "On 2026-11-28 17:30:44 it took 1234567890123 ns; 1732810244123456 microseconds since then",
    "4111 1111 1111 1112 has a wrong digit, and 1234 5678 9012 3452 is nobody's",
    "3.14159265358979323846 and 0.4111111111111111 and 1e4111111111111111",
    "https://example.org/a?b=c@d and mailto:ana@example.org and git@github.com:ana/boat.git",
    "eyJust kidding.eyJokes.eyJ.a.b and mem_ory_lane and ghp_short and AKIAlower",
    "GB82 WEST 1234 5698 7654 33 is not valid",
]


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_looks_random_is_left_alone(text: str) -> None:
    assert redact(text) == text


def test_numbers_by_chance_are_seldom_taken_for_cards() -> None:
    numbers = [some(16, string.digits) for _ in range(5000)]
    taken = sum(redact(f"order {number} was sent") != f"order {number} was sent" for number in numbers)
    assert taken / len(numbers) < 0.05


def test_account_numbers_are_redacted_if_that_is_chosen() -> None:
    text = "IBAN GB82 WEST 1234 5698 7654 32, or DE89370400440532013000"
    assert Redactor().text(text) == text
    assert redact(text) == "IBAN [redacted:iban], or [redacted:iban]"


def test_without_forms_nothing_is_redacted() -> None:
    off = Redactor(())
    assert off.text(PEM) == PEM
    assert off.stats() == {"on": False, "redacted": 0, "kinds": {}}


@given(st.text(max_size=300))
def test_what_is_left_is_left_for_good(text: str) -> None:
    once = redact(text)
    assert redact(once) == once


def test_of_a_turn_the_words_and_names_and_of_a_memory_all_that_was_written_are_redacted() -> None:
    key = f"ghp_{some(36)}"
    turn = a_turn(1)
    assert Redactor().turn(turn) is turn
    named = a_turn(1, text=f"it is {key}")
    told = Redactor().turn(named)
    assert [message.content for message in told.messages] == [
        "it is [redacted:github_token]",
        "You said: it is [redacted:github_token]",
    ]
    (by_name,) = Redactor().turn(replace(turn, messages=(Message(role="user", content="x", name=key),))).messages
    assert by_name.name == "[redacted:github_token]"
    memory = a_memory("m", text=key, tags=(key,), metadata={"a": [key, {"b": key}], "n": 1})
    assert key not in str(Redactor().memory(memory))
    assert Redactor().memory(memory).metadata["n"] == 1


WORST = {
    "begins of keys": "-----BEGIN PRIVATE KEY-----",
    "begins of begins": "-----BEGIN " + "A" * 40,
    "words": "my api key and password token secret ",
    "words alone": "password",
    "words that say": "password: ",
    "long values": "password: " + "a" * 190 + " ",
    "one long value": "password: " + "a" * 99_000,
    "blanks": "password" + " " * 99_000,
    "bearers": "bearer ",
    "long bearers": "bearer " + "a" * 300 + " ",
    "heads of tokens": "eyJ",
    "heads and dashes": "eyJ-",
    "parts of tokens": "eyJaaaaaaaa.",
    "dots": "eyJaaaaaaaa" + "." * 90_000,
    "digits": "4",
    "digits apart": "4 ",
    "cards": "4111 1111 1111 1111 ",
    "no cards": "4111 1111 1111 1112 ",
    "addresses": "://a:",
    "places": "://" + "a" * 100 + ":" + "a" * 200,
    "azure": "aaa8Q~",
    "azure and dots": "q~" + "a.-~" * 100,
    "mail": "SG." + "a" * 32 + ".",
    "accounts": "DE44 ",
    "accounts together": "AB12CD34",
    "bots": "1234567890:AA",
    "services": "mem_aaaaaaaa_",
    "google": "AIza" + "a" * 34 + " ",
}


@pytest.mark.parametrize("piece", WORST.values(), ids=list(WORST))
def test_no_text_takes_long(piece: str) -> None:
    """The time is of the text's length: one twice as long may take little more than twice."""
    text = (piece * (100_000 // len(piece) + 1))[:100_000]
    began = time.process_time()
    redact(text)
    assert time.process_time() - began < 2
