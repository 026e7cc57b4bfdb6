import re

import yaml

from prefill_router.report import format_interval
from prefill_router.router.card import code, model_card


def test_the_card_says_what_was_measured_and_where_it_ends(fitted):
    router, labels = fitted
    card = model_card(router.config, router.metrics, str(router.guarantee))
    front = yaml.safe_load(card.split("---")[1])
    assert front == {"library_name": "prefill-router", "tags": ["llm-routing", "prefill-router"]}
    accuracy = next(e for e in router.metrics if (e.metric, e.router) == ("accuracy", "argmax"))
    assert f"| `argmax` | {format_interval(accuracy)} |" in card
    error = next(
        e for e in router.metrics if (e.metric, e.router, e.target) == ("ECE", "calibrated", "")
    )
    assert format_interval(error, "value") in card
    assert labels.fingerprint in card and router.config.encoder.weights in card
    assert str(router.guarantee) in card
    assert "the intervals of its row do not" in card.partition("## Limits")[2]
    widths = {line.count(" | ") for line in card.splitlines() if line.startswith("| `calibrated`")}
    assert widths == {4}


def test_a_model_on_the_hub_is_named_as_its_base(fitted):
    config = fitted[0].config
    encoder = config.encoder.model_copy(update={"name": "owner/name@main", "revision": "c" * 40})
    card = model_card(config.model_copy(update={"encoder": encoder}), [], "None.")
    assert yaml.safe_load(card.split("---")[1])["base_model"] == ["owner/name"]


def test_names_are_no_markup():
    for name in ("a|b", "<script>", "`x`", "[a](b)", "line\nbreak", "**bold**"):
        shown = code(name)
        assert re.fullmatch(r"`[^`\n]*`", shown)
        assert not re.search(r"(?<!\\)\|", shown)
