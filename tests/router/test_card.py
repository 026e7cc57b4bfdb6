import re
from dataclasses import replace

import numpy as np
import pandas as pd
import tiny_routers
import tiny_studies
import yaml

from prefill_router.evaluation.results import one, results
from prefill_router.evaluation.sentences import format_interval
from prefill_router.labels.costs import Prices
from prefill_router.router import Router
from prefill_router.router.added_targets import MEAN, NEW
from prefill_router.router.card import code, model_card


def test_the_card_says_what_was_measured_and_where_it_ends(fitted):
    router, labels = fitted
    card = model_card(router.config)
    front = yaml.safe_load(card.split("---")[1])
    assert front == {"library_name": "prefill-router", "tags": ["llm-routing", "prefill-router"]}
    accuracy = one(router.metrics, metric="accuracy", router="argmax")
    assert f"| `argmax` | {format_interval(accuracy)} |" in card
    error = one(router.metrics, metric="ECE", router="calibrated")
    assert format_interval(error, "value") in card
    assert labels.fingerprint in card and router.config.encoder.weights in card
    best = router.guarantee.best_single
    assert str(router.guarantee).replace(best, f"`{best}`") in card
    assert "the intervals of its row do not" in card.partition("## Limits")[2]


def test_a_model_on_the_hub_is_named_as_its_base(fitted):
    config = fitted[0].config
    encoder = replace(config.encoder, name="owner/name@main", revision="c" * 40)
    card = model_card(config.model_copy(update={"encoder": encoder}))
    assert yaml.safe_load(card.split("---")[1])["base_model"] == ["owner/name"]


def test_the_card_says_of_each_target_what_its_cost_is_predicted_from(tmp_path):
    table = tiny_studies.label_table()
    table["cost_usd"] = np.where(table["model"] == "late", np.nan, 0.25)
    prices = Prices({"early": 1.0, "late": 0.5}, {"early": 4.0, "late": 2.0})  # none of noisy
    router, _ = tiny_routers.fit(tmp_path / "world", table, prices=prices)
    short, long = router.expected_costs(["w1", "w1 " * 20])
    assert (long[:2] > short[:2] + 5e-6).all() and short[2] == long[2] == 0.25
    card = router.save_pretrained(tmp_path / "saved").joinpath("README.md").read_text()
    known = "`early` 1 and 4; `late` 0.5 and 2; `noisy` by the costs in the labels, which are "
    assert known + "predicted as a whole. Where they are known, input tokens are counted" in card


def test_targets_added_since_are_listed_with_what_was_measured(fitted, tmp_path):
    router, labels = fitted
    assert "## Targets added since" not in model_card(router.config)
    new = replace(labels.select_targets(["late"], at_least=1), targets=("n|w",)).take(np.arange(60))
    wider, found = router.add_target(new, Prices({"n|w": 3.5}, {"n|w": 7.25}), n_resamples=50)
    again = Router.from_pretrained(wider.save_pretrained(tmp_path))
    card = (tmp_path / "README.md").read_text()
    section = card.partition("## Targets added since")[2].partition("## Limits")[0]
    accuracy = format_interval(one(found, metric="accuracy", target="n|w"))
    assert rf"| `n\|w` | 60 | {accuracy} | does not cover it |" in section
    assert r"; `n\|w` 3.5 and 7.25. Where they are known" in card
    for name, versus in ((NEW, ""), (MEAN, ""), (NEW, MEAN)):
        auc = one(found, metric="AUC", router=name, versus=versus)
        cells = ["`n\\|w`", f"`{name}`", versus and f"`{versus}`", format_interval(auc, "value")]
        assert f"| {' | '.join(cells)} |" in section
    pd.testing.assert_frame_equal(results(again.config.added[0].metrics), found)


def test_names_are_no_markup(fitted):
    for name in ("a|b", "<script>", "`x`", "[a](b)", "line\nbreak", "**bold**"):
        shown = code(name)
        assert re.fullmatch(r"`[^`\n]*`", shown) and not re.search(r"(?<!\\)\|", shown)
    config = fitted[0].config
    for tau in (0.1, None):
        promise = replace(config.guarantee, best_single="$5 <b>x</b> $y^{", tau=tau)
        card = model_card(config.model_copy(update={"guarantee": promise}))
        [line] = [line for line in card.splitlines() if line.startswith("Guarantee: ")]
        assert "`$5 <b>x</b> $y^{`" in line
        assert not re.search(r"[$<]", re.sub(r"`[^`]*`", "", line))
