"""CIFAR-10 in memory: found or downloaded, checked, and read into two tensors.

CIFAR-10 is 60,000 colour photographs of 32 by 32 pixels in ten classes: small enough
that a batch of one or two images trains in milliseconds, and hard enough that a
normalization makes a visible difference. It was collected by Krizhevsky, Nair and
Hinton (Krizhevsky, *Learning Multiple Layers of Features from Tiny Images*, 2009).

All of it fits into memory as 184 MB of bytes. So there is no loader, no worker and no
queue here: a set of images is one tensor, and a batch is one indexing operation.

A binary file is a row of records without a header. A record is a label from 0 to 9 in
one byte, then the red, the green and the blue plane, each 32 rows of 32 bytes. The
official files hold 10,000 records each. Any whole number of records is read here, so
that a part of the set works like the whole.

Files that were damaged would be trained on without a word. If there is a `SHA256SUMS`
beside them, as after a download, they must have these digests. Without one, what no
photograph is shows the damage: a label over 9, an image of one value.

The images are looked for in this order; the first that is given decides:

1. the folder that the caller names;
2. the folder in the environment variable `LABML_BCN_DATA`;
3. the user's cache folder, where an earlier download lies;
4. a download, only if it is asked for: by an argument, or by `LABML_BCN_DOWNLOAD=1`.

A folder that is named but wrong is an error. Passing over it would train on other
images than those that were meant.
"""

import hashlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from labml_bcn.experiment import stripes
from labml_bcn.experiment.checksums import read_sums, require_digest
from labml_bcn.experiment.download import DownloadError as DownloadError
from labml_bcn.experiment.download import fetch as fetch
from labml_bcn.experiment.optional_packages import optional_package

FOLDER = "cifar-10-batches-bin"
TRAIN_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST_FILE = "test_batch.bin"
NAMES_FILE = "batches.meta.txt"
RECORD = 1 + 3 * 32 * 32
# All of CIFAR-10 in one file; what is larger is something else, and fills the memory.
MOST_RECORDS = 60_000
CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
STAND_IN = "a procedural stand-in, not CIFAR-10"

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class CIFAR10:
    """A training and a test set, and where they come from.

    Images are uint8 [N, 3, 32, 32], red first, labels int64 [N], from 0 to 9, and
    `classes` the ten names in their order. `source` is a phrase for titles and tables,
    such as "CIFAR-10" or "a 7,728-image part of CIFAR-10".
    """

    train_images: Tensor = field(repr=False)
    train_labels: Tensor = field(repr=False)
    test_images: Tensor = field(repr=False)
    test_labels: Tensor = field(repr=False)
    classes: tuple[str, ...]
    source: str
    is_stand_in: bool = False

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all images and labels, in hexadecimal.

        Results that are kept are kept under this name, so that one set's are never
        shown for another's.
        """
        # Shapes go in as well: the same bytes cut elsewhere into a training and a test
        # set are another set. A byte array that a tensor is copied into can be hashed
        # without a package for arrays.
        sha = hashlib.sha256()
        for part in (
            self.train_images,
            self.train_labels,
            self.test_images,
            self.test_labels,
        ):
            data = bytearray(part.numel())
            bytes_of = torch.frombuffer(data, dtype=torch.uint8)
            bytes_of.copy_(part.flatten())
            sha.update(repr(tuple(part.shape)).encode())
            sha.update(data)
        return sha.hexdigest()

    @cached_property
    def mean_and_std(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each colour over the training images.

        They are on the scale from 0 to 255, each [3, 1, 1]. A pixel has one of 256
        values. So it is enough to count how often each value v occurs in a colour,
        which is exact and needs no floating-point copy of the images.
        """
        colours = self.train_images.unbind(1)
        n_v = torch.stack(
            [c.flatten().bincount(minlength=256).cpu() for c in colours]
        ).double()
        v = torch.arange(256).double()
        share = n_v / n_v.sum(1, keepdim=True)
        m = (share * v).sum(1)
        s2 = (share * (v - m[:, None]) ** 2).sum(1)
        both = torch.stack([m, s2.sqrt()]).float()[..., None, None]
        mean, std = both.to(self.train_images.device)
        return mean, std

    def standardize(self, images: Tensor) -> Tensor:
        """Turn bytes [B, 3, H, W] into float32 with mean 0 and variance 1 a colour.

        It is done a batch at a time: the whole set in float32 would take four times
        the memory, and the time is not worth mentioning.
        """
        mean, std = self.mean_and_std
        return (images.float() - mean) / std

    def hold_out(self, count: int) -> "CIFAR10":
        """Return the set with its last `count` training images as test images.

        A setting that is chosen by looking at images has seen them. What chooses by
        these leaves the test images unseen. The `source` of the new set says so, and
        its `digest` is another one. Raises `ValueError` if not at least one image is
        left on either side.
        """
        total = len(self.train_images)
        if not 0 < count < total:
            raise ValueError(
                "the images held out must be at least one and fewer than the"
                f" {total:,} training images, got {count:,}"
            )
        return replace(
            self,
            train_images=self.train_images[:-count],
            train_labels=self.train_labels[:-count],
            test_images=self.train_images[-count:],
            test_labels=self.train_labels[-count:],
            source=f"{self.source}, {count:,} training images held out",
        )

    def to(self, device: torch.device | str) -> Self:
        """Return the same set with its tensors on another device."""
        return replace(
            self,
            train_images=self.train_images.to(device),
            train_labels=self.train_labels.to(device),
            test_images=self.test_images.to(device),
            test_labels=self.test_labels.to(device),
        )


def load(
    root: Path | str | None = None,
    *,
    download: bool | None = None,
    progress: bool | None = None,
) -> CIFAR10:
    """Find CIFAR-10 and read it.

    `root` is a folder that holds `cifar-10-batches-bin`, or that folder itself.
    `download` says whether a download may be tried; `None` asks the environment
    variable `LABML_BCN_DOWNLOAD`. `progress` shows the download's; `None` does so if a
    terminal is there to see it.

    Raises `FileNotFoundError` if nothing was found or a file is missing,
    `NotADirectoryError` if the root is a file, `ValueError` if a file is damaged (the
    message names it and the byte), `DownloadError` if the download failed, and
    `ModuleNotFoundError` if a package of the extra `train` is missing.
    """
    folder = find(root, download=download, progress=progress)
    if folder is None:
        raise FileNotFoundError(
            "no CIFAR-10 images were found: no root was given, LABML_BCN_DATA is not"
            f" set, and the cache folder {cache_folder()} holds no {FOLDER}. Set"
            f" LABML_BCN_DATA to a folder that holds {FOLDER}, or set"
            " LABML_BCN_DOWNLOAD=1 to download it (170 MB)."
        )
    return read(folder)


def load_or_stand_in(
    root: Path | str | None = None,
    *,
    download: bool | None = None,
    progress: bool | None = None,
) -> CIFAR10:
    """Load CIFAR-10 if it can be had, or else return the stand-in.

    A notebook should run on any machine. It may go on without images, but must say so:
    `source` belongs in its output and in every plot's title. Only what was never there
    is replaced. A folder that was named and is wrong, or a file that is damaged,
    remains an error. A download that fails is logged as a warning.

    Arguments and errors are those of `load`.
    """
    try:
        folder = find(root, download=download, progress=progress)
    except DownloadError as error:
        log.warning("%s Going on with %s.", error, STAND_IN)
        folder = None
    return stand_in() if folder is None else read(folder)


def find(
    root: Path | str | None = None,
    *,
    download: bool | None = None,
    progress: bool | None = None,
) -> Path | None:
    """Return the folder with the binary files, or `None` if there is none.

    Arguments and errors are those of `load`.
    """
    # What was named comes first, and has to be right. An empty variable counts as
    # unset: that is how a shell takes a variable back for one command.
    if root == "":
        raise ValueError(
            f"the given root must be a folder that holds {FOLDER}, got '': perhaps of a"
            " variable that was never set. Leave it out to look elsewhere."
        )
    if root is not None:
        return _require_folder(Path(root), "the given root")
    if configured := os.environ.get("LABML_BCN_DATA"):
        return _require_folder(Path(configured), "LABML_BCN_DATA")
    # An earlier download is as good as a new one.
    cache = cache_folder()
    if (cache / FOLDER).exists():
        return _require_folder(cache, "the cache folder")
    if _may_download() if download is None else download:
        return fetch(cache, FOLDER, progress=progress)
    return None


def cache_folder() -> Path:
    """Return the folder for downloads, where this system keeps a user's caches."""
    return Path(optional_package("platformdirs").user_cache_path("labml-bcn"))


def _require_folder(root: Path, origin: str) -> Path:
    # People point at the folder with the files as often as at the one above it. Both
    # say clearly what is meant, so both are right.
    try:
        root = root.expanduser()
    except RuntimeError as error:
        raise FileNotFoundError(
            f"{origin} must be a folder that holds {FOLDER}, but {root} names a user"
            " who is not known here. Name the folder without ~."
        ) from error
    if root.exists() and not root.is_dir():
        raise NotADirectoryError(
            f"{origin} must be a folder that holds {FOLDER}, but {root} is a file. If"
            " it is an archive, unpack it and name the folder that it was unpacked"
            " into."
        )
    if (root / FOLDER).is_dir():
        return root / FOLDER
    if any((root / name).is_file() for name in (*TRAIN_FILES, TEST_FILE)):
        return root
    raise FileNotFoundError(
        f"{origin} must be a folder that holds {FOLDER}, but {root}"
        f" {_what_is_there(root)}. Name the folder into which cifar-10-binary.tar.gz"
        " was unpacked."
    )


def _what_is_there(root: Path) -> str:
    if not root.exists():
        return "does not exist"
    if (root / "cifar-10-batches-py").is_dir():
        return "holds the Python version of CIFAR-10, not the binary one"
    return "does not hold it"


def _may_download() -> bool:
    value = os.environ.get("LABML_BCN_DOWNLOAD", "")
    if value not in ("", "0", "1"):
        raise ValueError(
            f"LABML_BCN_DOWNLOAD must be 1 or 0, but is {value!r}. Set it to 1 to allow"
            " the download, or unset it."
        )
    return value == "1"


def read(folder: Path) -> CIFAR10:
    """Read the six binary files of a folder into tensors.

    The names in `batches.meta.txt` are used if the file is there; they are the same for
    every copy of CIFAR-10, so its absence does no harm. Raises `FileNotFoundError` and
    `ValueError` as `load` does.
    """
    missing = [
        name for name in (*TRAIN_FILES, TEST_FILE) if not (folder / name).is_file()
    ]
    if missing:
        raise FileNotFoundError(
            f"{folder} must hold six files of records, but these are missing:"
            f" {', '.join(missing)}. Copy or unpack them again; a part of CIFAR-10"
            " needs at least one record in each."
        )
    sums = read_sums(folder)
    images, labels = zip(
        *(read_records(folder / name, sums) for name in TRAIN_FILES), strict=True
    )
    test_images, test_labels = read_records(folder / TEST_FILE, sums)
    train_images = torch.cat(images)
    return CIFAR10(
        train_images=train_images,
        train_labels=torch.cat(labels),
        test_images=test_images,
        test_labels=test_labels,
        classes=_read_names(folder / NAMES_FILE),
        source=_source_phrase(len(train_images), len(test_images)),
    )


def read_records(
    path: Path, sums: Mapping[str, str] | None = None
) -> tuple[Tensor, Tensor]:
    """Read the records of one file, which has one of the digests `sums` if given.

    Returns images, uint8 [N, 3, 32, 32], and labels, int64 [N]. Raises `OSError` if the
    file cannot be read, and `ValueError` if it is empty or too large, ends inside a
    record, has another digest, or holds a label over 9 or an image of one value.
    """
    try:
        _require_whole_records(path, path.stat().st_size)
        data = bytearray(path.read_bytes())
    except OSError as error:
        raise OSError(
            f"{path} cannot be read: {error.strerror}. Copy or unpack it again, or"
            " allow to read it."
        ) from error
    require_digest(path, data, sums, "Copy or unpack it again.")
    records = torch.frombuffer(data, dtype=torch.uint8).view(-1, RECORD)
    labels = records[:, 0].long()
    # A label over 9 shows that a byte was lost or added somewhere before it, or that
    # this is no CIFAR-10 at all. The first one is the closest to the damage.
    wrong = (labels > 9).nonzero()
    if len(wrong):
        record = int(wrong[0])
        raise ValueError(
            f"{path}: a label must be from 0 to 9, but the byte at offset"
            f" {record * RECORD:,}, the label of record {record:,}, is"
            f" {int(labels[record])}. The file is damaged, or is not CIFAR-10's binary"
            " version: copy or unpack it again."
        )
    _require_photographs(path, records[:, 1:])
    return records[:, 1:].reshape(-1, 3, 32, 32), labels


def _require_photographs(path: Path, pixels: Tensor) -> None:
    # Where a disk has lost a block, or a copy has left a hole, there are zeros: a valid
    # label, and an image without a picture.
    same = (pixels == pixels[:, :1]).all(1).nonzero()
    if len(same):
        record = int(same[0])
        raise ValueError(
            f"{path}: an image must have more than one value, but in"
            f" {len(same):,} of {len(pixels):,} all 3,072 bytes are the same; the first"
            f" is record {record:,} at byte {record * RECORD:,}, all"
            f" {int(pixels[record, 0])}. The file is damaged: copy or unpack it again."
        )


def _require_whole_records(path: Path, size: int) -> None:
    # A copy that broke off ends inside a record. Read on regardless, it would give a
    # last image that is half of another, or none.
    whole, rest = divmod(size, RECORD)
    if whole > MOST_RECORDS:
        raise ValueError(
            f"{path} must hold at most the {MOST_RECORDS:,} records of CIFAR-10, but"
            f" its {size:,} bytes are {whole:,}. It is another file: copy or unpack it"
            " again."
        )
    if not size:
        raise ValueError(
            f"{path} must hold at least one record of {RECORD:,} bytes, but it is"
            " empty. Copy or unpack it again."
        )
    if rest:
        raise ValueError(
            f"{path} must be a whole number of records of {RECORD:,} bytes, but its"
            f" {size:,} bytes are {whole:,} records and {rest:,} bytes more: it ends"
            f" inside the record that starts at byte {whole * RECORD:,}. Copy or unpack"
            " it again."
        )


def _read_names(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        return CLASSES
    names = tuple(path.read_text("utf-8", errors="replace").split())
    if len(names) != 10:
        raise ValueError(
            f"{path} must hold ten names, one a line, but holds {len(names)}. Copy it"
            " again, or remove it: the names are known without it."
        )
    return names


def _source_phrase(train: int, test: int) -> str:
    if (train, test) == (50_000, 10_000):
        return "CIFAR-10"
    return f"a {train:,}-image part of CIFAR-10"


def stand_in(train: int = 7_728, test: int = 1_000) -> CIFAR10:
    """Return `train` and `test` images of stripes, the same ones at every call.

    The global random state is neither used nor changed.
    """
    generator = torch.Generator().manual_seed(10)
    train_images, train_labels = stripes.draw(train, generator)
    test_images, test_labels = stripes.draw(test, generator)
    return CIFAR10(
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        classes=stripes.CLASSES,
        source=STAND_IN,
        is_stand_in=True,
    )
