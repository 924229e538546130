"""The lookup convolution as a torch module, usable alone.

Bagherinezhad et al., "LCNN: Lookup-based Convolutional Neural Network", CVPR 2017 (arXiv 1611.06473), section 3: all filters
of a layer share a dictionary D of channel vectors; a sparse kernel P says which of them each filter position adds up.
Training and inference use the same two tensors: X * W = (X * D) * P.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lcnn_compress.forms.kinds import LOOKUP, SPARSE, Kind, settled
from lcnn_compress.operators.geometry import ConvGeometry, dense_macs, lookup_macs


class LookupConv2d(nn.Module):
    """A 2-d convolution whose weight is W[o, :, r, c] = sum_j P[o, j, r, c] * D[g(o), j, :].

    Attributes:
        dictionary: (groups * k, C_in / groups), one block of k rows for each group.
        sparse_kernel: (C_out, k, kH, kW), the training form P of indices and coefficients.
        support: (C_out, k, kH, kW) bool, False where an entry of P is pruned for good.
        bias: (C_out).
        kind: decides what a file makes of the layer and what reports call it; if it is not given, the factors decide it.
        filters_per_pattern: how many neighbouring filters have one pattern, for which the runtime is faster; whoever prunes
            sees to it.
        is_identity: whether each block of the dictionary is the identity, so that P is the weight and stage 1 costs nothing;
            such a dictionary is not trained.
    """

    dictionary: nn.Parameter
    sparse_kernel: nn.Parameter
    bias: nn.Parameter
    support: Tensor

    def __init__(
        self,
        dictionary: Tensor,
        sparse_kernel: Tensor,
        bias: Tensor | None,
        geometry: ConvGeometry,
        *,
        kind: Kind | None = None,
        filters_per_pattern: int = 1,
    ) -> None:
        super().__init__()
        out_channels, size, *kernel = sparse_kernel.shape
        if len(dictionary) != size * geometry.groups or tuple(kernel) != geometry.kernel or out_channels % geometry.groups:
            raise ValueError(
                f"dictionary {tuple(dictionary.shape)} and sparse_kernel {tuple(sparse_kernel.shape)} do not fit {geometry}: "
                "they must be (groups * k, C_in / groups) and (C_out, k, kH, kW) with C_out a multiple of groups"
            )
        self.geometry = geometry
        self.in_channels = dictionary.shape[1] * geometry.groups
        self.out_channels = int(out_channels)
        self.dictionary_size = int(size)
        self.filters_per_pattern = filters_per_pattern
        identity = torch.eye(dictionary.shape[1], dtype=dictionary.dtype).repeat(geometry.groups, 1)
        self.is_identity = torch.equal(dictionary.detach(), identity)
        # What makes an identity cheap is that it is exactly one, so training leaves it alone.
        self.dictionary = nn.Parameter(dictionary.detach().clone(), requires_grad=not self.is_identity)
        self.sparse_kernel = nn.Parameter(sparse_kernel.detach().clone())
        self.bias = nn.Parameter(dictionary.new_zeros(out_channels) if bias is None else bias.detach().clone())
        self.register_buffer("support", sparse_kernel.detach() != 0, persistent=False)
        self.kind = self.settled_kind(SPARSE if self.is_identity else LOOKUP) if kind is None else kind

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, k={self.dictionary_size}, nonzeros={self.n_nonzeros}, {self.geometry}"

    def settled_kind(self, planned: Kind) -> Kind:
        """Return the kind of this layer once its coefficients are final; see ``kinds.settled``."""
        return settled(
            planned, nonzeros=self.n_nonzeros, slots=self.support.numel(), dictionary_size=self.dictionary_size,
            channels=self.dictionary.shape[1],
        )  # fmt: skip

    @property
    def n_nonzeros(self) -> int:
        """Number of lookups of all filters together."""
        return int(self.support.sum())

    @property
    def projected_rows(self) -> int:
        """Number of rows of each group that stage 1 computes: k, or 0 where the dictionary is the identity."""
        return 0 if self.is_identity else self.dictionary_size

    def weight(self) -> Tensor:
        """Return the dense weight this layer stands for, (C_out, C_in / groups, kH, kW)."""
        blocks = self.dictionary.unflatten(0, (self.geometry.groups, -1))  # (groups, k, m)
        kernel = self._alive_kernel()
        if self.is_identity:
            return kernel
        kernel = kernel.unflatten(0, (self.geometry.groups, -1))  # (groups, O/g, k, kH, kW)
        return torch.einsum("gokrc,gkm->gomrc", kernel, blocks).flatten(0, 1)

    def _alive_kernel(self) -> Tensor:
        """Return the kernel with zeros outside the support, where it gets no gradient."""
        # A product with booleans would first make as many floats of them.
        return torch.where(self.support, self.sparse_kernel, 0.0)

    @torch.no_grad()
    def normalise_(self) -> None:
        """Give every dictionary row unit length and move its scale into the kernel; the weight stays the same.

        (P / a, a * D) is the same layer at another L1 norm, so a penalty or a threshold on P means something only after this.
        """
        length = self.dictionary.norm(dim=1, keepdim=True)
        length[length == 0] = 1
        self.dictionary.div_(length)
        groups = self.geometry.groups
        self.sparse_kernel.unflatten(0, (groups, -1)).mul_(length.view(groups, 1, -1, 1, 1))

    @torch.no_grad()
    def restrict_(self, support: Tensor) -> None:
        """Prune every entry of the kernel outside ``support`` for good."""
        self.support.copy_(self.support & support)  # not in place, because ``support`` may be another view of self.support
        self.sparse_kernel.mul_(self.support)

    def macs(self, size: tuple[int, int]) -> int:
        """Return the MACs of both stages for one image of (height, width) ``size``."""
        return lookup_macs(self.in_channels, self.projected_rows, self.n_nonzeros, self.geometry, size)

    def dense_macs(self, size: tuple[int, int]) -> int:
        """Return the MACs of the dense convolution this layer replaces."""
        return dense_macs(self.in_channels, self.out_channels, self.geometry, size)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x (N, C_in, H, W) to (N, C_out, H', W')."""
        top, left, bottom, right = self.geometry.padding
        groups, stride, dilation = self.geometry.groups, self.geometry.stride, self.geometry.dilation
        two_stages = self._in_two_stages(x)
        if two_stages:
            skips = self._reads_no_skipped_pixel
            x = functional.conv2d(x, self.dictionary[:, :, None, None], groups=groups, stride=stride if skips else 1)
            stride = (1, 1) if skips else stride
        kernel = self._alive_kernel() if two_stages else self.weight()
        if groups == 1 and x.shape[2:] == self.geometry.kernel and not any(self.geometry.padding):
            # A plane as large as the kernel makes one product of matrices, for which a convolution would reorder the kernel.
            return functional.linear(x.flatten(1), kernel.flatten(1), self.bias)[:, :, None, None]
        # Zero padding commutes with stage 1 because stage 1 has no bias.
        if (top, left) == (bottom, right):
            padding = (top, left)
        else:
            x, padding = functional.pad(x, (left, right, top, bottom)), (0, 0)
        return functional.conv2d(x, kernel, self.bias, stride, padding, dilation, groups)

    @property
    def _reads_no_skipped_pixel(self) -> bool:
        """Whether no tap reads what a stride steps over."""
        return self.geometry.kernel == (1, 1) and not any(self.geometry.padding)

    def _in_two_stages(self, x: Tensor) -> bool:
        """Tell whether X * D and S * P take fewer MACs for a batch than the weight P * D, once, and X * W.

        torch has no sparse kernel here: all entries of P are multiplied.
        """
        if self.is_identity:
            return False
        m, size, entries = self.dictionary.shape[1], self.dictionary_size, self.sparse_kernel[:, 0].numel()
        if torch.compiler.is_compiling():  # sizes have no values there: one pixel stands for all
            return size * (m * self.geometry.groups + entries) < m * entries
        plane = (int(x.shape[2]), int(x.shape[3]))
        height, width = self.geometry.output_size(*plane)
        read = height * width if self._reads_no_skipped_pixel else plane[0] * plane[1]
        projected, looked_up = len(x) * read * self.geometry.groups * size * m, len(x) * height * width * entries
        return projected + size * looked_up < size * m * entries + m * looked_up
