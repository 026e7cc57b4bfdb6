from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from prefill_router import zoo
from prefill_router.answers import generation
from prefill_router.answers.generation import generate
from prefill_router.errors import InputError
from prefill_router.extraction.sources import ZOO, n_parameters, resolve, weights_hash
from prefill_router.labels import load_labels
from prefill_router.labels.costs import load_prices
from prefill_router.storage import file_hash, read_json
from prefill_router.zoo import labelling as it
from prefill_router.zoo.recipes import RECIPES, TARGETS
from prefill_router.zoo.training import build_model, export


def check_manifest(path, names):
    """It has the hashes of a file, of the labels and of the targets' weights."""
    manifest = read_json(path.with_suffix(".manifest.json"))
    assert manifest[path.stem] == file_hash(path)
    assert manifest["labels"] == file_hash(zoo.LABELS)
    assert manifest["weights"] == {f"zoo/{n}": weights_hash(resolve(f"zoo/{n}")) for n in names}
    return manifest["decoding"]


# -- what is committed ---------------------------------------------------------------------------


def test_committed_labels_and_samples_are_of_the_committed_weights_and_questions(queries):
    assert check_manifest(zoo.LABELS, TARGETS) == {"max_new_tokens": 96, "temperature": 0.0}
    assert check_manifest(zoo.SAMPLES, TARGETS)["seeds"] == list(range(it.N_DRAWS))
    assert sum(path.stat().st_size for path in ZOO.glob("*/*")) <= 24e6  # the zoo is small
    columns = ["query_id", "question", "benchmark", "group", "split"]
    for _, rows in pd.read_parquet(zoo.LABELS).groupby("model"):
        rows = rows[columns].reset_index(drop=True)
        pd.testing.assert_frame_equal(rows, queries[columns], check_dtype=False)


def test_committed_prices_are_one_constant_times_the_parameters():
    prices = load_prices(zoo.PRICES)
    for name in TARGETS:
        n = sum(p.numel() for p in build_model(RECIPES[name]).parameters())
        assert n_parameters(resolve(f"zoo/{name}")) == n
        price = pytest.approx(it.USD_PER_MILLION_TOKENS_AND_PARAMETERS * n / 1e6, rel=1e-9)
        assert prices.input[f"zoo/{name}"] == prices.output[f"zoo/{name}"] == price


def test_committed_samples_cover_validation_and_test_and_lie_near_greedy_answers():
    committed = load_labels(zoo.LABELS)
    rows = np.flatnonzero(committed.split != "train")
    right = it.load_samples(committed, rows)
    assert right.shape == (it.N_DRAWS, len(rows), committed.n_targets)
    chance, greedy = right.mean(axis=0), committed.correct[rows]
    for k in range(committed.n_targets):
        assert chance[greedy[:, k] == 1, k].mean() > chance[greedy[:, k] == 0, k].mean() + 0.4
    for a in range(3):  # draws are independent, not copies of one another
        agree = (right[a] == right[a + 1]).mean()
        within = chance * (1 - chance) * it.N_DRAWS / (it.N_DRAWS - 1)
        assert agree == pytest.approx(1 - 2 * within.mean(), abs=0.01)
    some, two = [5, 2, 9], committed.select_targets([committed.targets[3], committed.targets[0]])
    np.testing.assert_array_equal(it.load_samples(two, rows[some]), right[:, some][:, :, [3, 0]])
    with pytest.raises(InputError, match="no answers of"):
        it.load_samples(committed, np.flatnonzero(committed.split == "train")[:1])


# -- making them ---------------------------------------------------------------------------------


def test_labels_are_graded_answers_made_once_for_the_same_weights(tiny_zoo, monkeypatch):
    path = it.fresh_labels(tiny_zoo.store)
    labels = load_labels(path)
    assert labels.targets == ("zoo/gpt2-a", "zoo/thinker-e")
    assert labels.query_id.tolist() == tiny_zoo.asked["query_id"].tolist()
    assert labels.split.tolist() == tiny_zoo.asked["split"].tolist()
    np.testing.assert_array_equal(labels.correct[:, 0], tiny_zoo.known)
    assert labels.correct[:, 1].mean() < 0.5
    assert ((labels.output_tokens >= 1) & (labels.output_tokens <= 8)).all()
    answers, correct = it.ask_again(labels, np.array([5, 2]), decoding=tiny_zoo.decoding)
    np.testing.assert_array_equal(correct, labels.correct[[5, 2]])
    assert tiny_zoo.known[2]
    assert answers[1, 0].split() == tiny_zoo.asked["reference"][2].split()
    asked = []
    monkeypatch.setattr(generation, "generate", lambda *of: asked.append(of) or generate(*of))
    assert it.fresh_labels(tiny_zoo.store) == path and not asked
    other = replace(tiny_zoo.recipes["gpt2-a"], seed=123)
    export(build_model(other), other, resolve("zoo/gpt2-a").location, 0)
    it.fresh_labels(tiny_zoo.store)
    assert len(asked) == 1  # the one with other weights


def test_labels_come_with_manifest_prices_and_cards_and_samples_with_their_manifest(tiny_zoo):
    it.write_default_labels(tiny_zoo.store)
    assert check_manifest(zoo.LABELS, tiny_zoo.recipes)["max_new_tokens"] == 8
    assert set(load_prices(zoo.PRICES).input) == {"zoo/gpt2-a", "zoo/thinker-e"}
    table = pd.read_parquet(zoo.LABELS)
    mine = table[(table["model"] == "zoo/gpt2-a") & (table["split"] == "test")]
    card = (resolve("zoo/gpt2-a").location / "README.md").read_text()
    tokens = mine["output_tokens"].mean()
    assert f"| test | {len(mine)} | {mine['is_correct'].mean():.1%} | {tokens:.1f} |" in card
    it.write_default_samples(tiny_zoo.store)
    labels = load_labels(zoo.LABELS)
    rows = np.flatnonzero(labels.split != "train")
    right = it.load_samples(labels, rows)
    assert right.shape == (it.N_DRAWS, len(rows), 2)
    for draw in (3, 4):
        again = it.ask_again(labels, rows, decoding=replace(it.SAMPLING, seed=draw))[1]
        np.testing.assert_array_equal(right[draw], again)
    assert check_manifest(zoo.SAMPLES, tiny_zoo.recipes)["temperature"] == 1.0
    pd.read_parquet(zoo.SAMPLES).iloc[:-1].to_parquet(zoo.SAMPLES)
    with pytest.raises(InputError, match="restore both"):
        it.load_samples(labels, rows)
