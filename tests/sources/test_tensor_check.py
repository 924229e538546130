"""Tensors that are more, or less, than an array of finite numbers are refused by what they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from model_files import ARCH, small_net
from torch import Tensor, nn

from lcnn_compress import api
from lcnn_compress.errors import ModelError
from lcnn_compress.sources.load_model import load_model
from lcnn_compress.sources.tensor_check import check_finite, check_tensors

ODD = [
    (torch.eye(3).to_sparse(), "is a sparse tensor (torch.sparse_coo); save it as an ordinary one, with to_dense()"),
    (torch.eye(4).to_sparse_csr(), "is a sparse tensor (torch.sparse_csr)"),
    (torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]), "is a nested tensor; save ordinary tensors"),
    (torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8), "is quantised (torch.qint8); give the net from before"),
    (torch.zeros(3, device="meta"), "has no values yet; run the net once or load its weights before saving it"),
    (torch.zeros(1).expand(10**6, 10**6), "is of shape (1000000, 1000000) but stored in 4 bytes; the file was changed"),
]


@pytest.mark.parametrize(("tensor", "message"), ODD)
@pytest.mark.filterwarnings("ignore:Sparse CSR:UserWarning", "ignore:The PyTorch API of nested:UserWarning")
def test_odd_tensors_of_a_file_are_named(tensor: Tensor, message: str, tmp_path: Path) -> None:
    net = small_net()
    net.register_buffer("odd", tensor)
    torch.save(net, tmp_path / "net.pt")
    torch.save({**small_net().state_dict(), "0.bias": tensor}, tmp_path / "w.pt")
    for file, arch, name in (("net.pt", None, "odd"), ("w.pt", ARCH, "0.bias")):
        with pytest.raises(ModelError) as caught:
            load_model(str(tmp_path / file), arch=arch)
        assert f"{file}: {name} {message}" in str(caught.value)


def test_expanded_tensors_of_nets_are_fine() -> None:
    check_tensors({"mask": torch.zeros(1).expand(1000, 1000), "empty": torch.zeros(0)}, "net")


def test_tensors_that_a_file_cannot_hold_are_refused() -> None:
    check_tensors({"w": torch.zeros(1000)}, "net", file_bytes=4)  # zeros can be packed
    with pytest.raises(ModelError, match=r"net: w is of shape \(1001,\) but stored in 4 bytes; the file was changed"):
        check_tensors({"w": torch.zeros(1001)}, "net", file_bytes=4)


def test_only_parameters_must_be_finite_and_nothing_may_be_nan() -> None:
    infinite = torch.tensor([1.0, float("inf"), float("-inf")])
    check_finite({"best_loss": infinite, "steps": torch.tensor(3), "small": torch.ones(2).to(torch.float8_e4m3fn)}, "net")
    with pytest.raises(ModelError, match=r"net: w holds 2 values of 3 that are NaN or infinite; retrain it"):
        check_finite({"w": nn.Parameter(infinite)}, "net")
    with pytest.raises(ModelError, match=r"net: running_var holds 1 values of 2 that are NaN; set them before saving the net"):
        check_finite({"running_var": torch.tensor([1.0, float("nan")])}, "net")
    with pytest.raises(ModelError, match=r"net: tiny holds 1 values of 1 that are NaN"):
        check_finite({"tiny": torch.tensor([float("nan")]).to(torch.float8_e4m3fn)}, "net")


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_buffer_that_no_output_needs_may_hold_anything(value: float, tmp_path: Path) -> None:
    net = small_net()
    net.register_buffer("best_loss", torch.tensor(value))
    torch.save(net, tmp_path / "net.pt")
    assert load_model(str(tmp_path / "net.pt")).kind == "module"
    assert "best_loss" not in api.open_model(str(tmp_path / "net.pt"), (1, 3, 8, 8)).net.state_dict()
