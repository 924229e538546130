"""The sections of RESULTS.md, one function for each script whose JSON is in results/.

Every figure is read from a JSON file. ``REMARKS`` says what the files cannot: under which load of the machine they were made.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from statistics import mean
from typing import Any

from method_report import table as method_tables

MISSING = "not recorded"
WIDTH = 125  # of a line of text
NET_TITLES = {
    "fashion_resnet": "residual net on Fashion-MNIST",
    "fashion_alexnet": "AlexNet type on Fashion-MNIST",
    "alexnet": "AlexNet",
    "resnet18": "ResNet-18",
    "vgg16": "VGG-16",
    "alexnet_lcnn": "AlexNet as in the paper's code",
}
PAPER_FILES = ("paper.json", "paper_epyc.json", "paper_openvino.json")
REMARKS = {
    "paper.json": "the machine was shared, its second core taken by others now and then.",
    "paper_epyc.json": "the second core was busy with other work.",
    "paper_openvino.json": "a run of its own, with OpenVINO installed; what runs next to OpenVINO is disturbed by it.",
    "narrow.json": "other work on the machine was stopped; its host is shared, and slows AMX down for moments.",
    "digits.json": "the machine was quiet.",
    "demosaicnet.json": "two other jobs were running.",
    "fashion.json": "other jobs were running.",
    "training_steps.json": "other jobs were running.",
    "targets.json": "each net was made once; the intervals are within one process and do not cover other runs or hours.",
}


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]


def paragraph(text: str, start: str = "") -> list[str]:
    """Return the text in lines that fit a screen, the first of them after ``start``."""
    joined = " ".join(text.split())
    return textwrap.wrap(
        joined, WIDTH, break_long_words=False, break_on_hyphens=False, initial_indent=start, subsequent_indent=" " * len(start)
    )


def points(lines: Sequence[str]) -> list[str]:
    """Return a list with a point for each line."""
    return [line for text in lines for line in paragraph(text, "* ")]


def settings_text(settings: dict[str, Any]) -> str:
    """Return settings as text; several values stand between brackets, so that commas separate settings."""
    values = {key: f"({' '.join(map(str, value))})" if isinstance(value, list) else value for key, value in settings.items()}
    return ", ".join(f"{key} {value}" for key, value in values.items())


def origin(name: str, content: dict[str, Any], settings: dict[str, Any] | None = None) -> list[str]:
    """Return the paragraph that says when and where a file was made, with what, and under which load."""
    found = content.get("machine")
    machine = MISSING if found is None else (
        f"{found['cpu']}, {found['cores']} cores, {found['isa']}; Python {found['python']}, ONNX Runtime "
        f"{found['onnxruntime']}, PyTorch {found['torch']}"
    )  # fmt: skip
    date = content.get("date", MISSING).partition("T")[0]
    shown = "" if settings is None else f" Settings: {settings_text(settings)}."
    remark = f" Remark of the time: {REMARKS[name]}" if name in REMARKS else ""
    return ["", *paragraph(f"[{name}](results/{name}). Date: {date}. Machine: {machine}.{shown}{remark}"), ""]


def net_title(name: str) -> str:
    """Return the name of a net for a reader."""
    return NET_TITLES.get(name, name)


def factor(value: float) -> str:
    """Return how many times, for example 2.50x."""
    return f"{value:.2f}x"


def megabytes(count: float) -> str:
    """Return bytes as millions of them."""
    return f"{count / 1e6:.2f}"


def speed(run: dict[str, Any]) -> str:
    """Return a speed-up with its 95 % interval."""
    low, high = run["speedup_ci95"]
    return f"{factor(run['speedup_p50'])} ({low:.2f} to {high:.2f})"


def threads_text(count: int) -> str:
    """Return for example 2 threads."""
    return f"{count} thread{'s' * (count > 1)}"


def score_text(scores: Sequence[float]) -> str:
    """Return mean, range and number of seeds."""
    if len(scores) == 1:
        return f"{scores[0]:.2f} (one seed)"
    return f"{mean(scores):.2f} ({min(scores):.2f} to {max(scores):.2f}, {len(scores)} seeds)"


def paper(files: dict[str, dict[str, Any]]) -> list[str]:
    """Published dictionaries and densities: a table for each file."""
    lines = ["## Published dictionaries and densities, synthetic patterns", ""]
    lines += paragraph("""
        `lcnn bench --suite paper`. **Speed and memory only: the patterns are random, so nothing here has an accuracy.**
        Batch 1.
        All forms of a net run in turn, each twice, and the second run counts. *Published* is the speed-up the paper states, an
        operation count. *Of the cut* is the speed-up with one thread as a part of the cut in MACs. Peak memory is that of a
        fresh process with one thread. Brackets hold 95 % intervals.
    """)
    for name in PAPER_FILES:
        content = files[name]
        with_openvino = any(row["engine"] == "OpenVINO" for row in content["rows"])
        lines += ["", f"### {content['machine']['cpu']}{', OpenVINO as well' if with_openvino else ''}"]
        lines += [*origin(name, content), *paper_table(content["rows"]), "", *points(content["notes"])]
    return lines


def narrow(files: dict[str, dict[str, Any]]) -> list[str]:
    """The same nets in 8 bits and bfloat16: dense, of low rank, and at published dictionaries."""
    lines = ["## Well-known nets in 8 bits and bfloat16, synthetic patterns", ""]
    lines += paragraph("""
        `lcnn bench --suite narrow`. **Speed and memory only: the patterns are random, so nothing here has an accuracy.** Batch
        1; columns as above. *k = 0.25 m* has dictionaries of a quarter of the channels and sparse kernels without zeros.
    """)
    content = files["narrow.json"]
    return [*lines, *origin("narrow.json", content), *paper_table(content["rows"]), "", *points(content["notes"])]


def paper_table(rows: list[dict[str, Any]]) -> list[str]:
    """Return the table of one run of the suite: a row for each form, columns for each number of threads."""
    forms: dict[tuple[str, str], list[dict[str, Any]]] = {}
    # Release 0.1.0 called its rivals int8 and openvino; later ones have the engine and the precision in their names.
    names = {"dense": "dense, ONNX Runtime", "int8": "int8, ONNX Runtime", "openvino": "dense, OpenVINO"}
    for row in sorted(rows, key=lambda row: int(row["threads"])):
        forms.setdefault((row["net"], names.get(row["form"]) or row["setting"] or row["form"]), []).append(row)
    header = ["net", "form", "fewer MACs", "published"]
    for count in sorted({row["threads"] for row in rows}):
        header += [f"{threads_text(count)}, ms", "faster"]
    nets = list(dict.fromkeys(row["net"] for row in rows))
    found = sorted(forms.items(), key=lambda item: nets.index(item[0][0]))
    cells = [[net_title(net), form, *paper_cells(runs)] for (net, form), runs in found]
    return markdown([*header, "of the cut", "peak memory, MB", "file, MB"], cells)


def paper_cells(runs: list[dict[str, Any]]) -> list[str]:
    """Return the cells of one form that ran with one thread and perhaps with more."""
    one = runs[0]
    published, realised = one.get("published_ratio"), one.get("realised_fraction")
    cells = [factor(one["macs_ratio"]) if one["form"] == "lookup" else "", "" if published is None else f"{published:g}x"]
    for run in runs:
        cells += [f"{run['latency_ms_p50']:.2f}", "" if run["form"] == "dense" else speed(run)]
    return [
        *cells,
        "" if realised is None else f"{realised:.2f}",
        megabytes(one["peak_rss_bytes"]),
        megabytes(one["file_bytes"]),
    ]


def digits(files: dict[str, dict[str, Any]]) -> list[str]:
    """A pretrained MNIST classifier through the real commands."""
    content = files["digits.json"]
    variants = content["variants"]
    first = next(iter(variants.values()))
    header = ["", "top-1, %", "fewer MACs", "file, MB"]
    header += [f"batch {run['batch']}, {threads_text(run['threads'])}" for run in first["runs"]]
    dense = [f"{run['dense']['latency_ms_p50']:.3f} ms" for run in first["runs"]]
    rows = [["dense", f"{first['dense_percent']:.2f}", "", megabytes(first["runs"][0]["dense"]["file_bytes"]), *dense]]
    for name, variant in variants.items():
        one = variant["runs"][0]
        cells = [f"{variant['lookup_percent']:.2f}", factor(one["macs_ratio"]), megabytes(one["lookup"]["file_bytes"])]
        rows.append([name, *cells, *map(speed, variant["runs"])])
    text = f"""
        [compress_digits.py](compress_digits.py): digit-recognizer, top-1 on {first["n"]:,} test images of MNIST. A row is one
        seed. Milliseconds of the dense net are those beside the data-free one.
    """
    return [
        "## A pretrained classifier of digits", "", *paragraph(text), *origin("digits.json", content, content["settings"]),
        *markdown(header, rows), "", *points([f"{name}: `{variant['command']}`" for name, variant in variants.items()]),
    ]  # fmt: skip


def demosaicnet(files: dict[str, dict[str, Any]]) -> list[str]:
    """A pretrained restoration net: data-free, calibrated, fine-tuned."""
    content = files["demosaicnet.json"]
    variants, reference = content["variants"], content["psnr_db"]
    rows = [["bilinear interpolation", f"{mean(reference['bilinear']):.2f}", *[""] * 5]]
    file = megabytes(next(iter(variants.values()))["dense_file_bytes"])
    rows.append(["dense", f"{mean(reference['dense']):.2f}", "", "", "", file, ""])
    for name, run in variants.items():
        ms = f"{run['dense_latency_ms_p50']:.1f} -> {run['lookup_latency_ms_p50']:.1f}"
        cells = [f"{run['psnr_db_mean']:.2f}", factor(run["macs_ratio"]), ms, speed(run), megabytes(run["lookup_file_bytes"])]
        rows.append([name, *cells, f"{run['seconds']:.0f}"])
    header = ["", "PSNR, dB", "fewer MACs", "dense -> lookup, ms", "faster", "file, MB", "seconds to make"]
    text = f"""
        [compress_demosaicnet.py](compress_demosaicnet.py): mean over crops of {content["photos"]} photos the net did not learn
        from. Milliseconds are of 3x256x256, batch 1, 1 thread, dense and lookup in turn.
    """
    return [
        "## A pretrained restoration net", "", *paragraph(text), *origin("demosaicnet.json", content, content["settings"]),
        *markdown(header, rows), "", "![dense, data-free, calibrated, fine-tuned](results/demosaicnet.png)",
    ]  # fmt: skip


def accuracy_at_macs(files: dict[str, dict[str, Any]]) -> list[str]:
    """What is lost at a number of MACs."""
    content = files["macs.json"]
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for key, run in content["runs"].items():
        net, cut, variant, _ = key.split("/")
        found.setdefault((net, cut, variant), []).append(run)
    rows = []
    for (net, cut, variant), runs in found.items():
        dense, scores = content["dense"][net], [run["score"] for run in runs]
        title = f"{net_title(net)}, dense {dense['score']:.2f} ({dense['metric']})"
        change, seconds = f"{mean(scores) - dense['score']:+.2f}", mean(run["seconds"] for run in runs)
        rows.append([title, f"{cut}x", variant, score_text(scores), change, f"{seconds:.0f}"])
    text = """
        [accuracy_at_macs.py](accuracy_at_macs.py): plans of least measured effect on the outputs, a pattern of its own for each
        filter. The dense nets beside them were not trained on.
    """
    return [
        "## What is lost at a number of MACs", "", *paragraph(text), *origin("macs.json", content),
        *markdown(["net", "fewer MACs", "", "score", "against dense", "seconds to make"], rows), "", "Training:", "",
        *points([f"{net_title(net)}: {settings_text(values)}" for net, values in content["settings"].items()]),
    ]  # fmt: skip


def fashion(files: dict[str, dict[str, Any]]) -> list[str]:
    """The embedded net at uniform sizes."""
    content = files["fashion.json"]
    rows = []
    for size in content["sizes"].values():
        for variant, run in size["variants"].items():
            options = f"`--dict {size['dictionary']} --lookups {size['lookups']}`"
            ms = f"{run['dense_latency_ms_p50']:.3f} -> {run['lookup_latency_ms_p50']:.3f}"
            cells = [score_text(run["accuracy_percent"]), factor(run["macs_ratio"]), ms, speed(run)]
            rows.append([options, variant, *cells, megabytes(run["lookup_file_bytes"])])
    text = f"""
        [compare_fashion.py](compare_fashion.py): {content["n"]:,} test images of Fashion-MNIST, dense
        {content["dense_percent"]:.2f} %. Which layers stay dense is measured, and layers that are about as fast either way can
        differ between two runs.
    """
    return [
        "## The embedded net with one size for all layers", "", *paragraph(text),
        *origin("fashion.json", content, content["settings"]),
        *markdown(["size", "", "top-1, %", "fewer MACs", "dense -> lookup, ms", "faster", "file, MB"], rows),
    ]  # fmt: skip


def targets(files: dict[str, dict[str, Any]]) -> list[str]:
    """How near a target the nets land."""
    content = files["targets.json"]
    psnr = {row["psnr_db_dense"] for row in content["rows"] if "psnr_db_dense" in row}
    dense_psnr = "".join(f", dense {value:.2f} dB" for value in psnr)
    text = f"""
        [meet_targets.py](meet_targets.py): nothing is trained. Accuracy is on {content["n"]:,} test images, dense
        {content["dense_percent"]:.2f} %; a held-out drop is on labelled training images, in points; PSNR is on photos that
        nothing was calibrated on{dense_psnr}. Every net is exported and timed anew beside the dense net, batch 1, 1 thread.
        Brackets hold 95 % intervals.
    """
    header = [
        "net", "asked", "predicted", "measured afterwards", "fewer MACs", "top-1 or PSNR", "drop held out", "seconds to make",
    ]  # fmt: skip
    header += ["over the best other form"] if "best_other" in content["rows"][0] else []
    return [
        "## Asked for, and what came out", "", *paragraph(text), *origin("targets.json", content),
        *markdown(header, [target_cells(row) for row in content["rows"]]),
    ]  # fmt: skip


def target_cells(row: dict[str, Any]) -> list[str]:
    """Return the cells of one target that was asked for."""
    asked = [f"{'--' if kind == 'max_drop' else '--target-'}{kind}".replace("_", "-") for kind in row["asked"]]
    options = ", ".join(f"`{option} {value:g}`" for option, value in zip(asked, row["asked"].values(), strict=True))
    drop = "{value:.2f} ({low:.2f} to {high:.2f}), {n:,} images".format(**row["drop"]) if "drop" in row else ""
    accuracy = f"{row['accuracy_percent']:.2f} %" if "accuracy_percent" in row else ""
    accuracy = f"{row['psnr_db']:.2f} dB" if "psnr_db" in row else accuracy
    speeds = [factor(row["predicted_speedup"]), speed(row), factor(row["macs_ratio"])]
    best = [f"{speed(row['best_other'])}, {row['best_other']['name']}"] if "best_other" in row else []
    return [net_title(row["net"]), options, *speeds, accuracy, drop, f"{row['seconds']:.0f}", *best]


OPENVINO_TEXT = ", *OpenVINO* the same nets there, as it computes by default, and *OpenVINO int8* by NNCF"


def methods(files: dict[str, dict[str, Any]]) -> list[str]:
    """Beside other ways to make a net faster."""
    content = files["methods.json"]
    also = OPENVINO_TEXT if any("/OpenVINO" in key for key in content["runs"]) else ""
    text = f"""
        [compare_methods.py](compare_methods.py): every method with the same search on held-out training images, the same
        calibration and the same training on few images. Batch 1, 1 thread, all files of a net timed in turn. *Sparse* is
        pruning by magnitude, run by our kernels; *low rank* is two ordinary convolutions; *int8* is ONNX Runtime's static
        quantisation of the dense net and of the narrower ones{also}. *Range* is over seeds, whose number follows. Below each
        table: ours beside the best other method in the same milliseconds, on the straight line between two of its points.
    """
    return [
        "## Beside other ways to make a net faster", "", *paragraph(text), *origin("methods.json", content),
        *points([f"{net}: {settings_text(values)}" for net, values in content["settings"].items()]), "",
        "![accuracy against milliseconds for three nets](results/methods.svg)", *method_tables(content).splitlines(),
    ]  # fmt: skip


def architectures(files: dict[str, dict[str, Any]]) -> list[str]:
    """Foreign nets: the same answer as the net, or a clear no."""
    content = files["architectures.json"]
    runs = content["runs"]
    counts = Counter(run["outcome"] for run in runs.values())
    text = f"""
        [check_architectures.py](check_architectures.py): {len(runs)} nets of timm and torchvision, random weights, lookups that
        represent every layer exactly, held against the *original* net at the traced size and, where the file leaves height and
        width open, at others, with 1 and 3 images. *Off* is the largest difference, as a share of the standard deviation of the
        net's outputs from image to image. In all: {", ".join(f"{n} {outcome}" for outcome, n in counts.most_common())}.
    """
    rows = []
    for name, run in sorted(runs.items()):
        off = f"{run['difference']:.1e}" if "difference" in run else ""
        layers = f"{run['lookup_layers']} of {run['layers']}" if "layers" in run else ""
        is_open = "open" if "height" in run.get("input", ()) else "fixed"
        rows.append([name, run["outcome"], off, layers, is_open if "input" in run else ""])
    return [
        "## Foreign nets", "", *paragraph(text), *origin("architectures.json", content),
        *markdown(["net", "outcome", "off", "lookup layers", "height and width"], rows),
    ]  # fmt: skip


def training_steps(files: dict[str, dict[str, Any]]) -> list[str]:
    """A step of training from new weights, dense and at published dictionaries."""
    content = files["training_steps.json"]
    rows = [
        [
            NET_TITLES.get(row["net"], row["net"]), row["preset"], f"{row['batch']}", f"{row['dense_s']:.2f}",
            f"{row['lookup_s']:.2f}", f"{row['ratio']:.2f} ({row['lowest_ratio']:.2f} to {row['highest_ratio']:.2f})",
        ]
        for row in content["rows"]
    ]  # fmt: skip
    text = f"""
        Forward, backward and update of one batch in torch, {content["threads"]} thread, dense and with lookups in turn,
        medians. *Over dense* is the median of the ratios, with the lowest and the highest.
    """
    return [
        "## Steps of training from new weights", "", *paragraph(text), *origin("training_steps.json", content),
        *markdown(["net", "preset", "batch", "dense, s", "lookups, s", "over dense"], rows),
    ]  # fmt: skip


SECTIONS = (
    paper, narrow, digits, demosaicnet, accuracy_at_macs, fashion, targets, methods, architectures, training_steps,
)  # fmt: skip
