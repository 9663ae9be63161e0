"""Networks that Lightning trains."""

import pytest
import torch
from helpers.missing import import_or_skip
from helpers.networks import (
    BUILD,
    built,
    every_network,
    images,
    learn_in_a_loop,
    loader,
    loss_of,
    statistics_of,
)
from helpers.oracle import assert_close

lightning = import_or_skip("lightning")
callbacks = import_or_skip("lightning.pytorch.callbacks")
layer_sync = import_or_skip("lightning.pytorch.plugins.layer_sync")

from labml_bcn import update_statistics  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread"),
    # It recommends workers for the data, and speaks of its own future.
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning",
        "ignore::FutureWarning",
        "ignore::UserWarning",
    ),
]


class Lesson(lightning.LightningModule):
    """A network with what a Trainer asks for."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.losses = []

    def training_step(self, batch, number):
        loss = loss_of(self.model, *batch)
        self.losses.append(loss.detach().float())
        return loss

    def validation_step(self, batch, number):
        assert not self.model.training
        assert loss_of(self.model, *batch).isfinite()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def trainer(folder, **options):
    quiet = {"logger": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "enable_checkpointing": False}
    settings = {"accelerator": "cpu", "devices": 1, "max_epochs": 1}
    return lightning.Trainer(default_root_dir=folder, **(quiet | settings | options))


PRECISIONS = ["32-true", "64-true", "bf16-true", "16-true", "bf16-mixed"]


@every_network
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.works_with(
    "precision",
    "Lightning",
    "`32-true`, `64-true`, `16-true`, `bf16-true`, `bf16-mixed`",
)
def test_a_trainer_trains_in_every_precision(build, precision, tmp_path):
    lesson = Lesson(build())
    before = statistics_of(lesson)
    trainer(tmp_path, precision=precision).fit(lesson, loader(12), loader(4))
    assert len(lesson.losses) == 6
    assert all(loss.isfinite() for loss in lesson.losses)
    wanted = torch.float64 if precision == "64-true" else torch.float32
    for key, value in statistics_of(lesson).items():
        assert value.dtype == wanted
        assert value.isfinite().all()
        assert not torch.equal(value, before[key].to(wanted))


@every_network
@pytest.mark.works_with(
    "train", "Lightning", "a `Trainer` against a loop, with accumulation and clipping"
)
def test_a_trainer_does_what_a_loop_does(build, tmp_path):
    model, twin = build(), build()
    twin.load_state_dict(model.state_dict())
    batches = loader(12)
    options = {"accumulate_grad_batches": 2, "gradient_clip_val": 0.5}
    trainer(tmp_path, **options).fit(Lesson(model), batches)
    learn_in_a_loop(twin, batches)
    for key, value in twin.state_dict().items():
        assert_close(model.state_dict()[key], value, 1e-4, 1e-5)


@every_network
@pytest.mark.works_with("save", "Lightning", "a checkpoint, resumed and loaded")
def test_a_checkpoint_goes_on_where_it_was(build, tmp_path):
    first, whole = Lesson(build()), Lesson(build())
    whole.load_state_dict(first.state_dict())
    batches = loader(12)
    trainer(tmp_path, max_epochs=2).fit(whole, batches)
    start = trainer(tmp_path)
    start.fit(first, batches)
    start.save_checkpoint(tmp_path / "it.ckpt")
    other = Lesson(build())
    trainer(tmp_path, max_epochs=2).fit(
        other, batches, ckpt_path=tmp_path / "it.ckpt", weights_only=False
    )
    for key, value in whole.state_dict().items():
        assert torch.equal(other.state_dict()[key], value), key
    loaded = Lesson.load_from_checkpoint(
        tmp_path / "it.ckpt", model=build(), weights_only=False
    )
    for key, value in first.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key


@pytest.mark.works_with("train", "Lightning", "Fabric, in its own loop")
@every_network
def test_fabric_wraps_a_network(build):
    fabric = lightning.Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    model = build()
    model, optimizer = fabric.setup(model, torch.optim.SGD(model.parameters(), lr=0.01))
    for x, y in fabric.setup_dataloaders(loader(6)):
        optimizer.zero_grad()
        loss = loss_of(model, x, y)
        fabric.backward(loss)
        optimizer.step()
        assert loss.isfinite()


@every_network
@pytest.mark.works_with("train", "Lightning", "`EMAWeightAveraging`")
def test_an_average_of_weights_is_kept(build, tmp_path):
    lesson = Lesson(build())
    average = callbacks.EMAWeightAveraging(decay=0.5, use_buffers=True)
    trainer(tmp_path, callbacks=[average]).fit(lesson, loader(12))
    assert all(value.isfinite().all() for value in lesson.state_dict().values())
    assert lesson.eval().model(images()).isfinite().all()


# What looks for PyTorch's norms


def averaging():
    """Averages of weights, from the first epoch on."""
    return callbacks.StochasticWeightAveraging(
        swa_lrs=0.01, swa_epoch_start=1, annealing_epochs=1
    )


@pytest.mark.works_with(
    "instead",
    "Lightning's `StochasticWeightAveraging`",
    "leaves the last step's statistics beside averaged weights",
    know="`update_statistics(model, batches)` after `trainer.fit`",
)
def test_averaging_weights_leaves_the_statistics(tmp_path):
    lesson, batches = Lesson(built()), loader(12)
    kept = {}

    class LastStep(lightning.Callback):
        def on_train_epoch_end(self, trainer, module):
            if trainer.current_epoch == 2:
                kept.update(statistics_of(module))

    options = {"max_epochs": 3, "callbacks": [averaging(), LastStep()]}
    trainer(tmp_path, **options).fit(lesson, batches)
    now = statistics_of(lesson)
    for key, value in kept.items():
        assert torch.equal(now[key], value), key
    update_statistics(lesson.model, batches)
    for key, value in statistics_of(lesson).items():
        assert not torch.equal(now[key], value), key


@pytest.mark.parametrize("name", BUILD)
@pytest.mark.works_with(
    "instead",
    "Lightning's `BaseFinetuning.freeze(train_bn=False)`",
    "finds no batch norm whose statistics it should stop",
    know="`freeze_statistics(model)`",
)
def test_finetuning_freezes_no_statistic(name):
    model = BUILD[name]()
    callbacks.BaseFinetuning.freeze(model, train_bn=False)
    assert not any(p.requires_grad for p in model.parameters())
    before = statistics_of(model)
    model.train()(images())
    for key, value in statistics_of(model).items():
        assert not torch.equal(value, before[key]), key


@pytest.mark.works_with(
    "instead",
    "Lightning's `sync_batchnorm=True`",
    "converts nothing",
    know="`share_statistics(model, process_group)` in `configure_model` or a hook",
)
@every_network
def test_a_trainer_shares_no_statistics(build):
    model = build()
    kinds = [type(module) for module in model.modules()]
    other = layer_sync.TorchSyncBatchNorm().apply(model)
    assert [type(module) for module in other.modules()] == kinds
