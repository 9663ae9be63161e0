"""The stand-in: stripes of ten classes, and never in place of what was named."""

import math

import pytest
import torch
from helpers.images import make_files, write_files

from labml_bcn.experiment import cifar10


@pytest.fixture(autouse=True)
def nothing_configured(monkeypatch, tmp_path):
    monkeypatch.delenv("LABML_BCN_DATA", raising=False)
    monkeypatch.delenv("LABML_BCN_DOWNLOAD", raising=False)
    monkeypatch.setattr(cifar10, "cache_folder", lambda: tmp_path / "cache")


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


def test_the_stand_in_takes_the_place_of_nothing_only(tmp_path, monkeypatch):
    root = write_files(tmp_path / "data", make_files())
    assert cifar10.load_or_stand_in().is_stand_in
    monkeypatch.setenv("LABML_BCN_DATA", str(root))
    assert not cifar10.load_or_stand_in().is_stand_in
