"""The modules of a captured net are those it came from, under their names."""

from __future__ import annotations

import torch
from cases import small_net
from torch import nn
from torch.nn import functional

from lcnn_compress.net.capture import capture
from lcnn_compress.net.layers import layers


class Attention(nn.Module):
    """Weights that are not called "weight", in modules that have modules of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.head = nn.Conv2d(3, 16, 4, 4), nn.Linear(16, 5)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.owner = nn.Sequential(nn.Linear(16, 16))
        self.owner.weight = nn.Parameter(torch.randn(16, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.block(self.patches(x).flatten(2).transpose(1, 2))
        return self.head(self.owner(nn.functional.linear(x, self.owner.weight)).mean(1))


def test_layers_of_attention_are_found_beside_each_other() -> None:
    model = Attention().eval()
    net = capture(model, torch.zeros(1, 3, 16, 16))
    names = [layer.name for layer in layers(net, torch.zeros(1, 3, 16, 16))]
    inside = [f"block.{name}" for name in ("self_attn.in_proj", "self_attn.out_proj", "linear1", "linear2")]
    assert names == ["patches", *inside, "owner.linear", "owner.0", "head"]
    tokens = [len(layer.sizes) for layer in layers(net, torch.zeros(1, 3, 16, 16))]  # attention puts them before the batch
    assert tokens == [1, 16, 16, 16, 16, 16, 16, 1]
    x = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(net(x), model(x), rtol=1e-4, atol=1e-5)


def test_training_mode_uses_batch_statistics_again():
    net = capture(small_net(), torch.zeros(2, 3, 16, 16))
    before = net.get_submodule("bn").running_mean.clone()
    net.train()(torch.randn(4, 3, 16, 16))
    assert not torch.equal(net.get_submodule("bn").running_mean, before)


class Functional(nn.Module):
    """A convolution as a function of tensors under any name, some of them read elsewhere too, as in timm's BlurPool."""

    def __init__(self, weight, gain, repeated=1):
        super().__init__()
        self.names = weight, gain
        self.repeated = repeated
        setattr(self, weight, nn.Parameter(torch.randn(4, 4, 3, 3)))
        if gain:
            setattr(self, gain, nn.Parameter(torch.rand(4)))

    def forward(self, x):
        weight, gain = (getattr(self, name) if name else None for name in self.names)
        for _ in range(self.repeated):
            x = functional.conv2d(x, weight, gain if self.names[1] == "bias" else None, padding=1)
        return x if gain is None else x * gain[:, None, None]


def test_functional_convolutions_keep_what_else_is_read():
    torch.manual_seed(0)
    model = nn.Sequential(
        Functional("filt", ""), Functional("kernel", "gain"), Functional("weight", "gain"), Functional("kernel", "", 2),
        Functional("kernel", "bias"), Functional("weight", "bias"),
    )  # fmt: skip
    x = torch.randn(2, 4, 8, 8)
    net = capture(model, x)
    assert [layer.name for layer in layers(net, x)] == ["0", "1.conv2d", "2.conv2d", "3.conv2d", "4", "5"]
    assert [len(layer.sizes) for layer in layers(net, x)] == [1, 1, 1, 2, 1, 1]
    torch.testing.assert_close(net(x), model(x))


class CrossAttention(nn.Module):
    """Weights of queries, keys and values are parts of one tensor where queries are not what is asked."""

    def __init__(self):
        super().__init__()
        self.patches, self.attention = nn.Conv2d(3, 32, 4, 4), nn.MultiheadAttention(32, 4, batch_first=True)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        return self.attention(tokens[:, :5], tokens, tokens, need_weights=False)[0]


def test_parts_of_one_weight_are_layers_of_their_own():
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    model = CrossAttention()
    net = capture(model, x)
    names = ["patches", "attention.linear", "attention.linear_2", "attention.out_proj"]
    assert [layer.name for layer in layers(net, x)] == names
    torch.testing.assert_close(net(x), model(x))
