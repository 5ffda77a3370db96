"""The options of `launcher run`, said once: the command line and a configuration file both read them off here.

A new option is one more `Option` below, and what `commands.run` does with it. It is then on the command line as
`--NAME`, in a file as `NAME = …`, in both with the same type, default and refusals.

What the command line says wins over what the file says, a list as a whole. A path in a file counts from the folder
that the file is in, so that a Guest, its disk and its file can be moved together; on the command line it counts from
where one is, as ever.
"""

from __future__ import annotations

import argparse
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher import guests
from launcher.config import DEFAULT_WAKER
from launcher.devices import blockio
from shared.errors import UsageError

CONFIG_SUFFIX = ".toml"
"""What an image that is a configuration file ends with."""

_MAX_TIMEOUT_S = 10_000_000  # a third of a year; the timer's own limit is beyond


@dataclass(frozen=True, slots=True)
class Kind:
    """What a value is: the types that it has in TOML, in words, and how it is read from text."""

    types: tuple[type, ...]
    takes: str
    from_text: Callable[[str], object] = str
    is_path: bool = False


def _mib(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of MiB") from None


def seconds(text: str) -> float:
    """Read a time in seconds off the command line; raise `ArgumentTypeError` for what is none."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds") from None
    if not 0 < value <= _MAX_TIMEOUT_S:
        raise argparse.ArgumentTypeError(f"'{text}' is not between 0 and {_MAX_TIMEOUT_S} seconds")
    return value


TEXT = Kind((str,), "a string")
PATH = Kind((str,), "a path", is_path=True)
FLAG = Kind((bool,), "true or false")
MIB = Kind((int,), "a number of MiB", _mib)
SECONDS = Kind((int, float), "a number of seconds", seconds)


@dataclass(frozen=True, slots=True)
class Option:
    """One option of `run`. A repeatable one is a list in a file; its default is the empty list."""

    name: str
    kind: Kind
    help: str
    default: object = None
    metavar: str | None = None
    is_repeatable: bool = False
    is_positional: bool = False
    choices: tuple[str, ...] = ()
    """What a text may be, where that is not open."""
    prefixes: tuple[str, ...] = ()
    """What may stand before a path, and is no part of it."""

    @property
    def dest(self) -> str:
        """The name of its attribute."""
        return self.name.replace("-", "_")


OPTIONS: tuple[Option, ...] = (
    Option(
        "image",
        PATH,
        "a built-in Guest (echo), an ELF file of 32-bit code, a bzImage, flat:FILE[@ADDR], a .py file, "
        f"or a {CONFIG_SUFFIX} file with options for run",
        default="echo",
        metavar="IMAGE",
        is_positional=True,
        prefixes=("flat:",),
    ),
    Option(
        "args",
        TEXT,
        "what the Guest is given besides; after -- if it begins with -",
        metavar="ARG",
        is_repeatable=True,
        is_positional=True,
    ),
    Option("engine", TEXT, "what runs the Guest: auto, kvm, unicorn, python", default="auto"),
    Option("waker", TEXT, "PLACE/STRATEGY[+BREAKER][+ring-aware]", default=DEFAULT_WAKER, metavar="NAME"),
    Option("memory", MIB, "Guest memory", default=16, metavar="MIB"),
    Option("initrd", PATH, "what a Linux kernel (bzImage) finds as its initial RAM disk", metavar="FILE"),
    Option("rng", FLAG, "give the Guest entropy, from the kernel", default=False),
    Option("rng-file", PATH, "give the Guest entropy, from FILE", metavar="FILE"),
    Option(
        "block",
        PATH,
        "give the Guest a disk, FILE; with ro: it can only read it",
        metavar="[ro:]FILE",
        is_repeatable=True,
        prefixes=("ro:",),
    ),
    Option(
        "block-io",
        TEXT,
        "what moves the disks' bytes: a thread each, or io_uring",
        default=blockio.NAMES[0],
        choices=blockio.NAMES,
    ),
    Option(
        "tunnet",
        TEXT,
        "give the Guest a network, with the host at ADDR (of a /24), or as a port of a bridge",
        metavar="ADDR[/LEN]|bridge:NAME",
        is_repeatable=True,
    ),
    Option("timeout", SECONDS, "stop a Guest that still runs after so long", metavar="S"),
    Option("verbose", FLAG, "say at the end what was counted", default=False),
)


def add_to(parser: argparse.ArgumentParser, options: Sequence[Option] = OPTIONS) -> None:
    """Have `parser` take the options; what was not given is absent from its result, and for `settle` to fill in."""
    for option in options:
        is_said = option.default is not None and option.kind is not FLAG and not option.is_positional
        more: dict[str, Any] = {
            "default": argparse.SUPPRESS,
            "help": option.help + (f" (default: {option.default})" if is_said else ""),
        }
        if option.kind is FLAG:
            more["action"] = argparse.BooleanOptionalAction  # --no-NAME: a file may have said yes
        else:
            more |= {"type": option.kind.from_text, "metavar": option.metavar, "choices": option.choices or None}
        if option.is_positional:
            parser.add_argument(option.dest, nargs="*" if option.is_repeatable else "?", **more)
        else:
            if option.is_repeatable:
                more["action"] = "append"
            parser.add_argument(f"--{option.name}", dest=option.dest, **more)


def settle(given: argparse.Namespace, options: Sequence[Option] = OPTIONS) -> argparse.Namespace:
    """Return all options: as given, else as the file says that was given as the image, else by default.

    Raises `UsageError` for a file that cannot be read or says what no option takes.
    """
    values: dict[str, object] = {o.dest: [] if o.is_repeatable else o.default for o in options}
    said = dict(vars(given))
    if str(said.get("image", "")).endswith(CONFIG_SUFFIX):
        values |= read_file(Path(said.pop("image")), options)
    return argparse.Namespace(**(values | said))


def read_file(path: Path, options: Sequence[Option] = OPTIONS) -> dict[str, object]:
    """Return the options that a configuration file sets, by attribute.

    Raises `UsageError`, in one sentence, for a file that cannot be read, is no TOML, has a key that is no option or a
    value that its option does not take.
    """
    by_name = {option.name: option for option in options}
    values: dict[str, object] = {}
    for key, value in _parse(path).items():
        if key not in by_name:
            raise UsageError(f"{path}: '{key}' is no option of run; {_nearest(key, list(by_name))}")
        option = by_name[key]
        values[option.dest] = _read_value(path, option, value)
    if str(values.get("image", "")).endswith(CONFIG_SUFFIX):
        raise UsageError(f"{path}: image '{values['image']}' is a configuration file, too; give the Guest itself")
    return values


def _parse(path: Path) -> dict[str, object]:
    import tomllib  # most runs have no such file

    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a FIFO would be waited for
            raise UsageError(f"{path}: is not a regular file; give one with options for run")
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # some editors begin with a BOM
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is no text in UTF-8 (byte {error.start}), which a TOML file must be") from error
    except RecursionError:
        raise UsageError(f"{path}: is nested too deeply; an option is a value or a list of values") from None
    except ValueError as error:  # TOMLDecodeError, which says where, and what int() has against a number
        raise UsageError(f"{path}: is no TOML: {error}") from error


def _nearest(key: str, names: list[str]) -> str:
    import difflib

    near = difflib.get_close_matches(key.lower().replace("_", "-"), names, n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else f"there are {', '.join(names)}"


def _read_value(path: Path, option: Option, value: object) -> object:
    if not option.is_repeatable:
        return _read_one(path, option, value)
    if not isinstance(value, list):
        raise UsageError(f"{path}: {option.name} is {_shown(value)}, but takes a list, each {option.kind.takes}")
    return [_read_one(path, option, one) for one in value]


def _read_one(path: Path, option: Option, value: object) -> object:
    kind = option.kind
    if type(value) not in kind.types:  # not isinstance: true is no number
        raise UsageError(f"{path}: {option.name} is {_shown(value)}, but takes {kind.takes}")
    if isinstance(value, str):
        if "\0" in value:  # which no command line can hold, and no system call takes
            raise UsageError(f"{path}: {option.name} has a NUL in it; leave it out")
        if option.choices and value not in option.choices:
            raise UsageError(f"{path}: {option.name} is {value!r}; there are {', '.join(option.choices)}")
        return _from_folder(path.parent, option, value) if kind.is_path else value
    if kind is FLAG:
        return value
    try:
        return kind.from_text(str(value))
    except (argparse.ArgumentTypeError, ValueError) as error:  # the latter: a number too long to be said
        raise UsageError(f"{path}: {option.name}: {error}") from error


def _from_folder(folder: Path, option: Option, text: str) -> str:
    """Return the path `text` as seen from here, where it was said as seen from `folder`."""
    if not text or (option.name == "image" and text in guests.names()):
        return text
    prefix = next((prefix for prefix in option.prefixes if text.startswith(prefix)), "")
    # Not `folder / text`, which makes "say" of "./say" here: a built-in Guest, where a file was meant.
    return prefix + os.path.join(folder, text.removeprefix(prefix))  # noqa: PTH118


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    return repr(value) if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else f"{value}"
