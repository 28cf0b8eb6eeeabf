"""Where images come from: each function writes one HDF5 file. No network is needed for digits and bars and stripes."""

from __future__ import annotations

import gzip
import hashlib
import os
import urllib.error
import urllib.request
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ebm_pipeline.data.parts import Array
from ebm_pipeline.data.reading import FORMATS, parse_idx
from ebm_pipeline.data.stored import write
from ebm_pipeline.support.errors import UserError, check_memory, check_whole

FILES = {
    "train/images": "train-images-idx3-ubyte.gz",
    "train/labels": "train-labels-idx1-ubyte.gz",
    "test/images": "t10k-images-idx3-ubyte.gz",
    "test/labels": "t10k-labels-idx1-ubyte.gz",
}
TIMEOUT_SECONDS = 15


@dataclass(frozen=True)
class Idx:
    """The four gzipped IDX files of MNIST or a set made like it: in EBM_DATA_DIR, else downloaded from `mirror`.

    `md5` holds the sums of the four files, packed or unpacked, in the order train images, train labels, test images, labels.
    """

    name: str
    mirror: str
    md5: Sequence[str]

    def __post_init__(self) -> None:
        if len(self.md5) != len(FILES):
            raise UserError(
                f"data.source.md5 has the sums of the {len(FILES)} files {', '.join(FILES.values())}; got {self.md5}"
            )

    def __call__(self, path: Path) -> None:
        arrays = {}
        for (key, filename), expected in zip(FILES.items(), self.md5, strict=True):
            packed, origin = self._fetch(filename, path.parent)
            try:
                raw = gzip.decompress(packed)
            except (OSError, EOFError, zlib.error) as error:
                raise UserError(f"{origin} is no whole gzip file ({error}): remove it and start again") from error
            sums = [hashlib.md5(content, usedforsecurity=False).hexdigest() for content in (packed, raw)]
            if expected not in sums:
                raise UserError(
                    f"{origin} has the MD5 sums {' and '.join(sums)}; expected {expected}: take another copy"
                )
            arrays[key] = parse_idx(raw, origin)
        shape = arrays["train/images"].shape[1:]
        flat = {key: array.reshape(len(array), -1) if array.ndim == 3 else array for key, array in arrays.items()}
        write(path, self.name, (shape[0], shape[1]), flat)

    def _fetch(self, filename: str, folder: Path) -> tuple[bytes, str]:
        """The packed file and where it came from."""
        given = os.environ.get("EBM_DATA_DIR")
        candidates = [Path(given) / self.name / filename, Path(given) / filename] if given else []
        for candidate in candidates:
            if candidate.is_file():
                return candidate.read_bytes(), str(candidate)
        url = self.mirror + filename
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:
                length = int(answer.headers.get("Content-Length") or 0) or None
                content = bytearray()
                with tqdm(total=length, unit="B", unit_scale=True, desc=filename) as bar:
                    while block := answer.read(2**16):
                        content += block
                        bar.update(len(block))
            return bytes(content), url
        except (urllib.error.URLError, OSError) as error:
            looked = ", ".join(str(candidate) for candidate in candidates) or "EBM_DATA_DIR (not set)"
            raise UserError(
                f"{filename} of {self.name} was not found in {looked}, and the download from {url} failed ({error}). "
                f"Put {', '.join(FILES.values())} into a folder {self.name} and set EBM_DATA_DIR to the folder around it, "
                "or use data=digits, which needs no download"
            ) from error


def digits(path: Path) -> None:
    """scikit-learn's 1,797 handwritten 8 x 8 digits, grey levels 0-16 brought to 0-255, split 1,500 / 297 by class."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    grey = np.rint(images * (255 / 16)).astype(np.uint8)
    parts = train_test_split(grey, labels.astype(np.uint8), train_size=1500, random_state=0, stratify=labels)
    write(
        path,
        "digits",
        (8, 8),
        dict(zip(("train/images", "test/images", "train/labels", "test/labels"), parts, strict=True)),
    )


@dataclass(frozen=True)
class BarsAndStripes:
    """Every image of `size` x `size` pixels made of whole rows or of whole columns: small enough to enumerate."""

    size: int = 4
    copies: int = 20  # of each pattern in the training part

    def __post_init__(self) -> None:
        check_whole("size of bars and stripes", self.size, 2, 8)
        check_whole("copies of bars and stripes", self.copies, 1)

    def __call__(self, path: Path) -> None:
        check_memory(f"{self.copies} copies of bars and stripes", self.copies * 2 ** (self.size + 1) * self.size**2)
        lines = ((np.arange(2**self.size)[:, None] >> np.arange(self.size)) & 1).astype(np.uint8) * 255
        stripes = np.repeat(lines[:, :, None], self.size, axis=2)
        bars = stripes.transpose(0, 2, 1)[1:-1]  # all off and all on are stripes already
        images = np.concatenate((stripes, bars)).reshape(-1, self.size**2)
        labels = np.repeat(np.array([0, 1], dtype=np.uint8), (len(stripes), len(bars)))
        parts: Mapping[str, Array] = {
            "train/images": np.tile(images, (self.copies, 1)),
            "train/labels": np.tile(labels, self.copies),
            "test/images": images,
            "test/labels": labels,
        }
        write(path, "bars_and_stripes", (self.size, self.size), parts)


def existing(path: Path) -> None:
    """Anybody's file: nothing to make."""
    raise UserError(f"no data file at {path}: set data.path to one of {FORMATS}")
