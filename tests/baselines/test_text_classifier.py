import numpy as np
import pytest
import tiny_models
import torch
from scipy.special import expit

from prefill_router.baselines.text_classifier import TextClassifier
from prefill_router.errors import InputError
from prefill_router.extraction.models import load_encoder
from prefill_router.extraction.sources import resolve

torch.set_num_threads(1)
TEXTS = np.array(tiny_models.questions(80), dtype=object)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return resolve(str(tiny_models.save(tmp_path_factory.mktemp("encoder"))))


@pytest.fixture(scope="module")
def labels():
    """Whether w3 is in the text, the opposite, always right, never asked."""
    known = np.array(["w3 " in f"{text} " for text in TEXTS], dtype=float)
    Y = np.column_stack([known, 1 - known, np.ones(80), np.full(80, np.nan)])
    Y[::7, :2] = np.nan
    return Y


@pytest.fixture(scope="module")
def fitted(source, labels):
    return TextClassifier(source, learning_rate=3e-3, max_epochs=20, patience=3).fit(TEXTS, labels)


def test_it_learns_what_the_words_say(fitted, labels):
    p, known = fitted.predict_proba(TEXTS), ~np.isnan(labels[:, 0])
    assert ((p[known, :2] > 0.5) == labels[known, :2]).mean() > 0.9
    assert (p[:, 2] > 0.9).all()
    assert (p[:, 3] == 0.5).all()


def test_the_head_reads_the_pooled_states_of_the_fine_tuned_encoder(fitted, source):
    p = fitted.predict_proba(TEXTS[:20])
    fine_tuned = fitted.model_, fitted.tokenizer_
    states = tiny_models.states_of(*fine_tuned, TEXTS[:20], poolings=["mean"])[-1, 0]
    weight, bias = (part.detach().numpy() for part in (fitted.head_.weight, fitted.head_.bias))
    np.testing.assert_allclose(p[:, :3], expit(states @ weight.T + bias)[:, :3], atol=1e-5)
    untouched = tiny_models.states_of(*load_encoder(source), TEXTS[:20], poolings=["mean"])[-1, 0]
    assert not np.allclose(states, untouched, atol=1e-3)


def test_the_best_epochs_weights_are_kept(fitted, source, labels):
    best = int(np.argmin(fitted.losses_))
    assert 0 < best < len(fitted.losses_) - 1  # it overfits before it stops
    assert len(fitted.losses_) - 1 - best == fitted.patience
    stopped = TextClassifier(source, learning_rate=3e-3, max_epochs=best).fit(TEXTS, labels)
    np.testing.assert_array_equal(stopped.predict_proba(TEXTS), fitted.predict_proba(TEXTS))


def test_without_an_improvement_the_base_rate_stays(source, labels):
    model = TextClassifier(source, learning_rate=1e6, max_epochs=2).fit(TEXTS, labels)
    p = model.predict_proba(TEXTS)
    assert (p == p[0]).all()
    np.testing.assert_allclose(p[0, :2], np.nanmean(labels[:, :2], axis=0), atol=0.1)


def test_the_callers_random_numbers_and_the_seed_decide(source, labels):
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    models = [TextClassifier(source, max_epochs=1, random_state=seed) for seed in (0, 0, 1)]
    first, same, other = (model.fit(TEXTS, labels).predict_proba(TEXTS) for model in models)
    assert torch.equal(torch.random.get_rng_state(), before)
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


def test_labels_of_held_groups_do_not_train(source, monkeypatch):
    """They say when to stop, and are in no gradient and no base rate."""
    groups, seen = np.arange(80) // 4, []

    def split(given, *_):
        seen.append(given)
        return np.arange(64), np.arange(64, 80), 64

    monkeypatch.setattr("prefill_router.baselines.text_classifier.grouped_split", split)
    labels = np.tile([1.0, 0.0], (80, 1))
    other = labels.copy()
    other[64:68, 0] = np.nan
    models = [TextClassifier(source, max_epochs=1).fit(TEXTS, Y, groups) for Y in (labels, other)]
    assert np.array_equal(seen[0], groups)
    assert models[0].losses_ != models[1].losses_
    assert all(model.losses_[1] < model.losses_[0] for model in models)
    first, second = (model.predict_proba(TEXTS) for model in models)
    np.testing.assert_array_equal(first, second)


def test_long_prompts_are_refused_or_cut(source, labels):
    with pytest.raises(InputError, match="longer than 4 tokens"):
        TextClassifier(source, max_tokens=4).fit(TEXTS, labels)
    cut = TextClassifier(source, max_tokens=4, truncation="right", max_epochs=1)
    assert cut.fit(TEXTS, labels).predict_proba(TEXTS).shape == (80, 4)
