"""A net as JSON: every bit comes back, and nothing that a file says becomes code, a path or more than computing."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import small_net
from nets import exact_lookup, oddities
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lcnn_compress import api
from lcnn_compress.artefact.artefact import load_artefact
from lcnn_compress.artefact.graph_json import from_json, problem_of, to_json
from lcnn_compress.compression.settings import CompressSettings
from lcnn_compress.errors import ArtefactError
from lcnn_compress.net.capture import capture
from lcnn_compress.net.edit import finished, replace_layer
from lcnn_compress.net.layers import Captured, layers
from lcnn_compress.quantisation.in_bfloat16 import in_bfloat16
from lcnn_compress.quantisation.quantise import quantise


def test_json_round_trip_keeps_every_bit():
    x = torch.randn(2, 3, 11, 10, generator=torch.Generator().manual_seed(1))
    net = capture(oddities(), x)
    for layer in layers(net, x):
        if layer.name in ("shared", "tokens"):
            replace_layer(net, layer, exact_lookup(layer))
    values, tensors = to_json(net)
    again = from_json(json.loads(json.dumps(values)), tensors, "here")
    for got, want in zip(again(x), net(x), strict=True):
        assert torch.equal(got, want)
    assert to_json(again)[0] == values


@pytest.mark.parametrize(
    "target", ["operator.methodcaller", "os.system", "builtins.eval", "aten.no_such.default", "aten.relu.x.y"]
)
def test_only_known_functions_can_be_read(target):
    values, tensors = to_json(capture(small_net(), torch.zeros(2, 3, 16, 16)))
    call = next(n for n in values["nodes"] if n["op"] == "call_function")
    call["target"] = target
    with pytest.raises(ArtefactError, match="here"):
        from_json(values, tensors, "here")


def test_missing_or_misshapen_tensors_are_refused():
    values, tensors = to_json(capture(small_net(), torch.zeros(2, 3, 16, 16)))
    with pytest.raises(ArtefactError, match=r"'conv1\.weight' is missing"):
        from_json(values, {k: v for k, v in tensors.items() if k != "conv1.weight"}, "here")
    with pytest.raises(ArtefactError, match=r"conv1\.weight has the shape \(1, 2, 3, 3\), not \(32, 16, 3, 3\)"):
        from_json(values, tensors | {"conv1.weight": torch.zeros(1, 2, 3, 3)}, "here")


Tensors = dict[str, Tensor]


class Net(nn.Module):
    """Has every kind of entry that a graph can have."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.offset = (
            nn.Conv2d(3, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.Parameter(torch.ones(16, 1, 1)),
        )
        self.last = nn.Conv2d(16, 16, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        f = self.norm(self.conv(x).relu()).relu() + self.offset
        f = f + torch.zeros(1, 1, x.shape[2], x.shape[3], device=x.device)
        return {"y": self.last(f), "mask": f > 0}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    artefact = api.compress(Net(), 8, input_shape=(1, 3, 12, 12), settings=CompressSettings(measure=False))
    path = tmp_path_factory.mktemp("hostile") / "net.lcnn"
    api.save(artefact, path)
    return path


def tampered(source: Path, target: Path, change: Callable[[dict[str, Any], Tensors], None]) -> Path:
    """Copy an artefact and change its graph and tensors; hashes are right, as those of an attacker would be."""
    shutil.copytree(source, target)
    description, tensors = json.loads((target / "lcnn.json").read_text()), load_file(target / "model.safetensors")
    change(description["graph"], tensors)
    (target / "lcnn.json").write_text(json.dumps(description))
    save_file(tensors, target / "model.safetensors")
    manifest = json.loads((target / "manifest.json").read_text())
    manifest["sha256"] |= {name: hashlib.sha256((target / name).read_bytes()).hexdigest() for name in manifest["sha256"]}
    (target / "manifest.json").write_text(json.dumps(manifest))
    return target


def texts(value: object, path: tuple[object, ...] = ()) -> Iterator[tuple[object, ...]]:
    """Yield the path to every text in a graph, keys of objects included (a path that ends in a set is that of a key)."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*path, frozenset({key}))
            yield from texts(inner, (*path, key))
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            yield from texts(inner, (*path, at))
    elif isinstance(value, str):
        yield path


def put(value: Any, path: tuple[Any, ...], text: str) -> None:
    *above, last = path
    for step in above:
        value = value[step]
    if isinstance(last, frozenset):
        (key,) = last
        value[text] = value.pop(key)
    else:
        value[last] = text


def test_no_text_of_a_graph_becomes_code(tmp_path: Path) -> None:
    """Every text and every key of a graph is replaced by code, quoted in every way that source could be left."""
    mark = tmp_path / "mark"
    graph, tensors = to_json(capture(Net(), torch.zeros(1, 3, 12, 12)))
    paths = list(texts(graph))
    assert len(paths) > 100
    code = f"open({str(mark)!r}, 'w')"
    ways = (f'x", {code}, "', f"x', {code}, '", f"x={code}", f'x"]); {code} #', f"x\r{code}\r", f"x\\', {code}")
    refused = 0
    for at, path in enumerate(paths):
        way = ways[at % len(ways)]
        changed = copy.deepcopy(graph)
        put(changed, path, way)
        renamed = {key if key != path[-1] else way: value for key, value in tensors.items()}
        try:
            net = from_json(changed, renamed, "here")
            net(torch.zeros(1, 3, 12, 12))
        except (ArtefactError, RuntimeError, TypeError, ValueError):
            refused += 1
        assert not mark.exists(), path
    assert refused > 0.9 * len(paths)  # some texts, such as a layout, mean nothing here


NAMES = ['m", exec("1"), "', "a\nb", "class", "__class__", "a/b", "[/red]"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("what", ["module", "tensor", "output", "keyword", "placeholder", "node"])
def test_names_that_are_not_harmless_are_refused(written: Path, tmp_path: Path, name: str, what: str) -> None:
    def change(graph: dict[str, Any], tensors: Tensors) -> None:
        nodes = graph["nodes"]
        match what:
            case "module":
                graph["modules"][name] = graph["modules"].pop("last")
                tensors.update({f"{name}.{key[5:]}": tensors.pop(key) for key in list(tensors) if key.startswith("last.")})
                next(node for node in nodes if node["target"] == "last")["target"] = name
            case "tensor":
                tensors[name] = tensors.pop("offset")
                next(node for node in nodes if node["target"] == "offset")["target"] = name
            case "output":
                graph["outputs"][0] = name
            case "keyword":
                next(node for node in nodes if "zeros" in node["target"])["kwargs"] = {"dict": {name: None}}
            case "placeholder":
                nodes[0]["target"] = name
            case "node":
                nodes[0]["name"] = name

    if what in ("placeholder", "node") and name == "__class__":
        pytest.skip("an argument of this name is a name like any other")
    path = tampered(written, tmp_path / "evil.lcnn", change)
    with pytest.raises(ArtefactError, match="the artefact is damaged or was edited"):
        load_artefact(path)


@pytest.mark.parametrize("operator", [
    "aten.from_file.default", "aten.set_.source_Tensor", "aten.as_strided.default", "aten.randn_like.default", "os.system",
    "operator.methodcaller", "builtins.eval", "torch.load", "prims.device_put.default",
])  # fmt: skip
def test_operators_that_do_more_than_compute_are_refused(written: Path, tmp_path: Path, operator: str) -> None:
    def change(graph: dict[str, Any], tensors: Tensors) -> None:
        next(node for node in graph["nodes"] if node["op"] == "call_function")["target"] = operator

    path = tampered(written, tmp_path / "evil.lcnn", change)
    with pytest.raises(ArtefactError, match="operator '"):
        load_artefact(path)


def wide(graph: dict[str, Any], tensors: Tensors) -> None:
    next(node for node in graph["nodes"] if "zeros" in node["target"])["args"] = [[1 << 20, 1 << 20]]


def unknown_module(graph: dict[str, Any], tensors: Tensors) -> None:
    next(node for node in graph["nodes"] if node["op"] == "call_module")["target"] = "nothing"


def method_as_tensor(graph: dict[str, Any], tensors: Tensors) -> None:
    tensors["forward"] = tensors.pop("offset")
    next(node for node in graph["nodes"] if node["target"] == "offset")["target"] = "forward"


def two_inputs(graph: dict[str, Any], tensors: Tensors) -> None:
    graph["nodes"].insert(1, {"op": "placeholder", "name": "y", "target": "y", "args": []})


def other_channels(graph: dict[str, Any], tensors: Tensors) -> None:
    graph["modules"]["norm"] = {**graph["modules"]["conv"], "in_channels": 5}


def huge_module(graph: dict[str, Any], tensors: Tensors) -> None:
    graph["modules"]["last"] = {"type": "Linear", "in_features": 1 << 40, "out_features": 1 << 20, "bias": False}


def deep(graph: dict[str, Any], tensors: Tensors) -> None:
    value: list[Any] = []
    for _ in range(800):
        value = [value]
    graph["nodes"][1]["args"] = value


def absurd_stride(graph: dict[str, Any], tensors: Tensors) -> None:
    graph["modules"]["last"] = {**graph["modules"]["conv"], "stride": [1 << 20, 1 << 20]}


def absurd_pool(graph: dict[str, Any], tensors: Tensors) -> None:
    node = next(node for node in graph["nodes"] if "relu" in node["target"])
    node["target"], node["args"] = "aten.max_pool2d.default", [*node["args"], [1 << 20, True], [1, 1], [1 << 19, 0]]


def no_axes(graph: dict[str, Any], tensors: Tensors) -> None:
    graph["open_axes"] = [0, "height"]


@pytest.mark.parametrize("change", [
    wide, unknown_module, absurd_stride, absurd_pool, method_as_tensor, two_inputs, other_channels, huge_module, deep, no_axes,
])  # fmt: skip
def test_graphs_that_do_not_run_or_are_absurd_are_refused(
    written: Path, tmp_path: Path, change: Callable[[dict[str, Any], Tensors], None]
) -> None:
    path = tampered(written, tmp_path / "evil.lcnn", change)
    with pytest.raises(ArtefactError, match=r"evil\.lcnn.* is damaged( or was edited)?, make (it|the artefact) again"):
        load_artefact(path)


def test_an_artefact_that_nobody_changed_is_read(written: Path, tmp_path: Path) -> None:
    path = tampered(written, tmp_path / "same.lcnn", lambda *_: None)
    assert load_artefact(path).net(torch.zeros(1, 3, 12, 12))[0].shape == (1, 16, 10, 10)


@pytest.fixture(scope="module")
def in_bytes(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, dict]:
    """Return a net in 8 bits as JSON, with its tensors."""
    captured = Captured.of(capture(small_net(), torch.zeros(1, 3, 16, 16)), (1, 3, 16, 16))
    folded = Captured.of(finished(captured.net, "float32"), captured.input_shape)
    names = [layer.name for layer in folded.layers]
    return to_json(quantise(folded, names, [torch.rand(8, 3, 16, 16)]))


def test_nets_in_8_bits_keep_every_bit(in_bytes) -> None:
    graph, tensors = in_bytes
    net = from_json(json.loads(json.dumps(graph)), tensors, "here")
    again, held = to_json(net)
    assert again == graph
    assert all(torch.equal(held[name], tensors[name]) for name in tensors)
    assert {value["type"] for value in graph["modules"].values()} == {"Int8Conv2d", "Round8"}
    assert problem_of(net, (1, 3, 16, 16)) is None


def refuse_changed(graph, tensors, name: str, change, message: str) -> None:
    """See to it that a graph is refused with one tensor changed, or left out where ``change`` is None."""
    changed = {key: value for key, value in tensors.items() if key != name}
    if change is not None:
        changed[name] = change(tensors[name])
    with pytest.raises(ArtefactError, match=message):
        from_json(graph, changed, "here")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("conv1.weight", lambda t: t.float(), "it must be torch.int8"),
        ("conv1.weight", lambda t: t[:-1], "are not those of one layer"),
        ("conv1.weight_scale", torch.zeros_like, "scales must be above 0"),
        ("conv1.bias", lambda t: t * float("nan"), "and finite"),
        ("conv1.input_scale", lambda t: -t, "must be a float32 above 0"),
        ("conv1.zero_point", lambda t: t.reshape(1), "must be a float32 above 0 and an uint8"),
        ("round8_x.scale", lambda t: t * float("inf"), "must be a float32 above 0"),
        ("round8_x.zero_point", None, "is missing"),
    ],
)
def test_damaged_layers_in_8_bits_are_refused(in_bytes, name: str, change, message: str) -> None:
    graph, tensors = in_bytes
    refuse_changed(graph, tensors, name, change, message)
    for values in ({"geometry": {"kernel": [3, 3]}}, {"type": "Int4Conv2d"}):
        broken = {**graph, "modules": {**graph["modules"], "conv1": {**graph["modules"]["conv1"], **values}}}
        with pytest.raises(ArtefactError):
            from_json(broken, tensors, "here")


@pytest.fixture(scope="module")
def halves() -> tuple[dict, dict]:
    """Return a net in bfloat16, one layer of which is a lookup convolution, as JSON, with its tensors."""
    shape = (1, 3, 16, 16)
    net = finished(capture(small_net(), torch.zeros(shape)), "float32")
    layer = next(layer for layer in Captured.of(net, shape).layers if layer.name == "conv1")
    lookup = exact_lookup(layer)
    with torch.no_grad():
        lookup.dictionary.mul_(2)
    lookup.is_identity = False
    replace_layer(net, layer, lookup)
    captured = Captured.of(net, shape)
    return to_json(in_bfloat16(captured, [layer.name for layer in captured.layers]))


def test_nets_in_bfloat16_keep_every_bit(halves) -> None:
    graph, tensors = halves
    net = from_json(json.loads(json.dumps(graph)), tensors, "here")
    again, held = to_json(net)
    assert again == graph
    assert all(torch.equal(held[name], tensors[name]) for name in tensors)
    assert {value["type"] for value in graph["modules"].values()} == {"Bfloat16Conv2d", "RoundBfloat16"}
    assert tensors["conv1.weight"].dtype == tensors["conv1.dictionary"].dtype == torch.bfloat16
    assert problem_of(net, (1, 3, 16, 16)) is None


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("conv1.weight", lambda t: t.float(), "conv1: weight is torch.float32; it must be torch.bfloat16"),
        ("conv1.weight", lambda t: t.view(torch.int16), "it must be torch.bfloat16"),
        ("conv1.weight", lambda t: t[:-1], "are not those of one layer"),
        ("conv1.weight", lambda t: t[..., :2], "are not those of one layer"),
        ("conv1.weight", lambda t: t[0], "are not those of one layer"),
        ("conv1.weight", lambda t: t * float("inf"), "and finite"),
        ("conv1.dictionary", lambda t: t[:-1], "are not those of one layer"),
        ("conv1.dictionary", lambda t: t.half(), "it must be torch.bfloat16"),
        ("conv1.dictionary", lambda t: t.flatten(), "are not those of one layer"),
        ("conv1.bias", lambda t: t * float("nan"), "and finite"),
        ("conv1.bias", lambda t: t.bfloat16(), "it must be torch.float32"),
        ("conv1.bias", lambda t: t[:3], "are not those of one layer"),
        ("conv1.bias", None, "tensor 'conv1.bias' is missing"),
    ],
)
def test_damaged_layers_in_bfloat16_are_refused(halves, name: str, change, message: str) -> None:
    graph, tensors = halves
    refuse_changed(graph, tensors, name, change, message)
    for values in ({"geometry": {"kernel": [3, 3]}}, {"geometry": None}, {"type": "Bfloat8Conv2d"}, {"type": "Int8Conv2d"}):
        broken = {**graph, "modules": {**graph["modules"], "conv1": {**graph["modules"]["conv1"], **values}}}
        with pytest.raises(ArtefactError):
            from_json(broken, tensors, "here")
