"""Expectation over transformations: what one draw hides the mean shows."""

import pytest
import torch
from torch import Tensor, nn

from holdfast.attacks.base import AttackResult
from holdfast.attacks.pgd import PGD
from holdfast.attacks.transformed import ExpectedGradient, MeanOutputs
from holdfast.errors import InputError
from holdfast.threats import LpBall

FEATURES = 20


class Noisy(nn.Module):
    """A linear net whose weights are drowned in fresh noise at every pass: the gradient of one draw says little."""

    def __init__(self, noise: float) -> None:
        super().__init__()
        self.noise = noise
        draw = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(FEATURES, 2, generator=draw))

    def forward(self, x: Tensor) -> Tensor:
        return (x - 0.5) @ (self.weight + self.noise * torch.randn(FEATURES, 2))


def examples(model: Noisy) -> tuple[Tensor, Tensor]:
    x = torch.rand(60, FEATURES, generator=torch.Generator().manual_seed(1))
    return x, ((x - 0.5) @ model.weight.detach()).argmax(1)


THREAT = LpBall("2", 0.35)
SINGLE = PGD(steps=10, start="example")


def truly_broken(model: Noisy, result: AttackResult, y: Tensor) -> int:
    """Successes as the noiseless net would judge the points."""
    return int((((result.x - 0.5) @ model.weight.detach()).argmax(1) != y).sum())


def test_the_mean_gradient_finds_what_single_draws_do_not() -> None:
    model = Noisy(noise=6.0)
    x, y = examples(model)
    torch.manual_seed(0)
    single = truly_broken(model, SINGLE.run(model, x, y, THREAT), y)
    mean = truly_broken(model, ExpectedGradient(attack=SINGLE, samples=200).run(model, x, y, THREAT), y)
    sure = truly_broken(model, SINGLE.run(Noisy(noise=0.0), x, y, THREAT), y)
    assert single < 0.7 * sure
    assert mean > 0.8 * sure


def test_success_is_judged_by_the_mean_answer() -> None:
    model = Noisy(noise=2.5)
    x, y = examples(model)
    nothing = LpBall("2", 0.0)
    torch.manual_seed(0)
    lucky = SINGLE.run(model, x, y, nothing)
    judged = ExpectedGradient(attack=SINGLE, samples=400).run(model, x, y, nothing)
    assert lucky.success.float().mean() > 0.3  # a draw was wrong, though no point has moved
    assert judged.success.float().mean() < 0.15


def test_a_mean_is_taken_once() -> None:
    """Not of means: the model is called so many times a pass."""
    model = Noisy(noise=1.0)
    x, y = examples(model)
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    attack = ExpectedGradient(attack=PGD(steps=3), samples=8)
    attack.run(model, x, y, THREAT)
    assert len(calls) <= (attack.attack.passes + 6) * 8


@pytest.mark.parametrize("seed", [0, 5])
def test_a_seed_repeats_and_torchs_own_random_state_is_left_alone(seed: int) -> None:
    model = Noisy(noise=1.0)
    x, y = examples(model)
    attack = ExpectedGradient(attack=PGD(steps=3), samples=3)
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first = attack.run(model, x, y, THREAT, seed=seed)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(12)
    again = attack.run(model, x, y, THREAT, seed=seed)
    assert torch.equal(first.x, again.x)
    assert torch.equal(first.loss, again.loss)
    assert not torch.equal(first.x, attack.run(model, x, y, THREAT, seed=seed + 1).x)


def test_a_model_that_is_not_random_is_attacked_as_ever() -> None:
    model = Noisy(noise=0.0)
    x, y = examples(model)
    plain = SINGLE.run(model, x, y, THREAT)
    mean = ExpectedGradient(attack=SINGLE, samples=4).run(model, x, y, THREAT)  # sums of four halve exactly
    torch.testing.assert_close(mean.x, plain.x)
    assert torch.equal(mean.success, plain.success)


def test_the_mean_is_over_draws_of_its_own_for_every_pass() -> None:
    model, x = Noisy(noise=1.0), torch.rand(1, FEATURES)
    calls = []
    model.register_forward_hook(lambda module, args, output: calls.append(output.detach()))
    torch.manual_seed(0)
    mean = MeanOutputs(model, 5)(x)
    assert len(calls) == 5
    assert len({float(output[0, 0]) for output in calls}) == 5
    torch.testing.assert_close(mean, torch.stack(calls).mean(0))


def test_the_models_mode_is_put_back_and_its_dropout_is_on_where_asked() -> None:
    seen = set[bool]()

    class Recorder(nn.Dropout):
        def forward(self, input: Tensor) -> Tensor:
            seen.add(self.training)
            return super().forward(input)

    model = nn.Sequential(Recorder(0.5), nn.Linear(FEATURES, 3)).eval()
    x, y = torch.rand(8, FEATURES), torch.randint(3, (8,))
    attack = ExpectedGradient(attack=PGD(steps=2), samples=3)
    first = attack.run(model, x, y, THREAT, mode="train", seed=2)
    assert torch.equal(first.x, attack.run(model, x, y, THREAT, mode="train", seed=2).x)
    assert seen == {True}
    assert not any(module.training for module in model.modules())


def test_no_samples_are_refused_and_the_name_tells_them() -> None:
    with pytest.raises(InputError, match="samples must be a whole number >= 1, got 0"):
        ExpectedGradient(attack=SINGLE, samples=0)
    attack = ExpectedGradient(attack=SINGLE, samples=20)
    assert attack.name == "pgd-10-mean-20"
    assert attack.passes == 200
