"""Checkpoints of other implementations, each restated here from its formula."""

import copy
import io
import warnings

import pytest
import torch
from helpers.layers import leaf, state
from helpers.oracle import assert_close
from torch import nn

from labml_bcn import (
    BatchChannelNorm,
    BatchNorm,
    EstimatedBatchNorm,
    WSConv1d,
    WSConv2d,
    WSConv3d,
)
from labml_bcn.checkpoints import SOURCES, Source, load_checkpoint

C, G = 12, 3


# The sources


def filters(weight):
    """A weight's filters, as rows."""
    return weight.flatten(1)


def like(values, weight):
    """One value for each filter, to broadcast against the weight."""
    return values.view(-1, *[1] * (weight.dim() - 1))


class Standardizing(nn.Conv2d):
    """A convolution that does something to its weight."""

    def forward(self, x):
        return self._conv_forward(x, self.standardized(self.weight), self.bias)

    def centred(self, weight):
        return weight - like(filters(weight).mean(1), weight)


class EpsilonOnDeviation(Standardizing):
    """That of mmcv's ConvWS2d, and of the authors' first code."""

    def standardized(self, weight):
        deviation = filters(weight).std(1) + 1e-5
        return self.centred(weight) / like(deviation, weight)


class EpsilonInRoot(Standardizing):
    """That of labml, and of the authors' ImageNet networks."""

    def standardized(self, weight):
        variance = filters(weight).var(1)
        return self.centred(weight) / like((variance + 1e-5).sqrt(), weight)


class ConvAWS(Standardizing):
    """mmcv's, with a gain and an offset."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        for name in ("weight_gamma", "weight_beta"):
            self.register_buffer(name, torch.rand(self.out_channels, 1, 1, 1) + 0.5)

    def standardized(self, weight):
        variance = filters(weight).var(1)
        standard = self.centred(weight) / like((variance + 1e-5).sqrt(), weight)
        return self.weight_gamma * standard + self.weight_beta


class StdConv(Standardizing):
    """timm's."""

    eps = 1e-6

    def standardized(self, weight):
        variance = filters(weight).var(1, correction=0)
        return self.centred(weight) / like((variance + self.eps).sqrt(), weight)


class BiTConv(StdConv):
    eps = 1e-10


class ScaledStdConv(StdConv):
    """timm's, whose gain is learned."""

    gamma = 1.0

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.gain = nn.Parameter(torch.rand(self.out_channels, 1, 1, 1) + 0.5)

    def standardized(self, weight):
        scale = self.gamma * filters(weight).shape[1] ** -0.5
        return super().standardized(weight) * self.gain * scale


class ScaledForReLU(ScaledStdConv):
    gamma = 1.7139588594436646


class EstBN(nn.Module):
    """The authors' estimated batch norm."""

    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))
        self.register_buffer("estbn_moving_speed", torch.tensor([0.05]))

    def forward(self, x):
        if self.training:
            r = self.estbn_moving_speed.item()
            rows = x.detach().movedim(1, 0).flatten(1)
            square = (rows - self.running_mean[:, None]).square().mean(1)
            self.running_mean.mul_(1 - r).add_(r * rows.mean(1))
            self.running_var.mul_(1 - r).add_(r * square)
        mean, var, weight, bias = (
            t.clone().view(-1, *[1] * (x.dim() - 2))
            for t in (self.running_mean, self.running_var, self.weight, self.bias)
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias


class AuthorsNorm(nn.Module):
    """The authors' batch-channel norm, its first half under a name."""

    def __init__(self, channels, groups, name, norm, eps=1e-5):
        super().__init__()
        self.groups, self.name, self.eps = groups, name, eps
        self.weight = nn.Parameter(torch.ones(1, groups, 1))
        self.bias = nn.Parameter(torch.zeros(1, groups, 1))
        self.add_module(name, norm(channels))

    def forward(self, x):
        z = getattr(self, self.name)(x)
        rows = z.reshape(len(x), self.groups, -1)
        mean, var = rows.mean(2, keepdim=True), rows.var(2, correction=0, keepdim=True)
        rows = (rows - mean) / (var + self.eps).sqrt()
        return (self.weight * rows + self.bias).view(x.shape)


def readme_norm(channels, groups):
    return AuthorsNorm(channels, groups, "bn", EstBN)


def plain_readme_norm(channels, groups):
    return AuthorsNorm(channels, groups, "bn", nn.BatchNorm2d)


def imagenet_norm(channels, groups):
    return AuthorsNorm(channels, groups, "pbn", nn.BatchNorm2d)


def torchs_norm(channels, groups):
    return nn.BatchNorm2d(channels)


# A convolution and a norm of each source, and the norm that ours has in its place.
def our_bcn(channels, groups, **options):
    options = {"variance_around": "running_mean", "momentum": 0.05} | options
    return BatchChannelNorm(channels, groups, **options)


def our_plain_bcn(channels, groups):
    return BatchChannelNorm(channels, groups, estimate=False)


def our_batch_norm(channels, groups):
    return BatchNorm(channels)


FORMS = {
    "batch_norm": (nn.Conv2d, torchs_norm, nn.Conv2d, our_batch_norm),
    "labml": (EpsilonInRoot, our_bcn, WSConv2d, our_bcn),
    "authors": (EpsilonOnDeviation, readme_norm, WSConv2d, our_bcn),
    "authors_imagenet": (EpsilonInRoot, imagenet_norm, WSConv2d, our_plain_bcn),
    "mmcv_conv_ws": (EpsilonOnDeviation, torchs_norm, WSConv2d, our_batch_norm),
    "mmcv_conv_aws": (ConvAWS, torchs_norm, WSConv2d, our_batch_norm),
    "timm_std_conv": (StdConv, torchs_norm, WSConv2d, our_batch_norm),
    "timm_scaled_std_conv": (ScaledStdConv, torchs_norm, WSConv2d, our_batch_norm),
    "bit": (BiTConv, torchs_norm, WSConv2d, our_batch_norm),
}
every_source = pytest.mark.parametrize("name", FORMS)


def network(conv, norm):
    """A few layers, by the names that networks have."""
    body = nn.Sequential(conv(C, C, 3, padding=1, groups=2), norm(C, G), nn.ReLU())
    model = nn.Sequential(conv(3, C, 3, bias=False), norm(C, G), nn.ReLU(), body)
    model.add_module("fc", nn.Conv2d(C, 5, 1))
    return model


def theirs(name):
    """A network of the source, with values that no default has."""
    model = network(*FORMS[name][:2])
    with torch.no_grad():
        for key, value in {**dict(model.named_parameters())}.items():
            if value.dim() == 4 and "gain" not in key:
                # Filters of all sizes, around another mean each.
                size = 10 ** torch.empty(len(value)).uniform_(-3, 0)
                value.copy_(like(size, value) * (torch.randn(value.shape) + 0.5))
            else:
                value.normal_(1, 0.3)
        for key, value in model.named_buffers():
            if key.endswith(("mean", "shift")):
                value.normal_()
            elif key.endswith("var"):
                value.uniform_(0.5, 2)
    return model


def ours(name):
    return network(*FORMS[name][2:])


def assert_untouched(model, before):
    now = model.state_dict()
    assert now.keys() == before.keys()
    for key, value in before.items():
        assert torch.equal(now[key], value), key


# Laws


def test_every_source_is_tested():
    assert FORMS.keys() == SOURCES.keys()


@every_source
def test_in_evaluation_the_loaded_model_gives_what_the_source_does(name):
    source, model = theirs(name).eval(), ours(name).eval()
    load_checkpoint(model, source.state_dict(), name)
    x = torch.randn(2, 3, 8, 8)
    y = source(x)
    assert_close(model(x), y, rtol=1e-5, atol=1e-5 * y.abs().max().item())


@every_source
def test_a_training_step_is_that_of_the_source(name):
    source, model = theirs(name), ours(name)
    load_checkpoint(model, source.state_dict(), name)
    x = torch.randn(2, 3, 8, 8)
    a, b = leaf(x), leaf(x)
    y, z = model(a), source(b)
    scale = z.abs().max().item()
    assert_close(y, z, rtol=1e-4, atol=1e-4 * scale)
    (y / scale).square().sum().backward()
    (z / scale).square().sum().backward()
    assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-3 * b.grad.abs().max().item())
    # And the statistics have made the same step.
    for key, value in model.named_buffers():
        if "exp" in key:
            wanted = dict(source.named_buffers())[translated(key, name)]
            assert_close(value, wanted, rtol=1e-4, atol=1e-4)


def translated(key, name):
    """The name that a running statistic has in the source."""
    if name == "labml":
        return key
    key = key.replace("exp_mean", "running_mean").replace("exp_var", "running_var")
    return key.replace("batch_norm.", SOURCES[name].batch_norm)


@every_source
def test_no_load_warns(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_checkpoint(ours(name), theirs(name).state_dict(), name)


@every_source
def test_the_same_tensors_hold_the_weights_afterwards(name):
    model = ours(name)
    before = {key: value.data_ptr() for key, value in model.state_dict().items()}
    load_checkpoint(model, theirs(name).state_dict(), name)
    after = model.state_dict()
    assert {key: after[key].data_ptr() for key in before} == before
    assert all(p.requires_grad for p in model.parameters())


@every_source
def test_a_loaded_model_saves_and_loads_its_gain_and_offset(name):
    model, other = ours(name).eval(), ours(name).eval()
    load_checkpoint(model, theirs(name).state_dict(), name)
    load_checkpoint(other, theirs(name).state_dict(), name)
    other.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(model(x), other(x))


def test_another_gamma_is_a_row_of_ones_own():
    source = randomize_gain(network(ScaledForReLU, torchs_norm)).eval()
    model = network(WSConv2d, our_batch_norm).eval()
    row = SOURCES["timm_scaled_std_conv"]._replace(gamma=ScaledForReLU.gamma)
    load_checkpoint(model, source.state_dict(), row)
    x = torch.randn(2, 3, 8, 8)
    assert_close(model(x), source(x), rtol=1e-5, atol=1e-5)


def randomize_gain(model):
    with torch.no_grad():
        for key, value in model.named_parameters():
            if key.endswith("gain"):
                value.uniform_(0.5, 2)
    return model


@pytest.mark.parametrize(
    ("ndim", "kind"), [(1, WSConv1d), (2, WSConv2d), (3, WSConv3d)]
)
def test_convolutions_of_every_rank_get_their_gain(ndim, kind):
    model = kind(3, C, 3)
    weight = torch.randn(C, 3, *[3] * ndim) + 0.5
    checkpoint = {
        "weight": weight,
        "bias": torch.randn(C),
        "weight_gamma": torch.rand(C, *[1] * (ndim + 1)),
        "weight_beta": torch.rand(C, *[1] * (ndim + 1)),
    }
    load_checkpoint(model, checkpoint, "mmcv_conv_aws")
    deviation = like((filters(weight).var(1) + 1e-5).sqrt(), weight)
    standard = (weight - like(filters(weight).mean(1), weight)) / deviation
    expected = checkpoint["weight_gamma"] * standard + checkpoint["weight_beta"]
    assert_close(model.standardized_weight(), expected, rtol=1e-5, atol=1e-6)
    assert {"gain", "offset"} <= model.state_dict().keys()


# Batch norms


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm])
def test_pytorchs_batch_norm_loads_into_every_batch_norm(kind):
    source = randomize_norm(kind(C))
    for model in (
        BatchNorm(C),
        EstimatedBatchNorm(C),
        BatchChannelNorm(C, G),
        BatchChannelNorm(C, G, estimate=False),
    ):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(7)
        load_checkpoint(model, source.state_dict(), "batch_norm")
        norm = getattr(model, "batch_norm", model)
        assert torch.equal(norm.scale, source.weight)
        assert torch.equal(norm.shift, source.bias)
        assert torch.equal(norm.exp_mean, source.running_mean)
        assert torch.equal(norm.exp_var, source.running_var)
        if model is not norm:
            assert (model.channel_norm.scale == 7).all()


def randomize_norm(norm):
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor.uniform_(0.5, 2)
    return norm


def test_norms_without_parameters_or_statistics_load_what_there_is():
    source = nn.BatchNorm1d(C, affine=False)
    source.running_mean.normal_()
    model = BatchNorm(C, affine=False)
    load_checkpoint(model, source.state_dict(), "batch_norm")
    assert torch.equal(model.exp_mean, source.running_mean)
    source = randomize_norm_weights(nn.BatchNorm1d(C, track_running_stats=False))
    model = BatchNorm(C, track_running_stats=False)
    load_checkpoint(model, source.state_dict(), "batch_norm")
    assert torch.equal(model.scale, source.weight)


def randomize_norm_weights(norm):
    with torch.no_grad():
        norm.weight.normal_()
    return norm


def test_pytorchs_norms_in_the_model_load_as_they_are():
    source = nn.Sequential(randomize_norm(nn.BatchNorm2d(C)), nn.GroupNorm(G, C))
    source[0].num_batches_tracked.fill_(7)
    model = nn.Sequential(nn.BatchNorm2d(C), nn.GroupNorm(G, C))
    load_checkpoint(model, source.state_dict(), "batch_norm")
    assert_untouched(model, source.state_dict())
    old = source.state_dict()
    del old["0.num_batches_tracked"]
    load_checkpoint(model, old, "batch_norm")
    assert model[0].num_batches_tracked == 7


def test_the_plain_form_of_the_authors_norm_loads():
    source = AuthorsNorm(C, G, "bn", nn.BatchNorm2d)
    randomize_norm(source.bn)
    with torch.no_grad():
        source.weight.normal_()
        source.bias.normal_()
    model = BatchChannelNorm(C, G, estimate=False)
    load_checkpoint(model, source.state_dict(), "authors")
    x = torch.randn(2, C, 4, 4)
    assert_close(model.eval()(x), source.eval()(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["authors", "authors_imagenet"])
def test_one_group_loads(name):
    form = readme_norm if name == "authors" else imagenet_norm
    source, model = form(C, 1), BatchChannelNorm(C, 1)
    with torch.no_grad():
        source.weight.fill_(3)
    load_checkpoint(model, source.state_dict(), name)
    assert torch.equal(model.channel_norm.scale, torch.tensor([3.0]))


def test_a_partly_translated_checkpoint_loads():
    model = network(nn.Conv2d, our_bcn)
    source = randomize_all(network(nn.Conv2d, torchs_norm)).state_dict()
    load_checkpoint(model, source, "batch_norm")
    again = network(nn.Conv2d, our_bcn)
    load_checkpoint(again, model.state_dict(), "batch_norm")
    assert_untouched(again, model.state_dict())


def randomize_all(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


# Settings


def settings(model):
    return model[0].eps, model[0].correction


@every_source
def test_convolutions_are_set_to_what_the_source_computes(name):
    model = ours(name)
    notes = load_checkpoint(model, theirs(name).state_dict(), name)
    if FORMS[name][2] is not WSConv2d:
        assert notes == {}
        return
    row = SOURCES[name]
    for conv in (model[0], model[3][0]):
        assert (conv.eps, conv.correction) == (row.eps, row.correction)
    assert ("0" in notes) == (row != Source(eps=1e-5))
    for key in ("0", "3.0"):
        assert ("gain=" in notes[key]) == (model[0].gain is not None)
        assert ("offset=" in notes[key]) == (model[0].offset is not None)


def test_the_authors_epsilon_goes_to_the_batch_norm_alone():
    model = BatchChannelNorm(C, G, eps=1e-3, momentum=0.05)
    source = AuthorsNorm(C, G, "bn", EstBN, eps=1e-3)
    notes = load_checkpoint(model, source.state_dict(), "authors")
    assert (model.batch_norm.eps, model.channel_norm.eps) == (1e-5, 1e-3)
    assert notes == {"batch_norm": "eps=1e-05"}
    x = torch.randn(2, C, 4, 4)
    assert_close(model.eval()(x), source.eval()(x), rtol=1e-5, atol=1e-5)


def test_what_the_model_decides_is_told():
    notes = load_checkpoint(
        BatchChannelNorm(C, G, momentum=0.01), readme_norm(C, G).state_dict(), "authors"
    )
    assert notes == {"": "momentum=0.01; the source has 0.05"}
    notes = load_checkpoint(
        BatchChannelNorm(C, G), imagenet_norm(C, G).state_dict(), "authors_imagenet"
    )
    assert notes == {"": "estimate=True; the source has False"}
    notes = load_checkpoint(
        nn.Sequential(nn.Conv2d(3, C, 3)),
        {"0.weight": torch.ones(C, 3, 3, 3), "0.bias": torch.ones(C)},
        "bit",
    )
    assert notes == {
        "0": "does not standardize its weight; the source's convolutions do"
    }


def test_what_a_conversion_has_kept_gives_way_to_what_the_source_computes():
    model = ours("timm_std_conv")
    load_checkpoint(model, theirs("mmcv_conv_aws").state_dict(), "mmcv_conv_aws")
    assert model[0].gain is not None
    source = theirs("timm_std_conv").eval()
    load_checkpoint(model, source.state_dict(), "timm_std_conv")
    assert model[0].gain is None
    assert model[0].offset is None
    x = torch.randn(2, 3, 8, 8)
    y = source(x)
    assert_close(model.eval()(x), y, rtol=1e-5, atol=1e-5 * y.abs().max().item())


# Wrapping


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_a_checkpoint_may_be_wrapped(key, prefix):
    weights = {
        prefix + name: value for name, value in theirs("authors").state_dict().items()
    }
    model, plain = ours("authors"), ours("authors")
    file = io.BytesIO()
    torch.save({"epoch": 3, key: weights}, file)
    file.seek(0)
    load_checkpoint(model, torch.load(file, weights_only=True), "authors")
    load_checkpoint(plain, weights, "authors")
    assert_untouched(model, plain.state_dict())


def test_a_module_called_module_keeps_its_name():
    model = nn.ModuleDict({"module": BatchNorm(C)})
    source = nn.ModuleDict({"module": randomize_norm(nn.BatchNorm1d(C))})
    load_checkpoint(model, source.state_dict(), "batch_norm")
    assert torch.equal(model["module"].exp_mean, source["module"].running_mean)


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile])
def test_a_model_may_be_wrapped(wrap):
    model = ours("authors")
    load_checkpoint(wrap(model), theirs("authors").state_dict(), "authors")
    wrapped = wrap(theirs("authors")).state_dict()
    load_checkpoint(wrap(model), wrapped, "authors")


def test_half_precision_and_shared_modules_load():
    conv = WSConv2d(C, C, 3)
    model = nn.Sequential(conv, conv).half()
    source = EpsilonOnDeviation(C, C, 3)
    weights = nn.Sequential(source, source).state_dict()
    load_checkpoint(model, weights, "mmcv_conv_ws")
    assert model[0].gain.dtype == torch.float16
    assert torch.equal(model[1].weight, source.weight.half())


# What is kept


def test_a_head_for_other_classes_is_kept():
    model = ours("authors")
    model.fc = nn.Conv2d(C, 7, 1)
    head = state(model.fc)
    source = theirs("authors")
    load_checkpoint(model, source.state_dict(), "authors", keep=["fc"])
    assert_untouched(model.fc, head)
    assert torch.equal(model[0].weight, source[0].weight)
    weights = source.state_dict()
    del weights["fc.weight"], weights["fc.bias"]
    load_checkpoint(model, weights, "authors", keep=["fc"])


def test_a_kept_module_keeps_its_settings():
    model = ours("bit")
    load_checkpoint(model, theirs("bit").state_dict(), "bit", keep=("3",))
    assert (model[0].eps, model[3][0].eps) == (1e-10, 1e-5)


def test_what_is_kept_is_named_by_a_module():
    model = ours("bit")
    with pytest.raises(ValueError, match=r"keep must name modules.*'head'"):
        load_checkpoint(model, theirs("bit").state_dict(), "bit", keep=["head"])
    with pytest.raises(TypeError, match=r"pass \['fc'\]"):
        load_checkpoint(model, theirs("bit").state_dict(), "bit", keep="fc")


# Errors


def refused(model, checkpoint, source, kind=ValueError, keep=()):
    """The text of the error, after which the model is as it was."""
    before = copy.deepcopy(model)
    with pytest.raises(kind) as error:
        load_checkpoint(model, checkpoint, source, keep=keep)
    assert_untouched(model, before.state_dict())
    for a, b in zip(model.modules(), before.modules(), strict=True):
        assert getattr(a, "eps", None) == getattr(b, "eps", None)
        assert getattr(a, "correction", None) == getattr(b, "correction", None)
    return str(error.value)


@every_source
def test_a_wrong_shape_names_the_keys_and_the_shapes(name):
    checkpoint = theirs(name).state_dict()
    checkpoint["fc.weight"] = torch.randn(9, C, 1, 1)
    text = refused(ours(name), checkpoint, name)
    assert "'fc.weight' has the shape [9, 12, 1, 1]" in text
    assert "[5, 12, 1, 1]" in text
    assert "keep=[...]" in text


@pytest.mark.parametrize("name", ["authors", "authors_imagenet"])
def test_other_groups_name_the_keys_and_the_shapes(name):
    model = network(WSConv2d, lambda channels, groups: BatchChannelNorm(channels, 6))
    text = refused(model, theirs(name).state_dict(), name)
    assert "'1.weight' has the shape [1, 3, 1]" in text
    assert "'1.channel_norm.scale' of the model [6]" in text


@every_source
def test_a_missing_key_is_named_with_its_place(name):
    checkpoint = theirs(name).state_dict()
    key = next(key for key in checkpoint if key.endswith(("running_var", "exp_var")))
    del checkpoint[key]
    text = refused(ours(name), checkpoint, name)
    assert f"'{key}' is missing, for '1." in text
    assert "exp_var" in text


@every_source
def test_a_key_without_a_place_is_named(name):
    checkpoint = theirs(name).state_dict()
    checkpoint["head.num_batches_tracked"] = torch.tensor(1)
    text = refused(ours(name), checkpoint, name)
    assert "'head.num_batches_tracked' has no place" in text


def test_a_gain_of_another_shape_or_none_is_named():
    checkpoint = theirs("mmcv_conv_aws").state_dict()
    del checkpoint["0.weight_gamma"]
    checkpoint["3.0.weight_beta"] = torch.ones(7, 1, 1, 1)
    text = refused(ours("mmcv_conv_aws"), checkpoint, "mmcv_conv_aws")
    assert "'0.weight_gamma' is missing" in text
    assert "'3.0.weight_beta' has the shape [7, 1, 1, 1]" in text


def test_the_source_that_would_fit_is_named():
    text = refused(ours("authors"), theirs("authors").state_dict(), "authors_imagenet")
    assert text.endswith("its keys are those of 'authors'. The model is as it was.")


def test_many_problems_are_counted():
    text = refused(ours("authors"), {"x": torch.ones(1)}, "authors")
    assert "more\n" in text
    assert len(text.splitlines()) < 15


def test_weights_without_standardization_are_sent_to_convert():
    text = refused(
        network(WSConv2d, our_bcn), theirs("batch_norm").state_dict(), "batch_norm"
    )
    assert "labml_bcn.convert(model, pretrained=True)" in text
    assert "'0'" in text


def test_standardized_weights_behind_pytorchs_norms_have_a_row_of_their_own():
    model = network(WSConv2d, our_bcn)
    row = SOURCES["batch_norm"]._replace(eps=1e-5)
    source = network(WSConv2d, torchs_norm)
    load_checkpoint(model, source.state_dict(), row)
    assert torch.equal(model[0].weight, source[0].weight)


@pytest.mark.parametrize("source", ["timm", "", "bn"])
def test_an_unknown_source_lists_those_that_are_known(source):
    text = refused(ours("bit"), theirs("bit").state_dict(), source)
    assert all(name in text for name in SOURCES)


@pytest.mark.parametrize("source", [None, 3, ["bit"]])
def test_a_source_of_another_kind_is_refused(source):
    refused(ours("bit"), theirs("bit").state_dict(), source, TypeError)


@pytest.mark.parametrize(
    "checkpoint",
    [
        [1],
        "file.pt",
        ours("bit"),
        {"0.weight": [1.0]},
        {"epoch": 3, "weights": {}},
        {"0.weight": torch.empty(1, device="meta")},
    ],
    ids=str,
)
def test_what_is_no_dictionary_of_tensors_is_refused(checkpoint):
    text = refused(ours("bit"), checkpoint, "bit", TypeError)
    assert "state_dict must" in text


@pytest.mark.parametrize("name", ["bit", "mmcv_conv_ws"])
def test_a_parametrized_weight_is_loaded_or_refused(name):
    source = nn.utils.parametrizations.weight_norm(FORMS[name][0](3, C, 3))
    model = nn.utils.parametrizations.weight_norm(WSConv2d(3, C, 3))
    if name == "mmcv_conv_ws":
        assert "take the parametrization away" in refused(
            model, source.state_dict(), name
        )
    else:
        load_checkpoint(model, source.state_dict(), name)
        assert_close(model.weight, source.weight)


def test_a_model_without_memory_is_refused():
    with pytest.raises(ValueError, match="to_empty"):
        load_checkpoint(
            BatchNorm(3, device="meta"), nn.BatchNorm1d(3).state_dict(), "batch_norm"
        )


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match=r"nn\.Module"):
        load_checkpoint({}, BatchNorm(3), "batch_norm")
