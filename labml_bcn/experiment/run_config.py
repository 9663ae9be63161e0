"""Which run a command means, and what the run's folder says about it.

There is one rule for starting again: what is typed must agree with the run, and what
is not typed is taken from it. Both of these go on with the same run,

    python -m labml_bcn.experiment.train --resume runs/small-bcn-ws
    python -m labml_bcn.experiment.train --norm bcn --ws --images 5000 \\
        --out runs/small-bcn-ws --resume

and the second one also starts it, if there is none yet. It is the one for schedulers,
which repeat a command word by word.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from labml_bcn.experiment.atomic_files import JSONLines, write_atomically
from labml_bcn.experiment.cifar10 import CIFAR10
from labml_bcn.experiment.environment import surroundings
from labml_bcn.experiment.option_types import expand, naming
from labml_bcn.experiment.outcome import RunError
from labml_bcn.experiment.run_folder import RunFolder
from labml_bcn.experiment.settings import Settings, StartOptions, name_differences

CONFIG = "config.json"


@dataclass(frozen=True)
class RunConfig:
    """What `config.json` holds: the settings, and the images that they are for.

    `images` says what they are, `counts` how many, `data` where they were found.
    """

    settings: Settings
    images: str = ""
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    data: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, settings: Settings, data: CIFAR10, options: StartOptions) -> Self:
        """Return the configuration of a run that is to begin."""
        return cls(
            settings,
            data.source,
            {"train": len(data.train_images), "test": len(data.test_images)},
            {"stand_in": data.is_stand_in, "data": options.data},
        )


def find_run(options: StartOptions) -> tuple[Path | None, RunConfig | None]:
    """Return the folder of the run that a command means, and its configuration.

    A run that is to begin has none, and no folder if none was typed. Raises
    `ValueError` if the folder holds a run and `--resume` was not typed, or there is
    none to go on with.
    """
    out, resume = options.out, options.resume
    if out == "":
        raise ValueError("--out must name a folder, got ''; leave it out to have one")
    if resume and out and Path(resume) != Path(out):
        raise ValueError(
            f"--resume and --out must name one folder, got {resume} and {out}; leave"
            " one of them out"
        )
    if resume == "" and not out:
        raise ValueError(
            "--resume needs the folder of a run: --resume FOLDER, or --out FOLDER"
            " --resume"
        )
    if not (resume or out):
        return None, None
    with naming("--resume" if resume else "--out"):
        path = expand(resume or out or "")
    try:
        is_run = (path / CONFIG).exists()
    except OSError as error:
        raise ValueError(
            f"{path} cannot be looked into: {error.strerror}; name another folder with"
            " --out"
        ) from error
    if not is_run:
        if resume:
            raise ValueError(
                f"--resume must name the folder of a run, but {path} holds none; to"
                " start one, use --out"
            )
        return path, None
    require_no_run(path, resume is not None)
    return path, read_config(path)


def make_folder(settings: Settings) -> Path:
    """Make a folder for a new run, named after the method, and return it.

    The system makes a folder once: of several commands that start at the same moment,
    each gets one of its own. Raises `RunError` if none can be made.
    """
    name = "-".join(describe(settings).split()).replace("=", "-")
    RunFolder("runs")  # makes it, or says what it is instead
    for number in ("", *(f"-{number}" for number in range(2, 10_000))):
        path = Path("runs") / f"{name}{number}"
        try:
            path.mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise RunError(
                f"{path} could not be made: {error.strerror}; name another folder with"
                " --out",
                reason="not_writable",
            ) from error
        return path
    raise RunError(f"runs/ is full of runs of {name}: name a folder with --out")


def claim(folder: RunFolder, config: RunConfig, resume: bool) -> None:
    """Claim the folder of a run for this process, before anything is written.

    What was found out about the folder before may no longer be true: another command
    may have been faster. So it is looked at again, now that it is locked. `resume` says
    whether a run that is there may go on; the configuration of a new one is written.

    Raises `FolderLocked` if another process has the folder, `ValueError` if it holds
    another run by now, and `RunError` if it cannot be written to.
    """
    folder.lock()
    path = folder.path
    if (path / CONFIG).exists():
        require_no_run(path, resume)
        require_same_settings(config.settings, read_config(path).settings, path)
    elif folder.checkpoints():
        raise RunError(
            f"{path} holds the checkpoints of a run, but no {CONFIG} that says what"
            " they are of. Bring it back, or start anew in another folder",
            reason="file_damaged",
        )
    else:
        write_config(path, config)


def require_no_run(path: Path, resume: bool) -> None:
    """Raise `ValueError` for a folder that holds a run, unless it may go on."""
    if not resume:
        raise ValueError(
            f"{path} holds a run already; go on with it by --resume, or name another"
            " folder with --out"
        )


def describe(settings: Settings) -> str:
    """Return the method in a few words, with the options that were given."""
    words = [settings.model, settings.norm]
    words += ["ws"] if settings.ws else []
    own = ("groups", "momentum", "estimate", "variance_around", "warm_start")
    for name in own:
        value = getattr(settings, name)
        if value is not None:
            words.append(f"{name}={value}")
    return " ".join(words)


def read_config(path: Path) -> RunConfig:
    """Read the configuration of a run, or raise `ValueError` with the remedy.

    A run from before there was an option has what is its default.
    """
    file = path / CONFIG
    try:
        found = json.loads(file.read_text("utf-8"))
        config = RunConfig(**(found | {"settings": Settings(**found["settings"])}))
        StartOptions(**config.data)  # refuses what is none
        return config
    except OSError as error:
        raise ValueError(
            f"{file} cannot be read: {error.strerror}. Allow to read it, or start anew"
            " in another folder"
        ) from error
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{file} must hold the settings of a run, but does not: {error}. Bring it"
            " back, or start anew in another folder"
        ) from error


def write_config(path: Path, config: RunConfig) -> None:
    """Write down the configuration of a new run, or raise `RunError`."""
    text = json.dumps(dataclasses.asdict(config), indent=2) + "\n"
    try:
        write_atomically(path / CONFIG, text.encode())
    except OSError as error:
        raise RunError(
            f"{path / CONFIG} could not be written: {error.strerror}. Make room, and"
            " start again",
            reason="not_writable",
        ) from error


def require_same_settings(here: Settings, there: Settings, path: Path) -> None:
    """Raise `ValueError`, with each difference, unless the run has these settings."""
    differences = name_differences(dataclasses.asdict(here), dataclasses.asdict(there))
    if differences:
        raise ValueError(
            f"the run in {path} has other settings: {'; '.join(differences)}. Type its"
            " own or none to go on with it, or start another run with another --out."
            " Nothing was changed"
        )


def note_start(path: Path) -> list[str]:
    """Add a line for this start, and return what has changed since the last one.

    Settings decide the result, together with the versions of what computes it. If those
    have changed, the run goes on, and the reader is told.
    """
    now = surroundings()
    last = now | _add_start(path / "starts.jsonl", now)
    return [
        f"note: until now the run had {name} {last[name]}, and goes on with"
        f" {now[name]}; its last digits may differ from those of a run that was never"
        " stopped"
        for name in ("labml_bcn", "torch", "cpu", "kernels")
        if last[name] != now[name]
    ]


def _add_start(file: Path, now: dict[str, Any]) -> dict[str, Any]:
    # Returns the line before: empty if there is none.
    starts = JSONLines(file)
    before = file.read_bytes()
    # A loss of power can leave the half of a line.
    starts.cut(before.rfind(b"\n") + 1)
    *_, last = {}, *starts
    starts.add(**now)
    starts.close()
    return last
