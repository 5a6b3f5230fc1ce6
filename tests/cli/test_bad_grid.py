"""grid with what it must refuse: one sentence, status 2, nothing written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Refused = Callable[..., str]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none.csv", "--label", "y"], "signals 'none.csv': does not exist"),
        (["--backbones", "atention"], "backbone 'atention': is unknown; did you mean 'attention'"),
        (["--objectives", "cpcc"], "objective 'cpcc': is unknown; did you mean 'cpc'"),
        (["--objectives", "next-token"], "needs tokens, and these are signals"),
        (["--set", "offset=3"], "sets no field of an objective; write for example cpc.offset=8"),
        (["--set", "cpc.offset"], "is no FIELD=VALUE; write for example --set cpc.offset=8"),
        (["--set", "cpc.offset=[3"], "is no FIELD=VALUE; write for example --set cpc.offset=8"),
        (["--set", "cpc.ofset=3"], "field 'ofset' of cpc: is unknown; did you mean 'offset'"),
        (["--objectives", "jepa", "--set", "cpc.offset=3"], "which takes no part; name it too"),
        (["--set", "cpc.offset=99"], "leaves nothing to predict in sequences of 64 positions"),
        (["--rows", "300,9000"], "--rows 9000: is no amount of 6,000 rows"),
        (["--rows", "300,300"], "name one twice"),
        (["--seeds", "0"], "--seeds 0: is too few"),
        (["--steps", "5", "--flops", "1e9"], "are two budgets for a cell"),
        (["--flops", "10"], "are less than one update of state-space with cpc"),
        (["--head", "quadratic"], "--head quadratic: is no head; use one of linear, mlp, finetune"),
        (["--factor", "1"], "make no grid of rates"),
        (["--cost-per-run", "0"], "is no price"),
        (["--jobs", "0"], "--jobs 0: is no number of processes"),
        (["--text", "notes.txt"], "needs a language model to read it"),
        (["--stride", "5"], "needs a window"),
        (["--resume"], "needs the folder of the run"),
        (["--device", "quantum"], "is no device of this machine"),
    ],
)
def test_a_bad_option(refused: Refused, tmp_path: Path, arguments: list[str], said: str) -> None:
    out = [] if "--resume" in arguments else ["--out", tmp_path / "run"]
    assert said in refused("grid", *arguments, *out, "--quiet")


def test_a_table_that_nothing_judges(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n" + "1,2\n3,4\n" * 20)
    assert "is to be judged by no label" in refused("grid", tmp_path / "a.csv", "--out", tmp_path / "run")
    (tmp_path / "b.csv").write_text("a,b,y\n" + "".join(f"{n},{n * n},x\n" for n in range(20)))
    assert "has one class only, 'x'" in refused("grid", tmp_path / "b.csv", "--label", "y", "--out", tmp_path / "run")


def test_a_model_with_what_is_of_signals(refused: Refused, tiny: Path, tmp_path: Path) -> None:
    out = ["--out", tmp_path / "run", "--quiet"]
    assert "is no file of signals" in refused("grid", tiny, "--label", "y", *out)
    assert "is no file of signals" in refused("grid", tiny, "--control", *out)
    assert "a language model keeps its head" in refused("grid", tiny, "--labels", "5", *out)
    assert "skeleton 'attention': is unknown" in refused("grid", tiny, "--backbones", "attention", *out)
    assert "objective 'jepa': is unknown" in refused("grid", tiny, "--objectives", "jepa", *out)
    assert "is above 100 %" in refused("grid", tiny, "--memory", "120%", *out)
    assert "leave at least" in refused("grid", tiny, "--memory", "1%", *out)
    assert "does not exist" in refused("grid", tiny, "--text", tmp_path / "none.txt", *out)
    assert "does not exist" in refused("grid", tmp_path / "nothing", *out)
    assert not (tmp_path / "run").exists()
