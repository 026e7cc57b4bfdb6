import numpy as np
import pytest
import tiny_studies
import torch

from prefill_router.evaluation.estimates import pick
from prefill_router.experiments.comparison import apply_policies, compare_choices
from prefill_router.experiments.feature_comparison import (
    compare_features,
    compare_layers,
    evaluate_features,
)
from prefill_router.experiments.feature_sets import (
    ALL,
    BY_J,
    LAST,
    LOGISTIC,
    ONE,
    PAIRED,
    PENALTIES,
    SEVERAL,
    TRUNK,
    n_configurations,
)
from prefill_router.experiments.study import comparison
from prefill_router.features.selection import masked_auc

torch.set_num_threads(1)

pytestmark = pytest.mark.usefixtures("own_artifacts")


@pytest.fixture(scope="module")
def compared(study):
    return compare_features(study)


def test_evaluation_follows_from_predictions(study):
    rng = np.random.default_rng(1)
    shape = study.labels.correct.shape
    by_set = {name: [rng.random(shape) for _ in study.splits] for name in ("a", "b")}
    found = evaluate_features(study, by_set, "a")
    Y, folds = comparison.test_labels(study), study.test_folds
    for k, target in enumerate([*study.labels.targets, ""]):
        of = [k] if target else list(range(len(study.labels.targets)))
        squares = {}
        for name, p in by_set.items():
            joined = study.over_folds(p)
            squares[name] = np.mean((joined[:, of] - Y[:, of]) ** 2)
            row = pick(found, "Brier", name, target)
            assert row.estimate == pytest.approx(squares[name], abs=1e-12)
            assert row.split == "test"
            by_fold = [masked_auc(Y[folds == f], joined[folds == f])[of] for f in (0, 1)]
            area = pick(found, "AUC", name, target).estimate
            assert area == pytest.approx(np.mean(by_fold), abs=5e-3)  # folds weigh by their pairs
        difference = pick(found, "Brier difference", "b", target)
        assert difference.estimate == pytest.approx(squares["b"] - squares["a"], abs=1e-12)
        areas = [pick(found, "AUC", name, target).estimate for name in ("b", "a")]
        difference = pick(found, "AUC difference", "b", target)
        assert difference.estimate == pytest.approx(areas[0] - areas[1], abs=1e-12)
    choices = {name: apply_policies(study, p).choice for name, p in by_set.items()}
    expected = compare_choices(study, choices)
    gaps = {name: pick(expected, "gap closed", name) for name in by_set}
    assert pick(found, "gap closed", "b") == gaps["b"]
    difference = pick(found, "gap closed difference", "b")
    assert difference.estimate == pytest.approx(gaps["b"].estimate - gaps["a"].estimate, abs=1e-12)
    assert difference.lower <= difference.estimate <= difference.upper


def test_every_set_and_head_is_compared_with_the_recipe(study, compared):
    main, control = study.parameters.encoder, study.parameters.untrained
    sets = [f"{name}, {main}" for name in (LAST, ONE, BY_J, ALL)]
    sets += [f"{name}, trained encoders" for name in (PAIRED, SEVERAL)]
    sets.append(f"{ONE}, {control}")
    for head in (LOGISTIC, TRUNK):
        for name in sets:
            for metric in ("AUC", "Brier", "gap closed"):
                value = pick(compared, metric, f"{name}, {head}").estimate
                if name != f"{ONE}, {main}":
                    recipe = pick(compared, metric, f"{ONE}, {main}, {head}").estimate
                    row = pick(compared, f"{metric} difference", f"{name}, {head}")
                    assert row.estimate == pytest.approx(value - recipe, abs=1e-12)
    n_folds, n_targets = len(study.splits), study.labels.n_targets
    table = study.layer_auc(main)
    per_target = len(table) // (n_folds * n_targets)
    for name, encoders, expected in (
        (ONE, [main], per_target + len(PENALTIES)),
        (ALL, [main], 2 * len(PENALTIES)),
        (LAST, [main], per_target // 4 + len(PENALTIES)),
    ):
        assert n_configurations(study, name, encoders) == expected
        row = pick(compared, "configurations tried", f"{name}, {main}, each head")
        assert row.estimate == expected


def test_layers_are_compared_for_the_other_encoders(study):
    found = compare_layers(study)
    others = [e for e in study.encoders if e != study.parameters.encoder]
    assert {row.router for row in found} == {
        f"{name}, {encoder}, {LOGISTIC}" for name in (ALL, LAST) for encoder in others
    }
    assert {row.target for row in found} == {""}


def test_one_encoder_without_a_control_leaves_out_what_needs_more(tmp_path):
    study = tiny_studies.study(tmp_path, encoders=[], untrained="", prices="")
    found = compare_features(study)
    names = {row.router.split(", ")[0] for row in found}
    assert names == {LAST, ONE, BY_J, ALL}
    assert compare_layers(study) == []
