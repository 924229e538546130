"""The operators of torch that a net may call: those that only compute, always the same from the same numbers.

Nets come from files, so what is not listed here is never run: ``aten.from_file`` overwrites any file, others draw random
numbers, reinterpret memory or look at the machine.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

# What computes with sizes, under the names that files give it.
_SIZES: dict[str, Callable[..., Any]] = {
    **{
        f"operator.{name}": getattr(operator, name)
        for name in (
            "add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "pos", "abs", "pow", "getitem", "eq", "ne", "lt", "le",
            "gt", "ge", "and_", "or_", "not_",
        )
    },
    **{f"math.{name}": getattr(math, name) for name in ("ceil", "floor", "trunc", "sqrt")},
    **{f"torch.{name}": getattr(torch, name) for name in ("sym_max", "sym_min", "sym_float", "sym_int", "sym_not", "sym_ite")},
    "builtins.round": round, "builtins.max": max, "builtins.min": min,
}  # fmt: skip
_NAMES_OF_SIZES = {function: name for name, function in _SIZES.items()}

# Beside the core operators of ATen and those that go pixel by pixel, which torch marks: what torch.export keeps whole.
_LISTED = frozenset(
    """
    conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution linear bilinear addmm addbmm baddbmm bmm
    mm mv dot outer matmul einsum tensordot inner kron chain_matmul linalg_vector_norm linalg_norm norm cosine_similarity vdot
    cdist pairwise_distance scaled_dot_product_attention
    batch_norm layer_norm group_norm instance_norm rms_norm local_response_norm native_layer_norm native_group_norm
    _native_batch_norm_legit _native_batch_norm_legit_no_training _batch_norm_impl_index _weight_norm _weight_norm_interface
    dropout feature_dropout alpha_dropout feature_alpha_dropout rrelu lstm gru rnn_tanh rnn_relu
    relu relu6 hardswish hardsigmoid hardtanh silu mish gelu selu celu elu prelu glu softplus softsign softshrink hardshrink
    tanhshrink logsigmoid log_sigmoid threshold leaky_relu sigmoid tanh softmax log_softmax softmin logit _softmax _log_softmax
    max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d lp_pool1d lp_pool2d max_pool1d_with_indices
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
    max_unpool2d upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d
    upsample_linear1d upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa
    grid_sampler grid_sampler_2d grid_sampler_3d affine_grid_generator pixel_shuffle pixel_unshuffle channel_shuffle
    native_channel_shuffle pad constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d
    replication_pad2d replication_pad3d _pad_circular im2col col2im unfold fold
    flatten unflatten reshape reshape_as view view_as _unsafe_view _reshape_alias expand expand_as broadcast_to transpose t mT
    numpy_T matrix_H adjoint swapaxes swapdims movedim moveaxis permute squeeze unsqueeze chunk split split_with_sizes
    unsafe_chunk unsafe_split unsafe_split_with_sizes tensor_split hsplit vsplit unbind stack cat concat concatenate hstack
    vstack dstack column_stack atleast_1d atleast_2d atleast_3d narrow narrow_copy slice select diagonal diag diag_embed roll
    rot90 flip fliplr flipud repeat repeat_interleave tile ravel view_copy slice_copy select_copy expand_copy permute_copy
    std var std_mean var_mean mean nanmean sum nansum prod logsumexp amax amin aminmax max min argmax argmin argsort sort topk
    kthvalue median cumsum cumprod cummax cummin logcumsumexp diff trace all any count_nonzero
    one_hot embedding gather scatter scatter_add scatter_reduce index index_select index_put index_add index_fill index_copy
    take take_along_dim masked_fill masked_scatter where tril triu tril_indices triu_indices eye meshgrid cartesian_prod
    bucketize searchsorted isin
    arange linspace logspace zeros ones full scalar_tensor zeros_like ones_like full_like new_zeros new_ones new_full empty
    empty_like new_empty empty_permuted fill zero copy lift_fresh lift_fresh_copy lift
    contiguous to _to_copy type_as clone detach alias real imag view_as_real view_as_complex complex polar conj
    _conj resolve_conj resolve_neg
    fft_fft fft_ifft fft_fft2 fft_ifft2 fft_fftn fft_ifftn fft_rfft fft_irfft fft_rfft2 fft_irfft2 fft_rfftn fft_irfftn
    fft_fftshift fft_ifftshift fft_fftfreq fft_rfftfreq _fft_c2c _fft_r2c _fft_c2r hann_window hamming_window stft
    square clamp clamp_min clamp_max clip lerp addcmul addcdiv rsub nan_to_num isfinite isposinf isneginf isclose
    true_divide floor_divide divide multiply subtract less less_equal greater greater_equal not_equal float_power
    cross heaviside hypot sinc frac _safe_softmax _prelu_kernel sym_size sym_stride sym_numel sym_storage_offset
    """.split()  # noqa: SIM905
)
_RANDOM = (
    "draws random numbers, so its results are never the same; use what it does in evaluation mode (training=self.training)"
)
# Arguments that turn random numbers on.
_SWITCHES = ("train", "training", "dropout_p")
_NEVER = frozenset({"as_strided", "empty_strided", "_local_scalar_dense", "resize", "set"})


def operator_of(name: str) -> Callable[..., Any]:
    """Return the operator a file names, as in ``aten.relu.default`` or ``operator.add``.

    Raises:
        ValueError: a net may not call it.
    """
    if name in _SIZES:
        return _SIZES[name]
    namespace, *path = name.split(".")
    if namespace != "aten" or len(path) != 2 or not all(part.isidentifier() for part in path):
        raise ValueError(f"operator '{name}' is not one that a net may call: operators of ATen and arithmetic on sizes")
    packet = getattr(torch.ops.aten, path[0], None) if not path[0].startswith("__") else None
    found = getattr(packet, path[1], None) if path[1] in getattr(packet, "overloads", list)() else None
    if not isinstance(found, torch._ops.OpOverload):
        raise ValueError(f"operator '{name}' is not known to torch {torch.__version__}")
    if (reason := _objection(found, path[0])) is not None:
        raise ValueError(f"operator '{name}' {reason}")
    return found


def name_of(function: Any) -> str:
    """Return the name under which files hold an operator.

    Raises:
        ValueError: a net may not call it.
    """
    if isinstance(function, torch._ops.OpOverload):
        name = str(function)
        operator_of(name)
        return name
    known = _NAMES_OF_SIZES.get(function)
    if known is None:
        home, name = getattr(function, "__module__", ""), getattr(function, "__name__", str(function))
        raise ValueError(f"function '{home}.{name}' is not one that a net may call: operators of ATen and arithmetic on sizes")
    return known


def is_random(function: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] = {}) -> bool:
    """Tell whether an operator draws random numbers when it is called with these arguments."""
    if not isinstance(function, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded not in function.tags:
        return False
    named = dict(zip((argument.name for argument in function._schema.arguments), args, strict=False))
    given = {argument.name: argument.default_value for argument in function._schema.arguments} | named | dict(kwargs)
    switches = [given[name] for name in _SWITCHES if name in given]
    return bool(all(switches) and given.get("p", 1))


def check_keywords(function: Callable[..., Any], names: Any) -> None:
    """Raise ValueError for keyword arguments that an operator does not have: their names go into generated source."""
    known = {a.name for a in function._schema.arguments} if isinstance(function, torch._ops.OpOverload) else set()
    if strange := sorted(str(name) for name in names if name not in known):
        raise ValueError(f"operator '{function}' has no argument {strange[0][:60]!r}")


def _objection(found: torch._ops.OpOverload[..., Any], name: str) -> str | None:
    """Return why a net may not call an operator, or None."""
    plain = name if name in _LISTED else name.removesuffix("_")
    listed = plain in _LISTED or torch.Tag.core in found.tags or torch.Tag.pointwise in found.tags
    if is_random(found) and not any(argument.name in _SWITCHES for argument in found._schema.arguments):
        return _RANDOM
    if plain in _NEVER or not (listed or _is_core(plain)):
        return "is not on the list of those that only compute"
    return None


def _is_core(name: str) -> bool:
    """Tell whether another form of an operator, such as the one that does not write in place, is a core operator of ATen."""
    packet = getattr(torch.ops.aten, name, None)
    forms = [getattr(packet, overload) for overload in packet.overloads()] if packet is not None else []
    return any(torch.Tag.core in form.tags or torch.Tag.pointwise in form.tags for form in forms)
