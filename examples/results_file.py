"""A JSON file of results that a long comparison goes on with after a stop."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lcnn_compress.files import write_atomically
from lcnn_compress.machine import machine


class Results:
    """The JSON file, written after every change. ``compute`` is not called for what is there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content: dict[str, Any] = {"settings": {}, "dense": {}, "plans": {}, "runs": {}, "times": {}, "timed_on": {}}
        if path.is_file():
            self.content |= json.loads(path.read_text())

    def check_settings(self, net: str, settings: dict[str, Any]) -> None:
        """Refuse to mix results of a net that were made with different settings.

        Raises:
            SystemExit: the file holds results made with others.
        """
        settings = json.loads(json.dumps(settings))  # tuples are lists there
        found = self.content["settings"].setdefault(net, settings)
        if found != settings:
            raise SystemExit(
                f"{self.path}: {net} was made with {found}, asked for are {settings}; give the same or another --output"
            )

    def get(self, kind: str, key: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        if key not in self.content[kind]:
            self.put(kind, key, compute())
        found: dict[str, Any] = self.content[kind][key]
        return found

    def put(self, kind: str, key: str, value: dict[str, Any]) -> None:
        self.content[kind][key] = value
        self.content |= {"date": time.strftime("%Y-%m-%d"), "machine": asdict(machine())}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, (json.dumps(self.content, indent=1) + "\n").encode())
