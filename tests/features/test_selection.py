import numpy as np
import pandas as pd
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from standin import predictable

from prefill_router.errors import InputError
from prefill_router.features.selection import Choice, choose, cross_validated_auc
from prefill_router.probes import probe_layers


def test_cross_validation_equals_a_scikit_learn_pipeline_fitted_in_each_fold(rng):
    activations, Y, groups = predictable(rng)
    rows = np.arange(10, 110)
    table = cross_validated_auc(activations, Y, rows, groups, [1], ["mean"], [3, 5], 4, seed=3)
    X, Y, groups = activations.states(1, "mean")[rows], Y[rows], groups[rows]
    folds = list(GroupKFold(4, shuffle=True, random_state=3).split(X, groups=groups))
    for _, row in table.iterrows():
        areas = []
        y = Y[:, row["target"]]
        for train, test in folds:
            reduction = make_pipeline(StandardScaler(), PCA(row["dimension"], svd_solver="full"))
            reduction.fit(X[train].astype(np.float64))
            train, test = train[~np.isnan(y[train])], test[~np.isnan(y[test])]
            model = LogisticRegression(solver="newton-cholesky", tol=1e-10)
            model.fit(reduction.transform(X[train]), y[train])
            scores = model.decision_function(reduction.transform(X[test]))
            areas.append(roc_auc_score(y[test], scores))
        np.testing.assert_allclose(row["auc"], np.mean(areas), atol=1e-9)


def test_rows_outside_the_training_rows_are_never_read(rng):
    activations, Y, groups = predictable(rng)
    rows = np.arange(80)
    arguments = (rows, groups, [1], ["mean"], [2])
    before = cross_validated_auc(activations, Y, *arguments)
    activations.states(1, "mean")[80:] = 1e3
    Y[80:] = 1 - Y[80:]
    pd.testing.assert_frame_equal(cross_validated_auc(activations, Y, *arguments), before)


def test_fewer_rows_than_dimensions_and_a_class_missing_from_a_fold(rng):
    activations, Y, groups = predictable(rng)
    Y[:, 1] = 0
    Y[0, 1] = 1  # right once: only one fold can be scored, and its heads have seen no right answer
    table = cross_validated_auc(activations, Y, np.arange(9), groups, [0, 1], ["mean"], [50], 3)
    assert table["dimension"].unique().tolist() == [8]
    assert np.isfinite(table.query("target == 1")["auc"]).all()


def test_constant_states_and_one_sided_targets_do_not_crash(rng):
    activations, Y, groups = predictable(rng)
    Y = np.column_stack([Y, np.ones(len(Y)), np.full(len(Y), np.nan)])
    places = [0, 1], ["last", "mean"]
    table = cross_validated_auc(activations, Y, np.arange(120), groups, *places, [2, 4])
    constant = table.query("layer == 0 and pooling == 'last'")
    assert constant["constant"].all()
    assert not table.drop(constant.index)["constant"].any()
    np.testing.assert_allclose(constant.query("target < 2")["auc"], 0.5)
    assert table.query("target >= 2")["auc"].isna().all()
    choices = choose(table)
    assert {(choice.layer, choice.pooling) for choice in choices} == {(1, "mean")}
    assert choices[2] == choices[3]


@pytest.mark.parametrize(
    ("n_folds", "dimensions"),
    [(1, [2]), (61, [2]), (5, []), (5, [0]), (5, 4), (5, "16"), (5, ["a"]), (5, [1.5]), (5, [[2]])],
)
def test_bad_settings_are_named(rng, n_folds, dimensions):
    activations, Y, groups = predictable(rng)
    with pytest.raises(InputError, match=r"n_folds is|dimensions is"):
        cross_validated_auc(activations, Y, np.arange(120), groups, [1], [], dimensions, n_folds)
    for wrong in (Y[:, 0], Y[:50]):
        with pytest.raises(InputError, match=r"one row per query, one column per target"):
            cross_validated_auc(activations, wrong, np.arange(120), groups, [1], [], [2], 5)
        with pytest.raises(InputError, match=r"one row per query, one column per target"):
            probe_layers(activations, wrong)


def scores(auc, layer, target=0, dimension=16, constant=False, **fields):
    """A table of one encoder's scores with last pooling."""
    columns = {"encoder": "a", "layer": layer, "pooling": "last", "dimension": dimension}
    columns |= {"target": target, "auc": auc, "constant": constant} | fields
    return pd.DataFrame(columns)


def test_choose_breaks_ties_the_same_way_in_any_order():
    table = scores([0.8] * 4 + [0.7], [2, 1, 1, 1, 0], dimension=[16, 16, 32, 16, 16])
    table.loc[1, "pooling"] = "mean"
    for seed in range(5):
        shuffled = table.sample(frac=1, random_state=seed)
        assert choose(shuffled) == [Choice("a", 1, "last", 16)]


def test_choose_takes_neither_nan_nor_constant_states():
    table = scores([0.9, np.nan, 0.2], range(3), encoder=["a", "a", "b"], constant=[True, 0, 0])
    assert choose(table) == [Choice("b", 2, "last", 16)]
    with pytest.raises(InputError, match="constant"):
        choose(table.assign(constant=True))


def test_choose_falls_back_to_the_best_mean_over_other_targets():
    table = scores([0.9, 0.8, 0.4, 0.6, np.nan, np.nan], [1, 2] * 3, np.repeat(range(3), 2))
    assert [choice.layer for choice in choose(table)] == [1, 2, 2]
    assert [choice.layer for choice in choose(table[table["target"] == 2])] == [1]


def test_choose_by_J_takes_the_place_by_J_and_the_dimension_by_auc():
    aucs = scores([0.9, 0.2, 0.3], [1, 2, 2], dimension=[16, 16, 32]).drop(columns="encoder")
    probes = pd.DataFrame({"layer": [1, 2], "pooling": "last", "target": 0, "J": [0.5, np.inf]})
    assert choose(aucs, probes) == [Choice("", 2, "last", 32)]
    assert choose(aucs) == [Choice("", 1, "last", 16)]
    with pytest.raises(InputError, match="'auc'"):
        choose(aucs.drop(columns="auc"))
