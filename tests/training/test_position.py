from __future__ import annotations

from pipeline.training.position import Progress


def test_the_best_checkpoint_is_one_that_was_saved() -> None:
    """Validated at every step, saved at every second: what was best in between is nowhere to be kept."""
    progress, kept = Progress(global_step=0), []
    for step, error in enumerate([50.0, 40.0, 10.0, 30.0, 20.0, 30.0], start=1):
        progress.global_step = step
        progress.note_validation({"global_step": step, "top1_error_percent": error})
        if step % 2 == 0:
            kept.append(progress.note_checkpoint())
    assert kept == [2, 4, 4]
    assert progress.best == {"global_step": 3, "top1_error_percent": 10.0}


def test_weights_that_were_not_validated_are_not_the_best() -> None:
    progress = Progress(global_step=1)
    assert progress.note_checkpoint() is None
    progress.note_validation({"global_step": 1, "top1_error_percent": 10.0})
    progress.global_step = 2
    assert progress.note_checkpoint() is None
    assert progress.best_saved is None
