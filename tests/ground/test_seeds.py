from __future__ import annotations

import numpy as np

from pipeline.ground.seeds import derive_seed, uniform


def test_a_seed_is_the_same_for_ever() -> None:
    """A change here changes every run: raise the stages' versions with it."""
    assert derive_seed(2017, "order", 3) == 3437413658992558306
    assert uniform(7, np.array([0, 1, 123456789]), 2).round(12).tolist() == [
        0.266590649181,
        0.719193885102,
        0.669697893494,
    ]


def test_parts_are_told_apart() -> None:
    told_apart: list[tuple[int | str, ...]] = [(1, 23), (12, 3), ("1", 23), (1, "23"), (123,), (1, 2, 3)]
    seeds = {derive_seed(*parts) for parts in told_apart}
    assert len(seeds) == 6


def test_a_number_depends_on_seed_key_and_draw_alone() -> None:
    keys = np.arange(1000)
    together = uniform(5, keys, 3)
    assert np.array_equal(together[::-1], uniform(5, keys[::-1], 3))
    assert np.array_equal(together[17:18], uniform(5, keys[17:18], 3))
    assert not np.array_equal(together, uniform(6, keys, 3))
    assert not np.array_equal(together, uniform(5, keys, 4))


def test_numbers_are_uniform_and_independent_of_each_other() -> None:
    numbers = np.stack([uniform(9, np.arange(40_000), draw) for draw in range(4)])
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = np.histogram(numbers, bins=64, range=(0, 1))[0]
    expected = numbers.size / 64
    # Chi-square with 63 degrees of freedom stays below 110 but for one seed in ten thousand.
    assert ((counts - expected) ** 2 / expected).sum() < 110
    assert np.abs(np.corrcoef(numbers) - np.eye(4)).max() < 0.02
    assert abs(np.corrcoef(numbers[0][:-1], numbers[0][1:])[0, 1]) < 0.02
