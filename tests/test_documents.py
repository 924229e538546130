"""What the pages say is there: rooms, files, commands; and the front page stays short."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from cases import small_net
from test_architecture import LEVELS
from typer.main import get_command

from lcnn_compress.cli.app import app

ROOT = Path(__file__).parent.parent
PAGES = sorted(path for path in ROOT.rglob("*.md") if not {"build", ".git", ".venv"} & set(path.relative_to(ROOT).parts))
FRONT = (ROOT / "README.md").read_text()
TOUR = (ROOT / "lcnn_compress" / "README.md").read_text()
FORMER_OPTIONS = ("--share", "--coefficients", "--precision")  # still understood, and in no help
GROUP: Any = get_command(app)
COMMANDS = (
    "compress", "export", "bench", "eval", "sensitivity", "inspect", "profile", "predict", "train", "doctor", "quickstart",
)  # fmt: skip


def blocks(text: str, language: str = "") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def test_the_tour_names_every_room_with_its_level() -> None:
    rows = re.findall(r"^\| (\d+) \| `(\w+)/?` \|", TOUR, re.MULTILINE)
    assert {name: int(level) for level, name in rows} == {
        name: level for name, level in LEVELS.items() if name not in ("__main__", "lcnn_compress")
    }


def test_the_front_page_is_short() -> None:
    assert len(FRONT.splitlines()) <= 110
    assert len(FRONT.split()) <= 900
    assert len(re.findall(r"\d+(?:[.,]\d+)*", FRONT)) <= 60
    assert len(re.findall(r"^\|(?: ?-+ ?\|)+$", FRONT, re.MULTILINE)) == 1


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    assert [target for target in targets if "://" not in target and not (page.parent / target).exists()] == []


def test_nobody_is_sent_to_an_index_the_package_is_not_on() -> None:
    files = [*PAGES, *(ROOT / "lcnn_compress").rglob("*.py"), *(ROOT / "examples").glob("*.py")]
    assert len(files) > 50
    assert [path for path in files if re.search(r"pip install (-U )?lcnn", path.read_text())] == []


def test_the_page_of_the_command_line_lists_the_commands() -> None:
    page = (ROOT / "lcnn_compress" / "cli" / "README.md").read_text()
    assert tuple(re.findall(r"^\| `lcnn (\w+)", page, re.MULTILINE)) == COMMANDS
    assert set(GROUP.commands) == {*COMMANDS}


@pytest.mark.parametrize("page", ["README.md", "lcnn_compress/cli/README.md"])
def test_options_on_the_pages_exist(page: str) -> None:
    known = {name for command in GROUP.commands.values() for option in command.params for name in option.opts}
    known |= {name for command in GROUP.commands.values() for option in command.params for name in option.secondary_opts}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", (ROOT / page).read_text()))
    assert "--data" in named
    assert sorted(named - known - {"--help", *FORMER_OPTIONS}) == []


def test_the_lines_of_python_on_the_front_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net_of_yours, from_python = blocks(FRONT, "python")
    monkeypatch.chdir(tmp_path)
    values: dict[str, object] = {}
    exec(net_of_yours, values)
    assert (tmp_path / "model.pt").stat().st_size > 1e6
    values["model"] = small_net()
    exec(from_python.replace("(model, 30)", "(model, 4, input_shape=(1, 3, 16, 16))"), values)
    assert (tmp_path / "model.lcnn" / "report.html").is_file()
    assert (tmp_path / "model.onnx").is_file()
