"""From a composed configuration to a finished run: train, evaluate, compare."""

from __future__ import annotations

import csv
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.experimental.callback import Callback
from hydra.utils import instantiate
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf, open_dict
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor
from tqdm import tqdm

from ebm_pipeline import plots, tracking
from ebm_pipeline.data import DataSet
from ebm_pipeline.errors import UserError
from ebm_pipeline.evaluation.likelihood import independent_log_likelihood, log_likelihood
from ebm_pipeline.evaluation.metrics import MonitoredImages, flip_pixels, monitor
from ebm_pipeline.inference import MeanField
from ebm_pipeline.initialization import initialize
from ebm_pipeline.machine import BoltzmannMachine
from ebm_pipeline.numerics import choose_float32_products
from ebm_pipeline.storage import SavedModel, load_model, save_model
from ebm_pipeline.tracking import RunRecord, Tracker
from ebm_pipeline.training.callbacks import EveryEpochs, Progress, Record
from ebm_pipeline.training.model import Model
from ebm_pipeline.training.module import BoltzmannTraining, Encoder, Recipe
from ebm_pipeline.training.pictures import Pictures
from ebm_pipeline.training.pretraining import pretrain

log = logging.getLogger(__name__)
logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # its tips and adverts

PARENT_VARIABLE = "EBM_PARENT_RUN"  # how the jobs of a sweep learn of their parent run
TRAIN_KEYS = {
    "data", "model", "initialization", "sampler", "objective", "optimizer", "scheduler", "evaluation", "trainer",
    "seed", "output_root", "threads", "training", "mean_field", "tracking",
}  # fmt: skip
TRAINING_KEYS = {"epochs", "chains", "products", "centring"}
EXAMPLES = 32  # images shown of a data set
MOST_MONITORED = 3000  # images per part that the monitored figures are computed on

COMPARED = {
    "reconstruction_error": "reconstruction error (RMS)",
    "reconstruction_wrong_pixels": "wrong pixels, reconstructed",
    "denoising_error": "denoising error (RMS)",
    "denoising_wrong_pixels": "wrong pixels, denoised",
    "pseudo_likelihood": "pseudo-likelihood (nats)",
    "parameters": "parameters",
    "training_seconds": "training time (s)",
}
COUNTED = ("parameters",)


# ------------------------------------------------------------------------------------------------ configuration


def build(config: Any, what: str) -> Any:
    """Hydra's instantiate; whatever a configuration gets wrong becomes one message."""
    try:
        return instantiate(config)
    except InstantiationException as error:
        cause = error.__cause__ or error.__context__
        if isinstance(cause, UserError):
            raise cause from error
        shown = str(cause or error).splitlines()[0]
        raise UserError(
            f"the configuration of {what} does not work: {shown}. See conf/ for the options it has"
        ) from error


def check_keys(config: DictConfig, known: set[str], where: str) -> None:
    """Raise for keys that nothing reads: most often a typing error after a `+`."""
    unknown = sorted(set(map(str, config)) - known)
    if unknown:
        raise UserError(
            f"unknown option {', '.join(where + key for key in unknown)}; known: {', '.join(sorted(known))}"
        )


def plain(config: DictConfig) -> dict[str, Any]:
    """The resolved configuration in plain containers."""
    container = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def tracking_uri(config: DictConfig) -> str:
    """The configured store, or sqlite under output_root."""
    return config.tracking.uri or f"sqlite:///{Path(config.output_root).absolute() / 'mlflow.db'}"


def open_experiment(config: DictConfig) -> tuple[str, str]:
    """(uri, experiment id), the store made if it is missing."""
    uri = tracking_uri(config)
    root = Path(config.output_root).absolute()
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write to output_root={root} ({error}): set EBM_OUTPUT_DIR to a folder that can be written"
        ) from error
    return uri, tracking.prepare_store(uri, root / "mlartifacts", config.tracking.experiment)


def set_up_torch(threads: int | None) -> None:
    """Threads, and the fastest products that are still float32."""
    if threads is not None:
        if not isinstance(threads, int) or threads < 1:
            raise UserError(f"threads must be a whole number, at least 1, or null; got {threads!r}")
        torch.set_num_threads(threads)
    choose_float32_products()


def build_data(config: DictConfig) -> DataSet:
    """The data set; where the file decides the number of pixels, the configuration learns it."""
    data: DataSet = build(config.data, "data")
    if config.data.units is None:
        with open_dict(config):
            config.data.units = data.units
    return data


def build_recipe(config: DictConfig, epochs: int, learning_rate_factor: float, model: Model) -> Recipe:
    """How `epochs` epochs are trained: schedules end with them."""
    config = config.copy()
    config.training.epochs = epochs
    config.optimizer.lr = config.optimizer.lr * learning_rate_factor
    return Recipe(
        objective=build(config.objective, "objective"),
        mean_field=build(config.mean_field, "mean_field"),
        optimizer=build(config.optimizer, "optimizer"),
        scheduler=build(config.scheduler, "scheduler"),
        chains=config.training.chains,
        products=config.training.products,
        centring=config.training.centring,
        seed=config.seed,
        penalties=tuple(model.penalties),
        fixed=tuple(model.fixed),
    )


# ------------------------------------------------------------------------------------------------ training


@dataclass
class Training:
    """What one training works with; `folder` is the run's own."""

    config: DictConfig
    data: DataSet
    model: Model
    pictures: Pictures
    monitored: MonitoredImages
    data_mean: Tensor
    tracker: Tracker
    folder: Path
    shown: MonitoredImages

    @property
    def seed(self) -> int:
        return int(self.config.seed)

    def fit(self, module: BoltzmannTraining, epochs: int, phase: str) -> tuple[BoltzmannMachine, Record]:
        """Train the module with Lightning; pretraining phases have a prefix and no pictures of their own."""
        joint = phase == ""
        record = Record(self.tracker, prefix=f"{phase}/" if phase else "")
        callbacks: list[pl.Callback] = [
            Progress(f"{self.model.name}{' ' + phase if phase else ''}"),
            ModelCheckpoint(
                dirpath=self.folder / "checkpoints" / phase, filename="{epoch}", save_last=True, save_top_k=0
            ),
        ]
        if joint:
            callbacks.append(EveryEpochs(self.pictures.every_epochs, self._draw_epoch))
        callbacks.append(record)
        trainer: pl.Trainer = build(self.config.trainer, "trainer")(
            max_epochs=epochs,
            callbacks=callbacks,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=self.folder,
        )
        loader = self.data.train_batches(trainer.strategy.root_device)
        if joint:
            record.add(module.figures(), 0, 0)
        trainer.fit(module, train_dataloaders=loader, val_dataloaders=[torch.zeros(1)])
        return module.machine.map(Tensor.cpu), record

    def _draw_epoch(self, module: BoltzmannTraining, epochs: int, step: int) -> None:
        self.draw(module.machine.map(Tensor.cpu), step, f"{epochs:04d}")

    def draw(self, machine: BoltzmannMachine, step: int, label: str) -> None:
        """All pictures of the machine, to MLflow's image series and to the run's folder."""
        arrays = self.pictures.arrays(machine, self.shown.validation, self.shown.noisy, self.data_mean, self.seed)
        for key, figure in self.pictures.figures(machine, arrays, self.data.image_shape, self.model.name).items():
            self.show(figure, key, step, label)
        if label == "final":
            write_arrays(self.folder / "pictures.h5", arrays, self.pictures.fantasy_description(), self.data)
            self.tracker.log_file(self.folder / "pictures.h5")

    def show(self, figure: Figure, key: str, step: int, label: str) -> None:
        """One figure, to MLflow and as PNG."""
        plots.save(figure, self.folder / "pictures" / f"{key}_{label}.png")
        self.tracker.log_image(plots.to_rgb(figure), key, step)


def train(config: DictConfig, folder: Path) -> dict[str, float]:
    """One run, from the data to the saved model; returns its last figures."""
    check_keys(config, TRAIN_KEYS, "")
    check_keys(config.training, TRAINING_KEYS, "training.")
    if not isinstance(config.training.epochs, int) or config.training.epochs < 1:
        raise UserError(f"training.epochs must be a whole number, at least 1; got {config.training.epochs!r}")
    set_up_torch(config.threads)
    pl.seed_everything(config.seed, verbose=False)
    data = build_data(config)
    model: Model = build(config.model, "model")
    pictures: Pictures = build(config.evaluation, "evaluation")
    recipe = build_recipe(
        config, config.training.epochs, model.pretraining.joint_learning_rate if model.pretraining else 1.0, model
    )
    data_mean = data.train_mean().float()
    generator = torch.Generator().manual_seed(config.seed)
    initial = initialize(
        list(model.layers.values()), build(config.initialization, "initialization"), data_mean, generator
    )
    monitored = monitored_images(data, pictures.flips, config.seed)

    resolved = plain(config)
    text = OmegaConf.to_yaml(OmegaConf.create(resolved))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(text)
    uri, experiment_id = open_experiment(config)
    tags = {
        tracking.OUTPUT_TAG: str(folder.absolute()),
        "model": model.name,
        "data": data.name,
        **resolved["tracking"]["tags"],
    }
    with Tracker.start(uri, experiment_id, config.tracking.run_name, tags, os.environ.get(PARENT_VARIABLE)) as tracker:
        tracking.write_run_file(folder, tracker.run_id, uri)
        tracker.log_parameters(resolved)
        tracker.log_text(text, "config.yaml")
        tracker.log_dataset(
            data.name, data.digest, str(data.path),
            {"train": len(data.training_rows), "validation": len(data.validation_rows), "units": data.units,
             "test": data.test.count if data.test else 0, "transform": data.transform.name},
        )  # fmt: skip
        work = Training(config, data, model, pictures, monitored, data_mean, tracker, folder, monitored)
        work.show(data_examples(data), "data", 0, "examples")
        started = time.perf_counter()
        if model.pretraining is not None:
            initial = pretrain_model(work, initial)
        module = BoltzmannTraining(initial, recipe, data_mean, monitored)
        machine, record = work.fit(module, config.training.epochs, "")
        seconds = time.perf_counter() - started
        step = len(data.train_batches()) * config.training.epochs
        save_model(folder / "model.h5", SavedModel(machine, data_mean, data.image_shape, text))
        tracker.log_file(folder / "model.h5")
        work.draw(machine, step, "final")
        curves = {name: {model.name: history} for name, history in record.history.items() if "seconds" not in name}
        work.show(plots.learning_curves(curves, f"{model.name}: learning curves"), "learning_curves", step, "final")
        last = {name: values[-1] for name, (_, values) in record.history.items()}
        last |= {"parameters": float(count_parameters(module)), "training_seconds": seconds}
        tracker.log_metrics({name: last[name] for name in ("parameters", "training_seconds")}, step)
        write_history(folder / "metrics.csv", record)
        report(model.name, last, record, folder)
    return last


def monitored_images(data: DataSet, flips: float, seed: int) -> MonitoredImages:
    """The validation images, as many training images, and the validation images with flipped pixels."""
    validation = data.images("validation", MOST_MONITORED)
    return MonitoredImages(validation, data.images("train", len(validation)), flip_pixels(validation, flips, seed))


def pretrain_model(work: Training, machine: BoltzmannMachine) -> BoltzmannMachine:
    """Layerwise pretraining with a Lightning trainer per RBM; the composed machine is saved beside the final one."""
    pretraining = work.model.pretraining
    assert pretraining is not None
    recipe = build_recipe(work.config, pretraining.epochs, 1.0, work.model)

    def fit(module: BoltzmannTraining, index: int) -> BoltzmannMachine:
        return work.fit(module, pretraining.epochs, f"pretraining_{index + 1}")[0]

    def training_means(encode: Encoder) -> Tensor:
        batches = list(work.data.train_batches())  # one epoch's, in any order
        return torch.stack([encode(batch).sum(0) for batch in batches]).sum(0) / sum(len(batch) for batch in batches)

    composed = pretrain(machine, recipe, work.data_mean, work.monitored, training_means, fit)
    text = (work.folder / "config.yaml").read_text()
    path = work.folder / "pretrained.h5"
    save_model(path, SavedModel(composed, work.data_mean, work.data.image_shape, text))
    work.tracker.log_file(path)
    return composed


def count_parameters(module: BoltzmannTraining) -> int:
    """Numbers that training changes."""
    return sum(parameter.numel() for parameter in module.tensors.values() if parameter.requires_grad)


def data_examples(data: DataSet) -> Figure:
    """The first training images with their labels."""
    labels = data.labels("train", EXAMPLES)
    return plots.data_examples(
        data.images("train", EXAMPLES).numpy(),
        None if labels is None else labels.numpy(),
        data.image_shape,
        f"{data.name}: training images",
        f"transform {data.transform.name}; {len(data.training_rows)} for training, {len(data.validation_rows)} for validation",
    )


def write_arrays(path: Path, arrays: Mapping[str, Tensor], fantasy_description: str, data: DataSet) -> None:
    """The images behind the final pictures, as HDF5."""
    partial = path.with_suffix(".partial")
    with h5py.File(partial, "w") as file:
        file.attrs["image_shape"] = data.image_shape
        file.attrs["data"] = f"{data.name} {data.digest}"
        for name, tensor in arrays.items():
            file[name] = tensor.cpu().numpy()
        file["fantasies"].attrs["drawn"] = fantasy_description
    os.replace(partial, path)


def write_history(path: Path, record: Record) -> None:
    """The figures of each epoch as CSV."""
    names = list(record.history)
    by_epoch = {name: dict(zip(*record.history[name], strict=True)) for name in names}
    epochs = sorted({epoch for name in names for epoch in by_epoch[name]})
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", *names])
        writer.writerows([epoch, *(by_epoch[name].get(epoch, "") for name in names)] for epoch in epochs)


def report(name: str, last: Mapping[str, float], record: Record, folder: Path) -> None:
    """What the person at the terminal reads at the end of a run."""
    training, validation = sum(record.training_seconds), sum(record.validation_seconds)
    figures = "  ".join(f"{label} {shown(key, last)}" for key, label in COMPARED.items() if key in last)
    log.info(f"{name}: {figures}")
    log.info(f"{name}: {training:.1f} s in training batches, {validation:.1f} s in validation and pictures; {folder}")


# ------------------------------------------------------------------------------------------------ sweeps


class SweepCallback(Callback):
    """Hydra's callback: before the first job of a sweep it makes the store and the parent run of the jobs."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            start_sweep(config)
        except UserError as error:  # Hydra would turn an ordinary exception into a warning and go on
            raise SystemExit(f"error: {error}") from error


def start_sweep(config: DictConfig) -> None:
    """Make the parent run; the jobs, in this process or in others, find it in the environment."""
    uri, experiment_id = open_experiment(config)
    folder = Path(config.hydra.sweep.dir).absolute()
    tracker = Tracker.start(uri, experiment_id, f"sweep {folder.name}", {tracking.OUTPUT_TAG: str(folder)})
    tracking.write_run_file(folder, tracker.run_id, uri)
    tracker.log_text(" ".join(config.hydra.overrides.task), "overrides.txt")
    os.environ[PARENT_VARIABLE] = tracker.run_id
    os.environ[PARENT_VARIABLE + "_FOLDER"] = str(folder)


def finish_sweep(failed: bool) -> None:
    """Compare the runs that the sweep finished and end its parent run. Does nothing where there was no sweep."""
    run_id = os.environ.pop(PARENT_VARIABLE, None)
    folder = os.environ.pop(PARENT_VARIABLE + "_FOLDER", None)
    if run_id is None or folder is None:
        return
    uri = json.loads((Path(folder) / tracking.RUN_FILE).read_text())["tracking_uri"]
    record = tracking.find_run(uri, folder)
    tracker = Tracker(uri, run_id, "")
    runs = tracking.children(uri, record.run_id)
    finished = [run for run in runs if run.status == "FINISHED"]
    for run in runs:
        if run.status != "FINISHED":
            log.error(f"{run.name}: {run.status.lower()}; {run.output_dir}")
    if finished:
        compare(uri, finished, Path(folder), tracker)
    tracker.finish("FAILED" if failed or len(finished) < len(runs) else "FINISHED")
    log.info(f"pictures and table: {folder}\nMLflow store: {uri} (make ui opens it)")


# ------------------------------------------------------------------------------------------------ comparison


def compare_runs(config: DictConfig, folder: Path) -> None:
    """`ebm-compare`: any runs, by folder, id or beginning of an id; a sweep stands for its runs."""
    check_keys(config, {"runs", "output_root", "tracking"}, "")
    references = [config.runs] if isinstance(config.runs, str) else list(config.runs)
    if not references:
        raise UserError("nothing to compare: give runs=[...], folders or MLflow run ids")
    uri = tracking_uri(config)
    runs: list[RunRecord] = []
    for reference in references:
        record = tracking.find_run(uri, str(reference))
        under = [run for run in tracking.children(uri, record.run_id) if run.status == "FINISHED"]
        runs += under or [record]
    compare(uri, runs, folder, None)
    log.info(f"pictures and table: {folder}")


def compare(uri: str, runs: Sequence[RunRecord], folder: Path, tracker: Tracker | None) -> None:
    """Table (CSV, Markdown) and figures of several runs, to a folder and to a parent run if there is one."""
    folder.mkdir(parents=True, exist_ok=True)
    names = unique_names(runs)
    columns: dict[str, list[str]] = {"model": list(names)}
    for key, label in COMPARED.items():
        columns[label] = [shown(key, run.metrics) for run in runs]
    rows = list(zip(*columns.values(), strict=True))
    with open(folder / "comparison.csv", "w", newline="") as file:
        csv.writer(file).writerows([list(columns), *rows])
    table = "\n".join(
        f"| {' | '.join(cells)} |" for cells in [list(columns), ["---"] + ["---:"] * (len(columns) - 1), *rows]
    )
    (folder / "comparison.md").write_text(table + "\n")
    log.info(table)

    figures = comparison_figures(dict(zip(names, runs, strict=True)))
    figures["learning_curves"] = learning_curves(uri, dict(zip(names, runs, strict=True)))
    for key, figure in figures.items():
        path = plots.save(figure, folder / f"{key}.png")
        if tracker is not None:
            tracker.log_image(plots.to_rgb(figure), key, 0)
            tracker.log_file(path, "comparison")
    if tracker is not None:
        tracker.log_table(columns, "comparison.json")
        for name in ("comparison.csv", "comparison.md"):
            tracker.log_file(folder / name, "comparison")


def unique_names(runs: Sequence[RunRecord]) -> list[str]:
    """The runs' names, with the beginning of the id where two runs share one."""
    names = [run.name for run in runs]
    return [
        f"{name} {run.run_id[:4]}" if names.count(name) > 1 else name for name, run in zip(names, runs, strict=True)
    ]


def shown(key: str, metrics: Mapping[str, float]) -> str:
    """A figure for a table; a dash where the run has none."""
    if key not in metrics:
        return "-"
    return f"{metrics[key]:.0f}" if key in COUNTED else f"{metrics[key]:.4g}"


def comparison_figures(runs: Mapping[str, RunRecord]) -> dict[str, Figure]:
    """The study's figures, with a row per run; only of runs that saw the same images."""
    arrays: dict[str, dict[str, Any]] = {}
    for name, run in runs.items():
        path = (run.output_dir or Path()) / "pictures.h5"
        if not path.is_file():
            raise UserError(
                f"the run {name} ({run.run_id}) has no pictures at {path}: it is no finished training on this machine"
            )
        with h5py.File(path) as file:
            arrays[name] = {key: file[key][:] for key in file}
            arrays[name] |= {"shape": tuple(int(size) for size in file.attrs["image_shape"])}
            arrays[name] |= {"drawn": str(file["fantasies"].attrs["drawn"])}
    first = next(iter(arrays.values()))
    same = all(
        np.array_equal(own[key], first[key])
        for own in arrays.values()
        for key in ("data", "noisy")
        if own[key].shape == first[key].shape
    )
    if not same or any(
        own["shape"] != first["shape"] or own["data"].shape != first["data"].shape for own in arrays.values()
    ):
        log.warning("the runs saw different images: the comparison has no rows of images")
        return {}
    shape = first["shape"]
    once = "up through all layers and down again by conditional modes"
    drawn = {own["drawn"] for own in arrays.values()}
    return {
        "reconstructions": plots.comparison(
            {"Data": first["data"]} | {name: own["reconstructions"] for name, own in arrays.items()},
            shape, "Reconstructions of validation images", once,
        ),
        "denoising": plots.comparison(
            {"Data": first["data"], "Noisy": first["noisy"]} | {name: own["denoised"] for name, own in arrays.items()},
            shape, "Denoising of validation images", once,
        ),
        "fantasies": plots.comparison(
            {name: own["fantasies"] for name, own in arrays.items()},
            shape, "Fantasy particles", drawn.pop() if len(drawn) == 1 else "drawn in different ways: see each run",
        ),
    }  # fmt: skip


def learning_curves(uri: str, runs: Mapping[str, RunRecord]) -> Figure:
    """Validation figures against the epoch, from the store."""
    curves: dict[str, dict[str, tuple[Sequence[float], Sequence[float]]]] = {}
    for key in ("reconstruction_error", "denoising_error", "pseudo_likelihood", "weight_norm", "weight_sparsity"):
        curves[key] = {}
        for name, run in runs.items():
            if key in run.metrics:
                steps, values = tracking.metric_history(uri, run.run_id, key)
                epoch_of = dict(zip(*tracking.metric_history(uri, run.run_id, "epoch"), strict=True))
                curves[key][name] = ([epoch_of.get(step, step) for step in steps], values)
    return plots.learning_curves(curves, "Learning curves", "figures on validation images")


# ------------------------------------------------------------------------------------------------ evaluation


def evaluate(config: DictConfig, folder: Path) -> dict[str, float]:
    """`ebm-evaluate`: figures of a finished run on a part of its own data, to the terminal, the run and a file."""
    check_keys(config, {"run", "part", "seed", "threads", "likelihood", "output_root", "tracking"}, "")
    set_up_torch(config.threads)
    record = tracking.find_run(tracking_uri(config), str(config.run))
    if record.output_dir is None or not (record.output_dir / "model.h5").is_file():
        raise UserError(
            f"the run {record.run_id} has no model.h5 in {record.output_dir}: it did not finish, or its folder was moved"
        )
    own = OmegaConf.load(record.output_dir / "config.yaml")
    assert isinstance(own, DictConfig)
    saved = load_model(record.output_dir / "model.h5")
    data = build_data(own)
    images = data.images(config.part)
    mean_field: MeanField = build(own.mean_field, "mean_field")
    flips = float(own.evaluation.flips)
    chosen = MonitoredImages(images, data.images("train", len(images)), flip_pixels(images, flips, config.seed))
    figures = monitor(saved.machine, chosen, mean_field, config.seed)
    lines = [
        f"{record.name}, {config.part} part of {data.name} ({len(images)} images, transform {data.transform.name})"
    ]
    lines += [f"  {name.replace('_', ' ')} {value:.5g}" for name, value in figures.items()]
    if config.likelihood is not None:
        steps = config.likelihood.temperatures
        if steps < 2 or config.likelihood.chains < 2:
            raise UserError(
                f"likelihood needs temperatures >= 2 and chains >= 2; got {steps} and {config.likelihood.chains}"
            )
        with tqdm(total=steps, desc="AIS", unit="temperature", mininterval=1, leave=False) as bar:
            result = log_likelihood(
                saved.machine, saved.data_mean, images, mean_field, steps, config.likelihood.chains, config.seed,
                lambda done: advance(bar),
            )  # fmt: skip
        figures["variational_bound" if result.is_bound else "log_likelihood"] = result.nats
        lines.append(f"  {result}")
        independent = independent_log_likelihood(saved.machine, saved.data_mean, images)
        figures["independent_log_likelihood"] = independent
        lines.append(f"  independent pixels at the data mean: {independent:.2f} nats")
    log.info("\n".join(lines))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evaluation.json").write_text(
        json.dumps({"run": record.run_id, "part": config.part, **figures}, indent=1)
    )
    uri = json.loads((record.output_dir / tracking.RUN_FILE).read_text())["tracking_uri"]
    tracker = Tracker(uri, record.run_id, "")
    tracker.log_metrics({f"{config.part}/{name}": value for name, value in figures.items()}, 0)
    tracker.log_text("\n".join(lines), f"evaluation_{config.part}.txt")
    return figures


def advance(bar: tqdm[Any]) -> None:
    """One step of a progress bar."""
    bar.update()


def output_folder() -> Path:
    """The folder that Hydra made for this job."""
    return Path(HydraConfig.get().runtime.output_dir)
