"""Own data of every format: what the numbers are is found in the numbers, whatever their type, byte order and layout."""

from __future__ import annotations

import gzip
import itertools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from commands import PLAIN, composed, run_command
from numpy.typing import NDArray
from PIL import Image

from ebm_pipeline import cli
from ebm_pipeline.data import DataSet, load
from ebm_pipeline.data.information import repeats
from ebm_pipeline.data.reading import IDX_TYPES, read
from ebm_pipeline.data.sources import existing
from ebm_pipeline.data.transforms import (
    Decorrelate,
    Dequantise,
    Identity,
    OneHot,
    Scale,
    Spin,
    Standardize,
    Stochastic,
    Threshold,
    Transform,
)
from ebm_pipeline.evaluation.enumeration import exact_log_partition
from ebm_pipeline.evaluation.likelihood import unnormalized_each
from ebm_pipeline.models.inference import MeanField
from ebm_pipeline.models.layers import LAYERS, Bernoulli, Gaussian, Ising, Layer, Potts
from ebm_pipeline.models.storage import load_model
from ebm_pipeline.runs import train
from ebm_pipeline.runs.assess import check_states
from ebm_pipeline.runs.configuration import build_data, read_run_config
from ebm_pipeline.support.errors import UserError

Array = NDArray[Any]
COUNT, PIXELS, WIDTH = 300, 6, 3
RANDOM = np.random.default_rng(11)
CHANCE = RANDOM.random((COUNT, PIXELS))
RATES = np.linspace(0.2, 0.8, PIXELS)
BITS = (CHANCE < RATES).astype(float)
# What images of each kind look like, in float64.
MEANINGS: dict[str, Array] = {
    "binary": BITS,
    "spins": 2 * BITS - 1,
    "grey8": np.concatenate((np.full((1, PIXELS), 255.0), np.floor(256 * CHANCE[1:]))),
    "unit": CHANCE,
    "categories": np.floor(4 * CHANCE),
    "real": 3 * RANDOM.normal(size=(COUNT, PIXELS)) + 10 * np.arange(PIXELS),
}
ASKED = {"categories"}  # kinds that cannot be known: `data.values` is asked for
TYPES = ["?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", "g"]
ORDERS = {"<": "little-endian", ">": "big-endian"}
LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "rows": lambda images: images,
    "columns": np.asfortranarray,
    "every other": lambda images: np.repeat(np.repeat(images, 2, 0), 2, 1)[::2, ::2],
    "backwards": lambda images: np.ascontiguousarray(images[::-1])[::-1],
    "height and width": lambda images: images.reshape(COUNT, 2, WIDTH),
    "and one channel": lambda images: images.reshape(COUNT, 2, WIDTH, 1),
}
TRANSFORMS: dict[str, Callable[[], Transform]] = {
    "threshold": Threshold, "spin": Spin, "stochastic": Stochastic, "scale": Scale, "dequantise": Dequantise,
    "decorrelate": Decorrelate, "standardize": Standardize, "none": Identity, "one_hot": OneHot,
}  # fmt: skip


def opened(path: Path | str, transform: Transform | None = None, **options: Any) -> DataSet:
    return load(None, str(path), existing, transform or Identity(), None, 3, **({"validation_fraction": 0.1} | options))


def grey(kind: str, images: Array) -> Array:
    """Grey levels, from what the numbers mean and not from their type."""
    return {"spins": (images + 1) / 2, "grey8": images / 255}.get(kind, images)


def expected_statistics(kind: str, name: str, images: Array) -> tuple[Array, Array] | None:
    """Mean and standard deviation of the units by NumPy alone; None where the transform means nothing for the numbers."""
    takes = {"none": set(MEANINGS), "one_hot": {"categories", "binary"}}
    real = {"real"} if name in ("decorrelate", "standardize") else set()
    if kind not in takes.get(name, {"binary", "spins", "grey8", "unit"} | real):
        return None
    level = grey(kind, images)
    if name == "one_hot":
        units = np.stack([images == category for category in range(int(images.max()) + 1)], -1).reshape(COUNT, -1)
        return units.mean(0), units.std(0)
    if name == "threshold":
        return (level > 0.5).mean(0), (level > 0.5).std(0)
    if name == "spin":
        return 2 * (level > 0.5).mean(0) - 1, 2 * (level > 0.5).std(0)
    if name == "stochastic":
        return level.mean(0), np.sqrt(level.mean(0) * (1 - level.mean(0)))
    if name == "standardize":
        spread = level.std(0) if kind == "real" else np.maximum(level.std(0), 0.1)
        return np.zeros(PIXELS), level.std(0) / spread
    if name == "decorrelate":
        levels = kind not in ("real", "unit")
        unit = np.full(PIXELS, np.ptp(images)) if levels else 4 * images.std(0)
        noise = (1 / 16) ** 2 / 12 if levels else 0
        found = np.linalg.eigvalsh(np.cov((images / unit).T, ddof=0))[::-1]
        return np.zeros(PIXELS), np.sqrt(found + noise)
    if name == "dequantise":
        return level.mean(0), np.sqrt(level.var(0) + (1 / 16) ** 2 / 12)
    return (images.mean(0), images.std(0)) if name == "none" else (level.mean(0), level.std(0))


def as_type(meaning: Array, code: str) -> Array | None:
    """The numbers in another type; None where it cannot hold them."""
    if code == "?" and not np.isin(meaning, (0, 1)).all():
        return None
    if np.dtype(code).kind in "iu" and not (
        (meaning == np.rint(meaning)).all() and np.iinfo(code).min <= meaning.min()
    ):
        return None
    if np.dtype(code).kind in "iu" and meaning.max() > np.iinfo(code).max:
        return None
    return meaning.astype(code)


@dataclass
class Tried:
    right: int = 0
    messages: int = 0


def answer(path: Path, transform: Transform, values: str | None) -> DataSet | str:
    """The data set, or the message that it is refused with."""
    try:
        return opened(path, transform, values=values)
    except UserError as error:
        return str(error)


def check_transforms(path: Path, kind: str, images: Array, rough: bool, tried: Tried) -> None:
    """Every transform of a file: the right statistics, or one message that says what fits."""
    for name, transform in TRANSFORMS.items():
        wanted = expected_statistics(kind, name, images)
        for values in [kind] if kind in ASKED else [None, kind]:
            what = f"{path.name}, {name}, values={values}"
            data = answer(path, transform(), values)
            if isinstance(data, str):
                assert wanted is None, f"{what}: {data}"
                assert f"data.values={kind}" in data, what
                assert "what fits is" in data, what
                tried.messages += 1
                continue
            assert wanted is not None, f"{what}: taken"
            assert data.values.kind == kind, what
            units = torch.cat([data.images("train"), data.images("validation")]).double().numpy()
            order = np.argsort(torch.cat([data.training_rows, data.validation_rows]).numpy())
            check_statistics(units[order], wanted, name, rough, what)
            tried.right += 1


def check_statistics(units: Array, wanted: tuple[Array, Array], name: str, rough: bool, what: str) -> None:
    mean, std = wanted
    drawn = name in (
        "stochastic",
        "dequantise",
        "decorrelate",
        "standardize",
    )  # drawn, or fitted to the training images
    close = 5 / np.sqrt(COUNT) * std + 0.02 if drawn else 1e-6 + (2e-3 * (np.abs(mean) + std) if rough else 1e-5 * std)
    assert units.shape == (COUNT, len(mean)), what
    assert (np.abs(units.mean(0) - mean) <= close).all(), f"{what}: mean {units.mean(0)}, expected {mean}"
    assert (np.abs(units.std(0) - std) <= close).all(), f"{what}: deviation {units.std(0)}, expected {std}"


def check_files(kind: str, ways: list[tuple[str, str, str]], folder: Path) -> Tried:
    """Files of one meaning in each of these types, byte orders and layouts."""
    meaning, tried = MEANINGS[kind], Tried()
    for code, order, layout in ways:
        typed = as_type(meaning, code)
        if typed is None or (order == ">" and np.dtype(code).itemsize == 1):
            continue
        path = folder / f"{kind}_{np.dtype(code).name}_{ORDERS[order]}_{layout.replace(' ', '_')}.npy"
        np.save(path, LAYOUTS[layout](typed.astype(np.dtype(f"{order}{typed.dtype.str[1:]}"))))
        check_transforms(path, kind, typed.astype(float), code == "f2", tried)
        path.unlink()
    assert tried.right > 0
    return tried


Record = Callable[[str, object], None]


@pytest.mark.parametrize("kind", MEANINGS)
def test_every_type_under_every_transform(kind: str, tmp_path: Path, record_property: Record) -> None:
    """Byte orders and layouts take turns."""
    orders, layouts = itertools.cycle(ORDERS), itertools.cycle(LAYOUTS)
    tried = check_files(kind, [(code, next(orders), next(layouts)) for code in TYPES], tmp_path)
    record_property("own data", {"right": tried.right, "clear messages": tried.messages})


@pytest.mark.slow
@pytest.mark.parametrize("kind", MEANINGS)
def test_every_type_byte_order_and_layout_under_every_transform(
    kind: str, tmp_path: Path, record_property: Record
) -> None:
    tried = check_files(kind, list(itertools.product(TYPES, ORDERS, LAYOUTS)), tmp_path)
    record_property("own data", {"right": tried.right, "clear messages": tried.messages})


# ---------------------------------------------------------------------------------------------- readings


@pytest.mark.parametrize(
    ("images", "kind"),
    [
        (np.array([[0, 255], [255, 0]] * 5), "grey8"),
        (np.array([[0, 128.0], [255, 0]] * 5), "grey8"),
        (np.array([[0, 0.25], [0.75, 0]] * 5), "unit"),
        (np.array([[0, 1e-3], [1e-4, 0]] * 5), "real"),  # too dark for grey levels
        (np.array([[0.5, 127.5], [255, 3]] * 5), "real"),
        (np.array([[0, 256], [3, 4]] * 5), "real"),
        (np.array([[-1, 0], [1, 1]] * 5), "real"),
        (np.array([[-1, 1], [1, 1]] * 5), "spins"),
        (np.array([[True, False], [True, True]] * 5), "binary"),
    ],
)
def test_the_kind_is_found_and_said(images: Array, kind: str, tmp_path: Path) -> None:
    np.save(tmp_path / "own.npy", images)
    found = opened(tmp_path / "own.npy").values
    assert found.kind == kind
    assert f"data.values={kind}" in str(found)


@pytest.mark.parametrize("images", [np.arange(20) % 4, np.arange(20) % 17, np.arange(100) + 20])
def test_where_two_readings_are_possible_the_question_is_asked(images: Array, tmp_path: Path) -> None:
    path = tmp_path / "own.npy"
    np.save(path, images.reshape(-1, 2).astype("u1"))
    with pytest.raises(
        UserError, match=r"whole numbers.*data\.values=categories.*data\.values=real.*data\.values=grey8"
    ):
        opened(path)
    assert opened(path, values="categories").values.categories == images.max() + 1
    assert opened(path, Decorrelate(), values="real").values.kind == "real"
    if images.max() < 128:  # grey levels that no threshold is passed by
        with pytest.raises(
            UserError, match=r"after data/transform=threshold all .* the same, and in the file they are not"
        ):
            opened(path, Threshold(), values="grey8")


def test_one_number_that_is_out_of_range_is_named_whatever_the_seed(tmp_path: Path) -> None:
    images = BITS.astype("f4")
    images[123, 4] = 7
    np.save(tmp_path / "own.npy", images)
    messages = set()
    for seed in range(6):
        with pytest.raises(
            UserError, match=r"All but 1 of 1800 are 0 or 1; the first other one is 7 in image 123, column 4"
        ) as caught:
            load(None, str(tmp_path / "own.npy"), existing, Threshold(), None, seed)
        messages.add(str(caught.value))
    assert len(messages) == 1


@pytest.mark.parametrize(
    ("train", "test", "values"),
    [
        (BITS, 255 * BITS, None), (BITS, 2 * BITS - 1, None), (2 * BITS - 1, BITS, None), (255 * BITS, BITS, None),
        (MEANINGS["unit"], 255 * MEANINGS["unit"], None), (MEANINGS["real"], 1e4 * MEANINGS["real"], None),
        (BITS, MEANINGS["real"], "binary"), (MEANINGS["unit"], -MEANINGS["unit"], "unit"),
    ],
)  # fmt: skip
def test_a_test_part_on_another_scale_is_refused(train: Array, test: Array, values: str | None, tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", x_train=train, x_test=test)
    with pytest.raises(
        UserError, match=r"the test part holds .* in different units|data\.values=\w+ says .*test/images holds"
    ):
        opened(tmp_path / "own.npz", values=values)


def test_data_without_information_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.npy"
    np.save(path, np.tile(BITS[:1], (50, 1)))
    with pytest.raises(UserError, match="all 50 training images are the same"):
        opened(path)
    faint = np.column_stack((CHANCE[:, 0], 0.4 * CHANCE[:, 1], 0.01 * CHANCE[:, 2]))
    np.save(path, faint)
    with pytest.raises(
        UserError,
        match=r"1 of 3 pixels vary .* the same after data/transform=threshold: 1 \(grey levels .* to 0\.39",
    ):
        opened(path, Threshold())
    assert len(opened(path, Stochastic()).images("train")) == 270
    assert len(opened(path, Threshold(0.2)).images("train")) == 270


def test_repeats_of_the_training_part_in_the_test_part_are_counted(tmp_path: Path) -> None:
    images = RANDOM.random((200, 30))
    np.savez(
        tmp_path / "leak.npz", x_train=images[:150], x_test=np.concatenate((images[150:], images[:20])).astype("f8")
    )
    found = repeats(read(str(tmp_path / "leak.npz")))
    assert found is not None
    assert (found.found, found.images, found.by_chance, found.leak) == (20, 70, 0, True)
    few = RANDOM.integers(0, 2, (300, 3))  # eight different images: repeats are no leak
    np.savez(tmp_path / "few.npz", x_train=few[:200], x_test=few[200:])
    found = repeats(read(str(tmp_path / "few.npz")))
    assert found is not None
    assert (found.found, found.leak) == (100, False)


# ---------------------------------------------------------------------------------------------- states of the visible layer


@pytest.mark.parametrize(
    ("layer", "kind", "transform", "cure"),
    [
        (Bernoulli, "spins", Identity(), "model=ising"), (Bernoulli, "real", Standardize(), "model=grbm"),
        (Bernoulli, "unit", Scale(), "data/transform=threshold or stochastic"),
        (Bernoulli, "grey8", Identity(), "data/transform=threshold or stochastic"),
        (Bernoulli, "categories", Identity(), "rbm_categories"), (Ising, "binary", Identity(), "data/transform=spin"),
        (Ising, "real", Identity(), "model=grbm"), (Ising, "unit", Threshold(), "data/transform=spin"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("memory_limit_mb", [4000, 1e-3])
def test_what_are_no_states_is_refused_with_what_fits(
    layer: type[Bernoulli | Ising], kind: str, transform: Transform, cure: str, memory_limit_mb: float, tmp_path: Path
) -> None:
    np.save(tmp_path / "own.npy", MEANINGS[kind])
    data = opened(tmp_path / "own.npy", transform, values=kind, memory_limit_mb=memory_limit_mb)
    with pytest.raises(
        UserError, match=rf"units need data of .*own\.npy, after data/transform={transform.name}, hold .*: what fits"
    ) as caught:
        check_states(layer.create(PIXELS), data)
    assert cure in str(caught.value)


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("memory_limit_mb", [4000, 1e-3])
def test_every_image_of_every_part_is_checked(part: str, memory_limit_mb: float, tmp_path: Path) -> None:
    parts = {"x_train": BITS.copy(), "x_test": BITS.copy()}
    parts[f"x_{part}"][-1, -1] = 0.5
    np.savez(tmp_path / "own.npz", x_train=parts["x_train"], x_test=parts["x_test"])
    for seed in range(3):
        data = load(
            None,
            str(tmp_path / "own.npz"),
            existing,
            Identity(),
            None,
            seed,
            values="real",
            memory_limit_mb=memory_limit_mb,
        )
        with pytest.raises(UserError, match="bernoulli units need data of 0 and 1"):
            check_states(Bernoulli.create(PIXELS), data)
        check_states(Gaussian.create(PIXELS), data)


def test_every_layer_says_what_it_needs_and_refuses_nan() -> None:
    for kind, layer in LAYERS.items():
        if kind == "mixed":
            continue
        made: Layer = layer.create(4, 2) if layer is Potts else layer.create(4)  # type: ignore[attr-defined]
        assert made.holds(made.sample(torch.zeros(50, 4), torch.Generator().manual_seed(1))), kind
        with pytest.raises(UserError, match=r"need data of .*nan or inf"):
            made.check_data(torch.full((2, 4), float("nan")))
        with pytest.raises(UserError, match="3 columns, and the layer has 4 units"):
            made.check_data(torch.zeros(2, 3))


# ---------------------------------------------------------------------------------------------- formats


def as_npz(path: Path, images: Array, labels: Array) -> Path:
    np.savez(path.with_suffix(".npz"), x_train=images, y_train=labels, other=np.zeros(3))
    return path.with_suffix(".npz")


def as_csv(path: Path, images: Array, labels: Array) -> Path:
    rows = [
        f"{label},{','.join(map(str, image.ravel().tolist()))}" for image, label in zip(images, labels, strict=True)
    ]
    path.with_suffix(".csv").write_text("label,a,b,c,d,e,f\n" + "\n".join(rows))
    return path.with_suffix(".csv")


def as_tsv(path: Path, images: Array, labels: Array) -> Path:
    """As pandas writes it: row numbers in a column without a name."""
    rows = [
        "\t".join([str(number), *map(str, image.ravel().tolist()), str(label)])
        for number, (image, label) in enumerate(zip(images, labels, strict=True))
    ]
    path.with_suffix(".tsv").write_text("\t".join(["", *"abcdef", '"class"']) + "\n" + "\n".join(rows))
    return path.with_suffix(".tsv")


def as_folder(path: Path, images: Array, labels: Array) -> Path:
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        place = path / str(label) / f"{number:03}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place)
    return path


def as_idx(path: Path, images: Array, labels: Array) -> Path:
    for name, array in (("train-images-idx3-ubyte", images), ("train-labels-idx1-ubyte", labels.astype("u1"))):
        header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
        path.with_name(f"{name}.gz").write_bytes(gzip.compress(header + array.tobytes()))
    return path.with_name("train-images-idx3-ubyte.gz")


def as_hdf5(path: Path, images: Array, labels: Array) -> Path:
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        file["train/images"], file["train/labels"] = images.astype(">i4"), labels.astype("f4")
    return path.with_suffix(".h5")


FORMATS = {"npz": as_npz, "csv": as_csv, "tsv": as_tsv, "folder": as_folder, "idx": as_idx, "hdf5": as_hdf5}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_images_and_labels(name: str, tmp_path: Path) -> None:
    images = RANDOM.integers(0, 256, (20, 2, 3)).astype("u1")
    labels = np.sort(RANDOM.integers(0, 3, 20))  # in the order of a folder's classes
    found = read(str(FORMATS[name](tmp_path / "own", images, labels)))
    assert np.array_equal(found.train.images(), images.reshape(20, 6))
    own = found.train.labels()
    assert own is not None
    assert own.tolist() == labels.tolist()
    assert found.image_shape == ((1, 6) if name in ("csv", "tsv") else (2, 3))


@pytest.mark.parametrize("code", sorted(IDX_TYPES))
def test_idx_of_every_type(code: int, tmp_path: Path) -> None:
    images = np.arange(12).reshape(3, 2, 2).astype(IDX_TYPES[code])
    (tmp_path / "mine.idx").write_bytes(struct.pack(">HBB3I", 0, code, 3, *images.shape) + images.tobytes())
    assert np.array_equal(read(str(tmp_path / "mine.idx")).train.images(), images.reshape(3, 4))


def test_pictures_of_every_mode_are_grey_levels(tmp_path: Path) -> None:
    grey8 = RANDOM.integers(0, 256, (4, 5)).astype("u1")
    deep = RANDOM.integers(0, 65536, (4, 5)).astype("u2")
    pictures = {
        "L": Image.fromarray(grey8),
        "RGB": Image.fromarray(np.repeat(grey8[:, :, None], 3, 2)),
        "16": Image.fromarray(deep),
    }
    for mode, picture in pictures.items():
        (tmp_path / mode).mkdir()
        for number in range(3):
            picture.save(tmp_path / mode / f"{number}.png")
        found = read(str(tmp_path / mode))
        expected = deep / 65535 if mode == "16" else grey8
        np.testing.assert_allclose(found.train.images()[0], expected.ravel(), rtol=1e-6, err_msg=mode)
        assert ("3 of 3 pictures have colours" in " ".join(found.remarks)) == (mode == "RGB")


def test_parts_and_arrays_are_chosen_by_name(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "own.h5", "w") as file:
        file["a/one"], file["two"] = BITS, 2 * BITS - 1
    assert opened(f"{tmp_path / 'own.h5'}:two").values.kind == "spins"
    assert opened(f"{tmp_path / 'own.h5'}:a/one").values.kind == "binary"
    np.savez(tmp_path / "own.npz", one=BITS, two=2 * BITS - 1)
    assert opened(f"{tmp_path / 'own.npz'}:two").values.kind == "spins"
    for name in ("own.h5", "own.npz"):
        with pytest.raises(UserError, match=r"one .*two.*data\.path=.*:NAME"):
            opened(tmp_path / name)
    for part, count in (("train", 5), ("test", 2)):
        (tmp_path / "pictures" / part).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(RANDOM.integers(0, 256, (3, 3)).astype("u1")).save(
                tmp_path / "pictures" / part / f"{number}.jpg"
            )
    found = read(str(tmp_path / "pictures"))
    assert {name: part.count for name, part in found.parts.items()} == {"train": 5, "test": 2}


def object_array(path: Path) -> None:
    np.save(path, np.array([{}, []], dtype=object), allow_pickle=True)


def two_sizes(path: Path) -> None:
    path.mkdir()
    Image.new("L", (3, 3)).save(path / "a.png")
    Image.new("L", (3, 4)).save(path / "b.png")


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("own.npy", object_array, "Python objects, which are never unpickled"),
        ("own.npy", lambda path: path.write_bytes(b"nothing"), "cannot be read as a NumPy file"),
        ("own.npy", lambda path: np.save(path, np.zeros((4, 2), "c8")), "holds complex64"),
        ("own.npy", lambda path: np.save(path, np.array(["a", "b"])), "shape|holds"),
        ("own.npy", lambda path: np.save(path, np.zeros((4, 2, 2, 3))), "colours are not modelled"),
        ("own.npy", lambda path: np.save(path, np.array([[1.0, np.nan]] * 9)), "NaN"),
        ("own.npz", lambda path: path.write_bytes(b"nothing"), "no archive"),
        ("own.csv", lambda path: path.write_text("a,b\n1,2\n3,x\n"), "table of numbers: .*'x'"),
        ("own.csv", lambda path: path.write_text("1,2\n3\n"), "table of numbers"),
        ("own.csv", lambda path: path.write_text("a,b\n"), "no rows"),
        ("own.csv", lambda path: path.write_bytes(b"\xff\xfe1,2"), "cannot be read as a table"),
        ("own", lambda path: path.mkdir(), "holds no PNG or JPEG"),
        ("own", two_sizes, "3 x 4 pixels .* 3 x 3"),
        ("own.gz", lambda path: path.write_bytes(b"\x1f\x8bnothing"), "gzip"),
        ("own.png", lambda path: Image.new("L", (3, 3)).save(path), "one picture: give the folder"),
        ("own.xyz", lambda path: path.write_bytes(b"nothing"), "none of the formats"),
        ("own.h5", lambda path: path.write_bytes(b"nothing"), "no HDF5 file"),
    ],
)
def test_what_cannot_be_read_is_one_message(
    name: str, make: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    make(tmp_path / name)
    with pytest.raises(UserError, match=message) as caught:
        opened(tmp_path / name)
    assert "own" in str(caught.value)


# ---------------------------------------------------------------------------------------------- HDF5 of others


def test_virtual_and_linked_arrays_are_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "source.h5", "w") as file:
        file["there"] = BITS
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        layout = h5py.VirtualLayout(BITS.shape, "f8")
        layout[:] = h5py.VirtualSource("source.h5", "there", shape=BITS.shape)
        file.create_virtual_dataset("train/images", layout)
        file["test/images"] = h5py.ExternalLink("source.h5", "there")
    found = read(str(tmp_path / "virtual.h5"))
    for part in found.parts.values():
        assert np.array_equal(part.images(), BITS)
    assert found.test is not None
    (tmp_path / "source.h5").rename(tmp_path / "elsewhere.h5")
    with pytest.raises(UserError, match=r"virtual, its numbers lie in source\.h5, which is not there"):
        read(str(tmp_path / "virtual.h5"))
    with h5py.File(tmp_path / "linked.h5", "w") as file:
        file["train/images"] = h5py.ExternalLink("source.h5", "there")
    with pytest.raises(UserError, match=r"train/images is a link to there of source\.h5, which is not there"):
        read(str(tmp_path / "linked.h5"))


def test_a_filter_that_is_not_installed_is_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "own.h5", "w") as file:
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((10, PIXELS))
        properties.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, ())  # Blosc
        space = h5py.h5s.create_simple((10, PIXELS))
        made = h5py.h5d.create(file.id, b"images", h5py.h5t.NATIVE_FLOAT, space, properties)
        h5py.Dataset(made).id.write_direct_chunk((0, 0), b"packed by another program")
    with pytest.raises(UserError, match=r"images is packed with the filter .*number 32001.*not installed"):
        read(str(tmp_path / "own.h5"))


# ---------------------------------------------------------------------------------------------- commands


def test_own_data_become_a_file_that_says_what_it_holds(tmp_path: Path) -> None:
    images, labels = RANDOM.integers(0, 256, (20, 2, 3)).astype("u1"), np.arange(20) % 3
    source = as_npz(tmp_path / "own", images, labels)
    done = run_command(cli.data, f"from={source}", f"out={tmp_path / 'own.h5'}", output_root=tmp_path)
    assert done.code == 0, done.err
    assert "20 images of 6 pixels" in done.out
    assert "grey levels from 0 to 255 (data.values=grey8)" in done.out
    assert "model=grbm" in done.out
    found = read(str(tmp_path / "own.h5"))
    assert found.digest() == read(str(source)).digest()
    assert found.image_shape == (2, 3)
    np.save(tmp_path / "codes.npy", np.arange(21).reshape(7, 3) % 4)
    asked = run_command(cli.data, f"from={tmp_path / 'codes.npy'}", output_root=tmp_path)
    assert asked.code == 0
    assert "values not known" in asked.out
    wrong = run_command(cli.data, f"from={source}", f"out={source}", output_root=tmp_path)
    assert (wrong.code, wrong.err.count("error:")) == (1, 1)
    assert "ends in .h5" in wrong.err


@pytest.mark.parametrize(
    ("kind", "code", "model"),
    [("binary", "u1", "rbm"), ("spins", "i1", "ising"), ("categories", "u1", "rbm_categories"), ("real", "f8", "grbm")],
)
def test_own_data_train_by_the_command_line_to_the_right_statistics(
    kind: str, code: str, model: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The visible biases start at the mean of the data: the states are those of the file."""
    path = tmp_path / "own.npy"
    np.save(path, MEANINGS[kind].astype(code))
    own = [word for word in PLAIN if not word.startswith("data")]
    given = ["data=file", f"data.path={path}", f"model={model}", "hidden_units=3", "training.epochs=1"]
    outputs = tmp_path_factory.getbasetemp() / "outputs"  # one store for all: a fresh one costs seconds
    done = run_command(cli.train, *own, *given, output_root=outputs)
    assert done.code == 0, done.err
    config = composed(*own, *given, output_root=tmp_path)
    data = build_data(config)
    transform = {"rbm": "threshold", "ising": "spin", "rbm_categories": "one_hot", "grbm": "decorrelate"}[model]
    expected = expected_statistics(kind, transform, MEANINGS[kind])
    assert expected is not None
    assert data.transform.name == transform
    np.testing.assert_allclose(data.train_mean(), expected[0], atol=0.1)
    assert {int(config.data.units), data.units} == {len(expected[0])}


# ---------------------------------------------------------------------------------------------- any scale


def clouds(count: int) -> Array:
    middles = np.array([[0, 0], [0.32, 0.32]])[RANDOM.integers(0, 2, count)]
    return middles + RANDOM.normal(0, 0.03, (count, 2))


def of_all_scales(count: int) -> Array:
    """Columns of scales from 1e-3 to 1e3, one that is a copy of another, one that does not vary."""
    columns = RANDOM.normal(size=(count, 6))
    columns[:, 1] += columns[:, 0]
    columns[:, 4], columns[:, 5] = columns[:, 3], 2.5
    scaled: Array = columns * np.array([1e-3, 1, 1e3, 1, 1, 1])
    return scaled


def grey_levels(count: int) -> Array:
    from sklearn.datasets import load_digits

    levels: Array = load_digits().data[RANDOM.permutation(1797)[:count]] / 16
    return levels


def own_nats(images: Array, tests: Array, outputs: Path, folder: Path) -> float:
    """Mean log-density of test images as stored, by enumeration, after a short training of the default model=grbm."""
    np.savez(folder / "own.npz", x_train=images, x_test=tests)
    own = [word for word in PLAIN if not word.startswith(("data", "training.epochs"))]
    config = composed(
        *own, "data=file", f"data.path={folder / 'own.npz'}", "model=grbm", "hidden_units=4", "training.epochs=5",
        output_root=outputs,
    )  # fmt: skip
    train.train(config, folder / "run")
    data = build_data(read_run_config(folder / "run"))
    machine = load_model(folder / "run" / "model.h5").machine.map(torch.Tensor.double)
    logs = unnormalized_each(machine, data.images("test").double(), MeanField(0.01, 25))
    return float(logs.mean()) - exact_log_partition(machine) - data.transform.log_scale


@pytest.mark.parametrize(
    ("make", "factors"),
    [
        (clouds, [(1e3, 500)]),
        pytest.param(clouds, [(1e-3, 0), (1e3, 0), (1, 500), (1e-3, 500)], marks=pytest.mark.slow),
        pytest.param(of_all_scales, [(1e-3, 0), (1e3, 0), (1, 500), (1e-3, 500), (1e3, 500)], marks=pytest.mark.slow),
        pytest.param(grey_levels, [(1e-3, 0), (1e3, 0), (1, 500), (1e-3, 500), (1e3, 500)], marks=pytest.mark.slow),
    ],
)
def test_the_default_gaussian_rbm_does_not_depend_on_scale_and_zero(
    make: Callable[[int], Array],
    factors: list[tuple[float, float]],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """A density per unit of the data less log(factor) for each pixel that varies: what a change of units does to it."""
    images, tests = make(1200), make(400)
    outputs = tmp_path_factory.getbasetemp() / "outputs"
    (tmp_path / "first").mkdir()
    first = own_nats(images, tests, outputs, tmp_path / "first")
    levels = make is grey_levels
    varying = images.shape[1] if levels else int((images.std(0) > 0).sum())
    for number, (factor, shift) in enumerate(factors):
        folder = tmp_path / str(number)
        folder.mkdir()
        found = own_nats(images * factor + shift, tests * factor + shift, outputs, folder)
        assert found + varying * np.log(factor) == pytest.approx(first, abs=0.1), (factor, shift)
