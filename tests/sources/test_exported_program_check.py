"""What a torch.export program could run is found before it is loaded."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from model_files import Touch, rewritten
from torch import Tensor, nn

from lcnn_compress.errors import ModelError
from lcnn_compress.sources.load_model import load_model


def test_a_program_with_a_pickle_inside_runs_it_only_when_trusted(
    saved_program: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "torch._export.serde.serialize")  # its warning in torch 2.13 has too few arguments
    buffer = io.BytesIO()
    torch.save(((Touch(tmp_path / "mark"),), {}), buffer)
    inputs = buffer.getvalue()
    path = rewritten(saved_program, lambda name, content: inputs if name.startswith("data/sample_inputs") else content)
    with pytest.raises(ModelError, match=r"could run code \(pickle data/sample_inputs/model\.pt\); .*`trust_pickle`"):
        load_model(str(path))
    assert not (tmp_path / "mark").exists()
    assert load_model(str(path), trust_pickle=True).input_shape is None
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("old", "new", "risk"),
    [
        ('"expr_str": "', '"expr_str": "exec(chr(49)) + ', 'expr_str "exec'),
        ('"torch.ops.aten.relu.default"', '"torch.os.system"', "target 'torch.os.system'"),
        ('"torch.ops.aten.relu.default"', '"torch.ops.aten.save.default"', "target 'torch.ops.aten.save.default'"),
        ('"torch.ops.aten.relu.default"', '"torch.ops.load_library"', "target 'torch.ops.load_library'"),
        ('"name": "relu"', '"name": "relu=exec(1)"', "name 'relu=exec"),
        ('"torch.ops.aten.relu.default"', '"torch.ops.aten.from_file.default"', "target 'torch.ops.aten.from_file.default'"),
        ('"torch.ops.aten.relu.default"', '"torch.ops.aten.relu.__class__"', "target 'torch.ops.aten.relu.__class__'"),
        ('"torch.ops.aten.relu.default"', '"torch.ops.aten.relu.overloads"', "target 'torch.ops.aten.relu.overloads'"),
        ('"buffer_name": "1.running_mean"', '"buffer_name": "__class__.forward"', "buffer_name '__class__.forward'"),
        ('"buffer_name": "1.running_mean"', '"buffer_name": "1.__dict__"', "buffer_name '1.__dict__'"),
        (r"\"context\": \"null\"", r"\"context\": \"\\u005f_enum__\"", "in_spec"),
        (r"\"context\": \"null\"", r"\"context\": \"__enum__\"", "in_spec"),
        (r"\"context\": \"null\"", r"\"context\": \"{\\\"__enum__\\\": 1, \\\"fqn\\\": \\\"os:x\\\"}\"", "in_spec"),
        (r"\"type\": \"builtins.tuple\"", r"\"type\": \"collections.defaultdict\"", "in_spec"),
    ],
)
def test_a_program_that_says_more_than_operators_and_sizes_is_refused(
    old: str, new: str, risk: str, saved_program: Path
) -> None:
    changes = 0

    def change(name: str, content: bytes) -> bytes:
        nonlocal changes
        changes += name == "models/model.json" and old.encode() in content
        return content.replace(old.encode(), new.encode()) if name == "models/model.json" else content

    path = rewritten(saved_program, change)
    assert changes == 1
    with pytest.raises(ModelError) as caught:
        load_model(str(path))
    assert "could run code" in str(caught.value)
    assert risk in str(caught.value)


def test_compiled_libraries_and_pickled_constants_in_a_program_are_refused(saved_program: Path) -> None:
    path = rewritten(saved_program, lambda _, content: content, {"data/aotinductor/model/a.so": b""})
    with pytest.raises(ModelError, match=r"compiled library data/aotinductor/model/a\.so"):
        load_model(str(path))
    constants = json.dumps({"config": {"c": {"path_name": "opaque_obj_0", "use_pickle": [[]], "is_param": False}}}).encode()
    path = rewritten(saved_program, lambda name, content: constants if name.endswith("constants_config.json") else content)
    with pytest.raises(ModelError, match=r"path_name 'opaque_obj_0'.*a pickled constant"):
        load_model(str(path))


class Block(nn.Module):
    """A convolution with its batch norm and a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(x))) + x


class Nested(nn.Module):
    """What real nets are made of: containers of containers, odd names, sizes in the program, masks, texts as arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(OrderedDict([("first", nn.Conv2d(3, 4, 3)), ("rest", nn.Sequential(nn.ReLU(), Block()))]))
        self.blocks = nn.ModuleList([Block(), Block()])
        self.heads = nn.ModuleDict({"a-b": nn.Conv2d(4, 4, 1), "x y": nn.Linear(4, 2), "c/d": Block()})
        self.scales = nn.ParameterList([nn.Parameter(torch.ones(1))])
        self.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
        self.offset = torch.ones(1)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1))

    def forward(self, x: Tensor) -> dict[str, Any]:
        y = self.stem(x)
        for block in self.blocks:
            y = block(block(y))
        y = self.heads["c/d"](self.heads["a-b"](y)) * self.scales[0] + self.offset
        y = nn.functional.interpolate(self.normed(y), size=x.shape[2:], mode="bilinear")
        y = nn.functional.pad(y, (1, 1, 1, 1), mode="reflect")
        tokens = y.flatten(2).transpose(1, 2)
        mean = torch.einsum("bij,bkj->bik", tokens, tokens).mean(2, dtype=torch.float64)
        return {"out-a": self.heads["x y"](tokens), "mean of": [mean, (y.amax(1), y.shape[2])], "mask": self.mask.exp()}


def save_program(path: Path, strict: bool, dynamic: bool, decomposed: bool = False) -> Nested:
    net = Nested().eval()
    axes = (dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO),) if dynamic else None
    program = torch.export.export(net, (torch.zeros(2, 3, 9, 8),), dynamic_shapes=axes, strict=strict)
    torch.export.save(program.run_decompositions() if decomposed else program, path)
    return net


@pytest.mark.parametrize(
    ("strict", "dynamic", "decomposed"),
    [(False, False, False), (False, True, False), (True, False, False), (True, True, False), (False, True, True)],
)
def test_programs_of_real_nets_pass(strict: bool, dynamic: bool, decomposed: bool, tmp_path: Path) -> None:
    net = save_program(tmp_path / "net.pt2", strict, dynamic, decomposed)
    program = load_model(str(tmp_path / "net.pt2")).model
    assert isinstance(program, torch.export.ExportedProgram)
    x = torch.randn(2, 3, 9, 8)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x)["out-a"], net(x)["out-a"])


def test_a_program_with_blocks_of_autocast_and_no_grad_passes(tmp_path: Path) -> None:
    class Mixed(nn.Module):
        """Computes partly in bfloat16, partly without gradients."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                y: Tensor = self.conv(x)
            with torch.no_grad():
                return y.float() * 2

    torch.export.save(torch.export.export(Mixed().eval(), (torch.zeros(2, 3, 8, 8),)), tmp_path / "net.pt2")
    assert load_model(str(tmp_path / "net.pt2")).kind == "pt2"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "aten.relu.default",
            "aten.not_there.default",
            r"uses an operator that is not known here \(.*aten\.not_there\.default",
        ),
        (r"\"builtins.list\"", r"\"collections.namedtuple\"", r"takes or returns a type that is not known here \(NotImpl"),
    ],
)
def test_what_is_not_known_here_is_named(old: str, new: str, message: str, tmp_path: Path) -> None:
    class Listing(nn.Module):
        """Returns a list."""

        def forward(self, x: Tensor) -> list[Tensor]:
            return [x.relu()]

    torch.export.save(torch.export.export(Listing(), (torch.zeros(1, 3, 8, 8),)), tmp_path / "net.pt2")
    path = rewritten(tmp_path / "net.pt2", lambda _, content: content.replace(old.encode(), new.encode()))
    with pytest.raises(ModelError, match=message):
        load_model(str(path))


RECORDS = ("models/model.json", "data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
# Texts by the key that they stand under; those of metadata that nobody reads but people may say anything that is printed.
COMMENTS = ("stack_trace", "from_node", "custom")


def texts(value: Any, key: str, found: dict[str, set[str]]) -> dict[str, set[str]]:
    """Collect the texts below a value by the key they stand under; texts that are keys themselves stand under '{key}'."""
    if isinstance(value, dict):
        for inner, held in value.items():
            found.setdefault(f"{{{key}}}", set()).add(inner)
            texts(held, inner, found)
    elif isinstance(value, list):
        for held in value:
            texts(held, key, found)
    elif isinstance(value, str):
        found.setdefault(key, set()).add(value)
    return found


def replaced(value: Any, key: str, where: str, new: dict[str, str]) -> Any:
    """Replace the texts under a key, and the same texts where they are keys of dicts, so that references still fit."""
    if isinstance(value, dict):
        return {
            (new.get(inner, inner) if f"{{{key}}}" == where or inner in new else inner): replaced(held, inner, where, new)
            for inner, held in value.items()
        }
    if isinstance(value, list):
        return [replaced(held, key, where, new) for held in value]
    return new.get(value, value) if isinstance(value, str) and (key == where or where.startswith("{")) else value


@pytest.fixture(scope="module")
def nested_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program with every kind of text that programs of nets have."""
    path = tmp_path_factory.mktemp("program") / "net.pt2"
    save_program(path, strict=True, dynamic=True)
    with zipfile.ZipFile(path) as archive:
        root = archive.namelist()[0].partition("/")[0]
        description = json.loads(archive.read(f"{root}/models/model.json"))
    for node in description["graph_module"]["graph"]["nodes"]:
        node["metadata"]["custom"] = json.dumps({"tag": "a"})
    made = rewritten(path, lambda name, old: json.dumps(description).encode() if name == RECORDS[0] else old)
    return made.rename(path.with_stem("nested"))


# Besides these, only values of which there are a few, and which are looked up in tables.
KEYS = (
    "as_name", "as_string", "buffer_name", "expr_str", "forward_arg_names", "fqn", "guards_code", "in_spec", "name",
    "nn_module_stack", "out_spec", "parameter_name", "path_name", "source_fn_stack", "target", "tensor_constant_name",
    "torch_fn", "torch_version", "type", "verifiers",
    "{config}", "{tensor_values}", "{sym_int_values}", "{range_constraints}", "{metadata}", "{opset_version}",
)  # fmt: skip


def test_all_texts_of_programs_are_known(nested_program: Path) -> None:
    """A key that a newer torch adds is to be added here, so that what torch makes of it is looked at."""
    found: dict[str, set[str]] = {}
    with zipfile.ZipFile(nested_program) as archive:
        for name in archive.namelist():
            if name.endswith(".json"):
                texts(json.loads(archive.read(name)), "", found)
    schema = {key for key in found if key.startswith("{") and key not in KEYS}
    assert set(found) - schema == {*KEYS, *COMMENTS}
    words = {word for key in schema for word in found[key]}
    assert all(word.isidentifier() for word in words - found["{config}"] - found["{tensor_values}"])


def attacked(text: str, key: str, evil: str) -> str:
    """Put a hostile text into one of a program, so that it is still in the form that torch parses."""
    if key == "custom":
        return json.dumps({"tag": evil})
    if key == "from_node":
        return json.dumps([{**json.loads(text)[0], "name": evil}])
    if key == "in_spec":  # an argument by name
        protocol, tree = json.loads(text)
        leaf = {"type": None, "context": None, "children_spec": []}
        tree["children_spec"][1] |= {"context": json.dumps([evil]), "children_spec": [leaf]}
        return json.dumps([protocol, tree])
    if key == "out_spec":  # a key of the outputs, which is data
        protocol, tree = json.loads(text)
        tree["context"] = json.dumps([evil, *json.loads(tree["context"])[1:]])
        return json.dumps([protocol, tree])
    return text + evil


@pytest.mark.parametrize("key", [*KEYS, *COMMENTS])
@pytest.mark.parametrize("hostile", ['") or exec(CODE) or ("', "x\nexec(CODE)\n"])
def test_no_text_of_a_program_is_code(key: str, hostile: str, nested_program: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    code = f"open({str(mark)!r}, 'w').write('x')"
    evil = hostile.replace("CODE", f"bytes({list(code.encode())})")
    with zipfile.ZipFile(nested_program) as archive:
        root = archive.namelist()[0].partition("/")[0]
        old = {name: json.loads(archive.read(f"{root}/{name}")) for name in RECORDS}
    found: dict[str, set[str]] = {}
    for name in RECORDS:
        texts(old[name], "", found)
    new = {text: attacked(text, key, evil) for text in found[key]}
    changed = {name: json.dumps(replaced(old[name], "", key, new)).encode() for name in RECORDS}
    path = rewritten(nested_program, changed.get).rename(tmp_path / "evil.pt2")
    if key in COMMENTS or (key == "out_spec" and evil.isprintable()):
        program = load_model(str(path)).model
        assert isinstance(program, torch.export.ExportedProgram)
        with contextlib.suppress(KeyError, ValueError):  # outputs do not fit their keys any more
            program.module(check_guards=False)(torch.zeros(2, 3, 9, 8))
        program.graph_module.print_readable(print_output=False)
        assert "exec(" in str([program.call_spec, *(node.meta.get(key) for node in program.graph.nodes)])
    else:
        with pytest.raises(ModelError, match="could run code"):
            load_model(str(path))
    assert not mark.exists()
