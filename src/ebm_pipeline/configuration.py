"""From a composed configuration to objects: instantiation, checks, the store, torch's settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from ebm_pipeline import tracking
from ebm_pipeline.data import DataSet
from ebm_pipeline.errors import UserError, check_whole
from ebm_pipeline.numerics import choose_float32_products
from ebm_pipeline.signatures import check_arguments, check_fields, check_kind

MOST_SEED = 2**32 - 1  # what NumPy takes
# What the `_target_` of a configuration that was read from a run's folder may name: a run may come from a stranger.
TRUSTED = ("ebm_pipeline", "torch.optim", "pytorch_lightning")

# What a library raises for an option that it does not like.
REFUSALS = (
    TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RuntimeError, MemoryError, MisconfigurationException,
)  # fmt: skip
STORE_KEYS = {"uri": str | None}  # of `tracking`, in a command that reads
READER_KEYS = {  # of a command that reads a run; `run` is taken as it was typed
    "run": Any, "part": str, "seed": int, "threads": int | None, "output_root": str, "tracking": Mapping,
}  # fmt: skip


def build(config: Any, what: str, kind: Any = object) -> Any:
    """Hydra's instantiate, of something of this kind; whatever a configuration gets wrong becomes one message."""
    try:
        _check_calls(OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config, what)
        made = instantiate(config)
    except (InstantiationException, OmegaConfBaseException) as error:
        cause = error.__cause__ or error.__context__
        if isinstance(cause, UserError):
            raise cause from error
        raise _does_not_work(what, cause or error) from error
    check_kind(what, made, kind)
    check_fields(made, what)
    return made


def _check_calls(config: Any, where: str) -> None:
    """Raise UserError for plain values, at any depth, that the thing behind their node's `_target_` does not take."""
    if isinstance(config, Mapping):
        if "_target_" in config:
            target = config["_target_"]
            check_kind(f"{where}._target_", target, str)
            with suppress(ImportError, ValueError, AttributeError):  # of which Hydra's own message says more
                check_arguments(get_object(target), config, where)
        for key, value in config.items():
            _check_calls(value, f"{where}.{key}")
    elif isinstance(config, list):
        for index, value in enumerate(config):
            _check_calls(value, f"{where}.{index}")


def _does_not_work(what: str, error: BaseException) -> UserError:
    shown = (str(error) or repr(error)).splitlines()[0]
    return UserError(f"the configuration of {what} does not work: {shown}. See conf/ for the options it has")


def call(function: Callable[..., Any], what: str, *arguments: Any, **options: Any) -> Any:
    """Call what a `_partial_` configuration made; whatever a library refuses becomes one message."""
    try:
        return function(*arguments, **options)
    except REFUSALS as error:
        raise _does_not_work(what, error) from error


def check_keys(config: DictConfig, known: Mapping[str, Any], where: str) -> None:
    """Raise UserError for keys that nothing reads (most often a typing error after a `+`), for keys that are missing, and
    for values of another type than `known` has by name.
    """
    unknown = sorted(set(map(str, config)) - set(known))
    if unknown:
        raise UserError(
            f"unknown option {', '.join(where + key for key in unknown)}; known: {', '.join(sorted(known))}"
        )
    given = plain(config)
    for key, kind in known.items():
        if key not in given:
            raise UserError(f"the option {where}{key} is missing: give it, {where}{key}=...")
        check_kind(where + key, given[key], kind)


def plain(config: DictConfig) -> dict[str, Any]:
    """The resolved configuration in plain containers; raises UserError where it cannot be resolved."""
    try:
        return _resolved(config)
    except OmegaConfBaseException as error:
        where = f" ({error.full_key})" if error.full_key else ""
        raise UserError(
            f"the configuration cannot be resolved: {str(error).splitlines()[0]}{where}. Give that value, or mend the reference "
            "to it"
        ) from error


def _resolved(config: DictConfig) -> dict[str, Any]:
    container = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def read_run_config(folder: Path) -> DictConfig:
    """The config.yaml of a finished run: see `parse_run_config`."""
    path = folder / "config.yaml"
    try:
        text = path.read_text()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): take another copy, or train again") from error
    return parse_run_config(text, path)


def parse_run_config(text: str, path: Path) -> DictConfig:
    """The configuration (YAML) that a run left in `path`, resolved.

    Raises UserError if it is damaged, or if a `_target_` in it is none of TRUSTED: instantiating it would run whatever the
    file says.
    """
    try:
        config = OmegaConf.create(text)
        if not isinstance(config, DictConfig) or not config:
            raise UserError(f"{path} is no configuration of a run: take another copy, or train again")
        config = OmegaConf.create(_resolved(config))
    except (ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(
            f"{path} cannot be read ({str(error).splitlines()[0]}): take another copy, or train again"
        ) from error
    for target in _targets(config):
        if not _trusted(target):
            raise UserError(
                f"{path} names {target!r} as _target_: only functions and classes of {', '.join(TRUSTED)} are called from a "
                "run's own configuration. If the run is yours, mend the line; if it is not, do not trust it"
            )
    lacking = [
        key for key in ("data", "model", "mean_field", "evaluation") if not isinstance(config.get(key), DictConfig)
    ]
    if lacking:
        raise UserError(
            f"{path} is no configuration of a run: it has no {', '.join(lacking)}. Take another copy, or train again"
        )
    return config


def _targets(config: Any) -> Iterator[Any]:
    if isinstance(config, Mapping):
        if "_target_" in config:
            yield config["_target_"]
        for value in config.values():
            yield from _targets(value)
    elif isinstance(config, Sequence) and not isinstance(config, str):
        for value in config:
            yield from _targets(value)


def _trusted(target: Any) -> bool:
    """Whether the name and the module where the thing is defined are trusted: `ebm_pipeline.pipeline.os.system` is not."""
    names = [target]
    if _within(target):
        try:
            names.append(get_object(target).__module__)
        except (AttributeError, ImportError, ValueError):
            return False
    return all(map(_within, names))


def _within(name: Any) -> bool:
    return isinstance(name, str) and any(name.startswith(f"{trusted}.") for trusted in TRUSTED)


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


def check_seed(seed: object) -> None:
    """Raise UserError unless NumPy and torch take it."""
    check_whole("seed", seed, 0, MOST_SEED)


def set_up_torch(threads: int | None) -> None:
    """Threads, and the fastest products that are still float32."""
    if threads is not None:
        check_whole("threads, if not null,", threads, 1, 1024)
        torch.set_num_threads(threads)
    choose_float32_products()


def build_data(config: DictConfig) -> DataSet:
    """The data set; where the file decides the number of pixels or of classes, the configuration learns it."""
    data: DataSet = build(config.data, "data", DataSet)
    with open_dict(config):
        if config.data.units is None:
            config.data.units = data.units
        if data.visible.classes and config.data.get("classes") is None:
            config.data.classes = data.visible.classes
    return data


def run_references(key: str) -> list[str]:
    """The runs named by the override `key=...` as they were typed: an id such as 7e12 is no number."""
    typed = [
        word.split("=", 1)[1] for word in HydraConfig.get().overrides.task if word.lstrip("+").startswith(f"{key}=")
    ]
    names = [name.strip().strip("'\"") for text in typed[-1:] for name in text.strip().strip("[]").split(",")]
    return [name for name in names if name]


def output_folder() -> Path:
    """The folder that Hydra made for this job."""
    return Path(HydraConfig.get().runtime.output_dir)
