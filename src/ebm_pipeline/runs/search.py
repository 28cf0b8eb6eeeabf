"""`sweep=optuna`: trials that Optuna asks for, so many at a time, each a job of Hydra's launcher.

The study outlives this process (`trials`), and what is asked for next is a function of it, of the seed and of the trial's
number. So going on is the same loop: trials that are open are run again, from where their runs are, and the rest is asked for.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Transformer
from hydra.core.utils import JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from ebm_pipeline.runs import resume, trials
from ebm_pipeline.runs.configuration import build
from ebm_pipeline.support.errors import UserError, check_whole
from ebm_pipeline.support.files import write_text
from ebm_pipeline.support.glossary import HIGHER, LOWER
from ebm_pipeline.support.names import better, current

log = logging.getLogger(__name__)

RESULTS = "optimization_results.yaml"
Space = Mapping[str, BaseDistribution]


def search(options: Mapping[str, Any], config: DictConfig, words: Sequence[str], launcher: Launcher) -> None:
    """Run the trials that are missing in the study of the sweep's folder; words: what was typed. Leaves RESULTS."""
    fixed, space = space_of(given(options, words))
    folder = Path(config.hydra.sweep.dir)
    with resume.locked(folder) as refusal, trials.answering(options["storage"]):
        if refusal is not None:
            raise refusal
        study = trials.opened(options, folder, _name(folder))
        for first in range(0, options["n_trials"], options["n_jobs"]):
            numbers = range(first, min(first + options["n_jobs"], options["n_trials"]))
            ask(study, numbers, space, options["sampler"])
            _run(study, numbers, fixed, launcher)
        _leave_results(study, folder / RESULTS)


def given(options: Mapping[str, Any], words: Sequence[str]) -> list[str]:
    """What the jobs are given, as words of a command line."""
    return [*(f"{key}={value}" for key, value in (options["params"] or {}).items()), *words]


def check(config: DictConfig) -> None:
    """Raise UserError, before there is a run or trial, for what cannot be searched by."""
    options = config.hydra.sweeper
    space_of(given(options, config.hydra.overrides.task))
    for name in ("n_trials", "n_jobs"):
        check_whole(f"hydra.sweeper.{name}", options[name], 1)
    trials.check_address(options["storage"])
    if options["direction"] not in ("minimize", "maximize"):
        raise UserError(f"hydra.sweeper.direction must be minimize or maximize; got {options['direction']!r}")
    if config.metric is None:
        raise UserError("a search needs a metric to go by: metric=validation/log_likelihood_low, say")
    for option, metric in (("metric", config.metric), ("hydra.sweeper.prune_by", options["prune_by"])):
        wanted = {"minimize": LOWER, "maximize": HIGHER}[options["direction"]]
        if metric is not None and better(current(str(metric))) in {LOWER, HIGHER} - {wanted}:
            raise UserError(
                f"{option}={metric} is better the {better(current(str(metric)))} it is, and hydra.sweeper.direction is "
                f"{options['direction']}: set the other direction or another metric"
            )


def _name(folder: Path) -> str:
    """What the study is called, also where the folder is called otherwise by now."""
    path = folder / trials.NAME_FILE
    if not path.is_file():
        write_text(path, f"{folder.name} {secrets.token_hex(4)}\n")
    return path.read_text(encoding="utf-8").strip()


# ---------------------------------------------------------------------------------------------- what is searched


def space_of(words: Sequence[str]) -> tuple[list[str], dict[str, BaseDistribution]]:
    """(overrides of every job, distribution of each setting that is searched); of two words for one setting the last counts.

    >>> space_of(["optimizer.lr=tag(log, interval(0.01, 1))", "sampler.steps=1,5", "seed=3"])  # doctest: +NORMALIZE_WHITESPACE
    (['seed=3'], {'optimizer.lr': FloatDistribution(high=1.0, log=True, low=0.01, step=None),
                  'sampler.steps': CategoricalDistribution(choices=(1, 5))})
    """
    parsed = {one.get_key_element(): one for one in OverridesParser.create().parse_overrides(list(words))}
    fixed = [str(one.input_line) for one in parsed.values() if not one.is_sweep_override()]
    space = {name: distribution_of(one) for name, one in parsed.items() if one.is_sweep_override()}
    if not space:
        raise UserError(
            "nothing is searched: give a setting several values, such as 'optimizer.lr=interval(0.01, 0.1)'"
        )
    return fixed, space


def distribution_of(override: Override) -> BaseDistribution:
    """Of choice(1, 5), range(1, 10), interval(0.1, 1), tag(log, interval(0.1, 1)) or int(interval(1, 9)), by Hydra's grammar."""
    value = override.value()
    try:
        if isinstance(value, IntervalSweep):
            return _numeric(value.start, value.end, log="log" in value.tags)
        values: list[Any] = list(override.sweep_iterator(transformer=Transformer.encode))
        if isinstance(value, RangeSweep):
            return _numeric(min(values), max(values), step=abs(value.step))
        return CategoricalDistribution(values)
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{override.input_line} is nothing to search ({error}): give choice, range or interval"
        ) from error


def _numeric(low: Any, high: Any, **options: Any) -> BaseDistribution:
    whole = isinstance(low, int) and isinstance(high, int)
    return IntDistribution(low, high, **options) if whole else FloatDistribution(low, high, **options)


def word_of(name: str, value: object) -> str:
    """A setting as an override.

    >>> word_of("data.labels", True), word_of("optimizer.lr", 0.1), word_of("model", "dbm")
    ('data.labels=true', 'optimizer.lr=0.1', 'model=dbm')
    """
    return f"{name}={str(value).lower() if isinstance(value, bool) else value}"


# ---------------------------------------------------------------------------------------------- asking and running


def ask(study: optuna.Study, numbers: Sequence[int], space: Space, sampler: Mapping[str, Any]) -> None:
    """Have these trials in the study, with all their settings; what each gets does not depend on who asks."""
    for number in numbers:
        known: list[FrozenTrial] = study.get_trials(deepcopy=False)
        if number < len(known) and (known[number].state.is_finished() or known[number].params.keys() >= space.keys()):
            continue
        study.sampler = _sampler(sampler, number)
        begun = number < len(known)  # by a process that was killed
        trial = optuna.trial.Trial(study, known[number]._trial_id) if begun else study.ask()
        for name, distribution in space.items():
            _suggest(trial, name, distribution)


def _sampler(options: Mapping[str, Any], number: int) -> optuna.samplers.BaseSampler:
    """With draws of its own for each trial: a sampler that begins anew would repeat those of its first."""
    seeds = {}
    if options.get("seed") is not None:
        check_whole("hydra.sweeper.sampler.seed", options["seed"], 0)
        seeds = {"seed": int(np.random.SeedSequence((options["seed"], number)).generate_state(1)[0])}
    made: optuna.samplers.BaseSampler = build(
        {**options, **seeds}, "hydra.sweeper.sampler", optuna.samplers.BaseSampler
    )
    return made


def _suggest(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> None:
    if isinstance(distribution, CategoricalDistribution):
        trial.suggest_categorical(name, distribution.choices)
    elif isinstance(distribution, IntDistribution):
        trial.suggest_int(name, distribution.low, distribution.high, step=distribution.step, log=distribution.log)
    elif isinstance(distribution, FloatDistribution):
        trial.suggest_float(name, distribution.low, distribution.high, step=distribution.step, log=distribution.log)


def _run(study: optuna.Study, numbers: Sequence[int], fixed: Sequence[str], launcher: Launcher) -> None:
    """Jobs of these trials, from the first to the last that is open; those between that have ended see that at once."""
    known = study.get_trials(deepcopy=False)
    unfinished = [number for number in numbers if not known[number].state.is_finished()]
    if not unfinished:
        return
    launched = known[unfinished[0] : unfinished[-1] + 1]
    jobs = launcher.launch(
        [[*fixed, *(word_of(name, value) for name, value in trial.params.items())] for trial in launched],
        initial_job_idx=unfinished[0],
    )
    for trial, job in zip(launched, jobs, strict=True):
        if job.status is JobStatus.FAILED:  # before it could tell
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
    known = study.get_trials(deepcopy=False)
    silent = [str(number) for number in numbers if not known[number].state.is_finished()]
    if silent:
        raise UserError(f"the study was not told the end of trial {', '.join(silent)}: go on with resume=auto")


def _leave_results(study: optuna.Study, path: Path) -> None:
    if not study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]):
        raise UserError("no trial of the search gave a metric to go by: see why above")
    best = study.best_trial
    log.info(f"best of {len(study.trials)} trials: {best.number}, with {best.value:.6g} for {best.params}")
    found = {"name": "optuna", "best_trial": best.number, "best_params": best.params, "best_value": best.value}
    write_text(path, yaml.safe_dump(found, sort_keys=False))
