"""The records of a study: one small JSON file for each trial that has ended."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from labml_bcn.experiment.atomic_files import write_atomically

Values = dict[str, Any]
Records = Mapping[str, Values]

# What a run counts whose loss became NaN: it classifies none, as if it guessed.
GUESSING = 0.1


class Trial(NamedTuple):
    """One run of a study, which is one training command.

    `name` is that of its record; `part` is "sweep" if it looks for a learning rate,
    "main" if it compares methods and "ablation" if it changes a setting of one method.
    `settings` are what the training command is told; the learning rate is `None` as
    long as the sweep has not chosen it.
    """

    name: str
    part: str
    method: str
    settings: Values

    @property
    def command(self) -> str:
        """The command that runs this trial."""
        words = ["python", "-m", "labml_bcn.experiment.train"]
        for name, value in self.settings.items():
            option = name.replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{option}" if value else f"--no-{option}")
            else:
                words += [f"--{option}", "..." if value is None else str(value)]
        return shlex.join(words)


def is_recorded(trial: Trial, records: Records) -> bool:
    """Return whether there is a record of a trial's name, with its settings.

    A sweep that is done again may choose another rate, and what was recorded with the
    old one is then no trial of the study any longer.
    """
    settings: Values = records.get(trial.name, {}).get("settings", {})
    return bool(settings) and settings | trial.settings == settings


def accuracy(record: Values) -> float:
    """Return the share of images that a run classified right at its end."""
    found: float | None = record["accuracy"]
    return GUESSING if found is None else found


def read_records(folder: Path) -> dict[str, Values]:
    """Return the records of a folder, by the names of their trials."""
    paths = sorted(folder.glob("*.json"))
    return {path.stem: json.loads(path.read_text("utf-8")) for path in paths}


def write_record(folder: Path, record: Values) -> None:
    """Write a record, whole or not at all, a line for each of its entries."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = (
        f"{json.dumps(key)}: {json.dumps(value)}" for key, value in record.items()
    )
    text = "{\n" + ",\n".join(entries) + "\n}\n"
    write_atomically(folder / f"{record['name']}.json", text.encode())
