"""Options of the commands that take a recipe: `plan`, `run`, `submit` and `tune`."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from pathlib import Path

from launch.packaged import find_file, packaged_folder


def find_recipe(text: str) -> Path:
    """Return the path of a recipe that is named by its path, or as one of the folder `configs`, here or of the source.

    Raises ArgumentTypeError if a name without suffix is none of these or several, or the path is a folder's.
    """
    path, folders = Path(text), (packaged_folder("configs"), Path("configs"))
    found = {
        str(file.relative_to(folder).with_suffix("")): file for folder in folders for file in folder.rglob("*.yaml")
    }
    if text in found and not path.is_file():
        return found[text]
    if path.name != text or path.suffix or path.is_file():
        if path.is_dir():
            raise argparse.ArgumentTypeError(
                f"must be a recipe (given the folder {text}; that of the images is data.root={text}, behind the recipe)"
            )
        return find_file(text)
    same = [name for name in found if Path(name).name == text]
    if len(same) > 1:
        raise argparse.ArgumentTypeError(f"{text}: several recipes have this name; write one of {', '.join(same)}")
    found |= {Path(name).name: file for name, file in found.items()}
    if text not in found:
        close = difflib.get_close_matches(text, found, n=1)
        some = [name for name, path in found.items() if path.parent in folders]
        hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(sorted(some)) or 'none'}"
        raise argparse.ArgumentTypeError(f"{text}: no such recipe ({hint})")
    return found[text]


def add_plan(parser: argparse.ArgumentParser) -> None:
    """Add the options of `plan`."""
    _add_recipe(parser)
    parser.add_argument(
        "--profile",
        type=find_file,
        metavar="FILE",
        help="with the world size of this cluster profile, as slurm/profiles/8x8_gpu.yaml",
    )
    parser.add_argument(
        "--simulate",
        action="store_true",
        help="also build the network without memory for it, ask the loader of every rank for its images, and count; "
        "needs torch, no GPU",
    )


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the options of `run`."""
    _add_recipe(parser)
    _add_choice(parser)
    parser.add_argument(
        "--from-checkpoint",
        metavar="PATH",
        help="freeze the batch norms of this checkpoint directory, also another run's (freeze_bn.from_checkpoint)",
    )


def add_submit(parser: argparse.ArgumentParser) -> None:
    """Add the options of `submit`."""
    _add_recipe(parser)
    parser.add_argument(
        "--profile",
        type=find_file,
        required=True,
        metavar="FILE",
        help="what the job of each stage gets, as slurm/profiles/8x8_gpu.yaml",
    )
    _add_choice(parser)
    # Two options: argparse would take the word behind one with an optional value for that value.
    parser.add_argument(
        "--dry-run",
        action="store_const",
        const="table",
        help="print the jobs, and what is missing here; touch nothing",
    )
    parser.add_argument(
        "--dry-run=scripts", dest="dry_run", action="store_const", const="scripts", help="the same, and their scripts"
    )


def add_tune(parser: argparse.ArgumentParser) -> None:
    """Add the options of `tune`."""
    _add_overridden(parser)
    parser.add_argument("--again", action="store_true", help="measure again what is known from an earlier call")


def _add_choice(parser: argparse.ArgumentParser) -> None:
    some = parser.add_mutually_exclusive_group()
    some.add_argument("--only", metavar="STAGE", help="this one stage; the stages it reads must be done or queued")
    some.add_argument(
        "--from", dest="first", metavar="STAGE", help="start at this stage; the stages before it must be done or queued"
    )
    parser.add_argument(
        "--accept-changes",
        action="store_true",
        help="go on in a run directory that holds work of another recipe: stages that the changes concern begin anew, "
        "in directories beside the old; nothing is overwritten",
    )


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    _add_overridden(parser)
    parser.add_argument(
        "--run",
        type=Path,
        metavar="DIR",
        help="the directory of the run or sweep (default: runs/<name of the recipe>, runs/<name>-sweep if swept here)",
    )
    parser.add_argument(
        "--seeds",
        type=_whole_numbers,
        default=[],
        metavar="N,N...",
        help="a sweep: a run for each seed, in a directory each, as with sweep.seed=[N,N...]. So do several CONFIGs",
    )


def _add_overridden(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=find_recipe, metavar="CONFIG", help="the recipe, as configs/demo.yaml or demo")
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="key=value",
        help="a key of the recipe and its new value, as train.epochs=3 or epochs=3",
    )


def _whole_numbers(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be whole numbers with commas between them (given {text})") from None


def recipe_words(config: Path, others: Sequence[Path], seeds: Sequence[int]) -> tuple[str, ...]:
    """Return recipes and seeds as words of a command line."""
    return (*map(str, (config, *others)), *(("--seeds", ",".join(map(str, seeds))) if seeds else ()))
