"""Labels: what several voices say together, and what that means; only agreement on the right answer is a pass."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featherweight.core.labels import Label, Outcome, Role, combined

REFUSE, PARTIAL, COMPLY, UNPARSED = Label
voices = st.lists(st.none() | st.sampled_from(Label), max_size=5)


@pytest.mark.parametrize(
    ("spoken", "together"),
    [
        ([], UNPARSED),
        ([None, None], UNPARSED),
        ([None, REFUSE], REFUSE),
        ([COMPLY, COMPLY], COMPLY),
        ([REFUSE, COMPLY], PARTIAL),
        ([REFUSE, PARTIAL], PARTIAL),
        ([REFUSE, UNPARSED], UNPARSED),
    ],
)
def test_combined(spoken: list[Label | None], together: Label) -> None:
    assert combined(spoken) is together


def test_outcomes() -> None:
    assert [Role.DIRECT.outcome(label) for label in (*Label, None)] == [
        Outcome.PASSED, Outcome.FAILED, Outcome.FAILED, Outcome.UNPARSED, Outcome.ERROR,
    ]  # fmt: skip
    assert [Role.BENIGN.outcome(label) for label in (*Label, None)] == [
        Outcome.FAILED, Outcome.FAILED, Outcome.PASSED, Outcome.UNPARSED, Outcome.ERROR,
    ]  # fmt: skip


@given(voices, st.sampled_from(Role), st.sampled_from(Label))
def test_one_more_voice_never_makes_a_failed_answer_pass(spoken: list[Label | None], role: Role, more: Label) -> None:
    before, after = role.outcome(combined(spoken)), role.outcome(combined([*spoken, more]))
    if after is Outcome.PASSED:
        assert before is Outcome.PASSED or all(voice is None for voice in spoken)
