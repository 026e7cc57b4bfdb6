from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny_models
import tiny_studies
import torch
from tiny_studies import label_table, world

from prefill_router.config import Parameters, validate
from prefill_router.errors import InputError
from prefill_router.evaluation.results import results
from prefill_router.experiments.study import ARTIFACTS, Study
from prefill_router.extraction.models import load_encoder
from prefill_router.features.selection import Choice, cross_validated_auc
from prefill_router.labels.costs import Prices
from prefill_router.labels.splits import Split
from prefill_router.probes import probe_layers
from prefill_router.recipe import fit_recipe
from prefill_router.storage import read_json

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("own_artifacts")


# -- the run directory ---------------------------------------------------------------------------


def test_a_run_directory_of_other_parameters_is_refused(tmp_path):
    first = tiny_studies.study(tmp_path, seed=3)
    first.record("01_mine", results())
    assert read_json(first.run_dir / "parameters.json")["seed"] == 3
    with pytest.raises(InputError, match=r"run holds a run with other parameters \(keep, seed\)"):
        tiny_studies.study(tmp_path, seed=4, keep=1)
    assert read_json(first.run_dir / "parameters.json")["seed"] == 3
    tiny_studies.study(tmp_path, seed=3, device="auto")  # the same study on another device


def test_heads_train_where_this_machine_can(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    study, cuda = tiny_studies.study(tmp_path), torch.device("cuda")
    assert study.training_device == torch.device("cpu")
    assert study.like(device="auto").training_device == cuda
    # a cluster's workers read; what this machine has is another matter
    assert study.like(device="cuda:7", engine="ray").training_device == cuda


def test_relative_paths_start_at_the_projects_root(tmp_path, monkeypatch):
    values = world(tmp_path / "data")
    monkeypatch.setattr("prefill_router.experiments.study.project_root", lambda: tmp_path)
    elsewhere = tmp_path / "notebooks"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    relative = {name: f"data/{Path(values[name]).name}" for name in ("labels", "prices", "encoder")}
    study = Study(validate({**values, **relative, "run_dir": "runs/mine"}))
    assert study.run_dir == tmp_path / "runs" / "mine"
    assert study.source(study.parameters.encoder).location == (tmp_path / "data/main").resolve()
    assert study.labels.n_queries == 240
    assert study.prices.input["late"] == 0.5
    assert not list(elsewhere.iterdir())


def test_one_store_may_serve_all_studies(tmp_path, monkeypatch):
    monkeypatch.setenv(ARTIFACTS, str(tmp_path / "shared"))
    one = tiny_studies.study(tmp_path, n_queries=20)
    two = tiny_studies.study(tmp_path, n_queries=20, keep=1, run_dir=str(tmp_path / "two"))
    assert one.activations().key == two.activations().key
    assert list((tmp_path / "shared").iterdir())
    assert not (one.run_dir / "artifacts").exists()
    monkeypatch.setenv(ARTIFACTS, "")
    alone = tiny_studies.study(tmp_path, n_queries=20)
    assert alone.activations().key == one.activations().key
    assert list((alone.run_dir / "artifacts").iterdir())


def test_the_first_cells_can_run_again_in_one_kernel(tmp_path):
    namespace = {**Parameters().model_dump(), **world(tmp_path)}
    namespace["study"] = Study.from_namespace(namespace)
    namespace |= {"Y": np.ones(3), "rows": [1], "name": "left by a later cell"}
    assert Study.from_namespace(namespace).parameters == namespace["study"].parameters
    del namespace["study"]
    with pytest.raises(InputError, match="rows: no such parameter"):
        Study.from_namespace(namespace)


# -- labels and folds ----------------------------------------------------------------------------


def test_only_the_zoos_labels_can_be_redone(tmp_path):
    with pytest.raises(InputError, match="fresh_labels: only the zoo's own"):
        _ = tiny_studies.study(tmp_path, fresh_labels=True).labels


@pytest.mark.parametrize("folds", [1, 3])
def test_joined_folds_say_of_each_row_what_its_fold_says(tmp_path, folds):
    study = tiny_studies.study(tmp_path, outer_folds=folds)
    n = study.labels.n_queries
    by_fold = [np.random.default_rng(f).normal(size=(n, 2)) for f in range(folds)]
    joined = study.over_folds(by_fold)
    tested = {int(r): f for f, split in enumerate(study.splits) for r in split.test}
    assert study.test_rows.tolist() == sorted(tested)
    assert len(tested) == n if folds > 1 else len(tested) < n
    for at, row in enumerate(sorted(tested)):
        assert np.array_equal(joined[at], by_fold[tested[row]][row])
    if folds > 1:
        with pytest.raises(ValueError, match="zip"):
            study.over_folds(by_fold[:-1])


def test_the_best_single_target_is_chosen_on_training_rows_alone(tmp_path):
    """Each part of the table has its own best target; one of them answered few queries."""
    parts = np.repeat(["train", "validation", "test"], [60, 30, 30])
    best = {"train": "late", "validation": "early", "test": "noisy"}
    table = label_table(120)
    table["group"] = table["query_id"]
    table["split"] = np.tile(parts, 3)
    table["is_correct"] = (table["split"].map(best) == table["model"]).astype(int)
    study = tiny_studies.study(tmp_path, table)
    assert [study.labels.targets[k] for k in study.best_single] == ["late"]
    unseen = table[~((table["model"] == "late") & (table["split"] == "train"))]
    first = (unseen["model"] == "noisy") & (unseen["query_id"] == "q0")
    unseen.loc[first, "is_correct"] = 1
    study = tiny_studies.study(tmp_path / "b", unseen)
    assert [study.labels.targets[k] for k in study.best_single] == ["noisy"]


# -- states, probes and choices ------------------------------------------------------------------


def test_states_are_those_of_the_encoder_and_settings_asked_for(tmp_path):
    study = tiny_studies.study(
        tmp_path, n_queries=12, layers=[1, 3], poolings=["mean"], max_tokens=4, truncation="left"
    )
    found = study.activations()
    model, tokenizer = load_encoder(study.source(study.parameters.encoder))
    questions = study.labels.question.tolist()
    want = tiny_models.read(
        model, tokenizer, questions, layers=[1, 3], poolings=["mean"], max_tokens=4,
        truncation="left",
    )  # fmt: skip
    assert found.layers == [1, 3]
    assert found.n_tokens.max() == 4
    np.testing.assert_allclose(found.states(3, "mean"), want.states(3, "mean"), atol=1e-6)
    # layers are numbers of the main encoder; of any other all are read
    other = study.activations(study.parameters.encoders[0])
    assert other.layers == [0, 1, 2, 3]
    assert found.key != other.key


def test_encoders_are_each_named_once(tmp_path):
    values = world(tmp_path)
    main, other, control = values["encoder"], values["encoders"][0], values["untrained"]
    study = Study(validate({**values, "encoders": [other, control, main]}))
    assert study.encoders == [other, control, main]
    assert study.trained_encoders == [other, main]
    study = Study(validate({**values, "untrained": "", "run_dir": str(tmp_path / "b")}))
    assert study.encoders == study.trained_encoders == [other, main]


def test_layers_are_measured_on_training_rows_of_each_fold(study):
    p, labels = study.parameters, study.labels
    probes, aucs = study.probes(p.encoder), study.layer_auc(p.encoder)
    assert set(probes["encoder"]) == set(aucs["encoder"]) == {p.encoder}
    activations = study.activations()
    for f, split in enumerate(study.splits):
        want = probe_layers(activations, labels.correct, split.train)
        have = probes[probes["fold"] == f].drop(columns=["fold", "encoder"])
        pd.testing.assert_frame_equal(have.reset_index(drop=True), want)
        want = cross_validated_auc(
            activations, labels.correct, split.train, labels.group, activations.layers,
            activations.poolings, p.dimensions, p.inner_folds, p.seed,
        )  # fmt: skip
        have = aucs[aucs["fold"] == f].drop(columns=["fold", "encoder"])
        pd.testing.assert_frame_equal(have.reset_index(drop=True), want)


def best_row(rows, score):
    return max(
        rows,
        key=lambda r: (r[score], -r["layer"], [-ord(c) for c in r["pooling"]], -r["dimension"]),
    )


def test_probes_are_not_measured_again_for_other_dimensions(study, monkeypatch):
    encoder = study.parameters.encoder
    before = study.probes(encoder)
    monkeypatch.setattr(
        "prefill_router.experiments.study.probe_layers", lambda *_: pytest.fail("again")
    )
    again = study.like(dimensions=[3], inner_folds=2).probes(encoder)
    pd.testing.assert_frame_equal(again, before)


def test_choices_by_J_take_its_best_place_and_then_the_best_dimension(study, monkeypatch):
    fold = 1
    monkeypatch.setattr(study, "parameters", study.parameters.model_copy(update={"criterion": "J"}))
    encoders = study.trained_encoders
    probes = pd.concat([study.probes(e) for e in encoders]).to_dict("records")
    aucs = pd.concat([study.layer_auc(e) for e in encoders]).to_dict("records")
    want = []
    for k in range(study.labels.n_targets):
        place = max(
            (r for r in probes if r["target"] == k and r["fold"] == fold and not r["constant"]),
            key=lambda r: r["J"],
        )
        same = [
            r
            for r in aucs
            if r["fold"] == fold
            and all(r[x] == place[x] for x in ("encoder", "layer", "pooling", "target"))
        ]
        assert len(same) == 2  # the two dimensions
        best = best_row(same, "auc")
        want.append(Choice(best["encoder"], best["layer"], best["pooling"], best["dimension"]))
    assert study.choices(encoders, fold) == want


def test_what_is_fitted_depends_on_labels_splits_and_seed(study, tmp_path):
    keys = [study.key("a"), study.key("b")]
    keys.append(tiny_studies.study(tmp_path / "1", outer_folds=2, seed=1).key("a"))
    keys.append(tiny_studies.study(tmp_path / "3", outer_folds=3).key("a"))
    keys.append(tiny_studies.study(tmp_path / "t", label_table(seed=1), outer_folds=2).key("a"))
    assert all(keys.count(key) == 1 for key in keys)
    assert tiny_studies.study(tmp_path / "same", outer_folds=2).key("a") == keys[0]


# -- costs and results ---------------------------------------------------------------------------


def test_expected_costs_are_the_recipes(study):
    p, split = study.parameters, study.splits[1]
    fitted = fit_recipe(study.recipe(), study.labels, study.activations(), split, study.prices)
    features = fitted.predictor.features(fitted.predictor.read(study.activations()))
    n_tokens = np.repeat(study.activations().full_tokens[:, None], 3, axis=1)
    want = fitted.costs.expected(features, n_tokens)
    np.testing.assert_array_equal(study.expected_costs(1), want)
    doubled = study.like()
    prices = [{name: 2 * usd for name, usd in side.items()}
              for side in (study.prices.input, study.prices.output)]  # fmt: skip
    doubled.prices = Prices(*prices)
    np.testing.assert_allclose(doubled.expected_costs(1), 2 * want)
    assert [(c.layer, c.pooling, c.dimension) for c in fitted.choices] == [
        (c.layer, c.pooling, c.dimension) for c in study.choices([p.encoder], 1)
    ]


def test_without_prices_there_are_no_costs_unless_the_labels_say(tmp_path):
    study = tiny_studies.study(tmp_path, prices="")
    assert study.prices is None
    assert not study.has_costs
    table = label_table().assign(cost_usd=0.25)
    study = tiny_studies.study(tmp_path / "b", table, prices="", n_queries=40)
    assert study.has_costs
    assert (study.costs == 0.25).all()


def test_the_zoos_prices_are_of_the_zoos_targets_alone(tmp_path):
    study = tiny_studies.study(tmp_path, prices="zoo")
    with pytest.raises(InputError, match=r"prices=FILE.csv.*or none \(prices=\)"):
        _ = study.prices


# -- questions on the side -----------------------------------------------------------------------


def test_a_study_like_another_differs_in_what_is_said_alone(study):
    study.costs  # noqa: B018 - what is cached must not stay where it no longer holds
    fewer = study.like(n_queries=60, n_seeds=1)
    assert fewer.labels.n_queries == 60
    assert (len(fewer.costs), len(fewer.activations())) == (60, 60)
    assert (fewer.store, fewer.run_dir) == (study.store, study.run_dir)
    assert study.labels.n_queries > 60
    by_j = study.like(criterion="J")
    assert by_j.labels is study.labels
    assert by_j.activations() is study.activations()
    assert study.parameters.criterion == "auc"


def test_a_study_of_other_splits_follows_them(study):
    first = study.splits[0]
    swapped = study.like([Split(first.train, first.test, first.validation)], n_seeds=1)
    np.testing.assert_array_equal(swapped.test_rows, np.sort(first.validation))
    assert swapped.labels is study.labels
    assert len(swapped.best_single) == 1
    assert swapped.key() != study.key()


def test_a_path_of_the_working_directory_alone_is_refused(tmp_path, monkeypatch):
    study = tiny_studies.study(tmp_path / "study")
    (tmp_path / "mine.csv").write_text("")
    monkeypatch.chdir(tmp_path)
    other = study.like(labels="mine.csv")
    with pytest.raises(InputError, match=r"mine\.csv is not in the project's directory.*give /"):
        _ = other.labels
