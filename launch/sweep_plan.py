"""The plan of a sweep: its runs, the stages that several share and that are done once, and the cost of the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from launch.console import say, show, table
from launch.estimate import (
    NO_RATE,
    Rate,
    depends_on_validation,
    evaluated_images,
    step_spans,
    steps_done,
    stream_order,
    training_images,
    training_rate,
)
from launch.job_graph import Stages
from launch.refusal import Run
from pipeline.config.schema import Config
from pipeline.evaluation.expansion import count_crops
from pipeline.ground.counting import counted
from pipeline.running.stage import PlacedStage
from pipeline.tracking.wording import duration
from pipeline.training.schedule import check_lengths


def print_sweep(runs: Sequence[Run]) -> None:
    """Print a line for each run and each stage, and the cost of what is left."""
    rows = table("run", "network", "left to do")
    for name, config, placed in runs:
        left = [stage.name for stage in placed.values() if not stage.is_done]
        rows.add_row(name, config.model.title, ", ".join(left) or "nothing")
    show(rows)
    say("")
    stages = table("stage", "in so many runs", "to be done once each", "of these done", numbers=range(1, 4))
    for name in dict.fromkeys(name for _, _, placed in runs for name in placed):
        every = [placed[name] for _, _, placed in runs if name in placed]
        distinct = {stage.key: stage for stage in every}
        stages.add_row(name, str(len(every)), str(len(distinct)), str(sum(s.is_done for s in distinct.values())))
    show(stages)
    say("")
    for line in (*_training(runs), *_evaluation(runs)):
        say(line)


def _training(runs: Sequence[Run]) -> Iterator[str]:
    """Yield the training that is left, in steps and in hours if a rate is known."""
    steps, seconds, process_hours, rates = 0, 0.0, 0.0, set[str]()
    bound = "about"
    trainings = list(_distinct(runs, lambda stage: stage.stage.is_training))
    known: dict[str, Rate] = {}
    for name, config, placed in runs:
        if config.model.title not in known and (rate := training_rate(config, placed, name)) is not None:
            known[config.model.title] = rate
    unknown = set[str]()
    for names, config, placed in trainings:
        images = training_images(config, placed)
        if images.count is None:
            yield f"training: the number of images is {images.source}"
            return
        order = stream_order(config, images.count)
        check_lengths(config.schedule, order, config.train.epochs)
        spans = step_spans(config, order, placed)
        left = sum(spans[name].last - spans[name].first - steps_done(placed[name], spans[name]) for name in names)
        measured = known.get(config.model.title)
        steps += left
        bound = "at most" if depends_on_validation(config, placed) else bound
        if measured is None:
            unknown.add(config.model.title)
        else:
            took = left * config.train.global_batch / measured.images_per_second
            process_hours += took / 3600
            seconds += took / config.resources.processes
            rates.add(measured.describe(config.resources.processes))
    if not trainings:
        return
    yield f"training: {counted(len(trainings), 'run')} with {bound} {counted(steps, 'step')} left"
    if rates:
        yield (
            f"{bound} {duration(seconds)} one after another, {process_hours:,.4g} process hours, at "
            f"{' and '.join(sorted(rates))}; validation and checkpoints come on top"
        )
        if unknown:
            yield f"not in it: {', '.join(sorted(unknown))}, of which no run has measured its rate"
    else:
        yield f"time: {NO_RATE}"


def _evaluation(runs: Sequence[Run]) -> Iterator[str]:
    passes, count = 0, 0
    for _, config, placed in _distinct(runs, lambda stage: stage.name == "evaluate"):
        images = evaluated_images(config, placed)
        if images.count is None:
            yield f"evaluation: the number of images is {images.source}"
            return
        passes += images.count * sum(count_crops(plan) for plan in config.evaluate.plans)
        count += 1
    if count:
        yield f"evaluation: {counted(count, 'run')} with {counted(passes, 'forward pass')} in all"


def _distinct(runs: Sequence[Run], wanted: Callable[[PlacedStage], bool]) -> Iterator[tuple[list[str], Config, Stages]]:
    """Yield the unfinished stages of a kind, each once, as names of stages of one run."""
    seen: set[str] = set()
    for _, config, placed in runs:
        left = [stage for stage in placed.values() if wanted(stage) and not stage.is_done]
        names = [stage.name for stage in left if stage.key not in seen]
        seen |= {placed[name].key for name in names}
        if names:
            yield names, config, placed
