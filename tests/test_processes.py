"""Two processes that train one model: the gradient of one, chains of their own, and runs that go on after either is gone."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytorch_lightning as pl
import torch
from commands import PLAIN, composed, own_run
from kills import assert_identical, kill_self, left_by, patched, run_count
from test_training import monitored, recipe, small_machine, stripes
from torch import Tensor

from ebm_pipeline.data.batches import BatchLoader, EpochOrder
from ebm_pipeline.data.transforms import Identity
from ebm_pipeline.models.inference import MeanField
from ebm_pipeline.models.machine import BoltzmannMachine, States
from ebm_pipeline.runs import train
from ebm_pipeline.sampling import Gibbs
from ebm_pipeline.support.errors import UserError
from ebm_pipeline.support.interruption import Interrupted, interruptible
from ebm_pipeline.training import L2, processes
from ebm_pipeline.training.arrangement import Arrangement
from ebm_pipeline.training.blocks import Blocks
from ebm_pipeline.training.checkpoints import LAST
from ebm_pipeline.training.module import BoltzmannTraining
from ebm_pipeline.training.objectives import PersistentContrastiveDivergence, Tap
from ebm_pipeline.training.recipe import Recipe

FIXED_STEPS = MeanField(tolerance=0.0, max_steps=20)  # the same number of steps for a share as for the whole
CASES = {
    "rbm": ((6, 4), Arrangement.PLAIN, 0.1),
    "dbm": ((6, 4, 3), Arrangement.PLAIN, 0.1),
    "first of a dbm": ((6, 4), Arrangement.MIRRORED_VISIBLE, None),
    "last of a dbm": ((6, 4), Arrangement.MIRRORED_HIDDEN, 0.1),
    "tap": ((6, 4), Arrangement.PLAIN, 0.1),
}


class Unmoved(NamedTuple):
    samples: States

    def completed(self, samples: States) -> Unmoved:
        return self


@dataclass(frozen=True)
class Still(Gibbs):
    """Chains that stay as they are, so that the gradient is a function of data and chains."""

    def step(
        self,
        machine: BoltzmannMachine,
        state: Any,
        generator: torch.Generator | None,
        clamped: Collection[int] = (),
        *,
        finish: bool = True,
    ) -> tuple[Any, dict[str, float]]:
        return Unmoved(state.samples), {}


def own_recipe(case: str) -> Recipe:
    tap = Tap(FIXED_STEPS, tolerance=0.0, max_steps=5)
    return recipe(
        lr=0.3, objective=tap if case == "tap" else PersistentContrastiveDivergence(Still(), FIXED_STEPS),
        mean_field=FIXED_STEPS, centring=CASES[case][2], penalties=(L2(0.01, ["weights/0"]),),
    )  # fmt: skip


def trained() -> dict[str, list[dict[str, Tensor]]]:
    """State of every case's module in every process after six updates, on these processes' shares of data and chains."""
    states = {}
    images = stripes(60)
    for case, (units, arrangement, _) in CASES.items():
        module = BoltzmannTraining(
            small_machine(*units), own_recipe(case), images.mean(0), monitored(stripes()), arrangement
        )
        draws = torch.Generator().manual_seed(3)
        for name in module.chain_names:
            chains = (torch.rand(50, getattr(module, name).shape[1], generator=draws) < 0.5).float()
            setattr(module, name, processes.share(chains))
        trainer = pl.Trainer(
            max_epochs=2, accelerator="cpu", devices=processes.count(), logger=False, enable_checkpointing=False,
            strategy=processes.ProcessStrategy() if processes.count() > 1 else "auto", enable_progress_bar=False,
            enable_model_summary=False, num_sanity_val_steps=0,
        )  # fmt: skip
        batches = Blocks(BatchLoader(images, EpochOrder(torch.arange(60), 1, 0), Identity(), 20))
        trainer.fit(module, train_dataloaders=batches, val_dataloaders=[torch.zeros(1)])
        states[case] = processes.gathered(module.state_dict())
    return states


@pytest.fixture(scope="module")
def both() -> tuple[dict[str, list[dict[str, Tensor]]], dict[str, list[dict[str, Tensor]]]]:
    """(of one process, of two)"""
    torch.set_num_threads(1)
    alone = trained()
    with processes.started(2, trained, ()):
        together = trained()
        assert (
            processes.GLOO not in os.environ
        )  # it listened on the loopback, and tells that to no process of the user's
    return alone, together


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_make_the_steps_of_one(case: str, both: Any) -> None:
    (alone,), (first, second) = both[0][case], both[1][case]
    start = small_machine(*CASES[case][0]).named_tensors()
    for name, expected in alone.items():
        if name.startswith("chain"):
            continue
        assert torch.equal(first[name], second[name]), f"{name} is not the same in both processes"
        torch.testing.assert_close(first[name], expected, rtol=1e-4, atol=1e-6)
        if name.startswith("tensors"):
            assert (expected - start[name.removeprefix("tensors.")]).abs().max() > 1e-3, "nothing was learned"
    assert any(name.startswith("chain") for name in alone)
    assert any(name.startswith("offset") for name in alone) == (CASES[case][2] is not None)


def test_each_process_has_chains_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "count", lambda: 2)
    images, states = stripes(), []
    for number in (0, 1):
        monkeypatch.setattr(processes, "rank", lambda number=number: number)
        module = BoltzmannTraining(small_machine(6, 4), recipe(), images.mean(0), monitored(images))
        assert module.chains is not None
        states.append((module.chains.samples[0], module.generator.get_state()))
    assert [len(chains) for chains, _ in states] == [25, 25]
    for one, other in zip(*states, strict=True):
        assert not torch.equal(one, other)


def test_a_share_is_every_nth_row_and_none_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.arange(7)[:, None]
    shares: dict[int, list[Any]] = {}
    monkeypatch.setattr(processes, "count", lambda: 3)
    for number in range(3):
        monkeypatch.setattr(processes, "rank", lambda number=number: number)
        shares[number] = [processes.share(batch).flatten().tolist() for batch in (rows[:6], rows, rows[:1])]
    assert [shares[number][0] for number in range(3)] == [[0, 3], [1, 4], [2, 5]]
    assert [shares[number][1] for number in range(3)] == [[0, 3, 6], [1, 4, 0], [2, 5, 1]]
    assert [shares[number][2] for number in range(3)] == [[0], [0], [0]]


# ---------------------------------------------------------------------------------------------- runs

STEP = "ebm_pipeline.training.module.BoltzmannTraining.update"
SETTINGS = (*PLAIN, "model=rbm", "trainer=ddp", "trainer.accelerator=cpu")
BATCHES = 6


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all: a fresh one costs seconds."""
    return tmp_path_factory.getbasetemp() / "outputs"


@pytest.fixture(autouse=True)
def nobody_is_left() -> Iterator[None]:
    yield
    assert not multiprocessing.active_children()
    assert processes.count() == 1


def kill_the_other() -> None:
    (other,) = multiprocessing.active_children()
    other.kill()


@pytest.mark.slow
def test_a_run_goes_on_after_either_process_is_gone(outputs: Path, tmp_path: Path) -> None:
    """The other killed in the first epoch, the first told to stop in the second: the end is the uninterrupted one's."""
    folders = [tmp_path / name / "run" for name in ("alone", "interrupted")]
    train.train(composed(*SETTINGS, output_root=outputs), folders[0])
    expected = left_by(folders[0], outputs)
    saved = torch.load(folders[0] / "checkpoints" / LAST, weights_only=True)
    assert saved["state_dict"]["chain_0"].shape == (5, 16)
    (other,) = saved["others"]
    assert other["chains"]["chain_0"].shape == (5, 16)
    assert not torch.equal(other["chains"]["chain_0"], saved["state_dict"]["chain_0"])

    with pytest.MonkeyPatch.context() as patch:
        patched(patch, STEP, 2, kill_the_other)
        with pytest.raises(UserError, match=r"process 1 of this training ended by itself \(exit code -9.*resume=auto"):
            train.train(composed(*SETTINGS, output_root=outputs), folders[1])
    assert own_run(folders[1]).status == "FAILED"
    with pytest.MonkeyPatch.context() as patch:
        patched(patch, STEP, BATCHES + 2, lambda: kill_self(signal.SIGTERM))
        with interruptible(), pytest.raises(Interrupted, match="SIGTERM"):
            train.train(composed(*SETTINGS, "resume=auto", output_root=outputs), folders[1])
    assert own_run(folders[1]).status == "KILLED"
    train.train(composed(*SETTINGS, "resume=auto", output_root=outputs), folders[1])
    left = left_by(folders[1], outputs)
    left["params"] = expected["params"]  # equal by the digest of the configuration
    assert_identical(left, expected)
    assert run_count(folders[1], outputs) == 1


def fails() -> None:
    if processes.rank() > 0:
        raise UserError("no fixed point")
    processes.gathered(os.getpid())


@pytest.mark.slow
def test_what_the_other_process_cannot_do_is_the_message() -> None:
    with pytest.raises(UserError, match="no fixed point"), processes.started(2, fails, ()):
        fails()


def test_a_checkpoint_of_another_number_of_processes_is_refused_with_both() -> None:
    images = stripes()
    module = BoltzmannTraining(small_machine(6, 4), recipe(), images.mean(0), monitored(images))
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    assert checkpoint["others"] == []
    module.on_load_checkpoint(checkpoint)
    checkpoint["others"] = [{}] * 3
    with pytest.raises(UserError, match=r"in 4 processes, not 1: give the trainer\.devices"):
        module.on_load_checkpoint(checkpoint)
