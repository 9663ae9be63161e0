"""The records of a study: one small JSON file for each trial that has ended.

Nothing in them is typed by hand. So each has its digest beside it, and one that was
changed, copied to another name or put there by hand is not taken for a result.
"""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from labml_bcn.experiment.atomic_files import hold, write_atomically
from labml_bcn.experiment.checksums import (
    digest_of,
    read_sums,
    require_digest,
    write_sums,
)

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


# What is read of a record.
KINDS: dict[str, Any] = {
    "settings": dict,
    "command": str,
    "images": str,
    "commit": str | None,
    "error": str | None,
}
RECORD_REMEDY = "Bring it back, or remove it and record it again"


def read_records(folder: Path, verify: bool = True) -> dict[str, Values]:
    """Return the records of a folder, by the names of their trials.

    Raises `ValueError` if one is no record or, unless `verify` is off, is not the one
    that was written.
    """
    sums = read_sums(folder) if verify else None
    records = {}
    for path in sorted(folder.glob("*.json")):
        data = path.read_bytes()
        require_digest(path, data, sums, f"{RECORD_REMEDY}.")
        records[path.stem] = _parse(path, data)
    return records


def _parse(path: Path, data: bytes) -> Values:
    try:
        record: Values = dict(json.loads(data))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{path} must hold a record in JSON, but does not: {error}. {RECORD_REMEDY}"
        ) from error
    if record.get("name") != path.stem:
        raise ValueError(
            f"{path} must hold the record of {path.stem}, but holds that of"
            f" {record.get('name')!r}. {RECORD_REMEDY}"
        )
    share = record.get("accuracy")
    is_number = isinstance(share, int | float) and not isinstance(share, bool)
    if not (share is None or (is_number and 0 <= share <= 1)):
        raise ValueError(
            f"{path} must hold an accuracy from 0 to 1 or null, got {share!r:.80}."
            f" {RECORD_REMEDY}"
        )
    for key, kinds in KINDS.items():
        if key in record and not isinstance(record[key], kinds):
            raise ValueError(
                f"{path} must hold {key} as a study records it, got"
                f" {str(record[key])!r:.80}. {RECORD_REMEDY}"
            )
    return record


def write_record(folder: Path, record: Values) -> None:
    """Write a record, whole or not at all, a line for each of its entries.

    Its digest is written first, while no record has its name: whenever the process is
    killed, no record lies there with a digest that is not its own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    entries = (
        f"{json.dumps(key)}: {json.dumps(value)}" for key, value in record.items()
    )
    data = ("{\n" + ",\n".join(entries) + "\n}\n").encode()
    path = folder / f"{record['name']}.json"
    with hold(folder):
        path.unlink(missing_ok=True)
        sums = read_sums(folder)
        if sums is None:
            sums = {p.name: digest_of(p.read_bytes()) for p in folder.glob("*.json")}
        write_sums(folder, sums | {path.name: digest_of(data)})
        write_atomically(path, data)
