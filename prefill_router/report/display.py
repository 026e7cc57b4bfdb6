"""Tables and text to display, from untrusted strings that must appear literally.

Questions, and names of targets and routers, come from someone else's file: all that is shown as
HTML passes through `escape`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from prefill_router.errors import InputError, did_you_mean

UNPRINTABLE = ("Cc", "Cs", "Cn")  # Unicode categories: control, surrogate, no character


@dataclass(frozen=True, repr=False)
class Display:
    """Something notebooks show: `html` (already escaped) where they can, else `text`."""

    html: str
    text: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.text


def escape(text: object) -> str:
    """Return HTML that shows `text` literally, wherever it is put.

    It is inert in HTML (elements and attributes), in Markdown and MyST (a character that could
    begin markup is written as its number) and for MathJax (which reads the page after numbers are
    resolved, so delimiters are set apart in elements of their own, in a span that it ignores).

    Parameters
    ----------
    text : object
        Anything; its ``str`` is shown.

    Returns
    -------
    str
        One line of HTML; line breaks become ``<br>``, other control characters a replacement mark.
    """
    text = str(text).replace("\r\n", "\n").replace("\r", "\n")
    return f'<span class="tex2jax_ignore mathjax_ignore">{"".join(map(_literal, text))}</span>'


def table(
    frame: pd.DataFrame, caption: str = "", formats: Mapping[str, str] | None = None
) -> Display:
    """Return a table to display, with everything in it escaped.

    Parameters
    ----------
    frame : pandas.DataFrame
        Its columns are shown, also those of one name; its index is not.
    caption : str, default ""
        Shown above the table.
    formats : mapping of column -> format specification, optional
        For numbers, such as ``{"accuracy": ".1%"}``. Default: three decimals for floats.

    Returns
    -------
    Display
        A missing number is shown as a dash.

    Raises
    ------
    InputError
        If `formats` names no column of the frame.
    """
    formats = dict(formats or {})
    for name in formats:
        if name not in frame:
            raise InputError(f"No column {name!r} to format.{did_you_mean(name, frame)}")
    heads = [str(name) for name in frame]
    columns = [[_written(value, formats.get(name)) for value in c] for name, c in frame.items()]
    cells = pd.DataFrame(dict(enumerate(columns)), dtype=object)
    right = [pd.api.types.is_numeric_dtype(column) for _, column in frame.items()]
    sides = ["right" if numeric else "left" for numeric in right]

    def row(tag: str, values: Sequence[str]) -> str:
        parts = (
            f'<{tag} style="text-align: {side}">{escape(value)}</{tag}>'
            for value, side in zip(values, sides, strict=True)
        )
        return f"<tr>{''.join(parts)}</tr>"

    body = "\n".join(row("td", values) for values in cells.itertuples(index=False))
    above = f"<caption>{escape(caption)}</caption>\n" if caption else ""
    html = (
        f'<div style="overflow-x: auto">\n<table class="dataframe">\n{above}'
        f"<thead>{row('th', heads)}</thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>"
    )
    plain = cells.map(_printable).set_axis(map(_printable, heads), axis=1).to_string(index=False)
    return Display(html, f"{_printable(caption)}\n{plain}".strip("\n"))


def paragraph(*sentences: str) -> Display:
    """Return sentences to display as one paragraph, escaped."""
    text = " ".join(sentences)
    return Display(f"<p>{escape(text)}</p>", _printable(text))


def bullets(*sentences: str) -> Display:
    """Return sentences to display as a list, escaped."""
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return Display(f"<ul>{items}</ul>", "\n".join(f"- {_printable(s)}" for s in sentences))


def query_cards(
    questions: Sequence[str],
    correct: np.ndarray,
    p: np.ndarray,
    choice: np.ndarray,
    targets: Sequence[str],
    answers: np.ndarray | None = None,
    caption: str = "",
) -> Display:
    """Return a table of queries: each target's answer and P(correct), and the one that is asked.

    Parameters
    ----------
    questions : (n,) sequence of str
    correct : (n, K) array
        1 right, 0 wrong, NaN never asked.
    p : (n, K) array
        Predicted P(correct).
    choice : (n,) int array
        The target the router asks.
    targets : (K,) sequence of str
    answers : (n, K) array of str, optional
        What each target wrote, where that is known.
    caption : str, default ""

    Returns
    -------
    Display
        Cells such as ``"right (0.83)"``, followed by the answer if there is one.
    """
    outcome = np.where(np.isnan(correct), "not asked", np.where(correct == 1, "right", "wrong"))
    columns = [list(questions)]
    for k in range(len(targets)):
        pairs = zip(outcome[:, k], p[:, k], strict=True)
        cells = [f"{grade} ({value:.2f})" for grade, value in pairs]
        if answers is not None:
            cells = [f"{cell}\n{answer}" for cell, answer in zip(cells, answers[:, k], strict=True)]
        columns.append(cells)
    columns.append([f"{targets[k]}: {outcome[i, k]}" for i, k in enumerate(choice)])
    frame = pd.DataFrame(dict(enumerate(columns)), dtype=object)
    return table(frame.set_axis(["question", *targets, "router asks"], axis=1), caption)


def _literal(character: str) -> str:
    if character == "\n":
        return "<br>"
    if unicodedata.category(character) in UNPRINTABLE:
        return "&#65533;"
    if character.isalnum() or character in " ,":
        return character
    number = f"&#{ord(character)};"
    return f"<span>{number}</span>" if character in "$\\" else number


def _printable(text: str) -> str:
    """Return `text` on one line, without control characters (a terminal would obey them)."""
    line = str(text).replace("\n", " ")
    return "".join("\ufffd" if unicodedata.category(c) in UNPRINTABLE else c for c in line)


def _written(value: object, spec: str | None) -> str:
    if isinstance(value, float | np.floating):
        return "–" if np.isnan(value) else format(float(value), spec or ".3f")
    if spec is not None and isinstance(value, int | np.integer):
        return format(int(value), spec)
    return "–" if value is None or value is pd.NA else str(value)
