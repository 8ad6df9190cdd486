"""Arithmetic of captured steps, put so that its shapes are known beforehand."""

from typing import Any

from torch import ops
from torch.fx import GraphModule, Node

PUT = (ops.aten.index_put.default, ops.aten.index_put_.default)


def choose_by_where(module: GraphModule) -> None:
    """x[mask] = y[mask] and x[mask] = 0 become where(mask, y, x): the same numbers, and no kernel must count.

    Splines write so, for the points beyond their ends; and so do the gradients. What is picked and put
    otherwise stays as it is.
    """
    graph, where = module.graph, ops.aten.where.self
    for node in [node for node in graph.nodes if node.target in PUT]:
        x, masks, values, *rest = node.args
        if not (isinstance(x, Node) and isinstance(values, Node) and len(masks) == 1):
            continue
        (mask,), adds = masks, bool(rest and rest[0])
        y: Any = None
        if values.target is ops.aten.index.Tensor and values.args[1] == [mask]:
            y = values.args[0]
            for user in [user for user in values.users if user.target is ops.aten.new_zeros.default]:
                user.replace_input_with(values, y)  # whose shape is given, and whose kind is y's too
        elif values.target is not ops.aten.zeros.default:
            continue
        with graph.inserting_before(node):
            y = y or graph.call_function(ops.aten.zeros_like.default, (x,))
            chosen = graph.call_function(where, (mask, y, x))
            if adds:
                sums = graph.call_function(ops.aten.add.Tensor, (x, y))
                chosen = graph.call_function(where, (mask, sums, x))
        node.replace_all_uses_with(chosen)  # in place or not: what reads x afterwards is traced as its reader
        graph.erase_node(node)
