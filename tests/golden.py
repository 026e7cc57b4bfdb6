"""Small numbers of every stage, which change only together with the stage's VERSION.

After numbers were changed on purpose: raise the stage's VERSION in `prefill_router.storage.STAGES`
and run ``python tests/golden.py``, which refuses to write numbers that changed without it.
"""

import math
import sys
import tempfile
from pathlib import Path

import numpy as np
import tiny_models
import tiny_routers
import tiny_studies
import torch
from standin import predictable

from prefill_router import policy as policies
from prefill_router.answers.generation import Decoding, generate
from prefill_router.baselines.classifiers import RidgePath, TargetLogistic
from prefill_router.baselines.latent import ItemResponse
from prefill_router.evaluation.bootstrap import estimate
from prefill_router.evaluation.results import Quantity
from prefill_router.experiments.routers import (
    CLUSTERS,
    LENGTH,
    OWN,
    SHUFFLED,
    TFIDF,
    predictions,
)
from prefill_router.extraction.models import load_encoder, load_target
from prefill_router.extraction.sources import resolve
from prefill_router.features import TargetFeatures
from prefill_router.features.selection import choose, cross_validated_auc
from prefill_router.labels import load_labels
from prefill_router.labels.costs import expected_costs, load_prices, query_costs
from prefill_router.labels.splits import make_splits
from prefill_router.metrics import auc, brier, expected_calibration_error
from prefill_router.probes import probe_layers
from prefill_router.recipe import fit_recipe
from prefill_router.recipe.cost_prediction import fit_costs
from prefill_router.storage import STAGES, read_json, write_json
from prefill_router.trunk import SharedTrunkEnsemble

FILE = Path(__file__).with_suffix(".json")
RELATIVE, ABSOLUTE = 1e-4, 1e-6


def _data(n=120):
    rng = np.random.default_rng(0)
    states, Y, group = predictable(rng, n)
    p = np.clip(rng.random(Y.shape), 0.05, 0.95)
    return states, Y, group, p, rng.random(Y.shape[1]) + 0.1


def labels(directory):
    world = tiny_studies.world(directory)
    table, prices = load_labels(world["labels"]), load_prices(world["prices"])
    split, n_tokens = make_splits(table, seed=3)[0], np.arange(table.n_queries)
    return {
        "rows": [split.train.sum(), split.validation.sum(), split.test.sum()],
        "paid": query_costs(table, prices, n_tokens).mean(axis=0),
        "expected": expected_costs(table, prices, n_tokens, split.train).mean(axis=0),
    }


def extraction(directory):
    source = resolve(str(tiny_models.save(directory, template=tiny_models.TEMPLATE)))
    states = tiny_models.states_of(*load_encoder(source), tiny_models.questions(8))
    return {"states": [states.mean(), states.std(), np.abs(states).max()]}


def answers(directory):
    source = resolve(str(tiny_models.save(directory, "qwen3")))
    decoding = Decoding(max_new_tokens=6, temperature=1.0)
    said, n_tokens = generate(*load_target(source), tiny_models.questions(8), decoding)
    return {"n_tokens": n_tokens, "n_characters": [len(text) for text in said]}


def probes(_):
    states, Y, *_ = _data()
    table = probe_layers(states, Y, np.arange(len(Y)), pca_dimension=4)
    columns = ["J", "J_pca", "J_white", "d_eff", "anisotropy"]
    return {name: table[name].dropna() for name in columns}


def features(_):
    states, Y, group, *_ = _data()
    rows = np.arange(90)
    table = cross_validated_auc(
        states, Y, rows, group, states.layers, states.poolings, [2, 4], n_folds=3
    ).assign(encoder="one")
    chosen = choose(table)
    x = np.hstack(TargetFeatures(chosen).fit({"one": states}, rows).transform({"one": states}))
    return {
        "auc": table["auc"].dropna(),
        "dimensions": [choice.dimension for choice in chosen],
        "spread": np.std(x, axis=0),
    }


def trunk(_):
    _, Y, _, p, _ = _data()
    model = SharedTrunkEnsemble(n_seeds=3, keep=2, max_epochs=5, random_state=0).fit(p, Y)
    return {"kept": model.kept_, "p": model.predict_proba(p).mean(axis=0)}


def baselines(_):
    _, Y, _, p, _ = _data()
    full = np.nan_to_num(Y)
    return {
        "logistic": TargetLogistic().fit(p, Y).predict_proba(p)[:5].ravel(),
        "ridge": RidgePath([0.1, 1.0]).fit(p, full).coef_.ravel(),
        "item response": ItemResponse().fit(p, Y).predict_proba(p)[:5].ravel(),
    }


def policy(_):
    *_, p, c = _data()
    chosen = [policies.tolerance(p, c, 0.2), policies.utility(p, c, 0.5), policies.abstain(p, 0.6)]
    return {"chosen": np.mean(chosen, axis=1)}


def evaluation(_):
    _, Y, group, p, _ = _data()
    known = ~np.isnan(Y[:, 0])
    y, scores = Y[known, :1], p[known, :1]
    mean = {Quantity("mean"): lambda m: m["y"][:, 0]}
    found = estimate({"y": y}, mean, group[known], n_resamples=200)
    return {
        "interval": found[["estimate", "lower", "upper"]].to_numpy()[0],
        "metrics": np.ravel([f(scores, y) for f in (auc, brier, expected_calibration_error)]),
    }


def recipe(directory):
    study = tiny_studies.study(directory)
    states, [split] = study.states([study.parameters.encoder]), study.splits
    table = study.labels
    fitted = fit_recipe(study.recipe(), table, states, split)
    rows = np.union1d(split.validation, split.test)
    others = {
        head: fit_recipe(study.recipe(head), table, states, split, fitted.choices).predictor
        for head in ("logistic", "ridge")
    }
    n_tokens = study.activations().full_tokens
    costs = fit_costs(table, study.prices, fitted.features, split.train, n_tokens)
    cost = costs.lengths.predict(fitted.features)
    return {
        "p": fitted.predictor.predict_proba(states, rows).mean(axis=0),
        **{head: it.predict_proba(states, rows).mean(axis=0) for head, it in others.items()},
        "output_tokens": cost.mean(axis=0),
    }


def experiments(directory):
    study = tiny_studies.study(directory)
    names = [SHUFFLED, OWN, TFIDF, CLUSTERS, LENGTH]
    return {name: np.nanmean(predictions(study, name)[0], axis=0) for name in names}


def router(directory):
    fitted, _ = tiny_routers.fit(directory)
    routes = fitted.route_many(["w1 w2 w3", "w15 w16"])
    held = fitted.tensors["validation.p"].mean(axis=0)
    return {
        "p": [value for route in routes for value in route.p.values()],
        "settled": [fitted.config.tau, *held],
    }


COMPUTE = {
    function.__name__: function
    for function in (
        *(labels, extraction, answers, probes, features, trunk, baselines, policy, evaluation),
        *(recipe, router, experiments),
    )
}


def compute(stage, directory):
    """Return a stage's numbers by name, lists of float."""
    torch.set_num_threads(1)
    return {
        name: [float(value) for value in values]
        for name, values in COMPUTE[stage](Path(directory)).items()
    }


def same(found, expected):
    """Return whether the numbers are as they were, but for what machines differ in."""
    return found.keys() == expected.keys() and all(
        len(values) == len(expected[name])
        and all(
            math.isclose(value, other, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
            for value, other in zip(values, expected[name], strict=True)
        )
        for name, values in found.items()
    )


def raised(stage, versions):
    """Return whether this stage or an earlier one has another VERSION than `versions` say."""
    names = list(STAGES)
    return any(STAGES[name] != versions.get(name) for name in names[: names.index(stage) + 1])


def main():
    """Write the numbers, unless they changed under a VERSION that did not."""
    before = read_json(FILE) if FILE.exists() else {"versions": {}, "numbers": {}}
    after, forgotten = {}, []
    for stage in COMPUTE:
        with tempfile.TemporaryDirectory() as directory:
            after[stage] = compute(stage, directory)
        if not raised(stage, before["versions"]):
            old = before["numbers"].get(stage, {})
            if not same({name: after[stage].get(name, []) for name in old}, old):
                forgotten.append(stage)
            after[stage] |= old  # digits that machines differ in stay; a number may be added
    if forgotten:
        sys.exit(f"The numbers of {', '.join(forgotten)} changed; raise the VERSION in STAGES.")
    write_json(FILE, {"versions": STAGES, "numbers": after})


if __name__ == "__main__":
    main()
