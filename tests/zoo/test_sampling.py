from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from prefill_router import zoo
from prefill_router.answers.generation import Decoding
from prefill_router.errors import InputError
from prefill_router.extraction import sources
from prefill_router.extraction.sources import resolve, weights_hash
from prefill_router.labels import load_labels
from prefill_router.storage import Store, file_hash, read_json
from prefill_router.zoo import labelling, sampling
from prefill_router.zoo.recipes import RECIPES
from prefill_router.zoo.sampling import (
    N_DRAWS,
    draw_answers,
    load_samples,
    write_default_samples,
)
from prefill_router.zoo.training import build_model, export

TINY = {n: replace(RECIPES[n], width=16, blocks=1, heads=2, steps=0) for n in ("gpt2-a", "llama-b")}


def committed():
    return load_labels(zoo.LABELS)


def test_committed_samples_are_those_of_the_zoos_weights():
    manifest = read_json(sampling.MANIFEST)
    assert manifest["samples"] == file_hash(zoo.SAMPLES)
    assert manifest["labels"] == file_hash(zoo.LABELS)
    for name, digest in manifest["weights"].items():
        assert weights_hash(resolve(name)) == digest


def test_committed_samples_cover_validation_and_test_and_lie_near_greedy_answers():
    labels = committed()
    rows = np.flatnonzero(labels.split != "train")
    right = load_samples(labels, rows)
    assert right.shape == (N_DRAWS, len(rows), labels.n_targets)
    chance, greedy = right.mean(axis=0), labels.correct[rows]
    for k in range(labels.n_targets):
        assert chance[greedy[:, k] == 1, k].mean() > chance[greedy[:, k] == 0, k].mean() + 0.4
    for a in range(3):  # draws are independent, not copies of one another
        agree = (right[a] == right[a + 1]).mean()
        within = chance * (1 - chance) * N_DRAWS / (N_DRAWS - 1)
        assert agree == pytest.approx(1 - 2 * within.mean(), abs=0.01)


def test_samples_follow_the_rows_and_targets_asked_for():
    labels = committed()
    rows = np.flatnonzero(labels.split == "test")[[5, 2, 9]]
    two = labels.select_targets([labels.targets[3], labels.targets[0]])
    whole = load_samples(labels, rows)
    np.testing.assert_array_equal(load_samples(two, rows[::-1]), whole[:, ::-1][:, :, [3, 0]])
    with pytest.raises(InputError, match="no answers of"):
        load_samples(labels, np.flatnonzero(labels.split == "train")[:1])


def test_another_file_than_the_manifests_is_refused(tmp_path, monkeypatch):
    pd.read_parquet(zoo.SAMPLES).iloc[:-1].to_parquet(tmp_path / "samples.parquet")
    monkeypatch.setattr(zoo, "SAMPLES", tmp_path / "samples.parquet")
    with pytest.raises(InputError, match="restore both"):
        load_samples(committed(), np.array([0]))


def test_samples_are_written_with_their_manifest(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "ZOO", tmp_path / "models")
    for name, recipe in TINY.items():
        export(build_model(recipe), recipe, tmp_path / "models" / name, 0)
    labels = committed().select_targets([f"zoo/{name}" for name in TINY])
    few = labels.take(np.r_[np.flatnonzero(labels.split == "train")[:2], np.arange(20)])
    monkeypatch.setattr(labelling, "TARGETS", tuple(TINY))
    monkeypatch.setattr(sampling, "load_labels", lambda path: few)
    monkeypatch.setattr(sampling, "SAMPLING", Decoding(max_new_tokens=4, temperature=1.0))
    monkeypatch.setattr(zoo, "SAMPLES", tmp_path / "samples.parquet")
    monkeypatch.setattr(sampling, "MANIFEST", tmp_path / "manifest.json")
    write_default_samples(Store(tmp_path / "store"))
    rows = np.flatnonzero(few.split != "train")
    right = load_samples(few, rows)
    assert right.shape == (N_DRAWS, len(rows), 2)
    np.testing.assert_array_equal(right[3:5], draw_answers(few, rows, range(3, 5)))
    assert read_json(tmp_path / "manifest.json")["decoding"]["temperature"] == 1.0


def test_each_draw_is_another():
    labels = committed()
    rows = np.flatnonzero(labels.split == "test")[:100]
    one = labels.select_targets(labels.targets[:2])
    right = draw_answers(one, rows, range(2))
    assert (right[0] != right[1]).any()
