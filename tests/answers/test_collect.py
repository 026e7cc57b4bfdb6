import json

import pandas as pd
import pytest
import tiny_models
from fault_server import faulty

from prefill_router.answers import generation as module
from prefill_router.answers.collect import collect_labels, count_faults
from prefill_router.answers.generation import Decoding, generate
from prefill_router.answers.grading import exact_match, numeric_match
from prefill_router.answers.targets import Endpoint
from prefill_router.errors import InputError
from prefill_router.extraction.models import load_target
from prefill_router.extraction.sources import resolve
from prefill_router.labels import load_labels
from prefill_router.labels.costs import Prices

QUESTIONS = tiny_models.questions(20)
SHORT = Decoding(max_new_tokens=6)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    root = tmp_path_factory.mktemp("targets")
    qwen3 = tiny_models.save(root / "a", "qwen3")
    return str(qwen3), str(tiny_models.save(root / "b", "gpt2", template=tiny_models.TEMPLATE))


@pytest.fixture
def queries():
    table = {"query_id": [f"q{i}" for i in range(20)], "question": QUESTIONS, "reference": "w1"}
    table |= {"benchmark": ["odd", "even"] * 10, "split": ["train", "test"] * 10, "note": "dropped"}
    return pd.DataFrame(table, index=range(100, 120))


class Recorder(list):
    """How many questions each call to `generate` gets; stops at the one after `stop_after`."""

    stop_after = None

    def __call__(self, model, tokenizer, questions, *arguments):
        if len(self) == self.stop_after:
            raise KeyboardInterrupt
        self.append(len(questions))
        return generate(model, tokenizer, questions, *arguments)


@pytest.fixture
def asked(monkeypatch):
    monkeypatch.setattr(module, "generate", recorder := Recorder())
    return recorder


def collect(targets, queries, out, **settings):
    return collect_labels(targets, queries, out, **{"decoding": SHORT, **settings})


def test_the_label_table_holds_each_target_and_query_once(saved, queries, tmp_path):
    out, targets = tmp_path / "labels.parquet", saved[::-1]
    replies = {name: generate(*load_target(resolve(name)), QUESTIONS, SHORT) for name in targets}
    right = replies[saved[0]][0]
    queries["reference"] = [text or "none" if i % 3 else 17 for i, text in enumerate(right)]
    labels = collect(targets, queries, out).labels
    pd.testing.assert_frame_equal(pd.read_parquet(out), labels, check_dtype=False)
    first = ["query_id", "question", "benchmark"]
    assert list(labels) == [*first, "model", "is_correct", "output_tokens", "split"]
    assert tuple(labels["model"].drop_duplicates()) == targets
    for target, rows in labels.groupby("model"):
        passed_on = [*first, "split"]
        assert rows[passed_on].values.tolist() == queries[passed_on].values.tolist()
        texts, n_tokens = replies[target]
        assert rows["output_tokens"].tolist() == n_tokens.tolist()
        pairs = zip(texts, queries["reference"].map(str), strict=True)
        assert rows["is_correct"].tolist() == [int(exact_match(*pair)) for pair in pairs]
    assert labels["is_correct"][20:].nunique() == 2


def test_an_interrupted_run_goes_on_where_it_stopped(saved, queries, tmp_path, asked):
    out, whole = tmp_path / "labels.csv", tmp_path / "whole.csv"
    collect(saved, queries, whole, chunk_size=6)
    asked.stop_after = 8 + 5  # one chunk into the second target
    with pytest.raises(KeyboardInterrupt):
        collect(saved, queries, out, chunk_size=6)
    assert not out.exists()
    asked.stop_after = None
    collect(saved, queries, out, chunk_size=6)
    assert asked[8 + 5 :] == [6, 6, 2]
    assert out.read_bytes() == whole.read_bytes()


def test_finished_chunks_serve_only_the_run_they_were_made_by(saved, queries, tmp_path, asked):
    out, target = tmp_path / "labels.csv.gz", saved[:1]
    for _ in range(2):
        collect(target, queries, out)
    collect(target, queries, out, grader=lambda *_: True)
    assert asked == [20]  # graded anew, not asked anew
    assert pd.read_csv(out)["is_correct"].all()
    collect(target, queries, out, decoding=Decoding(max_new_tokens=5))
    collect(target, queries.iloc[1:], out)
    collect(saved[1:], queries, out)
    assert asked == [20, 20, 19, 20]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"query_id": ""}, "row 3 .*: query_id is ''; it must be filled in"),
        ({"query_id": "q0"}, "'q0' occurs more than once"),
        ({"split": "tset"}, "row 3 .*split is 'tset'"),
        ({"reference": None}, "query 'q2': The reference is empty"),
        ({"reference": "1 or 2"}, "query 'q2': .*holds 2 numbers"),
        ({"columns": ["query_id", "question", "benchmark"]}, "no column 'reference'"),
        ({"rows": 0}, "There is no question"),
        ({"targets": ["a", "a"]}, "different models"),
        ({"targets": ["a", "./nowhere"]}, "./nowhere: no such"),
        ({"out": "labels.xlsx"}, "must end in"),
    ],
    ids=str,
)
def test_what_cannot_be_met_is_refused_before_any_model_is_asked(
    saved, queries, tmp_path, asked, change, said
):
    targets = [saved[0] if name == "a" else name for name in change.get("targets", "a")]
    queries["reference"] = "1"
    for column in queries.columns.intersection([*change]):
        queries[column] = queries[column].where(queries.index != 102, change[column])
    queries = queries.loc[:, change.get("columns", queries.columns)].iloc[: change.get("rows")]
    with pytest.raises(InputError, match=said):
        collect_labels(targets, queries, tmp_path / change.get("out", "l.csv"), numeric_match)
    assert asked == []


@pytest.fixture
def counted():
    """A server that answers with the number of words; a target behind it."""
    with faulty() as server:
        yield server, Endpoint(name="p", base_url=server.base_url, model="m")


def test_endpoints_and_local_models_fill_one_table(saved, queries, tmp_path, counted):
    (server, priced), local = counted, saved[1]
    free = priced.model_copy(update={"name": "f"})
    server.faults = {QUESTIONS[2]: [(400, {}, "no")]}  # played once, to one of the two
    found = collect(
        [priced, local, free], queries, tmp_path / "l.csv", grader=lambda a, r: a == "3",
        prices=Prices({"p": 1e6}, {"p": 1e6}),
    )  # fmt: skip
    assert load_labels(tmp_path / "l.csv").targets == ("p", local, "f")
    by_model = dict(list(found.labels.groupby("model")))
    assert by_model["f"]["cost_usd"].isna().all()
    [whole, _] = sorted("pf", key=lambda name: by_model[name]["is_correct"].isna().any())
    assert by_model[whole]["is_correct"].tolist() == [int(len(q.split()) == 3) for q in QUESTIONS]
    assert sum(problem.startswith(("p:", "f:")) for problem in found.problems) == 1
    costs = by_model["p"].drop_duplicates("question")["cost_usd"].dropna()  # asked once
    assert found.spent_usd == pytest.approx(costs.sum()) and (costs > 0).all()
    before = len(server.requests)
    collect([priced, free], queries, tmp_path / "l.csv")
    assert len(server.requests) == before + 1  # only what was refused


def test_a_corrected_price_moves_every_cost_and_nothing_that_was_charged(
    queries, tmp_path, counted
):
    server, target = counted
    questions = queries["question"].unique()
    words = queries["question"].str.split().str.len().to_numpy()

    def run(price, **settings):
        prices = None if price is None else Prices({"p": price}, {"p": 2 * price})
        return collect([target], queries, tmp_path / "l.csv", prices=prices, **settings)

    charged = sum(len(question.split()) + 2 for question in questions) / 1e6
    assert run(1.0).spent_usd == pytest.approx(charged)
    for price in (1000.0, 0.5):
        again = run(price, cap_usd=charged)
        assert again.labels["cost_usd"].to_numpy() == pytest.approx((words + 2) * price / 1e6)
        assert again.spent_usd == pytest.approx(charged) and again.problems == []
    assert "cost_usd" not in run(None).labels  # none is known any more
    queries.loc[100, "question"] = "w1 w2 w3 w4 w5 w6 w7 w8 w9"
    assert "the cap of" in run(0.5, cap_usd=charged).problems[0]
    assert server.asked == dict.fromkeys(questions, 1)


def test_answers_with_a_fault_are_counted_and_told(saved, queries, tmp_path, counted):
    server, endpoint = counted
    cut_off = b'{"choices": [{"message": {"content": "so 3"}, "finish_reason": "length"}]}'
    thinking = b'{"choices": [{"message": {"content": "<think>1"}, "finish_reason": "stop"}]}'
    silent = b'{"choices": [{"message": {"content": "no"}, "finish_reason": "stop"}]}'
    questions = [*dict.fromkeys(QUESTIONS)]
    server.faults = {questions[0]: [cut_off], questions[1]: [thinking], questions[2]: [silent]}
    server.faults[questions[3]] = [(400, {}, "no")]
    queries = queries.drop_duplicates("question").assign(reference="1")
    found = collect([saved[0], endpoint], queries, tmp_path / "l.csv", grader=numeric_match)
    tokens = generate(*load_target(resolve(saved[0])), questions, SHORT)[1]
    counts = count_faults(found.graded)
    assert counts.loc[saved[0], "cut off"] == (tokens == 6).sum()
    assert counts.loc["p"].tolist() == [2, 0, 1]
    assert len(found.graded) == 2 * len(questions) - 1
    assert found.graded.query("answer == '<think>1'")["is_correct"].tolist() == [0]
    told = [problem for problem in found.problems if problem.startswith("p: ")]
    for count, fault in ((2, "cut off"), (1, "unreadable")):
        said = f"p: {count} of {len(questions) - 1} answers are {fault}"
        assert sum(problem.startswith(said) for problem in told) == 1
    assert len(told) == 3 and "no answer to" in told[2]
    few = pd.concat([queries[2:3].assign(query_id=f"r{i}") for i in range(40)])
    few = pd.concat([few.assign(question=questions[5]), queries[2:3]])
    assert collect([endpoint], few, tmp_path / "l.csv", grader=numeric_match).problems == []


def test_thinking_that_a_prompt_opens_and_the_limit_cuts_off_is_no_answer(
    queries, tmp_path, counted
):
    server, endpoint = counted
    replies = [
        ("3, no: 1</think>2", "stop"),
        ("first 2", "length"),
        ("<think>x</think>2", "length"),
    ]
    server.faults = {
        question: [
            json.dumps({"choices": [{"message": {"content": text}, "finish_reason": end}]}).encode()
        ]
        for question, (text, end) in zip(QUESTIONS, replies, strict=False)
    }
    queries = queries[:3].assign(reference="2")
    for rows, right in ((queries, [1, 0, 1]), (queries[1:], [1, 1])):
        found = collect([endpoint], rows, tmp_path / "l.csv", grader=numeric_match)
        assert found.labels["is_correct"].tolist() == right
        assert count_faults(found.graded).loc["p", "cut off"] == 2


def test_answers_are_graded_again_without_asking(saved, queries, tmp_path, asked, counted):
    server, endpoint = counted
    out, targets = tmp_path / "l.csv", [saved[0], endpoint]
    with pytest.raises(InputError, match="keeps no answer"):
        collect([endpoint], queries, out, regrade=True)
    with pytest.raises(InputError, match="does not keep all its answers"):
        collect(targets, queries, out, regrade=True)
    assert not out.exists()
    server.faults = {QUESTIONS[2]: [(400, {}, "no")]}
    before = collect(targets, queries, out, prices=Prices({"p": 1}, {"p": 1}))
    n_asked = len(asked), len(server.requests)
    words = [len(question.split()) for question in QUESTIONS]
    queries["reference"] = words  # corrected
    again = collect(targets, queries, out, grader=numeric_match, regrade=True)
    assert (len(asked), len(server.requests)) == n_asked
    pd.testing.assert_series_equal(again.labels["output_tokens"], before.labels["output_tokens"])
    assert again.labels["is_correct"][20:].dropna().all() and again.spent_usd == before.spent_usd
    assert again.labels["is_correct"].isna().sum() == QUESTIONS.count(QUESTIONS[2])
    assert load_labels(out).targets == (saved[0], "p")


def test_what_is_no_answer_is_no_wrong_one(queries, tmp_path, counted):
    server, target = counted
    choice = {"finish_reason": "stop", "message": {"content": "", "reasoning_content": "3"}}
    zeros = {"prompt_tokens": 0, "completion_tokens": 0}
    filtered = choice | {"finish_reason": "content_filter", "message": {"content": "3"}}
    whole = choice | {"message": {"content": "3"}}
    server.faults = {
        question: [json.dumps({"choices": [one], "usage": zeros}).encode()]
        for question, one in zip(dict.fromkeys(QUESTIONS), (choice, filtered, whole), strict=False)
    }
    prices = Prices({"p": 1.0}, {"p": 1.0})
    found = collect(
        [target], queries, tmp_path / "l.csv", grader=lambda a, r: a == "3", prices=prices
    )
    by_question = found.labels.drop_duplicates("question").head(3)
    assert by_question["is_correct"].isna().tolist() == [True, True, False]
    assert by_question[["output_tokens", "cost_usd"]].isna().all(axis=None)
    assert found.uncertain_usd > 0 and len(found.problems) == 2
