"""Several processes train what one does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = """
import sys, torch
torch.set_num_threads(1)
from tests.train.test_trainer import trainer
each = trainer(parts=int(sys.argv[2]))
each.module.dropout.p = 0.0
course = each.train()
name = f"{each.processes.index}-of-{each.processes.count}.pt"
torch.save((each.module.table.detach(), course.losses), f"{sys.argv[1]}/{name}")
"""


def launched(folder: Path, count: int, parts: int) -> list[tuple[torch.Tensor, list[float]]]:
    """What each of so many processes comes to, started as `accelerate launch` starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    root = str(Path(__file__).parents[2])
    common = {
        **os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]),
        "ACCELERATE_USE_CPU": "1", "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
    }  # fmt: skip
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(folder), str(parts)],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(count)
    ]
    assert [each.wait(timeout=500) for each in started] == [0] * count
    return [torch.load(folder / f"{rank}-of-{count}.pt", weights_only=True) for rank in range(count)]


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path: Path) -> None:
    from tests.train.test_trainer import trainer

    one = trainer()
    one.module.dropout.p = 0.0
    course = one.train()
    first, second = launched(tmp_path, 2, parts=2)
    assert torch.equal(first[0], second[0])
    torch.testing.assert_close(first[0], one.module.table.detach(), rtol=1e-6, atol=1e-6)
    assert first[1] == pytest.approx(course.losses, rel=1e-6)
