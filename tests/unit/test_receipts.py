"""Receipts survive what happens to files, and what is no receipt is refused in one sentence."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.bench.store.packing import pack, unpack
from launcher.bench.store.receipts import (
    NotWritten,
    ReceiptsError,
    Round,
    Run,
    Usage,
    Writer,
    default_folder,
    default_path,
    read,
)
from launcher.bench.store.records import round_to_json
from shared.errors import UsageError

RUN = Run("launcher duel a b", "duel", {"kernel": "6.1", "versions": {"numpy": "2"}}, "2026-01-01T00:00:00Z")


def round_of(**changes: Any) -> Round:
    values: dict[str, Any] = {
        "arm": "A",
        "case": "wake",
        "engine": "kvm",
        "waker": "process/select",
        "parameters": {"gap_us": 50, "pin": "apart", "share": 0.5},
        "seed": 2**70,
        "block": 3,
        "position": 1,
        "started": "2026-01-01T00:00:01Z",
        "duration_ns": 10**9,
        "latencies_ns": np.array([5, 2**63 - 1, -(2**63), 0]),
        "stages_ns": {"SEEN→BREAK": np.array([1, 2])},
        "counts": {"sent": 4, "served": 3, "lost": 1},
        "lost_seqs": [2],
        "usage": [Usage("launcher", 1, 2, 3, 4), Usage("waker", 1, 2, 3, None)],
        "trace_ns_per_stamp": 310.5,
        "ended": "ok",
    }
    return Round(**(values | changes))


def written(path: Path, *rounds: Round) -> Path:
    with Writer.create(path, RUN) as writer:
        for round_ in rounds:
            writer.write(round_)
    return path


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = written(tmp_path / "deep" / "er" / "a.jsonl", round_of(), round_of(arm="B", position=2))
    receipts = read(path)
    assert receipts.run == RUN
    assert receipts.notes == []
    assert receipts.arms() == ["A", "B"]
    assert [r.position for r in receipts.of_arm("B")] == [2]
    assert round_to_json(receipts.rounds[0]) == round_to_json(round_of())
    assert receipts.rounds[0].latencies_ns.dtype == np.int64
    receipts.rounds[0].latencies_ns.sort()  # a copy of our own


@settings(deadline=None)
@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=50))
def test_any_integers_are_packed_exactly(values: list[int]) -> None:
    packed = json.loads(json.dumps(pack(np.array(values, np.int64))))
    assert unpack(packed).tolist() == values


_TEXT = st.text(st.characters(exclude_categories=("C", "Z")), max_size=8)
_INT64 = st.integers(-(2**63), 2**63 - 1)
_ARRAY = st.lists(_INT64, max_size=8).map(lambda values: np.array(values, np.int64))


@settings(deadline=None, max_examples=40)
@given(
    st.fixed_dictionaries(
        {
            "arm": _TEXT,
            "parameters": st.dictionaries(_TEXT, _INT64 | st.floats(allow_nan=False, allow_infinity=False) | _TEXT),
            "seed": st.integers(),
            "block": _INT64,
            "latencies_ns": _ARRAY,
            "stages_ns": st.dictionaries(_TEXT, _ARRAY),
            "counts": st.dictionaries(_TEXT, _INT64),
            "lost_seqs": st.lists(_INT64),
            "usage": st.lists(st.builds(Usage, _TEXT, _INT64, _INT64, _INT64, st.none() | _INT64)),
            "trace_ns_per_stamp": st.none() | st.floats(0, 1e9),
            "ended": st.text(st.characters(exclude_categories=("Cs",))),
        }
    )
)
def test_any_round_comes_back_as_it_was(fields: dict[str, Any]) -> None:
    round_ = round_of(**fields)
    with tempfile.TemporaryDirectory() as folder:
        (back,) = read(written(Path(folder) / "a.jsonl", round_)).rounds
    assert round_to_json(back) == round_to_json(round_)
    assert {name: getattr(back, name) for name in fields if "_ns" not in name} == {
        name: value for name, value in fields.items() if "_ns" not in name
    }


@pytest.mark.parametrize(
    "change",
    [
        {"n": 3},
        {"n": 5},
        {"n": -1},
        {"n": True},
        {"n": 1 << 40},
        {"data": "?"},
        {"data": "AAAA"},
        {"data": 7},
        {"data": "é"},
        {"dtype": ">i8"},
        {"encoding": "gzip"},
    ],
)
def test_a_damaged_array_does_not_unpack(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"unpack|packed|length"):
        unpack(pack([1, 2, 3, 4]) | change)


@pytest.mark.parametrize("value", [None, [1, 2], "x"])
def test_what_is_no_packed_array_does_not_unpack(value: object) -> None:
    with pytest.raises(ValueError, match="is not a packed array"):
        unpack(value)


def test_a_file_cut_off_at_any_byte_gives_what_was_whole_or_is_refused(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole", round_of(), round_of(position=2)).read_bytes()
    ends = [at for at, byte in enumerate(whole) if byte == ord("\n")]
    cut = tmp_path / "cut"
    for length in range(len(whole) + 1):
        cut.write_bytes(whole[:length])
        complete = sum(end <= length for end in ends)  # the end of line itself is not missed
        if complete == 0:
            with pytest.raises(ReceiptsError, match=r"is empty|is no file of receipts"):
                read(cut)
            continue
        receipts = read(cut)
        assert len(receipts.rounds) == complete - 1
        is_torn = length > ends[complete - 1] + 1
        assert len(receipts.notes) == is_torn
        writer, _ = Writer.resume(cut)
        with writer:
            writer.write(round_of(position=3))
        resumed = read(cut)
        assert resumed.notes == []
        assert [r.position for r in resumed.rounds] == [1, 2][: complete - 1] + [3]


def test_a_file_that_one_writes_to_another_does_not_go_on_with(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with Writer.create(path, RUN):
        with pytest.raises(ReceiptsError, match="is being written to by another process: wait"):
            Writer.resume(path)
        read(path)  # but look at
    writer, _ = Writer.resume(path)
    with writer, pytest.raises(ReceiptsError, match="is being written to"):
        Writer.resume(path)
    path.write_text("nothing of ours")
    with pytest.raises(ReceiptsError, match="is no file of receipts"):
        Writer.resume(path)
    path.write_bytes(written(tmp_path / "b.jsonl").read_bytes())
    Writer.resume(path)[0].close()  # what was refused is not held


def test_a_writer_that_is_killed_leaves_what_it_wrote(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "from tests.unit.test_receipts import *\n"
        "writer = Writer.create(Path(sys.argv[1]), RUN)\n"
        "for position in range(3): writer.write(round_of(position=position))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    path = tmp_path / "a.jsonl"
    done = subprocess.run([sys.executable, "-c", script, str(path)], check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == -signal.SIGKILL
    assert [r.position for r in read(path).rounds] == [0, 1, 2]


def test_a_round_that_is_there_twice_does_not_count_twice(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", round_of(position=5), round_of(position=6))
    read(path)
    path.write_bytes(path.read_bytes() + path.read_bytes().splitlines(keepends=True)[1])
    with pytest.raises(ReceiptsError, match="line 4 is the round of line 2 once more"):
        read(path)


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl")
    for taken in (path, tmp_path):
        with pytest.raises(UsageError, match="is there already; name another file"):
            Writer.create(taken, RUN)


def test_what_is_no_file_can_be_written_to_as_often_as_one_likes(tmp_path: Path) -> None:
    for _ in range(2):
        with Writer.create(Path("/dev/null"), RUN) as writer:
            writer.write(round_of())
    with pytest.raises(NotWritten, match=r"^/dev/full: No space left on device"):
        Writer.create(Path("/dev/full"), RUN)


@pytest.mark.parametrize("name", ["file/x.jsonl", "file/deeper/y.jsonl", "/proc/x/y.jsonl"])
def test_a_file_that_cannot_be_made_is_a_sentence_with_the_remedy(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    path = tmp_path / name
    sentence = rf"^{re.escape(str(path))} cannot be made: /[^:]+: \w[^:]+; name another file with -o, or another"
    with pytest.raises(ReceiptsError, match=sentence):
        Writer.create(path, RUN)


def test_a_file_that_nothing_came_into_is_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.jsonl"
    for _ in range(2):  # and its name can be had again
        with Writer.open(path):
            assert path.exists()
        assert not path.exists()
    with Writer.open(path) as writer:
        writer.begin(RUN)
    assert read(path).run == RUN
    with Writer.open(Path("/dev/null")):
        pass
    assert Path("/dev/null").exists()


@pytest.mark.parametrize(("before", "after"), [(b"\xef\xbb\xbf", b""), (b"", b"\n"), (b"", b"\r\n\n")])
def test_what_an_editor_leaves_in_a_file_is_no_matter(before: bytes, after: bytes, tmp_path: Path) -> None:
    path = written(tmp_path / "x.jsonl", round_of(), round_of(position=2))
    path.write_bytes(before + path.read_bytes() + after)
    read_back = read(path)
    assert (len(read_back.rounds), read_back.notes) == (2, [])


def test_a_device_without_an_end_is_not_read_to_it() -> None:
    with pytest.raises(ReceiptsError, match=r"^/dev/zero is a device and no file of receipts: "):
        read(Path("/dev/zero"))


def test_a_pipe_is_read_as_a_file_is(tmp_path: Path) -> None:
    ours, theirs = os.pipe()
    os.write(theirs, written(tmp_path / "x.jsonl", round_of()).read_bytes())
    os.close(theirs)
    assert len(read(Path(f"/dev/fd/{ours}")).rounds) == 1
    os.close(ours)


def test_without_a_home_folder_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)  # a user without a name, as in a container
    with pytest.raises(UsageError, match="no home folder to keep receipts in: name a file with -o, or set HOME"):
        default_path("bench")


def line(**value: object) -> bytes:
    return json.dumps(value).encode() + b"\n"


HEAD = line(schema=1, kind="run", run={"command": "x", "kind": "duel", "host": {}, "started": ""})


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "is empty"),
        (b"\n", "line 1 is no receipt"),
        (b"\x7fELF\x00\xff", "is no file of receipts"),
        (b"\x7fELF\x00\xff\n", "line 1 is no receipt"),
        (b"{}\n", "line 1 is no receipt"),
        (b"[1]\n", "line 1 is no receipt"),
        (b"[" * 100_000 + b"\n", "line 1 is no receipt"),
        (b"[" * 100_000, "is no file of receipts"),
        (b'{"schema": NaN}\n', "line 1 is no receipt"),
        (line(schema=0, kind="run", run={}), "line 1 is no receipt"),
        (line(schema=True, kind="run", run={}), "line 1 is no receipt"),
        (line(schema=1, kind=["run"], run={}), "line 1 is no receipt"),
        (line(schema=1, kind="run", run=7), "line 1 is no receipt"),
        (line(schema=2, kind="run", run={}), "line 1 has schema 2 and this launcher reads up to 1"),
        (line(schema=1, kind="round", round={}), "line 1 is a round and not the run"),
        (line(schema=1, kind="run", run={}), "line 1: 'command' is missing"),
        (HEAD + b'{"schema": 1, "kind": "round", "round": {"arm": "\\ud800"}}\n', "line 2 is no receipt"),
        (HEAD + b'{"schema": 1, "kind": "round", "round": {"trace_ns_per_stamp": 1e999}}\n', "line 2 is no receipt"),
        (HEAD + HEAD, "line 2 begins a second run"),
        (HEAD + b"{]\n" + HEAD, "line 2 is no receipt"),
        (HEAD + line(schema=3, kind="round", round={}), "line 2 has schema 3"),
    ],
)
def test_what_is_no_receipt_is_refused_in_a_sentence(tmp_path: Path, data: bytes, sentence: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(data)
    with pytest.raises(ReceiptsError, match=sentence):
        read(path)


@pytest.mark.parametrize(
    "change",
    [
        {"arm": 7},
        {"arm": "\x1b[2J"},
        {"block": True},
        {"block": 1.5},
        {"latencies_ns": [1]},
        {"stages_ns": []},
        {"stages_ns": {"a": 1}},
        {"counts": {"lost": "0"}},
        {"counts": {"served": 10**400}},
        {"usage": [{"role": "waker", "cpu_ns": 2**63, "voluntary": 0, "involuntary": 0, "pss_bytes": None}]},
        {"lost_seqs": {}},
        {"lost_seqs": [None]},
        {"usage": [7]},
        {"usage": [{}]},
        {"parameters": {"a": []}},
        {"parameters": {"a": "\x1b[2J"}},
        {"parameters": {"\x1b[2J": 1}},
        {"counts": {"\x1b[2J": 1}},
        {"trace_ns_per_stamp": "1"},
        {"ended": None},
    ],
)
def test_a_field_that_it_cannot_be_is_refused_by_name(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(HEAD + line(schema=1, kind="round", round=round_to_json(round_of()) | change))
    with pytest.raises(ReceiptsError, match=r"a.jsonl, line 2: "):
        read(path)


@pytest.mark.parametrize("name", sorted(round_to_json(round_of())))
def test_a_field_that_is_missing_is_named(tmp_path: Path, name: str) -> None:
    value = round_to_json(round_of())
    del value[name]
    path = tmp_path / "a.jsonl"
    path.write_bytes(HEAD + line(schema=1, kind="round", round=value))
    with pytest.raises(ReceiptsError, match=f"line 2: '{name}' is missing"):
        read(path)


def test_receipts_go_below_the_state_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/x")
    assert default_folder() == Path("/x/lguest-launcher/receipts")
    assert default_path("duel").name.startswith("duel-")
    assert str(os.getpid()) in default_path("duel").name
    monkeypatch.setenv("XDG_STATE_HOME", "not/absolute")
    monkeypatch.setenv("HOME", "/home/me")
    assert default_folder() == Path("/home/me/.local/state/lguest-launcher/receipts")
