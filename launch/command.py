"""The command line: commands, options, and their help."""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from launch.packaged import find_file
from launch.version import PrintVersion
from pipeline.interop.command import add_actions

_EPILOG = """examples:
  python -m launch plan configs/senet154_8gpu.yaml
  python -m launch plan configs/senet154_ilsvrc2017.yaml --simulate
  python -m launch run configs/demo.yaml
  python -m launch run configs/demo.yaml epochs=20 processes=2 --run runs/longer
  python -m launch status runs/demo
  python -m launch tune configs/senet154_1gpu.yaml
  python -m launch keys batch

  python -m launch submit configs/senet154_ilsvrc2017.yaml --profile slurm/profiles/8x8_gpu.yaml
  python -m launch logs runs/senet154_ilsvrc2017 train -f

  python -m launch fuse runs/first runs/second/evaluate-*/scores-10crop.npy --select greedy --out fused
  python -m launch score fused/submission-2012.txt --truth ILSVRC2012_validation_ground_truth.txt

  python -m launch predict senet154.safetensors photos/
  python -m launch weights import senet154-c7b49a05.pth senet154.safetensors

exit codes:
  0 done; 75 stopped on request after saving, the same command goes on; 2 the recipe, data or command is wrong;
  1 anything else
"""

_WITH_RECIPE = ("plan", "run", "submit", "tune")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments; exits with 2 and a message if they are wrong. `key=value` may stand anywhere."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if arguments.command in _WITH_RECIPE:
        # argparse ends a list of positional arguments at the first option between them.
        overrides = [argument for argument in rest if "=" in argument and not argument.startswith("-")]
        arguments.overrides += overrides
        rest = [argument for argument in rest if argument not in overrides]
    if arguments.command == "submit":
        words = arguments.overrides
        arguments.other_configs = [find_file(word) for word in words if "=" not in word]
        arguments.overrides = [word for word in words if "=" in word]
    for option, key in ((word, word.lstrip("-").partition("=")) for word in rest if word.startswith("--")):
        if arguments.command in _WITH_RECIPE and key[0].replace("_", "").replace(".", "").isalnum():
            parser.error(f"{option}: keys of the recipe have no dashes; write {key[0]}={key[2] or 'VALUE'}")
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return arguments


def command_line(*arguments: str | Path) -> str:
    """Return a command line of this program: `senet154` if it was started as that, or else `python -m launch`."""
    is_script = Path(sys.argv[0]).name == "senet154"
    program, here = Path(sys.argv[0] if is_script else sys.executable), Path.cwd()
    if shutil.which(program.name) == str(program):
        word = program.name
    else:
        word = str(program.relative_to(here) if program.is_relative_to(here) else program)
    return shlex.join([word, *(() if is_script else ("-m", "launch")), *map(str, arguments)])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m launch",
        description="Plan, run and look after a run of the SENet-154 pipeline.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=PrintVersion, nargs=0, help="print the version and end")
    commands = parser.add_subparsers(
        dest="command",
        required=True,
        metavar="{plan,run,submit,status,logs,cancel,predict,fuse,score,weights,tune,keys}",
    )
    plan = _add_command(commands, "plan", "say what a run would do, on what, and how long it would take")
    _add_recipe(plan)
    plan.add_argument(
        "--profile",
        type=find_file,
        metavar="FILE",
        help="with the world size of this cluster profile, as slurm/profiles/8x8_gpu.yaml",
    )
    plan.add_argument(
        "--simulate",
        action="store_true",
        help="also build the network without memory for it, ask the loader of every rank for its images, and count; "
        "needs torch, no GPU",
    )
    run = _add_command(commands, "run", "run the stages that are not done, on this machine")
    _add_recipe(run)
    _add_choice(run)
    run.add_argument(
        "--from-checkpoint",
        metavar="PATH",
        help="freeze the batch norms of this checkpoint directory, also another run's (freeze_bn.from_checkpoint)",
    )
    _add_submit(_add_command(commands, "submit", "queue the stages that are not done on a SLURM cluster, one job each"))
    status = _add_command(commands, "status", "say how far each stage of a run is")
    _add_run(status)
    status.add_argument(
        "--watch",
        nargs="?",
        const=10.0,
        type=_seconds,
        metavar="SECONDS",
        help="show it again every so often (default: 10)",
    )
    logs = _add_command(commands, "logs", "print what the SLURM job of a stage has printed, over all its attempts")
    _add_run(logs)
    logs.add_argument("stage", metavar="STAGE", help="the stage, as train")
    logs.add_argument("-f", "--follow", action="store_true", help="go on until the job has ended")
    _add_run(_add_command(commands, "cancel", "end the SLURM jobs of a run, queued or running"))
    _add_predict(_add_command(commands, "predict", "say what a network sees in images; no run, needs torch"))
    add_actions(_add_command(commands, "weights", "use weights that others trained, and ours elsewhere; needs torch"))
    _add_fuse(_add_command(commands, "fuse", "fuse the scores of runs or score files into those of an ensemble"))
    _add_score(_add_command(commands, "score", "score a file of predictions as the contest's devkit does"))
    tune = _add_command(
        commands, "tune", "measure, for two minutes at most, which way to train is fastest on this machine"
    )
    _add_overridden(tune)
    tune.add_argument("--again", action="store_true", help="measure again what is known from an earlier call")
    keys = _add_command(commands, "keys", "list the keys of a recipe: value, default, meaning, whether results change")
    keys.add_argument("word", nargs="?", metavar="WORD", help="only those that have it in their name or meaning")
    keys.add_argument("--markdown", action="store_true", help="all of them as the page docs/keys.md")
    return parser


def _add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, purpose: str
) -> argparse.ArgumentParser:
    return commands.add_parser(name, help=purpose, description=f"{purpose[0].upper()}{purpose[1:]}.")


def _add_submit(parser: argparse.ArgumentParser) -> None:
    _add_recipe(parser)
    parser.add_argument(
        "--profile",
        type=find_file,
        required=True,
        metavar="FILE",
        help="what the job of each stage gets, as slurm/profiles/8x8_gpu.yaml",
    )
    _add_choice(parser)
    parser.add_argument(
        "--seeds",
        type=_whole_numbers,
        default=[],
        metavar="N,N...",
        help="an ensemble: the same stages for each seed, in a directory each, as job arrays. So do several CONFIGs",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the scripts; touch nothing")


def _add_predict(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "weights", metavar="WEIGHTS", help="a .safetensors file, a run, a stage, a checkpoint directory, or RUN/best"
    )
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGE", help="an image, a folder of images, or a .tar file of them"
    )
    parser.add_argument(
        "--plan", default="center224", metavar="NAME|FILE", help="the crop plan (default: center224, one crop)"
    )
    parser.add_argument(
        "--recipe",
        type=find_file,
        metavar="CONFIG",
        help="with the precision and batch that this recipe evaluates with (default: those of the run that the weights "
        "belong to, or float32)",
    )
    parser.add_argument("--top", type=_positive, default=5, metavar="N", help="so many classes (default: 5)")
    parser.add_argument("--json", action="store_true", help="a JSON line for each image, with log-probabilities")


def _add_fuse(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="a score file, a folder of score files, or an evaluated run"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to make")
    parser.add_argument(
        "--averaging", choices=("probabilities", "logits"), default="probabilities", help="what is averaged"
    )
    parser.add_argument(
        "--select",
        choices=("none", "greedy"),
        default="none",
        help="greedy: choose members and weights on each half of the validation images, and judge them on the other",
    )
    parser.add_argument(
        "--weights",
        metavar="N,N...|DIR",
        help="a number for each member, in order; or the folder of a fusion whose weights they get",
    )
    parser.add_argument(
        "--images", type=Path, metavar="RUN", help="the run that indexed the images, for score files outside of a run"
    )
    parser.add_argument("--seed", type=int, default=2017, metavar="N", help="of the halves and the resampled images")


def _add_score(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="a line for each image in the order of their names")
    parser.add_argument(
        "--truth", type=Path, required=True, metavar="FILE", help="the devkit's ILSVRC2012_validation_ground_truth.txt"
    )
    parser.add_argument(
        "--blacklist",
        type=Path,
        metavar="FILE",
        help="also tell the error without these images (the devkit's ILSVRC2014_clsloc_validation_blacklist.txt)",
    )
    parser.add_argument(
        "--form",
        choices=("2012", "2014"),
        help="2012: ids alone; 2014: a box behind each id (default: what the file looks like)",
    )


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="the run directory")


def _whole_numbers(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be whole numbers with commas between them (given {text})") from None


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 (given {text})")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86400:
        raise argparse.ArgumentTypeError(f"must be a number of seconds, at most a day (given {text})")
    return seconds


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


def _add_overridden(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=find_file, metavar="CONFIG", help="the recipe, as configs/demo.yaml")
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="key=value",
        help="a key of the recipe and its new value, as train.epochs=3 or epochs=3",
    )


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    _add_overridden(parser)
    parser.add_argument(
        "--run", type=Path, metavar="DIR", help="the run directory (default: runs/<name of the recipe>)"
    )
