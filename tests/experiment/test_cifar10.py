"""CIFAR-10: the format, damage, the lookup, and real images."""

import hashlib
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch
from helpers.images import FILES, make_files, make_record, write_files

from labml_bcn.experiment import cifar10
from labml_bcn.experiment.checksums import digest_of, read_sums, write_sums

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def root(tmp_path):
    return write_files(tmp_path / "data", make_files())


# The format


def test_a_record_is_a_label_then_planes_of_rows(tmp_path):
    pixels = torch.randint(256, (2, 3072), dtype=torch.uint8)
    path = tmp_path / "x.bin"
    path.write_bytes(bytes([7, *pixels[0].tolist()]) + bytes([2, *pixels[1].tolist()]))
    images, labels = cifar10.read_records(path)
    assert labels.tolist() == [7, 2]
    assert labels.dtype == torch.int64
    assert images.shape == (2, 3, 32, 32)
    assert images.dtype == torch.uint8
    # Red, green, blue; in each the rows from top to bottom.
    assert images[0, 1, 2, 3] == pixels[0, 1024 + 2 * 32 + 3]
    assert images[1, 2, 31, 0] == pixels[1, 2 * 1024 + 31 * 32]


def test_the_files_follow_one_another(root):
    data = cifar10.load(root)
    assert data.train_images[:, 0, 0, 0].tolist() == [
        10 * number + k for number in range(5) for k in range(3)
    ]
    assert data.test_images[:, 2, 31, 31].tolist() == [50, 51, 52]
    assert data.test_labels.tolist() == [5, 6, 7]
    assert data.classes == cifar10.CLASSES
    assert data.source == "a 15-image part of CIFAR-10"
    assert not data.is_stand_in


def test_files_may_hold_different_numbers_of_records(tmp_path):
    files = make_files(1) | {"data_batch_3.bin": make_record(1) * 7}
    data = cifar10.load(write_files(tmp_path / "x", files))
    assert len(data.train_images) == 11
    assert len(data.test_images) == 1


def test_only_the_full_set_is_called_cifar_10():
    assert cifar10._source_phrase(50_000, 10_000) == "CIFAR-10"
    assert cifar10._source_phrase(7_728, 1_000) == ("a 7,728-image part of CIFAR-10")
    assert "part" in cifar10._source_phrase(50_000, 9_999)


def test_images_held_out_are_in_no_other_part(root):
    data = cifar10.load(root)
    held = data.hold_out(4)
    assert torch.equal(
        torch.cat([held.train_images, held.test_images]), data.train_images
    )
    assert torch.equal(
        torch.cat([held.train_labels, held.test_labels]), data.train_labels
    )
    assert len(held.test_images) == 4
    assert held.digest != data.digest
    assert held.source == f"{data.source}, 4 training images held out"
    shown = held.train_images[:, :1, 0, 0].float()
    assert held.mean_and_std[0][0] == pytest.approx(shown.mean().item())


@pytest.mark.parametrize("count", [-1, 0, 15])
def test_some_images_remain_to_train_on(root, count):
    with pytest.raises(ValueError, match="fewer than the 15 training images"):
        cifar10.load(root).hold_out(count)


def test_names_are_known_without_their_file(tmp_path):
    files = make_files()
    del files[cifar10.NAMES_FILE]
    assert cifar10.load(write_files(tmp_path / "x", files)).classes == (cifar10.CLASSES)


def test_the_mean_and_variance_count_values_by_their_share(root):
    data = cifar10.load(root)
    mean, std = data.mean_and_std
    for colour in range(3):
        values = data.train_images[:, colour].flatten().tolist()
        share = {v: values.count(v) / len(values) for v in set(values)}
        m = sum(share[v] * v for v in share)
        s2 = sum(share[v] * (v - m) ** 2 for v in share)
        assert mean[colour].item() == pytest.approx(m, rel=1e-6)
        assert std[colour].item() ** 2 == pytest.approx(s2, rel=1e-6)


def test_standardized_images_have_mean_zero_and_std_one(root):
    data = cifar10.load(root)
    x = data.standardize(data.train_images)
    assert x.dtype == torch.float32
    dims = (0, 2, 3)
    assert x.mean(dims).abs().max() < 1e-5
    assert (x.std(dims, correction=0) - 1).abs().max() < 1e-5
    mean, std = data.mean_and_std
    assert mean.shape == std.shape == (3, 1, 1)


def test_the_digest_tells_sets_apart(tmp_path, root):
    one = cifar10.load(root)
    assert re.fullmatch("[0-9a-f]{64}", one.digest)
    assert cifar10.load(root).digest == one.digest
    changed = make_files()
    changed["test_batch.bin"] = changed["test_batch.bin"][:-1] + b"\xff"
    other = cifar10.load(write_files(tmp_path / "other", changed))
    assert other.digest != one.digest
    relabelled = make_files()
    relabelled["test_batch.bin"] = b"\0" + relabelled["test_batch.bin"][1:]
    third = cifar10.load(write_files(tmp_path / "third", relabelled))
    assert len({one.digest, other.digest, third.digest}) == 3


def test_a_set_shows_its_source_and_not_its_pixels(root):
    shown = repr(cifar10.load(root))
    assert "part of CIFAR-10" in shown
    assert "tensor" not in shown
    assert str(root) not in shown


# Damage


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(root, name):
    (root / cifar10.FOLDER / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"missing: {name}"):
        cifar10.load(root)


@pytest.mark.parametrize("name", ["data_batch_2.bin", "test_batch.bin"])
def test_an_empty_file_is_named(root, name):
    path = root / cifar10.FOLDER / name
    path.write_bytes(b"")
    with pytest.raises(
        ValueError, match=rf"{name} must hold at least one.*it is empty"
    ):
        cifar10.load(root)


@pytest.mark.fault(
    "A data file that was cut short",
    "refused, with the byte of the record",
)
@pytest.mark.parametrize(
    ("size", "whole", "rest"),
    [(1, 0, 1), (3072, 0, 3072), (3074, 1, 1), (9218, 2, 3072)],
)
def test_a_truncated_file_names_the_byte_of_the_record(root, size, whole, rest):
    path = root / cifar10.FOLDER / "data_batch_4.bin"
    path.write_bytes((make_record(1) * 4)[:size])
    message = (
        rf"data_batch_4\.bin must be a whole number of records of 3,073"
        rf" bytes, but its {size:,} bytes are {whole:,} records and"
        rf" {rest:,} bytes more.*starts at byte {whole * 3073:,}\."
    )
    with pytest.raises(ValueError, match=message):
        cifar10.load(root)


@pytest.mark.fault("A label over 9", "refused, with file and byte")
@pytest.mark.parametrize(("position", "label"), [(0, 10), (2, 255)])
def test_a_label_over_9_names_file_and_byte(root, position, label):
    path = root / cifar10.FOLDER / "data_batch_5.bin"
    data = bytearray(path.read_bytes())
    data[position * 3073] = label
    path.write_bytes(data)
    message = (
        rf"data_batch_5\.bin: a label must be from 0 to 9, but the byte at"
        rf" offset {position * 3073:,}, the label of record {position},"
        rf" is {label}\."
    )
    with pytest.raises(ValueError, match=message):
        cifar10.load(root)


@pytest.mark.fault(
    "A data file filled with zeros", "refused: its images have no picture"
)
@pytest.mark.parametrize("name", ["data_batch_1.bin", "test_batch.bin"])
def test_a_file_of_zeros_is_refused(root, name):
    path = root / cifar10.FOLDER / name
    path.write_bytes(bytes(path.stat().st_size))
    message = (
        rf"{name}: an image must have more than one value, but in 3 of 3 all 3,072"
    )
    with pytest.raises(ValueError, match=message):
        cifar10.load(root)


@pytest.mark.fault(
    "A hole in a data file, as a lost block leaves it", "refused, with the first byte"
)
def test_an_image_of_one_value_names_its_byte(root):
    path = root / cifar10.FOLDER / "data_batch_5.bin"
    data = bytearray(path.read_bytes())
    data[3073 : 2 * 3073] = bytes(3073)
    path.write_bytes(data)
    message = r"in 1 of 3 all 3,072 .* first is record 1 at byte 3,073, all 0\..*again"
    with pytest.raises(ValueError, match=message):
        cifar10.load(root)


@pytest.mark.fault(
    "A sparse data file of 200 GB", "refused by its size, before it is read"
)
def test_a_file_that_is_larger_than_the_set_is_not_read(root):
    path = root / cifar10.FOLDER / "data_batch_1.bin"
    os.truncate(path, 65_000_000 * 3073)
    with pytest.raises(ValueError, match=r"at most the 60,000 records.*65,000,000"):
        cifar10.load(root)


@pytest.fixture
def listed(root):
    """The folder of images whose digests stand beside them."""
    folder = root / cifar10.FOLDER
    write_sums(folder, {n: digest_of((folder / n).read_bytes()) for n in FILES})
    return folder


@pytest.mark.fault(
    "A bit of a data file that has flipped",
    "refused with both digests, where SHA256SUMS stands beside it",
)
@pytest.mark.parametrize("name", FILES)
def test_a_bit_that_flipped_is_found_by_the_digest(listed, name):
    whole = cifar10.read(listed)
    assert len(whole.train_images) == 15
    path = listed / name
    before = digest_of(path.read_bytes())
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=name) as raised:
        cifar10.read(listed)
    said = str(raised.value)
    for part in (str(path), before, digest_of(data), "Copy or unpack it again"):
        assert part in said


def test_a_file_that_is_not_listed_is_refused(listed):
    sums = read_sums(listed)
    del sums["test_batch.bin"]
    write_sums(listed, sums)
    with pytest.raises(
        ValueError, match=r"test_batch\.bin must be named in SHA256SUMS"
    ):
        cifar10.read(listed)


@pytest.mark.parametrize("text", ["x", "0" * 64, f"{'0' * 63}g  test_batch.bin"])
def test_sums_that_cannot_be_read_are_named(listed, text):
    (listed / "SHA256SUMS").write_text(text + "\n")
    with pytest.raises(ValueError, match=r"SHA256SUMS must hold .* but line 1 is"):
        cifar10.read(listed)


@pytest.mark.parametrize("prefix", ["", "./", ".//"])
def test_sums_are_those_of_the_command(listed, prefix):
    if not shutil.which("sha256sum"):
        pytest.skip("this system has no sha256sum")
    words = ("sha256sum", "--check", "--strict", "SHA256SUMS")
    subprocess.run(words, cwd=listed, check=True, capture_output=True)
    names = [f"{prefix}{name}" for name in FILES]
    done = subprocess.run(
        ("sha256sum", "--binary", *names), cwd=listed, capture_output=True, text=True
    )
    (listed / "SHA256SUMS").write_text(done.stdout)
    assert len(cifar10.read(listed).train_images) == 15


def test_names_that_are_not_ten_are_refused(root):
    (root / cifar10.FOLDER / cifar10.NAMES_FILE).write_text("cat\ndog\n")
    with pytest.raises(ValueError, match=r"ten names.*holds 2"):
        cifar10.load(root)


# The lookup


def test_the_explicit_root_comes_first(tmp_path, monkeypatch, root, cache):
    monkeypatch.setenv(
        "LABML_BCN_DATA", str(write_files(tmp_path / "env", make_files(1)))
    )
    write_files(cache, make_files(2))
    assert cifar10.find(root) == root / cifar10.FOLDER
    assert len(cifar10.load(root).train_images) == 15


def test_the_environment_comes_before_the_cache(tmp_path, monkeypatch, cache):
    monkeypatch.setenv(
        "LABML_BCN_DATA", str(write_files(tmp_path / "env", make_files(1)))
    )
    write_files(cache, make_files(2))
    assert len(cifar10.load().train_images) == 5


def test_the_cache_comes_before_a_download(monkeypatch, cache):
    write_files(cache, make_files(2))
    monkeypatch.setattr(cifar10, "fetch", None)
    assert len(cifar10.load(download=True).train_images) == 10


def test_an_empty_variable_counts_as_unset(monkeypatch, cache):
    monkeypatch.setenv("LABML_BCN_DATA", "")
    assert cifar10.find() is None


def test_the_folder_with_the_files_itself_is_a_root(root):
    inner = root / cifar10.FOLDER
    assert cifar10.load(inner).digest == cifar10.load(root).digest
    assert cifar10.find(str(inner)) == inner


def test_a_home_folder_may_be_written_as_a_tilde(monkeypatch, root):
    monkeypatch.setenv("HOME", str(root.parent))
    monkeypatch.setenv("USERPROFILE", str(root.parent))
    assert len(cifar10.load("~/data").train_images) == 15


@pytest.mark.parametrize("load", [cifar10.load, cifar10.load_or_stand_in])
@pytest.mark.parametrize("explicit", [True, False])
def test_a_wrong_root_is_never_passed_over(
    tmp_path, monkeypatch, cache, load, explicit
):
    write_files(cache, make_files())
    wrong = tmp_path / "nowhere"
    monkeypatch.setenv("LABML_BCN_DATA", str(wrong))
    origin = "the given root" if explicit else "LABML_BCN_DATA"
    with pytest.raises(FileNotFoundError, match=rf"{origin}.*nowhere does not exist"):
        load(wrong if explicit else None)


@pytest.mark.parametrize("explicit", [True, False])
def test_a_user_who_is_not_known_is_named(monkeypatch, explicit):
    monkeypatch.setenv("LABML_BCN_DATA", "~nouser-at-all/x")
    with pytest.raises(FileNotFoundError, match=r"~nouser-at-all/x names a user"):
        cifar10.load("~nouser-at-all/x" if explicit else None)


def test_a_root_that_is_a_file_is_refused(tmp_path):
    archive = tmp_path / "cifar-10-binary.tar.gz"
    archive.write_bytes(b"x")
    with pytest.raises(NotADirectoryError, match=r"is a file.*unpack it"):
        cifar10.load(archive)


def test_the_python_version_is_recognized(tmp_path):
    (tmp_path / "x" / "cifar-10-batches-py").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="Python version"):
        cifar10.load(tmp_path / "x")


def test_a_damaged_cache_is_an_error_too(cache):
    write_files(cache, make_files() | {"test_batch.bin": b"x"})
    with pytest.raises(ValueError, match=r"test_batch\.bin"):
        cifar10.load_or_stand_in()


def test_nothing_anywhere_names_every_remedy(cache):
    with pytest.raises(
        FileNotFoundError, match=r"LABML_BCN_DATA.*LABML_BCN_DOWNLOAD=1"
    ):
        cifar10.load()


def test_nothing_is_downloaded_unless_asked(monkeypatch, cache):
    asked = []
    monkeypatch.setattr(cifar10, "fetch", lambda cache, *_, **__: asked.append(cache))
    cifar10.find()
    monkeypatch.setenv("LABML_BCN_DOWNLOAD", "0")
    cifar10.find()
    assert asked == []
    cifar10.find(download=True)
    monkeypatch.setenv("LABML_BCN_DOWNLOAD", "1")
    cifar10.find()
    assert asked == [cache, cache]
    cifar10.find(download=False)
    assert len(asked) == 2


def test_the_download_variable_must_be_0_or_1(monkeypatch):
    monkeypatch.setenv("LABML_BCN_DOWNLOAD", "yes")
    with pytest.raises(ValueError, match="must be 1 or 0, but is 'yes'"):
        cifar10.find()


def test_the_cache_lies_where_the_system_keeps_caches(monkeypatch, tmp_path):
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cifar10.cache_folder().name == "labml-bcn"
    if sys.platform == "linux":
        assert cifar10.cache_folder() == tmp_path / "labml-bcn"


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.undo()
    monkeypatch.delenv("LABML_BCN_DATA", raising=False)
    monkeypatch.setitem(sys.modules, "platformdirs", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'labml-bcn\[train\]'"):
        cifar10.load()


def test_reading_needs_no_package_of_the_extra(monkeypatch, root):
    for name in ("platformdirs", "pooch", "requests", "tqdm"):
        monkeypatch.setitem(sys.modules, name, None)
    assert len(cifar10.load(root).train_images) == 15


# Real images


@pytest.fixture
def real(real_images):
    return cifar10.load(real_images)


@pytest.mark.slow
def test_real_images_fill_their_files(real, real_images):
    folder = cifar10.find(real_images)
    sizes = [(folder / name).stat().st_size // cifar10.RECORD for name in FILES]
    assert len(real.train_images) == sum(sizes[:5])
    assert len(real.test_images) == sizes[5]
    assert f"{sum(sizes[:5]):,}" in real.source or sum(sizes) == 60_000


@pytest.mark.slow
def test_real_files_have_the_sums_beside_them(real_images):
    folder = cifar10.find(real_images)
    sums = folder / "SHA256SUMS"
    if not sums.exists():
        pytest.skip("these images have no SHA256SUMS beside them")
    for line in sums.read_text().splitlines():
        expected, name = line.split()
        data = (folder / name).read_bytes()
        assert hashlib.sha256(data).hexdigest() == expected, name


@pytest.mark.slow
def test_real_images_look_like_photographs(real):
    assert real.classes == cifar10.CLASSES
    for images, labels in (
        (real.train_images, real.train_labels),
        (real.test_images, real.test_labels),
    ):
        shares = labels.bincount(minlength=10) / len(labels)
        assert shares.shape == (10,)
        assert shares.min() > 0.07
        assert shares.max() < 0.13
        assert images.min() == 0
        assert images.max() == 255
    # Sky is blue, and neighbours in a photograph resemble each other.
    mean, std = (part.flatten() for part in real.mean_and_std)
    assert (mean - torch.tensor([125.3, 123.0, 113.9])).abs().max() < 2
    assert (std - torch.tensor([63.0, 62.1, 66.7])).abs().max() < 2
    x = real.standardize(real.test_images)
    assert (x[..., 1:] * x[..., :-1]).mean() > 0.9
    assert (x[..., 1:, :] * x[..., :-1, :]).mean() > 0.9


@pytest.mark.slow
def test_counting_pixel_values_is_the_mean_and_std(real):
    sample = real.train_images.double()
    mean, std = real.mean_and_std
    dims = (0, 2, 3)
    torch.testing.assert_close(mean.flatten(), sample.mean(dims).float())
    torch.testing.assert_close(std.flatten(), sample.std(dims, correction=0).float())
