import html
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin
from mdit_py_plugins.myst_role import myst_role_plugin

from prefill_router.errors import InputError
from prefill_router.evaluation.results import results, select
from prefill_router.report import display

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "$$x^2$$ and $y$ and \\(z\\) and \\begin{align}1\\end{align}",
    "```{include} /etc/passwd\n```",
    "{download}`secret`",
    ":::{note}\nhello\n:::",
    "[click](javascript:alert(1))",
    "# heading\n- item\n1. one\n    code",
    "a | b\n--|--\n1 | 2",
    "{{ substitution }} &amp; &lt;b&gt; \"quoted\" 'too'",
    "(label)=\n% comment\n+++",
    "*bold* _it_ ~~gone~~ https://example.org",
]


class Reader(HTMLParser):
    """Collects what a browser would show, each text node apart, and the elements it would make."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.texts, self.tags, self.attributes = [""], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        self.texts.append("\n" if tag == "br" else "")
        if tag == "br":
            self.texts.append("")

    def handle_endtag(self, tag):
        self.texts.append("")

    def handle_data(self, data):
        self.texts[-1] += data


def read(markup):
    reader = Reader()
    reader.feed(markup)
    reader.close()
    return reader


def assert_literal(markup, text):
    seen = read(markup)
    assert "".join(seen.texts) == text
    assert set(seen.tags) <= {"span", "br"}
    assert all(name == "class" for name, _ in seen.attributes)
    for node in seen.texts:  # MathJax looks for delimiters within a text node
        assert "$" not in node or node == "$"
        assert "\\" not in node or node == "\\"


@pytest.mark.parametrize("text", HOSTILE)
def test_untrusted_text_is_shown_literally_in_html_markdown_and_myst(text):
    assert_literal(display.escape(text), text)
    markdown = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    markdown.use(dollarmath_plugin).use(myst_role_plugin)
    rendered = markdown.render(display.escape(text))
    assert rendered.startswith("<p>") and rendered.endswith("</p>\n")
    assert_literal(rendered[3:-5], text)


@given(st.text())
def test_any_text_is_one_line_of_inert_html(text):
    markup = display.escape(text)
    assert "\n" not in markup
    seen = read(markup)
    assert set(seen.tags) <= {"span", "br"}
    printable = text.replace("\r\n", "\n").replace("\r", "\n")
    shown = "".join(seen.texts)
    assert len(shown) == len(printable)
    assert all(a == b or b == "\ufffd" for a, b in zip(printable, shown, strict=True))


def test_a_table_shows_every_cell_escaped_and_formatted():
    frame = pd.DataFrame(
        {"<b>": [HOSTILE[0], "x"], "share": [0.25, np.nan], "n": [3, 4]}, index=[7, 8]
    )
    shown = display.table(frame, caption="$c$", formats={"share": ".0%"})
    seen = read(shown._repr_html_())
    assert "script" not in seen.tags and "b" not in seen.tags
    cells = "".join(seen.texts)
    for expected in (HOSTILE[0], "<b>", "25%", "–", "$c$"):
        assert expected in cells
    assert repr(shown).splitlines()[0] == "$c$"
    assert "25%" in repr(shown) and HOSTILE[0] in repr(shown)
    by_default = display.table(pd.DataFrame({"x": [1 / 3]}))
    assert "0.333" in html.unescape(by_default.html) and repr(by_default).split() == ["x", "0.333"]


def test_columns_of_one_name_are_all_shown():
    frame = pd.DataFrame([["small", 0.25, 1]], columns=["target", "target", "n"])
    shown = display.table(frame, formats={"target": ".0%"})
    cells = ["target", "target", "n", "small", "25%", "1"]
    assert [text for text in read(shown.html).texts if text.strip()] == cells
    assert repr(shown).split() == cells


def test_a_format_for_no_column_is_refused():
    with pytest.raises(InputError, match="Did you mean 'share'"):
        display.table(pd.DataFrame({"share": [1.0]}), formats={"shar": ".1%"})


def test_plain_text_obeys_no_terminal_codes():
    shown = display.table(pd.DataFrame({"q": ["a\x1b[31mb\nc"]}))
    assert "\x1b" not in repr(shown) and "b c" in repr(shown)
    assert "\x1b" not in display.paragraph("a\x1b[0m").text


def test_query_cards_tell_each_answer_its_probability_and_the_choice():
    """Also where a target is called like a column."""
    shown = display.query_cards(
        ["<script>", "2 + 2"],
        np.array([[1.0, 0.0], [np.nan, 1.0]]),
        np.array([[0.9, 0.125], [0.3, 0.7]]),
        np.array([0, 1]),
        ("small", "question"),
        np.array([["4", "<b>5</b>"], ["", "6"]], dtype=object),
    )
    seen = read(shown.html)
    assert "b" not in seen.tags
    assert [text.strip() for text in seen.texts if text.strip()] == [
        *["question", "small", "question", "router asks"],
        *["<script>", "right (0.90)", "4", "wrong (0.12)", "<b>5</b>", "small: right"],
        *["2 + 2", "not asked (0.30)", "right (0.70)", "6", "question: right"],
    ]


def test_paragraphs_and_bullets_are_escaped():
    seen = read(display.paragraph("One.", "<i>Two</i>.").html)
    assert "".join(seen.texts) == "One. <i>Two</i>." and "i" not in seen.tags
    shown = display.bullets("<b>one</b>", "two $$")
    assert shown.html.count("<li>") == 2
    assert "<b>" not in shown.html and "$$" not in shown.html
    assert repr(shown) == "- <b>one</b>\n- two $$"


def row(metric, router, estimate, lower=np.nan, upper=np.nan, **fields):
    of = {"metric": metric, "router": router, "estimate": estimate}
    return of | {"lower": lower, "upper": upper} | fields


@pytest.fixture
def frame():
    p = {"B": 0.02, "C": 0.04, "D": 0.3}
    accuracy = {"A": 0.6, "B": 0.56, "C": 0.62, "D": 0.58}
    rows = [
        row("gap closed", "A", 0.25, 0.1, 0.4),
        row("gap closed", "B", 0.05, 0.0, 0.1),
        row("AUC", "A", 0.8, 0.7, 0.9),
        row("configurations tried", "A", 12),
        row("gap closed", "A", 0.2, 0.1, 0.3, versus="B"),
    ]
    rows += [row("p-value (Holm)", "A", value, versus=other) for other, value in p.items()]
    rows += [row("accuracy", name, value) for name, value in accuracy.items()]
    return results(rows)


def test_a_table_has_a_line_a_router_and_a_column_a_metric_that_exists(frame):
    metrics = {"gap closed": "%", "AUC": "value", "Brier": "value", "configurations tried": ".0f"}
    table = display.results_table(select(frame, router=["A", "B"]), metrics)
    assert table.to_dict("list") == {
        "router": ["A", "B"],
        "gap closed": ["25.0 % [10.0, 40.0]", "5.0 % [0.0, 10.0]"],
        "AUC": ["0.800 [0.700, 0.900]", "–"],
        "configurations tried": ["12", "–"],
    }


def test_lines_may_be_what_a_router_is_compared_with(frame):
    differences = frame[frame["versus"] != ""]
    table = display.results_table(
        differences, {"gap closed": "points", "p-value (Holm)": ".4f"}, by="versus"
    )
    assert table.iloc[0].tolist() == ["B", "+20.0 points [+10.0, +30.0]", "0.0200"]
    assert table["gap closed"].tolist()[1:] == ["–", "–"]


def test_the_summary_follows_the_corrected_p_values_and_accuracy(frame):
    assert display.holm_summary(frame, "A") == (
        "After Holm's correction (level 0.05), A is better than B, worse than C, and not "
        "distinguishable from D."
    )
    frame.loc[frame["metric"] == "p-value (Holm)", "estimate"] = 0.06
    assert "better than none, worse than none" in display.holm_summary(frame, "A")
    assert "from B; C and D." in display.holm_summary(frame, "A")
