"""Records of a study that nobody has run: each method has its level."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from labml_bcn.experiment.records import Trial, Values, is_recorded
from labml_bcn.experiment.settings import Settings
from labml_bcn.experiment.study import STUDIES, Study, plan
from website.study_results import Results

LEVELS = {
    "BN": 0.2,
    "GN": 0.3,
    "BN+WS": 0.25,
    "GN+WS": 0.4,
    "BCN": 0.35,
    "BCN plain+WS": 0.45,
    "BCN+WS": 0.5,
}


def as_tested(_: Mapping[str, Any]) -> float | None:
    """Leave the accuracy in training mode what it is in evaluation."""
    return None


def record(trial: Trial, accuracy: float, learned: float | None = None) -> Values:
    """Return a record with an accuracy, and with another in training mode."""
    learned = accuracy if learned is None else learned
    return {
        "name": trial.name,
        "command": trial.command,
        "commit": "c" * 40,
        "images": "a 7,728-image part of CIFAR-10",
        "counts": {"train": 7728, "test": 1000},
        "settings": asdict(Settings()) | trial.settings | {"digest": "d" * 64},
        "accuracy": accuracy,
        "error": None,
        "weights": "e" * 64,
        "seconds": 36.0,
        "surroundings": {"torch": "2.0", "cpu": "A processor"},
        "tests": [],
        "curve": [[80 * k, 1.0, learned] for k in range(1, 101)],
    }


def results(
    levels: Mapping[str, float] = LEVELS,
    noise: float = 0.004,
    grid: Study = STUDIES["cpu"],
    learned: Callable[[Mapping[str, Any]], float | None] = as_tested,
) -> Results:
    """Return a study in which each method has its level, and a seed its noise.

    `learned` gives the accuracy in training mode, from a trial's settings.
    """
    records: dict[str, Values] = {}
    while True:
        left = [p for p in plan(grid, records) if not is_recorded(p, records)]
        ready = [p for p in left if p.settings["lr"] is not None]
        if not ready:
            return Results(grid, records)
        for trial in ready:
            level = levels[trial.method]
            level += noise * (trial.settings["seed"] - 1)
            records[trial.name] = record(trial, level, learned(trial.settings))
