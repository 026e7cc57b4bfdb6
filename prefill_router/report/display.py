"""Tables and text to display, from untrusted strings that must appear literally.

Questions, and names of targets and routers, come from someone else's file: all that is shown as
HTML passes through `escape`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from prefill_router.errors import InputError, did_you_mean
from prefill_router.evaluation.bootstrap import ALPHA
from prefill_router.evaluation.results import select
from prefill_router.evaluation.sentences import pivot

UNPRINTABLE = ("Cc", "Cs", "Cn")  # Unicode categories: control, surrogate, no character
MISSING = "–"


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
    frame: pd.DataFrame,
    caption: str = "",
    formats: Mapping[str, str] | None = None,
    fold: str = "",
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
    fold : str, default ""
        What to call the table while it is folded away; empty to show it at once.

    Returns
    -------
    Display
        A missing number is shown as a dash.

    Raises
    ------
    InputError
        If `formats` names no column of the frame.
    """
    formats = formats or {}
    if unknown := [name for name in formats if name not in frame]:
        raise InputError(f"No column {unknown[0]!r} to format.{did_you_mean(unknown[0], frame)}")
    columns = [[_written(value, formats.get(name)) for value in c] for name, c in frame.items()]
    cells = pd.DataFrame(dict(enumerate(columns)), dtype=object)
    numeric = [pd.api.types.is_numeric_dtype(column) for _, column in frame.items()]

    def row(tag: str, values: Iterable) -> str:
        parts = (
            f'<{tag} style="text-align: {"right" if to_right else "left"}">{escape(value)}</{tag}>'
            for value, to_right in zip(values, numeric, strict=True)
        )
        return f"<tr>{''.join(parts)}</tr>"

    body = "\n".join(row("td", values) for values in cells.itertuples(index=False))
    above = f"<caption>{escape(caption)}</caption>\n" if caption else ""
    html = (
        f'<div style="overflow-x: auto">\n<table class="dataframe">\n{above}'
        f"<thead>{row('th', frame)}</thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>"
    )
    if fold:
        html = f"<details><summary>{escape(fold)}</summary>\n{html}\n</details>"
    plain = cells.map(_printable).set_axis(map(_printable, frame), axis=1).to_string(index=False)
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
    cells = np.vectorize("{} ({:.2f})".format, otypes=[object])(outcome, p)
    if answers is not None:
        cells = cells + "\n" + answers
    asked = [f"{targets[k]}: {outcome[i, k]}" for i, k in enumerate(choice)]
    columns = (np.array(column, dtype=object) for column in (questions, cells, asked))
    heads = ["question", *targets, "router asks"]
    return table(pd.DataFrame(np.column_stack([*columns]), columns=heads), caption)


def results_table(
    frame: pd.DataFrame, metrics: Mapping[str, str], by: str = "router"
) -> pd.DataFrame:
    """Return one line per router: its metrics with intervals.

    Parameters
    ----------
    frame : pandas.DataFrame
        Results, at most one of each metric and router; see `select`.
    metrics : mapping of metric -> scale
        Scales as for `format_interval`. A metric that no router has gets no column.
    by : str, default "router"
        The column that lines are named by, in its order: "versus" for the differences of one
        router, "target" or "encoder".
    """
    return pivot(frame, [by], metrics, MISSING)


def holm_summary(frame: pd.DataFrame, primary: str) -> str:
    """Return which routers `primary` differs from at `ALPHA` after Holm's correction.

    Parameters
    ----------
    frame : pandas.DataFrame
        Results with "p-value (Holm)" of the primary versus each other router, and their
        "accuracy": without headroom, gap closed is undefined.
    primary : str
    """
    p = select(frame, metric="p-value (Holm)", router=primary, versus=None)
    accuracy = select(frame, metric="accuracy", split="test").set_index("router")["estimate"]
    lead = accuracy[primary] - accuracy[p["versus"]].to_numpy()
    differs = (p["estimate"] <= ALPHA).to_numpy()
    better, worse, same = (
        " and ".join(filter(None, ["; ".join(names[:-1]), *names[-1:]])) or "none"
        for which in (differs & (lead > 0), differs & (lead <= 0), ~differs)
        for names in [p["versus"][which].tolist()]
    )
    said = f"After Holm's correction (level {ALPHA:g}), {primary} is better than {better}, "
    return said + f"worse than {worse}, and not distinguishable from {same}."


def _literal(character: str) -> str:
    if character == "\n":
        return "<br>"
    if character.isalnum() or character in " ,":
        return character
    if unicodedata.category(character) in UNPRINTABLE:
        return "&#65533;"
    number = f"&#{ord(character)};"
    return f"<span>{number}</span>" if character in "$\\" else number


def _printable(text: object) -> str:
    """Return `text` on one line, without control characters (a terminal would obey them)."""
    line = str(text).replace("\n", " ")
    return "".join("\ufffd" if unicodedata.category(c) in UNPRINTABLE else c for c in line)


def _written(value: object, spec: str | None) -> str:
    if value is None or value is pd.NA or value != value:
        return MISSING
    if spec is not None and isinstance(value, int | float | np.number):
        return format(value, spec)
    return f"{value:.3f}" if isinstance(value, float | np.floating) else str(value)
