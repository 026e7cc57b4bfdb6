"""Thirteen task families: each draws a problem of a given level, its answer and its working.

Everything a model must say is written in space-separated tokens (digits and letters one by one),
so that the working is a trace that a tiny model can follow step by step.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

LEVELS = (1, 2, 3, 4, 5)
LETTERS = string.ascii_lowercase
NAMES = ("amy", "ben", "cleo", "dan", "eva", "finn", "gus", "hana", "ivo", "jill", "kai", "lena")
ROMAN = (
    (500, "d"), (400, "c d"), (100, "c"), (90, "x c"), (50, "l"), (40, "x l"),
    (10, "x"), (9, "i x"), (5, "v"), (4, "i v"), (1, "i"),
)  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """One drawn problem.

    Attributes
    ----------
    slots : dict of str to int or str
        What the wordings of the family insert; integers may be spelled out.
    answer : str
        Space-separated tokens.
    working : str
        Space-separated tokens that lead to the answer.
    """

    slots: dict[str, int | str]
    answer: str
    working: str


def digits(number: int) -> str:
    """Write a number as space-separated digits."""
    return " ".join(str(number))


def addition(level: int, rng: Random) -> Problem:
    """Sum of two numbers; the working puts their digits into columns, units first."""
    high = (20, 30, 50, 70, 99)[level - 1]
    a, b = rng.randint(high // 10, high), rng.randint(high // 10, high)
    places = range(len(str(max(a, b))))
    columns = [f"{a // 10**place % 10} + {b // 10**place % 10}" for place in places]
    return Problem({"a": a, "b": b}, digits(a + b), " ; ".join(columns))


def remainder(level: int, rng: Random) -> Problem:
    """Remainder of a division; the working names the largest multiple below."""
    high = (30, 45, 60, 80, 99)[level - 1]
    m, a = rng.randint(4, 12), rng.randint(13, high)
    q = a // m
    working = f"{digits(m)} * {digits(q)} = {digits(q * m)} ; {digits(a)} - {digits(q * m)}"
    return Problem({"a": a, "m": m}, digits(a % m), working)


def largest(level: int, rng: Random) -> Problem:
    """Largest of a list of numbers; the working keeps the largest so far."""
    values = rng.sample(range(10, 100), level + 1)
    running = [digits(max(values[: i + 1])) for i in range(len(values))]
    slots = {"items": " , ".join(map(str, values))}
    return Problem(slots, digits(max(values)), " ; ".join(running))


def sorting(level: int, rng: Random) -> Problem:
    """Letters in alphabetical order; the working inserts them one by one."""
    items = rng.sample(LETTERS, level + 1)
    steps = [" ".join(sorted(items[: i + 1])) for i in range(len(items) - 1)]
    return Problem({"items": " ".join(items)}, " ".join(sorted(items)), " ; ".join(steps))


def reversing(level: int, rng: Random) -> Problem:
    """Letters in reverse order; the working builds the reversed list from the left."""
    items = rng.sample(LETTERS, level + 1)
    steps = [" ".join(items[: i + 1][::-1]) for i in range(len(items) - 1)]
    return Problem({"items": " ".join(items)}, " ".join(items[::-1]), " ; ".join(steps))


def counting(level: int, rng: Random) -> Problem:
    """How often a letter occurs in a list; the working counts along the list."""
    n = (4, 5, 7, 9, 11)[level - 1]
    x, *others = rng.sample(LETTERS, 4)
    hits = rng.randint(0, n)
    items = [x] * hits + rng.choices(others, k=n - hits)
    rng.shuffle(items)
    running = [digits(items[: i + 1].count(x)) for i in range(n)]
    return Problem({"x": x, "items": " ".join(items)}, digits(hits), " ".join(running))


def parity(level: int, rng: Random) -> Problem:
    """Whether a row of bits holds an even or odd number of ones; the working tracks it."""
    bits = rng.choices((0, 1), k=2 * level + 2)
    running = ["odd" if sum(bits[: i + 1]) % 2 else "even" for i in range(len(bits))]
    return Problem({"items": " ".join(map(str, bits))}, running[-1], " ".join(running))


def brackets(level: int, rng: Random) -> Problem:
    """Whether brackets of two kinds balance; the working only repeats the row."""
    text, stack = [], []
    for position in range(2 * level + 2):
        if stack and (len(stack) >= 2 * level + 2 - position or rng.random() < 0.5):
            text.append(")" if stack.pop() == "(" else "]")
        else:
            stack.append(rng.choice("(["))
            text.append(stack[-1])
    if rng.random() < 0.5:
        text[rng.randrange(len(text))] = rng.choice("([)]")
    unmatched = []
    for symbol in text:
        if unmatched and unmatched[-1] + symbol in ("()", "[]"):
            unmatched.pop()
        else:
            unmatched.append(symbol)
    row = " ".join(text)
    return Problem({"items": row}, "no" if unmatched else "yes", row)


def boolean(level: int, rng: Random) -> Problem:
    """Value of a boolean expression read from left to right; the working tracks the value."""
    value = rng.random() < 0.5
    words, running = ["true" if value else "false"], []
    for _ in range(level + 1):
        operator = rng.choice(("and", "or", "xor"))
        negated, operand = rng.random() < 0.5, rng.random() < 0.5
        words += [operator, *(["not"] if negated else []), "true" if operand else "false"]
        right = operand != negated
        options = {"and": value and right, "or": value or right, "xor": value != right}
        value = options[operator]
        running.append("true" if value else "false")
    return Problem({"items": " ".join(words)}, running[-1], " ".join(running))


def recall(level: int, rng: Random) -> Problem:
    """Look up one of several key-value pairs; the working repeats the pair."""
    keys = rng.sample(LETTERS, level + 1)
    values = rng.sample(range(10, 100), level + 1)
    asked = rng.randrange(len(keys))
    slots = {"items": " , ".join(f"{k} = {v}" for k, v in zip(keys, values, strict=True))}
    working = f"{keys[asked]} = {digits(values[asked])}"
    return Problem(slots | {"x": keys[asked]}, digits(values[asked]), working)


def sequence(level: int, rng: Random) -> Problem:
    """Next term of an arithmetic progression; the working names the step."""
    step, start = rng.randint(2, 2 + 2 * level), rng.randint(1, 12 * level)
    terms = [start + i * step for i in range(5)]
    if level > 2 and rng.random() < 0.5:
        terms = terms[::-1]
    sign = "+" if terms[1] > terms[0] else "-"
    slots = {"items": " , ".join(map(str, terms[:4]))}
    working = f"{sign} {digits(step)} ; {digits(terms[3])} {sign} {digits(step)}"
    return Problem(slots, digits(terms[4]), working)


def roman(level: int, rng: Random) -> Problem:
    """Value of a Roman numeral; the working adds it up symbol by symbol."""
    number = rng.randint(*((1, 79), (80, 149), (150, 249), (250, 399), (400, 599))[level - 1])
    rest, numeral, running = number, [], []
    for value, symbols in ROMAN:
        while rest >= value:
            rest -= value
            numeral.append(symbols)
            running.append(digits(number - rest))
    return Problem({"items": " ".join(numeral)}, digits(number), " ; ".join(running))


def most(level: int, rng: Random) -> Problem:
    """Who owns most; the working keeps the richest so far."""
    names = rng.sample(NAMES, level + 1)
    values = rng.sample(range(10, 100), level + 1)
    best = [values.index(max(values[: i + 1])) for i in range(len(values))]
    slots = {"items": " , ".join(f"{n} has {v}" for n, v in zip(names, values, strict=True))}
    working = " ; ".join(f"{names[i]} {digits(values[i])}" for i in best)
    return Problem(slots, names[best[-1]], working)


FAMILIES: dict[str, Callable[[int, Random], Problem]] = {
    family.__name__: family
    for family in (
        addition, remainder, largest, sorting, reversing, counting, parity,
        brackets, boolean, recall, sequence, roman, most,
    )
}  # fmt: skip

FEW_ANSWERS = ("parity", "brackets", "boolean")
BEGINNINGS = (
    tuple(string.digits), tuple(LETTERS), NAMES, ("even", "odd"), ("no", "yes"), ("false", "true"),
)  # fmt: skip
"""First tokens of answers, by kind; even places are half 0 of their family's answers."""


def beginnings(answer: str) -> tuple[str, ...]:
    """Return the first tokens that answers of the same family may have, in order."""
    first = answer.split()[0]
    return next(kind for kind in BEGINNINGS if first in kind)


def half(answer: str) -> int:
    """Return which half of its family an answer lies in: 0 or 1, by its first token.

    Digits, letters and names alternate, so the half depends on the first token alone, and not on
    an answer's size or its place in the alphabet.
    """
    return beginnings(answer).index(answer.split()[0]) % 2
