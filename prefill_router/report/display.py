"""Tables and text to display, from untrusted strings that must appear literally.

Questions, and names of targets and routers, come from someone else's file: all that is shown as
HTML passes through `escape`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
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


def results_table(frame: pd.DataFrame, metrics: Mapping[str, str]) -> pd.DataFrame:
    """Return one line per router: its metrics with intervals.

    Parameters
    ----------
    frame : pandas.DataFrame
        Results, at most one of each metric and router; see `select`.
    metrics : mapping of metric -> scale
        Scales as for `format_interval`. A metric that no router has gets no column.
    """
    return pivot(frame, ["router"], metrics, MISSING)


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
