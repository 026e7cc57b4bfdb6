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
from prefill_router.answers.grading import exact_match
from prefill_router.answers.targets import Endpoint
from prefill_router.cli.common import READ
from prefill_router.config import Loop
from prefill_router.evaluation.results import select
from prefill_router.evaluation.sentences import format_interval
from prefill_router.extraction.models import load_target
from prefill_router.extraction.sources import resolve
from prefill_router.labels import load_labels
from prefill_router.router import Router


def write(directory, name="loop.yaml", **values):
    path = directory / name
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.parametrize("command", READ)
def test_help_explains_the_fields_that_a_command_reads(command):
    said = " ".join(invoke(command, "--help").stdout.split())
    for name in Loop.model_fields:
        assert (f"• {name}: " in said) == (name in READ[command])
    for name in Endpoint.model_fields:
        assert (f"• targets: {name}: " in said) == (command == "collect")


def test_every_field_is_read_by_some_command():
    assert set().union(*READ.values()) == set(Loop.model_fields)


# -- collect -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models")
    return [str(tiny_models.save(directory / f"m{seed}", seed=seed)) for seed in (0, 1)]


@pytest.fixture
def asked(tmp_path, models):
    """A loop; what the first model answers to the odd questions is right."""
    questions = [f"w{i} w{i + 1}" for i in range(12)]
    model, tokenizer = load_target(resolve(models[0]))
    answers = [generate(model, tokenizer, [q], Decoding(6))[0][0] for q in questions]
    table = pd.DataFrame(
        {
            "query_id": [f"q{i}" for i in range(12)],
            "question": questions,
            "benchmark": "words",
            "reference": [a if i % 2 else "w0 is wrong" for i, a in enumerate(answers)],
            "group": [f"g{i // 2}" for i in range(12)],
        }
    )
    table.to_csv(tmp_path / "queries.csv", index=False)
    return write(
        tmp_path, queries=str(tmp_path / "queries.csv"), labels=str(tmp_path / "labels.csv.gz"),
        targets=models, max_new_tokens=6,
    )  # fmt: skip


def test_collect_asks_grades_and_writes_labels_that_can_be_loaded(tmp_path, models, asked):
    result = invoke("collect", asked)
    assert result.exit_code == 0, result.output
    out = tmp_path / "labels.csv.gz"
    assert f"24 labels in {out}, 0 missing" in result.stdout
    labels = load_labels(out)
    assert labels.targets == tuple(models)
    assert labels.correct[:, 0].tolist() == [0, 1] * 6
    assert len(set(labels.group)) == 6
    table = pd.read_csv(tmp_path / "queries.csv")
    model, tokenizer = load_target(resolve(models[1]))
    answers, n_tokens = generate(model, tokenizer, table["question"].tolist(), Decoding(6))
    right = [exact_match(*pair) for pair in zip(answers, table["reference"], strict=True)]
    assert labels.correct[:, 1].tolist() == right
    assert labels.output_tokens[:, 1].tolist() == n_tokens.tolist()
    before = out.read_bytes()
    assert invoke("collect", asked).exit_code == 0
    assert out.read_bytes() == before


def test_collect_says_what_it_could_not_get_and_what_it_spent(tmp_path, asked):
    with faulty({"w1 w2": [(400, {}, "no such words")]}) as server:
        target = {
            "name": "remote", "base_url": server.base_url, "model": "m",
            "price": {"input": 1.0, "output": 2.0},
        }  # fmt: skip
        given = yaml.safe_load(asked.read_text()) | {"targets": [target], "grader": "numeric"}
        path = write(tmp_path, "remote.yaml", **given)
        queries = pd.read_csv(given["queries"]).assign(reference=2)
        queries.to_csv(given["queries"], index=False)
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


def test_a_target_without_any_answer_has_no_accuracy_and_ends_no_collection(tmp_path, asked):
    with faulty() as live, faulty({"*": [(404, {}, "no such model")] * 50}) as gone:
        targets = [
            {"name": name, "base_url": url, "model": "m", "price": {"input": 1.0, "output": 1.0}}
            for name, url in (("live", live.base_url), ("gone", gone.base_url))
        ]
        given = yaml.safe_load(asked.read_text()) | {"targets": targets}
        path = write(tmp_path, "remote.yaml", **given)
        poor = invoke("collect", path, "--json", "-p", "cap_usd=0.000001")
        result = invoke("collect", path, "--json")
    assert (poor.exit_code, result.exit_code) == (3, 3)
    found = json.loads(poor.stdout)
    assert (found["n_labels"], found["n_missing"], found["accuracy"]) == (0, 24, {})
    assert "the cap of" in poor.stderr
    found = json.loads(result.stdout)
    assert (found["n_labels"], found["n_missing"]) == (12, 12)
    assert list(found["accuracy"]) == ["live"]


def test_a_grader_that_fails_costs_no_answer(tmp_path, asked, monkeypatch):
    (tmp_path / "failing_grader.py").write_text("def boom(answer, reference): return 1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with faulty() as server:
        target = {"name": "remote", "base_url": server.base_url, "model": "m"}
        given = yaml.safe_load(asked.read_text()) | {"targets": [target]}
        path = write(tmp_path, "remote.yaml", **given)
        said = refused("collect", path, "-p", "grader=failing_grader:boom")
        assert "grader boom" in said and "'w0 w1'" in said and "ZeroDivisionError" in said
        assert invoke("collect", path).exit_code == 0
    assert len(server.requests) == 12


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["targets=zoo/nobody"], "no model 'zoo/nobody' in the zoo"),
        (["queries=gone.csv"], "gone.csv"),
        (["queries="], "queries must name a table"),
        (["grader=luck"], "none called 'luck'"),
    ],
)
def test_collect_refuses_what_it_cannot_use(tmp_path, asked, given, said):
    assert said in refused("collect", asked, *(x for p in given for x in ("-p", p)))
    assert not (tmp_path / "labels.csv.gz").exists()


# -- from fit to report --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def loop(tmp_path_factory):
    """A loop whose router was fitted to three targets; the table holds a fourth's few labels."""
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


def test_fit_saves_a_router_and_says_how_good_it_is(loop):
    path, said = loop
    router = Router.from_pretrained(path.parent / "router")
    assert router.targets == ["early", "late", "noisy"]
    table = said.splitlines()
    assert table[0].split("  ")[-1].strip() == "cost saving"
    shown = {row.router: row for row in select(router.metrics, metric="accuracy").itertuples()}
    for policy in ("argmax", "tolerance", "certified", "utility", "oracle"):
        begins = {"tolerance": f"tau {router.config.tau:.3g}, ", "certified": "default: "}
        begin = begins.get(policy, f"{policy} ")
        (line,) = (line for line in table if line.strip().startswith(begin))
        assert format_interval(shown[policy]) in line
    (auc,) = select(router.metrics, metric="AUC", router="calibrated", target="").itertuples()
    assert format_interval(auc, "value") in said
    assert str(router.guarantee) in said


def test_evaluate_leaves_out_what_the_router_was_fitted_to(loop, tmp_path):
    path, _ = loop
    router = Router.from_pretrained(path.parent / "router")
    data = router.config.data
    found = json.loads(invoke("evaluate", path, "--json").stdout)
    assert (found["n"], found["n_left_out"]) == (data.test, data.train + data.validation)
    names = ("metric", "router", "target")
    again = {tuple(row[k] for k in names): row["estimate"] for row in found["metrics"]}
    for row in select(router.metrics, target=None).itertuples():
        if (key := (row.metric, row.router, row.target)) in again and row.estimate == row.estimate:
            assert again[key] == pytest.approx(row.estimate, abs=1e-5)
    other = tmp_path / "other.csv"
    new = tiny_studies.label_table(n=80, seed=5).assign(group="")
    new["query_id"] = "new " + new["query_id"]
    old = pd.read_csv(path.parent / "labels.csv").assign(group="")
    known = set(old["question"])
    n_new = int((~new["question"].isin(known)).sum() / len(router.targets))
    new.to_csv(other, index=False)
    given = ("evaluate", path, "-p", f"labels={other}")
    found = json.loads(invoke(*given, "--json").stdout)
    assert {row["split"] for row in found["metrics"]} == {"new"}
    counts = {row["n"] for row in found["metrics"] if row["metric"] == "accuracy"}
    assert counts == {n_new} == {found["n"]} and 0 < n_new <= 80
    assert f"{n_new} queries; {80 - n_new} that the router was fitted to" in invoke(*given).stdout
    pd.concat([new, old]).to_csv(other, index=False)  # row by row, not as a whole
    mixed = json.loads(invoke(*given, "--json").stdout)
    assert mixed["n"] == n_new + data.test


def test_route_says_whom_to_ask_and_why(loop):
    path, _ = loop
    router = Router.from_pretrained(path.parent / "router")
    given = ("w1 w2", "w15 w19", "-p", "tau=0.3", "-p", "exclude=noisy", "--json")
    found = json.loads(invoke("route", path, *given).stdout)["routes"]
    wanted = router.route_many(["w1 w2", "w15 w19"], tau=0.3, exclude=["noisy"])
    assert [one["choice"] for one in found] == [one.choice for one in wanted]
    assert [one["p"] for one in found] == [one.p for one in wanted]
    assert set(found[0]["p"]) == {"early", "late"}
    assert wanted[0].why in invoke("route", path, *given[:-1]).stdout
    assert "Unknown target 'x'" in refused("route", path, "w1", "-p", "exclude=x")
    assert "needs budget" in refused("route", path, "w1", "-p", "policy=budget")


def test_the_command_line_says_where_an_encoder_lies_now(loop, tmp_path):
    path, _ = loop
    router = shutil.copytree(path.parent / "router", tmp_path / "router")
    record = json.loads((router / "router.json").read_text())
    encoder, record["encoder"]["name"] = record["encoder"]["name"], "../gone"
    (router / "router.json").write_text(json.dumps(record))
    given = ("route", path, "w1", "-p", f"router={router}")
    assert "on the command line -p encoder=PATH" in refused(*given)
    assert invoke(*given, "-p", f"encoder={encoder}").exit_code == 0


def test_a_new_target_joins_with_how_sure_that_is(loop, tmp_path):
    path, _ = loop
    few = path.parent / "few.csv"
    given = ("-p", f"labels={few}")
    result = invoke("add-target", path, "new", tmp_path / "wider", *given, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["targets"] == ["early", "late", "noisy", "new"]
    rows = {(row["metric"], row["router"]): row for row in found["metrics"]}
    accuracy = rows["accuracy", "single target"]
    assert accuracy["n"] == 40
    assert accuracy["estimate"] == pytest.approx(pd.read_csv(few)["is_correct"].mean())
    assert accuracy["lower"] < accuracy["estimate"] < accuracy["upper"]
    assert any(row.get("versus") == "the others' mean" for row in found["metrics"])
    wider = Router.from_pretrained(tmp_path / "wider")
    narrow = Router.from_pretrained(path.parent / "router")
    queries = ["w1 w2 w3", "w14 w15"]
    p, before = wider.predict_proba(queries), narrow.predict_proba(queries)
    np.testing.assert_array_equal(p[:, :3], before)
    assert ((p[:, 3] > 0) & (p[:, 3] < 1)).all()
    cost = wider.expected_costs(queries)
    length = pd.read_csv(few)["output_tokens"].mean()
    assert cost[0, 3] > length * 1e-6 and cost.shape == (2, 4)
    for policy in ({"policy": "argmax"}, {"policy": "budget", "budget": 1.0}, {"tau": 0.5}):
        assert set(wider.route(queries[0], **policy).p) == set(wider.targets)
    again = wider.save_pretrained(tmp_path / "again")
    assert (again / "router.json").read_bytes() == (tmp_path / "wider/router.json").read_bytes()
    assert "must be of one target" in refused("add-target", path, "noisy", tmp_path / "x", "-p",
                                              f"labels={path.parent / 'labels.csv'}")  # fmt: skip
    assert not (tmp_path / "x").exists()


def test_labels_of_a_new_target_of_fitted_questions_are_counted(loop, tmp_path):
    path, _ = loop
    router = Router.from_pretrained(path.parent / "router")
    labels = load_labels(path.parent / "labels.csv")
    table = pd.read_csv(path.parent / "labels.csv").query("model == 'late'").assign(model="new")
    fresh = table["query_id"].isin(router.unseen(labels).query_id)
    given = ("add-target", path, "new", tmp_path / "x", "-p", f"labels={tmp_path / 'new.csv'}")
    for part, said in (
        (table[fresh], "0 of them.\n"),
        (pd.concat([table[fresh], table[~fresh][:20]]), "20 of them, of which it predicts"),
    ):
        part.assign(group="").to_csv(tmp_path / "new.csv", index=False)
        assert f"{len(part)} queries; the router was fitted to {said}" in invoke(*given).stdout
    found = json.loads(invoke(*given, "--json").stdout)
    assert (found["n"], found["n_seen"]) == (len(part), 20)


# -- the toolkit ---------------------------------------------------------------------------------


def test_files_are_exchanged_with_the_toolkit(loop, tmp_path):
    path, _ = loop
    labels = tmp_path / "labels.csv"
    labels.write_text("query_id,question,benchmark,a,b\n1,one,m,0,1\n2,two,m,1,\n")
    result = invoke("toolkit", "labels", labels, tmp_path / "t.csv")
    assert result.exit_code == 0
    assert "2 labels written" in result.stdout and "1 questions left out" in result.stdout
    assert list(pd.read_csv(tmp_path / "t.csv"))[:3] == ["question", "model", "isCorrect"]
    pool = {"models": [{"name": "a", "litellm_model": "openrouter/x/y",
                        "cost_per_m_input_tokens": 1, "cost_per_m_output_tokens": 2}]}  # fmt: skip
    (tmp_path / "pool.yaml").write_text(yaml.safe_dump(pool))
    result = invoke("toolkit", "pool", tmp_path / "pool.yaml", tmp_path / "loop.yaml")
    assert "Set OPENROUTER_API_KEY" in result.stdout
    assert "no list of models" in refused("toolkit", "pool", path, tmp_path / "x.yaml")


def test_what_a_command_does_not_look_at_is_refused(loop):
    path, _ = loop
    assert "prefill-router collect" in refused("fit", path, "-p", "labels=none.csv")
    assert "prefill-router fit" in refused("route", path, "w1", "-p", "router=none")
    said = refused("fit", path, "-p", "policy=budget")
    assert "fit does not read it; route would" in said
