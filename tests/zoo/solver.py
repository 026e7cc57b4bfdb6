"""Solves questions of the skills benchmark from their text alone, by other means than the zoo."""

import re
from itertools import pairwise

from prefill_router.zoo.wordings import ASIDES, TEMPLATES

NUMBERS = (
    ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
     "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
     "nineteen"),
    ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"),
)  # fmt: skip
VALUE = {word: i for i, word in enumerate(NUMBERS[0])}
VALUE |= {word: 10 * i for i, word in enumerate(NUMBERS[1], start=2)}
ROMAN = {"i": 1, "v": 5, "x": 10, "l": 50, "c": 100, "d": 500}
CLAUSES = [re.escape(a).replace(r"\{n\}", r"\d+").replace(r"\{c\}", "[a-z]") for a in ASIDES]
ASIDE = re.compile("|".join(f"^{clause} | {clause}$" for clause in CLAUSES))


def without_aside(question):
    """Take away the clause that has no bearing on the answer, if there is one."""
    return ASIDE.sub("", question)


def slots_of(family, wording, text):
    """Read the operands back from a wording, or None if the text is another wording's."""
    pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>.+)", re.escape(TEMPLATES[family][wording]))
    found = re.fullmatch(pattern, text)
    return found and found.groupdict()


def read_number(text):
    """Read digits or words: 'two hundred thirty four' is 234."""
    if text.replace(" ", "").isdigit():
        return int(text)
    total = 0
    for word in text.split():
        total = total * 100 if word == "hundred" else total + VALUE[word]
    return total


def read_roman(symbols):
    """Add the symbols up from the right; one that is smaller than the last is taken away."""
    total, last = 0, 0
    for symbol in reversed(symbols):
        value = ROMAN[symbol]
        total += value if value >= last else -value
        last = max(last, value)
    return total


def balanced(symbols):
    """Remove adjacent pairs until none is left."""
    row = "".join(symbols)
    while row != (shorter := row.replace("()", "").replace("[]", "")):
        row = shorter
    return not row


def evaluate(expression):
    """Reduce a boolean expression from the left."""
    words = expression.replace("not true", "false").replace("not false", "true").split()
    value = words[0] == "true"
    for operator, word in zip(words[1::2], words[2::2], strict=True):
        right = word == "true"
        value = {"and": min(value, right), "or": max(value, right), "xor": value != right}[operator]
    return str(value).lower()


def numbers(text):
    return [read_number(part) for part in text.split(" , ")]


def owners(text, between):
    """Read 'who has 3 , ...' or 'key = 3 , ...'."""
    pairs = (part.split(f" {between} ") for part in text.split(" , "))
    return {who: read_number(what) for who, what in pairs}


def solve(family, slots):
    """Return the answer, in space-separated tokens, to a problem whose operands are text."""
    items = slots.get("items", "")
    match family:
        case "addition":
            answer = read_number(slots["a"]) + read_number(slots["b"])
        case "remainder":
            answer = read_number(slots["a"]) % read_number(slots["m"])
        case "largest":
            answer = sorted(numbers(items))[-1]
        case "sorting":
            return " ".join(sorted(items.split()))
        case "reversing":
            return items[::-1]
        case "counting":
            answer = items.split().count(slots["x"])
        case "parity":
            return ("even", "odd")[sum(map(int, items.split())) % 2]
        case "brackets":
            return "yes" if balanced(items.split()) else "no"
        case "boolean":
            return evaluate(items)
        case "recall":
            answer = owners(items, "=")[slots["x"]]
        case "sequence":
            terms = numbers(items)
            assert len({b - a for a, b in pairwise(terms)}) == 1
            answer = 2 * terms[-1] - terms[-2]
        case "roman":
            answer = read_roman(items.split())
        case "most":
            has = owners(items, "has")
            return max(has, key=has.get)
    return " ".join(str(answer))
