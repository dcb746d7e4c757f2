"""Print a run's stages, figures and cost; nothing is written and nothing started."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from launch.changes import Changes, describe_changes
from launch.console import byte_size, say, show, table
from launch.estimate import (
    NO_RATE,
    Span,
    checkpoint_bytes,
    depends_on_validation,
    evaluated_images,
    evaluation_rate,
    kept_checkpoints,
    network_cost,
    process_memory,
    step_spans,
    steps_done,
    stream_order,
    training_images,
    training_rate,
    with_counted_classes,
)
from launch.inputs import check_initial_checkpoint
from launch.job_graph import Stages
from launch.refusal import Run, naming_member, refuse_false_claims, warn_of_refusal, warnings
from launch.simulation import print_simulation
from launch.slurm.profile_check import with_profile
from launch.state import last_checkpoint, stage_state
from launch.sweep import read_sweep
from launch.sweep_plan import print_sweep
from launch.uploads import describe_uploads
from pipeline.config.schema import Config
from pipeline.config.sweep import Member
from pipeline.data.order import StreamOrder
from pipeline.evaluation.expansion import count_crops
from pipeline.ground.counting import counted
from pipeline.ground.errors import EXIT_DONE, UserError
from pipeline.running.stage import PlacedStage, place_stages
from pipeline.tracking.wording import duration, rate
from pipeline.training.batching import BatchSplit, describe_batch, split_batch, warn_of_few_images
from pipeline.training.schedule import check_lengths
from stages import STAGES

Row = tuple[str, str]


def print_plan(
    recipe: Path,
    overrides: Sequence[str],
    run: Path | None,
    profile: Path | None = None,
    simulate: bool = False,
    others: Sequence[Path] = (),
    seeds: Sequence[int] = (),
) -> int:
    """Print the plan of a run or a sweep, with the world size of the profile if one is given. Returns the exit code."""
    sweep = read_sweep((recipe, *others), overrides, run, seeds)
    if sweep.is_single:
        return _print_run(recipe, sweep.folder, sweep.members[0], profile, simulate)
    if simulate:
        raise UserError(f"--simulate: takes a single run (given a sweep of {len(sweep.members)}); add sweep=null")
    runs, refusals = [], []
    for member in sweep.members:
        config, placed, changes, _ = _place(member, sweep.run_of(member), profile)
        refusals += [] if changes is None or changes.refusal is None else [changes.refusal]
        runs.append((member.name, config, placed))
    say(f"{recipe} in {sweep.folder}, a sweep of {counted(len(runs), 'run')}\n")
    print_sweep(runs)
    if refusals:
        say(f"\n{refusals[0]}\n`run` will want --accept-changes, for {counted(len(refusals), 'run')} in all")
    _warn(runs)
    return EXIT_DONE


def _warn(runs: Sequence[Run]) -> None:
    for warning in warnings(runs):
        say(f"\n{warning}")
    warn_of_refusal(runs)


def _place(member: Member, run: Path, profile: Path | None) -> tuple[Config, Stages, Changes | None, BatchSplit]:
    """Return a run's config with the world size of the profile, its stages, the changes since it was set up, and the
    split of its batch. Raises UserError if `run` would refuse it on any machine."""
    with naming_member(member.name):
        config = member.config
        check_initial_checkpoint(config)
        changes = describe_changes(run, config)
        placed = place_stages(config, run, STAGES)
        if profile is not None:
            config = with_profile(config, profile, placed)
        config = with_counted_classes(config, placed)
        refuse_false_claims(config, placed)
        batch, processes = config.train.global_batch, config.resources.processes
        return config, placed, changes, split_batch(batch, processes, config.train.max_micro_batch)


def _print_run(recipe: Path, run: Path, member: Member, profile: Path | None, simulate: bool) -> int:
    config, placed, changes, split = _place(member, run, profile)
    stages = table("stage", "state", "directory", "why")
    for name, stage in placed.items():
        stages.add_row(name, *_state(stage, placed))
    say(f"{recipe} in {run}\n")
    show(stages)
    mode, uploads = describe_uploads(config, placed)
    if rows := [*_figures(config, placed, split), *_evaluation(config, placed)]:
        rows += [] if mode == "disabled" else [("W&B", uploads)]
        figures = table("", "")
        figures.show_header = False
        for row in rows:
            figures.add_row(*row)
        say("")
        show(figures)
    if changes is not None:
        refusal = f"{changes.refusal}\n`run` will want --accept-changes"
        say(f"\n{changes.note if changes.refusal is None else refusal}")
    _warn([("", config, placed)])
    return print_simulation(config, placed) if simulate else EXIT_DONE


def _state(stage: PlacedStage, placed: Stages) -> tuple[str, str, str]:
    """Return state, names of the directories, and reason."""
    state = stage_state(stage, placed)
    directory = ", ".join(part.directory.name for part in stage.parts)
    if state.condition in ("done", "running", "to run"):
        return state.condition, directory, state.detail
    waits_for = [name for name in stage.inputs if not placed[name].is_done]
    if waits_for:
        return "waiting", directory, f"for {', '.join(waits_for)}"
    saved = last_checkpoint(stage.directory)
    where = "" if saved is None else f", saved after step {saved[0]:,}"
    why = f": {state.detail}" if state.condition == "failed" else ""
    return "resumes", directory, f"unfinished work{where} ({state.condition}{why})"


def _figures(config: Config, placed: Stages, split: BatchSplit) -> list[Row]:
    """Return the numbers of the training by name, as text; empty if nothing is left to train."""
    if not any(stage.stage.is_training for stage in placed.values()):
        return []
    images = training_images(config, placed)
    count = "unknown number of" if images.count is None else f"{images.count:,}"
    rows = [("images", f"{count} training images ({images.source})")]
    rows.append(("network", _network(config)))
    rows.append(("batch", describe_batch(split, config.optim.lr)))
    warning = warn_of_few_images(split, config)
    if "train" in placed and warning is not None:
        rows.append(("", warning))
    if images.count is not None:
        order = stream_order(config, images.count)
        check_lengths(config.schedule, order, config.train.epochs)
        spans = step_spans(config, order, placed)
        rows.append(("steps", _steps(config, placed, order, spans)))
        rows.append(("time", _time(config, placed, spans)))
    rows.append(("lr", describe_schedule(config)))
    rows.append(("memory", _memory(config, split)))
    size, kept = checkpoint_bytes(config), kept_checkpoints(config)
    best = " and the best" if config.checkpoint.keep_best else ""
    rows.append(
        (
            "checkpoint",
            f"{byte_size(size)} (weights, momentum, running statistics); the last {config.checkpoint.keep_last}{best} "
            f"are kept: {byte_size(size * kept)} a training stage",
        )
    )
    return rows


def _evaluation(config: Config, placed: Stages) -> list[Row]:
    """Return the cost of the evaluation, or nothing if it is done."""
    if "evaluate" not in placed or placed["evaluate"].is_done:
        return []
    images, plans = evaluated_images(config, placed), config.evaluate.plans
    crops = {plan.name: count_crops(plan) for plan in plans}
    total = sum(crops.values())
    each = ", ".join(f"{name} {count}" for name, count in crops.items())
    seen = f"{counted(total, 'crop')} of each image ({each if len(plans) > 1 else plans[0].name})"
    if images.count is None:
        return [("evaluation", f"{seen}; the number of images is {images.source}")]
    passes = images.count * total
    rows = [
        (
            "evaluation",
            f"{counted(images.count, 'image')} ({images.source}) x {seen} = {counted(passes, 'forward pass')}",
        )
    ]
    found = evaluation_rate(placed)
    if found is not None:
        seconds, speed = duration(passes / found.images_per_second), rate(found.images_per_second, "forward pass")
        rows.append(("", f"about {seconds}, at {speed} ({found.source})"))
    return rows


def describe_schedule(config: Config) -> str:
    """Describe the learning rate over the run in one line."""
    schedule, lr, epochs = config.schedule, config.optim.lr, config.train.epochs
    span = "the first epoch" if schedule.warmup_epochs == 1 else f"the first {schedule.warmup_epochs:g} epochs"
    span = f"the first {counted(schedule.warmup_steps, 'step')}" if schedule.warmup_steps else span
    shape = f"linear up to {lr}" if schedule.warmup_lr is None else f"{schedule.warmup_lr:g}"
    warmup = f"{shape} over {span}, then " if schedule.warmup_epochs or schedule.warmup_steps else ""
    if schedule.kind == "cosine":
        return f"{warmup}{lr} falling as a cosine to 0 at epoch {epochs}"
    if schedule.kind == "plateau":
        ends = f"ends there after {counted(schedule.max_drops, 'drop')}, or " if schedule.max_drops else "ends "
        return (
            f"{warmup}{lr}, times {schedule.drop_factor:g} where {counted(schedule.patience + 1, 'epoch')} bring no "
            f"better validation loss; {ends}after {epochs} epochs"
        )
    places = [
        *(f"epoch {drop:g}" for drop in schedule.drop_epochs),
        *(f"step {drop:,}" for drop in schedule.drop_steps),
    ]
    if not places:
        return f"{warmup}{lr} throughout"
    drops = [f"{lr * schedule.drop_factor ** (i + 1):g} from {place}" for i, place in enumerate(places)]
    return f"{warmup}{', '.join([str(lr), *drops])}; {epochs} epochs in all"


def _steps(config: Config, placed: Stages, order: StreamOrder, spans: dict[str, Span]) -> str:
    per_epoch = Fraction(order.num_images, order.global_batch)
    exact = f"{per_epoch.numerator}" if per_epoch.denominator == 1 else f"{float(per_epoch):,.2f}"
    end = list(spans.values())[-1]
    parts = [
        f"; {name} takes steps {span.first + 1:,} to {span.last:,}, the end of epoch {span.until_epoch}"
        for name, span in spans.items()
    ]
    total = f"{end.last:,} in {counted(end.until_epoch, 'epoch')}"
    if depends_on_validation(config, placed):
        total = f"at most {total} (how many depends on validation)"
    return f"{exact} an epoch, {total}{''.join(parts)}"


def _time(config: Config, placed: Stages, spans: dict[str, Span]) -> str:
    measured = training_rate(config, placed)
    if measured is None:
        return NO_RATE
    processes = config.resources.processes
    speed = measured.images_per_second * processes
    total = sum(span.last - span.first for span in spans.values())
    left = total - sum(steps_done(placed[name], span) for name, span in spans.items())
    seconds, seconds_left = (steps * config.train.global_batch / speed for steps in (total, left))
    rest = "" if left == total else f", {duration(seconds_left)} of it left" if left else ", all of it done"
    about = "at most" if depends_on_validation(config, placed) else "about"
    return (
        f"{about} {duration(seconds)} of training{rest}, at {measured.describe(processes)}; "
        "validation and checkpoints come on top"
    )


def _network(config: Config) -> str:
    cost, model = network_cost(config), config.model
    told = f"{model.title}: {cost.parameters:,} parameters, {cost.macs / 1e9:.4g} GMAC an image"
    if model.num_classes is None:
        told += f" for {model.reckoned_classes:,} classes, since prepare has still to count them"
    if model.title == model.name:
        return told
    return f"{told} by the layer table of {model.name}, as are memory and checkpoints; --simulate counts this one"


def _memory(config: Config, split: BatchSplit) -> str:
    memory = process_memory(config, split.micro_batch)
    return (
        f"at least {byte_size(memory.total)} a process: {byte_size(memory.parameters)} for weights, gradients and "
        f"momentum, {byte_size(memory.activations)} for the activations of {counted(split.micro_batch, 'image')} "
        f"({config.execution.precision})"
    )
