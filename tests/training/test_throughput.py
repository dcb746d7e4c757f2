from __future__ import annotations

from pipeline.training.throughput import Speed, Throughput


class Clock:
    """Seconds that pass when a test says so. It does not start at 0, so that a sum is no difference."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def take_steps(throughput: Throughput, clock: Clock, count: int, *, waiting: float, working: float) -> None:
    for _ in range(count):
        with throughput.waiting_for_data():
            clock.now += waiting
        clock.now += working
        throughput.step_done()


def test_images_and_waiting_are_those_of_the_steps_since_the_last_reading() -> None:
    clock = Clock()
    throughput = Throughput(24, clock)
    take_steps(throughput, clock, 4, waiting=0.5, working=1.5)
    assert throughput.read() == Speed(images_per_second=12.0, data_wait_percent=25.0)
    take_steps(throughput, clock, 3, waiting=0.0, working=0.5)
    assert throughput.read() == Speed(images_per_second=48.0, data_wait_percent=0.0)
    assert throughput.read() == Speed(images_per_second=0.0, data_wait_percent=0.0)


def test_a_step_is_counted_with_its_accumulated_batches() -> None:
    clock = Clock()
    throughput = Throughput(24, clock)
    for _ in range(2):
        with throughput.waiting_for_data():
            clock.now += 1.0
    clock.now += 6.0
    throughput.step_done()
    assert throughput.read() == Speed(images_per_second=3.0, data_wait_percent=25.0)


def test_figures_have_one_decimal() -> None:
    clock = Clock()
    throughput = Throughput(22, clock)
    take_steps(throughput, clock, 1, waiting=1.0, working=2.0)
    assert throughput.read() == Speed(images_per_second=7.3, data_wait_percent=33.3)


def test_validation_and_saving_take_no_time_from_the_rate() -> None:
    clock = Clock()
    throughput = Throughput(24, clock)
    take_steps(throughput, clock, 1, waiting=0.5, working=0.5)
    with throughput.paused():
        clock.now += 100.0
    take_steps(throughput, clock, 1, waiting=0.5, working=0.5)
    assert throughput.read() == Speed(images_per_second=24.0, data_wait_percent=50.0)
    take_steps(throughput, clock, 1, waiting=0.0, working=2.0)
    assert throughput.read().images_per_second == 12.0


def test_the_recent_rate_is_that_of_the_last_reading() -> None:
    clock = Clock()
    throughput = Throughput(24, clock)
    assert throughput.recent is None
    take_steps(throughput, clock, 1, waiting=0.0, working=2.0)
    assert throughput.recent is None
    throughput.read()
    take_steps(throughput, clock, 1, waiting=0.0, working=1.0)
    assert throughput.recent == 12.0


def test_waiting_is_never_more_than_everything() -> None:
    """A reading in the middle of a step, whose waiting began before."""
    clock = Clock()
    throughput = Throughput(24, clock)
    with throughput.waiting_for_data():
        clock.now += 3.0
        throughput.read()
        clock.now += 1.0
    assert throughput.read().data_wait_percent == 100.0


def test_the_clock_of_the_machine_runs() -> None:
    throughput = Throughput(24)
    throughput.step_done()
    assert 0 < throughput.read().images_per_second < float("inf")
    assert throughput.read().images_per_second == 0.0
