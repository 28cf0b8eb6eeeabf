"""Entry points: ebm-train, -evaluate, -sample, -compare, -data, -sync. A user's mistake ends in one message, exit code 1."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Mapping
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from ebm_pipeline.errors import UserError, within_memory
from ebm_pipeline.interruption import Interrupted, ending_with_parent, interruptible


def config_folder() -> str:
    """conf/ of the installed package, or else of the repository."""
    packaged = Path(__file__).parent / "conf"
    return str(packaged if packaged.is_dir() else Path(__file__).parents[2] / "conf")


def _train(config: DictConfig) -> float | None:
    from ebm_pipeline import configuration, pipeline, tracking

    try:
        with interruptible(), ending_with_parent():  # for the jobs of a sweep in processes of their own
            return pipeline.metric_of(config, pipeline.train(config, configuration.output_folder()))
    except UserError as error:
        if tracking.PARENT_VARIABLE in os.environ:  # the sweep goes on with its other jobs: say now what happened
            print(f"error: {error}", file=sys.stderr)
        raise


def _evaluate(config: DictConfig) -> None:
    from ebm_pipeline import assessment, configuration

    references = configuration.run_references("run")
    if len(references) != 1:
        raise UserError(f"give one run, run=FOLDER or run=ID; got {len(references)}")
    assessment.evaluate(config, references[0], configuration.output_folder())


def _sample(config: DictConfig) -> None:
    from ebm_pipeline import answering, configuration

    references = configuration.run_references("run")
    if len(references) != 1:
        raise UserError(f"give one model, run=FOLDER, run=ID or run=MODEL.h5; got {len(references)}")
    answering.ask(config, references[0], configuration.output_folder())


def _compare(config: DictConfig) -> None:
    from ebm_pipeline import comparison, configuration

    comparison.compare_runs(config, configuration.run_references("runs"), configuration.output_folder())


def _data(config: DictConfig) -> None:
    from ebm_pipeline.configuration import build_data, check_keys, check_seed
    from ebm_pipeline.data.hdf5 import describe, shuffled_copy

    known = {"data": Mapping, "seed": int, "output_root": str, "shuffled_copy": str | None}
    check_keys(config, known, "")
    check_seed(config.seed)
    data = build_data(config)
    path = data.path
    if config.shuffled_copy is not None:
        path = Path(config.shuffled_copy).absolute()
        shuffled_copy(data.path, path, config.seed)
    print(describe(path))


def _sync(config: DictConfig) -> None:
    from ebm_pipeline import tracking
    from ebm_pipeline.configuration import check_keys

    check_keys(config, {"run": str | None, "output_root": str}, "")
    folder = Path(config.run or config.output_root)
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: give the folder of a run or of a sweep, run=FOLDER")
    count = tracking.send_kept(folder.absolute())
    print(f"sent {count} calls" if count else f"nothing to send under {folder}")


def _run(
    task: Callable[[DictConfig], object], config_name: str, finish: Callable[[str], bool] = lambda status: True
) -> None:
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors reach the handler below instead of Hydra's own
    if os.environ.get("EBM_OUTPUT_DIR") == "":  # as if it were not set, like make: else the output would go to /runs
        del os.environ["EBM_OUTPUT_DIR"]
    status, code = "FAILED", 1
    mistakes: list[UserError] = []

    def job(config: DictConfig) -> object:
        try:
            with within_memory():
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
        print(f"error: {_first_lines(error)}", file=sys.stderr)
    except OSError as error:
        print(
            f"error: {error}: free some space, or set EBM_OUTPUT_DIR to a folder that can be written", file=sys.stderr
        )
    except Interrupted as interruption:
        status, code = "KILLED", interruption.exit_code
        how = f"; all epochs but the one under way are saved{_how_to_go_on()}" if config_name == "train" else ""
        print(f"stopped by {interruption}{how}", file=sys.stderr)
    except ValueError as error:
        if "No trials are completed" not in str(error):
            raise
        print("error: no trial of the search gave a figure to go by: see why above", file=sys.stderr)
    except BrokenProcessPool:
        print(
            "error: a worker process of the sweep was killed, most often for want of memory; its jobs are lost from their last "
            f"epoch on. Run fewer at a time (hydra.launcher.n_jobs=1){_how_to_go_on()}",
            file=sys.stderr,
        )
    finally:
        complete = finish(status)
    if code or not complete:
        sys.exit(code or 1)


def _how_to_go_on() -> str:
    words = [word for word in sys.argv[1:] if not word.startswith("resume=")]
    command = shlex.join([Path(sys.argv[0]).name, *words, "resume=auto"])
    return f". To go on:\n  {command}"


def _first_lines(error: Exception) -> str:
    cause = error.__cause__
    text = f"{error}\n{cause}" if isinstance(cause, OmegaConfBaseException) else str(error)
    if "hydra/sweeper/" in text or "hydra/launcher/" in text:
        text += "\nOptuna and Submitit come with an optional extra: pip install 'ebm_pipeline[sweeps]'"
    return text


def train() -> None:
    """ebm-train: train one model, or with -m several."""

    def finish(status: str) -> bool:
        if "EBM_PARENT_RUN" not in os.environ:
            return True
        from ebm_pipeline import sweeps

        return sweeps.finish_sweep(status)

    _run(_train, "train", finish)


def evaluate() -> None:
    """ebm-evaluate: figures of a finished run on a part of its data."""
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


def sync() -> None:
    """ebm-sync: send what runs could not send while the MLflow store was down."""
    _run(_sync, "sync")
