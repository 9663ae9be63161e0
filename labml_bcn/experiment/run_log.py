"""Where the numbers of a run go: to its caller, its folder, TensorBoard and a bar.

Without a terminal there is a line every half minute in place of the bar: what runs for
days into a file should show in it that it does.
"""

import importlib
import math
import sys
import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple, Protocol, Self

from labml_bcn.experiment import ranks
from labml_bcn.experiment.optional_packages import progress_bar
from labml_bcn.experiment.outcome import RunError, outcome_of
from labml_bcn.experiment.output import tell
from labml_bcn.experiment.run_folder import RunFolder

# Seconds between two lines, if there is no bar.
LINE_EVERY = 30


# How TensorBoard calls what a point has.
TAGS = {
    "loss": "train/loss",
    "accuracy": "train/accuracy",
    "last_loss": "train/last loss",
    "lr": "learning rate",
    "gradient_norm": "gradient norm",
    "images_per_second": "images per second",
    "seconds_left": "seconds left",
    "memory": "memory",
}


class Point(NamedTuple):
    """A point of the training curve: the average over all images since the last one.

    `images` is how many were seen up to here, `loss` the cross-entropy, `accuracy` the
    share of images classified right in training mode.
    """

    images: int
    loss: float
    accuracy: float


class Score(NamedTuple):
    """A look at the test images, in evaluation mode.

    `images` is how many were seen in training up to here, `accuracy` the share of test
    images classified right.
    """

    images: int
    accuracy: float


class Measures(NamedTuple):
    """What is measured of one step.

    `lr` is its learning rate, `gradient_norm` that of the whole gradient, `last_loss`
    the loss of its last batch, and `memory` the most bytes that were held so far.
    """

    lr: float
    gradient_norm: float
    last_loss: float
    memory: int | None


@dataclass
class Run:
    """A whole run: the training curve, the test accuracies and the training time.

    The last of the tests is the final one, and `seconds` leaves their time out.
    """

    points: list[Point] = field(default_factory=list)
    tests: list[Score] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def images(self) -> int:
        """How many images were seen."""
        return self.points[-1].images

    @property
    def accuracy(self) -> float:
        """Share of test images classified right at the end."""
        return self.tests[-1].accuracy

    @property
    def images_per_second(self) -> float:
        """The speed of training, the tests not counted."""
        return self.images / self.seconds


class RunState(Protocol):
    """What takes over a checkpoint, and can be measured."""

    meter: Any

    def load(self, checkpoint: dict[str, Any]) -> None:
        """Take over what a checkpoint holds."""

    def measures(self) -> Measures:
        """Return what there is to know about the last step."""


class RunLog:
    """Takes down a run inside its `with` statement.

    Every point and every score goes into `run`; into the folder, if there is one; and
    to TensorBoard, if it is asked for. Of several processes the first one does this.
    At the end it writes how the run has ended, while the folder is still locked.
    """

    def __init__(
        self,
        folder: RunFolder | None,
        steps: int,
        images_per_step: int,
        tensorboard: bool = False,
        progress: bool | None = None,
    ) -> None:
        if tensorboard and folder is None:
            raise ValueError("tensorboard needs a folder to write to: pass folder")
        self.run, self.folder = Run(), folder
        self.steps, self.images_per_step = steps, images_per_step
        self.tensorboard, self.progress = tensorboard, progress
        self.first = ranks.rank() == 0
        self.step, self.seconds = 0, 0.0
        self.has_lines = self.first and progress is None and not sys.stderr.isatty()
        self.last_line = (time.monotonic(), 0)
        self.board: Any = None
        self.bar: Any = None

    def __enter__(self) -> Self:
        if self.folder and self.first:
            self.folder.open()
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        for each in (self.bar, self.board):
            if each is not None:
                each.close()
        if self.folder and self.first:
            self.folder.write_outcome(outcome_of(error, self.step))
            self.folder.close()

    def resume(self, state: RunState) -> int:
        """Read the folder's checkpoint into `state`, and return its step.

        It is 0 if there is none. What was measured up to there is read as well.
        """
        found = self.folder.load() if self.folder else None
        if found:
            self.step, checkpoint = found
            if self.step > self.steps:
                raise RunError(
                    f"the checkpoint must be of one of the run's {self.steps:,} steps,"
                    f" but is of step {self.step:,}: it is another run's. Start another"
                    " run in another folder",
                    reason="other_settings",
                )
            state.load(checkpoint)
        self._read_metrics()
        images = self.step * self.images_per_step
        if self.tensorboard and self.folder and self.first:
            path = self.folder.path / "tensorboard"
            self.board = tensorboard_writer(str(path), images)
        total = self.steps * self.images_per_step
        self.last_line = (time.monotonic(), images)
        self.bar = progress_bar(total, images, progress=self.progress)
        return self.step

    def _read_metrics(self) -> None:
        if self.folder is None or not self.folder.metrics or not self.folder.timings:
            return
        for line in self.folder.metrics:
            if "test_accuracy" in line:
                self.run.tests.append(Score(line["images"], line["test_accuracy"]))
            else:
                point = Point(line["images"], line["loss"], line["accuracy"])
                self.run.points.append(point)
        for line in self.folder.timings:
            self.seconds = line["seconds"]

    def advance(self, step: int, state: RunState) -> None:
        """Note that a step was taken, and say so now and then."""
        self.step = step
        self.bar.update(self.images_per_step)
        if self.has_lines and time.monotonic() - self.last_line[0] >= LINE_EVERY:
            self._tell_line(state.meter.peek(step * self.images_per_step), state)

    def _tell_line(self, point: Point, state: RunState) -> None:
        now, measured = time.monotonic(), state.measures()
        then, before = self.last_line
        speed = (point.images - before) / (now - then)
        left = (self.steps - self.step) * self.images_per_step / speed
        memory = f", {measured.memory / 1e6:,.0f} MB" if measured.memory else ""
        tell(
            f"step {self.step:,} of {self.steps:,}: loss {measured.last_loss:.3f},"
            f" average {point.loss:.3f}, accuracy {point.accuracy:.1%},"
            f" lr {measured.lr:.3g}, gradient norm {measured.gradient_norm:.3g},"
            f" {speed:,.0f} images/s{memory}, {timedelta(seconds=round(left))} left"
        )
        self.last_line = (now, point.images)

    def add_point(self, point: Point, measured: Measures, seconds: float) -> None:
        """Add a point of the training curve, and what else was measured there.

        Times go into a file of their own: the metrics of two runs of one seed are the
        same, byte for byte, and their speeds never are.
        """
        last = self.run.points[-1].images if self.run.points else 0
        speed = (point.images - last) / (seconds - self.seconds)
        self.run.points.append(point)
        self.seconds = seconds
        lr, norm, last_loss, memory = measured
        metrics = point._asdict() | {
            "last_loss": last_loss,
            "lr": lr,
            "gradient_norm": norm if math.isfinite(norm) else None,
        }
        left = (self.steps * self.images_per_step - point.images) / speed
        timings = {
            "images": point.images,
            "seconds": seconds,
            "images_per_second": speed,
            "seconds_left": left,
            "memory": memory,
        }
        if self.folder and self.folder.metrics and self.folder.timings:
            self.folder.metrics.add(**metrics)
            self.folder.timings.add(**timings)
        if self.board:
            for key, tag in TAGS.items():
                if (value := (metrics | timings)[key]) is not None:
                    self.board.add_scalar(tag, value, point.images)
        self.bar.set_postfix(
            loss=f"{point.loss:.3f}",
            accuracy=f"{point.accuracy:.1%}",
            lr=f"{lr:.2g}",
            refresh=False,
        )

    def add_test(self, images: int, accuracy: float) -> None:
        """Add a look at the test images."""
        self.run.tests.append(Score(images, accuracy))
        if self.folder and self.folder.metrics:
            self.folder.metrics.add(images=images, test_accuracy=accuracy)
        if self.board:
            self.board.add_scalar("test/accuracy", accuracy, images)

    def needs_test(self, images: int) -> bool:
        """Return whether this process has a look to take that was not yet taken."""
        tests = self.run.tests
        return self.first and not (tests and tests[-1].images == images)

    def finish(self, seconds: float) -> Run:
        """Return the whole run, and how long it took."""
        self.run.seconds = seconds
        return self.run


def tensorboard_writer(path: str, images: int) -> Any:
    """Return a writer for TensorBoard, which shows nothing from after `images`.

    Raises `RunError` if TensorBoard is not installed.
    """
    try:
        module = importlib.import_module("torch.utils.tensorboard")
    except ModuleNotFoundError as error:
        raise RunError(
            "--tensorboard needs the package tensorboard, which is not installed."
            " Install it with: pip install 'labml-bcn[tensorboard]', or leave the"
            " option out",
            reason="package_missing",
        ) from error
    return module.SummaryWriter(path, purge_step=images + 1)
