from __future__ import annotations

from pipeline.training.validation_record import ValidationRecord


def test_the_best_checkpoint_is_one_that_was_saved() -> None:
    """Validated at every step, saved at every second: what was best in between is nowhere to be kept."""
    record, kept = ValidationRecord(), []
    for step, error in enumerate([50.0, 40.0, 10.0, 30.0, 20.0, 30.0], start=1):
        record.add({"global_step": step, "top1_error_percent": error})
        if step % 2 == 0:
            kept.append(record.note_saving(step))
    assert kept == [2, 4, 4]
    assert record.best == {"global_step": 3, "top1_error_percent": 10.0}


def test_of_equals_the_earlier_is_the_best() -> None:
    record = ValidationRecord()
    for step in (1, 2):
        record.add({"global_step": step, "top1_error_percent": 10.0})
    assert record.best == {"global_step": 1, "top1_error_percent": 10.0}


def test_weights_that_were_not_validated_are_not_the_best() -> None:
    record = ValidationRecord()
    assert record.note_saving(1) is None
    record.add({"global_step": 1, "top1_error_percent": 10.0})
    assert record.note_saving(2) is None
    assert record.best_saved is None
