from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import tiny_routers
import tiny_studies

from prefill_router.errors import InputError
from prefill_router.evaluation.results import one
from prefill_router.extraction import extract
from prefill_router.labels.splits import make_splits
from prefill_router.report import router_page as it
from prefill_router.router import Router

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)> $x$ {{ 7 * 7 }} \x00 ]]>"


class Page(HTMLParser):
    """Every element with its attributes, and the text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    directory = tmp_path_factory.mktemp("page")
    table = tiny_studies.label_table()
    # hostile names and groups; questions must stay readable for the tiny encoder
    table["benchmark"] = table["benchmark"].replace("red", HOSTILE.replace("\x00", ""))
    return tiny_routers.fit(directory, table, max_loss=0.02)


def page(router, labels, path):
    it.write_page(router, labels, path, n_resamples=50)
    return path.read_text(encoding="utf-8")


def test_the_page_loads_nothing_and_runs_nothing(fitted, tmp_path):
    router, labels = fitted
    text = page(router, labels, tmp_path / "r.html")
    found = Page(text)
    tags = {tag for tag, _ in found.elements}
    assert not tags & {"script", "link", "iframe", "object", "embed", "form", "base", "a"}
    for tag, attributes in found.elements:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href", "srcset", "style"):
            value = attributes.get(name) or ""
            assert "url(" not in value
            if name == "src" and name in attributes:
                assert value.startswith("data:image/svg+xml;base64,")
    policy = next(a["content"] for t, a in found.elements if a.get("http-equiv"))
    assert "default-src 'none'" in policy
    assert "<script>alert(1)</script>" in found.text  # shown, as text
    assert "{{ 7 * 7 }}" in found.text and "@import" not in text
    images = [attributes for tag, attributes in found.elements if tag == "img"]
    assert len(images) == 2 and all(image["alt"] for image in images)


def test_it_shows_unseen_queries_alone_and_the_router_s_numbers(fitted, tmp_path):
    router, labels = fitted
    split = make_splits(labels, seed=0)[0]
    n_fitted = len(split.train) + len(split.validation)
    shown = Page(page(router, labels, tmp_path / "r.html")).text
    assert f"{len(split.test)} queries on which nothing was fitted or chosen" in shown
    assert f"of the labels, {n_fitted} more are of queries that the router was fitted to" in shown
    accuracy = one(router.metrics, metric="accuracy", router="tolerance")
    assert f"{100 * accuracy.estimate:.1f} %" in shown
    assert str(router.guarantee) in shown and "chosen on validation" in shown
    with pytest.raises(InputError, match="questions of all 10 rows"):
        it.write_page(router, labels.take(split.train[:10]), tmp_path / "none.html")
    assert not (tmp_path / "none.html").exists()


def test_details_are_those_of_the_default_where_it_chooses(fitted, monkeypatch):
    router, labels = fitted
    seen = router.examine(router.unseen(labels))
    chosen = router.choices(seen)
    assert not np.array_equal(chosen["tolerance"], chosen["certified"])
    for tau, policy in ((0.25, "certified"), (None, "tolerance")):
        promise = replace(router.guarantee, tau=tau)
        config = router.config.model_copy(update={"guarantee": promise})
        assert it.detailed(replace(router, config=config)) == policy
        wrong = seen.labels.correct[np.arange(len(seen.p)), chosen[policy]] == 0
        share = wrong[seen.labels.benchmark == "blue"].mean()
        lost = np.flatnonzero(wrong & (seen.labels.correct == 1).any(axis=1))
        surest = seen.p[lost, chosen[policy][lost]].max()
        asked = router.targets[chosen[policy][lost[seen.p[lost, chosen[policy][lost]].argmax()]]]
        first = it.mistakes(router, seen, chosen[policy]).text.splitlines()[1]
        assert f"wrong ({surest:.2f})" in first and f"{asked}: wrong" in first
        table = it.failure_table(seen, chosen[policy])
        line = next(x for x in table.text.splitlines() if "blue" in x)
        assert f"{share:.0%}" in line


def test_benchmarks_and_targets_may_be_called_like_a_column(fitted):
    router, labels = fitted
    seen = router.examine(router.unseen(labels))
    chosen = router.choices(seen)
    _, *plain = it.share_table(router, seen, chosen).text.splitlines()
    for names in (("target", "all, by default"), ("all, by default", "target")):
        called = np.where(seen.labels.benchmark == "blue", *names)
        same = replace(seen, labels=replace(seen.labels, benchmark=called))
        head, *rows = it.share_table(router, same, chosen).text.splitlines()
        assert (head.count("target"), head.count("all, by default")) == (2, 2)
        assert [row.split() for row in rows] == [row.split() for row in plain]


def test_without_prices_it_says_so(fitted, tmp_path):
    router, labels = fitted
    states = extract(router.encoder, labels.question.tolist())
    bare = Router.fit(labels, states, **tiny_routers.SETTINGS)
    test = labels.take(make_splits(labels, seed=0)[0].test)
    text = page(bare, test, tmp_path / "r.html")
    assert "No prices are known" in text and "left out" not in text
    assert text.count("<img") == 1 and "USD" not in Page(text).text
