"""Write RESULTS.md from the JSON files of results/; the same files give the same bytes.

python examples/make_results.py
python examples/make_results.py --check    # ends with 1 if RESULTS.md is not what the files give
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from results_tables import SECTIONS

HERE = Path(__file__).resolve().parent
HEAD = """# Results

Written by [make_results.py](make_results.py) from the JSON files of [results/](results/): change those, not this page. Each
section names its script; what the scripts need is in [README.md](README.md). Figures compare only within one machine and run:
a processor of another kind ranks the kernels otherwise, and a shared machine changes speed within minutes."""


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the content of every JSON file of a folder by its name."""
    return {path.name: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def page(files: dict[str, dict[str, Any]]) -> str:
    """Return the text of RESULTS.md."""
    return "\n\n".join([HEAD, *("\n".join(section(files)) for section in SECTIONS)]) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check RESULTS.md; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare RESULTS.md with the files and write nothing")
    parser.add_argument("--output", type=Path, default=HERE / "RESULTS.md")
    options = parser.parse_args(arguments)
    text = page(read(HERE / "results"))
    if not options.check:
        options.output.write_text(text)
        return 0
    if options.output.is_file() and options.output.read_text() == text:
        return 0
    print(f"{options.output}: is not what results/ gives; run python examples/make_results.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
