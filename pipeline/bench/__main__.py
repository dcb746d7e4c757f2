"""`python -m pipeline.bench`: run a benchmark, print its tables, and record every round in a file."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline.bench.record import record_of, write_record
from pipeline.bench.rounds import Comparison
from pipeline.ground.cores import count_cores
from pipeline.ground.errors import EXIT_DONE, UserError
from pipeline.store.answer import answered

_DESCRIPTION = """Compare the pipeline with what a user would pick instead, in turns within one process.

Every figure is the median over the rounds, with the lowest and the highest. CPU ms are those of all cores and
processes together; on a machine that others use too they are the figure to trust.
"""
_DEFAULT_ROUNDS = 5


def main(argv: Sequence[str] | None = None) -> int:
    """Run the requested benchmark. Returns the exit code of the contract."""
    arguments = _parser().parse_args(argv)
    # Before the import of torch, as in `launch`: threads that spin while they wait would count as work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return answered(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    if arguments.benchmark == "gpu":
        from pipeline.bench.gpu.run import measure_gpu

        return measure_gpu(arguments.out, arguments.minutes, arguments.images)
    _compare(arguments)
    return EXIT_DONE


def _compare(arguments: argparse.Namespace) -> None:
    """Run the benchmark, print its tables, and write the record."""
    if arguments.out is not None and not arguments.out.parent.is_dir():
        raise UserError(f"--out: {arguments.out.parent} is no folder")
    settings, comparisons = _BENCHMARKS[arguments.benchmark](arguments)
    record = record_of(arguments.benchmark, settings, comparisons)
    print(_headline(record["machine"]))
    for name, value in settings.items():
        print(f"{name}: {value}")
    for comparison in comparisons:
        print(f"\n{comparison.as_text()}")
    if arguments.out is not None:
        write_record(arguments.out, record)
        print(f"\nevery round: {arguments.out}")


def _step(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[Comparison]]:
    from pipeline.bench.step import compare_steps

    return compare_steps(arguments.models, arguments.batch, rounds=arguments.rounds, progress=_show_progress)


def _loader(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[Comparison]]:
    from pipeline.bench.images import benchmark_images, describe_images
    from pipeline.bench.loader import compare_loaders

    with benchmark_images(arguments.images, arguments.limit, arguments.batch, _show_progress) as index:
        comparisons = compare_loaders(
            index,
            batch=arguments.batch,
            workers=arguments.workers,
            rounds=arguments.rounds,
            progress=_show_progress,
        )
        return _reading(arguments, describe_images(index, arguments.images)), comparisons


def _evaluate(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[Comparison]]:
    from pipeline.bench.crop_plans import compare_plans
    from pipeline.bench.images import benchmark_images, describe_images

    with benchmark_images(arguments.images, arguments.limit, arguments.batch, _show_progress) as index:
        comparisons = compare_plans(
            index,
            arguments.plans,
            arguments.model,
            batch=arguments.batch,
            workers=arguments.workers,
            rounds=arguments.rounds,
            progress=_show_progress,
        )
        return _reading(arguments, describe_images(index, arguments.images)), comparisons


def _reading(arguments: argparse.Namespace, images: str) -> dict[str, Any]:
    """Return the settings of a benchmark that reads images."""
    from pipeline.bench.pool_peer import KINDS, installed_pools

    missing = ", ".join(kind for kind in KINDS if kind not in installed_pools()) or "none"
    return {"images": images, "batch": arguments.batch, "workers": arguments.workers, "peers not installed": missing}


def _cifar(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[Comparison]]:
    from pipeline.bench.cifar import compare_cifar

    return compare_cifar(
        arguments.model,
        batch=arguments.batch,
        workers=arguments.workers,
        rounds=arguments.rounds,
        progress=_show_progress,
    )


def _checkpoint(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[Comparison]]:
    from pipeline.bench.checkpoint_stall import compare_saving

    return compare_saving(arguments.model, arguments.directory, rounds=arguments.rounds, progress=_show_progress)


def _startup(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[Comparison]]:
    from pipeline.bench.startup import compare_answers, compare_first_steps

    rounds = arguments.rounds
    return {}, [compare(rounds=rounds, progress=_show_progress) for compare in (compare_answers, compare_first_steps)]


def _growth(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[Comparison]]:
    from pipeline.bench.growth import compare_growth

    return compare_growth(arguments.images, arguments.lines, rounds=arguments.rounds, progress=_show_progress)


_BENCHMARKS: dict[str, Callable[[argparse.Namespace], tuple[dict[str, Any], list[Comparison]]]] = {
    "step": _step,
    "loader": _loader,
    "evaluate": _evaluate,
    "cifar": _cifar,
    "checkpoint": _checkpoint,
    "startup": _startup,
    "growth": _growth,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.bench", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = parser.add_subparsers(dest="benchmark", required=True, metavar="{" + ",".join([*_BENCHMARKS, "gpu"]) + "}")
    step = names.add_parser("step", help="training steps, against timm's network in every way to run it")
    step.add_argument(
        "--batch", type=_positive, default=128, metavar="N", help="images per step on a GPU (default: 128)"
    )
    step.add_argument(
        "--models", nargs="+", default=[], metavar="NAME", help="networks (default: senet154, without a GPU both)"
    )
    loader = names.add_parser("loader", help="reading and cropping, against torchvision, PIL and timm")
    evaluate = names.add_parser("evaluate", help="crop plans, against one decode per crop, torchvision and timm")
    evaluate.add_argument(
        "--plans", nargs="+", default=[], metavar="PLAN", help="built-in crop plans (default: all there are)"
    )
    evaluate.add_argument(
        "--model",
        default="senet_nano",
        metavar="NAME",
        help="network behind the crops; senet154 against timm's (default: senet_nano)",
    )
    for parser_of_images, limit in ((loader, 512), (evaluate, 256)):
        parser_of_images.add_argument(
            "--images",
            type=Path,
            metavar="PATH",
            help="folder or tar of JPEG files (default: the digits, which are tiny)",
        )
        parser_of_images.add_argument(
            "--limit", type=_positive, default=limit, metavar="N", help=f"images per round, at most (default: {limit})"
        )
        parser_of_images.add_argument("--batch", type=_positive, default=32, metavar="N", help="default: 32")
        parser_of_images.add_argument(
            "--workers",
            type=_positive,
            default=count_cores(),
            metavar="N",
            help="threads or processes (default: cores)",
        )
    cifar = names.add_parser("cifar", help="small images in memory, against a plain loop and torchvision's DataLoader")
    cifar.add_argument("--model", metavar="NAME", help="network (default: preresnet_nano, on a GPU preresnet110)")
    cifar.add_argument("--batch", type=_positive, default=128, metavar="N", help="default: 128")
    cifar.add_argument(
        "--workers", type=_positive, default=count_cores(), metavar="N", help="of the DataLoader (default: cores)"
    )
    checkpoint = names.add_parser("checkpoint", help="how long saving holds training up, against torch.save")
    checkpoint.add_argument("--model", default="senet154", metavar="NAME", help="network (default: senet154)")
    checkpoint.add_argument(
        "--directory", type=Path, metavar="DIR", help="where to write (default: the folder for temporary files)"
    )
    names.add_parser("startup", help="from a command to the first step; imports")
    growth = names.add_parser("growth", help="CPU time and memory that grow with the images, or with a run's record")
    growth.add_argument(
        "--images", type=_positive, nargs="+", default=[128_000, 1_281_167], metavar="N", help="sizes of the index"
    )
    growth.add_argument(
        "--lines", type=_positive, nargs="+", default=[50_000, 500_000], metavar="N", help="lengths of the record"
    )
    for name in _BENCHMARKS:
        names.choices[name].add_argument(
            "--rounds", type=_positive, default=_DEFAULT_ROUNDS, metavar="N", help=f"default: {_DEFAULT_ROUNDS}"
        )
        names.choices[name].add_argument("--out", type=Path, metavar="FILE", help="write every round to this JSON file")
    gpu = names.add_parser("gpu", help="measurements of this GPU, in some minutes; code 1 if a row fails")
    gpu.add_argument("--minutes", type=_positive, default=7, metavar="N", help="limit of it all (default: 7)")
    gpu.add_argument(
        "--out", type=Path, default=Path("gpu"), metavar="DIR", help="folder for gpu.json and gpu.md (default: gpu)"
    )
    gpu.add_argument("--images", type=Path, metavar="PATH", help="folder or tar of JPEG files (default: made ones)")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0 (given {text})")
    return int(text)


def _headline(machine: dict[str, Any]) -> str:
    load = ", ".join(f"{value:.1f}" for value in machine["load_average"])
    device = machine.get("gpu") or "no GPU"
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items() if version)
    return (
        f"{machine['time']}; {machine['processor']}, {machine['cores']} cores, {device}; load {load}\n"
        f"Python {machine['python']}, {versions}"
    )


def _show_progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="\r", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
