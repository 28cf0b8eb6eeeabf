"""The Lightning module, what it adds to the gradient, centring, and layerwise pretraining."""

from __future__ import annotations

import itertools
import math
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import all_states, joint_probabilities, normal, random_machine
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from ebm_pipeline.data.batches import BatchLoader, EpochOrder
from ebm_pipeline.data.transforms import Identity
from ebm_pipeline.evaluation.enumeration import exact_log_partition
from ebm_pipeline.evaluation.metrics import MonitoredImages
from ebm_pipeline.models.inference import MeanField
from ebm_pipeline.models.layers import Bernoulli, Gaussian
from ebm_pipeline.models.machine import EVEN, BoltzmannMachine, assemble
from ebm_pipeline.sampling import Gibbs
from ebm_pipeline.support.errors import UserError
from ebm_pipeline.training import (
    L1,
    L2,
    AdaptiveL1,
    FixedColumnNorm,
    NonNegative,
    Penalty,
    Pretraining,
    ProximalL1,
    SparsityTarget,
    centring,
    power_law,
)
from ebm_pipeline.training.arrangement import Arrangement
from ebm_pipeline.training.blocks import Blocks
from ebm_pipeline.training.constraints import step_size
from ebm_pipeline.training.module import AVERAGED_EVERY, BoltzmannTraining
from ebm_pipeline.training.objectives import ContrastiveDivergence, PersistentContrastiveDivergence
from ebm_pipeline.training.objectives.contrast import Learning, contrast_exact
from ebm_pipeline.training.pretraining import compose, grow, pretrain, recipe_for
from ebm_pipeline.training.recipe import Recipe

MEAN_FIELD = MeanField(tolerance=1e-4, max_steps=50)


def recipe(lr: float = 0.1, epochs: int = 3, **changes: Any) -> Recipe:
    own = Recipe(
        objective=PersistentContrastiveDivergence(Gibbs(1), MEAN_FIELD),
        mean_field=MEAN_FIELD,
        optimizer=partial(torch.optim.SGD, lr=lr),
        scheduler=partial(torch.optim.lr_scheduler.LinearLR, start_factor=1.0, end_factor=0.0, total_iters=epochs),
        chains=50,
        seed=1,
    )
    return replace(own, **changes)


def small_machine(*units: int, seed: int = 0) -> BoltzmannMachine:
    generator = torch.Generator().manual_seed(seed)
    weights = [0.05 * torch.randn(*pair, generator=generator) for pair in itertools.pairwise(units)]
    return assemble([Bernoulli.create(count) for count in units], weights)


def stripes(count: int = 400) -> Tensor:
    """Images of six pixels in which neighbours of a pair agree: easy to model, far from independent."""
    generator = torch.Generator().manual_seed(2)
    return (torch.rand(count, 3, generator=generator) < 0.5).float().repeat_interleave(2, dim=1)


def monitored(images: Tensor) -> MonitoredImages:
    return MonitoredImages(images[:50], images[50:100], 1 - images[:50])


def fit(
    module: BoltzmannTraining, images: Tensor, epochs: int = 3, folder: Path | None = None, accelerator: str = "cpu"
) -> pl.Trainer:
    callbacks: list[pl.Callback] = [ModelCheckpoint(dirpath=folder, save_last=True, save_top_k=0)] if folder else []
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator=accelerator, logger=False, callbacks=callbacks, enable_checkpointing=bool(folder),
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    order = EpochOrder(torch.arange(len(images)), 1, 0)
    batches = Blocks(BatchLoader(images, order, Identity(), 20))
    trainer.fit(module, train_dataloaders=batches, val_dataloaders=[torch.zeros(1)])
    return trainer


def log_likelihood(machine: BoltzmannMachine, images: Tensor) -> float:
    return float(-machine.free_energy((images, None)).mean()) - exact_log_partition(machine)


# ---------------------------------------------------------------------------------------------- the module


@pytest.mark.parametrize(
    ("objective", "centring"),
    [
        (PersistentContrastiveDivergence, 0.05),
        pytest.param(PersistentContrastiveDivergence, None, marks=pytest.mark.slow),
        pytest.param(ContrastiveDivergence, 0.05, marks=pytest.mark.slow),
        pytest.param(ContrastiveDivergence, None, marks=pytest.mark.slow),
    ],
)
def test_training_finds_the_structure(objective: type, centring: float | None) -> None:
    images = stripes()
    own = recipe(lr=0.5, epochs=80, objective=objective(Gibbs(5), MEAN_FIELD), centring=centring)
    module = BoltzmannTraining(small_machine(6, 4), own, images.mean(0), monitored(images))
    before = log_likelihood(module.machine, images)
    fit(module, images, 80)
    after = log_likelihood(module.machine, images)
    assert before < -4.0  # six independent coins: 6 log 2 = 4.16
    assert after > -2.6  # three coins are 3 log 2 = 2.08
    assert module.trainer.callback_metrics["validation/reconstruction_error"] < 0.3


def test_the_sparsity_target_moves_biases_by_its_gradient(generator: torch.Generator) -> None:
    """Of the cross entropy by the total input, for units with one input for all images; for others only the mean counts."""
    bias = normal(generator, 4).requires_grad_()
    activity = torch.sigmoid(bias)
    cross_entropy = -(0.2 * activity.log() + 0.8 * (1 - activity).log()).sum()
    (expected,) = torch.autograd.grad(2.0 * cross_entropy, bias)
    spread = normal(generator, 30, 4)
    states = activity.detach() + 0.01 * (spread - spread.mean(0))
    gradient = {"layers/1/bias": torch.ones(4, dtype=torch.float64)}
    SparsityTarget(2.0, ["layers/1/bias"], 0.2).add({}, gradient, (torch.zeros(30, 6), states))
    torch.testing.assert_close(gradient["layers/1/bias"], 1 + expected)


def test_the_sparsity_target_is_met_and_fits_only_hidden_bernoulli_units() -> None:
    images = stripes()
    activities = []
    for penalties in ((), (SparsityTarget(4.0, ["layers/1/bias"], 0.1),)):
        module = BoltzmannTraining(
            small_machine(6, 4), recipe(lr=0.5, epochs=20, penalties=penalties), images.mean(0), monitored(images)
        )
        fit(module, images, 20)
        activities.append(float(module.machine.mean((images, None), 1)[1].mean()))
    assert activities[0] > 0.3
    assert activities[1] == pytest.approx(0.1, abs=0.05)
    for name in ("layers/0/bias", "weights/0"):
        wrong = recipe(penalties=(SparsityTarget(1.0, [name], 0.1),))
        with pytest.raises(UserError, match=f"bias of a Bernoulli hidden layer .layers/1/bias.; got {name}"):
            BoltzmannTraining(small_machine(6, 4), wrong, images.mean(0), monitored(images))
    with pytest.raises(UserError, match="target of the activity"):
        SparsityTarget(1.0, ["layers/1/bias"], 1.0)


def test_in_pretraining_the_sparsity_target_stays_with_the_hidden_layer() -> None:
    own = recipe(penalties=(SparsityTarget(1.0, ["layers/1/bias", "layers/2/bias"], 0.1),))
    named = [recipe_for(own, index).penalties[0].parameters for index in (0, 1)]
    assert named == [["layers/1/bias"], ["layers/1/bias"]]
    data = tuple(torch.tensor([float(index)]) for index in range(3))
    assert Arrangement.MIRRORED_VISIBLE.own(data) == data[:2]
    assert Arrangement.MIRRORED_HIDDEN.own(data) == (data[1], data[0])


def test_adaptive_l1_is_the_gradient_of_its_definition(generator: torch.Generator) -> None:
    weights = normal(generator, 5, 3).requires_grad_()
    (expected,) = torch.autograd.grad(0.7 / 2 * weights.abs().sum(0).square().sum(), weights)
    gradient = torch.zeros(5, 3, dtype=torch.float64)
    AdaptiveL1(0.7, ["weights/0"]).add_gradient(weights.detach(), gradient)
    torch.testing.assert_close(gradient, expected)


def test_fixed_parameters_do_not_move() -> None:
    images = stripes()
    layers = [Bernoulli.create(6), Gaussian.create(3)]
    machine = assemble(layers, [0.1 * torch.ones(6, 3)])
    module = BoltzmannTraining(machine, recipe(fixed=("layers/1/bias",)), images.mean(0), monitored(images))
    fit(module, images, 1)
    trained = module.machine.named_tensors()
    assert torch.equal(trained["layers/1/bias"], torch.zeros(3))
    assert torch.equal(trained["layers/1/variance"], torch.ones(3))
    assert not torch.equal(trained["weights/0"], machine.weights[0])


def test_the_average_is_the_mean_over_the_last_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    images, step = stripes(100), BoltzmannTraining.update
    seen: list[Tensor] = []

    def watched(module: BoltzmannTraining, batch: Tensor) -> None:
        step(module, batch)
        seen.append(module.machine.weights[0].double())

    monkeypatch.setattr(BoltzmannTraining, "update", watched)
    modules = [
        BoltzmannTraining(small_machine(6, 4), recipe(average_from=start), images.mean(0), monitored(stripes()))
        for start in (None, 13)
    ]
    for module in modules:
        assert torch.equal(module.result.weights[0], module.machine.weights[0])
        fit(module, images)
    plain, averaging = modules
    assert torch.equal(plain.result.weights[0], plain.machine.weights[0])
    assert torch.equal(averaging.machine.weights[0], plain.machine.weights[0])
    late = torch.stack(seen[len(seen) // 2 + 13 :: AVERAGED_EVERY])
    torch.testing.assert_close(averaging.result.weights[0].double(), late.mean(0), rtol=1e-5, atol=1e-7)
    assert not torch.equal(averaging.result.weights[0], averaging.machine.weights[0])


def test_constraints_hold_for_the_average_too() -> None:
    images = stripes(100)
    own = recipe(average_from=0, constraints=(ProximalL1(["weights/0"], 0.3), FixedColumnNorm(["weights/0"], 2.0)))
    module = BoltzmannTraining(small_machine(6, 4), own, images.mean(0), monitored(stripes()))
    fit(module, images)
    assert module.averaged is not None
    mean = dict(module.averaged.module.named_parameters())["weights/0"].detach()
    assert float(mean.norm(dim=0).max()) < 1.9999
    mean[module.machine.weights[0] == 0] = 0
    assert 0 < int((mean == 0).sum()) < mean.numel()
    torch.testing.assert_close(module.result.weights[0], 2 * mean / mean.norm(dim=0))


def test_the_step_is_gradient_plus_penalty(generator: torch.Generator) -> None:
    images = stripes(20)
    machine = small_machine(6, 4)

    def weights_after_one_step(*penalties: Penalty) -> Tensor:
        own = recipe(lr=1.0, penalties=penalties)
        module = BoltzmannTraining(machine, own, images.mean(0), monitored(stripes()))
        fit(module, images, 1)
        return module.machine.weights[0]

    plain = weights_after_one_step()
    weights = machine.weights[0]
    torch.testing.assert_close(plain - weights_after_one_step(L1(0.01, ["weights/0"])), 0.01 * weights.sign())
    torch.testing.assert_close(plain - weights_after_one_step(L2(0.1, ["weights/0"])), 0.1 * weights)


@pytest.mark.parametrize("kind", [L1, L2])
def test_penalties_are_the_gradient_of_their_definition(kind: type[Penalty], generator: torch.Generator) -> None:
    weights = normal(generator, 4, 3).requires_grad_()
    value = weights.abs().sum() if kind is L1 else 0.5 * weights.square().sum()
    (expected,) = torch.autograd.grad(0.3 * value, weights)
    found = torch.zeros(4, 3, dtype=torch.float64)
    kind(0.3, ["weights/0"]).add_gradient(weights.detach(), found)
    torch.testing.assert_close(found, expected)


def test_a_checkpoint_holds_everything_and_loads_weights_only(tmp_path: Path) -> None:
    images = stripes()
    module = BoltzmannTraining(small_machine(6, 4), recipe(centring=0.1), images.mean(0), monitored(images))
    fit(module, images, 2, tmp_path)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    other = BoltzmannTraining(
        small_machine(6, 4, seed=9), recipe(centring=0.1, seed=5), images.mean(0), monitored(images)
    )
    other.load_state_dict(saved["state_dict"])
    other.on_load_checkpoint(saved)
    assert module.chains is not None
    assert other.chains is not None
    torch.testing.assert_close(other.machine.named_tensors(), module.machine.named_tensors(), rtol=0, atol=0)
    torch.testing.assert_close(other.chains, module.chains, rtol=0, atol=0)
    assert torch.equal(other.offset_1, module.offset_1)  # type: ignore[arg-type]
    assert torch.equal(other.generator.get_state(), module.generator.get_state())
    assert saved["global_step"] == 40


def test_the_same_seed_gives_the_same_machine() -> None:
    images = stripes()

    def weights(seed: int) -> Tensor:
        module = BoltzmannTraining(small_machine(6, 4), recipe(seed=seed), images.mean(0), monitored(images))
        fit(module, images, 2)
        return module.machine.weights[0]

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.slow
def test_products_in_bfloat16_learn_as_well() -> None:
    images = stripes()
    own = recipe(
        lr=0.5, epochs=80, objective=PersistentContrastiveDivergence(Gibbs(5), MEAN_FIELD), products="bfloat16"
    )
    module = BoltzmannTraining(small_machine(6, 4), own, images.mean(0), monitored(images))
    fit(module, images, 80)
    assert module.machine.weights[0].dtype == torch.float32
    assert log_likelihood(module.machine, images) > -2.6


@pytest.mark.parametrize("data_sweeps", [None, 3])
@pytest.mark.parametrize("sizes", [(6, 5, 4), (6, 4, 3, 2)])
def test_deep_machines_learn_by_products_in_bfloat16(sizes: tuple[int, ...], data_sweeps: int | None) -> None:
    """They ended in a mismatch of types, since what no neighbour sends came in float32."""
    images = stripes()
    objective = PersistentContrastiveDivergence(Gibbs(1), MEAN_FIELD, data_sweeps)
    machine = small_machine(*sizes)
    steps = []
    for products in ("float32", "bfloat16"):
        module = BoltzmannTraining(
            machine, recipe(objective=objective, products=products), images.mean(0), monitored(images)
        )
        fit(module, images[:100], 1)
        assert {tensor.dtype for tensor in module.machine.named_tensors().values()} == {torch.float32}
        steps.append(step_of(machine, module.machine))
    usual, low = (torch.cat([tensor.flatten() for tensor in step.values()]) for step in steps)
    assert float((low - usual).norm()) < 0.3 * float(
        usual.norm()
    )  # from the same draws, of which few come out otherwise


def test_chains_of_a_trained_machine_start_at_images() -> None:
    """From independent pixels, far from what it has learned, its first updates would undo that."""
    images, machine = stripes(), small_machine(6, 4)
    for begin_at in (None, images):
        module = BoltzmannTraining(machine, recipe(), images.mean(0), monitored(images), begin_at=begin_at)
        visible, hidden = module.chains.samples
        assert (visible.shape, hidden.shape) == ((50, 6), (50, 4))
        pairs = (visible[:, ::2] == visible[:, 1::2]).all(1)  # as in every image, and in one of eight independent ones
        assert bool(pairs.all()) == (begin_at is not None)
        assert len(visible.unique(dim=0)) > 4


def test_a_diverging_training_stops_and_says_where() -> None:
    images = stripes()
    machine = assemble([Gaussian.create(6), Gaussian.create(4)], [2 * torch.ones(6, 4)])  # no normalizable distribution
    module = BoltzmannTraining(machine, recipe(lr=10.0), images.mean(0), monitored(images))
    with pytest.raises(UserError, match=r"diverged.*step \d+ \(epoch \d.*lower optimizer.lr"):
        fit(module, images, 200)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fixed": ("layers/9/bias",)}, "layers/9/bias"),
        ({"penalties": (L1(0.1, ["weights/3"]),)}, r"L1 names the parameter 'weights/3'; this model has weights/0"),
        ({"chains": 0}, "chains"),
        ({"products": "float8"}, "float8"),
        ({"centring": 2.0}, "centring"),
    ],
)
def test_a_wrong_recipe_is_refused(changes: dict[str, Any], message: str) -> None:
    images = stripes()
    with pytest.raises(UserError, match=message):
        BoltzmannTraining(small_machine(6, 4), recipe(**changes), images.mean(0), monitored(images))
    with pytest.raises(UserError, match="strength"):
        L1(-1.0, [])


def test_power_law_is_the_studys_schedule() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    schedule = power_law(optimizer, coefficient=1.0)
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.01, 0.01 / 2, 0.01 / 3, 0.01 / 4])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: the CPU is compared with it")
def test_a_gpu_gives_the_gradient_and_the_training_of_the_cpu() -> None:
    images = stripes()
    own = recipe(lr=0.5, epochs=80, objective=PersistentContrastiveDivergence(Gibbs(5), MEAN_FIELD), centring=0.05)
    machine, data = small_machine(6, 4), images[:50]
    gradients = [
        contrast_exact(
            machine.map(lambda tensor, device=device: tensor.to(device)),  # type: ignore[misc]
            (data.to(device), None),
            (images[50:100].to(device), None),
            torch.Generator(device).manual_seed(1),
        ).gradient
        for device in ("cpu", "cuda")
    ]
    torch.testing.assert_close(gradients[0], {name: value.cpu() for name, value in gradients[1].items()})
    module = BoltzmannTraining(machine, own, images.mean(0), monitored(images))
    fit(module, images, 80, accelerator="gpu")
    assert log_likelihood(module.machine.map(Tensor.cpu), images) > -2.6


# ---------------------------------------------------------------------------------------------- centring


@pytest.mark.parametrize("own", [{}, {"weights/0": 3.0, "layers/1/bias": 0.5}])
@pytest.mark.parametrize("sizes", [(4, 3), (3, 3, 2), (3, 2, 3, 2)])
def test_centring_is_descent_on_the_centred_machine(
    sizes: tuple[int, ...], own: dict[str, float], generator: torch.Generator
) -> None:
    """One step on (W, centred biases) with offsets, folded, equals one step along the transformed gradient; so with rates."""
    machine = random_machine(("bernoulli",) * len(sizes), sizes, seed=1)
    offsets = tuple(torch.rand(units, generator=generator, dtype=torch.float64) for units in sizes)
    states = tuple(normal(generator, 10, units) for units in sizes)
    sample_weights = torch.cat((torch.full((5,), 0.2), torch.full((5,), -0.2))).double()
    # the same distribution, with offsets: biases such that folding gives `machine` back
    bare = replace(machine, offsets=offsets)
    shift = [folded.bias - layer.bias for folded, layer in zip(bare.folded().layers, machine.layers, strict=True)]
    layers = tuple(layer.with_tensors(bias=layer.bias - by) for layer, by in zip(machine.layers, shift, strict=True))
    moved = replace(bare, layers=layers)
    rate = 0.1
    stepped = moved.with_tensors(
        {
            name: moved.named_tensors()[name] - rate * own.get(name, 1.0) * value
            for name, value in moved.energy_gradient(states, sample_weights).items()
        }
    ).folded()
    transformed = machine.energy_gradient(states, sample_weights)
    centring.subtract_outer(transformed, offsets)
    centring.follow(transformed, offsets, list(transformed), own)
    for name, value in transformed.items():
        step = rate * own.get(name, 1.0) * value
        torch.testing.assert_close(stepped.named_tensors()[name], machine.named_tensors()[name] - step)


class ExactGradient:
    """Maximum likelihood of an RBM with few visible units, without noise: the model's side is a sum over all their states."""

    persistent = False

    def __call__(self, machine: BoltzmannMachine, clamped: Any, chains: Any, generator: torch.Generator) -> Learning:
        every = all_states(machine.layers[0].units).float()
        share = torch.softmax(-machine.free_energy((every, None)), 0)
        data, model = (
            (visible, machine.layers[1].mean(machine.inputs((visible, None), 1))) for visible in (clamped[0], every)
        )
        rows = len(clamped[0])
        stacked = tuple(torch.cat(pair) for pair in zip(data, model, strict=True))
        weights = torch.cat((torch.full((rows,), 1 / rows), -share))
        return Learning(machine.energy_gradient(stacked, weights), None, data, {})


HOLDS: dict[str, dict[str, Any]] = {
    "L2": {"penalties": (L2(0.1, ["weights/0"]),)},
    "L1": {"penalties": (L1(0.05, ["weights/0"]),)},
    "norm": {"constraints": (FixedColumnNorm(["weights/0"], 0.5),)},
    "non-negative": {"constraints": (NonNegative(["weights/0"]),)},
    "fixed": {"fixed": ("weights/0",)},
    "proximal": {"constraints": (ProximalL1(["weights/0"], 0.02),)},
}


@pytest.mark.parametrize(
    ("hidden", "how"),
    # a proximal step stands for an epoch, and is followed to first order: too large a one for Gaussian units
    [*((Bernoulli, how) for how in HOLDS), *((Gaussian, how) for how in HOLDS if how != "proximal")],
)
def test_what_holds_the_weights_does_not_move_the_means(hidden: type[Bernoulli | Gaussian], how: str) -> None:
    """Nothing is asked of the biases: whatever holds the weights back, the model that is learned has the means of the data."""
    images = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 1, 0]]).float().repeat(4, 1)
    weights = 0.3 * torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    machine = assemble([Bernoulli.create(4), hidden.create(3)], [weights])
    own = recipe(lr=0.3, objective=ExactGradient(), centring=0.02, epochs=100, **HOLDS[how])
    module = BoltzmannTraining(machine, own, images.mean(0), monitored(images))
    trainer = pl.Trainer(
        max_epochs=40, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0,
    )  # fmt: skip
    batches = Blocks(BatchLoader(images, EpochOrder(torch.arange(20), 30, 0), Identity(), 20))
    trainer.fit(module, train_dataloaders=batches, val_dataloaders=[torch.zeros(1)])
    every = all_states(4).float()
    means = torch.softmax(-module.machine.free_energy((every, None)), 0) @ every
    torch.testing.assert_close(means, images.mean(0), rtol=0, atol=0.01)
    if how != "fixed":
        assert not torch.allclose(module.machine.weights[0], weights, atol=0.05)


def step_of(start: BoltzmannMachine, after: BoltzmannMachine) -> dict[str, Tensor]:
    before = start.named_tensors()
    return {name: tensor - before[name] for name, tensor in after.named_tensors().items()}


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, partial(torch.optim.SGD, momentum=0.5), torch.optim.Adam])
def test_a_parameter_learns_at_a_rate_of_its_own(optimizer: Any) -> None:
    """From the same chains and batch: its first step is so many times as long, those of the others are the same."""
    images, machine, steps = stripes(), small_machine(6, 4, 3), []
    for rates in ({}, {"weights/1": 3.0, "layers/0/bias": 0.5}):
        own = recipe(optimizer=partial(optimizer, lr=0.01), rates=rates)
        module = BoltzmannTraining(machine, own, images.mean(0), monitored(images))
        fit(module, images[:20], 1)
        steps.append(step_of(machine, module.machine))
    usual, changed = steps
    for name, step in usual.items():
        factor = {"weights/1": 3.0, "layers/0/bias": 0.5}.get(name, 1.0)
        torch.testing.assert_close(changed[name], factor * step, rtol=1e-3, atol=1e-6)
        assert bool(step.abs().max() > 0)


def test_a_constraint_knows_the_rate_of_its_parameter() -> None:
    """A proximal step subtracts the rate times the strength: three times as much at three times the rate."""
    weights = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    optimizer = recipe(lr=0.1, rates={"weights/1": 3.0}).optimizer_of(
        {f"weights/{index}": own for index, own in enumerate(weights)}
    )
    assert [step_size(optimizer, own) for own in weights] == pytest.approx([0.1, 0.3])
    assert recipe(rates={"weights/0": 2.0}).optimizer_of({"weights/0": weights[0]}).param_groups[0]["lr"] == 0.2


@pytest.mark.parametrize("optimizer", [partial(torch.optim.SGD, lr=0.1, weight_decay=0.1), torch.optim.AdamW])
def test_weight_decay_which_biases_cannot_follow_is_refused(optimizer: Any) -> None:
    images = stripes()
    for rate, refused in ((0.1, True), (None, False)):
        own = recipe(optimizer=optimizer, centring=rate)
        module = BoltzmannTraining(small_machine(6, 4), own, images.mean(0), monitored(images))
        with pytest.raises(UserError, match="L2 penalty of the same strength") if refused else nullcontext():
            fit(module, images, 1)


# ---------------------------------------------------------------------------------------------- pretraining


@pytest.mark.parametrize("arrangement", [Arrangement.MIRRORED_VISIBLE, Arrangement.MIRRORED_HIDDEN])
def test_a_mirrored_rbm_against_enumeration(arrangement: Arrangement, generator: torch.Generator) -> None:
    """Gradient of -log p(data clamped) of the tied chain: autograd through the enumerated chain, in float64."""
    machine = random_machine(("bernoulli", "bernoulli"), (3, 2), seed=3)
    data = (normal(generator, 8, 3) > 0).double()
    tensors = {name: tensor.clone().requires_grad_() for name, tensor in machine.named_tensors().items()}
    live = machine.with_tensors(tensors)
    weights, visible, hidden = live.weights[0], live.layers[0].bias, live.layers[1].bias
    v, h = all_states(3), all_states(2)
    if arrangement is Arrangement.MIRRORED_VISIBLE:  # E(v, h, v') = -(v + v') W h - b(v + v') - c h
        pairs = v[:, None] + v[None, :]
        energy = -(pairs.reshape(-1, 3) @ weights @ h.T) - (pairs.reshape(-1, 3) @ visible)[:, None] - h @ hidden
        free = -(2 * data @ visible) - torch.nn.functional.softplus(2 * data @ weights + hidden).sum(1)
    else:  # E(h, v, h') = -v W (h + h') - b v - c (h + h')
        pairs = (h[:, None] + h[None, :]).reshape(-1, 2)
        energy = -(v @ weights @ pairs.T) - (v @ visible)[:, None] - pairs @ hidden
        free = -(data @ visible) - 2 * torch.nn.functional.softplus(data @ weights + hidden).sum(1)
    (free.mean() + torch.logsumexp(-energy.flatten(), 0)).backward()

    expanded = arrangement.expand(machine)
    states, probabilities = joint_probabilities(expanded)
    posterior = MEAN_FIELD(expanded, arrangement.clamp(3, data))
    stacked = tuple(torch.cat(pair) for pair in zip(posterior.means, states, strict=True))
    sample_weights = torch.cat((torch.full((8,), 1 / 8, dtype=torch.float64), -probabilities))
    gradient = arrangement.collapse(expanded.energy_gradient(stacked, sample_weights))
    assert set(gradient) == set(tensors)
    for name, value in gradient.items():
        torch.testing.assert_close(value, tensors[name].grad, msg=name)


def test_both_copies_are_drawn_on_their_own(generator: torch.Generator) -> None:
    """Doubling one drawn copy would make them equal."""
    machine = random_machine(("bernoulli", "bernoulli"), (3, 2), seed=4)
    expanded = Arrangement.MIRRORED_VISIBLE.expand(machine)
    chains = Arrangement.MIRRORED_VISIBLE.start(expanded, torch.zeros(1000, 3, dtype=torch.float64), generator)
    moved = Gibbs(3).sweep(expanded, chains, generator)
    assert not torch.equal(moved[0], moved[2])


def test_composition_halves_the_middle_and_means_the_shared_biases() -> None:
    dbm = small_machine(5, 4, 3, 2)
    rbms = []
    for index, (lower, upper) in enumerate(((5, 4), (4, 3), (3, 2))):
        rbm = small_machine(lower, upper, seed=index)
        biases = {
            "layers/0/bias": torch.full((lower,), 1.0 + index),
            "layers/1/bias": torch.full((upper,), 5.0 + index),
        }
        rbms.append(rbm.with_tensors(biases))
    composed = compose(dbm, rbms)
    assert torch.equal(composed.weights[0], rbms[0].weights[0])
    assert torch.equal(composed.weights[1], 0.5 * rbms[1].weights[0])
    assert torch.equal(composed.weights[2], rbms[2].weights[0])
    assert [float(layer.bias[0]) for layer in composed.layers] == [1.0, (5 + 2) / 2, (6 + 3) / 2, 7.0]


@pytest.mark.parametrize("depth", [3, 4])
def test_pretraining_starts_a_dbm_better_than_chance(depth: int) -> None:
    images = stripes(1000)
    dbm = small_machine(6, 6, 5, 4)
    dbm = replace(dbm, layers=dbm.layers[:depth], weights=dbm.weights[: depth - 1])
    own = recipe(lr=0.3, epochs=10, objective=PersistentContrastiveDivergence(Gibbs(3), MEAN_FIELD))
    seen: list[tuple[Arrangement, int]] = []

    def run(module: BoltzmannTraining, index: int) -> BoltzmannMachine:
        seen.append((module.arrangement, index))
        fit(module, images, 10)
        return module.machine

    composed = pretrain(dbm, own, images.mean(0), monitored(images), lambda encode: encode(images).mean(0), run)
    kinds = [Arrangement.MIRRORED_VISIBLE, *[Arrangement.PLAIN] * (depth - 3), Arrangement.MIRRORED_HIDDEN]
    assert seen == [(kind, index) for index, kind in enumerate(kinds)]
    double = composed.map(Tensor.double)
    even = all_states(sum(double.layers[index].units for index in double.parity(EVEN))).split([6, 5], dim=1)
    states: list[Tensor | None] = [even[0], None, even[1], None]
    log_probabilities = torch.log_softmax(-double.free_energy(states[:depth]), 0)
    log_marginal = log_probabilities.view(2**6, 2**5).logsumexp(1)
    data_numbers = (images.double() * 2 ** torch.arange(5, -1, -1)).sum(1).long()
    assert float(log_marginal[data_numbers].mean()) > -3.6  # independent pixels: -4.16


def test_a_grown_dbm_begins_as_its_rbm() -> None:
    images = stripes(200)
    dbm = small_machine(6, 5, 4)
    silent = dbm.with_tensors({"weights/1": torch.zeros(5, 4)})
    trained: list[BoltzmannMachine] = []

    def run(module: BoltzmannTraining, index: int) -> BoltzmannMachine:
        assert (module.arrangement, index) == (Arrangement.PLAIN, 0)
        fit(module, images, 5)
        trained.append(module.machine)
        return module.machine

    grown = grow(silent, replace(recipe(lr=0.3, epochs=5), centring=0.05), images.mean(0), monitored(images), run)
    assert torch.equal(grown.weights[1], silent.weights[1])
    visible, top = all_states(6).float(), all_states(4).float()
    energies = grown.free_energy((visible.repeat_interleave(16, 0), None, top.repeat(64, 1)))
    marginal = (-energies).view(64, 16).logsumexp(1)
    alone = -trained[0].free_energy((visible, None))
    assert torch.allclose(marginal.log_softmax(0), alone.log_softmax(0), atol=1e-5)


def test_a_dbms_recipe_reaches_its_rbms_under_their_own_names() -> None:
    own = recipe(
        penalties=(L1(0.1, ["weights/0", "weights/1"]), L2(0.2, ["weights/1"])),
        fixed=("layers/2/bias",),
        rates={"weights/1": 3.0},
    )
    first, second = recipe_for(own, 0), recipe_for(own, 1)
    assert [list(penalty.parameters) for penalty in first.penalties] == [["weights/0"], []]
    assert [list(penalty.parameters) for penalty in second.penalties] == [["weights/0"], ["weights/0"]]
    assert (first.fixed, second.fixed) == ([], ["layers/1/bias"])
    assert (first.rates, second.rates) == ({}, {"weights/0": 3.0})
    assert len({own.seed, first.seed, second.seed}) == 3


def test_pretraining_needs_two_hidden_layers() -> None:
    images = stripes()
    with pytest.raises(UserError, match="at least two hidden layers"):
        pretrain(
            small_machine(6, 4), recipe(), images.mean(0), monitored(images),
            lambda encode: images.mean(0), lambda module, index: module.machine,
        )  # fmt: skip
    with pytest.raises(UserError, match="joint_learning_rate"):
        Pretraining(epochs=1, joint_learning_rate=0.0)
    assert math.isclose(Pretraining(epochs=1).joint_learning_rate, 1.0)


def test_blocks_hold_every_batch_once_in_order() -> None:
    images = torch.arange(2 * 47.0).view(47, 2)
    batches = BatchLoader(images, EpochOrder(torch.arange(47), 1, 0), Identity(), 2)  # 24 of them, the last of one row
    blocks = Blocks(batches)
    blocks.sampler.set_epoch(3)
    found = list(blocks)
    assert [len(block) for block in found] == [20, 4]
    assert len(blocks) == 2
    batches.sampler.set_epoch(3)
    for own, other in zip([batch for block in found for batch in block], batches, strict=True):
        assert torch.equal(own, other)


@pytest.mark.parametrize(("fixed", "name"), [(["weights/0"], "weights/0"), ([], "layers/1/variance")])
def test_a_rate_of_what_does_not_learn_is_refused(fixed: list[str], name: str) -> None:
    machine = random_machine(("bernoulli", "gaussian"), (3, 2), seed=1)
    with pytest.raises(UserError, match=rf"training\.rates names {name}, which does not learn"):
        recipe(fixed=fixed, rates={name: 2.0, "layers/0/bias": 2.0}).check(machine)
