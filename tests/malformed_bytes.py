"""Documents and bytes that are nearly right: what a valid request is mutated with. Everything from one `Random`."""

import copy
import json
import re
from collections.abc import Callable
from random import Random
from typing import Any

MARK = "\u2603raw"
RAW_TOKENS = (
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "-1e999",
    "1e-999",
    "-0",
    "-0.0",
    "01",
    "+1",
    "1.",
    ".5",
    "0x10",
    "tru",
    "nul",
    "undefined",
    "",
    ",",
    "9" * 20,
    "9" * 400,
    "-" + "9" * 5000,
    "1" + "0" * 308 + ".5",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775809",
    "18446744073709551616",
    "3.4028235e38",
    "3.5e38",
    "5e-324",
    '"\\ud800"',
    '"\\udc00\\ud800"',
    '"\\u0000"',
    '"\\x41"',
    '"a\nb"',
    '"\x01"',
    "'a'",
    "[" * 500 + "]" * 500,
    "[" * 2000 + "]" * 2000,
    "[" * 5000,
    '{"a":' * 900 + "1" + "}" * 900,
    '{"a":1,"a":2}',
    "/* c */ 1",
    "1 // c",
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    2**31,
    2**53 + 1,
    2**63,
    -(2**63),
    0.5,
    -1e308,
    1e38,
    "",
    "a",
    "\x00",
    "é" * 3000,
    "\U0001f600",
    "__proto__",
    "1",
    "NaN",
    [],
    {},
    [[]],
    [None],
    [1, [2, [3]]],
    {"": ""},
    {"score": 1},
)
NAMES = (
    "",
    "late",
    "passport",
    "x0",
    "prediction_id",
    "\x00",
    "a" * 300,
    "ünï",
    "instances",
    "__class__",
    "constructor",
)
WORDS = (b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"{", b'"', b"\\")


def mutate_document(random: Random, document: Any) -> bytes:
    """A few changes of the document's structure, then sometimes of its bytes."""
    holder = [json.loads(json.dumps(document))]
    raw: list[str] = []
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        _change_one(random, holder, raw)
    text = json.dumps(holder[0], ensure_ascii=random.random() < 0.5)
    for number, token in enumerate(raw):
        quoted = json.dumps(f"{MARK}{number}", ensure_ascii=False), json.dumps(f"{MARK}{number}")
        for form in quoted:
            text = text.replace(form, token)
    if random.random() < 0.05:
        text = _double_a_member(random, text)
    if random.random() < 0.03:
        return text.encode(random.choice(("utf-16", "utf-32", "utf-8-sig", "utf-7")), errors="replace")
    content = text.encode(errors="surrogatepass")
    return mutate_bytes(random, content) if random.random() < 0.2 else content


def mutate_bytes(random: Random, content: bytes) -> bytes:
    """Flipped, cut, doubled, strewn with words that are no text."""
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 4, 16))):
        way = random.randrange(7)
        at = random.randrange(len(changed) + 1)
        if way == 0 and at < len(changed):
            changed[at] ^= 1 << random.randrange(8)
        elif way == 1:
            del changed[at:]
        elif way == 2:
            del changed[at : at + random.randrange(1, 16)]
        elif way == 3:
            changed[at:at] = random.choice(WORDS)
        elif way == 4:
            changed[at:at] = changed[at : at + random.randrange(1, 64)]
        elif way == 5 and at < len(changed):
            changed[at] = random.randrange(256)
        elif way == 6:
            changed[at:at] = random.randbytes(random.randrange(1, 8))
    return bytes(changed)


def _change_one(random: Random, holder: list[Any], raw: list[str]) -> None:
    places = list(_places(holder))
    owner, key = random.choice(places)
    way = random.randrange(8)
    if way == 0:
        raw.append(random.choice(RAW_TOKENS))
        owner[key] = f"{MARK}{len(raw) - 1}"
    elif way == 1 and owner is not holder:
        del owner[key]
    elif way == 2:
        owner[key] = [owner[key]]
    elif way == 3 and isinstance(owner, dict):
        owner[random.choice(NAMES)] = owner.pop(key) if random.random() < 0.5 else _value(random)
    elif way == 4 and isinstance(owner, list) and owner is not holder:
        owner.extend([owner[key]] * random.choice((1, 2, 100)))
    elif way == 5:
        owner[key] = {"a": owner[key]}
    else:
        owner[key] = _value(random)


def _value(random: Random) -> Any:
    return copy.deepcopy(random.choice(VALUES))


def _places(node: Any) -> "list[tuple[Any, Any]]":
    found: list[tuple[Any, Any]] = []
    waiting = [node]
    while waiting:
        current = waiting.pop()
        members = current.items() if isinstance(current, dict) else enumerate(current)
        for key, value in list(members):
            found.append((current, key))
            if isinstance(value, (dict, list)):
                waiting.append(value)
    return found


def _double_a_member(random: Random, text: str) -> str:
    members = list(re.finditer(r'"[a-z0-9_]+": [^,{}\[\]]+', text))
    if not members:
        return text
    member = random.choice(members)
    return f"{text[: member.start()]}{member.group()}, {text[member.start() :]}"


def pick(random: Random, *weighted: tuple[int, Callable[[Random], Any]]) -> Any:
    """Calls one of them, as often as its weight says."""
    makers = [maker for _, maker in weighted]
    return random.choices(makers, [weight for weight, _ in weighted])[0](random)
