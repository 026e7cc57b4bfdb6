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
from prefill_router.experiments.comparison import held_out
from prefill_router.experiments.study import ARTIFACTS, Study
from prefill_router.extraction.models import load_encoder
from prefill_router.features.selection import choose, cross_validated_auc
from prefill_router.labels.costs import Prices
from prefill_router.labels.splits import Split
from prefill_router.probes import probe_layers
from prefill_router.recipe import fit_recipe
from prefill_router.recipe.cost_prediction import fit_costs
from prefill_router.storage import read_json

# -- the run directory ---------------------------------------------------------------------------


def test_a_run_directory_of_other_parameters_is_refused(tmp_path):
    first = tiny_studies.study(tmp_path, seed=3)
    first.record("01_mine", results())
    assert read_json(first.run_dir / "parameters.json")["seed"] == 3
    with pytest.raises(InputError, match=r"run holds a run with other parameters \(keep, seed\)"):
        tiny_studies.study(tmp_path, seed=4, keep=1)
    assert read_json(first.run_dir / "parameters.json")["seed"] == 3
    tiny_studies.study(tmp_path, seed=3, device="auto")  # the same study on another device


def test_a_run_without_results_blocks_no_other(tmp_path):
    tiny_studies.study(tmp_path, seed=3).claim()
    assert tiny_studies.study(tmp_path, seed=4).parameters.seed == 4


def test_heads_train_where_this_machine_can(study, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cuda = torch.device("cuda")
    assert study.training_device == torch.device("cpu")
    assert study.like(device="auto").training_device == cuda
    # a cluster's workers read; what this machine has is another matter
    assert study.like(device="cuda:7", engine="ray").training_device == cuda


def test_relative_paths_start_at_the_projects_root(tmp_path, monkeypatch):
    values, elsewhere = world(tmp_path / "data"), tmp_path / "notebooks"
    monkeypatch.setattr("prefill_router.experiments.study.project_root", lambda: tmp_path)
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    relative = {name: f"data/{Path(values[name]).name}" for name in ("labels", "prices", "encoder")}
    study = Study(validate({**values, **relative, "run_dir": "runs/mine"}))
    assert study.run_dir == tmp_path / "runs" / "mine"
    assert study.source("data/main").location == (tmp_path / "data/main").resolve()
    assert study._path("data/main:x.gguf") == str(tmp_path / "data/main:x.gguf")
    assert (study.labels.n_queries, study.prices.input["late"]) == (240, 0.5)
    assert not list(elsewhere.iterdir())
    (elsewhere / "mine.csv").write_text("")  # that only the working directory has
    with pytest.raises(InputError, match=r"mine\.csv is not in the project's directory.*give /"):
        _ = study.like(labels="mine.csv").labels


def test_one_store_may_serve_all_studies(tmp_path, monkeypatch):
    monkeypatch.setenv(ARTIFACTS, str(tmp_path / "shared"))
    one = tiny_studies.study(tmp_path, n_queries=20)
    two = tiny_studies.study(tmp_path, n_queries=20, keep=1, run_dir=str(tmp_path / "two"))
    assert one.activations().key == two.activations().key
    assert list((tmp_path / "shared").iterdir()) and not (one.run_dir / "artifacts").exists()
    monkeypatch.setenv(ARTIFACTS, "")
    alone = tiny_studies.study(tmp_path, n_queries=20)
    assert alone.activations().key == one.activations().key
    assert list((alone.run_dir / "artifacts").iterdir())


def test_the_first_cells_can_run_again_in_one_kernel(tmp_path):
    namespace = {**Parameters().model_dump(), **world(tmp_path)}
    namespace["study"] = Study.from_namespace(namespace)
    namespace |= {"Y": np.ones(3), "rows": [1]}  # left by later cells
    assert Study.from_namespace(namespace).parameters == namespace["study"].parameters
    del namespace["study"]
    with pytest.raises(InputError, match="rows: no such parameter"):
        Study.from_namespace(namespace)


# -- labels and folds ----------------------------------------------------------------------------


def test_what_is_the_zoos_is_asked_of_the_zoo_alone(tmp_path):
    study = tiny_studies.study(tmp_path, prices="zoo", fresh_labels=True)
    with pytest.raises(InputError, match="fresh_labels: only the zoo's own"):
        _ = study.labels
    with pytest.raises(InputError, match=r"prices=FILE.csv.*or none \(prices=\)"):
        _ = study.prices


@pytest.mark.parametrize("folds", [1, 3])
def test_joined_folds_say_of_each_row_what_its_fold_says(study, folds, rng):
    study = study.like(outer_folds=folds)
    by_fold = rng.normal(size=(folds, study.labels.n_queries, 2))
    tested = sorted((row, fold) for fold, split in enumerate(study.splits) for row in split.test)
    assert study.test_rows.tolist() == [row for row, _ in tested]
    joined = [by_fold[fold, row] for row, fold in tested]
    np.testing.assert_array_equal(held_out(study).join(by_fold), joined)


def test_the_best_single_target_is_chosen_on_training_rows_alone(tmp_path):
    """Each part of the table has its own best target."""
    table = label_table(120)
    table["group"] = table["query_id"]
    table["split"] = np.tile(np.repeat(["train", "validation", "test"], [60, 30, 30]), 3)
    best = {"train": "late", "validation": "early", "test": "noisy"}
    table["is_correct"] = (table["split"].map(best) == table["model"]).astype(int)
    study = tiny_studies.study(tmp_path, table)
    assert [study.labels.targets[k] for k in study.best_single] == ["late"]


# -- states, probes and choices ------------------------------------------------------------------


def test_states_are_those_of_the_encoder_and_settings_asked_for(study):
    asked = {"poolings": ["mean"], "max_tokens": 4, "truncation": "left"}
    study = study.like(n_queries=12, layers=[1, 3], **asked)
    found, encoder = study.activations(), load_encoder(study.source(study.parameters.encoder))
    want = tiny_models.read(*encoder, study.labels.question.tolist(), layers=[1, 3], **asked)
    assert found.layers == [1, 3] and found.n_tokens.max() == 4
    np.testing.assert_allclose(found.states(3, "mean"), want.states(3, "mean"), atol=1e-6)
    # layers are numbers of the main encoder; of any other all are read
    other = study.activations(study.parameters.encoders[0])
    assert other.layers == [0, 1, 2, 3] and found.key != other.key


def test_encoders_are_each_named_once(study):
    p = study.parameters
    named = study.like(encoders=[*p.encoders, p.untrained, p.encoder])
    assert named.encoders == [*p.encoders, p.untrained, p.encoder]
    assert named.trained_encoders == study.trained_encoders == [*p.encoders, p.encoder]
    plain = study.like(untrained="")
    assert plain.encoders == plain.trained_encoders == [*p.encoders, p.encoder]


def test_layers_are_measured_once_on_training_rows_of_each_fold(study, monkeypatch):
    p, labels, states = study.parameters, study.labels, study.activations()
    tables = study.probes(p.encoder), study.layer_auc(p.encoder)
    for fold, split in enumerate(study.splits):
        wanted = probe_layers(states, labels.correct, split.train), cross_validated_auc(
            states, labels.correct, split.train, labels.group, states.layers, states.poolings,
            p.dimensions, p.inner_folds, p.seed,
        )  # fmt: skip
        for table, want in zip(tables, wanted, strict=True):
            have = table[table["fold"] == fold].reset_index(drop=True)
            assert set(have["encoder"]) == {p.encoder}
            pd.testing.assert_frame_equal(have.drop(columns=["fold", "encoder"]), want)
    again = "prefill_router.experiments.study.probe_layers"
    monkeypatch.setattr(again, lambda *_: pytest.fail("again"))  # for other dimensions
    found = study.like(dimensions=[3], inner_folds=2).probes(p.encoder)
    pd.testing.assert_frame_equal(found, tables[0])


def test_choices_follow_the_criterion_in_each_fold(study):
    encoders, by_j = study.trained_encoders, study.like(criterion="J")
    for fold in range(2):
        aucs, probes = (
            pd.concat([table(e)[table(e)["fold"] == fold] for e in encoders])
            for table in (study.layer_auc, study.probes)
        )
        assert study.choices(encoders, fold) == choose(aucs)
        assert by_j.choices(encoders, fold) == choose(aucs, probes) != choose(aucs)


def test_what_is_fitted_depends_on_labels_splits_and_seed(study):
    others = {"seed": 1}, {"outer_folds": 3}, {"n_queries": 200}, {}
    keys = [study.key("a"), study.key("b"), study.key("a", encoders=study.encoders)]
    keys += [study.like(**values).key("a") for values in others]
    assert keys[-1] == keys[0]
    assert all(keys[1:].count(key) == 1 for key in keys)


# -- costs and results ---------------------------------------------------------------------------


def test_expected_costs_are_the_recipes(study):
    split, states = study.splits[1], study.activations()
    features = fit_recipe(study.recipe(), study.labels, states, split).features
    n_tokens = states.full_tokens
    costs = fit_costs(study.labels, study.prices, features, split.train, n_tokens)
    want = costs.expected(features, np.repeat(n_tokens[:, None], 3, axis=1))
    np.testing.assert_array_equal(study.expected_costs(1), want)
    doubled, sides = study.like(), (study.prices.input, study.prices.output)
    doubled.prices = Prices(*({name: 2 * usd for name, usd in side.items()} for side in sides))
    np.testing.assert_allclose(doubled.expected_costs(1), 2 * want)


def test_without_prices_there_are_no_costs_unless_the_labels_say(study, tmp_path):
    free, table = study.like(prices=""), label_table().assign(cost_usd=0.25)
    assert free.prices is None and not free.has_costs
    paid = tiny_studies.study(tmp_path, table, prices="", n_queries=40)
    assert paid.has_costs and (paid.costs == 0.25).all()


# -- questions on the side -----------------------------------------------------------------------


def test_a_study_like_another_differs_in_what_is_said_alone(study):
    study.costs  # noqa: B018 - what is cached must not stay where it no longer holds
    fewer = study.like(n_queries=60, n_seeds=1)
    assert len(fewer.costs) == len(fewer.activations()) == fewer.labels.n_queries == 60
    assert (fewer.store, fewer.run_dir) == (study.store, study.run_dir)
    by_j = study.like(criterion="J")
    assert by_j.labels is study.labels and by_j.activations() is study.activations()
    assert study.parameters.criterion == "auc"
    first = study.splits[0]
    swapped = study.like([Split(first.train, first.test, first.validation)])
    np.testing.assert_array_equal(swapped.test_rows, np.sort(first.validation))
    assert len(swapped.best_single) == 1 and swapped.key() != study.key()
    assert swapped.like(criterion="J").splits == swapped.splits  # or a left-out part would return
    assert len(swapped.like(outer_folds=2).splits) == 2
