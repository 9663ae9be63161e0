"""A stand-in for CIFAR-10: images of stripes, drawn from a fixed seed.

Where there are no photographs, everything should still run, and what runs should still
have something to learn. Each image shows stripes: its value at a pixel p is

    a + b * cos(2 * pi / wavelength * <u, p> + phase) + noise

with u the direction across the stripes, at an angle theta, random colours a and b, and
a random phase. A class is one of five angles from lying to standing and one of two
wavelengths. Both waver, and half of the images are mirrored, so that flipping an image
keeps its class.
"""

import math

import torch
from torch import Tensor

CLASSES = tuple(
    f"{kind} stripes at {angle}°"
    for kind in ("narrow", "wide")
    for angle in ("0", "22.5", "45", "67.5", "90")
)


def draw(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return n images, uint8 [n, 3, 32, 32], and their classes from 0 to 9.

    Everything random comes from the one generator, for all images at once.
    """
    labels = torch.randint(10, (n,), generator=generator)
    phase, side = torch.rand(2, n, generator=generator)
    waver, stretch = torch.randn(2, n, generator=generator)
    # A class sets the angle and the wavelength, but both waver so much that
    # neighbouring classes overlap: like photographs, some of these images cannot be
    # told apart. Half of them are mirrored.
    theta = (labels % 5 + 0.5 * waver) * math.pi / 8
    mirror = torch.where(side < 0.5, -1.0, 1.0)
    wavelength = torch.where(labels < 5, 5.0, 8.0) * (0.15 * stretch).exp()
    u = torch.stack([theta.cos() * mirror, theta.sin()], 1)
    u = u * (2 * math.pi / wavelength)[:, None]
    # The phase at a pixel is the sum of a share for its row and a share for its
    # column, so no grid of pixels is needed.
    p = torch.arange(32.0)
    rows = u[:, 1, None, None] * p[:, None]
    columns = u[:, 0, None, None] * p
    wave = (rows + columns + 2 * math.pi * phase[:, None, None]).cos()
    # The colours are drawn anew for each image: only the stripes tell the class.
    a = 128 + 40 * torch.randn(n, 3, 1, 1, generator=generator)
    b = 50 * torch.randn(n, 3, 1, 1, generator=generator)
    images = torch.randn(n, 3, 32, 32, generator=generator).mul_(30)
    images.add_(a).addcmul_(b, wave[:, None])
    return images.round_().clamp_(0, 255).to(torch.uint8), labels
