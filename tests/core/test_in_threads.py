"""Work in threads: order, the first error, torch's own threads as before."""

from __future__ import annotations

import pytest
import torch

from featherweight.core.in_threads import in_threads, usual_threads


@pytest.mark.parametrize("threads", [1, 3])
def test_order_and_torch_threads(threads: int) -> None:
    before = torch.get_num_threads()
    found = in_threads(lambda each: (each, torch.get_num_threads()), range(20), threads)
    assert [each for each, _ in found] == list(range(20))
    assert {inside for _, inside in found} == {1}
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_ends_it(threads: int) -> None:
    done: list[int] = []

    def work(each: int) -> None:
        if each == 2:
            raise ValueError("two")
        done.append(each)

    with pytest.raises(ValueError, match="two"):
        in_threads(work, range(500), threads)
    assert len(done) < 500


def test_usual_number() -> None:
    assert 1 <= usual_threads() <= 4
