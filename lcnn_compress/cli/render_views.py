"""What the commands that look at nets show: the time of nodes, classes of images."""

from __future__ import annotations

from lcnn_compress.artefact.report import Json
from lcnn_compress.cli.render import by, new_table, show_table, text


def node_table(result: Json) -> None:
    """Print the nodes of a profile in the order in which they run, and what the profile itself costs."""
    text(f"{result['file']}: ONNX Runtime {result['onnxruntime']}, {result['isa'] or 'no native library'}")
    plural = "s" if result["threads"] > 1 else ""
    text(f"input {by(result['input_shape'])}, {result['threads']} thread{plural}, medians of {result['runs']} runs")
    text("")
    table = new_table("node", "operator", "layer", "us", "share", left=3)
    for row in result["nodes"]:
        table.add_row(
            row["name"], row["operator"], ", ".join(row["layers"]), f"{row['median_us']:.0f}", f"{100 * row['share']:.1f} %"
        )
    show_table(table)
    nodes, profiled, plain = (result[f"{name}_us"] for name in ("nodes", "profiled", "unprofiled"))
    text("")
    text(f"all nodes {nodes:.0f} us, and {profiled - nodes:.0f} us between them, in a run of {profiled:.0f} us")
    text(
        f"the same run without a profile: {plain:.0f} us, of which all nodes are {100 * nodes / plain:.0f} %; "
        f"profiling adds {100 * (profiled / plain - 1):.0f} %"
    )


def prediction_table(result: Json) -> None:
    """Print what a net tells of each image, a line for each class or label."""
    table = new_table("image", "class" if result["task"] == "classes" else "label", "probability", left=2)
    for image in result["images"]:
        if not image["labels"]:
            table.add_row(image["image"], "none", "")
        for place, label in enumerate(image["labels"]):
            table.add_row(image["image"] if place == 0 else "", label["name"], f"{100 * label['probability']:.1f} %")
    show_table(table)
