"""CIFAR-10: the format, damage, the lookup, the download, the stand-in."""

import hashlib
import io
import math
import random
import re
import socket
import sys
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from labml_bcn.experiment import cifar10

BLOCK = cifar10.BLOCK
FILES = (*cifar10.TRAIN_FILES, cifar10.TEST_FILE)


def record(label: int, value: int = 0) -> bytes:
    return bytes([label]) + bytes([value % 256]) * 3072


def contents(records: int = 3) -> dict[str, bytes]:
    """Files whose images all differ, in a known order."""
    files = {
        name: b"".join(
            record((number + k) % 10, 10 * number + k) for k in range(records)
        )
        for number, name in enumerate(FILES)
    }
    names = "\n".join(cifar10.CLASSES) + "\n\n"
    return {**files, cifar10.NAMES_FILE: names.encode()}


def write(root, files):
    folder = root / cifar10.FOLDER
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return root


@pytest.fixture
def root(tmp_path):
    return write(tmp_path / "data", contents())


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """Nothing configured, and an empty cache folder."""
    monkeypatch.delenv("LABML_BCN_DATA", raising=False)
    monkeypatch.delenv("LABML_BCN_DOWNLOAD", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder = tmp_path / "cache"
    monkeypatch.setattr(cifar10, "cache_folder", lambda: folder)
    return folder


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
    files = contents(1) | {"data_batch_3.bin": record(1) * 7}
    data = cifar10.load(write(tmp_path / "x", files))
    assert len(data.train_images) == 11
    assert len(data.test_images) == 1


def test_only_the_full_set_is_called_cifar_10():
    assert cifar10._phrase(50_000, 10_000) == "CIFAR-10"
    assert cifar10._phrase(7_728, 1_000) == ("a 7,728-image part of CIFAR-10")
    assert "part" in cifar10._phrase(50_000, 9_999)


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
    files = contents()
    del files[cifar10.NAMES_FILE]
    assert cifar10.load(write(tmp_path / "x", files)).classes == (cifar10.CLASSES)


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
    changed = contents()
    changed["test_batch.bin"] = changed["test_batch.bin"][:-1] + b"\xff"
    other = cifar10.load(write(tmp_path / "other", changed))
    assert other.digest != one.digest
    relabelled = contents()
    relabelled["test_batch.bin"] = b"\0" + relabelled["test_batch.bin"][1:]
    third = cifar10.load(write(tmp_path / "third", relabelled))
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


@pytest.mark.parametrize(
    ("size", "whole", "rest"),
    [(1, 0, 1), (3072, 0, 3072), (3074, 1, 1), (9218, 2, 3072)],
)
def test_a_truncated_file_names_the_byte_of_the_record(root, size, whole, rest):
    path = root / cifar10.FOLDER / "data_batch_4.bin"
    path.write_bytes((record(1) * 4)[:size])
    message = (
        rf"data_batch_4\.bin must be a whole number of records of 3,073"
        rf" bytes, but its {size:,} bytes are {whole:,} records and"
        rf" {rest:,} bytes more.*starts at byte {whole * 3073:,}\."
    )
    with pytest.raises(ValueError, match=message):
        cifar10.load(root)


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


def test_names_that_are_not_ten_are_refused(root):
    (root / cifar10.FOLDER / cifar10.NAMES_FILE).write_text("cat\ndog\n")
    with pytest.raises(ValueError, match=r"ten names.*holds 2"):
        cifar10.load(root)


# The lookup


def test_the_explicit_root_comes_first(tmp_path, monkeypatch, root, cache):
    monkeypatch.setenv("LABML_BCN_DATA", str(write(tmp_path / "env", contents(1))))
    write(cache, contents(2))
    assert cifar10.find(root) == root / cifar10.FOLDER
    assert len(cifar10.load(root).train_images) == 15


def test_the_environment_comes_before_the_cache(tmp_path, monkeypatch, cache):
    monkeypatch.setenv("LABML_BCN_DATA", str(write(tmp_path / "env", contents(1))))
    write(cache, contents(2))
    assert len(cifar10.load().train_images) == 5


def test_the_cache_comes_before_a_download(monkeypatch, cache):
    write(cache, contents(2))
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
    write(cache, contents())
    wrong = tmp_path / "nowhere"
    monkeypatch.setenv("LABML_BCN_DATA", str(wrong))
    origin = "the given root" if explicit else "LABML_BCN_DATA"
    with pytest.raises(FileNotFoundError, match=rf"{origin}.*nowhere does not exist"):
        load(wrong if explicit else None)


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
    write(cache, contents() | {"test_batch.bin": b"x"})
    with pytest.raises(ValueError, match=r"test_batch\.bin"):
        cifar10.load_or_stand_in()


def test_nothing_anywhere_names_every_remedy(cache):
    with pytest.raises(
        FileNotFoundError, match=r"LABML_BCN_DATA.*LABML_BCN_DOWNLOAD=1"
    ):
        cifar10.load()


def test_nothing_is_downloaded_unless_asked(monkeypatch, cache):
    asked = []
    monkeypatch.setattr(cifar10, "fetch", lambda folder, **_: asked.append(folder))
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


# The download


def archive_of(members: dict[str, bytes], links: dict[str, str]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, target in links.items():
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            tar.addfile(link)
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def official() -> bytes:
    """An archive of a few blocks, most of it a file that is not wanted."""
    files = {f"{cifar10.FOLDER}/{n}": d for n, d in contents().items()}
    noise = random.Random(0).randbytes(100_000)
    return archive_of(files | {f"{cifar10.FOLDER}/readme.html": noise}, {})


class Server(ThreadingHTTPServer):
    """Serve one body, and break the first answers off after some bytes."""

    daemon_threads = True

    def __init__(self, body: bytes, cuts: list[int], ranges: bool) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.cuts, self.ranges = body, cuts, ranges
        self.asked: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_port}/cifar.tar.gz"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers["Range"]
        server.asked.append(wanted)
        start = 0
        if wanted and server.ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        rest = server.body[start:]
        if start and not rest:
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        cut = server.cuts.pop(0) if server.cuts else len(rest)
        self.wfile.write(rest[:cut])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def serve() -> Iterator:
    servers = []

    def start(body, cuts=(), ranges=True):
        server = Server(body, list(cuts), ranges)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def md5(body: bytes) -> str:
    return hashlib.md5(body).hexdigest()


def test_a_download_is_unpacked_and_leaves_nothing_else(serve, cache):
    body = official()
    server = serve(body)
    folder = cifar10.fetch(cache, url=server.url, md5=md5(body))
    assert folder == cache / cifar10.FOLDER
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == contents()
    assert [path.name for path in cache.iterdir()] == [cifar10.FOLDER]
    assert len(cifar10.load().train_images) == 15


def test_a_broken_connection_is_taken_up_where_it_broke(serve, cache):
    body = official()
    server = serve(body, cuts=[BLOCK + 100, 2 * BLOCK])
    cifar10.fetch(cache, url=server.url, md5=md5(body))
    # Whole blocks are kept.
    assert server.asked == [
        None,
        f"bytes={BLOCK}-",
        f"bytes={3 * BLOCK}-",
    ]
    assert len(cifar10.load().train_images) == 15


def test_a_later_download_goes_on_with_the_part(serve, cache):
    body = official()
    server = serve(body, cuts=[BLOCK, 0])
    with pytest.raises(cifar10.DownloadError, match="goes on where it broke"):
        cifar10.fetch(cache, url=server.url, md5=md5(body))
    part = cache / "cifar.tar.gz.part"
    assert part.read_bytes() == body[:BLOCK]
    cifar10.fetch(cache, url=server.url, md5=md5(body))
    assert server.asked == [None, f"bytes={BLOCK}-", f"bytes={BLOCK}-"]
    assert not part.exists()


def test_a_server_without_ranges_starts_anew(serve, cache):
    body = official()
    server = serve(body, cuts=[BLOCK], ranges=False)
    cifar10.fetch(cache, url=server.url, md5=md5(body))
    assert server.asked == [None, f"bytes={BLOCK}-"]
    assert len(cifar10.load().train_images) == 15


def test_a_complete_part_is_used(serve, cache):
    body = official()
    server = serve(body)
    cache.mkdir()
    (cache / "cifar.tar.gz.part").write_bytes(body)
    cifar10.fetch(cache, url=server.url, md5=md5(body))
    assert server.asked == [f"bytes={len(body)}-"]


def test_a_part_of_another_file_is_thrown_away(serve, cache):
    body = official()
    server = serve(body)
    cache.mkdir()
    (cache / "cifar.tar.gz.part").write_bytes(b"something else")
    with pytest.raises(cifar10.DownloadError, match="MD5"):
        cifar10.fetch(cache, url=server.url, md5=md5(body))
    cifar10.fetch(cache, url=server.url, md5=md5(body))
    assert server.asked[-1] is None


def test_a_wrong_checksum_is_refused_and_nothing_kept(serve, cache):
    server = serve(official())
    with pytest.raises(
        cifar10.DownloadError, match=rf"must have the MD5 sum {'0' * 32}"
    ):
        cifar10.fetch(cache, url=server.url, md5="0" * 32)
    assert list(cache.iterdir()) == []


def test_a_file_that_is_not_there_is_an_error(serve, cache, monkeypatch):
    server = serve(b"")
    monkeypatch.setattr(Handler, "do_GET", lambda self: self.send_error(404))
    with pytest.raises(cifar10.DownloadError, match="404"):
        cifar10.fetch(cache, url=server.url)


def dead_url() -> str:
    """An address at which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/x.tar.gz"


def test_a_server_that_is_not_there_is_an_error(cache):
    with pytest.raises(cifar10.DownloadError, match="set LABML_BCN_DATA to the folder"):
        cifar10.fetch(cache, url=dead_url())


def test_waiting_for_a_connection_ends_soon(monkeypatch, tmp_path):
    import requests

    seen = {}

    def get(url, **options):
        seen.update(options)
        raise requests.ConnectTimeout("too slow")

    monkeypatch.setattr(requests, "get", get)
    with pytest.raises(cifar10.DownloadError, match="too slow"):
        cifar10.fetch(tmp_path)
    connect, read = seen["timeout"]
    assert connect <= 5
    assert read <= 60


def test_a_failed_download_ends_with_the_stand_in(monkeypatch, caplog):
    def fail(*_, **__):
        raise cifar10.DownloadError("the server is away.")

    monkeypatch.setattr(cifar10, "fetch", fail)
    with pytest.raises(cifar10.DownloadError):
        cifar10.load(download=True)
    assert cifar10.load_or_stand_in(download=True).is_stand_in
    assert "the server is away. Going on with" in caplog.text


@pytest.mark.parametrize("shown", [True, False])
def test_progress_is_shown_on_the_error_stream(serve, cache, capsys, shown):
    body = official()
    server = serve(body)
    cifar10.fetch(cache, url=server.url, md5=md5(body), progress=shown)
    out, err = capsys.readouterr()
    assert out == ""
    assert ("CIFAR-10" in err) is shown


# Unpacking


def test_only_known_plain_files_are_unpacked(tmp_path):
    folder = f"{cifar10.FOLDER}/"
    body = archive_of(
        {f"{folder}{n}": d for n, d in contents().items()}
        | {
            "../escaped": b"x",
            str(tmp_path / "absolute"): b"x",
            f"{folder}../../escaped": b"x",
            f"{folder}readme.html": b"x",
            "other.bin": b"x",
        },
        {f"{folder}link": "/etc/passwd"},
    )
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(body)
    cache = tmp_path / "unpacked"
    cache.mkdir()
    target = cifar10.unpack(archive, cache)
    assert {f.name for f in target.iterdir()} == contents().keys()
    assert {p.name for p in cache.iterdir()} == {cifar10.FOLDER}
    assert {p.name for p in tmp_path.iterdir()} == {"a.tar.gz", "unpacked"}


def test_a_link_in_place_of_a_file_is_refused(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(record(1))
    files = {f"{cifar10.FOLDER}/{n}": d for n, d in contents().items()}
    name = f"{cifar10.FOLDER}/test_batch.bin"
    del files[name]
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(archive_of(files, {name: str(secret)}))
    with pytest.raises(cifar10.DownloadError, match=r"lacks test_batch\.bin"):
        cifar10.unpack(archive, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"a.tar.gz", "secret"}


@pytest.mark.parametrize("damage", ["no archive", "cut short"])
def test_an_archive_that_cannot_be_read_leaves_nothing(tmp_path, damage):
    archive = tmp_path / "a.tar.gz"
    body = official()
    archive.write_bytes(b"x" if damage == "no archive" else body[:-200])
    with pytest.raises(cifar10.DownloadError, match="cannot be read"):
        cifar10.unpack(archive, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.tar.gz"]


def test_files_that_another_process_unpacked_are_kept(tmp_path):
    write(tmp_path, contents(1))
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(official())
    target = cifar10.unpack(archive, tmp_path)
    assert (target / "test_batch.bin").stat().st_size == 3073


# The stand-in


def test_the_stand_in_has_the_shape_of_the_images_and_says_what_it_is():
    data = cifar10.stand_in()
    assert data.train_images.shape == (7728, 3, 32, 32)
    assert data.test_images.shape == (1000, 3, 32, 32)
    assert data.train_images.dtype == torch.uint8
    assert data.train_labels.dtype == torch.int64
    assert data.is_stand_in
    assert data.source == "a procedural stand-in, not CIFAR-10"
    assert len(set(data.classes)) == 10
    counts = data.train_labels.bincount(minlength=10)
    assert counts.min() > 650
    assert len(counts) == 10


def test_the_stand_in_shows_a_wave_of_colour_under_noise(monkeypatch):
    """Without its noise, an image is exactly constant and one cosine."""
    drawn = torch.randn

    def without_noise(*shape, **options):
        out = drawn(*shape, **options)
        return 0 * out if shape[-1] == 32 else out

    monkeypatch.setattr(torch, "randn", without_noise)
    images = cifar10.stand_in(40, 1).train_images
    p = torch.arange(32).double()
    y, x = (each.flatten() for each in torch.meshgrid(p, p, indexing="ij"))
    seen = 0
    for image, parts in zip(images, _parts(40), strict=True):
        a, b, wavelength, theta, side, phi = parts
        along = side * math.cos(theta) * x + math.sin(theta) * y
        wave = torch.cos(2 * math.pi / wavelength * along + phi)
        expected = (a[:, None] + b[:, None] * wave).reshape(3, 32, 32)
        inside = (expected > 1) & (expected < 254)
        seen += inside.sum().item()
        # A byte is rounded, from float32.
        assert (image.double() - expected)[inside].abs().max() < 0.51
    assert seen > 40 * 3 * 32 * 16


def _parts(n):
    """What the stand-in draws for each image, in its order."""
    generator = torch.Generator().manual_seed(10)
    labels = torch.randint(10, (n,), generator=generator)
    phase, side = torch.rand(2, n, generator=generator)
    waver, stretch = torch.randn(2, n, generator=generator)
    colour, height = (
        torch.randn(n, 3, 1, 1, generator=generator).double() for _ in range(2)
    )
    for i in range(n):
        yield (
            128 + 40 * colour[i, :, 0, 0],
            50 * height[i, :, 0, 0],
            (5 if labels[i] < 5 else 8) * math.exp(0.15 * stretch[i]),
            (labels[i].item() % 5 + 0.5 * waver[i].item()) * math.pi / 8,
            -1 if side[i] < 0.5 else 1,
            2 * math.pi * phase[i].item(),
        )


def test_the_stand_in_is_the_same_at_every_call():
    torch.manual_seed(1)
    one = cifar10.stand_in(50, 20)
    torch.manual_seed(2)
    two = cifar10.stand_in(50, 20)
    assert one.digest == two.digest
    assert not torch.equal(one.train_images[:20], one.test_images)


def test_the_stand_in_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    cifar10.stand_in(20, 10)
    assert torch.equal(torch.get_rng_state(), before)


def test_colour_does_not_tell_the_stand_ins_classes_apart():
    data = cifar10.stand_in()
    images = data.train_images.float().mean((2, 3))
    means = torch.stack([images[data.train_labels == k].mean(0) for k in range(10)])
    # About 770 images a class, and a spread of 40 grey levels: 1.4 is one
    # standard error of such a mean.
    assert (means - means.mean(0)).abs().max() < 6


def test_the_stand_in_takes_the_place_of_nothing_only(root, monkeypatch):
    assert cifar10.load_or_stand_in().is_stand_in
    monkeypatch.setenv("LABML_BCN_DATA", str(root))
    assert not cifar10.load_or_stand_in().is_stand_in


# Real images


@pytest.fixture
def real(real_images):
    return cifar10.load(real_images)


def test_real_images_fill_their_files(real, real_images):
    folder = cifar10.find(real_images)
    sizes = [(folder / name).stat().st_size // cifar10.RECORD for name in FILES]
    assert len(real.train_images) == sum(sizes[:5])
    assert len(real.test_images) == sizes[5]
    assert f"{sum(sizes[:5]):,}" in real.source or sum(sizes) == 60_000


def test_real_files_have_the_sums_beside_them(real_images):
    folder = cifar10.find(real_images)
    sums = folder / "SHA256SUMS"
    if not sums.exists():
        pytest.skip("these images have no SHA256SUMS beside them")
    for line in sums.read_text().splitlines():
        expected, name = line.split()
        data = (folder / name).read_bytes()
        assert hashlib.sha256(data).hexdigest() == expected, name


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


def test_counting_pixel_values_is_the_mean_and_std(real):
    sample = real.train_images.double()
    mean, std = real.mean_and_std
    dims = (0, 2, 3)
    torch.testing.assert_close(mean.flatten(), sample.mean(dims).float())
    torch.testing.assert_close(std.flatten(), sample.std(dims, correction=0).float())
