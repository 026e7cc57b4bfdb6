import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prefill_router.errors import InputError
from prefill_router.trunk import SharedTrunkEnsemble, training
from prefill_router.trunk.training import SharedTrunkNet, draw_kept, grouped_split

SETTINGS = SharedTrunkEnsemble(learning_rate=0.02, batch_size=16, max_epochs=12, patience=2)


@pytest.fixture
def data(rng):
    X = rng.normal(size=(70, 6))
    Y = (X @ rng.normal(size=(6, 3)) + rng.normal(size=(70, 3)) > 0).astype(float)
    Y[rng.random((70, 3)) < 0.2] = np.nan
    return torch.from_numpy(X), torch.from_numpy(Y)


def train(data, seeds, dropout=(0.3, 0.2)):
    """Networks of float64 trained together, each with a split of its own."""
    generators = [np.random.default_rng([7, s]) for s in seeds]
    networks = [SharedTrunkNet(6, 3, (8, 5), dropout, rng).double() for rng in generators]
    cuts = [grouped_split(np.arange(70) // 3, 0.2, rng) for rng in generators]
    splits = [cut[:2] for cut in cuts]
    about = splits, cuts[0][2], generators, SETTINGS
    return networks, *training.train_together(networks, *data, *about)


def train_by_hand(data, seed, dropout=(0.3, 0.2)):
    """The same, one network, with torch's own module, loss and optimiser."""
    X, Y = data
    rng = np.random.default_rng([7, seed])
    network = SharedTrunkNet(6, 3, (8, 5), dropout, rng).double()
    rows, held, n_rows = grouped_split(np.arange(70) // 3, 0.2, rng)
    adam = torch.optim.Adam(network.parameters(), lr=0.02, weight_decay=1e-4)
    loss_of = torch.nn.BCEWithLogitsLoss()
    losses, best, waited, weights = [], float("inf"), 0, None
    for _ in range(SETTINGS.max_epochs):
        order = rng.permutation(rows)[:n_rows]
        for start in range(0, n_rows, 16):
            batch = order[start : start + 16]
            h = X[batch]
            for linear, rate in zip(network.linears, dropout, strict=False):
                h = torch.relu(linear(h))
                h = h * torch.from_numpy(draw_kept(h.shape, rate, rng)) / (1 - rate)
            known = ~torch.isnan(Y[batch])
            adam.zero_grad()
            loss_of(network.linears[-1](h)[known], Y[batch][known]).backward()
            adam.step()
        known = ~torch.isnan(Y[held])
        losses.append(loss_of(network.eval()(X[held])[known], Y[held][known]).item())
        if losses[-1] < best - SETTINGS.min_delta:
            best, waited = losses[-1], 0
            weights = {name: value.clone() for name, value in network.state_dict().items()}
        else:
            waited += 1
        if waited == SETTINGS.patience:
            break
    network.load_state_dict(weights)
    return network, losses


def assert_same(network, other):
    torch.testing.assert_close(network.state_dict(), other.state_dict(), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("dropout", [(0.0, 0.0), (0.3, 0.2)], ids=["plain", "dropout"])
def test_together_equals_one_by_one_by_hand(data, dropout):
    found = train(data, range(5), dropout)
    assert len({len(history["validation"]) for history in found[1]}) > 1, "must stop apart"
    for seed, (network, history, best) in enumerate(zip(*found, strict=True)):
        expected, losses = train_by_hand(data, seed, dropout)
        np.testing.assert_allclose(history["validation"], losses, rtol=1e-9)
        assert best <= min(losses) + SETTINGS.min_delta
        assert_same(network, expected)


def test_a_network_does_not_depend_on_its_company(data):
    together, _, _ = train(data, [0, 1, 2])
    alone, _, _ = train(data, [1])
    assert_same(together[1], alone[0])


def test_what_trains_lies_on_the_device_of_the_data(data, monkeypatch):
    """On torch's device without numbers, which refuses what lies elsewhere."""
    falling = itertools.count(0, -1)

    def losses(tensor):
        return [1.0] * (len(tensor) - 1) + [next(falling)]

    monkeypatch.setattr(torch.Tensor, "tolist", losses)
    monkeypatch.setattr(training, "_unstack", lambda *_: None)  # there is nothing to copy
    with pytest.raises(RuntimeError, match="device"):
        train((data[0].to("meta"), data[1]), range(3))
    _, histories, _ = train([part.to("meta") for part in data], range(3))
    epochs = [len(history["validation"]) for history in histories]
    assert epochs == [3, 3, SETTINGS.max_epochs], "must stop apart"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_trains_the_same_networks(data):
    here, _, _ = train(data, range(3))
    there, _, _ = train([part.to("cuda") for part in data], range(3))
    for ours, theirs in zip(here, there, strict=True):
        assert_same(ours, theirs)


def test_masked_loss_and_its_gradient_leave_missing_labels_out(rng):
    logits = torch.from_numpy(rng.normal(size=(2, 7, 3))).requires_grad_()
    Y = torch.from_numpy(rng.integers(0, 2, size=(2, 7, 3)).astype(float))
    Y[0, ::2, 1] = float("nan")
    Y[1] = float("nan")
    losses = training.masked_loss(logits, Y)
    known = ~torch.isnan(Y[0])
    expected = torch.nn.BCEWithLogitsLoss()(logits[0][known], Y[0][known])
    torch.testing.assert_close(losses[0], expected)
    assert losses[1] == 0
    losses.sum().backward()
    assert not logits.grad[torch.isnan(Y)].any()
    assert logits.grad[0][known].all()


def test_dropout_keeps_its_share(rng):
    kept = draw_kept((1000, 1000), 0.3, rng)
    np.testing.assert_allclose(kept.mean(), 0.7, atol=4 * np.sqrt(0.3 * 0.7) / 1000)


@given(
    st.lists(st.integers(0, 8), min_size=20, max_size=60).map(np.array),
    st.floats(0.05, 0.4),
    st.integers(0, 1000),
)
def test_grouped_split_keeps_groups_whole(groups, share, seed):
    try:
        train, validation, assured = grouped_split(groups, share, np.random.default_rng(seed))
    except InputError:
        largest = np.unique(groups, return_counts=True)[1].max()
        assert len(groups) - np.ceil(share * len(groups)) < largest
        return
    np.testing.assert_array_equal(np.union1d(train, validation), np.arange(len(groups)))
    assert not set(groups[train]) & set(groups[validation])
    assert len(validation) >= share * len(groups)
    assert len(train) >= assured >= 1
    rows = np.arange(len(groups))  # without repeats
    train, validation, assured = grouped_split(rows, share, np.random.default_rng(seed))
    assert len(validation) == np.ceil(share * len(rows)) and len(train) == assured
