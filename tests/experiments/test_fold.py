import numpy as np
import pytest
import tiny_studies
import torch
from tiny_studies import label_table

from prefill_router.experiments.fold import FoldFit
from prefill_router.experiments.study import Study
from prefill_router.trunk import SharedTrunkEnsemble

# -- features ------------------------------------------------------------------------------------


def test_lengths_are_prompt_tokens_and_characters(study):
    question = study.labels.question[5]
    assert FoldFit(study, 0).lengths()[5].tolist() == [len(question.split()) + 2, len(question)]


@pytest.mark.parametrize("embedding", ["lsa", "other"])
def test_embeddings_are_unit_vectors_that_know_no_test_query(tmp_path, embedding):
    if embedding == "other":
        embedding = str(tmp_path / "other")
    study = tiny_studies.study(tmp_path, embedding=embedding)
    vectors = FoldFit(study, 0).embedding()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)

    table, ids = label_table(), study.labels.query_id[study.test_rows]
    table.loc[table["query_id"].isin(ids[1:]), "question"] += " w3 w3 w3"
    changed = tiny_studies.study(tmp_path / "b", table, embedding=embedding)
    split, row = study.splits[0], study.test_rows[0]
    assert np.array_equal(changed.splits[0].train, split.train)
    again = FoldFit(changed, 0).embedding()
    np.testing.assert_allclose(again[[*split.train, row]], vectors[[*split.train, row]], atol=1e-5)


# -- heads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", [False, True])
def test_networks_are_chosen_on_whole_groups(study, monkeypatch, shuffle):
    given = []
    fit = SharedTrunkEnsemble.fit

    def record(self, X, Y, groups=None):
        given.append((Y, groups, self.device))
        return fit(self.set_params(device="cpu"), X, Y, groups)

    monkeypatch.setattr(SharedTrunkEnsemble, "fit", record)
    monkeypatch.setattr(Study, "training_device", torch.device("meta"))
    FoldFit(study, 0, [study.parameters.encoder]).recipe(shuffle=shuffle)
    [(Y, groups, device)] = given
    train = study.splits[0].train
    assert np.array_equal(groups, study.labels.group[train])
    assert np.array_equal(Y, study.labels.correct[train]) != shuffle
    assert sorted(Y.tolist()) == sorted(study.labels.correct[train].tolist())
    assert device == torch.device("meta")
