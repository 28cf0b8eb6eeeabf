"""The sweeper of `ebm-train sweep=optuna`, where Hydra looks for sweepers: `ebm_pipeline.runs.search` does it."""

from __future__ import annotations

from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class OptunaSearch(Sweeper):
    """conf/sweep/optuna.yaml has the options."""

    config: DictConfig
    launcher: Launcher

    def __init__(self, **options: Any) -> None:
        self.options = options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """The launcher that runs the jobs."""
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """All trials, in jobs of the launcher."""
        from ebm_pipeline.runs.search import search

        search(self.options, self.config, arguments, self.launcher)
