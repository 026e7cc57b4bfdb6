import json
import shutil

import numpy as np
import pandas as pd
import pytest
import tiny_models
import tiny_studies
import yaml
from fault_server import faulty
from test_cli import invoke, refused

from prefill_router.answers.generation import Decoding, generate
from prefill_router.answers.targets import Endpoint
from prefill_router.cli.common import READ
from prefill_router.config import Loop
from prefill_router.evaluation.results import select
from prefill_router.evaluation.sentences import format_interval
from prefill_router.extraction import extract
from prefill_router.extraction.models import load_target
from prefill_router.extraction.sources import resolve
from prefill_router.labels import load_labels
from prefill_router.router import Router


def write(directory, name="loop.yaml", **values):
    path = directory / name
    path.write_text(yaml.safe_dump(values))
    return path


def answer(*given):
    """Return what a command says as JSON."""
    result = invoke(*given, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_help_explains_the_fields_that_a_command_reads():
    assert set().union(*READ.values()) == set(Loop.model_fields)
    for command, read in READ.items():
        said = " ".join(invoke(command, "--help").stdout.split())
        for name in Loop.model_fields:
            assert (f"• {name}: " in said) == (name in read)
        for name in Endpoint.model_fields:
            assert (f"• targets: {name}: " in said) == (command == "collect")


# -- collect -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models")
    return [str(tiny_models.save(directory / f"m{seed}", seed=seed)) for seed in (0, 1)]


@pytest.fixture
def asked(tmp_path, models):
    """A loop; what the first model answers to the odd questions is right."""
    table = pd.DataFrame({"query_id": [f"q{i}" for i in range(12)], "benchmark": "words"})
    table["question"] = [f"w{i} w{i + 1}" for i in range(12)]
    model, tokenizer = load_target(resolve(models[0]))
    answers = [generate(model, tokenizer, [q], Decoding(6))[0][0] for q in table["question"]]
    table["reference"] = [a if i % 2 else "w0 is wrong" for i, a in enumerate(answers)]
    table["group"] = [f"g{i // 2}" for i in range(12)]
    table.to_csv(tmp_path / "queries.csv", index=False)
    return write(
        tmp_path, queries=str(tmp_path / "queries.csv"), labels=str(tmp_path / "labels.csv.gz"),
        targets=models, max_new_tokens=6,
    )  # fmt: skip


def of_endpoints(asked, *targets, **values):
    """Write the same loop for endpoints: (name, server)."""
    given = yaml.safe_load(asked.read_text()) | values
    price = "{input: 1, output: 2}"
    given["targets"] = [
        {"name": name, "base_url": server.base_url, "model": "m", "price": yaml.safe_load(price)}
        for name, server in targets
    ]
    return write(asked.parent, "remote.yaml", **given)


def test_collect_asks_grades_and_writes_labels_that_can_be_loaded(tmp_path, models, asked):
    out = tmp_path / "labels.csv.gz"
    assert f"24 labels in {out}, 0 missing" in invoke("collect", asked).stdout
    labels = load_labels(out)
    assert labels.targets == tuple(models)
    assert labels.correct[:, 0].tolist() == [0, 1] * 6
    assert len(set(labels.group)) == 6
    before = out.read_bytes()
    assert invoke("collect", asked).exit_code == 0
    assert out.read_bytes() == before


def test_collect_says_what_it_could_not_get_and_what_it_spent(tmp_path, asked):
    queries = pd.read_csv(tmp_path / "queries.csv").assign(reference=2)
    queries.to_csv(tmp_path / "queries.csv", index=False)
    with faulty({"w1 w2": [(400, {}, "no such words")]}) as server:
        path = of_endpoints(asked, ("remote", server), grader="numeric")
        result = invoke("collect", path, "--json")
        assert result.exit_code == 3
        assert "no such words" in result.stderr
        found = json.loads(result.stdout)
        assert (found["n_labels"], found["n_missing"]) == (11, 1)
        assert found["accuracy"] == {"remote": 1.0}
        assert found["spent_usd"] == pytest.approx(11 * 4e-6)
        again = invoke("collect", path)
    assert again.exit_code == 0
    assert "12 labels" in again.stdout and "0.000048 USD spent" in again.stdout
    assert len(server.requests) == 13


def test_collect_shows_graded_answers_and_grades_them_again_unasked(tmp_path, asked):
    queries = pd.read_csv(tmp_path / "queries.csv").assign(reference=2)
    queries.to_csv(tmp_path / "queries.csv", index=False)
    body = b'{"choices": [{"message": {"content": "\\u001b[J no"}, "finish_reason": "stop"}]}'
    with faulty({"w1 w2": [body]}) as server:
        path = of_endpoints(asked, ("remote", server), grader="numeric")
        first, *again = (invoke("collect", path, *more) for more in ([], *[["--regrade"]] * 2))
    assert len(server.requests) == 12 and [one.stdout for one in again] == [first.stdout] * 2
    assert "remote: 1 of 12 answers are unreadable" in first.stderr
    shown = [line.split() for line in first.stdout.splitlines()]
    assert ["remote", "0", "0", "1"] in shown and ["remote", "2", "'2'", "1"] in shown
    assert "\x1b" not in first.stdout
    found = json.loads(invoke("collect", path, "--json", "--regrade").stdout)
    assert found["faults"] == {"remote": {"cut off": 0, "empty": 0, "unreadable": 1}}
    assert sorted(one["is_correct"] for one in found["examples"]) == [0, 1]


def test_a_target_without_any_answer_has_no_accuracy_and_ends_no_collection(asked):
    with faulty() as live, faulty({"*": [(404, {}, "no such model")] * 50}) as gone:
        path = of_endpoints(asked, ("live", live), ("gone", gone))
        poor = invoke("collect", path, "--json", "-p", "cap_usd=0.000001")
        result = invoke("collect", path, "--json")
    assert (poor.exit_code, result.exit_code) == (3, 3)
    assert "the cap of" in poor.stderr
    for said, n_labels, answered in ((poor, 0, []), (result, 12, ["live"])):
        found = json.loads(said.stdout)
        assert (found["n_labels"], found["n_missing"]) == (n_labels, 24 - n_labels)
        assert list(found["accuracy"]) == answered


def test_a_grader_that_fails_costs_no_answer(tmp_path, asked, monkeypatch):
    (tmp_path / "failing_grader.py").write_text("def boom(answer, reference): return 1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with faulty() as server:
        path = of_endpoints(asked, ("remote", server))
        said = refused("collect", path, "-p", "grader=failing_grader:boom")
        assert "grader boom" in said and "'w0 w1'" in said and "ZeroDivisionError" in said
        assert invoke("collect", path).exit_code == 0
    assert len(server.requests) == 12


def test_collect_refuses_what_it_cannot_use(tmp_path, asked):
    for given, said in (
        ("targets=zoo/nobody", "no model 'zoo/nobody' in the zoo"),
        ("queries=gone.csv", "gone.csv"),
        ("queries=", "queries must name a table"),
        ("grader=luck", "grader 'luck' is unknown"),
    ):
        assert said in refused("collect", asked, "-p", given)
    assert not (tmp_path / "labels.csv.gz").exists()


# -- from fit to report --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def loop(tmp_path_factory):
    """A loop whose router was fitted to three targets, and what the fit said."""
    directory = tmp_path_factory.mktemp("loop")
    world = tiny_studies.world(directory)
    table = tiny_studies.label_table()
    few = table[table["model"] == "noisy"].iloc[:40].assign(model="new")
    few.to_csv(directory / "few.csv", index=False)
    prices = pd.read_csv(world["prices"])
    prices.loc[len(prices)] = ["new", 1.0, 1.0]
    prices.to_csv(world["prices"], index=False)
    path = write(
        directory, labels=world["labels"], prices=world["prices"], encoder=world["encoder"],
        dimensions=[2, 6], n_seeds=2, router=str(directory / "router"),
        report=str(directory / "report.html"),
    )  # fmt: skip
    result = invoke("fit", path)
    assert result.exit_code == 0, result.output
    return path, result.stdout


@pytest.fixture
def router(loop):
    return Router.from_pretrained(loop[0].parent / "router")


def test_fit_saves_a_router_and_says_how_good_it_is(loop, router):
    said = loop[1]
    assert router.targets == ["early", "late", "noisy"]
    found, *table = said.splitlines()
    assert found.endswith(f"{load_labels(loop[0].parent / 'labels.csv').summary}.")
    assert "3 targets: early (" in found
    assert table[0].split("  ")[-1].strip() == "cost saving"
    shown = select(router.metrics, metric="accuracy").set_index("router")
    begins = {"tolerance": f"tau {router.config.tau:.3g}, ", "certified": "default: "}
    for policy in ("argmax", "tolerance", "certified", "utility", "oracle"):
        begin = begins.get(policy, f"{policy} ")
        (line,) = (line for line in table if line.strip().startswith(begin))
        assert format_interval(shown.loc[policy]) in line
    (auc,) = select(router.metrics, metric="AUC", router="calibrated", target="").itertuples()
    assert format_interval(auc, "value") in said
    assert str(router.guarantee) in said


def test_fit_says_how_many_prompts_are_cut(loop, tmp_path):
    file = loop[0]
    cut = ["-p", "max_tokens=9", "-p", "truncation=right", "-p", f"router={tmp_path / 'short'}"]
    found = answer("fit", file, *cut)
    encoder = yaml.safe_load(file.read_text())["encoder"]
    states = extract(encoder, load_labels(file.parent / "labels.csv").question, layers=[0])
    assert found["n_truncated"] == (states.n_tokens > 9).sum() > 0
    said = f"{found['n_truncated']} of {len(states)} prompts were longer than the encoder reads"
    assert said in invoke("fit", file, *cut).output


def test_evaluate_leaves_out_what_the_router_was_fitted_to(loop, router, tmp_path):
    path, data = loop[0], router.config.data
    found = answer("evaluate", path)
    assert (found["n"], found["n_left_out"]) == (data.test, data.train + data.validation)
    again = {(row["metric"], row["router"], row["target"]): row for row in found["metrics"]}
    for row in select(router.metrics, target=None).dropna(subset="estimate").itertuples():
        if (key := (row.metric, row.router, row.target)) in again:
            assert again[key]["estimate"] == pytest.approx(row.estimate, abs=1e-5)
    old = pd.read_csv(path.parent / "labels.csv").assign(group="")
    new = tiny_studies.label_table(n=80, seed=5).assign(group="")
    new["query_id"] = "new " + new["query_id"]
    n_new = (~new["question"].isin(old["question"])).sum() // len(router.targets)
    pd.concat([new, old]).to_csv(tmp_path / "other.csv", index=False)  # row by row, not as a whole
    given = ("evaluate", path, "-p", f"labels={tmp_path / 'other.csv'}")
    found = answer(*given)
    assert {row["split"] for row in found["metrics"]} == {"new"}
    counts = {row["n"] for row in found["metrics"] if row["metric"] == "accuracy"}
    assert counts == {n_new + data.test} == {found["n"]} and 0 < n_new <= 80
    said = f"{found['n']:,} queries; {found['n_left_out']:,} that the router was fitted to"
    assert said in invoke(*given).stdout


def test_route_says_whom_to_ask_and_why(loop, router):
    given = ("route", loop[0], "w1 w2", "w15 w19", "-p", "tau=0.3", "-p", "exclude=noisy")
    found = answer(*given)["routes"]
    wanted = router.route_many(["w1 w2", "w15 w19"], tau=0.3, exclude=["noisy"])
    assert [one["choice"] for one in found] == [one.choice for one in wanted]
    assert [one["p"] for one in found] == [one.p for one in wanted]
    assert wanted[0].why in invoke(*given).stdout
    assert "target 'x' is unknown" in refused("route", loop[0], "w1", "-p", "exclude=x")
    assert "needs budget" in refused("route", loop[0], "w1", "-p", "policy=budget")
    assert "Question 1 is empty" in refused("route", loop[0], "w1", "")


def test_the_command_line_says_where_an_encoder_lies_now(loop, tmp_path):
    router = shutil.copytree(loop[0].parent / "router", tmp_path / "router")
    record = json.loads((router / "router.json").read_text())
    encoder, record["encoder"]["name"] = record["encoder"]["name"], "../gone"
    (router / "router.json").write_text(json.dumps(record))
    given = ("route", loop[0], "w1", "-p", f"router={router}")
    assert "on the command line -p encoder=PATH" in refused(*given)
    assert invoke(*given, "-p", f"encoder={encoder}").exit_code == 0


def test_a_new_target_joins_with_how_sure_that_is(loop, router, tmp_path):
    directory = loop[0].parent
    few = directory / "few.csv"
    found = answer("add-target", loop[0], "new", tmp_path / "wider", "-p", f"labels={few}")
    assert found["targets"] == ["early", "late", "noisy", "new"]
    rows = {(row["metric"], row["router"]): row for row in found["metrics"]}
    accuracy = rows["accuracy", "single target"]
    known = (accuracy["n"], accuracy["estimate"])
    assert known == (40, pytest.approx(pd.read_csv(few)["is_correct"].mean()))
    assert any(row.get("versus") == "the others' mean" for row in found["metrics"])
    wider, queries = Router.from_pretrained(tmp_path / "wider"), ["w1 w2 w3", "w14 w15"]
    p, cost = wider.predict_proba(queries), wider.expected_costs(queries)
    np.testing.assert_array_equal(p[:, :3], router.predict_proba(queries))
    assert ((p[:, 3] > 0) & (p[:, 3] < 1)).all()
    assert cost[0, 3] > pd.read_csv(few)["output_tokens"].mean() * 1e-6
    given = ("add-target", loop[0], "noisy", tmp_path / "x", "-p", f"labels={directory}/labels.csv")
    assert "must be of one target" in refused(*given)
    assert not (tmp_path / "x").exists()


def test_labels_of_a_new_target_of_fitted_questions_are_counted(loop, router, tmp_path):
    labels = loop[0].parent / "labels.csv"
    table = pd.read_csv(labels).query("model == 'late'").assign(model="new", group="")
    fresh = table["query_id"].isin(router.unseen(load_labels(labels)).query_id)
    given = ("add-target", loop[0], "new", tmp_path / "x", "-p", f"labels={tmp_path / 'new.csv'}")
    for part, n_seen in ((table[fresh], 0), (pd.concat([table[fresh], table[~fresh][:20]]), 20)):
        part.to_csv(tmp_path / "new.csv", index=False)
        said = f"{len(part)} queries; the router was fitted to {n_seen} of them"
        assert said + (", of which it predicts" if n_seen else ".\n") in invoke(*given).stdout
    assert answer(*given)["n_seen"] == 20


def test_report_writes_the_page_and_no_command_looks_at_what_is_not_there(loop):
    path = loop[0]
    assert invoke("report", path).exit_code == 0
    assert "<html" in (path.parent / "report.html").read_text(encoding="utf-8")
    assert "prefill-router collect" in refused("fit", path, "-p", "labels=none.csv")
    assert "prefill-router fit" in refused("route", path, "w1", "-p", "router=none")
    said = refused("fit", path, "-p", "policy=budget")
    assert "fit does not read it; route would" in said


# -- the toolkit ---------------------------------------------------------------------------------


def test_files_are_exchanged_with_the_toolkit(tmp_path):
    labels = tmp_path / "labels.csv"
    labels.write_text("query_id,question,benchmark,a,b\n1,one,m,0,1\n2,two,m,1,\n")
    result = invoke("toolkit", "labels", labels, tmp_path / "t.csv")
    assert "2 labels written" in result.stdout and "1 questions left out" in result.stdout
    assert list(pd.read_csv(tmp_path / "t.csv"))[:3] == ["question", "model", "isCorrect"]
    pool = {"models": [{"name": "a", "litellm_model": "openrouter/x/y",
                        "cost_per_m_input_tokens": 1, "cost_per_m_output_tokens": 2}]}  # fmt: skip
    path = write(tmp_path, "pool.yaml", **pool)
    result = invoke("toolkit", "pool", path, tmp_path / "loop.yaml")
    assert "Set OPENROUTER_API_KEY" in result.stdout
    path = write(tmp_path, "pool.yaml", models={})
    assert "no list of models" in refused("toolkit", "pool", path, tmp_path / "x.yaml")
