"""How a tag of ours may be spelt so that a reader takes it for one: with look-alikes, and with what cannot be seen."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import cache

BRACKETS = "<\uff1c\ufe64\u2039\u3008\u27e8\u2329\u02c2\u1438\u276e\u2770\u29fc\u227a\u300a\u00ab"
"""What opens a tag, and what looks as if it did."""
_INVISIBLE = (
    r"\x00-\x08\x0e-\x1f\x7f-\x9f\xad\u0300-\u036f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    r"\u2060-\u206f\u20d0-\u20f0\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e01ef"
)
_TERMINAL = r"\x1b\[[0-9;]{0,20}[A-Za-z]"
_WITHIN = rf"(?:{_TERMINAL}|[{_INVISIBLE}])*+"
_BEFORE = rf"(?:{_TERMINAL}|[{_INVISIBLE}\s/\\\u2044\u2215\u29f8\uff0f\uff3c])*+"
_FORMS_OF_LATIN = (
    *((0xC0, 0x250), (0x1D00, 0x1D80), (0x1E00, 0x1F00), (0x2070, 0x20A0), (0x2100, 0x2190), (0x249C, 0x24EA)),
    *((0xFF21, 0xFF5B), (0x1D400, 0x1D800), (0x1F130, 0x1F18A)),
)
_FOREIGN = {
    "a": "аАΑαɑ",
    "c": "сСϲⲤ",
    "e": "еЕΕεϵєҽ℮3",
    "g": "ɡԍɢ",
    "h": "һНΗʜ",
    "i": "іІΙιӏı1l|!",
    "k": "кКΚκᴋ",
    "l": "ӏІΙ1i|",
    "m": "мМΜᴍⅿ",
    "n": "пΝոռɴ",
    "o": "оОΟοσօ0ᴏ",
    "r": "гᴦꞅʀⲅ",
    "s": "ѕЅꜱ5$",
    "t": "тТΤτᴛ",
    "u": "υսᴜμ",
    "v": "νѵᴠ",
    "w": "ԝѡᴡω",
    "y": "уУΥγүұʏ",
    "_": "\uff3f\u2017\ufe4d- ",
}


def bracket_before(*names: str) -> re.Pattern[str]:
    """Match a bracket behind which one of these names stands, however it is spelt. Linear in the text."""
    return re.compile(f"[{BRACKETS}](?={names_spelt(names)})")


def names_spelt(names: Iterable[str]) -> str:
    """A pattern of what stands behind the bracket, as far as the end of the name."""
    looks = _looks()
    spelt = (_WITHIN.join(f"[{re.escape(looks[letter])}]" for letter in name) for name in names)
    return f"{_BEFORE}(?:{'|'.join(spelt)})"


@cache
def _looks() -> dict[str, str]:
    looks = {letter: letter + letter.upper() + _FOREIGN.get(letter, "") for letter in "abcdefghijklmnopqrstuvwxyz_"}
    for first, end in _FORMS_OF_LATIN:
        for character in map(chr, range(first, end)):
            # without accents, and of one in brackets only the letter
            letters = [one for one in unicodedata.normalize("NFKD", character).casefold() if one.isalnum()]
            if len(letters) == 1 and letters[0] in looks:
                looks[letters[0]] += character
    return looks
