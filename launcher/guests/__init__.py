"""The built-in Guests, the same set for every engine: NAME.py for `python`, i386/NAME.elf for the others.

What is no Guest here is what several of them have in common; it has its twin in i386/NAME.h.
"""

from __future__ import annotations

from pathlib import Path

_IMAGES = Path(__file__).parent / "i386"


def names() -> list[str]:
    """Return the names of the built-in Guests."""
    return sorted(path.stem for path in _IMAGES.glob("*.elf"))


def image_path(name: str) -> Path:
    """Return where the machine-code image of a built-in Guest is."""
    return _IMAGES / f"{name}.elf"


def module(name: str) -> str:
    """Return the module of a built-in Guest in Python: a dash in its name is an underscore there."""
    return f"launcher.guests.{name.replace('-', '_')}"


def description(name: str) -> str:
    """Return what a built-in Guest does: the first line of its source."""
    source = (Path(__file__).parent / f"{module(name).rpartition('.')[2]}.py").read_text(encoding="utf-8")
    return source.removeprefix('"""').split('"""', 1)[0].split("\n", 1)[0]
