"""Every architecture is read like one prompt at a time, and the book's table of them is true."""

import csv

import compatibility
import numpy as np
import pytest
from architectures import ARCHITECTURES, N_LAYERS
from compatibility import QUESTIONS, TOKENIZER, deviations, encoder, truth
from tiny_models import states_of

FLOAT32, BFLOAT16 = 1e-4, 0.1  # the largest deviations that are rounding
WRONG = 0.1  # what a mistake makes at least, at every layer and pooling

every_architecture = pytest.mark.parametrize("key", ARCHITECTURES)


@every_architecture
def test_states_are_those_of_an_unpadded_pass(key):
    for token_budget in (1, 20, 8192):  # alone, a few together, all in one batch
        states = states_of(encoder(key), TOKENIZER, QUESTIONS, token_budget=token_budget)
        assert deviations(states, truth(key)).max() < FLOAT32


@every_architecture
def test_half_depth_is_a_part_of_full_depth(key):
    half = range(N_LAYERS // 2 + 1)
    full = states_of(encoder(key), TOKENIZER, QUESTIONS)
    part = states_of(encoder(key), TOKENIZER, QUESTIONS, layers=half)
    np.testing.assert_array_equal(part, full[: len(half)])


@every_architecture
def test_mistakes_are_seen_at_every_layer(key):
    wanted = truth(key)
    mistakes = {
        "the other pooling": wanted[:, ::-1],
        "the next question": np.roll(wanted, 1, axis=2),
        "the next layer": np.roll(wanted, 1, axis=0),
    }
    for mistake, states in mistakes.items():
        assert deviations(states, wanted).max(axis=-1).min() > WRONG, mistake


def test_the_books_table_is_true():
    with compatibility.TABLE.open(encoding="utf-8", newline="") as file:
        rows = {row["Architecture"]: row for row in csv.DictReader(file)}
    assert len({row["`model_type`"] for row in rows.values()}) >= 25
    assert rows.keys() == {architecture.name for architecture in ARCHITECTURES.values()}
    for key, architecture in ARCHITECTURES.items():
        row = rows[architecture.name]
        bounds = {dtype: float(row.pop(dtype)) for dtype in ("float32", "bfloat16")}
        assert row == compatibility.properties(key), "python tests/compatibility.py writes it anew"
        assert compatibility.float32_deviation(key) < bounds["float32"] <= FLOAT32
        assert compatibility.bfloat16_deviation(key) < bounds["bfloat16"] <= BFLOAT16
