from __future__ import annotations

import torch

from pipeline.engines.loss_scale import LossScale


def test_scale_moves_and_is_saved_as_gradscaler_does() -> None:
    """An overflow now and then, with pauses shorter and longer than the interval after which the scale grows."""
    overflows = {3, 4, 900, 2901, 4950}
    ours, theirs = LossScale(), torch.amp.GradScaler("cpu")
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    for step in range(5000):
        overflowed = step in overflows
        parameter.grad = torch.full((1,), float("inf") if overflowed else 1.0)
        theirs.scale(torch.zeros(1))
        theirs.step(optimizer)
        theirs.update()
        ours.update(overflowed=overflowed)
        if step % 500 == 0 or overflowed:
            assert ours.state_dict() == theirs.state_dict(), step
    assert ours.state_dict() == theirs.state_dict()
    other = LossScale()
    other.load_state_dict(theirs.state_dict())
    assert other.state_dict() == ours.state_dict()
