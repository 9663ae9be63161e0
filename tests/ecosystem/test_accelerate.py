"""Networks that Accelerate prepares."""

import pytest
import torch
from helpers.missing import import_or_skip
from helpers.networks import (
    every_network,
    learn_in_a_loop,
    loader,
    loss_of,
    statistics_of,
)
from helpers.oracle import assert_close

accelerate = import_or_skip("accelerate")
state = import_or_skip("accelerate.state")

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread", "fresh_state")]


@pytest.fixture
def fresh_state():
    """It remembers its first settings for a whole process."""
    yield
    state.AcceleratorState._reset_state(reset_partial_state=True)


def learn(model, batches, **options):
    """A loop as Accelerate's guide writes it."""
    accelerator = accelerate.Accelerator(cpu=True, **options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model, optimizer, batches = accelerator.prepare(model, optimizer, batches)
    for x, y in batches:
        with accelerator.accumulate(model):
            loss = loss_of(model, x, y)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()
            assert loss.isfinite()
    return accelerator, model


@every_network
@pytest.mark.works_with("train", "Accelerate", "against a loop, with accumulation")
def test_a_prepared_network_learns_as_in_a_loop(build):
    model, twin, batches = build(), build(), loader()
    twin.load_state_dict(model.state_dict())
    learn(model, batches, gradient_accumulation_steps=2)
    learn_in_a_loop(twin, batches)
    for key, value in twin.state_dict().items():
        assert_close(model.state_dict()[key], value, 1e-4, 1e-5)


@every_network
@pytest.mark.works_with("precision", "Accelerate", '`mixed_precision="bf16"`')
def test_a_prepared_network_learns_in_mixed_precision(build):
    model = build()
    before = statistics_of(model)
    learn(model, loader(), mixed_precision="bf16")
    for key, value in statistics_of(model).items():
        assert value.dtype == torch.float32
        assert not torch.equal(value, before[key])


@every_network
@pytest.mark.works_with(
    "save", "Accelerate", "`save_state`, `load_state`, `save_model`"
)
def test_its_states_are_kept(build, tmp_path):
    accelerator, model = learn(build(), loader())
    plain = accelerator.unwrap_model(model)
    wanted = {key: value.clone() for key, value in plain.state_dict().items()}
    accelerator.save_state(tmp_path / "state")
    accelerator.save_model(model, tmp_path / "model")
    with torch.no_grad():
        for value in plain.state_dict().values():
            value.zero_()
    accelerator.load_state(tmp_path / "state")
    for key, value in plain.state_dict().items():
        assert torch.equal(value, wanted[key]), key
    other = build()
    accelerate.load_checkpoint_in_model(other, tmp_path / "model")
    for key, value in other.state_dict().items():
        assert torch.equal(value, wanted[key]), key
