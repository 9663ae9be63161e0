"""The download: checked, whole or not at all, and safe beside another one."""

import functools
import hashlib
import io
import os
import random
import socket
import tarfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from helpers.images import make_files
from helpers.processes import start

from labml_bcn.experiment import atomic_files, cifar10, download
from labml_bcn.experiment.download import DownloadError

pytestmark = pytest.mark.usefixtures("cache")
FOLDER = cifar10.FOLDER


def make_archive() -> bytes:
    """An archive of a few blocks, most of it a file that is not wanted."""
    noise = random.Random(0).randbytes(100_000)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, data in (make_files() | {"readme.html": noise}).items():
            info = tarfile.TarInfo(f"{FOLDER}/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


class Server(ThreadingHTTPServer):
    """Serves one body, and breaks the first answers off after some bytes.

    No body is sent before `ready` is set.
    """

    daemon_threads = True

    def __init__(self, body: bytes, cuts: tuple[int, ...] = ()) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.cuts = body, list(cuts)
        self.ready = threading.Event()
        self.ready.set()
        self.asked = 0
        self.url = f"http://127.0.0.1:{self.server_port}/cifar.tar.gz"
        self.md5 = hashlib.md5(body).hexdigest()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        server.asked += 1
        server.ready.wait(25)
        self.send_response(200)
        self.send_header("Content-Length", str(len(server.body)))
        self.end_headers()
        cut = server.cuts.pop(0) if server.cuts else len(server.body)
        self.wfile.write(server.body[:cut])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def serve() -> Iterator:
    servers = []

    def start_server(*arguments, **options):
        server = Server(*arguments, **options)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return server

    yield start_server
    for server in servers:
        server.shutdown()
        server.server_close()


def fetch(cache, server, **options):
    return download.fetch(cache, FOLDER, url=server.url, md5=server.md5, **options)


def test_a_download_is_unpacked_and_leaves_nothing_else(serve, cache):
    folder = fetch(cache, serve(make_archive()))
    assert folder == cache / FOLDER
    found = {f.name: f.read_bytes() for f in folder.iterdir()}
    assert found.items() >= make_files().items()
    assert [path.name for path in cache.iterdir()] == [FOLDER]
    assert len(cifar10.load().train_images) == 15


@pytest.mark.fault("A connection that breaks off", "nothing is left of it; try again")
def test_a_connection_that_breaks_off_leaves_nothing_and_may_be_tried_again(
    serve, cache
):
    server = serve(make_archive(), cuts=(20_000,))
    with pytest.raises(DownloadError, match="Try again; or get it another way"):
        fetch(cache, server)
    assert list(cache.iterdir()) == []
    fetch(cache, server)
    assert len(cifar10.load().train_images) == 15


@pytest.mark.fault("An archive with another checksum", "refused, and nothing is kept")
def test_a_wrong_checksum_is_refused_and_nothing_kept(serve, cache):
    server = serve(make_archive())
    server.md5 = "0" * 32
    with pytest.raises(DownloadError, match=rf"must have the MD5 sum {'0' * 32}"):
        fetch(cache, server)
    assert list(cache.iterdir()) == []


def test_a_file_that_is_not_there_is_an_error(serve, cache, monkeypatch):
    server = serve(b"")
    monkeypatch.setattr(Handler, "do_GET", lambda self: self.send_error(404))
    with pytest.raises(DownloadError, match="404"):
        fetch(cache, server)


def test_a_server_that_is_not_there_is_an_error(cache):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/x.tar.gz"
    with pytest.raises(DownloadError, match="set LABML_BCN_DATA to the folder"):
        download.fetch(cache, FOLDER, url=url)


def test_a_cache_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DownloadError, match=r"to .*file.*set LABML_BCN_DATA"):
        download.fetch(tmp_path / "file" / "cache", FOLDER)


def test_waiting_for_a_connection_ends_soon(monkeypatch, cache):
    import requests

    seen = {}

    def get(url, **options):
        seen.update(options)
        raise requests.ConnectTimeout("too slow")

    monkeypatch.setattr(requests, "get", get)
    with pytest.raises(DownloadError, match="too slow"):
        download.fetch(cache, FOLDER)
    connect, read = seen["timeout"]
    assert connect <= 5
    assert read <= 60


def test_a_failed_download_ends_with_the_stand_in(monkeypatch, caplog):
    def fail(*_, **__):
        raise DownloadError("the server is away.")

    monkeypatch.setattr(cifar10, "fetch", fail)
    with pytest.raises(DownloadError):
        cifar10.load(download=True)
    assert cifar10.load_or_stand_in(download=True).is_stand_in
    assert "the server is away. Going on with" in caplog.text


@pytest.mark.parametrize("shown", [True, False])
def test_progress_is_shown_on_the_error_stream(serve, cache, capsys, shown):
    fetch(cache, serve(make_archive()), progress=shown)
    out, err = capsys.readouterr()
    assert out == ""
    assert ("CIFAR-10" in err) is shown


def test_files_that_another_process_unpacked_are_kept(serve, cache):
    folder = cache / FOLDER
    folder.mkdir(parents=True)
    (folder / "test_batch.bin").write_bytes(b"x")
    assert fetch(cache, serve(make_archive())) == folder
    assert [path.name for path in cache.iterdir()] == [FOLDER]
    assert (folder / "test_batch.bin").read_bytes() == b"x"


def fetch_and_read(cache, url, md5):
    (cache.parent / f"here-{os.getpid()}").touch()
    folder = download.fetch(cache, FOLDER, url=url, md5=md5)
    assert len(cifar10.read(folder).train_images) == 15


def fetch_together(server, cache):
    """Two processes that want the archive while it is on its way; how they end."""
    server.ready.clear()
    work = functools.partial(fetch_and_read, cache, server.url, server.md5)
    processes = [start(work) for _ in range(2)]
    while len(list(cache.parent.glob("here-*"))) < 2 or not server.asked:
        time.sleep(0.01)
    time.sleep(0.5)  # for the other one to ask as well, if it does
    server.ready.set()
    for process in processes:
        process.join(60)
    assert [path.name for path in cache.iterdir()] == [FOLDER]
    found = {f.name: f.read_bytes() for f in (cache / FOLDER).iterdir()}
    assert found.items() >= make_files().items()
    return sorted(process.exitcode for process in processes)


@pytest.mark.fault(
    "Two downloads at once", "one downloads, the other waits and finds the files"
)
@pytest.mark.slow
def test_of_two_processes_one_downloads_and_the_other_waits(serve, cache):
    server = serve(make_archive())
    assert fetch_together(server, cache) == [0, 0]
    assert server.asked == 1


@pytest.mark.fault("Two downloads at once, and one fails", "the other one succeeds")
@pytest.mark.slow
def test_where_one_download_fails_the_waiting_process_tries_itself(serve, cache):
    server = serve(make_archive(), cuts=(20_000,))
    assert fetch_together(server, cache) == [0, 1]
    assert server.asked == 2


@pytest.mark.fault(
    "A file of a download that was changed later", "refused with both digests"
)
@pytest.mark.slow
def test_what_was_downloaded_is_known_by_its_digest_from_then_on(serve, cache):
    path = fetch(cache, serve(make_archive())) / "data_batch_2.bin"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"data_batch_2\.bin must have the SHA-256"):
        cifar10.load()


@pytest.mark.fault(
    "A download that is killed", "the next one removes its part, and succeeds"
)
@pytest.mark.slow
def test_the_part_of_a_killed_download_is_removed_by_the_next(serve, cache):
    server = serve(make_archive())
    server.ready.clear()
    work = functools.partial(fetch_and_read, cache, server.url, server.md5)
    process = start(work)
    while not server.asked:
        time.sleep(0.01)
    process.kill()
    process.join()
    (part,) = cache.iterdir()
    assert part.name.startswith(".download-")
    server.ready.set()
    fetch(cache, server)
    assert [path.name for path in cache.iterdir()] == [FOLDER]


def test_where_nothing_can_be_held_a_part_may_be_anothers(serve, cache, monkeypatch):
    monkeypatch.setattr(atomic_files, "fcntl", None)
    (cache / ".download-x").mkdir(parents=True)
    fetch(cache, serve(make_archive()))
    assert {path.name for path in cache.iterdir()} == {FOLDER, ".download-x"}
