from types import SimpleNamespace

import numpy as np
import pytest
import torch

from prefill_router.experiments.fitting import Fitting
from prefill_router.experiments.routers import MLP, ROUTERS
from prefill_router.experiments.study import Study
from prefill_router.labels.splits import Split
from prefill_router.trunk import SharedTrunkEnsemble

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("own_artifacts")


@pytest.mark.parametrize("shuffle", [False, True])
def test_networks_are_chosen_on_whole_groups(study, tmp_path, monkeypatch, shuffle):
    given = []
    fit = SharedTrunkEnsemble.fit

    def record(self, X, Y, groups=None):
        given.append((groups, self.device))
        return fit(self.set_params(device="cpu"), X, Y, groups)

    monkeypatch.setattr(SharedTrunkEnsemble, "fit", record)
    monkeypatch.setattr(Study, "training_device", torch.device("meta"))
    it = Fitting(study, 0, [study.parameters.encoder], tmp_path)
    it.trunk(it.features(), shuffle)
    [(groups, device)] = given
    assert np.array_equal(groups, study.labels.group[study.splits[0].train])
    assert device == torch.device("meta")


def test_the_study_says_what_the_mlp_trains_on(study, monkeypatch):
    monkeypatch.setattr(Study, "training_device", torch.device("meta"))  # it has no numbers
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        ROUTERS[MLP].fit(Fitting(study, 0, [], study.run_dir))


# -- the candidate that validation chooses -------------------------------------------------------


class Fixed:
    """Predicts the same numbers whatever it is fitted on, and remembers on which rows."""

    def __init__(self, p):
        self.p = p

    def fit(self, X, Y):
        self.rows = X.tolist()
        return self

    def predict_proba(self, X):
        return self.p[X]


def test_the_candidate_with_the_least_validation_brier_score_is_taken(tmp_path):
    rng = np.random.default_rng(0)
    Y = rng.integers(0, 2, (60, 3)).astype(float)
    split = Split(np.arange(30), np.arange(30, 45), np.arange(45, 60))
    good_on = dict.fromkeys(("train", "validation", "test"))
    for part in good_on:  # right on that part, wrong on the others
        p = 1 - Y
        p[getattr(split, part)] = Y[getattr(split, part)]
        good_on[part] = Fixed(p)
    Y = Y.copy()
    Y[rng.random(Y.shape) < 0.2] = np.nan
    study = SimpleNamespace(splits=[split], labels=SimpleNamespace(correct=Y))
    it = Fitting(study, 0, [], tmp_path)
    for order in (good_on, reversed(good_on)):
        candidates = [good_on[part] for part in order]
        assert np.array_equal(it.tuned(np.arange(60), candidates), good_on["validation"].p)
    assert good_on["train"].rows == split.train.tolist()
