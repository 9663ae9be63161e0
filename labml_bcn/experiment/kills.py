"""Kill runs at random moments, and compare how they end.

    python -m labml_bcn.experiment.kills docs/faults/kills.json

Runs of eight kinds are killed with SIGKILL, go on with the same command and are killed
again, until each kind has met its number of kills. Every run that comes to its end must
have the weights and the metrics of one that was never killed, bit for bit. The page on
training shows the record. It takes about ten minutes on two cores.
"""

import argparse
import contextlib
import hashlib
import multiprocessing
import os
import random
import shlex
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from labml_bcn.experiment import cifar10, option_types, train
from labml_bcn.experiment.environment import surroundings
from labml_bcn.experiment.measurement import EXIT_STATUS, end_quietly, write_result
from labml_bcn.experiment.output import say
from labml_bcn.experiment.run_folder import RunFolder
from labml_bcn.experiment.runner import digest_weights

Values = dict[str, Any]

# What every run has, and what makes each kind another one. A process that is killed
# before its group has met is waited for.
IMAGES = 32
COMMON = [
    *("--images", str(IMAGES), "--threads", "1", "--checkpoint-every", "2"),
    *("--no-progress", "--timeout", "20"),
]
KINDS = {
    "BN": "--norm bn",
    "GN+WS": "--norm gn --ws",
    "BCN+WS": "--norm bcn --ws",
    "BCN plain+WS": "--norm bcn --ws --no-estimate",
    "BCN+WS, Adam": "--norm bcn --ws --optimizer adam --lr 0.001",
    "BCN+WS, two batches a step": "--norm bcn --ws --accumulate 2",
    "BCN+WS, bfloat16": "--norm bcn --ws --amp",
    "BCN+WS, two processes": "--norm bcn --ws --batch-size 1",
}
PROCESSES = {"BCN+WS, two processes": 2}

# One server imports what takes long, once; each run is a copy of it.
CONTEXT = multiprocessing.get_context("forkserver")


def warm_up() -> None:
    """Let the server of processes import what takes long, before anything is timed."""
    CONTEXT.set_forkserver_preload(["torch._dynamo", "labml_bcn.experiment.train"])
    process = CONTEXT.Process(target=int)
    process.start()
    process.join()


def write_images(root: Path) -> None:
    """Write forty images to train on and eight to test with: noise, and quick."""
    folder = root / cifar10.FOLDER
    folder.mkdir()
    generator = torch.Generator().manual_seed(7)
    for name in (*cifar10.TRAIN_FILES, cifar10.TEST_FILE):
        records = torch.randint(256, (8, cifar10.RECORD), generator=generator)
        records[:, 0] %= 10
        data = bytes(records.to(torch.uint8).flatten().tolist())
        (folder / name).write_bytes(data)


def run_rank(words: Sequence[str], environment: dict[str, str]) -> None:
    """Run the training command as one process, and leave with its exit status."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        status = train.main(list(words))
    sys.exit(status)


def start_run(words: Sequence[str], processes: int) -> list[BaseProcess]:
    """Start the processes of a run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(processes),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    started: list[BaseProcess] = []
    for rank in range(processes):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        environment = group | own if processes > 1 else {}
        process = CONTEXT.Process(target=run_rank, args=(words, environment))
        process.start()
        started.append(process)
    return started


def end_of(folder: Path) -> tuple[str, str]:
    """Return the digests of a run's last weights and of its metrics."""
    found = RunFolder(folder).load()
    assert found, "a run that has ended has a checkpoint"
    metrics = (folder / "metrics.jsonl").read_bytes()
    return digest_weights(found[1]["model"]), hashlib.sha256(metrics).hexdigest()


def kill_runs(name: str, kills: int, root: Path, moments: random.Random) -> Values:
    """Kill runs of one kind so many times, and return what came of it."""
    words = [*KINDS[name].split(), *COMMON, "--data", str(root)]
    processes = PROCESSES.get(name, 1)

    def start(folder: Path) -> list[BaseProcess]:
        return start_run([*words, "--out", str(folder), "--resume"], processes)

    def finish(run: list[BaseProcess]) -> list[int | None]:
        for process in run:
            process.join()
        return [process.exitcode for process in run]

    whole = root / f"{name}, whole"
    began = time.monotonic()
    assert not any(finish(start(whole))), f"{name} does not come to its end"
    seconds, expected = time.monotonic() - began, end_of(whole)
    met: list[Values] = []
    ends = same = 0
    folder = root / f"{name}, killed"
    while len(met) < kills or folder.exists():
        run = start(folder)
        if len(met) < kills:
            moment = moments.uniform(0, seconds)
            time.sleep(moment)
            victim = moments.choice(run)
            victim.kill()
            victim.join()
            if victim.exitcode == -signal.SIGKILL:
                finish(run)
                met.append({"seconds": moment, "step": last_step(folder)})
                continue
        assert not any(finish(run)), f"{name} does not come to its end"
        ends, same = ends + 1, same + (end_of(folder) == expected)
        folder.rename(root / f"{name}, ended {ends}")
    return {
        "name": name,
        "options": KINDS[name],
        "processes": processes,
        "seconds": seconds,
        "kills": met,
        "ends": ends,
        "same": same,
        "weights": expected[0],
    }


def last_step(folder: Path) -> int | None:
    """Return the step of the newest checkpoint, `None` if there is none."""
    found = RunFolder(folder).checkpoints()
    return found[-1].step if found else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill runs, write the record, and return 0 if all ends are the same."""
    return end_quietly(partial(measure, arguments))


def measure(arguments: Sequence[str] | None) -> int:
    """Kill runs of all kinds, and write what came of it."""
    parser = argparse.ArgumentParser(
        prog="python -m labml_bcn.experiment.kills",
        description=__doc__.split("\n")[0],
        epilog=EXIT_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("record", type=option_types.new_file, help="the JSON file to write")
    add(
        "--kills",
        type=option_types.count,
        default=27,
        help="of each kind (default: 27)",
    )
    add("--seed", type=int, default=0, help="of the moments (default: 0)")
    options = parser.parse_args(arguments)
    moments, found = random.Random(options.seed), []
    warm_up()
    with tempfile.TemporaryDirectory() as name:
        write_images(Path(name))
        for kind in KINDS:
            each = kill_runs(kind, options.kills, Path(name), moments)
            found.append(each)
            same = f"{each['same']} of {each['ends']} ends are the same"
            say(f"{kind}: {len(each['kills'])} kills, {same}")
    words = ["python", "-m", "labml_bcn.experiment.kills", str(options.record)]
    words += ["--kills", str(options.kills), "--seed", str(options.seed)]
    record = {
        "surroundings": {k: v for k, v in surroundings().items() if k != "command"},
        "command": shlex.join(words),
        "images": IMAGES,
        "kinds": found,
    }
    write_result(options.record, record)
    return 0 if all(each["same"] == each["ends"] for each in found) else 1


if __name__ == "__main__":
    sys.exit(main())
