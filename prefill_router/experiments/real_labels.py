"""Real labels: what are the prefill states of a real decoder worth to a router?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from prefill_router import policy
from prefill_router.errors import InputError
from prefill_router.evaluation.results import Quantity, counted, results, select
from prefill_router.experiments.all_layers import CONCATENATED, MIXED
from prefill_router.experiments.comparison import held_out
from prefill_router.experiments.encoders import PAIRED
from prefill_router.experiments.guarantee import evaluate_guarantee
from prefill_router.experiments.layers import held_out_ranking, layer_profiles
from prefill_router.experiments.primary import primary_comparison
from prefill_router.experiments.routers import (
    AUTO,
    BENCHMARK,
    HEADS,
    PRIMARY,
    RIDGE,
    SEMANTIC,
    least_error,
    predictions,
)
from prefill_router.experiments.spending import costs_by_way, evaluate_expected_costs
from prefill_router.experiments.study import Study
from prefill_router.extraction.pooling import POOLINGS
from prefill_router.recipe.heads import HeadData, fit_ridge, predict_ridge

TAKEN = "folds in which it is taken"
UNION = "all encoders together"
TOLD = "told all other targets' answers"
SIZES = (250, 500, 1000, 2000, 4000)
CONTROL_QUERIES = 2000
"""Queries, at most, that `controls` read."""
TRAINED, UNTRAINED = "trained encoder", "untrained encoder"
POOLED = {pooling: f"{TRAINED}, {pooling}" for pooling in POOLINGS}


def encoder_targets(study: Study) -> pd.DataFrame:
    """Return how well the ridge head on each encoder predicts every target of the label table.

    Returns
    -------
    pandas.DataFrame
        AUC by encoder (`router`) and target of the whole table, for `UNION`, and for `PAIRED`,
        which predicts each target from the encoder that does so best on validation rows; the main
        encoder also `versus` each other. Gap closed on the study's own targets.
    """
    main = study.parameters.encoder
    trained = [main, *(name for name in study.trained_encoders if name != main)]
    sets = {name: [name] for name in trained} | {UNION: study.trained_encoders}
    pairs = [(main, name) for name in (*sets, PAIRED) if name != main]

    def predicted(study: Study) -> dict[str, np.ndarray]:
        p = {name: predictions(study, RIDGE, read, calibrated=False) for name, read in sets.items()}
        p[PAIRED] = _paired(study, [p[name] for name in trained])
        return {name: held_out(study).join(by_fold) for name, by_fold in p.items()}

    every = _every_target(study)
    asked = {name: policy.argmax(p) for name, p in predicted(study).items()}
    found = [held_out(every).probabilities(predicted(every), pairs, ["AUC"])]
    found.append(held_out(study).choices(asked, pairs))
    about = {"metric": ["AUC", "gap closed"], "router": [*sets, PAIRED]}
    return select(pd.concat(found, ignore_index=True), versus=None, target=None, **about)


def _every_target(study: Study) -> Study:
    """Return the study of all targets of the label table, or of its own if others cannot be used.

    A wide table may have other columns, which only those who name its targets tell from labels, and
    a target may have no label on these queries. What others cost need not be known.
    """
    every = study.like(targets=[], prices="")
    try:
        labels = every.labels
    except InputError:
        return study
    every.labels = replace(labels, cost_usd=np.full_like(labels.cost_usd, np.nan))
    return every


def _paired(study: Study, p: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
    """Return P(correct) in each fold, each target's with the least validation Brier score."""
    found, Y = [], study.labels.correct
    for split, by_encoder in zip(study.splits, zip(*p, strict=True), strict=True):
        by_encoder, v = np.array(by_encoder), split.validation
        errors = np.nansum((by_encoder[:, v] - Y[v]) ** 2, axis=1)
        best = errors.argmin(axis=0)[None, None]
        found.append(np.take_along_axis(by_encoder, best, axis=0)[0])
    return found


def controls(study: Study) -> pd.DataFrame:
    """Return AUC and gap closed by ridge on each pooling alone, and on an untrained encoder.

    Of a seeded sample of at most `CONTROL_QUERIES`, with splits of its own, and on the main
    encoder's layers; each pooling also `versus` the mean, and the main encoder `versus` the
    untrained one.
    """
    p = study.parameters
    few = study.like(n_queries=min(p.n_queries or CONTROL_QUERIES, CONTROL_QUERIES))
    at, pairs = held_out(few), [(POOLED[name], POOLED["mean"]) for name in POOLED if name != "mean"]
    read = {TRAINED: few} | {POOLED[name]: few.like(poolings=[name]) for name in POOLED}
    found = {name: at.join(predictions(each, RIDGE)) for name, each in read.items()}
    if p.untrained:
        control = few.like(encoder=p.untrained)  # which reads the same layers as the main one
        found[UNTRAINED] = at.join(predictions(control, RIDGE))
        pairs.append((TRAINED, UNTRAINED))
    return at.likeliest(found, pairs)


def every_layer(study: Study) -> pd.DataFrame:
    """Return probes and AUC at every layer of the main encoder, in the study's first split."""
    whole = study.like(study.splits[:1], layers="all")
    encoder = study.parameters.encoder
    return pd.concat([layer_profiles(whole, encoder), held_out_ranking(whole, encoder)])


def label_curve(study: Study) -> pd.DataFrame:
    """Return the gap that the ridge head closes, by the number of labelled queries (`x`).

    They are a part of each fold's training rows and the same share of its validation rows, which
    choose penalties and calibrate. The best single target is that of all training rows.
    """
    at, found, rng = held_out(study), [], np.random.default_rng(study.parameters.seed)
    parts = [[rng.permutation(rows) for rows in (s.train, s.validation)] for s in study.splits]
    known = [len(train) + len(validation) for train, validation in parts]
    for size in [size for size in SIZES if size < min(known)] + [min(known)]:
        splits = []
        for split, rows, n in zip(study.splits, parts, known, strict=True):
            train, validation = (np.sort(part[: round(size / n * len(part))]) for part in rows)
            splits.append(replace(split, train=train, validation=validation))
        choice = policy.argmax(at.join(predictions(study.like(splits), RIDGE)))
        gap = select(at.choices({RIDGE: choice}), metric="gap closed", router=RIDGE)
        found.append(gap.assign(x=float(size)))
    return pd.concat(found, ignore_index=True)


def told_answers(study: Study) -> list[np.ndarray] | None:
    """Return P(correct) in each fold by ridge on what nobody can know, (N, K), not calibrated.

    That is how every other target of the label table answered the query, and its benchmark. None
    if there is no other target.
    """
    labels, every = study.labels, _every_target(study).labels
    others = [k for k, name in enumerate(every.targets) if name not in labels.targets]
    if not others:
        return None
    found = []
    for split in study.splits:
        answers = every.correct[:, others]
        answers = answers[:, ~np.isnan(answers[split.train]).all(axis=0)]
        usual = np.nanmean(answers[split.train], axis=0)
        answers = np.where(np.isnan(answers), usual, answers)
        told = np.hstack([answers, pd.get_dummies(labels.benchmark)]).astype(float)
        data = HeadData(told, np.arange(0), labels.correct, labels.group, split, None)
        found.append(predict_ridge(fit_ridge(data)[1], told))
    return found


def every_router(study: Study) -> pd.DataFrame:
    """Return AUC and gap closed of every router, with differences from the benchmark-aware one.

    With them what `Evaluation.choices` says of the oracle and single targets, and `TAKEN`.

    `TOLD` is no router: it reads how every other target of the table answered this very query. What
    it closes is a landmark for what knowing a query's difficulty can give.
    """
    names = [*HEADS.values(), AUTO, CONCATENATED, MIXED, *SEMANTIC, BENCHMARK]
    at = held_out(study)
    p = {getattr(name, "name", name): at.join(predictions(study, name)) for name in names}
    if told := told_answers(study):
        p[TOLD] = at.join(told)
    compared = at.likeliest(p, [(name, BENCHMARK) for name in p if name != BENCHMARK])
    return pd.concat([at.choices({}), compared, _taken(study)], ignore_index=True)


def _taken(study: Study) -> pd.DataFrame:
    """Return in how many of `n` folds ``head="auto"`` takes each head."""
    heads = {name: predictions(study, name, calibrated=False) for name in HEADS.values()}
    taken = [least_error(study, heads, fold) for fold in range(len(study.splits))]
    return results(
        counted(Quantity(TAKEN, name, n=len(taken)), taken.count(name)) for name in heads
    )


def in_use(study: Study) -> pd.DataFrame:
    """Return what chapter 10 asks: calibration, certificates, and costs where there are prices."""
    at = held_out(study)
    ways = {"uncalibrated": False, "calibrated": True}
    p = {name: predictions(study, PRIMARY, calibrated=known) for name, known in ways.items()}
    joined = {name: at.join(by_fold) for name, by_fold in p.items()}
    found = [at.probabilities(joined, [("calibrated", "uncalibrated")], ["Brier", "ECE"])]
    found.append(evaluate_guarantee(study, p["calibrated"]))
    if study.has_costs:
        found.append(evaluate_expected_costs(study, p["calibrated"], costs_by_way(study)))
    return pd.concat(found, ignore_index=True)


def measure(study: Study) -> pd.DataFrame:
    """Return all that chapters 9 and 10 show of a study on real labels."""
    raw = primary_comparison(study, calibrated=False)
    asked = every_router, encoder_targets, controls, label_curve, every_layer, in_use
    found = [primary_comparison(study), raw, *(of(study) for of in asked)]
    return pd.concat(found, ignore_index=True)
