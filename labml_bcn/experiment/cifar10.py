r"""
---
title: CIFAR-10 in memory
summary: >
  Reads CIFAR-10's binary files into two tensors, finds or downloads them,
  says clearly what is wrong with a damaged file, and draws a stand-in where
  there are no images.
---

# CIFAR-10 in memory

CIFAR-10 is 60,000 colour photographs of 32 by 32 pixels in ten classes:
small enough that a batch of one or two images trains in milliseconds, and
hard enough that a normalization makes a visible difference. It was
collected by Krizhevsky, Nair and Hinton (Krizhevsky, *Learning Multiple
Layers of Features from Tiny Images*, 2009).

All of it fits into memory as 184 MB of bytes. So there is no loader, no
worker and no queue here: a set of images is one tensor, and a batch is one
indexing operation.

**The binary format.** A file is a row of records without a header. A record
is a label from 0 to 9 in one byte, then the red, the green and the blue
plane, each 32 rows of 32 bytes:

$$3073 = 1 + 3 \cdot 32 \cdot 32$$ {#record}

The official files hold 10,000 records each. Any whole number of records is
read here, so that a part of the set works like the whole.

**Where it is looked for.** The first of these that is given decides:

1. the folder that the caller names;
2. the folder in the environment variable `LABML_BCN_DATA`;
3. the user's cache folder, where an earlier download lies;
4. a download, only where it is asked for: by an argument, or by
   `LABML_BCN_DOWNLOAD=1`.

A folder that is named but wrong is an error. Passing over it would train on
other images than those that were meant.
"""

import hashlib
import importlib
import logging
import math
import os
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FOLDER = "cifar-10-batches-bin"
TRAIN_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST_FILE = "test_batch.bin"
NAMES_FILE = "batches.meta.txt"
RECORD = 1 + 3 * 32 * 32
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
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
BLOCK = 16_384
STAND_IN = "a procedural stand-in, not CIFAR-10"

log = logging.getLogger(__name__)


class DownloadError(OSError):
    """The archive could not be had, or is not the one that was expected."""


@dataclass(frozen=True, eq=False)
class CIFAR10:
    r"""
    ## The images

    A training and a test set, and where they come from.

    **Attributes**

    - `train_images`, `test_images`: uint8, `[N, 3, 32, 32]`, red first.
    - `train_labels`, `test_labels`: int64, `[N]`, from 0 to 9.
    - `classes`: the ten names, in the order of the labels.
    - `source`: a phrase for titles and tables, such as "CIFAR-10" or
      "a 7,728-image part of CIFAR-10".
    - `is_stand_in`: whether the images were drawn by `stand_in`.
    - `digest`: SHA-256 of all images and labels, in hexadecimal. Results
      that are kept are kept under this name, so that one set's are never
      shown for another's.
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
        """SHA-256 of all images and labels, in hexadecimal."""
        # Shapes go in as well: the same bytes cut elsewhere into a training
        # and a test set are another set. A byte array that a tensor is
        # copied into can be hashed without a package for arrays.
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
        r"""
        ### Mean and standard deviation

        Of each colour over the training images, on the scale from 0 to 255,
        each `[3, 1, 1]`.

        A pixel has one of 256 values. So it is enough to count how often
        each value $v$ occurs in a colour, $n_v$ times out of $n$, which is
        exact and needs no floating-point copy of the images:

        $$m = \sum_v \frac{n_v}{n} v \qquad
        s^2 = \sum_v \frac{n_v}{n} (v - m)^2$$ {#mean-and-variance}
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
        r"""
        ### Bytes to floats

        Each colour with mean 0 and standard deviation 1.

        It is done a batch at a time: the whole set in float32 would take
        four times the memory, and the time is not worth mentioning.

        **Arguments**

        - `images`: uint8, `[B, 3, H, W]`.

        **Returns** float32 of the same shape.
        """
        mean, std = self.mean_and_std
        return (images.float() - mean) / std

    def hold_out(self, count: int) -> "CIFAR10":
        r"""
        ### Images held out

        The same set with its last `count` training images as test images,
        in place of its own.

        A setting that is chosen by looking at images has seen them. What
        chooses by these leaves the test images unseen.

        **Arguments**

        - `count`: at least one, and fewer than all training images.

        **Returns** a set with `count` training images fewer. Its `source`
        says so, and its `digest` is another one.

        **Raises** `ValueError`: the count is out of its range.
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

    def to(self, device: torch.device | str) -> "CIFAR10":
        """The same set with its tensors on another device."""
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
    r"""
    ## Load

    Find CIFAR-10 and read it, in the order at the top of this page.

    **Arguments**

    - `root`: a folder that holds `cifar-10-batches-bin`, or that folder
      itself.
    - `download`: whether a download may be tried; `None` asks the
      environment variable `LABML_BCN_DOWNLOAD`.
    - `progress`: show the download's progress; `None` does so where a
      terminal is there to see it.

    **Returns** the training and test images.

    **Raises**

    - `FileNotFoundError`: nothing was found, or a file is missing.
    - `NotADirectoryError`: the root is a file.
    - `ValueError`: a file is damaged; the message names it and the byte.
    - `DownloadError`: the download failed.
    - `ModuleNotFoundError`: a package of the extra `train` is missing.
    """
    folder = find(root, download=download, progress=progress)
    if folder is None:
        raise FileNotFoundError(
            "no CIFAR-10 images were found: no root was given,"
            " LABML_BCN_DATA is not set, and the cache folder"
            f" {cache_folder()} holds no {FOLDER}. Set LABML_BCN_DATA to a"
            f" folder that holds {FOLDER}, or set LABML_BCN_DOWNLOAD=1 to"
            " download it (170 MB)."
        )
    return read(folder)


def load_or_stand_in(
    root: Path | str | None = None,
    *,
    download: bool | None = None,
    progress: bool | None = None,
) -> CIFAR10:
    r"""
    ## Load, or go on without

    CIFAR-10 where it can be had, the stand-in of `stand_in` where not.

    A notebook should run on any machine. It may go on without images, but
    must say so: `source` belongs in its output and in every plot's title.
    Only what was never there is replaced. A folder that was named and is
    wrong, or a file that is damaged, remains an error.

    **Arguments**, **Raises**: those of `load`. A download that fails is
    logged as a warning, and the stand-in takes its place.

    **Returns** the images; `is_stand_in` tells which.
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
    r"""
    ## Find

    The folder with the binary files, or `None` where nothing was named and
    nothing is there.

    **Arguments**, **Raises**: those of `load`.
    """
    # What was named comes first, and has to be right. An empty variable
    # counts as unset: that is how a shell takes a variable back for one
    # command.
    if root is not None:
        return _named(Path(root), "the given root")
    if configured := os.environ.get("LABML_BCN_DATA"):
        return _named(Path(configured), "LABML_BCN_DATA")
    # An earlier download is as good as a new one.
    cache = cache_folder()
    if (cache / FOLDER).exists():
        return _named(cache, "the cache folder")
    if _download_asked() if download is None else download:
        return fetch(cache, progress=progress)
    return None


def cache_folder() -> Path:
    """The folder for downloads, where this system keeps a user's caches."""
    return Path(optional_package("platformdirs").user_cache_path("labml-bcn"))


def _named(root: Path, origin: str) -> Path:
    # People point at the folder with the files as often as at the one above
    # it. Both say clearly what is meant, so both are right.
    root = root.expanduser()
    if root.exists() and not root.is_dir():
        raise NotADirectoryError(
            f"{origin} must be a folder that holds {FOLDER}, but {root} is"
            " a file. If it is an archive, unpack it and name the folder"
            " that it was unpacked into."
        )
    if (root / FOLDER).is_dir():
        return root / FOLDER
    if any((root / name).is_file() for name in (*TRAIN_FILES, TEST_FILE)):
        return root
    raise FileNotFoundError(
        f"{origin} must be a folder that holds {FOLDER}, but {root}"
        f" {_shortcoming(root)}. Name the folder into which"
        " cifar-10-binary.tar.gz was unpacked."
    )


def _shortcoming(root: Path) -> str:
    if not root.exists():
        return "does not exist"
    if (root / "cifar-10-batches-py").is_dir():
        return "holds the Python version of CIFAR-10, not the binary one"
    return "does not hold it"


def _download_asked() -> bool:
    value = os.environ.get("LABML_BCN_DOWNLOAD", "")
    if value not in ("", "0", "1"):
        raise ValueError(
            f"LABML_BCN_DOWNLOAD must be 1 or 0, but is {value!r}. Set it"
            " to 1 to allow the download, or unset it."
        )
    return value == "1"


def read(folder: Path) -> CIFAR10:
    r"""
    ## Read

    The binary files of a folder as tensors.

    The names in `batches.meta.txt` are used where the file is there; they
    are the same for every copy of CIFAR-10, so its absence does no harm.

    **Arguments**

    - `folder`: the folder with `data_batch_1.bin` to `data_batch_5.bin` and
      `test_batch.bin`.

    **Returns** the training and test images.

    **Raises** `FileNotFoundError` and `ValueError`, as `load` does.
    """
    missing = [
        name for name in (*TRAIN_FILES, TEST_FILE) if not (folder / name).is_file()
    ]
    if missing:
        raise FileNotFoundError(
            f"{folder} must hold six files of records, but these are"
            f" missing: {', '.join(missing)}. Copy or unpack them again;"
            " a part of CIFAR-10 needs at least one record in each."
        )
    images, labels = zip(
        *(read_records(folder / name) for name in TRAIN_FILES), strict=True
    )
    test_images, test_labels = read_records(folder / TEST_FILE)
    train_images = torch.cat(images)
    return CIFAR10(
        train_images=train_images,
        train_labels=torch.cat(labels),
        test_images=test_images,
        test_labels=test_labels,
        classes=_read_names(folder / NAMES_FILE),
        source=_phrase(len(train_images), len(test_images)),
    )


def read_records(path: Path) -> tuple[Tensor, Tensor]:
    r"""
    ## One file

    The records of one file: $N$ rows of 3,073 bytes, cut into labels and
    images by two slices.

    **Arguments**

    - `path`: a file of records.

    **Returns** images, uint8 `[N, 3, 32, 32]`, and labels, int64 `[N]`.

    **Raises**

    - `OSError`: the file cannot be read.
    - `ValueError`: it is empty, ends inside a record, or holds a label over
      9.
    """
    try:
        data = bytearray(path.read_bytes())
    except OSError as error:
        raise OSError(
            f"{path} cannot be read: {error.strerror}. Copy or unpack it"
            " again, or allow to read it."
        ) from error
    # A copy that broke off ends inside a record. Read on regardless, it
    # would give a last image that is half of another, or none.
    whole, rest = divmod(len(data), RECORD)
    if not data:
        raise ValueError(
            f"{path} must hold at least one record of {RECORD:,} bytes, but"
            " it is empty. Copy or unpack it again."
        )
    if rest:
        raise ValueError(
            f"{path} must be a whole number of records of {RECORD:,} bytes,"
            f" but its {len(data):,} bytes are {whole:,} records and"
            f" {rest:,} bytes more: it ends inside the record that starts"
            f" at byte {whole * RECORD:,}. Copy or unpack it again."
        )
    records = torch.frombuffer(data, dtype=torch.uint8).view(-1, RECORD)
    labels = records[:, 0].long()
    # A label over 9 shows that a byte was lost or added somewhere before
    # it, or that this is no CIFAR-10 at all. The first one is the closest
    # to the damage.
    wrong = (labels > 9).nonzero()
    if len(wrong):
        record = int(wrong[0])
        raise ValueError(
            f"{path}: a label must be from 0 to 9, but the byte at offset"
            f" {record * RECORD:,}, the label of record {record:,}, is"
            f" {int(labels[record])}. The file is damaged, or is not"
            " CIFAR-10's binary version: copy or unpack it again."
        )
    return records[:, 1:].reshape(-1, 3, 32, 32), labels


def _read_names(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        return CLASSES
    names = tuple(path.read_text("utf-8", errors="replace").split())
    if len(names) != 10:
        raise ValueError(
            f"{path} must hold ten names, one a line, but holds"
            f" {len(names)}. Copy it again, or remove it: the names are"
            " known without it."
        )
    return names


def _phrase(train: int, test: int) -> str:
    if (train, test) == (50_000, 10_000):
        return "CIFAR-10"
    return f"a {train:,}-image part of CIFAR-10"


def fetch(
    cache: Path,
    *,
    url: str = URL,
    md5: str = MD5,
    progress: bool | None = None,
) -> Path:
    r"""
    ## Download

    The official binary archive: 170,052,171 bytes, checked, and unpacked.

    What has arrived stays in a `.part` file, so that a download that breaks
    off, or is broken off with Ctrl-C, goes on from there the next time.

    **Arguments**

    - `cache`: the folder to unpack into; it is made where it is missing.
    - `url`, `md5`: the archive and its checksum.
    - `progress`: show a progress bar; `None` does so where a terminal is
      there to see it.

    **Returns** the folder with the binary files.

    **Raises** `DownloadError`: the server cannot be reached, the archive is
    another one than expected, or it lacks a file.
    """
    pooch, requests = optional_package("pooch"), optional_package("requests")
    pooch.get_logger().setLevel("WARNING")
    name = Path(url).name
    part = cache / f"{name}.part"
    # Pooch compares checksums, and moves the archive to its name only where
    # they agree. Where they do not, the archive is removed, part and all:
    # nothing could be continued from it.
    try:
        cache.mkdir(parents=True, exist_ok=True)
        archive = pooch.retrieve(
            url,
            known_hash=f"md5:{md5}",
            fname=name,
            path=cache,
            downloader=partial(_download, part=part, progress=progress),
        )
    except requests.RequestException as error:
        raise DownloadError(
            f"CIFAR-10 could not be downloaded from {url}: {error}."
            " Try again, and the download goes on where it broke off; or"
            f" get it another way and set LABML_BCN_DATA to the folder that"
            f" holds {FOLDER}."
        ) from error
    except ValueError as error:
        raise DownloadError(
            f"the archive from {url} must have the MD5 sum {md5}, but has"
            " another: it was damaged on its way, or is another file. It"
            " was removed; try again."
        ) from error
    folder = unpack(Path(archive), cache)
    Path(archive).unlink()
    return folder


def _download(
    url: str, output: str, _: object, *, part: Path, progress: bool | None
) -> None:
    # A connection that breaks off is taken up again as long as each try
    # brings the file further; this ends, because the file does. A server
    # that cannot be reached brings nothing, and ends it at once.
    requests = optional_package("requests")
    broken = requests.exceptions.ChunkedEncodingError
    while True:
        before = _size(part)
        try:
            _continue(url, part, progress)
            break
        except (requests.ConnectionError, requests.Timeout, broken):
            if _size(part) <= before:
                raise
    os.replace(part, output)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _continue(url: str, part: Path, progress: bool | None) -> None:
    # Ask for the rest of the file. Some servers send all of it anyway: the
    # status says which, 206 for a part and 200 for the whole.
    requests = optional_package("requests")
    have = _size(part)
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with requests.get(url, headers=headers, stream=True, timeout=(4, 30)) as response:
        # 416: there is no rest. The part is then either complete or no part
        # of this file; the checksum finds out.
        if have and response.status_code == 416:
            return
        response.raise_for_status()
        resumed = response.status_code == 206
        total = int(response.headers.get("Content-Length", 0))
        start = have if resumed else 0
        with (
            part.open("ab" if resumed else "wb") as file,
            bar(start + total, start, "CIFAR-10", progress, unit="B") as shown,
        ):
            # Small blocks, because a block that breaks off is lost.
            for block in response.iter_content(BLOCK):
                file.write(block)
                shown.update(len(block))
    if total and _size(part) < start + total:
        raise requests.ConnectionError("the connection broke off")


def unpack(archive: Path, cache: Path) -> Path:
    r"""
    ## Unpack

    The seven known files of the archive, and nothing else.

    An archive may name files outside of the folder it is unpacked into, or
    hold links that lead there. So nothing is unpacked by its own name: only
    the names that are expected are looked for, and only plain files are
    taken. They are written to a folder beside the final one, which gets its
    name once it is complete: whoever finds that name finds all files.

    **Arguments**

    - `archive`: a `.tar.gz` file.
    - `cache`: the folder that will hold `cifar-10-batches-bin`.

    **Returns** the folder with the files.

    **Raises** `DownloadError`: the archive cannot be read or lacks a file.
    """
    target = cache / FOLDER
    with tempfile.TemporaryDirectory(dir=cache, prefix=".unpacking-") as temporary:
        folder = Path(temporary) / FOLDER
        folder.mkdir()
        for name, data in _known_files(archive):
            (folder / name).write_bytes(data)
        lacking = {*TRAIN_FILES, TEST_FILE} - {file.name for file in folder.iterdir()}
        if lacking:
            raise DownloadError(
                f"{archive} must hold {FOLDER}/ with six files of records,"
                f" but lacks {', '.join(sorted(lacking))}. Remove it and"
                " download it again."
            )
        # Another process may have been faster; its files are as good.
        try:
            folder.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    return target


def _known_files(archive: Path) -> Iterator[tuple[str, bytes]]:
    known = {f"{FOLDER}/{name}": name for name in (*TRAIN_FILES, TEST_FILE, NAMES_FILE)}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isreg() else None
                if file is not None and member.name in known:
                    yield known[member.name], file.read()
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise DownloadError(
            f"{archive} must be a .tar.gz archive, but cannot be read:"
            f" {error}. Remove it and download it again."
        ) from error


def stand_in(train: int = 7_728, test: int = 1_000) -> CIFAR10:
    r"""
    ## The stand-in

    Images of the same shape in ten classes, drawn from a fixed seed.

    Where there are no photographs, everything should still run, and what
    runs should still have something to learn. Each image shows stripes:

    $$x(p) = a + b \cos\!\Big(\frac{2 \pi}{\lambda}
    \langle u_\theta, p \rangle + \varphi\Big) + n(p)$$ {#stripes}

    Here $p$ is the pixel, $u_\theta$ the direction across the stripes,
    $a$ and $b$ are random colours, $\varphi$ is a random phase and $n$ is
    noise. A class is one of five angles $\theta$ from lying to standing and
    one of two wavelengths $\lambda$. Both waver, and half of the images are
    mirrored, so that flipping an image keeps its class.

    **Arguments**

    - `train`, `test`: how many images of each.

    **Returns** the images, the same ones at every call. The global random
    state is neither used nor changed.
    """
    generator = torch.Generator().manual_seed(10)
    train_images, train_labels = _draw(train, generator)
    test_images, test_labels = _draw(test, generator)
    return CIFAR10(
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        classes=tuple(
            f"{kind} stripes at {angle}°"
            for kind in ("narrow", "wide")
            for angle in ("0", "22.5", "45", "67.5", "90")
        ),
        source=STAND_IN,
        is_stand_in=True,
    )


def _draw(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    # Everything random comes from the one generator, for all images at
    # once.
    labels = torch.randint(10, (n,), generator=generator)
    phase, side = torch.rand(2, n, generator=generator)
    waver, stretch = torch.randn(2, n, generator=generator)
    # A class sets the angle and the wavelength, but both waver so much that
    # neighbouring classes overlap: like photographs, some of these images
    # cannot be told apart. Half of them are mirrored.
    theta = (labels % 5 + 0.5 * waver) * math.pi / 8
    mirror = torch.where(side < 0.5, -1.0, 1.0)
    wavelength = torch.where(labels < 5, 5.0, 8.0) * (0.15 * stretch).exp()
    u = torch.stack([theta.cos() * mirror, theta.sin()], 1)
    u = u * (2 * math.pi / wavelength)[:, None]
    # The phase at a pixel is the sum of a share for its row and a share
    # for its column, so no grid of pixels is needed.
    p = torch.arange(32.0)
    rows = u[:, 1, None, None] * p[:, None]
    columns = u[:, 0, None, None] * p
    wave = (rows + columns + 2 * math.pi * phase[:, None, None]).cos()
    # The colours are drawn anew for each image: only the stripes tell the
    # class.
    a = 128 + 40 * torch.randn(n, 3, 1, 1, generator=generator)
    b = 50 * torch.randn(n, 3, 1, 1, generator=generator)
    images = torch.randn(n, 3, 32, 32, generator=generator).mul_(30)
    images.add_(a).addcmul_(b, wave[:, None])
    return images.round_().clamp_(0, 255).to(torch.uint8), labels


def bar(
    total: int,
    start: int = 0,
    label: str = "",
    progress: bool | None = None,
    unit: str = " images",
) -> Any:
    r"""
    ## Progress

    A progress bar on the standard error stream, or a mute one.

    **Arguments**

    - `total`, `start`: what there is to do, and what was done before.
    - `label`: the words in front.
    - `progress`: `True` shows it, `False` does not, and `None` does where
      the stream is a terminal. What is stored, such as a notebook's output
      or a log, then stays free of it.
    - `unit`: what is counted.

    **Returns** tqdm's bar, to be used in a `with` statement.
    """
    return optional_package("tqdm").tqdm(
        total=total or None,
        initial=start,
        desc=label or None,
        unit=unit,
        unit_scale=unit == "B",
        disable=None if progress is None else not progress,
        dynamic_ncols=True,
    )


def optional_package(name: str) -> Any:
    r"""
    A package of the extra `train`; reading files needs torch alone.

    **Raises** `ModuleNotFoundError`: it is not installed, with the remedy.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the package {name} is needed for this, but is not installed."
            " Install it with: pip install 'labml-bcn[train]'",
            name=name,
        ) from error
