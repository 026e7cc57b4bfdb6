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

    def __init__(self, markup):
        super().__init__(convert_charrefs=True)
        self.texts, self.tags, self.attributes = [""], set(), set()
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}
        self.texts += ["\n", ""] if tag == "br" else [""]

    def handle_endtag(self, tag):
        self.texts.append("")

    def handle_data(self, data):
        self.texts[-1] += data

    @property
    def words(self):
        return [text.strip() for text in self.texts if text.strip()]


def assert_literal(markup, text):
    seen = Reader(markup)
    assert "".join(seen.texts) == text
    assert seen.tags <= {"span", "br"} and seen.attributes <= {"class"}
    for node in seen.texts:  # MathJax looks for delimiters within a text node
        assert not {"$", "\\"} & set(node) or len(node) == 1


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
    seen, printable = Reader(markup), text.replace("\r\n", "\n").replace("\r", "\n")
    assert seen.tags <= {"span", "br"}
    shown = "".join(seen.texts)
    assert all(a == b or b == "\ufffd" for a, b in zip(printable, shown, strict=True))


def test_a_table_shows_every_cell_escaped_and_formatted():
    cells = [["$small$", HOSTILE[0], 0.25, 3], ["a\x1b[31mb\nc", "x", np.nan, 4]]
    frame = pd.DataFrame(cells, [7, 8], ["<b>", "<b>", "share", "n"])  # one name twice
    shown = display.table(frame, caption="$c$", formats={"share": ".0%"})
    seen = Reader(shown._repr_html_())
    assert not seen.tags & {"script", "b"}
    words = ["$c$", "<b>", "<b>", "share", "n", "$small$", HOSTILE[0], "25%", "3"]
    words += ["a\ufffd[31mb", "c", "x", "–", "4"]  # a terminal is told no codes
    assert "".join(seen.words) == "".join(words)
    assert "".join(repr(shown).split()) == "".join(words).replace(" ", "")
    assert repr(display.table(pd.DataFrame({"x": [1 / 3]}))).split() == ["x", "0.333"]
    with pytest.raises(InputError, match="Did you mean 'share'"):
        display.table(frame, formats={"shar": ".1%"})


def test_paragraphs_and_bullets_are_escaped():
    shown = display.paragraph("One.", "<i>Two</i>\x1b.")
    assert Reader(shown.html).words == ["One. <i>Two</i>\ufffd."] == [repr(shown)]
    shown = display.bullets("<b>one</b>", "two $$")
    assert shown.html.count("<li>") == 2
    assert "<b>" not in shown.html and "$$" not in shown.html
    assert repr(shown) == "- <b>one</b>\n- two $$"


def row(metric, router, estimate, lower=np.nan, upper=np.nan, **fields):
    of = {"metric": metric, "router": router, "estimate": estimate}
    return of | {"lower": lower, "upper": upper} | fields


def test_a_results_table_has_a_line_a_name_and_a_column_a_metric_that_exists():
    frame = results(
        [
            row("gap closed", "A", 0.25, 0.1, 0.4),
            row("gap closed", "B", 0.05, 0.0, 0.1),
            row("AUC", "A", 0.8, 0.7, 0.9),
            row("gap closed", "A", 0.2, 0.1, 0.3, versus="B"),
        ]
    )
    metrics = {"gap closed": "%", "AUC": "value", "Brier": "value"}
    assert display.results_table(select(frame), metrics).to_dict("list") == {
        "router": ["A", "B"],
        "gap closed": ["25.0 % [10.0, 40.0]", "5.0 % [0.0, 10.0]"],
        "AUC": ["0.800 [0.700, 0.900]", "–"],
    }


def test_the_summary_follows_the_corrected_p_values_and_accuracy():
    p = {"B": 0.02, "C": 0.04, "D": 0.3}
    accuracy = {"A": 0.6, "B": 0.56, "C": 0.62, "D": 0.58}
    rows = [row("p-value (Holm)", "A", value, versus=other) for other, value in p.items()]
    frame = results(rows + [row("accuracy", name, value) for name, value in accuracy.items()])
    said = display.holm_summary(frame, "A")
    assert said.startswith("After Holm's correction (level 0.05), A is better than B, worse than C")
    assert said.endswith(", and not distinguishable from D.")
    frame.loc[frame["metric"] == "p-value (Holm)", "estimate"] = 0.06
    said = display.holm_summary(frame, "A")
    assert said.endswith("than none, worse than none, and not distinguishable from B; C and D.")


def test_a_table_can_be_folded_away():
    shown = display.table(pd.DataFrame({"a": [1]}), fold="All <of> it")
    assert shown.html.startswith("<details><summary>") and shown.html.endswith("</details>")
    assert "<of>" not in shown.html and shown.text == display.table(pd.DataFrame({"a": [1]})).text
