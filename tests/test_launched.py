"""Processes that torchrun or srun has started: which of them is which, and what must agree."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch.distributed as dist
from commands import PLAIN, composed, run_command

from ebm_pipeline import cli
from ebm_pipeline.data import DataSet
from ebm_pipeline.runs import plan
from ebm_pipeline.runs.configuration import build_data
from ebm_pipeline.support.errors import UserError
from ebm_pipeline.support.launched import Launched, launched
from ebm_pipeline.training import processes

TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}
SRUN = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "1", "SLURM_NTASKS": "4"}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        (TORCHRUN, Launched("torchrun", 3, 4, 1)),
        (SRUN, Launched("srun", 3, 4, 1)),
        (SRUN | TORCHRUN, Launched("torchrun", 3, 4, 1)),  # by srun, one on each machine
        (SRUN | {"SLURM_STEP_NUM_TASKS": "1"}, None),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, None),  # the batch script itself
        (TORCHRUN | {"WORLD_SIZE": "1", "RANK": "0"}, None),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}, None),
        (SRUN | {"SLURM_PROCID": "x"}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_the_environment_says_which_process_this_is(
    variables: dict[str, str], expected: Launched | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in {*TORCHRUN, *SRUN}:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert launched() == expected


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return build_data(composed(*PLAIN, output_root=tmp_path_factory.mktemp("data")))


@pytest.mark.parametrize(
    ("words", "others", "message"),
    [
        (("trainer=nodes",), None, "where torchrun or srun starts this command"),
        (("trainer=nodes",), Launched("srun", 0, 3, 0), "srun has started 3 processes, and trainer.devices=1 .* are 2"),
        (("trainer=ddp",), Launched("torchrun", 0, 3, 0), "torchrun has started 3 processes, and trainer.devices=2"),
        (("trainer=nodes", "trainer.num_nodes=0"), None, "num_nodes must be a whole number, at least 1; got 0"),
        (("+trainer.num_nodes=2",), None, "num_nodes=2 takes trainer=nodes"),
        (("trainer=nodes", "trainer.num_nodes=3"), Launched("srun", 0, 3, 0), "cannot be shared evenly by 3 processes"),
    ],
)
def test_the_numbers_must_agree(
    words: tuple[str, ...], others: Launched | None, message: str, data: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "launched", lambda: others)
    with pytest.raises(UserError, match=message):
        plan.process_count(composed(*PLAIN, *words), data)


def test_processes_that_were_started_are_as_many_as_are_configured(
    data: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "launched", lambda: Launched("srun", 0, 2, 0))
    assert plan.process_count(composed(*PLAIN, "trainer=nodes"), data) == 2
    assert plan.process_count(composed(*PLAIN, "trainer=ddp"), data) == 2
    assert plan.process_count(composed(*PLAIN), data) == 1  # runs of their own, side by side


def test_a_sweep_is_not_started_several_times(tmp_path: Path) -> None:
    done = run_command(cli.train, "-m", "trainer=nodes", "seed=1,2", output_root=tmp_path, variables=TORCHRUN)
    assert done.code == 1
    assert "torchrun starts the processes of one training, not of a sweep" in done.err
    assert not list(tmp_path.iterdir())


def test_the_others_are_let_go_where_the_first_trains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    met: list[object] = []

    def meet() -> None:
        met.append("met")
        monkeypatch.setattr(processes, "_met", True)

    monkeypatch.setattr(processes, "_met", False)
    monkeypatch.setattr(processes, "_meet", meet)
    monkeypatch.setattr(processes, "decided", lambda make: met.append(make()))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: met.append("gone"))
    first = {**TORCHRUN, "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}
    done = run_command(cli.train, "trainer=nodes", "training.epochs=0", output_root=tmp_path, variables=first)
    assert done.code == 1
    assert "training.epochs must be" in done.err
    assert met == ["met", None, "gone"]
