"""Use one export of a net for all its twins: the same graph with other factors."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper
from torch import Tensor, fx

from lcnn_compress.export.nodes import constants_of, drop_unread
from lcnn_compress.export.rewrite import dense_form, split_full
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.forms.storage import StoredFactors
from lcnn_compress.net.layers import full_layers
from lcnn_compress.operators.common import layer_name
from lcnn_compress.operators.lookup_conv import OP_TYPE


def with_factors(model: onnx.ModelProto, net: fx.GraphModule, storage: str) -> onnx.ModelProto:
    """Return a copy of an exported net whose LookupConv nodes hold the factors of ``net``, which has the same graph.

    A layer that is dense in ``net`` becomes an ordinary Conv or Gemm with its weight. Biases stay.

    Args:
        model: the exported net, with some lookup convolution in each of these layers.
        net: a net of the same layers, batch norms folded.
        storage: one of ``storage.TYPES``.
    """
    lookups = [node for node in model.graph.node if node.op_type == OP_TYPE]
    modules = {node.name: net.get_submodule(layer_name(node)) for node in lookups}
    dense = {layer_name(node) for node in lookups if not isinstance(modules[node.name], LookupConv2d)}
    model = dense_form(model, dense)
    graph = model.graph
    constants = constants_of(graph)
    for node in graph.node:
        module = modules.get(node.name)
        if isinstance(module, LookupConv2d):
            factors = StoredFactors.of(module, storage)
            values = (tensor.numpy() for tensor in (factors.dictionary, factors.gaps, factors.coefficients))
            # The exporter lets layers share equal lists: each gets its own.
            names = [f"{node.name}.own_{leaf}" for leaf in ("dictionary", "gaps", "coefficients")]
            graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in zip(names, values, strict=True))
            node.input[1:4] = names
        elif module is not None:
            tensor = constants[node.input[1]]
            weight = module.weight
            assert isinstance(weight, Tensor)
            values_of = weight.detach().numpy().reshape(tuple(tensor.dims))
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values_of), tensor.name))
    drop_unread(graph)
    split_full(model, full_layers(net))
    return model
