from __future__ import annotations

import itertools

from matplotlib.figure import Figure
from matplotlib.text import Annotation

from pipeline.reporting.cost_accuracy import cost_accuracy_plots
from pipeline.reporting.results import ResultRow


def row(plan: str, crops: int, errors: int, seconds: float) -> ResultRow:
    return ResultRow(plan, "", 1000, crops, errors, None, None, seconds, None)


def test_labels_of_plans_with_the_same_cost_stand_above_each_other_inside_the_axes() -> None:
    rows = [row("a", 1, 200, 9), row("b", 1, 201, 9), row("c", 1, 195, 9), row("d", 10, 200, 80)]
    for plot in cost_accuracy_plots(rows):
        axes = Figure().add_subplot()
        plot.draw(axes)
        heights = {of.get_text(): of.xy[1] for of in axes.get_children() if isinstance(of, Annotation)}
        assert sorted(heights, key=heights.__getitem__) in (["c", "a", "d", "b"], ["c", "d", "a", "b"])
        stacked = [heights[name] for name in "cab"]
        assert all(upper - lower > 1 for lower, upper in itertools.pairwise(stacked))
        assert max(heights.values()) < axes.get_ylim()[1]
        assert heights["d"] == 20


def test_plans_without_an_error_are_drawn() -> None:
    axes = Figure().add_subplot()
    cost_accuracy_plots([row("a", 1, 0, 9), row("b", 2, 0, 9)])[0].draw(axes)
    assert axes.get_ylim() == (0, 1)
