"""Nets of timm and torchvision with random weights that make a comparison mean something, for check_architectures.py.

Weights as they are initialised would hide faults: layer scales of a millionth switch whole branches off, batch norms with the
statistics 0 and 1 do nothing, biases and last layers of zeros answer the same to every image.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# What is traced is a square input of so many pixels a side: small, and of the net's own size where it takes no other.
_BY_SIDE = {
    64: """
        timm: test_byobnet test_convnext test_convnext2 test_efficientnet test_efficientnet_gn test_efficientnet_evos test_nfnet
        test_mambaout test_resnet resnet10t seresnet18 skresnet18 resnest14d resnetv2_18 efficientvit_b0 dla46x_c
        tf_mobilenetv3_small_minimal_100 lcnet_035 mobilenetv2_035 tf_efficientnet_lite0 tf_mixnet_s mobilenetv4_conv_small_035
        starnet_s050 edgenext_xx_small mobilevit_xxs mobilevitv2_050 mobileone_s0 repvgg_a0 ese_vovnet19b_slim_dw ghostnet_050
        ghostnetv3_050 regnetx_002 regnety_002 regnetz_005 cspnext_tiny cs3darknet_focus_s iformer_t pvt_v2_b0 fasternet_t0
        fastvit_t8 inception_next_atto rexnet_100 repvit_m0_9 hgnetv2_b0 shvit_s1 efficientvim_m1 cpubone_nano poolformerv2_s12
        hrnet_w18_small dpn48b nf_regnet_b0
        torchvision: alexnet squeezenet1_1 shufflenet_v2_x0_5 mobilenet_v2 mobilenet_v3_small mnasnet0_5 googlenet resnet18
        densenet121 efficientnet_b0 swin_t lraspp_mobilenet_v3_large deeplabv3_mobilenet_v3_large
    """,
    96: "torchvision: inception_v3",
    128: "timm: csatv2",
    160: "timm: test_vit test_vit_relpos test_coatnet test_maxvit",
    224: """
        timm: vit_tiny_patch16_224 xcit_nano_12_p16_224 levit_128s efficientformerv2_s0 efficientvit_m0 swiftformer_xs
        pit_ti_224 coat_lite_tiny convit_tiny gmlp_ti16_224 visformer_tiny
    """,
    240: "timm: crossvit_tiny_240",
    256: "timm: botnet26t_256 lambda_resnet26t halonet26t",
}


def _sides() -> dict[str, int]:
    sides = {}
    for side, text in _BY_SIDE.items():
        package = ""
        for word in text.split():
            if word.endswith(":"):
                package = word[:-1]
            else:
                sides[f"{package}/{word}"] = side
    return sides


NETS = _sides()  # timm/NAME or torchvision/NAME, and the side
# Layers whose plane is flattened before them: a low rank of their matrix is none along the channels.
DENSE_LAYERS: dict[str, tuple[str, ...]] = {"torchvision/alexnet": ("classifier.*",)}
_KEPT: list[torch.library.Library] = []  # operators are gone with the object that declared them


def build(name: str) -> nn.Module:
    """Return ``timm/NAME`` or ``torchvision/NAME`` in evaluation mode; segmentation nets answer with a dict."""
    import_packages()
    package, _, model = name.partition("/")
    if package == "timm":
        net: nn.Module = importlib.import_module("timm").create_model(model)
    else:
        # Weights are None by default, but segmentation nets would fetch those of their backbone.
        models = importlib.import_module("torchvision.models")
        segmentation = model in models.list_models(models.segmentation)
        net = models.get_model(model, **({"weights_backbone": None} if segmentation else {}))
    return net.eval()


def import_packages() -> None:
    """Import torchvision and timm; beside a torch without torchvision's operators, declare those that its import asks for.

    Nothing here calls them: they belong to detection.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for module in [module for module in sys.modules if module.partition(".")[0] == "torchvision"]:
            del sys.modules[module]
        _KEPT.append(torch.library.Library("torchvision", "DEF"))
        for operator in ("nms", "qnms"):
            _KEPT[-1].define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        importlib.import_module("torchvision")
    importlib.import_module("timm")


def images(n: int, height: int, width: int, seed: int) -> Tensor:
    """Return ``n`` images (n, 3, height, width) of unlike colours: blobs and noise, so that means over the plane differ."""
    generator = torch.Generator().manual_seed(seed)
    blobs = torch.randn(n, 3, 3, 3, generator=generator)
    noise = torch.randn(n, 3, height, width, generator=generator)
    return functional.interpolate(blobs, (height, width), mode="bilinear") + 0.3 * noise


@torch.no_grad()
def enliven(net: nn.Module, side: int) -> None:
    """Give every layer an effect, and weights that a dictionary of half the channels represents exactly.

    Matrices get a quarter of their rank, so that lookups of half a dictionary are exact too. Scales and biases are random;
    batch norms have nearly the statistics of the data, so that signals neither vanish nor explode, but not quite.
    """
    norms = [module for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for module in net.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if name.endswith("weight") and parameter.ndim in (2, 4) and parameter.shape[1] > 1:
                parameter.copy_(_low_rank(parameter, module))
            elif module in norms or (name == "weight" and parameter.ndim == 1):
                parameter.copy_(torch.empty_like(parameter).uniform_(0.5, 1.5) if name == "weight" else _noise(parameter, 0.2))
            elif name.endswith("bias"):
                parameter.add_(_noise(parameter, 0.1))
            elif parameter.abs().max() < 1e-2:  # layer scales, gains of skipped branches, positions
                parameter.copy_(torch.empty_like(parameter).uniform_(0.2, 0.6))
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0  # statistics of one batch
    net(images(8, side, side, seed=1))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval()
        norm.momentum = momentum
        if norm.running_mean is not None and norm.running_var is not None:
            deviation = norm.running_var.sqrt()
            norm.running_mean.add_(0.2 * deviation * torch.randn_like(deviation))
            norm.running_var.mul_(torch.empty_like(deviation).uniform_(0.7, 1.5)).add_(1e-3)


def _low_rank(weight: Tensor, module: nn.Module) -> Tensor:
    """Return a random weight of no smaller deviation whose vectors along the input channels span a quarter of them."""
    outputs, channels = weight.shape[0] // getattr(module, "groups", 1), weight.shape[1]
    taps = weight[0, 0].numel()
    rank = max(1, min(channels, outputs * taps) // 4)
    if channels < 8:
        rank = channels  # too few for a dictionary: stays dense
    basis = torch.randn(rank, channels, dtype=torch.float64)
    if "Std" in type(module).__name__ and channels > rank:
        basis -= basis.mean(dim=1, keepdim=True)  # a weight that is standardised in every call keeps its rank if its mean is 0
    rows = torch.randn(weight.shape[0] * taps, rank, dtype=torch.float64) @ basis
    rows *= max(float(weight.std().nan_to_num()), (channels * taps) ** -0.5) / rank**0.5  # so that signals do not fade
    return rows.reshape(weight.shape[0], *weight.shape[2:], channels).movedim(-1, 1).to(weight.dtype)


def _noise(like: Tensor, deviation: float) -> Tensor:
    return deviation * torch.randn_like(like)


def leaves(output: Any) -> list[Tensor]:
    """Return the tensors of what a net answers, in order: of tuples, lists and dicts."""
    return [leaf for leaf in torch.utils._pytree.tree_leaves(output) if isinstance(leaf, Tensor)]
