import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tiny_models
import tiny_routers

from prefill_router import metrics
from prefill_router.errors import InputError
from prefill_router.evaluation.results import one
from prefill_router.extraction.activations import Activations
from prefill_router.labels.costs import Prices
from prefill_router.labels.splits import make_splits
from prefill_router.router import Router

QUERIES = ["w1 w2 w3", "w15 w16 w17", "w4 w18"]
NEW = Prices({"new": 1.0}, {"new": 1.0})
POLICIES = (
    ("tolerance", {}),
    ("utility", {}),
    ("budget", {"budget": 1e-3}),
    ("abstain", {"accuracy": 0.6}),
    ("argmax", {"exclude": "early"}),
)


def called_new(labels, n, target="late"):
    """Return the first n labels of a target, as of one that the router does not know."""
    part = labels.take(np.arange(n)).select_targets([target], at_least=1)
    return replace(part, targets=("new",))


def of_four(labels, cost=np.nan):
    """Return labels of three targets and of "new", which answers as the second does."""
    return replace(
        labels,
        targets=(*labels.targets, "new"),
        correct=labels.correct[:, [0, 1, 2, 1]],
        output_tokens=labels.output_tokens[:, [0, 1, 2, 1]],
        cost_usd=np.column_stack([labels.cost_usd, np.full(labels.n_queries, cost)]),
    )


@pytest.fixture(scope="module")
def router(fitted):
    return fitted[0]


@pytest.fixture(scope="module")
def tested(fitted):
    """Labels of the test queries."""
    return fitted[1].take(make_splits(fitted[1])[0].test)


def test_a_saved_router_answers_as_before_and_saves_the_same_bytes(router, saved, tmp_path):
    loaded = Router.from_pretrained(saved)
    assert loaded.fingerprint == router.fingerprint and loaded.config == router.config
    np.testing.assert_array_equal(loaded.predict_proba(QUERIES), router.predict_proba(QUERIES))
    np.testing.assert_array_equal(loaded.expected_costs(QUERIES), router.expected_costs(QUERIES))
    for policy, settings in POLICIES:
        again = loaded.route_many(QUERIES, policy, **settings)
        assert again == router.route_many(QUERIES, policy, **settings)
    loaded.save_pretrained(tmp_path / "again")
    for path in saved.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_one_route_is_the_same_alone_and_among_many(router):
    for query, route in zip(QUERIES, router.route_many(QUERIES, "argmax"), strict=True):
        alone = router.route(query, "argmax")
        assert alone.choice == route.choice == max(route.p, key=route.p.get)
        assert list(alone.p.values()) == pytest.approx(list(route.p.values()), abs=1e-5)
        assert all(0 < cost < 1e-3 for cost in route.expected_cost.values())
        assert router.route([{"role": "user", "content": query}], "argmax") == alone
    for ask in (router.route_many, router.predict_proba, router.expected_costs):
        with pytest.raises(InputError, match="are one text, 'w1 w2'; put it in a list"):
            ask("w1 w2")


@pytest.mark.parametrize("query", ["", " \n\t", [{"role": "user", "content": " "}]])
def test_a_query_without_text_is_refused(router, query):
    with pytest.raises(InputError, match="Question 0 is empty"):
        router.route(query)
    with pytest.raises(InputError, match="Question 1 is empty"):
        router.predict_proba(["w1", query])


def test_it_has_learned_what_can_be_learned(router):
    """`early` knows the words below w10, `late` the others."""
    p = router.predict_proba(["w1 w2 w3 w4 w5", "w2 w3 w1 w7 w8", "w15 w16 w17 w11", "w18 w19 w12"])
    early, late = p[:, router.targets.index("early")], p[:, router.targets.index("late")]
    assert early[:2].mean() > early[2:].mean() + 0.2 and late[2:].mean() > late[:2].mean() + 0.2


def test_results_are_those_of_the_test_queries(router, tested):
    p = router.predict_proba(tested.question.tolist())
    accuracy = one(router.metrics, metric="accuracy", router="argmax")
    right = tested.correct[np.arange(len(p)), p.argmax(axis=1)]
    assert accuracy.estimate == pytest.approx(right.mean()) and accuracy.n == tested.n_queries
    auc = one(router.metrics, metric="AUC", router="calibrated", target="early")
    assert auc.estimate == pytest.approx(metrics.auc(p, tested.correct)[0])
    again = router.evaluate(tested, n_resamples=50)
    assert set(again.split) == {"new"}
    known, names = router.metrics.iloc[: len(again)], ["metric", "router", "versus", "target"]
    pd.testing.assert_frame_equal(again[names], known[names])
    np.testing.assert_allclose(again.estimate, known.estimate, atol=1e-5)
    dear = Prices(*(dict.fromkeys(router.targets, 1000000.0) for _ in range(2)))
    costly = router.evaluate(tested, dear, n_resamples=20)
    assert one(costly, metric="mean cost", router="argmax").estimate > 1


def test_a_router_of_arrays_reads_states_instead_of_queries(fitted, tested, tmp_path):
    labels = fitted[1]
    X = np.random.default_rng(0).normal(size=(labels.n_queries, 8))
    X[:, 0] += 2 * labels.correct[:, 0]
    states = Activations.from_arrays({(3, "mean"): X})
    held = Activations.from_arrays({(3, "mean"): X[make_splits(labels)[0].test]})
    router = Router.fit(labels, states, **tiny_routers.SETTINGS)
    router = Router.from_pretrained(router.save_pretrained(tmp_path))
    assert router.encoder is None and "Encoder: none" in (tmp_path / "README.md").read_text()
    with pytest.raises(InputError, match="fitted to arrays of states, and has no encoder"):
        router.route("w1 w2")
    p = router.predict_proba(held)
    assert set(map(tuple, p)) <= set(map(tuple, router.predict_proba(states)))
    found = router.evaluate(tested, states=held, n_resamples=50)
    known = one(router.metrics, metric="accuracy", router="argmax").estimate
    assert one(found, metric="accuracy", router="argmax").estimate == known
    assert router.route_many(held, "argmax")[0].choice in labels.targets
    assert router.certify(tested, 0.9, 0.5, states=held).guarantee.tau == 1
    few = called_new(tested, tested.n_queries, "early")
    wider, _ = router.add_target(few, states=held, n_resamples=20)
    np.testing.assert_array_equal(wider.predict_proba(held)[:, :3], p)
    prices = Prices(*(dict.fromkeys(labels.targets, 1.0) for _ in range(2)))
    with pytest.raises(InputError, match="n_tokens"):
        Router.fit(labels, states, prices=prices, **tiny_routers.SETTINGS)
    for ask in (Router.fit, router.evaluate, router.add_target):
        with pytest.raises(InputError, match=r"must be Activations, not ndarray; .*from_arrays"):
            ask(few if ask == router.add_target else tested, states=X)
    with pytest.raises(InputError, match="states of 60 queries"):
        Router.fit(labels, held, **tiny_routers.SETTINGS)
    with pytest.raises(InputError, match="states of 240 queries and labels of 60"):
        router.add_target(few, states=states)


def test_other_labels_give_another_guarantee(router, tested):
    other = router.certify(tested, max_loss=0.9, confidence=0.5)
    assert other.guarantee.tau == 1 and other.guarantee.max_loss == 0.9
    assert other.fingerprint != router.fingerprint
    assert "at most 90 points" in other.route(QUERIES[0]).why
    assert "certified" in set(router.metrics.router)
    assert "certified" not in set(other.metrics.router)  # of the tolerance before
    with pytest.raises(InputError, match="target 'noisy' is unknown"):
        router.certify(tested.select_targets(["early", "late"]))


def test_labels_of_fitted_questions_are_recognised_row_by_row(fitted, tested):
    router, labels = fitted
    split = make_splits(labels)[0]
    rows = np.random.default_rng(0).permutation(labels.n_queries)
    rows = rows[: len(rows) // 2]
    part = labels.take(rows).select_targets(["noisy", "late", "early"])
    known = labels.question[np.r_[split.train, split.validation]]
    expected = part.query_id[~np.isin(part.question, known)].tolist()
    assert 0 < len(expected) < len(rows)
    assert router.unseen(part).query_id.tolist() == expected
    match = rf"questions of {len(rows) - len(expected)} of {len(rows)} rows.*router\.unseen\("
    for use in (router.evaluate, router.examine, router.certify):
        with pytest.raises(InputError, match=match):
            use(part)
    with pytest.raises(InputError, match="questions of all 7 rows"):
        router.unseen(labels.take(split.train[:7]))
    assert router.unseen(tested) is tested


def test_other_wordings_of_what_was_seen_count_as_seen(fitted, tested):
    router, labels = fitted
    split = make_splits(labels)[0]
    rows = np.r_[split.train[0], split.test[:10]]
    part = labels.take(rows)
    part.group[[3, 7]] = part.group[0]  # two test queries say the training query in other words
    assert router.unseen(part).query_id.tolist() == np.delete(part.query_id, [0, 3, 7]).tolist()
    # of what a target is added by, the whole group counts, also where it was not asked
    few = called_new(replace(tested, group=np.arange(tested.n_queries) // 2 + 10_000), 40)
    few.correct[1::2] = np.nan
    wider, _ = router.add_target(few, NEW, n_resamples=20)
    with pytest.raises(InputError, match="questions of all 20 rows"):
        wider.unseen(tested.take(np.arange(1, 40, 2)))


def test_what_a_target_was_added_by_counts_as_seen(router, tested, tmp_path):
    few = called_new(tested, 30)
    wider, _ = router.add_target(few, NEW, n_resamples=20)
    wider = Router.from_pretrained(wider.save_pretrained(tmp_path))
    assert wider.promise.startswith(str(router.guarantee)) and router.guarantee.tau is not None
    assert "does not cover new, added since" in wider.promise
    assert router.promise == str(router.guarantee)
    expected = tested.query_id[~np.isin(tested.question, few.question)].tolist()
    assert wider.unseen(tested).query_id.tolist() == expected
    assert router.unseen(tested) is tested  # the router before is as it was
    four = of_four(tested)
    with pytest.raises(InputError, match="fitted to the questions of 30 of"):
        wider.certify(four)
    sure = wider.certify(wider.unseen(four), max_loss=0.9, confidence=0.5)
    assert sure.config.added[0].certified
    with pytest.raises(InputError, match="which new never answered"):
        wider.route(QUERIES[0], "abstain", accuracy=0.6)
    assert "new" not in wider.route(QUERIES[0], "abstain", accuracy=0.6, exclude="new").p


def test_a_target_whose_labels_give_costs_needs_no_price(router, tested, tmp_path):
    few = called_new(tested, 30)
    costs = np.linspace(1, 2, 30)[:, None]
    costly = replace(few, cost_usd=costs, output_tokens=np.full((30, 1), np.nan))
    for prices in (None, Prices({"new": 7.0}, {"new": 7.0})):  # without a length no price helps
        wider, _ = router.add_target(costly, prices, n_resamples=20)
        wider = Router.from_pretrained(wider.save_pretrained(tmp_path))
        assert wider.expected_costs(QUERIES)[:, 3] == pytest.approx(1.5)
        assert wider.tensors["validation.cost"][:, 3] == pytest.approx(1.5)
        card = (tmp_path / "README.md").read_text()
        assert "; `new` by the costs in the labels, which are predicted as a whole." in card
    four = of_four(tested, 3.0)
    assert (wider.examine(wider.unseen(four)).paid[:, 3] == 3).all()
    costs[4] = np.nan
    with pytest.raises(InputError, match="price of target 'new' is unknown: not all"):
        router.add_target(few, n_resamples=20)
    with pytest.raises(InputError, match=r"'new': the length .output_tokens. of none"):
        router.add_target(costly, prices, n_resamples=20)


def test_a_router_without_prices_knows_no_costs(tmp_path):
    router, labels = tiny_routers.fit(tmp_path / "world", prices=None)
    again = Router.from_pretrained(router.save_pretrained(tmp_path / "saved"))
    assert again.route(QUERIES[0], "argmax").expected_cost is None
    assert not router.metrics.metric.str.contains("cost").any()
    with pytest.raises(InputError, match="fitted without prices"):
        again.expected_costs(QUERIES)
    assert len(again.evaluate(again.unseen(labels), n_resamples=10))
    assert "Prices: unknown" in (tmp_path / "saved/README.md").read_text()


def test_a_targets_own_tokenizer_travels_with_the_router(tmp_path):
    tiny_models.byte_tokenizer().save_pretrained(tmp_path / "own")
    router, _ = tiny_routers.fit(
        tmp_path / "world", tokenizers={"late": tmp_path / "own"}, encoder_price=0.1
    )
    saved = router.save_pretrained(tmp_path / "saved")
    k = router.targets.index("late")
    again = Router.from_pretrained(saved)
    np.testing.assert_array_equal(again.expected_costs(QUERIES), router.expected_costs(QUERIES))
    assert list(again.costs.tokenizers) == [k]
    assert "own tokenizers for `late`" in (saved / "README.md").read_text()
    assert again.metrics.metric.str.contains("encoder included").any()
    (saved / f"tokenizer-{k}.json").write_text(json.dumps({"version": "1.0"}))
    with pytest.raises(InputError, match="not the file that was saved"):
        Router.from_pretrained(saved)


def test_what_cannot_be_fitted_is_refused(fitted):
    X = np.random.default_rng(0).normal(size=(fitted[1].n_queries, 8))
    states = Activations.from_arrays({(1, "last"): X}, np.ones(len(X), int))
    for settings, match in (
        ({"head": "forest"}, "head 'forest' is unknown"),
        ({"tokenizers": {"nobody": "."}}, "target 'nobody' is unknown"),
        ({"tokenizers": {"late": "/nowhere"}}, "has no /nowhere"),
        ({"prices": Prices({}, {})}, "price of target"), ({"max_loss": 0.0}, "between 0 and 1"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=match):
            Router.fit(fitted[1], states, **{**tiny_routers.SETTINGS, **settings})


def test_the_encoder_may_lie_elsewhere_if_it_is_the_same(router, saved, tmp_path):
    for seed in (0, 1):
        tiny_models.save(tmp_path / f"moved{seed}", seed=seed, template=tiny_models.TEMPLATE)
    again = Router.from_pretrained(saved, encoder=str(tmp_path / "moved0"))
    np.testing.assert_array_equal(again.predict_proba(QUERIES), router.predict_proba(QUERIES))
    with pytest.raises(InputError, match="is not the encoder"):
        Router.from_pretrained(saved, encoder=str(tmp_path / "moved1"))
