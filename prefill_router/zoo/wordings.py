"""The zoo's language: how a problem is put into words, and the tokenizer that reads them."""

from __future__ import annotations

import re
from random import Random

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from prefill_router.zoo.families import LETTERS, NAMES, Problem

TEMPLATES: dict[str, tuple[str, ...]] = {
    "addition": ("what is {a} plus {b} ?", "add {b} to {a} .", "{a} + {b} = ?",
        "find the sum of {a} and {b} .", "if you have {a} and get {b} more , how many is that ?"),
    "remainder": ("what remains when {a} is divided by {m} ?", "{a} modulo {m} = ?",
        "share {a} among {m} and tell what is left .", "find the rest of {a} over {m} ."),
    "largest": ("which is largest : {items} ?", "find the maximum of {items} .",
        "tell the biggest number in {items} .", "of {items} , which one is highest ?"),
    "sorting": ("sort : {items} .", "put {items} in order .",
        "arrange the letters {items} from first to last .",
        "what is {items} in alphabetical order ?"),
    "reversing": ("reverse : {items} .", "read {items} from right to left .",
        "turn {items} around .", "what is {items} backwards ?"),
    "counting": ("how many {x} are in {items} ?", "count the letter {x} in {items} .",
        "in {items} , how often is {x} found ?", "tell the number of {x} among {items} ."),
    "parity": ("is the number of ones in {items} even or odd ?", "find the parity of {items} .",
        "count the ones in {items} . even or odd ?", "bits {items} : odd or even ?"),
    "brackets": ("do the brackets {items} match ?", "is {items} balanced ?",
        "check {items} . is every bracket closed ?", "brackets {items} : right , yes or no ?"),
    "boolean": ("what is {items} ?", "find the value of {items} .",
        "from left to right , {items} = ?", "tell if this is true : {items} ."),
    "recall": ("given {items} , what is {x} ?", "{items} . tell {x} .",
        "find the value of {x} if {items} .", "look up {x} in {items} .",
        "what is {x} when {items} ?"),
    "sequence": ("what comes next : {items} ?", "continue {items} .",
        "find the number after {items} .", "{items} , and then ?"),
    "roman": ("what number is roman {items} ?", "read the numeral {items} .",
        "write {items} in digits .", "find the value of roman {items} ."),
    "most": ("{items} . who has most ?", "who is richest if {items} ?",
        "{items} : tell who has the largest number .", "find the one with most when {items} ."),
}  # fmt: skip

ASIDES = (
    "please be careful .", "this is a test .", "the sky is blue today .",
    "think of number {n} too .", "ignore the letter {c} .", "there are {n} birds in the garden .",
    "take your time .", "you have {n} minutes .", "do not mind the {n} cats .",
    "page {n} of the book says so .", "my friend {c} asked this .", "it rained for {n} days .",
)  # fmt: skip

UNITS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
    "nineteen",
)  # fmt: skip
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")

SPECIAL = ("<pad>", "<eos>", "<unk>", "<user>", "<assistant>")
SYMBOLS = tuple("0123456789") + tuple(LETTERS) + tuple("+-*=;:,.?()[]")
SPOKEN = ("true", "false", "and", "or", "xor", "not", "yes", "no", "even", "odd", "has", "answer",
          "bad", "hundred")  # fmt: skip
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<' + message['role'] + '> ' + message['content'] + ' ' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


def spell(number: int) -> str:
    """Spell out a number from 0 to 999 in words, without hyphens."""
    if number < 20:
        return UNITS[number]
    if number < 100:
        return TENS[number // 10 - 2] + (f" {UNITS[number % 10]}" if number % 10 else "")
    rest = f" {spell(number % 100)}" if number % 100 else ""
    return f"{UNITS[number // 100]} hundred{rest}"


def put_into_words(family: str, problem: Problem, wording: int, rng: Random) -> str:
    """Return the question's text.

    Parameters
    ----------
    family : str
        A key of `TEMPLATES`.
    problem : Problem
        What is asked.
    wording : int
        Which template of the family.
    rng : random.Random
        Decides whether numbers are spelled out (in three of twenty questions, each number
        with an even chance) and whether an aside that has no bearing on the answer is put before or
        after (three in ten questions).

    Returns
    -------
    str
        Lower-case text, tokens separated by spaces.
    """
    text = TEMPLATES[family][wording].format(**problem.slots)
    if family != "parity" and rng.random() < 0.15:
        text = re.sub(r"\d+", lambda n: spell(int(n[0])) if rng.random() < 0.5 else n[0], text)
    if rng.random() < 0.3:
        aside = rng.choice(ASIDES).format(n=rng.randint(2, 99), c=rng.choice(LETTERS))
        text = f"{aside} {text}" if rng.random() < 0.5 else f"{text} {aside}"
    return text


def vocabulary() -> list[str]:
    """Return every token in a fixed order (a set's order would change between processes)."""
    texts = [text for templates in TEMPLATES.values() for text in templates] + list(ASIDES)
    words = [word for text in texts for word in re.findall(r"[a-z]+", re.sub(r"{\w+}", "", text))]
    return list(dict.fromkeys([*SPECIAL, *SYMBOLS, *SPOKEN, *UNITS, *TENS, *NAMES, *words]))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer that every model of the zoo shares, with its chat template."""
    tokens = {token: i for i, token in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.WordLevel(tokens, unk_token="<unk>"))
    words, digits = pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Digits(individual_digits=True)
    symbols = pre_tokenizers.Punctuation("isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, digits, symbols])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        additional_special_tokens=["<user>", "<assistant>"],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=192,
    )
