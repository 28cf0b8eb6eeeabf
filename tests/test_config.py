"""Every yaml of conf/ composes and becomes the object it names; whatever a user gets wrong ends in one message."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from commands import PLAIN, composed
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from ebm_pipeline.cli import config_folder
from ebm_pipeline.data.sources import Idx
from ebm_pipeline.data.transforms import Transform
from ebm_pipeline.evaluation.card import Likelihood
from ebm_pipeline.evaluation.diagnostics import Diagnostics
from ebm_pipeline.evaluation.verdict import Criteria
from ebm_pipeline.models.initialization import initialize
from ebm_pipeline.models.layers import LAYERS
from ebm_pipeline.runs import plan, train
from ebm_pipeline.runs.configuration import build, build_data, plain, read_run_config
from ebm_pipeline.sampling import Gibbs, ParallelTempering, TrajectoryTempering
from ebm_pipeline.support.errors import UserError
from ebm_pipeline.tasks import Task
from ebm_pipeline.training import Model, Pictures
from ebm_pipeline.training.objectives import ContrastiveDivergence, PersistentContrastiveDivergence, Tap

CONF = Path(config_folder())
OPTIONS = [
    (path.parent.relative_to(CONF).as_posix(), path.stem)
    for path in sorted(CONF.rglob("*.yaml"))
    if path.parent != CONF
]
OWN = {("data", "hdf5"), ("data", "file")}  # which ask for a path
GROUPS = {group for group, _ in OPTIONS}


def options(group: str) -> list[str]:
    return [option for own, option in OPTIONS if own == group]


def built(group: str, option: str, *overrides: str) -> Any:
    given = ("data.categories=4",) if option == "rbm_categories" else ()  # which loading the data would find
    config = composed(f"{group}={option}", *given, *overrides)
    return build(OmegaConf.select(config, group.replace("/", ".")), group)


# ---------------------------------------------------------------------------------------------- every yaml


def test_every_group_is_tested_here() -> None:
    """A new group needs a test of its own below; a new option of a group is picked up by itself."""
    assert {
        "card", "data", "data/transform", "diagnosis", "evaluation", "experiment", "experiment/table", "hydra/sweeper",
        "initialization",
        "model", "objective", "optimizer", "plots", "rate", "recipe", "recipe_on", "sampler", "scheduler", "sweep", "task",
        "trainer", "verdict", "width",
    } == GROUPS  # fmt: skip
    assert {path.stem for path in CONF.glob("*.yaml")} == {
        "train",
        "evaluate",
        "sample",
        "compare",
        "data",
        "serve",
        "sync",
        "ui",
    }


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_and_resolves(group: str, option: str) -> None:
    if group == "card":
        config = composed(f"card@likelihood={option}", "run=x", name="evaluate")
        assert isinstance(build(config.likelihood, "likelihood"), Likelihood)
        return
    if group == "diagnosis":
        config = composed(f"diagnosis@diagnostics={option}", "run=x", name="evaluate")
        assert isinstance(build(config.diagnostics, "diagnostics"), Diagnostics)
        return
    if group == "task":
        assert isinstance(build(composed(f"task={option}", "run=x", name="sample").task, "task"), Task)
        return
    if (group, option) == ("sweep", "optuna"):
        pytest.importorskip("optuna", reason="needs the extra: pip install '.[sweeps]'")
    if group == "width":  # by the data set alone
        assert composed(f"data={option}").hidden_units == composed("data=mnist", f"width={option}").hidden_units != 200
        return
    given = ("data.path=images.h5",) if (group, option) in OWN else ()
    config = composed(f"experiment=table/{option}" if group == "experiment/table" else f"{group}={option}", *given)
    assert set(plain(config)) - {"experiment"} == set(plan.TRAIN_KEYS)


@pytest.mark.parametrize("option", options("data"))
def test_every_data_set_has_a_source_and_a_transform(option: str, tmp_path: Path) -> None:
    config = composed(f"data={option}", "data.path=images.h5", output_root=tmp_path)
    assert callable(instantiate(config.data.source))
    assert isinstance(instantiate(config.data.transform), Transform)


@pytest.mark.parametrize("option", ["digits", "bars_and_stripes"])
def test_data_sets_that_need_no_download_load(option: str, tmp_path: Path) -> None:
    config = composed(f"data={option}", output_root=tmp_path)
    data = build_data(config)
    assert data.units == config.data.units
    assert next(iter(data.train_batches())).shape == (100, data.units)
    assert data.path.parent == tmp_path / "data"


def test_anybodys_file_gives_the_model_its_units(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "own.h5", "w") as file:
        file["train/images"] = np.eye(30, 6, dtype=np.uint8).reshape(30, 2, 3)
    config = composed("data=file", f"data.path={tmp_path / 'own.h5'}")
    assert (build_data(config).image_shape, config.data.units) == ((2, 3), 6)
    assert build(config.model, "model").layers["visible"].units == 6


@pytest.mark.parametrize("option", ["mnist", "fashion_mnist"])
def test_mnist_loads_from_its_folder(option: str, tmp_path: Path, mnist_folder: Path) -> None:
    if not (mnist_folder / option).is_dir():
        pytest.skip(f"needs the four IDX files in EBM_DATA_DIR/{option}")
    data = build_data(composed(f"data={option}", output_root=tmp_path))
    assert (data.units, data.image_shape, len(data.training_rows)) == (784, (28, 28), 57_000)


@pytest.mark.parametrize("option", ["mnist", "fashion_mnist"])
def test_downloads_are_checked_against_four_sums(option: str) -> None:
    source = instantiate(composed(f"data={option}").data.source)
    assert isinstance(source, Idx)
    assert (source.name, len(set(source.md5)), {len(md5) for md5 in source.md5}) == (option, 4, {32})


@pytest.mark.parametrize(
    "option", sorted({*options("data/transform")} - {"one_hot"})
)  # for categories, in test_own_data
def test_every_transform_gives_float32_images(option: str, tmp_path: Path) -> None:
    config = composed("data=bars_and_stripes", f"data/transform={option}", output_root=tmp_path)
    data = build_data(config)
    images = data.images("validation")
    assert (images.dtype, images.shape) == (torch.float32, (len(data.validation_rows), 16))
    assert data.transform.name == option


@pytest.mark.parametrize("option", options("model"))
@pytest.mark.parametrize("initialization", options("initialization"))
def test_every_model_makes_a_machine(option: str, initialization: str) -> None:
    model = built("model", option)
    assert isinstance(model, Model)
    weights = built("initialization", initialization)
    layers = list(model.layers.values())
    classes = 10 if option == "rbm_labels" else 0
    mean = torch.cat((torch.linspace(0.1, 0.9, 64), torch.full((classes,), 0.1)))
    generator = torch.Generator().manual_seed(1)
    images = (torch.rand(200, 64 + classes, generator=generator) < mean).float()
    machine = initialize(layers, weights, mean, generator, None if layers[1].units > 64 else images)
    assert machine.layers[0].units == 64 + classes
    assert all(layer.units == (128 if layer.kind == "mixed" else 64) for layer in machine.layers[1:])
    assert all(0 < float(matrix.std()) < 0.2 for matrix in machine.weights)
    if option == "rbm_categories":  # probabilities of the categories of a site add up to one
        mean = (mean.reshape(-1, 4) / mean.reshape(-1, 4).sum(1, keepdim=True)).flatten()
    torch.testing.assert_close(machine.layers[0].mean(torch.zeros(64 + classes)), mean)
    names = set(machine.named_tensors())
    assert names >= {*model.fixed, *(name for penalty in model.penalties for name in penalty.parameters)}
    assert all(layer.kind in LAYERS for layer in layers)


def test_the_studys_models_are_as_the_study_has_them() -> None:
    kinds = {option: [layer.kind for layer in built("model", option).layers.values()] for option in options("model")}
    assert kinds["hopfield"] == ["bernoulli", "gaussian"]
    assert kinds["rbm"] == kinds["rbm_l1"] == ["bernoulli"] * 2
    assert kinds["dbm"] == ["bernoulli"] * 3
    assert kinds["grbm"] == ["learned_gaussian", "bernoulli"]
    penalties = {option: built("model", option).penalties for option in options("model")}
    assert [(p.strength, list(p.parameters)) for p in penalties["rbm_l1"]] == [(1e-3, ["weights/0"])]
    assert [(p.strength, list(p.parameters)) for p in penalties["dbm"]] == [(1e-3, ["weights/0", "weights/1"])]
    assert penalties["rbm"] == []
    sizes = [layer.units for layer in built("model", "dbm", "data=mnist").layers.values()]
    assert sizes == [784, 200, 200]


@pytest.mark.parametrize("option", options("objective"))
def test_every_objective_takes_sampler_and_mean_field(option: str) -> None:
    objective = built("objective", option, "sampler.steps=7", "mean_field.max_steps=3")
    assert objective.mean_field.max_steps == 3
    if not isinstance(objective, Tap):  # it samples nothing
        assert isinstance(objective, (ContrastiveDivergence, PersistentContrastiveDivergence))
        assert objective.sampler.steps == 7


@pytest.mark.parametrize("option", options("sampler"))
def test_every_sampler_instantiates(option: str) -> None:
    assert isinstance(built("sampler", option, "sampler.steps=3"), (Gibbs, ParallelTempering, TrajectoryTempering))


@pytest.mark.parametrize(
    ("optimizer", "scheduler"), list(itertools.product(options("optimizer"), options("scheduler")))
)
def test_every_optimizer_and_schedule_make_steps(optimizer: str, scheduler: str) -> None:
    config = composed(f"optimizer={optimizer}", f"scheduler={scheduler}", "training.epochs=4")
    parameter = torch.nn.Parameter(torch.ones(2))
    stepping = build(config.optimizer, "optimizer")([parameter])
    schedule = build(config.scheduler, "scheduler")(stepping)
    rates = []
    for _ in range(4):
        rates.append(stepping.param_groups[0]["lr"])
        parameter.grad = torch.ones(2)
        stepping.step()
        schedule.step()
    assert rates[0] == pytest.approx(config.optimizer.lr)
    expected = {
        "constant": [1, 1, 1, 1],
        "linear": [1, 0.75, 0.5, 0.25],
        "exponential": [1, 0.9, 0.81, 0.729],
        "step": [1, 1, 1, 1],  # its first step is later
        "power_law": [1, 1 / 2, 1 / 3, 1 / 4],
    }
    assert [rate / rates[0] for rate in rates] == pytest.approx(expected[scheduler])
    assert float(parameter.detach().max()) < 1


@pytest.mark.parametrize("option", options("evaluation"))
def test_every_evaluation_instantiates(option: str) -> None:
    assert isinstance(built("evaluation", option), Pictures)


@pytest.mark.parametrize("option", options("trainer"))
def test_every_trainer_instantiates(option: str) -> None:
    make = built("trainer", option)
    if option == "gpu" and not torch.cuda.is_available():
        assert make.func is pl.Trainer  # without a GPU it cannot be called
        return
    given = {"accelerator": "cpu"} if option == "ddp" else {}  # with any number of GPUs
    assert isinstance(make(logger=False, enable_checkpointing=False, **given), pl.Trainer)


def test_a_gpu_has_more_chains_unless_they_are_given() -> None:
    assert composed("trainer=gpu").training.chains > composed().training.chains
    assert composed("trainer=gpu", "training.chains=10").training.chains == 10


@pytest.mark.parametrize("option", options("verdict"))
def test_every_verdict_has_its_thresholds(option: str) -> None:
    assert isinstance(built("verdict", option), Criteria)
    full = composed("evaluation=full", f"verdict={option}")
    assert full.verdict == composed("run=x", name="evaluate").verdict
    assert full.diagnostics == composed("run=x", name="evaluate").diagnostics


def test_the_study_is_as_the_issue_states_it() -> None:
    config = composed("experiment=notebook")
    assert (config.seed, config.data.name, config.data.batch_size) == (137, "mnist", 100)
    assert config.initialization._target_.endswith("glorot_normal")
    assert (config.optimizer._target_, config.optimizer.lr) == ("torch.optim.Adam", 0.01)
    assert (config.scheduler._target_.split(".")[-1], config.scheduler.coefficient) == ("power_law", 1.0)
    assert config.objective._target_.endswith("PersistentContrastiveDivergence")
    assert (config.sampler.steps, config.training.epochs, config.training.centring) == (1, 20, None)
    pictures = build(config.evaluation, "evaluation")
    assert (pictures.digits, pictures.weight_tiles, pictures.flips) == (8, 25, 0.15)
    assert (pictures.fantasy_sweeps, pictures.fantasy_mean_field, pictures.fantasy_start_beta) == (100, False, 1.0)
    dbm = build(composed("experiment=notebook", "model=dbm").model, "model")
    assert dbm.pretraining.epochs == 20
    assert dbm.pretraining.joint_learning_rate * config.optimizer.lr == pytest.approx(1e-3)


@pytest.mark.parametrize("name", ["evaluate", "compare", "data"])
def test_the_other_commands_compose(name: str, tmp_path: Path) -> None:
    given = {"evaluate": ["run=1f3a"], "compare": ["runs=[1f3a]"], "data": []}[name]
    config = composed(*given, name=name, output_root=tmp_path)
    assert plain(config)["output_root"] == str(tmp_path)


def test_digits_train_for_at_least_ten_thousand_updates(tmp_path: Path) -> None:
    config = composed("data=digits", output_root=tmp_path)
    assert len(build_data(config).train_batches()) * config.training.epochs >= 10_000


# ---------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("what", "kind", "cure"),
    [
        ("likelihood", Likelihood | None, ", as evaluation=full does, or likelihood=null"),
        ("diagnostics", Diagnostics | None, ", as evaluation=full does, or diagnostics=null"),
        ("optimizer", Callable, ""),  # which no choice leaves out: no cure that would not be one
    ],
)
def test_settings_of_nothing_say_what_gives_them_a_target(what: str, kind: Any, cure: str) -> None:
    """A recipe sets the card's temperatures, and `evaluation=default` after it has taken the card away."""
    config = composed("experiment=table/rbm16", "evaluation=default", "+diagnostics.chains=5", "~optimizer._target_")
    with pytest.raises(UserError) as caught:
        build(config[what], what, kind)
    named = ", ".join(key for key in config[what] if key != "_partial_")
    assert str(caught.value) == (
        f"{what} has settings ({named}) and no _target_, which says what they are settings of: take a choice that gives it "
        f"one{cure}"
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model=nothing", "nothing"),
        ("modle=rbm", "modle"),
        ("training.epoch=3", "epoch"),
        ("optimizer=adam2", "adam2"),
        ("experiment=none_such", "none_such"),
        ("training.epochs=[1", "no viable alternative at input '[1'"),
    ],
)
def test_what_hydra_knows_to_be_wrong_is_its_message(override: str, message: str) -> None:
    with pytest.raises(HydraException, match=message.replace("[", r"\[")):
        composed(override)


MISTAKES = [
    # a typing error after +
    ("+model.n_hiden=3", "n_hiden"),
    ("+training.epoch=3", r"unknown option training\.epoch"),
    ("+sead=3", "unknown option sead"),
    ("+sampler.n=3", "sampler|objective"),
    ("+data.batchsize=3", "batchsize"),
    ("+evaluation.digit=3", "digit"),
    ("+mean_field.steps=3", "steps"),
    ("+optimizer.momentun=0.5", "momentun"),
    ("+scheduler.rate=0.5", "rate"),
    ("+initialization.sdt=0.5", "sdt"),
    ("+trainer.max_epoch=5", "max_epoch"),
    ("+tracking.url=x", "url"),
    ("+model.layers.hidden.unit=3", "unit"),
    # values that make no sense
    ("training.epochs=-1", r"training\.epochs .*got -1"),
    ("training.epochs=0", r"training\.epochs"),
    ("training.epochs=2.5", r"training\.epochs .*got 2\.5"),
    ("training.epochs=many", r"training\.epochs .*many"),
    ("training.chains=0", "chains"),
    ("training.chains=many", "chains"),
    ("training.chains=2.5", "chains"),
    ("training.centring=2", "centring"),
    ("training.centring=yes_please", "centring"),
    ("training.products=float8", "float8"),
    ("optimizer.lr=abc", "lr"),
    ("optimizer.lr=-1", "lr|learning rate"),
    ("optimizer.lr=null", "lr"),
    ("training.averaging=0", r"training\.averaging"),
    ("training.averaging=1.5", r"training\.averaging"),
    ("sampler.steps=0", r"sampler\.steps"),
    ("sampler.steps=1.5", r"sampler\.steps"),
    ("mean_field.max_steps=0", "max_steps"),
    ("mean_field.tolerance=abc", "tolerance"),
    ("initialization.std=-1", "standard deviation"),
    ("initialization.std=abc", "std|standard deviation|initialization"),
    ("data.batch_size=0", "batch_size"),
    ("data.batch_size=abc", "batch_size|data"),
    ("data.validation_fraction=1", "validation_fraction"),
    ("data.units=9", "9"),
    ("data.source.size=99", "size.*99"),
    ("model.layers.hidden.units=0", "units.*0"),
    ("model.layers.hidden.units=-3", "units.*-3"),
    ("model.layers.visible.units=5", "5 visible units"),
    ("model.fixed=[weights/7]", "weights/7"),
    ("evaluation.digits=0", "digits"),
    ("evaluation.flips=1.5", "flips"),
    ("evaluation.flips=abc", "flips|evaluation"),
    ("evaluation.fantasy_start_beta=0", "fantasy_start_beta"),
    ("threads=0", "threads"),
    ("threads=two", "threads"),
    ("seed=-1", "seed"),
    ("seed=abc", "seed"),
    ("trainer.accelerator=abacus", "abacus"),
    ("optimizer._target_=torch.optim.Nothing", "Nothing"),
    ("model._target_=ebm_pipeline.nothing.Model", "nothing"),
    ("output_root=/proc/nothing", "/proc/nothing"),
    ("tracking.uri=http://127.0.0.1:9", "does not answer"),
    ("tracking.uri=nonsense://store", "nonsense"),
]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all: a fresh one costs seconds."""
    return tmp_path_factory.getbasetemp() / "outputs"


@pytest.fixture(scope="module")
def tiny(outputs: Path) -> DictConfig:
    return composed(*PLAIN, output_root=outputs)


@pytest.mark.parametrize(("override", "message"), MISTAKES)
def test_a_mistake_is_one_message_and_no_traceback(
    override: str, message: str, tiny: DictConfig, tmp_path: Path
) -> None:
    key, value = override.split("=", 1)
    config = tiny.copy()  # composing anew for each takes ten times as long
    OmegaConf.update(config, key.lstrip("+"), OmegaConf.from_dotlist([f"value={value}"]).value, force_add=True)
    with pytest.raises(UserError, match=message):
        train.train(config, tmp_path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=hopfield", "training.products=bfloat16"], "binary units only"),
        (["model=rbm_l1", "model.penalties.0.strength=-1"], "strength"),
        (["model=rbm_l1", "model.penalties.0.parameters=[weights/5]"], "weights/5"),
        (["model=grbm", "model.layers.visible.variance=-1"], "variance"),
        (["sampler=tempering", "sampler.replicas=1"], r"sampler\.replicas"),
        (["sampler=tempering", "objective=cd"], "sampler=gibbs"),
        (["sampler=trajectory", "sampler.acceptance=1"], r"sampler\.acceptance"),
        (["sampler=trajectory", "objective=cd"], "sampler=gibbs"),
        (["objective.data_sweeps=0"], "data_sweeps"),
        (["objective=tap", "objective.order=4"], r"objective\.order"),
        (["objective=tap", "training.products=bfloat16"], "products=float32"),
        (["model=dbm", "model.pretraining.epochs=0"], "epochs.*0"),
        (["model=dbm", "model.pretraining.joint_learning_rate=-1"], "joint_learning_rate"),
        (["data=hdf5", "data.path=/nowhere.h5"], "nowhere.h5"),
        (["scheduler=step", "scheduler.step_size=0"], "step_size|scheduler"),
        (["scheduler=exponential", "scheduler.gamma=abc"], "gamma|scheduler"),
        (["optimizer=adam", "optimizer.betas=[2,3]"], "beta"),
        (["trainer=ddp", "trainer.devices=auto"], r"trainer\.devices.*auto"),
        (["trainer=ddp", "training.chains=11"], r"training\.chains=11 .*2 processes"),
        (["trainer=ddp", "data.batch_size=33"], r"data\.batch_size=33 .*2 processes"),
        (["trainer=ddp", "trainer.strategy=fsdp"], r"trainer\.strategy .*'fsdp'"),
        (["trainer.devices=2"], "2 devices: several take trainer=ddp"),
        pytest.param(
            ["trainer=gpu"], "(?i)gpu|cuda",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)  # fmt: skip
def test_mistakes_with_a_choice_are_one_message(
    overrides: list[str], message: str, outputs: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        train.train(composed(*PLAIN, *overrides, output_root=outputs), tmp_path)


# ---------------------------------------------------------------------------------------------- a finished run's own file


@pytest.mark.parametrize("model", ["rbm_l1", "dbm"])
def test_a_runs_own_configuration_is_read_as_it_was(model: str, tmp_path: Path) -> None:
    config = composed(*PLAIN, f"model={model}", "evaluation=full")
    OmegaConf.save(config, tmp_path / "config.yaml", resolve=True)
    assert read_run_config(tmp_path) == plain(config)


@pytest.mark.parametrize(
    "target",
    [
        "os.system", "builtins.exec", "subprocess.Popen", "ebm_pipeline.runs.train.os.system", "torch.load",
        "torch.optim.optimizer.torch.load", "torch.optimizer.Nothing", "ebm_pipeline.nothing", ["os.system"], 1,
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", ["data", "model.layers.hidden", "unread"])
def test_a_runs_own_configuration_cannot_call_what_it_likes(target: Any, place: str, tmp_path: Path) -> None:
    """What is made of it names data sets and transforms alone; the rest is never made."""
    config = OmegaConf.create(plain(composed(*PLAIN)))
    OmegaConf.update(
        config, place, {"deep": [{"_target_": target, "_args_": [f"touch {tmp_path / 'called'}"]}]}, force_add=True
    )
    OmegaConf.save(config, tmp_path / "config.yaml")
    if place == "data":
        with pytest.raises(UserError, match="as _target_, which is none of this package's data sets and transforms"):
            read_run_config(tmp_path)
    else:
        assert read_run_config(tmp_path).mean_field.max_steps > 0
    assert not (tmp_path / "called").exists()


@pytest.mark.parametrize("text", [None, "", "[1, 2]", "a: [", "a: ${nothing}", "a: ???", "\x00"])
def test_a_damaged_configuration_of_a_run_is_one_message(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"config.yaml (cannot be read|is no configuration of a run)"):
        read_run_config(tmp_path)


def test_runs_of_other_seeds_are_trained_and_judged_on_the_same_images(tmp_path: Path) -> None:
    """What differs between seeds is the training; the data have a seed of their own, data.seed."""
    words = ("data=bars_and_stripes", "data/transform=stochastic", "evaluation.flips=0.1")
    one, two = (plan.prepare(composed(*words, f"seed={seed}", output_root=tmp_path), tmp_path) for seed in (1, 2))
    assert torch.equal(one.monitored.validation, two.monitored.validation)
    assert torch.equal(one.monitored.noisy, two.monitored.noisy)
    assert torch.equal(one.data.images("test"), two.data.images("test"))
    assert not torch.equal(one.initial.weights[0], two.initial.weights[0])
    orders = [next(iter(own.data.train_batches(seed=seed))) for own, seed in ((one, 1), (two, 2))]
    assert not torch.equal(*orders)
    other = plan.prepare(composed(*words, "data.seed=5", output_root=tmp_path), tmp_path)
    assert not torch.equal(one.monitored.validation, other.monitored.validation)


def test_a_models_recipe_is_taken_by_itself_and_gives_way_to_what_is_said() -> None:
    own = composed("model=hopfield")
    assert (own.optimizer.lr, own.model.penalties[0].strength) == (0.003, 0.05)
    larger = composed("model=hopfield", "data=mnist")
    assert (larger.optimizer.lr, larger.model.penalties[0].strength) == (0.01, 0.01)
    assert composed("model=rbm").optimizer.lr == 0.05
    assert composed("model=hopfield", "optimizer.lr=0.2").optimizer.lr == 0.2
    notebook = composed("experiment=notebook", "model=hopfield")
    assert (notebook.optimizer._target_, list(notebook.model.penalties)) == ("torch.optim.Adam", [])


@pytest.mark.parametrize(
    ("words", "rate"),
    [
        (("model=rbm", "data=mnist"), 0.2),
        (("model=rbm", "data=mnist", "data/transform=stochastic"), 0.2),
        (("model=rbm_l1", "data=mnist"), 0.2),
        (("model=dbm_grown", "data=mnist"), 0.1),
        (("model=dbm", "data=mnist"), 0.05),
        (("model=rbm", "data=digits"), 0.05),
        (("model=rbm_sparse", "data=mnist"), 0.05),
        (("model=rbm", "data=mnist", "optimizer=adam"), 0.001),
        (("model=rbm", "data=mnist", "optimizer=momentum"), 0.01),
        (("model=rbm", "data=mnist", "optimizer.lr=0.3"), 0.3),
        (("experiment=table/rbm500",), 0.2),
        (("experiment=table/rbm200",), 0.05),
    ],
)
def test_a_rate_for_a_data_set_is_of_one_optimizer_and_model(words: tuple[str, ...], rate: float) -> None:
    """What plain descent bears on MNIST would undo a training by Adam."""
    assert composed(*words).optimizer.lr == rate


@pytest.mark.parametrize(
    ("words", "strengths"),
    [
        (("model=rbm", "data=mnist"), [2e-3]),
        (("model=dbm_grown", "data=mnist"), []),
        (("model=rbm_l1", "data=mnist"), [1e-3]),
        (("model=rbm", "data=digits"), []),
        (("model=rbm", "data=mnist", "optimizer=adam"), []),
        (("model=rbm", "data=mnist", "model.penalties=[]"), []),
        (("experiment=notebook", "model=rbm"), []),
        (("experiment=table/rbm200",), []),
        (("experiment=table/rbm500",), [1e-4]),
        (("experiment=table/rbm500_threshold",), [1.5e-3]),
        (("experiment=table/rbm500_cd25",), []),
    ],
)
def test_the_penalty_that_a_high_rate_needs_comes_with_it_alone(words: tuple[str, ...], strengths: list[float]) -> None:
    """The rows of the table and the notebook keep what they were measured with."""
    assert [penalty.strength for penalty in composed(*words).model.penalties] == strengths


@pytest.mark.parametrize("model", ["dbm_grown", "rbm", "rbm_l1", "hopfield"])
def test_the_models_of_our_study_are_evaluated(model: str, tmp_path: Path) -> None:
    config = composed("experiment=study", f"model={model}", output_root=tmp_path)
    made = plan.prepare(config, tmp_path)
    assert made.settings.likelihood is not None
    assert made.settings.diagnostics is not None
    assert made.recipe.centring is not None
    assert (made.model.pretraining is not None) == (model == "dbm_grown")
