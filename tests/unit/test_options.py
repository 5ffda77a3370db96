"""Each option of `run` is said once, and is then the same on the command line and in a configuration file."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from launcher import cli, engines
from launcher.options import FLAG, MIB, OPTIONS, PATH, SECONDS, TEXT, Option, add_to, settle
from shared.errors import UsageError

# One of each kind that the options of today do not show.
MORE = (
    *OPTIONS,
    Option("disk", PATH, "a disk", is_repeatable=True, prefixes=("ro:",)),
    Option("disk-io", TEXT, "how", default="thread", choices=("thread", "uring")),
)


def settled(*argv: str, options: Sequence[Option] = OPTIONS) -> argparse.Namespace:
    parser = cli.Parser(prog="launcher run")
    add_to(parser, options)
    return settle(parser.parse_args(argv), options)


def file_with(folder: Path, text: str) -> str:
    path = folder / "run.toml"
    path.write_text(text)
    return str(path)


def sample(option: Option) -> tuple[str, str, object]:
    """Return a value as it is said on the command line, as it is said in TOML, and as it must come out."""
    if option.kind is FLAG:
        return "", "true", True
    if option.kind is MIB:
        return "32", "32", 32
    if option.kind is SECONDS:
        return "2.5", "2.5", 2.5
    if option.choices:
        return option.choices[-1], f'"{option.choices[-1]}"', option.choices[-1]
    return "/a", '"/a"', "/a"


@pytest.mark.parametrize("option", MORE, ids=lambda option: option.name)
def test_an_option_means_the_same_on_the_command_line_and_in_a_file(option: Option, tmp_path: Path) -> None:
    text, toml, value = sample(option)
    flag = f"--{option.name}" if option.kind is FLAG else f"--{option.name}={text}"
    argv = [text] if option.name == "image" else ["echo", text] if option.name == "args" else [flag]
    expected = [value] if option.is_repeatable else value
    path = file_with(tmp_path, f"{option.name} = {f'[{toml}]' if option.is_repeatable else toml}")
    assert getattr(settled(*argv, options=MORE), option.dest) == expected
    assert getattr(settled(path, options=MORE), option.dest) == expected


def test_what_nobody_says_is_the_default_with_a_file_and_without(tmp_path: Path) -> None:
    without, empty = settled(), settled(file_with(tmp_path, ""))
    assert without == empty
    assert (without.image, without.args, without.memory, without.timeout, without.rng) == ("echo", [], 16, None, False)


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    path = file_with(tmp_path, 'image = "say"\nargs = ["a", "b"]\nmemory = 8\nrng = true\nwaker = "thread/poll"\n')
    args = settled(path, "c", "--memory", "9", "--no-rng")
    assert (args.image, args.args, args.memory, args.rng, args.waker) == ("say", ["c"], 9, False, "thread/poll")


def test_a_list_on_the_command_line_takes_the_place_of_the_files(tmp_path: Path) -> None:
    path = file_with(tmp_path, 'disk = ["/a", "/b"]')
    assert settled(path, "--disk", "/c", "--disk", "/d", options=MORE).disk == ["/c", "/d"]


def test_a_path_counts_from_the_folder_of_the_file(tmp_path: Path) -> None:
    path = file_with(tmp_path, 'image = "g.elf"\nrng-file = "/dev/urandom"\ndisk = ["a", "ro:b", "/c", "ro:/d"]')
    args = settled(path, options=MORE)
    assert args.image == f"{tmp_path}/g.elf"
    assert args.rng_file == "/dev/urandom"
    assert args.disk == [f"{tmp_path}/a", f"ro:{tmp_path}/b", "/c", "ro:/d"]


def test_a_built_in_guest_is_no_path(tmp_path: Path) -> None:
    (tmp_path / "say").touch()
    assert settled(file_with(tmp_path, 'image = "say"')).image == "say"


def test_a_file_beside_the_configuration_is_no_built_in_guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.toml").write_text('image = "./say"\ndisk = ["./ro:a", "ro:./b"]')
    args = settled("run.toml", options=MORE)
    for said, meant in [(args.image, "say"), (args.disk[0], "ro:a"), (args.disk[1].removeprefix("ro:"), "b")]:
        assert said != meant
        assert Path(said) == Path(meant)


def test_a_file_may_begin_with_the_mark_that_some_editors_put_there(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_bytes(b"\xef\xbb\xbfmemory = 8\n")
    assert settled(str(tmp_path / "run.toml")).memory == 8


def test_the_help_names_every_engine() -> None:
    (engine,) = [option for option in OPTIONS if option.name == "engine"]
    assert engine.help.endswith(": " + ", ".join([engines.AUTO, *engines.names()]))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("wakr = 1", "'wakr' is no option of run; did you mean 'waker'?"),
        ("rng_file = 'x'", "'rng_file' is no option of run; did you mean 'rng-file'?"),
        ("Memory = 1", "'Memory' is no option of run; did you mean 'memory'?"),
        ("[run]\nmemory = 1", "'run' is no option of run; did you mean 'rng'?"),
        ("xyzzy = 1", f"'xyzzy' is no option of run; there are {', '.join(o.name for o in MORE)}"),
        ("memory = true", "memory is true, but takes a number of MiB"),
        ("memory = 1.5", "memory is 1.5, but takes a number of MiB"),
        ("memory = '16'", "memory is '16', but takes a number of MiB"),
        ("timeout = 0", "timeout: '0' is not between 0 and 10000000 seconds"),
        ("timeout = nan", "timeout: 'nan' is not between 0 and 10000000 seconds"),
        ("timeout = 1979-05-27", "timeout is 1979-05-27, but takes a number of seconds"),
        ("rng = 1", "rng is 1, but takes true or false"),
        ("waker = ['thread/poll']", "waker is a list, but takes a string"),
        ("waker.name = 1", "waker is a table, but takes a string"),
        ("args = 'a'", "args is 'a', but takes a list, each a string"),
        ("args = ['a', 1]", "args is 1, but takes a string"),
        (r'args = ["a\u0000b"]', "args has a NUL in it; leave it out"),
        (r'rng-file = "\u0000"', "rng-file has a NUL in it; leave it out"),
        ("disk-io = 'fast'", "disk-io is 'fast'; there are thread, uring"),
        (f"memory = 0x{'f' * 5000}", "memory: Exceeds the limit"),
        ("memory = 1\nmemory = 2", "is no TOML: Cannot overwrite a value"),
        (f"args = {'[' * 5000}", "is n"),  # nested too deeply for Python's own stack, or no TOML as it has a limit
        (f"memory = {'9' * 5000}", "is no TOML: Exceeds the limit"),
    ],
)
def test_what_no_option_takes_is_refused_in_one_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    path = file_with(tmp_path, text)
    with pytest.raises(UsageError) as refusal:
        settled(path, options=MORE)
    assert str(refusal.value).startswith(f"{path}: {sentence}")
    assert "\n" not in str(refusal.value)


def test_where_a_file_is_no_toml_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"run\.toml: is no TOML: .* \(at line 3, column 12\)$"):
        settled(file_with(tmp_path, "\n\nmemory = 1 2"))


def test_a_file_names_no_other_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is a configuration file, too; give the Guest itself$"):
        settled(file_with(tmp_path, 'image = "other.toml"'))


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.toml: cannot be read: No such file or directory$"):
        settled(str(tmp_path / "none.toml"))
    (tmp_path / "folder.toml").mkdir()
    os.mkfifo(tmp_path / "fifo.toml")
    for name in ("folder.toml", "fifo.toml"):
        with pytest.raises(UsageError, match="is not a regular file"):
            settled(str(tmp_path / name))
    (tmp_path / "latin.toml").write_bytes(b"args = ['\xe4']")
    with pytest.raises(UsageError, match=r"is no text in UTF-8 \(byte 9\)"):
        settled(str(tmp_path / "latin.toml"))


def test_the_names_of_all_options_are_told_apart() -> None:
    assert len({option.dest for option in OPTIONS}) == len(OPTIONS)
