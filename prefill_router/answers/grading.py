"""Graders: from what a model wrote and a reference to whether the answer is right."""

from __future__ import annotations

import importlib
import math
import operator
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from prefill_router.answers import reading
from prefill_router.answers.ledger import Reply
from prefill_router.errors import InputError, check_known

Grader = Callable[[str, str], bool]

DECORATION = ' *_`"“”„«»‘’$'
CLOSE = 1e-6  # two numbers that differ by this share of the larger are the same answer


@dataclass(frozen=True)
class ReadingGrader:
    """A grader that reads what an answer says; thinking and decoration are no part of that.

    Attributes
    ----------
    read : callable
        From an answer to a list of what it may say, empty if there is nothing to read.
    expect : callable
        From a reference to what an answer must say. Raises `InputError` if it is of no use.
    same : callable
        From both to whether they are the same.
    """

    read: Callable[[str], list[Any]]
    expect: Callable[[str], Any]
    same: Callable[[Any, Any], bool] = operator.eq

    def __call__(self, answer: str, reference: str) -> bool:
        """Say whether an answer is right."""
        wanted = self.expect(reference)
        return any(self.same(said, wanted) for said in self.read(answer))


def normalise(text: str) -> str:
    """Return text with case, white space and Unicode forms made alike, and without decoration.

    Decoration is emphasis, quotation marks and dollar signs around it, and a closing full stop.
    """
    text = re.sub(*reading.TIDY[0], text)
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    bare = folded.strip(DECORATION).removesuffix(".").rstrip(DECORATION)
    return re.sub("^'(.*)'$", r"\1", bare) or folded


def _expect_number(reference: str) -> float:
    wanted = reading.numbers(reference)
    if len(wanted) != 1 or not math.isfinite(wanted[0]):
        raise InputError(
            f"The reference {reference!r:.80} holds {len(wanted)} numbers; the grader numeric "
            "needs exactly one in each, with a point before decimals (a comma separates "
            "thousands). Correct it, or take another grader, such as exact."
        )
    return wanted[0]


def _expect_letter(reference: str) -> str:
    wanted = reference.strip(" ()." + DECORATION).upper()
    if len(wanted) != 1 or not wanted.isalpha():
        raise InputError(
            f"The reference {reference!r:.80} is no letter; the grader choice needs one."
        )
    return wanted


exact_match = ReadingGrader(lambda answer: [*map(normalise, reading.text(answer))], normalise)
"""Says whether an answer gives the reference, see `reading.text`, after normalising both."""
numeric_match = ReadingGrader(
    reading.number, _expect_number, partial(math.isclose, rel_tol=CLOSE, abs_tol=1e-12)
)
"""Says whether an answer gives the reference's value, see `reading.number`, to 1 part in 10**6."""
choice_match = ReadingGrader(reading.letter, _expect_letter)
"""Says whether an answer chooses the reference's letter, see `reading.letter`."""
GRADERS = {"exact": exact_match, "numeric": numeric_match, "choice": choice_match}


def regex_match(pattern: str) -> Grader:
    """Return a grader that compares what a regular expression finds with the reference.

    Parameters
    ----------
    pattern : str
        Its last match in an answer counts: the first group, or all of it where it has none.

    Raises
    ------
    InputError
        If `pattern` is no regular expression.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"grader regex:{pattern}: no regular expression ({error}).") from None

    def read(answer: str) -> list[str]:
        found = [*compiled.finditer(reading.visible(answer) or "")][-1:]
        return [normalise(said[min(compiled.groups, 1)] or "") for said in found]

    return ReadingGrader(read, normalise)


def find_grader(name: str) -> Grader:
    """Return the grader called `name`.

    Parameters
    ----------
    name : str
        ``exact``, ``numeric``, ``choice``, ``regex:PATTERN``, or ``module:function`` for a callable
        of yours that takes answer and reference.

    Raises
    ------
    InputError
        If there is no such grader.
    """
    if name in GRADERS:
        return GRADERS[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        check_known("grader", name, [*GRADERS, "regex:PATTERN", "module:function"])
    if module == "regex":
        return regex_match(attribute)
    try:
        grader = getattr(importlib.import_module(module), attribute)
        if not callable(grader):
            raise AttributeError(f"it is a {type(grader).__name__}, no function")
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"grader {name}: {error}. Python must find the module: run where it lies with "
            "PYTHONPATH=. set, or install it."
        ) from None
    return grader


def check_reference(grader: Grader, reference: str) -> None:
    """Refuse a reference that answers cannot be graded by, before any answer is asked for.

    A grader of the user's own is not called: it may take long, or cost money.

    Raises
    ------
    InputError
        If the reference is empty, or the grader needs another form of it.
    """
    if not reference.strip():
        raise InputError(
            "The reference is empty, so that no answer can be graded; fill it in or drop the row."
        )
    if isinstance(grader, ReadingGrader):
        grader.expect(reference)


def grade(grader: Grader, question: str, answer: str, reference: str) -> int:
    """Return 1 if an answer to a question is right, else 0, as where it ends while it thinks.

    Raises
    ------
    InputError
        If the grader fails, or returns anything but a truth value, as with a forgotten return.
    """
    said = reading.visible(answer)
    if said is None:
        return 0
    try:
        return {True: 1, False: 0}[grader(said, reference)]
    except Exception as error:
        raise InputError(
            f"The grader {getattr(grader, '__name__', repr(grader)):.80}, at an answer to the "
            f"question {question!r:.80}, failed or returned neither True nor False "
            f"({type(error).__name__}: {error!s:.200}). Mend it and run again: answers that are "
            "kept are graded anew, not asked for."
        ) from error


def find_fault(grader: Grader, reply: Reply) -> str:
    """Say what makes a reply's grade doubtful: cut off, empty, unreadable; else nothing.

    Only a `ReadingGrader` tells what it cannot read.
    """
    said = reading.visible(reply.text)
    if said is None or reply.finish == "length":
        return "cut off"
    if not said:
        return "empty"
    return "unreadable" if isinstance(grader, ReadingGrader) and not grader.read(said) else ""
