from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from prefill_router import zoo
from prefill_router.answers.generation import Decoding, generate
from prefill_router.extraction import sources
from prefill_router.extraction.models import load_target
from prefill_router.extraction.sources import n_parameters, resolve, weights_hash
from prefill_router.labels import load_labels
from prefill_router.labels.costs import load_prices
from prefill_router.storage import Store, file_hash, read_json
from prefill_router.zoo import labelling as module
from prefill_router.zoo.labelling import (
    USD_PER_MILLION_TOKENS_AND_PARAMETERS,
    agreement_with_fresh_answers,
    ask_again,
    fresh_labels,
    write_default_labels,
)
from prefill_router.zoo.recipes import RECIPES, TARGETS
from prefill_router.zoo.training import build_model, export

TINY = {
    name: replace(RECIPES[name], width=16, blocks=1, heads=2, steps=0)
    for name in ("gpt2-a", "thinker-e")
}
SHORT = Decoding(max_new_tokens=8)


@pytest.fixture
def tiny_zoo(tmp_path, monkeypatch, queries):
    """Two untrained targets; every other reference is the first one's answer, where it says any."""
    monkeypatch.setattr(sources, "ZOO", tmp_path / "models")
    for name, recipe in TINY.items():
        export(build_model(recipe), recipe, tmp_path / "models" / name, 0)
    # of each split, so that the cards have all scores
    asked = queries.groupby("split").head(8).reset_index(drop=True)
    answers, _ = generate(*load_target(resolve("zoo/gpt2-a")), asked["question"].tolist(), SHORT)
    known = (np.arange(len(asked)) % 2 == 0) & [bool(answer.strip()) for answer in answers]
    asked["reference"] = np.where(known, answers, "never said")
    for name, value in {
        "TARGETS": tuple(TINY),
        "RECIPES": TINY,
        "DECODING": SHORT,
        "benchmark": lambda: asked.copy(),
    }.items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(zoo, "LABELS", tmp_path / "labels.parquet")
    monkeypatch.setattr(zoo, "PRICES", tmp_path / "prices.csv")
    return tmp_path, asked, known


@pytest.mark.parametrize("name", TARGETS)
def test_prices_are_one_constant_times_the_parameters(name):
    million = sum(p.numel() for p in build_model(RECIPES[name]).parameters()) / 1e6
    assert n_parameters(resolve(f"zoo/{name}")) == round(million * 1e6)
    prices = load_prices(zoo.PRICES)
    for table in (prices.input, prices.output):
        assert table[f"zoo/{name}"] == pytest.approx(
            USD_PER_MILLION_TOKENS_AND_PARAMETERS * million, rel=1e-9
        )


def test_labels_are_graded_answers(tiny_zoo):
    tmp_path, asked, known = tiny_zoo
    store = Store(tmp_path / "store")
    labels = load_labels(fresh_labels(store))
    assert labels.targets == ("zoo/gpt2-a", "zoo/thinker-e")
    assert labels.query_id.tolist() == asked["query_id"].tolist()
    assert labels.split.tolist() == asked["split"].tolist()
    np.testing.assert_array_equal(labels.correct[:, 0], known)
    assert labels.correct[:, 1].mean() < 0.5
    assert ((labels.output_tokens >= 1) & (labels.output_tokens <= SHORT.max_new_tokens)).all()


def test_labels_are_made_once(tiny_zoo, monkeypatch):
    tmp_path, *_ = tiny_zoo
    store = Store(tmp_path / "store")
    path = fresh_labels(store)
    monkeypatch.setattr(module, "collect_labels", lambda *a, **k: pytest.fail("asked again"))
    assert fresh_labels(store) == path


def test_new_weights_are_asked_anew(tiny_zoo):
    tmp_path, *_ = tiny_zoo
    store = Store(tmp_path / "store")
    path = fresh_labels(store)
    other = replace(TINY["gpt2-a"], seed=123)
    export(build_model(other), other, tmp_path / "models" / "gpt2-a", 0)
    assert fresh_labels(store) != path


def test_default_labels_come_with_manifest_prices_and_cards(tiny_zoo):
    tmp_path, *_ = tiny_zoo
    write_default_labels(Store(tmp_path / "store"))
    manifest = read_json(tmp_path / "labels.manifest.json")
    assert manifest["labels"] == file_hash(zoo.LABELS)
    assert manifest["weights"] == {f"zoo/{n}": weights_hash(resolve(f"zoo/{n}")) for n in TINY}
    assert manifest["decoding"]["max_new_tokens"] == SHORT.max_new_tokens
    assert set(load_prices(zoo.PRICES).input) == {"zoo/gpt2-a", "zoo/thinker-e"}
    table = pd.read_parquet(zoo.LABELS)
    mine = table[(table["model"] == "zoo/gpt2-a") & (table["split"] == "test")]
    card = (tmp_path / "models" / "gpt2-a" / "README.md").read_text()
    tokens = mine["output_tokens"].mean()
    assert f"| test | {len(mine)} | {mine['is_correct'].mean():.1%} | {tokens:.1f} |" in card


def test_asking_again_gives_answers_and_grades_of_the_rows_asked_for(tiny_zoo):
    tmp_path, asked, known = tiny_zoo
    labels = load_labels(fresh_labels(Store(tmp_path / "store")))
    rows = np.array([5, 2])
    answers, correct = ask_again(labels, rows)
    assert answers.shape == correct.shape == (2, 2)
    np.testing.assert_array_equal(correct, labels.correct[rows])
    assert answers[1, 0].split() == asked["reference"][2].split() and known[2]


def test_agreement_counts_labels_that_another_answer_confirms(tiny_zoo):
    tmp_path, *_ = tiny_zoo
    labels = load_labels(fresh_labels(Store(tmp_path / "store")))
    n = labels.n_queries
    table = agreement_with_fresh_answers(labels, n, seed=0, device="cpu")
    assert (table["agreement"] == 1).all() and (table["n"] == n).all()
    correct = labels.correct.copy()
    correct[: n // 4, 1] = 1 - correct[: n // 4, 1]
    table = agreement_with_fresh_answers(
        replace(labels, correct=correct), 10 * n, seed=0, device="cpu"
    )
    assert table["agreement"].tolist() == [1, pytest.approx(1 - (n // 4) / n)]
    assert table["n"].tolist() == [n, n]
    assert (agreement_with_fresh_answers(labels, 5, 1, "cpu")["n"] == 5).all()
