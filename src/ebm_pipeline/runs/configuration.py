"""From a composed configuration to objects: instantiation, checks, the store, torch's settings."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from ebm_pipeline.runs.help import nearest
from ebm_pipeline.runs.moved import with_current_names
from ebm_pipeline.runs.trust import check_made, in_own_code, plain_yaml
from ebm_pipeline.support.errors import MOST_SEED, UserError, check_whole
from ebm_pipeline.support.signatures import check_arguments, check_fields, check_kind, fits
from ebm_pipeline.tracking.address import SQLITE, check_address
from ebm_pipeline.tracking.moved import ARTIFACTS, set_places_right

if TYPE_CHECKING:
    from ebm_pipeline.data import DataSet
    from ebm_pipeline.data.parts import Images

# What a library raises for an option that it does not like.
REFUSALS = (
    TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RuntimeError, MemoryError, ImportError,
)  # fmt: skip
SEARCH = "hydra_plugins.ebm_search.OptunaSearch"  # the sweeper of conf/sweep/optuna.yaml
STORE_KEYS = {"uri": str | None}  # of `tracking`, in a command that reads
READER_KEYS = {  # of a command that reads a run; `run` is taken as it was typed
    "run": Any, "part": str, "seed": int, "threads": int | None, "output_root": str, "tracking": Mapping,
    "trust": Sequence | None,
}  # fmt: skip
OWN_DATA = "ebm_pipeline.data."
MOST_AHEAD = 200_000_000  # bytes of a file that is read ahead: who ends the command meanwhile waits for it

_ahead: tuple[Any, Future[DataSet]] | None = None  # plain settings of data that are read, and these


def build(config: Any, what: str, kind: Any = object) -> Any:
    """Hydra's instantiate, of something of this kind; whatever a configuration gets wrong becomes one message."""
    try:
        _check_calls(OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config, what)
        made = instantiate(config)
    except (InstantiationException, OmegaConfBaseException) as error:
        cause = error.__cause__ or error.__context__
        if isinstance(cause, UserError) or (cause is not None and in_own_code(cause)):
            raise cause from None
        raise _does_not_work(what, cause or error) from error
    if isinstance(made, DictConfig) and kind is not object:
        without = f", as evaluation=full does, or {what}=null" if fits(None, kind) else ""
        raise UserError(
            f"{what} has settings ({', '.join(map(str, made))}) and no _target_, which says what they are settings of: take a "
            f"choice that gives it one{without}"
        )
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
    except _refusals() as error:
        if in_own_code(error):
            raise
        raise _does_not_work(what, error) from error


def _refusals() -> tuple[type[Exception], ...]:
    """REFUSALS and Lightning's own, where a command has loaded it: seconds, which most have no need of."""
    lightning = sys.modules.get("lightning_fabric.utilities.exceptions")
    return REFUSALS if lightning is None else (*REFUSALS, lightning.MisconfigurationException)


def check_keys(config: DictConfig, known: Mapping[str, Any], where: str) -> None:
    """Raise UserError for keys that nothing reads (most often a typing error after a `+`), for keys that are missing, and
    for values of another type than `known` has by name.
    """
    unknown = sorted(set(map(str, config)) - set(known))
    if unknown:
        near = nearest(unknown[0], sorted(known))
        raise UserError(
            f"unknown option {', '.join(where + key for key in unknown)}{f': {near}' if near else ''}; known: "
            f"{', '.join(sorted(known))}"
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


def read_run_config(folder: Path, trusted: Sequence[str] = ()) -> DictConfig:
    """The config.yaml of a finished run: see `parse_run_config`."""
    path = folder / "config.yaml"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): take another copy, or train again") from error
    return parse_run_config(text, path, trusted)


def parse_run_config(text: str, path: Path, trusted: Sequence[str] = ()) -> DictConfig:
    """The configuration (YAML) that a run left in `path`, as plain values under the names of today.

    Raises UserError if it is damaged, or if what is made of it names something that is not this package's and none of the
    modules `trusted` by the user (`trust`).
    """
    try:
        found = with_current_names(plain_yaml(text))
    except UserError as error:
        raise UserError(f"{path} cannot be read ({error}): take another copy, or train again") from error
    check_made(found, str(path), trusted)
    lacking = [key for key in ("data", "model", "mean_field", "evaluation") if not isinstance(found.get(key), dict)]
    if lacking:
        raise UserError(
            f"{path} is no configuration of a run: it has no {', '.join(lacking)}. Take another copy, or train again"
        )
    return DictConfig(found)


def tracking_uri(config: DictConfig) -> str:
    """The configured store, or sqlite under output_root; raises UserError if that is no address of a store."""
    uri: str = config.tracking.uri or f"{SQLITE}{Path(config.output_root).absolute() / 'mlflow.db'}"
    check_address(uri)
    return uri


def open_experiment(config: DictConfig) -> tuple[str, str]:
    """(uri, experiment id), the store made if it is missing."""
    from ebm_pipeline.tracking import store

    uri = tracking_uri(config)
    root = Path(config.output_root).absolute()
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write to output_root={root} ({error}): set EBM_OUTPUT_DIR to a folder that can be written"
        ) from error
    set_places_right(uri)
    return uri, store.prepare_store(uri, root / ARTIFACTS, config.tracking.experiment)


def check_seed(seed: object) -> None:
    """Raise UserError unless NumPy and torch take it."""
    check_whole("seed", seed, 0, MOST_SEED)


def set_up_torch(threads: int | None) -> None:
    """Threads, and the fastest products that are still float32."""
    import torch

    from ebm_pipeline.models.numerics import choose_float32_products

    if threads is not None:
        check_whole("threads, if not null,", threads, 1, 1024)
        torch.set_num_threads(threads)
    choose_float32_products()


def build_data(config: DictConfig) -> DataSet:
    """The data set; where the file decides the number of pixels or of classes, the configuration learns it."""
    from ebm_pipeline.data import DataSet

    data: DataSet = _read_ahead(config.data) or build(config.data, "data", DataSet)
    with open_dict(config):
        if config.data.units is None:
            config.data.units = data.units
        if data.visible.classes and config.data.get("classes") is None:
            config.data.classes = data.visible.classes
        if data.values.categories and config.data.get("categories") is None:
            config.data.categories = data.values.categories
    return data


def read_data_ahead(config: DictConfig) -> None:
    """Begin to build the data set in a thread, beside imports: reading and computing leave Python to those.

    `build_data` takes it, or raises what went wrong. Nothing happens where the file is still to be made, or large, or where code
    of others has to do with it.
    """
    global _ahead
    import ebm_pipeline.data  # noqa: F401 (all of torch, before two threads import)

    with suppress(OmegaConfBaseException, OSError, LookupError, TypeError, RuntimeError):  # `build_data` says more
        settings = OmegaConf.to_container(config.data, resolve=True)
        targets = [value for key, value in _items(settings) if key == "_target_"]
        own = all(str(target).startswith(OWN_DATA) for target in targets)
        if not own or not isinstance(settings, dict) or not (path := Path(settings["path"])).is_file():
            return
        if path.stat().st_size <= MOST_AHEAD:
            found: Future[DataSet] = Future()
            Thread(target=_read, args=(settings, config.get("threads"), found), name="data").start()
            _ahead = settings, found


def _read(settings: Any, threads: int | None, found: Future[DataSet]) -> None:
    from ebm_pipeline.data import DataSet

    try:
        set_up_torch(threads)  # which is of each thread, and sums depend on it
        found.set_result(build(settings, "data", DataSet))
    except BaseException as error:
        found.set_exception(error)


def _read_ahead(config: DictConfig) -> DataSet | None:
    """What was read ahead of these settings, once."""
    global _ahead
    ahead, _ahead = _ahead, None
    return ahead[1].result() if ahead is not None and ahead[0] == OmegaConf.to_container(config, resolve=True) else None


def _items(node: Any) -> Iterator[tuple[Any, Any]]:
    """Keys and values of nested mappings and lists."""
    for key, value in node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ():
        yield key, value
        yield from _items(value)


def build_images(config: DictConfig) -> tuple[Images, str | None]:
    """The images of the data set's file, whatever its numbers are and its transform would make of them; and data.values."""
    from ebm_pipeline.data import DataSet
    from ebm_pipeline.data.transforms import Transform

    build(config.data.transform, "data.transform", Transform)
    if not isinstance(labels := config.data.get("labels", False), bool):
        raise UserError(f"data.labels must be true or false; got {labels!r}")
    plainly = config.copy()
    with open_dict(plainly):
        plainly.data.transform = {"_target_": "ebm_pipeline.data.transforms.Identity"}
        plainly.data.values, plainly.data.labels = "real", False
    data: DataSet = build(plainly.data, "data", DataSet)
    return data.read, config.data.get("values")


def run_references(key: str) -> list[str]:
    """The runs named by the override `key=...`: as Hydra reads it where it is quoted, else as typed, since an id such as 7e12 is
    no number.
    """
    words = [word for word in HydraConfig.get().overrides.task if word.lstrip("+").startswith(f"{key}=")]
    if not words:
        return []
    typed = words[-1].split("=", 1)[1]
    if "'" in typed or '"' in typed:
        value = OverridesParser.create().parse_override(words[-1]).value()
        return [str(one) for one in (value if isinstance(value, list) else [value])]
    return [name for name in (name.strip() for name in typed.strip().strip("[]").split(",")) if name]


def of_search() -> bool:
    """Whether this job is a trial of `sweep=optuna`."""
    hydra = HydraConfig.get()
    return bool(hydra.mode == RunMode.MULTIRUN and hydra.sweeper.get("_target_") == SEARCH)


def output_folder() -> Path:
    """The folder that Hydra made for this job."""
    return Path(HydraConfig.get().runtime.output_dir)
