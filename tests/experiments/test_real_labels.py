import numpy as np
import pandas as pd
import pytest
import tiny_studies
from tiny_studies import auc_within_folds

from prefill_router.evaluation.comparison import BEST, SAVING_AGAINST_BEST
from prefill_router.evaluation.results import one, select
from prefill_router.experiments import real_labels as it
from prefill_router.experiments.comparison import held_out
from prefill_router.experiments.guarantee import CERTIFYING, LOSSES, TAU
from prefill_router.experiments.layers import CROSS_VALIDATED, SPEARMAN
from prefill_router.experiments.routers import RIDGE, predictions
from prefill_router.experiments.spending import PREDICTED
from prefill_router.metrics import expected_calibration_error, gap_closed, pairwise_brier


def test_every_encoder_and_the_best_for_each_target_predict_all_targets(study):
    found = it.encoder_targets(study)
    by = {e: predictions(study, RIDGE, [e], calibrated=False) for e in study.trained_encoders}
    main = study.parameters.encoder
    names = [*by, it.UNION, it.PAIRED]
    assert set(select(found, metric="gap closed")["router"]) == set(names)
    Y = study.labels.correct
    for k, target in enumerate(study.labels.targets):
        for e, p in by.items():
            row = one(found, metric="AUC", router=e, target=target)
            assert row.estimate == pytest.approx(
                auc_within_folds(study, held_out(study).join(p), k)
            )
        best = []
        for fold, split in enumerate(study.splits):
            v = split.validation
            best.append(min(by, key=lambda e: np.mean((by[e][fold][v, k] - Y[v, k]) ** 2)))
        chosen = [by[e][fold] for fold, e in enumerate(best)]
        row = one(found, metric="AUC", router=it.PAIRED, target=target)
        want = auc_within_folds(study, held_out(study).join(chosen), k)
        assert row.estimate == pytest.approx(want)
        lead = one(found, metric="AUC", router=main, versus=it.PAIRED, target=target).estimate
        own = auc_within_folds(study, held_out(study).join(by[main]), k)
        assert lead == pytest.approx(own - want)


def test_controls_read_a_sample_with_each_pooling_and_untrained(study, monkeypatch):
    monkeypatch.setattr(it, "CONTROL_QUERIES", 100)
    found = it.controls(study.like(layers=[1, 2]))
    few = study.like(n_queries=100, layers=[1, 2])
    control = few.like(encoder=study.parameters.untrained)
    assert control.activations().layers == [1, 2]  # as many components of each as trained
    Y, read = few.labels.correct, {it.TRAINED: few, it.UNTRAINED: control}
    read |= {name: few.like(poolings=[pooling]) for pooling, name in it.POOLED.items()}
    assert set(found["router"]) == set(read) and len(it.POOLED) == 3
    at = held_out(few)
    single, oracle = Y[at.rows, at.best_single].mean(), Y[at.rows].max(axis=1).mean()
    for name, of in read.items():
        p = at.join(predictions(of, RIDGE))
        gap = one(found, metric="gap closed", router=name)
        asked = Y[at.rows, p.argmax(axis=1)].mean()
        assert gap.estimate == pytest.approx(gap_closed(asked, single, oracle))
        assert gap.n == few.labels.n_queries < study.labels.n_queries
    pairs = set(
        found[found["versus"] != ""][["router", "versus"]].itertuples(index=False, name=None)
    )
    mean = it.POOLED["mean"]
    others = {(name, mean) for name in it.POOLED.values() if name != mean}
    assert pairs == others | {(it.TRAINED, it.UNTRAINED)}


def test_the_curve_has_fewer_rows_to_fit_and_to_choose_on(study, monkeypatch):
    monkeypatch.setattr(it, "SIZES", (40, 100, 10_000))
    seen = []
    monkeypatch.setattr(
        it, "predictions", lambda of, name: seen.append(of) or predictions(of, name)
    )
    curve = it.label_curve(study)
    known = min(len(split.train) + len(split.validation) for split in study.splits)
    assert curve["x"].tolist() == [40, 100, known] and len(seen) == 3
    for of, size in zip(seen, curve["x"], strict=True):
        for split, whole in zip(of.splits, study.splits, strict=True):
            n = len(split.train) + len(split.validation)
            assert n == pytest.approx(size, abs=1)
            share = size / (len(whole.train) + len(whole.validation))
            assert len(split.validation) == pytest.approx(share * len(whole.validation), abs=1)
            assert set(split.train) <= set(whole.train)
            assert set(split.validation) <= set(whole.validation)
            assert np.array_equal(split.test, whole.test)
    smaller = held_out(study).join(predictions(seen[0], RIDGE)).argmax(axis=1)
    Y, rows = study.labels.correct, study.test_rows
    best = one(held_out(study).choices({}), metric="accuracy", router=BEST).estimate
    oracle = Y[rows].max(axis=1).mean()
    want = gap_closed(Y[rows, smaller].mean(), best, oracle)
    assert curve["estimate"].iloc[0] == pytest.approx(want)


def test_layers_are_those_of_the_first_fold_alone(study):
    found = it.every_layer(study)
    main = study.parameters.encoder
    table = study.layer_auc(main).query("fold == 0")
    best = table.groupby(["layer", "pooling", "target"])["auc"].max()
    shown = select(found, metric=CROSS_VALIDATED, split="train", layer=None, pooling=None)
    assert len(shown)
    for row in shown.itertuples():
        assert row.estimate == pytest.approx(best.loc[row.layer, row.pooling].mean())
    ranks = select(found, metric=SPEARMAN, split="validation", router=None, pooling=None)
    assert len(ranks) and ranks["n"].eq(len(study.splits[0].validation)).all()


def test_the_head_taken_has_the_least_pairwise_brier_score(study):
    found, Y = it.every_router(study), study.labels.correct
    raw = {name: predictions(study, name, calibrated=False) for name in it.HEADS.values()}
    best = []
    for fold, split in enumerate(study.splits):
        v = split.validation
        errors = {name: pairwise_brier(p[fold][v], Y[v]).mean() for name, p in raw.items()}
        best.append(min(errors, key=errors.get))
    for name in raw:
        row = one(found, metric=it.TAKEN, router=name)
        assert (row.estimate, row.n) == (best.count(name), len(study.splits))


def test_in_use_asks_what_chapter_10_asks(study):
    found = it.in_use(study)
    p = held_out(study).join(predictions(study, it.PRIMARY))
    error = expected_calibration_error(p, study.labels.correct[study.test_rows]).mean()
    assert one(found, metric="ECE", router="calibrated").estimate == pytest.approx(error)
    assert len(select(found, metric=TAU, split=CERTIFYING)) == len(LOSSES) * len(study.splits)
    saving = one(found, metric=SAVING_AGAINST_BEST, router=f"tolerance, {PREDICTED}")
    assert saving.lower <= saving.estimate <= saving.upper


def test_targets_that_are_not_asked_need_no_price_and_a_wide_table_may_hold_other_columns(tmp_path):
    table = tiny_studies.label_table()
    twin = table[table["model"] == "noisy"].assign(model="twin", cost_usd=0.1)
    asked = {"targets": ["early", "noisy"], "encoders": []}
    study = tiny_studies.study(tmp_path / "long", pd.concat([table, twin]), **asked)
    found = select(it.encoder_targets(study), metric="AUC", target=None)
    assert {"", "early", "late", "noisy", "twin"} == set(found["target"])
    index = ["query_id", "question", "benchmark", "group"]
    wide = table.pivot(index=index, columns="model", values="is_correct").reset_index()
    wide = wide.drop(columns="late").assign(difficulty=np.arange(len(wide)) / 7)
    study = tiny_studies.study(tmp_path / "wide", wide, prices="", **asked)
    found = select(it.encoder_targets(study), metric="AUC", target=None)
    assert {"", "early", "noisy"} == set(found["target"])
    assert it.told_answers(study) is None


def test_who_is_told_a_twins_answers_knows_ones_own(tmp_path):
    table = tiny_studies.label_table()
    twin = table[table["model"] == "noisy"].assign(model="twin")
    asked = ["early", "noisy"]
    study = tiny_studies.study(tmp_path, pd.concat([table, twin]), targets=asked, prices="")
    p = held_out(study).join(it.told_answers(study))
    assert auc_within_folds(study, p, 1) == 1
    found = it.every_router(study)
    assert {it.CONCATENATED.name, it.MIXED.name, it.TOLD, *it.SEMANTIC} < set(found["router"])
    assert one(found, metric="AUC", router=it.CONCATENATED.name).estimate > 0.5
