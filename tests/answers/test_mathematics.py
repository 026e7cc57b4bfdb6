import math
from threading import Thread

import pytest

from prefill_router.answers import mathematics, reading
from prefill_router.answers.mathematics import latex_value


@pytest.mark.parametrize(
    ("latex", "value"),
    [(r"\frac{3}{8}", 0.375), (r"2\frac{1}{2}", 2.5), (r"2\pi", 2 * math.pi), (r"90^\circ", 90)],
)
def test_numbers_in_latex_are_evaluated_in_any_thread(latex, value):
    found = []
    thread = Thread(target=lambda: found.append(latex_value(latex)))
    thread.start()
    thread.join()
    assert found == [pytest.approx(value)]


@pytest.mark.parametrize("latex", [r"\frac{a}{2}", r"\{1, 2\}", r"\alpha", "", r"\frac{"])
def test_what_is_no_number_is_nan(latex):
    assert math.isnan(latex_value(latex))


def test_what_never_ends_is_no_number_and_is_ended(monkeypatch):
    monkeypatch.setattr(mathematics, "LONGEST_WAIT", 0.5)
    assert math.isnan(latex_value(r"9^{9^{9^{9}}}"))
    assert latex_value(r"\frac{5}{8}") == 0.625  # in a new process
    assert reading.number(r"The answer is $9^{9^{9^{9}}}$, at most 5.") == []
