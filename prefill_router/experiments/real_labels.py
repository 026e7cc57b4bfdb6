"""Real labels: what are the prefill states of a real decoder worth to a router?

The comparisons of `primary_comparison` were written down before these runs: heads on the main
encoder's states against semantic routers, each side the router with the least pairwise Brier score
on validation rows, and against the router that is told the benchmark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA

from prefill_router import policy
from prefill_router.evaluation.bootstrap import LEVEL, holm, resampled
from prefill_router.evaluation.comparison import BEST, HOLM, ORACLE, P_VALUE
from prefill_router.evaluation.results import results, select
from prefill_router.experiments.comparison import choose_targets, held_out
from prefill_router.experiments.fold import FoldFit
from prefill_router.experiments.layers import held_out_ranking, layer_profiles
from prefill_router.experiments.routers import (
    BENCHMARK,
    CLUSTERS,
    FACTORS,
    HEADS,
    MLP,
    PRIMARY,
    RIDGE,
    SEMANTIC,
    RouterSpec,
    predictions,
)
from prefill_router.experiments.study import Study
from prefill_router.metrics import gap_closed
from prefill_router.recipe.heads import HeadData, fit_ridge, predict_ridge, score, train_networks

STATES, BEST_SEMANTIC = "prefill states, best head", "best semantic router"
COMPARED = ((STATES, BEST_SEMANTIC), (STATES, BENCHMARK))
"""The primary comparisons; their p-values are corrected for the number of pools."""
SEEDED, SEEDS = (PRIMARY, CLUSTERS, FACTORS, MLP), 2
"""Routers whose fit is random, and seeds of them that intervals and p-values cover."""
DRAWS = 10_000
UNION = "all encoders together"
SIZES = (250, 500, 1000, 2000, 4000)


def chosen(study: Study, names: Sequence[str], seed: int) -> np.ndarray:
    """Return the targets (n,) that the best router on each fold's validation rows asks.

    The routers that are `SEEDED` are fitted with this seed.
    """
    seeded = study.like(study.splits, seed=seed)
    seeded.labels = study.labels  # the seed would draw other queries of them
    owner = {name: seeded if name in SEEDED else study for name in names}
    raw = {name: predictions(owner[name], name, calibrated=False) for name in names}
    choices, Y = [], study.labels.correct
    for fold, split in enumerate(study.splits):
        v = split.validation
        best = min(names, key=lambda name: score(raw[name][fold][v], Y[v]))
        choices.append(choose_targets(study, fold, predictions(owner[best], best)[fold])[0])
    return held_out(study).join(choices)


def primary_comparison(study: Study) -> pd.DataFrame:
    """Compare heads on prefill states with semantic routers and with the benchmark-aware one.

    Returns
    -------
    pandas.DataFrame
        On test queries "accuracy" and "gap closed" of `STATES` and `BEST_SEMANTIC`, and of the
        latter the differences `COMPARED`, each with a "p-value". Resamples draw groups of queries
        and, for each router by itself, seeds.
    """
    sides = {STATES: list(HEADS.values()), BEST_SEMANTIC: SEMANTIC, BENCHMARK: [BENCHMARK]}
    seeds = range(study.parameters.seed, study.parameters.seed + SEEDS)
    rows, at = held_out(study).complete()
    Y, every = at.correct, np.arange(len(at.correct))
    columns = {BEST: Y[every, at.best_single], ORACLE: Y.max(axis=1)}
    for name, routers in sides.items():
        asked = [chosen(study, routers, seed)[rows] for seed in seeds]
        columns[name] = np.column_stack([Y[every, choice] for choice in asked])
    reads = [lambda m, name=name: m[name] for name in columns]
    found = resampled(columns, reads, at.groups, DRAWS, study.parameters.seed)
    best, oracle = (np.concatenate([part[:, i] for part in found]) for i in (0, 1))
    rng, values = np.random.default_rng(study.parameters.seed), {}
    for i, name in enumerate(sides):
        sample, drawn = (part[:, 2 + SEEDS * i :][:, :SEEDS] for part in found)
        picked = rng.integers(SEEDS, size=drawn.shape)
        drawn = np.take_along_axis(drawn, picked, axis=1).mean(axis=1)
        right = np.append(sample.mean(), drawn)
        values[name, ""] = {"accuracy": right, "gap closed": gap_closed(right, best, oracle)}
    for name, versus in COMPARED:
        lead = values[name, ""]["gap closed"] - values[versus, ""]["gap closed"]
        values[name, versus] = {"gap closed": lead}
    table = [
        {"metric": metric, "router": name, "versus": versus, "n": len(Y)} | _interval(draws)
        for (name, versus), measured in values.items()
        if (name, versus) != (BENCHMARK, "")  # which `every_router` has
        for metric, draws in measured.items()
    ]
    for name, versus in COMPARED:
        drawn = values[name, versus]["gap closed"][1:]
        smaller = min((drawn <= 0).sum(), (drawn >= 0).sum())
        p = min(1.0, 2 * (1 + smaller) / (DRAWS + 1))
        about = {"metric": P_VALUE, "router": name, "versus": versus, "n": len(Y)}
        table.append(about | {"estimate": p})
    return results(table)


def _interval(draws: np.ndarray) -> dict[str, float]:
    lower, upper = np.nanpercentile(draws[1:], [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return {"estimate": draws[0], "lower": lower, "upper": upper}


def corrected(found: pd.DataFrame) -> pd.DataFrame:
    """Return the p-values of all pools, each comparison's corrected by Holm for their number."""
    tested = select(found, metric=P_VALUE, versus=None).copy()
    of_comparison = tested.groupby(["router", "versus"])["estimate"]
    return tested.assign(metric=HOLM, estimate=of_comparison.transform(lambda p: holm(p)))


def encoder_targets(study: Study) -> pd.DataFrame:
    """Return how well the ridge head on each encoder predicts every target of the label table.

    Returns
    -------
    pandas.DataFrame
        AUC by encoder (`router`) and target of the whole table, and for `UNION`; the main encoder
        also `versus` each other. Gap closed on the study's own targets.
    """
    main, found = study.parameters.encoder, []
    sets = {name: [name] for name in study.encoders} | {UNION: study.encoders}
    pairs = [(main, name) for name in sets if name != main]
    for each in (study.like(targets=[]), study):
        at = held_out(each)
        p = {n: at.join(predictions(each, RIDGE, e, calibrated=False)) for n, e in sets.items()}
        if each is study:
            found.append(at.choices({n: policy.argmax(q) for n, q in p.items()}, pairs))
        else:
            found.append(at.probabilities(p, pairs, ["AUC"]))
    about = {"metric": ["AUC", "gap closed"], "router": list(sets)}
    return select(pd.concat(found, ignore_index=True), versus=None, target=None, **about)


def every_layer(study: Study) -> pd.DataFrame:
    """Return probes and AUC at every layer of the main encoder, in the study's first split."""
    whole = study.like(study.splits[:1], layers="all")
    encoder = study.parameters.encoder
    return pd.concat([layer_profiles(whole, encoder), held_out_ranking(whole, encoder)])


def label_curve(study: Study) -> pd.DataFrame:
    """Return the gap that the ridge head closes, by the number of training queries (`x`)."""
    at, found, rng = held_out(study), [], np.random.default_rng(study.parameters.seed)
    order = [rng.permutation(split.train) for split in study.splits]
    fewest = min(map(len, order))
    for size in [size for size in SIZES if size < fewest] + [fewest]:
        splits = [
            replace(split, train=np.sort(rows[:size]))
            for split, rows in zip(study.splits, order, strict=True)
        ]
        choice = policy.argmax(at.join(predictions(study.like(splits), RIDGE)))
        gap = select(at.choices({RIDGE: choice}), metric="gap closed", router=RIDGE)
        found.append(gap.assign(x=float(size)))
    return pd.concat(found, ignore_index=True)


def _concatenated(it: FoldFit) -> np.ndarray:
    """Every layer mean-pooled, concatenated, one scaler, PCA to 200 and five networks [W]."""
    states = it.study.like(it.study.splits, layers="all").activations()
    x = np.hstack([states.states(layer, "mean") for layer in states.layers])
    x -= x[it.split.train].mean(axis=0)
    x /= np.maximum(x[it.split.train].std(axis=0), 1e-6)
    train = x[it.split.train]
    pca = PCA(min(200, *train.shape), svd_solver="randomized", random_state=it.seed)
    x = pca.fit(train).transform(x)
    recipe = replace(it.study.recipe(), n_seeds=5, keep=5)
    known = it.labels.correct, it.labels.group, it.split.train
    return train_networks(recipe, x, *known).predict_proba(x)


def _others_answers(it: FoldFit) -> np.ndarray:
    """Ridge on how every other target of the table answered the query, and on its benchmark."""
    every = it.study.like(targets=[]).labels
    others = [k for k, name in enumerate(every.targets) if name not in it.labels.targets]
    answers = every.correct[:, others]
    usual = np.nanmean(answers[it.split.train], axis=0)
    answers = np.where(np.isnan(answers), usual, answers)
    told = np.hstack([answers, pd.get_dummies(it.labels.benchmark)]).astype(float)
    data = HeadData(told, np.arange(0), it.labels.correct, it.labels.group, it.split, None)
    return predict_ridge(fit_ridge(data)[1], told)


CONCATENATED = RouterSpec("all layers concatenated, PCA 200, five networks", _concatenated)
TOLD = RouterSpec("told all other targets' answers", _others_answers)


def every_router(study: Study) -> pd.DataFrame:
    """Return AUC and gap closed of every router, with differences from the benchmark-aware one.

    With them what `Evaluation.choices` says of the oracle and single targets.

    `TOLD` is no router: it reads how every other target of the table answered this very query. What
    it closes is a landmark for what knowing a query's difficulty can give.
    """
    names, at = [*HEADS.values(), *SEMANTIC, BENCHMARK, CONCATENATED, TOLD], held_out(study)
    p = {getattr(name, "name", name): at.join(predictions(study, name)) for name in names}
    compared = at.likeliest(p, [(name, BENCHMARK) for name in p if name != BENCHMARK])
    return pd.concat([at.choices({}), compared], ignore_index=True)


def measure(study: Study) -> pd.DataFrame:
    """Return all that chapter 9 shows of a study on real labels."""
    parts = primary_comparison, every_router, encoder_targets, label_curve, every_layer
    return pd.concat([part(study) for part in parts], ignore_index=True)
