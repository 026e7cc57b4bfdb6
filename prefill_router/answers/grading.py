"""Graders: from what a model wrote and a reference to whether the answer is right."""

from __future__ import annotations

import importlib
import math
import re
import unicodedata
from collections.abc import Callable

from prefill_router.errors import InputError, check_known

Grader = Callable[[str, str], bool]

CLOSE = 1e-6  # two numbers that differ by this share of the larger are the same answer
NUMBER = re.compile(r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?:\s*/\s*\d+)?")
CHOICES = (  # ways to name one, the most explicit first; the last mention counts
    # No two neighbours match the same text: a long run of it would be split in all possible ways.
    re.compile(r"\banswer\b\W*(?:is\W*)?([A-Za-z])\b(?!['’])", re.IGNORECASE),
    re.compile(r"^(?:[*_]|[^\S\n])*([A-Za-z])(?:\W*$|[).:])", re.MULTILINE),
    re.compile(r"\(([A-Za-z])\)"),
)


def normalise(text: str) -> str:
    """Return text with case, white space, Unicode forms and a closing full stop made alike."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.split()).removesuffix(".").rstrip()


def exact_match(answer: str, reference: str) -> bool:
    """Say whether an answer is the reference, after normalising both.

    Of a text that shows its working, only what follows the last ``answer:`` counts.
    """
    return normalise(_conclusion(answer)) == normalise(reference)


def numeric_match(answer: str, reference: str) -> bool:
    """Say whether the last number of an answer has the value of the reference.

    ``1,234.50``, ``12e-1`` and ``3/4`` are numbers; units and currency signs around them are not
    read. Values may differ by one part in a million. Of a text that shows its working, only what
    follows the last ``answer:`` counts.

    Raises
    ------
    InputError
        If the reference does not hold exactly one number.
    """
    wanted = _numbers(reference)
    if len(wanted) != 1:
        raise InputError(
            f"The reference {reference!r:.80} holds {len(wanted)} numbers; the grader numeric "
            "needs exactly one in each. Correct it, or take another grader, such as exact."
        )
    found = _numbers(_conclusion(answer))
    return bool(found) and math.isclose(found[-1], wanted[0], rel_tol=CLOSE, abs_tol=1e-12)


def choice_match(answer: str, reference: str) -> bool:
    """Say whether an answer to a multiple-choice question names the reference's letter.

    Taken as naming one, in this order: ``answer is (B)`` or ``answer: B``, a line that is or
    begins with ``B``, ``B)``, ``B.`` or ``B:``, and ``(B)``. An answer that names none is wrong.

    Raises
    ------
    InputError
        If the reference is not one letter.
    """
    wanted = reference.strip(" ().").casefold()
    if len(wanted) != 1 or not wanted.isalpha():
        raise InputError(
            f"The reference {reference!r:.80} is no letter; the grader choice needs one."
        )
    text = unicodedata.normalize("NFKC", answer)
    named = next((found for pattern in CHOICES if (found := pattern.findall(text))), [""])
    return named[-1].casefold() == wanted


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

    def matches(answer: str, reference: str) -> bool:
        said = [found[min(compiled.groups, 1)] for found in compiled.finditer(answer)]
        return bool(said) and normalise(said[-1] or "") == normalise(reference)

    return matches


GRADERS = {"exact": exact_match, "numeric": numeric_match, "choice": choice_match}


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
    if grader in GRADERS.values():
        grader("", reference)


def grade(grader: Grader, question: str, answer: str, reference: str) -> int:
    """Return 1 if an answer to a question is right, else 0.

    Raises
    ------
    InputError
        If the grader fails, or returns anything but a truth value, as with a forgotten return.
    """
    try:
        return {True: 1, False: 0}[grader(answer, reference)]
    except Exception as error:
        raise InputError(
            f"The grader {getattr(grader, '__name__', repr(grader)):.80}, at an answer to the "
            f"question {question!r:.80}, failed or returned neither True nor False "
            f"({type(error).__name__}: {error!s:.200}). Mend it and run again: answers that are "
            "kept are graded anew, not asked for."
        ) from error


def _conclusion(answer: str) -> str:
    return re.split(r"answer\s*:", answer, flags=re.IGNORECASE)[-1]


def _numbers(text: str) -> list[float]:
    text = unicodedata.normalize("NFKC", text).replace("\u2212", "-").replace("\u2044", "/")
    parts = [found.replace(",", "").partition("/") for found in NUMBER.findall(text)]
    return [float(above) / (float(below or 1) or math.nan) for above, _, below in parts]
