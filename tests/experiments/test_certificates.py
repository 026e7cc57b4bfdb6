import copy
from dataclasses import replace

import numpy as np
import pytest
import tiny_studies

from prefill_router import policy
from prefill_router.evaluation.estimates import find, pick
from prefill_router.experiments import certificates as sg
from prefill_router.router.guarantee import TAUS, certify

pytestmark = pytest.mark.usefixtures("own_artifacts")


@pytest.fixture(scope="module")
def knowing(study):
    """P(correct) of a router that is nearly always right about who is right."""
    rng = np.random.default_rng(0)
    correct = study.labels.correct
    return [np.clip(correct * 0.8 + rng.uniform(0, 0.25, correct.shape), 0, 1) for _ in "ab"]


def relabelled(study, rows):
    other, correct = copy.copy(study), study.labels.correct.copy()
    correct[rows] = 1 - correct[rows]
    other.labels = replace(study.labels, correct=correct)
    return other


def test_halves_share_no_group_and_leave_no_complete_query_out(study):
    holed = copy.copy(study)
    correct = study.labels.correct.copy()
    correct[::7, 0] = np.nan
    holed.labels = replace(study.labels, correct=correct)
    for fold, split in enumerate(study.splits):
        certifying, reporting = sg.halves(holed, fold)
        both = np.sort(np.concatenate([certifying, reporting]))
        complete = split.test[~np.isnan(correct[split.test]).any(axis=1)]
        np.testing.assert_array_equal(both, complete)
        groups = study.labels.group
        assert not set(groups[certifying]) & set(groups[reporting])
        sizes = [len(set(groups[rows])) for rows in (certifying, reporting)]
        assert sizes[0] - sizes[1] in (0, 1)


def test_a_certificate_is_that_of_its_half_and_reported_on_the_other(study, knowing):
    found = sg.evaluate_guarantee(study, knowing, (0.05,))
    right = single = n = 0
    for fold in range(2):
        certifying, reporting = sg.halves(study, fold)
        cost, best = study.expected_costs(fold), study.best_single[fold]
        promise = certify(
            knowing[fold][certifying],
            study.labels.correct[certifying],
            cost[certifying],
            best,
            study.labels.group[certifying],
            targets=study.labels.targets,
            max_loss=0.05,
        )
        name = f"at most 5 points, fold {fold + 1}"
        assert promise.tau is not None
        assert pick(found, sg.TAU, name).estimate == promise.tau
        assert pick(found, sg.TAU, name).n == len(certifying)
        assert pick(found, sg.GROUPS, name).estimate == promise.n_groups
        assert pick(found, sg.FIRST_P, name).estimate == promise.p_values[0]
        chosen = policy.tolerance(knowing[fold][reporting], cost[reporting], promise.tau)
        right += study.labels.correct[reporting, chosen].sum()
        single += study.labels.correct[reporting, best].sum()
        n += len(reporting)
    accuracy = pick(found, "accuracy", "at most 5 points", split=sg.REPORTING)
    assert (accuracy.estimate, accuracy.n) == (pytest.approx(right / n), n)
    lead = pick(found, "accuracy difference", "at most 5 points - best single target")
    assert lead.estimate == pytest.approx((right - single) / n)


def certificates(found):
    return [row for row in found if row.split == sg.CERTIFYING]


def test_what_reports_certifies_nothing(study, knowing):
    before = sg.evaluate_guarantee(study, knowing, (0.05,))
    reporting = np.concatenate([sg.halves(study, fold)[1] for fold in range(2)])
    other = relabelled(study, reporting)
    other.__dict__["best_single"] = study.best_single  # folds train on one another's queries
    after = sg.evaluate_guarantee(other, knowing, (0.05,))
    assert str(certificates(after)) == str(certificates(before))  # NaN is no equal of its own
    accuracies = [pick(found, "accuracy", "at most 5 points").estimate for found in (before, after)]
    assert accuracies[0] != accuracies[1]


def test_where_nothing_is_certified_the_best_single_target_is_asked(study):
    wrong = [1 - study.labels.correct for _ in range(2)]
    found = sg.evaluate_guarantee(study, wrong)
    taus = [row.estimate for row in found if row.metric == sg.TAU]
    assert len(taus) == 6 and np.isnan(taus).all()
    for loss in sg.LOSSES:
        lead = pick(found, "accuracy difference", f"{sg.allowed(loss)} - best single target")
        assert (lead.estimate, lead.lower, lead.upper) == (0, 0, 0)


def test_more_labels_certify_more_and_all_losses_see_the_same(study, knowing):
    found = sg.evaluate_labels_needed(study, knowing, (0.01, 0.2), repetitions=4)
    shares = [row for row in found if row.metric == sg.CERTIFIED]
    strict, lax = shares[:4], shares[4:]
    assert [row.n for row in strict] == [8, 8, 8, 2]
    numbers = [row.router.split(", ")[1] for row in strict]
    assert numbers == [row.router.split(", ")[1] for row in lax]
    assert numbers[-1] == f"{study.labels.n_queries / 2:.0f} labels"
    assert all(a.estimate <= b.estimate for a, b in zip(strict, lax, strict=True))
    assert lax[-1].estimate == 1 > strict[0].estimate
    drawn = [row for row in shares if row.n > 2]
    assert len(drawn) == 6 and all(row.lower <= row.estimate <= row.upper for row in drawn)
    assert np.isnan([(row.lower, row.upper) for row in shares if row not in drawn]).all()
    tau = pick(found, sg.MEDIAN_TAU, lax[-1].router)
    assert 0 < tau.lower <= tau.estimate <= tau.upper <= 1


def test_without_prices_only_the_likeliest_target_can_be_certified(tmp_path):
    study = tiny_studies.study(tmp_path, prices="")
    assert (sg.tolerances(study), not sg.known_costs(study, 0).any()) == ((0.0,), True)
    [knows] = [study.labels.correct * 0.9 + 0.05]
    found = sg.evaluate_guarantee(study, [knows], (0.05,))
    assert pick(found, sg.TAU, "at most 5 points, fold 1").estimate == 0
    assert find(found, "saving against the best single target", "at most 5 points") is None
    needed = sg.evaluate_labels_needed(study, [knows], (0.05,), 2)
    assert needed[-1].estimate == 1
    assert {row.metric for row in needed} == {sg.CERTIFIED}


def test_tolerances_are_those_of_the_library_where_prices_are_known(study):
    assert sg.tolerances(study) == TAUS
    np.testing.assert_array_equal(sg.known_costs(study, 1), study.expected_costs(1))
