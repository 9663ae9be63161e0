"""Networks as people write them, small: the shapes and habits, few channels.

None of them knows of this project. Their channels are as awkward as those of the large
ones (24, 36, 40, 48, 80, 112, 144, 240), and so are their habits: in-place operations,
lists of outputs, one norm in several places.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# ---- Residual networks ------------------------------------------------------


def conv3x3(c_in, c_out, stride=1):
    return nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False)


def shortcut(c_in, c_out, stride):
    """The way around a block, with a convolution where the shape changes."""
    if c_in == c_out and stride == 1:
        return None
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out)
    )


class BasicBlock(nn.Module):
    def __init__(self, c_in, c_out, stride):
        super().__init__()
        self.conv1 = conv3x3(c_in, c_out, stride)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(c_out, c_out)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.downsample = shortcut(c_in, c_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class Bottleneck(nn.Module):
    def __init__(self, c_in, c_out, stride):
        super().__init__()
        width = c_out // 4
        self.conv1 = nn.Conv2d(c_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, c_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(c_out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(c_in, c_out, stride)
        # Each block starts as the identity.
        nn.init.zeros_(self.bn3.weight)

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self, block, widths, classes=10):
        super().__init__()
        stem = widths[0]
        self.conv1 = nn.Conv2d(3, stem, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        self.layer1 = nn.Sequential(block(stem, widths[1], 1))
        self.layer2 = nn.Sequential(
            block(widths[1], widths[2], 2), block(widths[2], widths[2], 1)
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[2], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer2(self.layer1(x))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class PreActivationBlock(nn.Module):
    def __init__(self, c_in, c_out, stride=1):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(c_in)
        self.conv1 = conv3x3(c_in, c_out, stride)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.conv2 = conv3x3(c_out, c_out)
        if stride != 1 or c_in != c_out:
            self.shortcut = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False))

    def forward(self, x):
        out = F.relu(self.bn1(x))
        around = self.shortcut(out) if hasattr(self, "shortcut") else x
        out = self.conv1(out)
        out = self.conv2(F.relu(self.bn2(out)))
        out += around
        return out


class PreActivationResNet(nn.Module):
    """No convolution before an addition has a norm of its own behind it."""

    def __init__(self, classes=10):
        super().__init__()
        self.conv1 = conv3x3(3, 24)
        self.layer1 = nn.Sequential(
            PreActivationBlock(24, 24), PreActivationBlock(24, 24)
        )
        self.layer2 = nn.Sequential(
            PreActivationBlock(24, 40, 2), PreActivationBlock(40, 40)
        )
        self.bn = nn.BatchNorm2d(40)
        self.linear = nn.Linear(40, classes)

    def forward(self, x):
        x = self.layer2(self.layer1(self.conv1(x)))
        return self.linear(F.relu(self.bn(x)).mean((2, 3)))


# ---- Dense, inverted and branching ------------------------------------------


class DenseLayer(nn.Module):
    def __init__(self, c_in, growth):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(c_in)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(c_in, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(4 * growth, growth)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = self.conv1(self.relu1(self.norm1(torch.cat(features, 1))))
        return self.conv2(self.relu2(self.norm2(x)))


class DenseBlock(nn.ModuleDict):
    def __init__(self, layers, c_in, growth):
        super().__init__()
        for i in range(layers):
            self[f"denselayer{i + 1}"] = DenseLayer(c_in + i * growth, growth)

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.values():
            features.append(layer(features))
        return torch.cat(features, 1)


class DenseNet(nn.Module):
    def __init__(self, growth=12, classes=10):
        super().__init__()
        wide = 24 + 3 * growth
        self.features = nn.Sequential()
        self.features.add_module("conv0", conv3x3(3, 24, 2))
        self.features.add_module("norm0", nn.BatchNorm2d(24))
        self.features.add_module("relu0", nn.ReLU(inplace=True))
        self.features.add_module("denseblock1", DenseBlock(3, 24, growth))
        self.features.add_module(
            "transition1",
            nn.Sequential(
                nn.BatchNorm2d(wide),
                nn.ReLU(inplace=True),
                nn.Conv2d(wide, wide // 2, 1, bias=False),
                nn.AvgPool2d(2, 2),
            ),
        )
        self.features.add_module("denseblock2", DenseBlock(2, wide // 2, growth))
        self.features.add_module("norm5", nn.BatchNorm2d(wide // 2 + 2 * growth))
        self.classifier = nn.Linear(wide // 2 + 2 * growth, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.features(x), inplace=True)
        x = F.adaptive_avg_pool2d(x, (1, 1))
        return self.classifier(torch.flatten(x, 1))


class ConvNorm(nn.Sequential):
    """A convolution, a norm and an activation in one container."""

    def __init__(self, c_in, c_out, kernel=3, stride=1, groups=1, act=nn.ReLU6):
        padding = (kernel - 1) // 2
        super().__init__(
            nn.Conv2d(
                c_in, c_out, kernel, stride, padding=padding, groups=groups, bias=False
            ),
            nn.BatchNorm2d(c_out),
            act(inplace=True),
        )


class InvertedResidual(nn.Module):
    def __init__(self, c_in, c_out, stride, expand):
        super().__init__()
        hidden = c_in * expand
        layers = [ConvNorm(c_in, hidden, 1)] if expand != 1 else []
        layers += [
            ConvNorm(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, c_out, 1, bias=False),
            nn.BatchNorm2d(c_out),
        ]
        self.conv = nn.Sequential(*layers)
        self.around = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        if self.around:
            return x + self.conv(x)
        return self.conv(x)


class MobileNetV2(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.features = nn.Sequential(
            ConvNorm(3, 32, 3, 2),
            InvertedResidual(32, 16, 1, 1),
            InvertedResidual(16, 24, 2, 6),
            InvertedResidual(24, 24, 1, 6),
            InvertedResidual(24, 40, 2, 6),
            ConvNorm(40, 112, 1),
        )
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(112, classes))

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        return self.classifier(x.mean([2, 3]))


class SqueezeExcitation(nn.Module):
    def __init__(self, channels, squeezed):
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.activation = nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.fc2(self.activation(self.fc1(self.avgpool(x))))
        return torch.sigmoid(scale) * x


class DropPath(nn.Module):
    """Leave the block of a sample out, at random."""

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        keep = torch.rand(x.shape[0], 1, 1, 1, device=x.device) >= self.p
        return x * keep / (1 - self.p)


class MBConv(nn.Module):
    def __init__(self, c_in, c_out, kernel, stride, expand):
        super().__init__()
        hidden = c_in * expand
        layers = [ConvNorm(c_in, hidden, 1, act=nn.SiLU)] if expand != 1 else []
        layers += [
            ConvNorm(hidden, hidden, kernel, stride, groups=hidden, act=nn.SiLU),
            SqueezeExcitation(hidden, max(1, c_in // 4)),
            nn.Conv2d(hidden, c_out, 1, bias=False),
            nn.BatchNorm2d(c_out, eps=1e-3, momentum=0.01),
        ]
        self.block = nn.Sequential(*layers)
        self.drop_path = DropPath(0.1)
        self.around = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        y = self.block(x)
        if self.around:
            y = self.drop_path(y)
            y += x
        return y


class EfficientNet(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.features = nn.Sequential(
            ConvNorm(3, 32, 3, 2, act=nn.SiLU),
            MBConv(32, 16, 3, 1, 1),
            MBConv(16, 24, 3, 2, 6),
            MBConv(24, 24, 5, 1, 6),
            MBConv(24, 40, 5, 2, 6),
            ConvNorm(40, 80, 1, act=nn.SiLU),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Dropout(0.2, inplace=True), nn.Linear(80, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class ConvBN(nn.Module):
    """A convolution and a norm, as Inception has them."""

    def __init__(self, c_in, c_out, kernel, **kwargs):
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, bias=False, **kwargs)
        self.bn = nn.BatchNorm2d(c_out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class InceptionBlock(nn.Module):
    def __init__(self, c_in):
        super().__init__()
        self.branch1x1 = ConvBN(c_in, 24, 1)
        self.branch7x7 = nn.Sequential(
            ConvBN(c_in, 16, 1),
            ConvBN(16, 24, (1, 7), padding=(0, 3)),
            ConvBN(24, 36, (7, 1), padding=(3, 0)),
        )
        self.branch_pool = ConvBN(c_in, 20, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.avg_pool2d(x, kernel_size=3, stride=1, padding=1)
        branches = [self.branch1x1(x), self.branch7x7(x), self.branch_pool(pooled)]
        return torch.cat(branches, 1)


class Inception(nn.Module):
    """Branches, and a second head that is read in training alone."""

    def __init__(self, classes=10):
        super().__init__()
        self.stem = ConvBN(3, 24, 3, stride=2)
        self.mixed1 = InceptionBlock(24)
        self.mixed2 = InceptionBlock(80)
        self.aux = ConvBN(80, 36, 1)
        self.aux_fc = nn.Linear(36, classes)
        self.fc = nn.Linear(80, classes)

    def forward(self, x):
        x = self.mixed1(self.stem(x))
        aux = None
        if self.training:
            aux = self.aux_fc(self.aux(x).mean((2, 3)))
        x = self.fc(self.mixed2(x).mean((2, 3)))
        return (x, aux) if self.training else x


def channel_shuffle(x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)


class ShuffleBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(
            nn.Conv2d(half, half, 1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(inplace=True),
            nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False),
            nn.BatchNorm2d(half),
            nn.Conv2d(half, half, 1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, dim=1)
        return channel_shuffle(torch.cat((left, self.branch(right)), dim=1))


class ShuffleNet(nn.Module):
    """Channels that are split, and shuffled."""

    def __init__(self, classes=10):
        super().__init__()
        self.conv1 = ConvNorm(3, 48, 3, 2, act=nn.ReLU)
        self.stage = nn.Sequential(ShuffleBlock(48), ShuffleBlock(48))
        self.fc = nn.Linear(48, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.stage(self.conv1(x)).mean([2, 3]))


# ---- In a row ---------------------------------------------------------------


class VGG(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        layers, c_in = [], 3
        for c_out in (24, "M", 48, 48, "M", 80):
            if c_out == "M":
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [
                nn.Conv2d(c_in, c_out, 3, padding=1),
                nn.BatchNorm2d(c_out),
                nn.ReLU(inplace=True),
            ]
            c_in = c_out
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((2, 2))
        self.classifier = nn.Sequential(
            nn.Linear(80 * 4, 64), nn.ReLU(True), nn.Dropout(), nn.Linear(64, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.features(x))
        return self.classifier(torch.flatten(x, 1))


class WaveNet1d(nn.Module):
    """One dimension: dilated convolutions, and a norm behind a linear layer."""

    def __init__(self, classes=5):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv1d(2, 24, 9, padding="same", bias=False), nn.BatchNorm1d(24)
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.ReLU(),
                nn.Conv1d(24, 24, 3, padding=d, dilation=d, padding_mode="circular"),
                nn.BatchNorm1d(24),
            )
            for d in (1, 2)
        )
        self.embed = nn.Linear(24, 40, bias=False)
        self.bn = nn.BatchNorm1d(40)
        self.head = nn.Linear(40, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        x = self.embed(x.mean(-1))
        return self.head(F.leaky_relu(self.bn(x)))


class FactorizedConv3d(nn.Sequential):
    def __init__(self, c_in, middle, c_out):
        super().__init__(
            nn.Conv3d(c_in, middle, (1, 3, 3), padding=(0, 1, 1), bias=False),
            nn.BatchNorm3d(middle),
            nn.ReLU(inplace=True),
            nn.Conv3d(middle, c_out, (3, 1, 1), padding=(1, 0, 0), bias=False),
        )


class VideoNet3d(nn.Module):
    """Three dimensions, each convolution in two steps."""

    def __init__(self, classes=4):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv3d(3, 16, (3, 5, 5), (1, 2, 2), padding=(1, 2, 2), bias=False),
            nn.BatchNorm3d(16),
            nn.ReLU(inplace=True),
        )
        self.conv1 = nn.Sequential(FactorizedConv3d(16, 36, 16), nn.BatchNorm3d(16))
        self.conv2 = nn.Sequential(
            FactorizedConv3d(16, 20, 24), nn.BatchNorm3d(24), nn.ReLU(inplace=True)
        )
        self.fc = nn.Linear(24, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(x + self.conv1(x))
        return self.fc(self.conv2(x).flatten(2).mean(2))


class Generator(nn.Module):
    """Transposed convolutions all the way, as in a GAN."""

    def __init__(self):
        super().__init__()
        self.main = nn.Sequential(
            nn.ConvTranspose2d(20, 80, 4, bias=False),
            nn.BatchNorm2d(80),
            nn.ReLU(True),
            nn.ConvTranspose2d(80, 40, 4, 2, 1, bias=False),
            nn.BatchNorm2d(40),
            nn.ReLU(True),
            nn.Conv2d(40, 24, 3, padding=1, bias=False),
            nn.BatchNorm2d(24),
            nn.LeakyReLU(0.2, inplace=True),
            nn.ConvTranspose2d(24, 3, 4, 2, 1, bias=False),
            nn.Tanh(),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.main(z)


# ---- Images to images, pyramids ---------------------------------------------


class DoubleConv(nn.Sequential):
    def __init__(self, c_in, c_out):
        super().__init__(
            nn.Conv2d(c_in, c_out, 3, padding=1),
            nn.BatchNorm2d(c_out),
            nn.ReLU(inplace=True),
            nn.Conv2d(c_out, c_out, 3, padding=1),
            nn.BatchNorm2d(c_out),
            nn.ReLU(inplace=True),
        )


class Up(nn.Module):
    def __init__(self, c_in, c_out):
        super().__init__()
        self.up = nn.ConvTranspose2d(c_in, c_out, 2, stride=2)
        self.conv = DoubleConv(2 * c_out, c_out)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.conv(torch.cat([skip, self.up(x)], dim=1))


class UNet(nn.Module):
    def __init__(self, classes=2):
        super().__init__()
        self.inc = DoubleConv(3, 16)
        self.down1 = nn.Sequential(nn.MaxPool2d(2), DoubleConv(16, 24))
        self.down2 = nn.Sequential(nn.MaxPool2d(2), DoubleConv(24, 48))
        self.up1 = Up(48, 24)
        self.up2 = Up(24, 16)
        self.outc = nn.Conv2d(16, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.inc(x)
        x2 = self.down1(x1)
        x = self.up1(self.down2(x2), x2)
        return self.outc(self.up2(x, x1))


class ASPP(nn.Module):
    """Rates of dilation side by side, and a norm of one value a channel."""

    def __init__(self, classes=3):
        super().__init__()
        self.backbone = ConvNorm(3, 36, 3, 2, act=nn.ReLU)
        self.convs = nn.ModuleList([ConvNorm(36, 24, 1, act=nn.ReLU)])
        for rate in (2, 4):
            self.convs.append(
                nn.Sequential(
                    nn.Conv2d(36, 24, 3, padding=rate, dilation=rate, bias=False),
                    nn.BatchNorm2d(24),
                    nn.ReLU(),
                )
            )
        self.pool = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(36, 24, 1, bias=False),
            nn.BatchNorm2d(24),
            nn.ReLU(),
        )
        self.project = nn.Sequential(ConvNorm(96, 24, 1, act=nn.ReLU), nn.Dropout(0.5))
        self.classifier = nn.Conv2d(24, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        x = self.backbone(x)
        parts = [conv(x) for conv in self.convs]
        pooled = self.pool(x)
        parts.append(
            F.interpolate(pooled, x.shape[-2:], mode="bilinear", align_corners=False)
        )
        x = self.classifier(self.project(torch.cat(parts, dim=1)))
        return F.interpolate(x, size, mode="bilinear", align_corners=False)


class FeaturePyramid(nn.Module):
    """A dict in, lists out: a pyramid with a norm behind each level's convolution."""

    def __init__(self, width=36):
        super().__init__()
        self.stages = nn.ModuleList(
            ConvNorm(c_in, c_out, 3, 2, act=nn.ReLU)
            for c_in, c_out in ((3, 24), (24, 40), (40, 80))
        )
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in (24, 40, 80))
        self.smooth = nn.ModuleDict(
            {
                f"p{i}": nn.Sequential(conv3x3(width, width), nn.BatchNorm2d(width))
                for i in range(3)
            }
        )
        self.boxes = nn.Conv2d(width, 4, 3, padding=1)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, list[Tensor]]:
        x = batch["images"] * batch["mask"]
        levels = []
        for stage, lateral in zip(self.stages, self.lateral, strict=True):
            x = stage(x)
            levels.append(lateral(x))
        for i in (1, 0):
            above = F.interpolate(levels[i + 1], levels[i].shape[-2:])
            levels[i] = levels[i] + above
        outs = [self.smooth[f"p{i}"](level) for i, level in enumerate(levels)]
        return {"features": outs, "boxes": [self.boxes(F.relu(o)) for o in outs]}


# ---- One module in several places -------------------------------------------


class SharedHead(nn.Module):
    """One convolution for all levels; a norm for all, then one for each."""

    def __init__(self, levels=2, width=24):
        super().__init__()
        self.stem = ConvNorm(3, width, 3, 2, act=nn.ReLU)
        self.tower = ConvNorm(width, width, 3, act=nn.ReLU)
        self.conv = conv3x3(width, width)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(levels))
        self.predict = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x):
        x = self.stem(x)
        outs = []
        for i, norm in enumerate(self.norms):
            level = F.max_pool2d(x, 2**i) if i else x
            level = F.relu(norm(self.conv(self.tower(level))))
            outs.append(self.predict(level))
        return outs


class Tied(nn.Module):
    """Two convolutions with one weight, and one norm under two names."""

    def __init__(self, width=40):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.also = self.norm
        self.encode = conv3x3(width, width)
        self.encode_norm = nn.BatchNorm2d(width)
        self.decode = conv3x3(width, width)
        self.decode_norm = nn.BatchNorm2d(width)
        self.decode.weight = self.encode.weight
        self.last = nn.Conv2d(width, 3, 1)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(self.encode_norm(self.encode(x)))
        x = F.relu(self.decode_norm(self.decode(x)))
        return self.last(self.also(x))


class Autoencoder(nn.Module):
    """A decoder that goes back with the weight of the encoder, as a function."""

    def __init__(self, width=24):
        super().__init__()
        self.encode = nn.Conv2d(3, width, 4, 2, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.middle = conv3x3(width, width)
        self.middle_norm = nn.BatchNorm2d(width)
        self.last_norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.encode(x)))
        x = F.relu(self.middle_norm(self.middle(x)))
        x = F.conv_transpose2d(x, self.encode.weight, stride=2, padding=1)
        return self.last_norm(x)


class Siamese(nn.Module):
    """One encoder, two inputs."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            ConvNorm(3, 24, 3, 2, act=nn.ReLU), ConvNorm(24, 36, 3, 2, act=nn.ReLU)
        )
        self.head = nn.Linear(36, 1)

    def forward(self, left, right):
        a, b = self.encoder(left), self.encoder(right)
        return self.head((a - b).abs().mean((2, 3)))


# ---- Functions, control flow, other layers ----------------------------------


class Functional(nn.Module):
    """All but the layers with parameters are functions, many of them in place."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 24, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(24)
        self.conv2 = nn.Conv2d(24, 24, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(24)
        # A convolution that is no module.
        self.weight = nn.Parameter(torch.randn(24, 24, 3, 3) / 15)
        self.bn3 = nn.BatchNorm2d(24)
        self.conv3 = nn.Conv2d(48, 36, 3, padding=1)
        self.bn4 = nn.BatchNorm2d(36)
        self.conv4 = nn.Conv2d(36, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(F.max_pool2d(x, 2)))
        y.relu_()
        z = self.bn3(F.conv2d(y, self.weight, padding=1))
        z += y
        z *= 0.5
        up = F.interpolate(z, scale_factor=2.0, mode="nearest")
        x = self.conv3(torch.cat((x, up), 1))
        x *= 2  # The norm reads the same tensor, but other values.
        x = F.silu(self.bn4(x), inplace=True)
        return self.conv4(F.dropout(x, 0.1, self.training)).mean((2, 3))


class EarlyExit(nn.Module):
    """The values decide which layers run."""

    def __init__(self, classes=10):
        super().__init__()
        self.stem = ConvNorm(3, 24, 3, 2, act=nn.ReLU)
        self.body = nn.Sequential(conv3x3(24, 48), nn.BatchNorm2d(48), nn.ReLU())
        self.deep = conv3x3(48, 48)
        self.deep_norm = nn.BatchNorm2d(48)
        self.fc = nn.Linear(48, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(self.stem(x))
        if x.mean() > -1e9:
            x = F.relu(self.deep_norm(self.deep(x)))
        steps = 1 + int(x.shape[0] > 1)
        for _ in range(steps):
            x = x * 0.9
        return self.fc(x.mean((2, 3)))


class ConvLSTMHead(nn.Module):
    """Lines of text: convolutions, then a sequence."""

    def __init__(self, classes=12):
        super().__init__()
        self.cnn = nn.Sequential(
            ConvNorm(1, 24, 5, 2, act=nn.ReLU),
            nn.Conv2d(24, 48, 3, padding=1),
            nn.BatchNorm2d(48),
            nn.ReLU(True),
        )
        self.rnn = nn.LSTM(48, 20, bidirectional=True, batch_first=True)
        self.fc = nn.Linear(40, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cnn(x).mean(2).transpose(1, 2)
        x, _ = self.rnn(x)
        return self.fc(x)


class ConvAttention(nn.Module):
    """Convolutions as a stem, attention behind them; its layer norms stay."""

    def __init__(self, classes=10):
        super().__init__()
        self.stem = nn.Sequential(
            ConvNorm(3, 24, 3, 2, act=nn.ReLU),
            nn.Conv2d(24, 48, 3, 2, padding=1, bias=False),
            nn.BatchNorm2d(48),
        )
        self.norm = nn.LayerNorm(48)
        self.attention = nn.MultiheadAttention(48, 4, batch_first=True)
        self.group_norm = nn.GroupNorm(4, 48)
        self.fc = nn.Linear(48, classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.stem(x).flatten(2).transpose(1, 2)
        y = self.norm(tokens)
        tokens = tokens + self.attention(y, y, y, need_weights=False)[0]
        return self.fc(self.group_norm(tokens.transpose(1, 2)).mean(2))


class Reparametrized(nn.Module):
    """Weights that something else computes, beside one that is computed plainly."""

    def __init__(self):
        super().__init__()
        self.stem = conv3x3(3, 24)
        self.bn1 = nn.BatchNorm2d(24)
        self.spectral = nn.utils.parametrizations.spectral_norm(conv3x3(24, 36))
        self.bn2 = nn.BatchNorm2d(36)
        self.last = nn.Conv2d(36, 3, 1)

    def forward(self, x):
        x = F.relu(self.bn1(self.stem(x)))
        return self.last(F.relu(self.bn2(self.spectral(x))))


def synchronized():
    """A residual network of several processes, which today is used in one."""
    return nn.SyncBatchNorm.convert_sync_batchnorm(ResNet(BasicBlock, (24, 24, 40)))
