"""Entry points: ebm-train, -evaluate, -sample, -compare, -data, -serve, -sync, -ui. A mistake is one message, exit code 1."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from importlib import import_module
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from ebm_pipeline import __version__
from ebm_pipeline.support import conf, elapsed, importing
from ebm_pipeline.support.errors import UserError, within_memory
from ebm_pipeline.support.interruption import Interrupted, ending_with_parent, interruptible
from ebm_pipeline.support.launched import launched
from ebm_pipeline.support.terminal import set_up_terminal
from ebm_pipeline.tracking.environment import set_up_mlflow

TOGETHER = "ddp"  # trainer.strategy of one model in several processes


def config_folder() -> str:
    """conf/ as Hydra wants it."""
    return str(conf.config_folder())


def _train(config: DictConfig) -> float | None:
    own = launched()
    if own is None or config.trainer.get("strategy") != TOGETHER:
        return _train_one(config)
    from ebm_pipeline.training import processes

    if own.rank > 0:  # a task of a sweep's job: of a command on its own it has not come here
        _follow()
        return None
    try:
        return _train_one(config)
    finally:
        processes.dismiss()


def _train_one(config: DictConfig) -> float | None:
    from ebm_pipeline.runs import configuration, train, trust
    from ebm_pipeline.tracking import records

    trust.see_own_modules()  # which the user's own configuration names
    try:
        with interruptible(), ending_with_parent():  # for the jobs of a sweep in processes of their own
            folder = configuration.output_folder()
            if configuration.of_search():
                from ebm_pipeline.runs.trials import Trial

                train.train(config, folder, Trial.of_this_job())  # which tells the search itself
                return None
            return train.metric_of(config, train.train(config, folder))
    except UserError as error:
        if records.PARENT_VARIABLE in os.environ:  # the sweep goes on with its other jobs: say now what happened
            print(f"error: {error}", file=sys.stderr)
        raise


def _evaluate(config: DictConfig) -> None:
    from ebm_pipeline.runs import configuration, evaluate

    references = configuration.run_references("run")
    if len(references) != 1:
        raise UserError(f"give one run, run=FOLDER or run=ID; got {len(references)}")
    evaluate.evaluate(config, references[0], configuration.output_folder())


def _sample(config: DictConfig) -> None:
    from ebm_pipeline.runs import configuration, sample

    references = configuration.run_references("run")
    if len(references) != 1:
        raise UserError(f"give one model, run=FOLDER, run=ID or run=MODEL.h5; got {len(references)}")
    sample.ask(config, references[0], configuration.output_folder())


def _compare(config: DictConfig) -> None:
    from ebm_pipeline.runs import compare, configuration

    compare.compare_runs(config, configuration.run_references("runs"), configuration.output_folder())


def _data(config: DictConfig) -> None:
    from ebm_pipeline.runs import data

    print(data.prepare_data(config))


def _serve(config: DictConfig) -> None:
    from ebm_pipeline.runs import configuration, serve

    references = configuration.run_references("run")
    if len(references) != 1:
        raise UserError(f"give one model, run=FOLDER, run=models:/NAME@ALIAS or run=MODEL.h5; got {len(references)}")
    serve.serve(config, references[0])


def _sync(config: DictConfig) -> None:
    from ebm_pipeline.runs import sync

    print(sync.sync(config))


def _ui(config: DictConfig) -> None:
    from ebm_pipeline.runs import ui

    ui.show(config)


def _run(
    task: Callable[[DictConfig], object], config_name: str, finish: Callable[[str], bool] = lambda status: True
) -> None:
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors reach the handler below instead of Hydra's own
    if os.environ.get("EBM_OUTPUT_DIR") == "":  # as if it were not set, like make: else the output would go to /runs
        del os.environ["EBM_OUTPUT_DIR"]
    try:
        set_up_terminal()
        _check_words(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
    if _answered(config_name):
        return
    set_up_mlflow()
    importing.begin(_module(config_name))
    status, code = "FAILED", 1
    mistakes: list[UserError] = []

    def job(config: DictConfig) -> object:
        try:
            with within_memory():
                _begin_job(config_name, config)
                return task(config)
        except UserError as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:  # the sweeper must learn that this job failed
                raise
            mistakes.append(error)  # Hydra would write lines of its own about it
            return None

    try:
        with interruptible():
            hydra.main(version_base="1.3", config_path=config_folder(), config_name=config_name)(job)()
        if mistakes:
            raise mistakes[0]
        status, code = "FINISHED", 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
    except (HydraException, OmegaConfBaseException) as error:
        print(f"error: {_first_lines(error, config_name)}", file=sys.stderr)
    except OSError as error:
        print(_cannot_write(error), file=sys.stderr)
    except Interrupted as interruption:
        status, code = "KILLED", interruption.exit_code
        how = f"; all epochs but the one under way are saved{_how_to_go_on()}" if config_name == "train" else ""
        print(f"stopped by {interruption}{how}", file=sys.stderr)
    except ValueError as error:
        print(_message_of(error), file=sys.stderr)
    except BrokenProcessPool:
        print(
            "error: a worker process of the sweep was killed, most often for want of memory; its jobs are lost from their last "
            f"epoch on. Run fewer at a time (hydra.launcher.n_jobs=1){_how_to_go_on()}",
            file=sys.stderr,
        )
    finally:
        importing.done()
        complete = finish(status)
    if code or not complete:
        sys.exit(code or 1)


def _begin_job(name: str, config: DictConfig) -> None:
    """The worker processes of a sweep begin here. What a command works with is imported once, also for several jobs."""
    elapsed.begin()
    set_up_terminal()
    set_up_mlflow()
    importing.begin(_module(name))
    if name == "train" and _module(name) not in sys.modules and config.get("resume") is None:
        from ebm_pipeline.runs import configuration

        configuration.read_data_ahead(config)
    import_module(_module(name))
    importing.done()


def _module(name: str) -> str:
    """What a command works with."""
    return f"ebm_pipeline.runs.{name}"


def _check_words(words: Sequence[str]) -> None:
    """Raise UserError for an output folder without a name: its files would lie in the root of the file system."""
    if any(word.lstrip("+") in ("output_root=", "output_root=''", 'output_root=""') for word in words):
        raise UserError("output_root must be the name of a folder; got an empty one. Leave it out for outputs/")


def _message_of(error: ValueError) -> str:
    """What a ValueError of Hydra's means; others are raised again."""
    if isinstance(error.__cause__, OSError):  # of the log that Hydra opens in the output folder
        return _cannot_write(error.__cause__)
    if "Config group override" in str(error):
        return "error: a group takes the name of one of its choices (trainer=cpu); got null or something else. --help lists them"
    raise error


def _cannot_write(error: OSError) -> str:
    return f"error: {error}: free some space, or set EBM_OUTPUT_DIR to a folder that can be written"


def _how_to_go_on() -> str:
    words = [word for word in sys.argv[1:] if not word.startswith("resume=")]
    command = shlex.join([Path(sys.argv[0]).name, *words, "resume=auto"])
    return f". To go on:\n  {command}"


def _answered(name: str) -> bool:
    """Whether the command was only asked for its help or its version, which is then printed."""
    if "--version" in sys.argv[1:]:
        print(f"ebm-{name}, ebm_pipeline {__version__}")
    elif {"--help", "-h"} & set(sys.argv[1:]):
        from ebm_pipeline.runs.help import help_text

        print(help_text(name, Path(config_folder())))
    else:
        return False
    return True


def _first_lines(error: Exception, name: str) -> str:
    from ebm_pipeline.runs.help import mended

    cause = error.__cause__
    text = f"{error}\n{cause}" if isinstance(cause, OmegaConfBaseException) else str(error)
    text = mended(text, name, Path(config_folder()))
    if "hydra/launcher/" in text:
        text += "\nOptuna and Submitit come with an optional extra: pip install 'ebm_pipeline[sweeps]'"
    return text


def _follow() -> None:
    """What the processes do that torchrun or srun has started beside the first."""
    set_up_mlflow()
    from ebm_pipeline.runs import train, trust  # noqa: F401  what the first one gives them is there
    from ebm_pipeline.training import processes

    trust.see_own_modules()
    processes.follow()


def _together(words: Sequence[str]) -> bool:
    """Whether the command trains one model in several processes; what is wrong with it the first of them says."""
    from hydra import compose, initialize_config_dir
    from hydra.core.override_parser.overrides_parser import OverridesParser

    try:
        given = OverridesParser.create().parse_overrides([word for word in words if not word.startswith("-")])
        with initialize_config_dir(config_folder(), version_base="1.3"):
            config = compose("train", [str(one.input_line) for one in given if not one.is_sweep_override()])
        return bool(config.trainer.get("strategy") == TOGETHER)
    except (HydraException, OmegaConfBaseException):
        return False


def train() -> None:
    """ebm-train: train one model, or with -m several. One of those that torchrun or srun has started: its part of one."""
    own = launched()
    if own is None or not _together(sys.argv[1:]):
        _command()
        return
    if {"-m", "--multirun"} & set(sys.argv[1:]):
        sys.exit(
            f"error: {own.by} starts the processes of one training, not of a sweep: see docs/scaling.md for sweeps of such"
        )
    if own.rank > 0:
        _follow()
        return
    try:
        _command()
    finally:
        from ebm_pipeline.training import processes

        processes.dismiss()


def _command() -> None:

    def finish(status: str) -> bool:
        if "EBM_PARENT_RUN" not in os.environ:
            return True
        from ebm_pipeline.runs import sweep

        return sweep.finish_sweep(status)

    _run(_train, "train", finish)


def evaluate() -> None:
    """ebm-evaluate: numbers of a finished run on a part of its data, or of a file of weights on the data given."""
    # `model` is a group of choices for Hydra, which a file is none of
    sys.argv[1:] = [
        f"run={word.removeprefix('model=')}" if word.startswith("model=") else word for word in sys.argv[1:]
    ]
    _run(_evaluate, "evaluate")


def sample() -> None:
    """ebm-sample: fantasy particles, inpainting, denoising, features, labels of a trained model."""
    _run(_sample, "sample")


def compare() -> None:
    """ebm-compare: table and figures of several runs."""
    _run(_compare, "compare")


def data() -> None:
    """ebm-data: prepare and describe a data set."""
    _run(_data, "data")


def serve() -> None:
    """ebm-serve: answer for a trained model over HTTP."""
    _run(_serve, "serve")


def sync() -> None:
    """ebm-sync: send what runs could not send while the MLflow store was down."""
    _run(_sync, "sync")


def ui() -> None:
    """ebm-ui: MLflow's pages of the store."""
    _run(_ui, "ui")
