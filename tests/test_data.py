"""Data sets: sources, checks, splits, transforms, order of batches."""

from __future__ import annotations

import collections
import functools
import gzip
import os
import struct
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from ebm_pipeline.data import DataSet, load
from ebm_pipeline.data.describe import describe, write_copy
from ebm_pipeline.data.reading import parse_idx, read
from ebm_pipeline.data.sources import FILES, BarsAndStripes, Idx, digits, existing
from ebm_pipeline.data.stored import write
from ebm_pipeline.data.transforms import (
    Decorrelate,
    Dequantise,
    Identity,
    Scale,
    Spin,
    Standardize,
    Stochastic,
    Threshold,
    Transform,
)
from ebm_pipeline.data.values import Values
from ebm_pipeline.support.errors import UserError

MNIST_MD5 = (
    "6bbc9ace898e44ae57da46a324031adb",
    "a25bea736e30d166cdddb491f175f624",
    "2646ac647ad5339dbf082846283269ea",
    "27ae3e4e09519cfbb04c329615203637",
)


def small_file(folder: Path, count: int = 60, dtype: str = "uint8") -> Path:
    """Images whose first pixel is the row number, so that a row can be recognized; labels are the row number too."""
    values = np.random.default_rng(0).integers(0, 256, (count, 16)).astype(dtype)
    if dtype == "float32":
        values /= 255
    values[:, 0] = np.arange(count) / (1 if dtype == "uint8" else 255)
    labels = np.arange(count)
    path = folder / "small.h5"
    write(path, "small", (4, 4), {"train/images": values, "train/labels": labels, "test/images": values[:10]})
    return path


def loaded(path: Path, transform: Transform | None = None, **changes: Any) -> DataSet:
    options: dict[str, Any] = {"units": None, "seed": 3, "batch_size": 7, "validation_fraction": 0.1}
    return load("small", str(path), existing, transform or Identity(), **(options | changes))


def rows_of(batch: torch.Tensor) -> list[int]:
    return batch[:, 0].long().tolist()


# ---------------------------------------------------------------------------------------------- split and order


def test_split_is_disjoint_complete_and_a_function_of_the_seed(tmp_path: Path) -> None:
    path = small_file(tmp_path)
    data = loaded(path)
    train, validation = rows_of(data.images("train")), rows_of(data.images("validation"))
    assert len(validation) == 6
    assert sorted(train + validation) == list(range(60))
    assert rows_of(loaded(path).images("validation")) == validation
    assert rows_of(loaded(path, seed=4).images("validation")) != validation
    labels = data.labels("validation")
    assert labels is not None
    assert labels.tolist() == validation


def test_each_epoch_has_every_row_in_an_order_of_its_own(tmp_path: Path) -> None:
    data = loaded(small_file(tmp_path), passes_per_epoch=3)
    loader = data.train_batches()
    first = [row for batch in loader for row in rows_of(batch)]
    second = [row for batch in loader for row in rows_of(batch)]
    assert len(loader) == -(-54 * 3 // 7)
    assert [len(batch) for batch in loader] == [7] * 23 + [1]
    expected = sorted(rows_of(data.images("train")))
    for start in (0, 54, 108):  # three passes, each a permutation
        assert sorted(first[start : start + 54]) == expected
    assert first[:54] != first[54:108]
    assert first != second
    loader.sampler.set_epoch(0)
    assert [row for batch in loader for row in rows_of(batch)] == first


@pytest.mark.parametrize("transform", [Identity(), Stochastic()])
def test_a_file_over_the_memory_limit_streams_the_same_rows(tmp_path: Path, transform: Transform) -> None:
    path = small_file(tmp_path, 250)
    data = loaded(path, transform, memory_limit_mb=0.001)
    assert data.stored is None
    loader = data.train_batches()
    epochs = [torch.cat(list(loader)) for _ in range(2)]
    assert [len(epoch) for epoch in epochs] == [225, 225]
    assert all(len(batch) == 7 for batch in list(loader)[:-1])
    if isinstance(transform, Identity):
        assert sorted(rows_of(epochs[0])) == list(range(225))
        assert rows_of(epochs[0]) != rows_of(epochs[1])
        assert rows_of(data.images("validation")) == list(range(225, 250))
    in_memory = loaded(path, Identity())
    rows = in_memory.images("train").double()
    torch.testing.assert_close(
        loaded(path, Identity(), memory_limit_mb=1e-3).train_mean().sum(), _mean_of_first(path, 225).sum()
    )
    assert len(rows) == 225


def _mean_of_first(path: Path, count: int) -> torch.Tensor:
    with h5py.File(path) as file:
        return torch.from_numpy(file["train/images"][:count]).double().mean(0)


def test_digits_give_over_ten_thousand_updates_in_twenty_epochs(tmp_path: Path) -> None:
    data = load("digits", str(tmp_path / "digits.h5"), digits, Threshold(), 64, seed=1, passes_per_epoch=36)
    assert (len(data.training_rows), len(data.validation_rows), len(data.images("test"))) == (1425, 75, 297)
    assert len(data.train_batches()) == 513
    assert all(len(batch) == 100 for batch in data.train_batches())
    with h5py.File(data.path) as file:
        assert file["train/images"][:].max() == 255
        counts = np.bincount(file["test/labels"][:])
    assert counts.min() >= 28  # stratified: about a tenth of each class


# ---------------------------------------------------------------------------------------------- labels


def labelled_file(folder: Path, classes: int = 60) -> Path:
    """As `small_file`, with the row number modulo `classes` as the label, in the test part too."""
    path = small_file(folder)
    with h5py.File(path, "r+") as file:
        file["train/labels"][:] = np.arange(60) % classes
        file["test/labels"] = np.arange(10) % classes
        del file.attrs["digest"]
    return path


@pytest.mark.parametrize("memory_limit_mb", [4000, 1e-4])
def test_labels_stand_one_hot_behind_their_own_images(tmp_path: Path, memory_limit_mb: float) -> None:
    data = loaded(labelled_file(tmp_path), labels=True, classes=60, passes_per_epoch=2, memory_limit_mb=memory_limit_mb)
    assert (data.stored is None) == (memory_limit_mb < 1)
    assert (data.units, data.visible.units, data.image_shape) == (16, 76, (4, 4))
    states = [*data.train_batches(), data.images("validation"), data.images("test", 5)]
    for batch in states:
        assert batch.shape[1] == 76
        assert torch.equal(batch[:, 16:].sum(1), torch.ones(len(batch)))
        assert data.visible.labels(batch).tolist() == rows_of(batch)  # the first pixel is the row number
    assert len(torch.cat(states[:-2])) == 2 * 54


def test_the_mean_of_labels_is_their_frequency(tmp_path: Path) -> None:
    data = loaded(labelled_file(tmp_path, 3), Stochastic(), labels=True)
    assert data.visible.classes == 3  # from the file
    torch.testing.assert_close(data.train_mean()[16:], data.images("train")[:, 16:].double().mean(0))
    alone = loaded(data.path, Stochastic())
    assert torch.equal(data.train_mean()[:16], alone.train_mean())
    assert torch.equal(data.images("test")[:, :16], alone.images("test"))
    assert (alone.visible.classes, alone.quantity) == (0, "stochastic")
    assert data.quantity == "stochastic, image and label jointly"


def test_labels_that_are_no_classes_are_refused(tmp_path: Path) -> None:
    path = labelled_file(tmp_path, 3)
    with pytest.raises(
        UserError, match=r"train/labels range from 0 to 2; expected classes from 0 to 1: set data\.classes"
    ):
        loaded(path, labels=True, classes=2)
    with h5py.File(path, "r+") as file:
        file["test/labels"][0] = -1
    with pytest.raises(UserError, match="test/labels range from -1 to 2"):
        loaded(path, labels=True)
    with h5py.File(path, "r+") as file:
        file["test/labels"][0] = 10**6
    with pytest.raises(UserError, match="range from 0 to 1000000; expected"):
        loaded(path, labels=True)
    with h5py.File(path, "r+") as file:
        del file["test/labels"]
    with pytest.raises(UserError, match=r"has no test/labels, and data\.labels=true models the labels"):
        loaded(path, labels=True)
    with pytest.raises(UserError, match=r"data\.classes, if not null, must be a whole number, from 2 to"):
        loaded(path, labels=True, classes=1)


# ---------------------------------------------------------------------------------------------- transforms


def test_threshold_is_above_half_of_255() -> None:
    images = torch.tensor([[0, 127, 128, 255]], dtype=torch.uint8)
    binary = Threshold(values=Values("grey8"))(images, torch.Generator())
    assert binary.dtype == torch.float32
    assert binary.tolist() == [[0, 0, 1, 1]]
    assert Threshold()(torch.tensor([[0.5, 0.51]]), torch.Generator()).tolist() == [[0, 1]]


def test_stochastic_draws_by_grey_level_anew_for_each_batch_but_once_for_evaluation(tmp_path: Path) -> None:
    data = loaded(small_file(tmp_path), Stochastic())
    assert torch.equal(data.images("validation"), data.images("validation"))
    assert torch.equal(data.images("train")[:5], data.images("train", 5))
    loader = data.train_batches()
    assert not torch.equal(torch.cat(list(loader)).sum(0), torch.cat(list(loader)).sum(0))
    grey = torch.full((20_000, 1), 51, dtype=torch.uint8)
    drawn = Stochastic(values=Values("grey8"))(grey, torch.Generator().manual_seed(1))
    assert abs(float(drawn.mean()) - 0.2) < 5 * (0.16 / 20_000) ** 0.5
    stored = data.stored
    assert stored is not None
    torch.testing.assert_close(data.train_mean(), stored[data.training_rows].double().mean(0) / 255)


def test_scale_and_standardize(tmp_path: Path) -> None:
    path = small_file(tmp_path)
    assert float(loaded(path, Scale()).images("train").max()) <= 1
    standard = loaded(path, Standardize()).images("train").double()
    torch.testing.assert_close(standard.mean(0), torch.zeros(16, dtype=torch.float64), rtol=0, atol=1e-5)
    torch.testing.assert_close(
        standard.std(0, unbiased=False)[1:], torch.ones(15, dtype=torch.float64), rtol=1e-4, atol=0
    )


def test_decorrelated_images_lie_along_their_principal_components(tmp_path: Path) -> None:
    data = loaded(small_file(tmp_path), Decorrelate(width=0.2))
    assert data.stored is not None
    stored = data.stored[data.training_rows].double() / 255
    found = data.transform.expected(data.stored[data.training_rows]).double()
    variances = torch.linalg.eigvalsh(stored.mT.cov(correction=0)).flip(0)  # the largest first
    torch.testing.assert_close(found.mT.cov(correction=0), variances.diag(), rtol=0, atol=1e-6)
    assert data.train_mean().abs().max() < 1e-6
    noise = data.transform.to_grey(data.images("train")).double() - stored
    assert 0.08 < float(noise.abs().max()) <= 0.1 + 1e-5
    weights = torch.randn(
        5, 16, generator=torch.Generator().manual_seed(1)
    )  # couplings x^T w are the same in grey levels
    torch.testing.assert_close(
        found.float() @ weights.mT, (stored - stored.mean(0)).float() @ data.transform.weights_to_grey(weights).mT
    )


@pytest.mark.parametrize("transform", [Dequantise(0.2), Decorrelate(0.2), Scale(), Threshold(), Spin()])
def test_pictures_show_grey_levels(transform: Transform, tmp_path: Path) -> None:
    """Grey levels that are shown give the image again; where no pixel is binarised they are those of the stored one."""
    data = loaded(small_file(tmp_path), transform)
    assert data.stored is not None
    transformed = data.transform.expected(data.stored)
    shown = data.transform.to_grey(transformed)
    torch.testing.assert_close(data.transform.of_levels(shown), transformed)
    if not isinstance(transform, Threshold):
        torch.testing.assert_close(shown, data.stored / 255, rtol=1e-5, atol=1e-6)


def test_train_mean_is_that_of_the_transformed_images(tmp_path: Path) -> None:
    data = loaded(small_file(tmp_path), Threshold())
    torch.testing.assert_close(data.train_mean(), data.images("train").double().mean(0))


# ---------------------------------------------------------------------------------------------- sources


def test_mnist_from_its_own_files(tmp_path: Path, mnist_folder: Path) -> None:
    source = Idx("mnist", "http://127.0.0.1:9/", MNIST_MD5)
    data = load("mnist", str(tmp_path / "mnist.h5"), source, Threshold(), 784, seed=137)
    assert (len(data.training_rows), len(data.validation_rows)) == (57_000, 3_000)
    assert len(data.train_batches()) == 570
    labels = data.labels("test")
    assert labels is not None
    assert labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert 0.12 < float(data.train_mean().mean()) < 0.14


def idx_files(folder: Path, count: int = 12) -> list[str]:
    """Four small IDX files; returns the MD5 sums of the packed files."""
    import hashlib

    rng, sums = np.random.default_rng(1), []
    for filename in FILES.values():
        shape = (count, 3, 2) if "idx3" in filename else (count,)
        header = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)
        packed = gzip.compress(header + rng.integers(0, 256, shape).astype(np.uint8).tobytes(), mtime=0)
        (folder / filename).write_bytes(packed)
        sums.append(hashlib.md5(packed, usedforsecurity=False).hexdigest())
    return sums


def test_idx_files_are_found_checked_and_kept_in_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy").mkdir()
    sums = idx_files(tmp_path / "toy")
    monkeypatch.setenv("EBM_DATA_DIR", str(tmp_path))
    data = load("toy", str(tmp_path / "toy.h5"), Idx("toy", "http://127.0.0.1:9/", sums), Scale(), 6, seed=1)
    assert data.image_shape == (3, 2)
    with pytest.raises(UserError, match="MD5"):
        Idx("toy", "http://127.0.0.1:9/", ["0" * 32, *sums[1:]])(tmp_path / "other.h5")
    assert not (tmp_path / "other.h5").exists()


def test_no_files_and_no_network_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EBM_DATA_DIR", raising=False)

    def refuse(*arguments: object, **options: object) -> None:
        raise urllib.error.URLError("no route")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(UserError, match=r"train-images.*EBM_DATA_DIR.*data=digits") as caught:
        Idx("mnist", "http://127.0.0.1:9/", MNIST_MD5)(tmp_path / "mnist.h5")
    assert "no route" in str(caught.value)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "no IDX"),
        (b"\x00\x00\x07\x01\x00\x00\x00\x01abcd", "no IDX"),
        (struct.pack(">HBBI", 0, 8, 1, 10) + b"123", "truncated"),
        (struct.pack(">HBB", 0, 8, 3), "truncated"),
    ],
)
def test_bad_idx_is_refused(raw: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_idx(raw, "file")


def test_bars_and_stripes_holds_each_pattern_once_in_its_test_part(tmp_path: Path) -> None:
    data = load("bars", str(tmp_path / "b.h5"), BarsAndStripes(3, 2), Threshold(), 9, seed=1)
    images = data.images("test")
    assert len(images) == len(images.unique(dim=0)) == 2 * 2**3 - 2
    with pytest.raises(UserError, match="from 2 to 8; got 99"):
        BarsAndStripes(99)(tmp_path / "c.h5")


def test_the_old_pandas_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "old.h5"
    pixels = np.random.default_rng(2).integers(0, 256, (30, 9)).astype(np.uint8)
    with h5py.File(path, "w") as file:
        for part in ("train", "test"):
            kinds = [("index", "<i8"), ("values_block_0", "u1", (9,))]
            table = np.zeros(30, dtype=kinds)
            table["values_block_0"] = pixels
            file[f"{part}/images/table"] = table
            labels = np.zeros(30, dtype=[("index", "<i8"), ("values_block_0", "<i8", (1,))])
            labels["values_block_0"] = np.arange(30)[:, None]
            file[f"{part}/labels/table"] = labels
    data = loaded(path, Identity())
    assert data.image_shape == (3, 3)
    labels_found = data.labels("test")
    assert labels_found is not None
    assert labels_found.tolist() == list(range(30))
    assert torch.equal(data.images("test"), torch.from_numpy(pixels).float())


# ---------------------------------------------------------------------------------------------- files


def test_describe_and_shuffled_copy(tmp_path: Path) -> None:
    path = small_file(tmp_path)
    images = read(str(path))
    text = describe(images)
    assert "60 images of 16 pixels, uint8" in text
    assert "4 x 4" in text
    for name in ("one.h5", "two.h5"):
        write_copy(images, tmp_path / name, seed=5)
    one, two = (read(str(tmp_path / name)).digest() for name in ("one.h5", "two.h5"))
    assert one == two != images.digest()
    with h5py.File(tmp_path / "one.h5") as file:
        assert file["train/images"][:, 0].tolist() == file["train/labels"][:].tolist() != list(range(60))
    write_copy(images, tmp_path / "three.h5", seed=6)
    assert read(str(tmp_path / "three.h5")).digest() != one
    with pytest.raises(UserError, match="cannot take the place"):
        write_copy(images, path, seed=5)


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    class Broken(dict[str, Any]):
        def items(self) -> Any:
            yield "train/images", np.zeros((2, 4), dtype=np.uint8)
            raise OSError("disk full")

    with pytest.raises(UserError, match="disk full"):
        write(tmp_path / "half.h5", "half", (2, 2), Broken())
    assert list(tmp_path.iterdir()) == []


def with_arrays(**arrays: Any) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with h5py.File(path, "w") as file:
            for key, array in arrays.items():
                file[key.replace("__", "/")] = array

    return make


GOOD = np.eye(20, 4, dtype=np.float32)


def truncated(path: Path) -> None:
    with_arrays(train__images=np.random.default_rng(0).random((500, 16)).astype(np.float32))(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_text("hello"), "no HDF5 file"),
        (truncated, "truncated"),
        (with_arrays(other=GOOD, another=GOOD), "no train/images; it has another .*other"),
        (with_arrays(train__images=GOOD, train__labels=3), "one integer per image"),
        (with_arrays(train__images=np.zeros(7, dtype=np.uint8)), "shape"),
        (with_arrays(train__images=np.zeros((0, 4), dtype=np.uint8)), "shape"),
        (with_arrays(train__images=GOOD.astype("complex64")), "complex64"),
        (with_arrays(train__images=np.array([[b"a", b"b"]] * 9)), "holds .S1"),
        (with_arrays(train__images=np.full((20, 4), np.nan, dtype=np.float32)), "NaN"),
        (with_arrays(train__images=GOOD, train__labels=np.zeros(19, dtype=int)), "20 images and 19 labels"),
        (with_arrays(train__images=GOOD, test__images=np.zeros((3, 9), dtype=np.float32)), "9 columns"),
        (with_arrays(train__images=GOOD[:1]), "1 training image cannot be split .*; give more images"),
        (with_arrays(train__images__deeper=GOOD), "group"),
    ],
)
def test_a_bad_file_gets_one_message_that_names_it(tmp_path: Path, make: Callable[[Path], None], message: str) -> None:
    path = tmp_path / "bad.h5"
    make(path)
    with pytest.raises(UserError, match=message) as caught:
        loaded(path)
    assert "bad.h5" in str(caught.value)


@pytest.mark.parametrize(
    "source",
    [3, None, dict, functools.partial(collections.OrderedDict), functools.partial(os.getcwd), functools.partial(Idx)],
)
def test_a_source_that_writes_nothing_is_refused_though_the_file_is_there(tmp_path: Path, source: Any) -> None:
    with pytest.raises(UserError, match=r"data\.source must be a function"):
        load("small", str(small_file(tmp_path)), source, Identity(), None, seed=3)


def test_labels_that_are_no_integers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.h5"
    with_arrays(train__images=GOOD, train__labels=np.full(20, 0.5, dtype=np.float32))(path)
    with pytest.raises(UserError, match="one integer per image"):
        loaded(path).labels("train")


def test_wrong_options_are_refused(tmp_path: Path) -> None:
    path = small_file(tmp_path, dtype="float32")
    with pytest.raises(UserError, match="expects 9"):
        loaded(path, units=9)
    with pytest.raises(UserError, match=r"data\.batch_size must be a whole number, at least 1; got 0"):
        loaded(path, batch_size=0)
    with pytest.raises(UserError, match=r"threshold.*below 1; got 2"):
        Threshold(2.0)
    with pytest.raises(UserError, match="parts train, validation, test"):
        loaded(path).images("training")
    wide = tmp_path / "wide.h5"
    with_arrays(train__images=GOOD + 300)(wide)
    with pytest.raises(UserError, match=r"real numbers from 300 to 301.*threshold.*model=grbm"):
        loaded(wide, Threshold())
