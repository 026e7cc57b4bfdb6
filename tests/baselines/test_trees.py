import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier

from prefill_router.baselines.trees import TargetTrees


def test_each_target_equals_scikit_learn_on_the_rows_labelled_for_it():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 4))
    Y = np.column_stack([X[:, 0] * X[:, 1] > 0, X[:, 2] > 0.5]).astype(float)
    Y[rng.random(Y.shape) < 0.3] = np.nan
    p = TargetTrees(20, 4, 0.2).fit(X, Y).predict_proba(X)
    for k, labels in enumerate(Y.T):
        known = ~np.isnan(labels)
        reference = HistGradientBoostingClassifier(
            max_iter=20, max_leaf_nodes=4, learning_rate=0.2, early_stopping=False
        ).fit(X[known], labels[known])
        np.testing.assert_allclose(p[:, k], reference.predict_proba(X)[:, 1])
    assert ((p[:, 0] > 0.5) == (X[:, 0] * X[:, 1] > 0)).mean() > 0.9  # no line can do that


def test_a_target_of_one_class_gets_its_smoothed_base_rate():
    Y = np.array([[1, np.nan], [1, np.nan], [np.nan, np.nan]])
    p = TargetTrees().fit(np.eye(3), Y).predict_proba(np.eye(3))
    np.testing.assert_allclose(p, [[3 / 4, 1 / 2]] * 3)
