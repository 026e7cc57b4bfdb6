import pytest
import torch

from prefill_router.zoo.muon import STEPS, A, B, C, Muon, orthogonalise


def random_matrices(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 12, 5), (2, 5, 12), (1, 64, 16)])
def test_orthogonalise_keeps_singular_vectors_and_maps_the_values_by_the_quintic(shape):
    matrices = random_matrices(*shape).double()
    u, s, vt = torch.linalg.svd(matrices, full_matrices=False)
    expected = s / s.norm(dim=-1, keepdim=True)
    for _ in range(STEPS):
        expected = A * expected + B * expected**3 + C * expected**5
    torch.testing.assert_close(
        orthogonalise(matrices), u @ torch.diag_embed(expected) @ vt, rtol=1e-5, atol=1e-5
    )


def test_singular_values_come_near_one():
    values = torch.linalg.svdvals(orthogonalise(random_matrices(5, 40, 16)))
    assert values.min() > 0.65 and values.max() < 1.25


def test_a_matrix_of_zeros_stays_zero():
    assert (orthogonalise(torch.zeros(1, 4, 3)) == 0).all()


def test_matrices_of_one_stack_do_not_mix():
    matrices = random_matrices(4, 6, 3)
    alone = torch.cat([orthogonalise(matrix[None]) for matrix in matrices])
    torch.testing.assert_close(orthogonalise(matrices), alone)


def test_a_step_follows_the_formula():
    w0, gradients = random_matrices(6, 4), random_matrices(3, 6, 4) + 0.1
    lr, momentum, decay = 0.02, 0.9, 0.1
    w = torch.nn.Parameter(w0.clone())
    optimizer = Muon([w], lr, momentum, decay)
    expected, average = w0.clone(), torch.zeros(6, 4)
    for gradient in gradients:
        w.grad = gradient.clone()
        optimizer.step()
        average = momentum * average + (1 - momentum) * gradient
        update = momentum * average + (1 - momentum) * gradient
        update = orthogonalise(update[None])[0] * 0.2 * 6**0.5
        expected = expected * (1 - lr * decay) - lr * update
        torch.testing.assert_close(w.data, expected)
        torch.testing.assert_close(w.grad, gradient)


def test_parameters_without_a_gradient_are_left_alone():
    moved, still = (torch.nn.Parameter(random_matrices(5, 5)) for _ in range(2))
    before = still.detach().clone()
    optimizer = Muon([moved, still], lr=0.1)
    moved.grad = torch.ones(5, 5)
    optimizer.step()
    assert torch.equal(still, before) and still not in optimizer.state
    assert not torch.equal(moved, before)


def test_it_finds_a_minimum():
    goal = random_matrices(8, 6)
    w = torch.nn.Parameter(torch.zeros(8, 6))
    optimizer = Muon([w], lr=0.1, weight_decay=0.0)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 300)
        loss = ((w - goal) ** 2).mean()
        w.grad = torch.autograd.grad(loss, w)[0]
        optimizer.step()
    assert loss < 1e-3 * (goal**2).mean()
