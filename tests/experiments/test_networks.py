import numpy as np
import pytest
import torch
from tiny_studies import auc_within_folds

from prefill_router.experiments.networks import ensemble_sizes, network_predictions
from prefill_router.experiments.routers import PRIMARY, ensembles, predictions

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("own_artifacts")


def test_averages_of_the_first_networks_kept(study):
    found = ensemble_sizes(study)
    assert [row.router for row in found] == ["1", "2"]
    whole = study.over_folds(predictions(study, PRIMARY, calibrated=False))
    want = np.mean([auc_within_folds(study, whole, k) for k in range(3)])
    assert found[1].estimate == pytest.approx(want, abs=1e-4)
    assert found[0].estimate != found[1].estimate
    assert [len(ensemble.networks_) for ensemble in ensembles(study)] == [2, 2]  # left whole


def test_the_average_of_each_networks_predictions_is_the_ensembles(study):
    by_network = network_predictions(study)
    assert len(by_network) == study.parameters.keep
    assert not np.allclose(by_network[0], by_network[1])
    whole = study.over_folds(predictions(study, PRIMARY, calibrated=False))
    np.testing.assert_allclose(np.mean(by_network, axis=0), whole, atol=1e-5)
