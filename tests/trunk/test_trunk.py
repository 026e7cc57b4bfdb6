import numpy as np
import pytest
import torch
from sklearn.base import clone

from prefill_router.errors import InputError
from prefill_router.metrics import auc
from prefill_router.trunk import SharedTrunkEnsemble
from prefill_router.trunk.training import SharedTrunkNet

SMALL = {"n_seeds": 4, "keep": 2, "hidden": (16, 8), "batch_size": 64, "max_epochs": 15}


def data(rng, n=200, missing=0.2):
    X = rng.normal(size=(n, 6))
    Y = (X @ rng.normal(size=(6, 3)) > 0).astype(float)
    return X, np.where(rng.random((n, 3)) < missing, np.nan, Y)


def test_the_network_is_the_published_one(rng):
    x = torch.from_numpy(rng.normal(size=(5, 40)).astype(np.float32))
    network = SharedTrunkNet(40, 4, rng=rng)
    layers = []
    for linear, rate in zip(network.linears, (0.3, 0.2, None), strict=True):
        layers += [linear] if rate is None else [linear, torch.nn.ReLU(), torch.nn.Dropout(rate)]
    published = torch.nn.Sequential(*layers)
    shapes = [tuple(linear.weight.shape) for linear in network.linears]
    assert shapes == [(256, 40), (128, 256), (4, 128)]
    torch.testing.assert_close(network.eval()(x), published.eval()(x))
    outputs = []
    for module in (network, published):
        torch.manual_seed(0)
        outputs.append(module.train()(x))
    torch.testing.assert_close(*outputs)
    for linear in network.linears:
        assert linear.weight.abs().max() <= 1 / np.sqrt(linear.in_features)


def test_it_trains_on_the_device_that_it_is_given(rng):
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):  # it has no numbers
        SharedTrunkEnsemble(**SMALL, device="meta").fit(*data(rng))


def test_it_learns_what_no_linear_model_can(rng):
    X = rng.normal(size=(1200, 4))
    Y = np.column_stack([X[:, 0] * X[:, 1] > 0, X[:, 2] > 0]).astype(float)
    model = SharedTrunkEnsemble(3, 2, (32, 16), (0.1, 0.1), learning_rate=1e-2, batch_size=128)
    p = model.fit(X[:800], Y[:800]).predict_proba(X[800:])
    assert (auc(p, Y[800:]) > 0.9).all()


def test_the_best_are_kept_and_their_sigmoids_averaged(rng):
    X, Y = data(rng)
    model = SharedTrunkEnsemble(**SMALL).fit(X, Y)
    assert model.kept_ == np.argsort(model.validation_losses_)[:2].tolist()
    assert len(model.histories_) == 4
    for history, best in zip(model.histories_, model.validation_losses_, strict=True):
        assert len(history["train"]) == len(history["validation"])
        assert min(history["validation"]) <= best <= min(history["validation"]) + model.min_delta
    x = torch.from_numpy(X.astype(np.float32))
    probabilities = [torch.sigmoid(network(x)).detach().numpy() for network in model.networks_]
    np.testing.assert_allclose(model.predict_proba(X), np.mean(probabilities, axis=0), rtol=1e-6)


def test_the_states_of_unlabelled_answers_change_nothing(rng):
    X, Y = data(rng)
    unasked = rng.random(200) < 0.3
    Y[unasked] = np.nan
    other = np.where(unasked[:, None], 50.0, X)
    models = [SharedTrunkEnsemble(**SMALL).fit(features, Y) for features in (X, other)]
    np.testing.assert_array_equal(models[0].predict_proba(X), models[1].predict_proba(X))


def test_one_sided_and_unlabelled_targets(rng):
    X, Y = data(rng, n=400)
    Y[:, 0], Y[:, 1] = 1, np.nan
    p = SharedTrunkEnsemble(**{**SMALL, "max_epochs": 80}).fit(X, Y).predict_proba(X)
    assert p[:, 0].min() > 0.8
    np.testing.assert_array_equal(p[:, 1], 0.5)


def test_each_network_has_its_own_predictions_and_held_out_rows(rng):
    X, Y = data(rng)
    groups = np.arange(200) // 4
    model = SharedTrunkEnsemble(**SMALL, split="published").fit(X, Y, groups)
    each = model.predict_each(X)
    assert each.shape == (2, 200, 3)
    np.testing.assert_allclose(model.predict_proba(X), each.mean(axis=0))
    assert len(model.held_out_) == 4
    for seed, rows in enumerate(model.held_out_):
        assert 30 <= len(rows) < 35
        assert not set(groups[rows]) & set(np.delete(groups, rows))
        if seed in model.kept_:
            p, known = each[model.kept_.index(seed), rows], ~np.isnan(Y[rows])
            loss = -np.log(np.where(Y[rows] == 1, p, 1 - p))[known].mean()
            np.testing.assert_allclose(loss, model.validation_losses_[seed], rtol=1e-5)


@pytest.mark.parametrize("split", ["inner", "published"])
def test_the_same_seed_gives_the_same_networks(rng, split):
    X, Y = data(rng)
    groups, model = np.arange(200) // 4, SharedTrunkEnsemble(**SMALL, split=split)
    again = clone(model).fit(X, Y, groups)
    np.testing.assert_array_equal(again.predict_each(X), model.fit(X, Y, groups).predict_each(X))
    assert (again.histories_, again.kept_) == (model.histories_, model.kept_)
    assert len({tuple(rows) for rows in model.held_out_}) == (1 if split == "inner" else 4)
    other = clone(model).set_params(random_state=1).fit(X, Y, groups)
    assert not np.allclose(other.predict_proba(X), model.predict_proba(X))


def test_bad_settings_and_data_are_named(rng):
    X, Y = data(rng)
    for settings, message in (
        ({"keep": 5}, "keep is 5"),
        ({"dropout": (0.3,)}, "as many rates in"),
        ({"dropout": (0.3, 1.0)}, "dropout is"),
        ({"max_epochs": 0}, "at least 1"),
        ({"inner_share": 1.0}, "validation share of 1.0"),
        ({"split": "outer"}, "split is 'outer'"),
        ({"X": X[1:]}, "one row per query"),
        ({"Y": Y[:, 0]}, "one column per target"),
        ({"groups": np.arange(199)}, "as many rows"),
        ({"X": np.where(X > 2, np.nan, X)}, "no finite"),
        ({"Y": Y * 2}, "only 0, 1 and NaN"),
        ({"Y": np.full_like(Y, np.nan)}, "without labels"),
        ({"groups": np.zeros(200)}, "too few"),
    ):
        given = {name: settings.pop(name) for name in settings.keys() & {"X", "Y", "groups"}}
        with pytest.raises(InputError, match=message):
            SharedTrunkEnsemble(**SMALL | settings).fit(**{"X": X, "Y": Y} | given)
    with pytest.raises(InputError, match=r"expected \(n, 6\)"):
        SharedTrunkEnsemble(**SMALL).fit(X, Y).predict_proba(X[:, 1:])
