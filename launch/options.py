"""Commands, their options, and their help."""

from __future__ import annotations

import argparse
from pathlib import Path

from launch.packaged import find_file
from launch.recipe_options import add_plan, add_run, add_submit, add_tune, find_recipe
from launch.version import PrintVersion
from pipeline.interop.command import add_actions

_EPILOG = """examples:
  {program} plan configs/senet154_8gpu.yaml
  {program} plan configs/senet154_ilsvrc2017.yaml --simulate
  {program} run configs/demo.yaml
  {program} run configs/demo.yaml epochs=20 processes=2 --run runs/longer
  {program} status runs/demo
  {program} tune configs/senet154_1gpu.yaml
  {program} keys batch

  {program} check --profile slurm/profiles/8x8_gpu.yaml
  {program} submit configs/senet154_ilsvrc2017.yaml --profile slurm/profiles/8x8_gpu.yaml
  {program} logs runs/senet154_ilsvrc2017 train -f

  {program} fuse runs/first runs/second/evaluate-*/scores-10crop.npy --select greedy --out fused
  {program} score fused/submission-2012.txt --truth ILSVRC2012_validation_ground_truth.txt

  {program} table table2 runs/baseline runs/with_block
  {program} figure 6 runs/with_block

  {program} predict senet154.safetensors photos/
  {program} weights import senet154-c7b49a05.pth senet154.safetensors

exit codes:
  0 done; 75 stopped on request after saving, the same command goes on; 2 the recipe, data or command is wrong;
  1 anything else
"""


def build_parser(program: str) -> argparse.ArgumentParser:
    """Return the parser of the whole command line, which begins with `program`."""
    parser = argparse.ArgumentParser(
        prog=program,
        description="Plan, run and look after a run of the SENet-154 pipeline.",
        epilog=_EPILOG.format(program=program),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=PrintVersion, nargs=0, help="print the version and end")
    commands = parser.add_subparsers(dest="command", required=True, metavar=f"{{{','.join(_COMMANDS)}}}")
    for name, (add_options, purpose) in _COMMANDS.items():
        add_options(commands.add_parser(name, help=purpose, description=f"{purpose[0].upper()}{purpose[1:]}."))
    return parser


def _add_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--profile",
        type=find_file,
        required=True,
        metavar="FILE",
        help="the profile, whose training job is tried",
    )
    parser.add_argument(
        "--run",
        type=Path,
        default=Path("runs") / "check",
        metavar="DIR",
        help="where to measure the file system, and to keep script and log (default: runs/check)",
    )


def _add_status(parser: argparse.ArgumentParser) -> None:
    _add_directory(parser)
    parser.add_argument(
        "--watch",
        nargs="?",
        const=10.0,
        type=_seconds,
        metavar="SECONDS",
        help="show it again every so often (default: 10)",
    )


def _add_logs(parser: argparse.ArgumentParser) -> None:
    _add_directory(parser)
    parser.add_argument("stage", metavar="STAGE", help="the stage, as train")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the job has ended")


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
        type=find_recipe,
        metavar="CONFIG",
        help="with the precision and batch that this recipe evaluates with (default: those of the run that the weights "
        "belong to, or float32)",
    )
    parser.add_argument("--top", type=_positive, default=5, metavar="N", help="so many classes (default: 5)")
    parser.add_argument("--json", action="store_true", help="a JSON line for each image, with log-probabilities")


def _add_fuse(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="a score file, a folder of score files, an evaluated run or sweep",
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


def _add_keys(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("word", nargs="?", metavar="WORD", help="only those that have it in their name or meaning")
    parser.add_argument("--markdown", action="store_true", help="all of them as the page docs/keys.md")


def _add_networks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--markdown", action="store_true", help="as the page docs/networks.md")


def _add_table(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="as table2 or table14 (default: the list of all)")
    parser.add_argument(
        "runs", nargs="*", type=Path, metavar="RUN", help="run directories, or directories of runs as of a sweep"
    )
    parser.add_argument(
        "--format", choices=("terminal", "markdown", "csv", "html"), default="terminal", help="(default: terminal)"
    )


def _add_figure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("number", type=int, choices=(6, 7), help="6: the mean gate of classes; 7: with its deviation")
    _add_directory(parser)
    parser.add_argument(
        "--classes",
        type=_words,
        default=[],
        metavar="NAME,NAME...",
        help="class folders or names (default: the paper's, or evenly spaced ones of other images)",
    )
    parser.add_argument(
        "--blocks",
        type=_words,
        default=[],
        metavar="NAME,NAME...",
        help="as SE_5_2, the second block of stage 5 (default: the last of each stage, and three of the last stage)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="SVG file (default: RUN/figure6.svg or figure7.svg)")


def _add_directory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="the run directory")


def _words(text: str) -> list[str]:
    return text.split(",")


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


_COMMANDS = {
    "plan": (add_plan, "say what a run would do, on what, and how long it would take"),
    "run": (add_run, "run the stages that are not done, on this machine"),
    "check": (_add_check, "try a profile: measure, in a two-minute job, what training needs of a cluster"),
    "submit": (add_submit, "queue the stages that are not done on a SLURM cluster, one job each"),
    "status": (_add_status, "say how far each stage of a run is"),
    "logs": (_add_logs, "print what the SLURM job of a stage has printed, over all its attempts"),
    "cancel": (_add_directory, "end the SLURM jobs of a run, queued or running"),
    "predict": (_add_predict, "say what a network sees in images; no run, needs torch"),
    "fuse": (_add_fuse, "fuse the scores of runs or score files into those of an ensemble"),
    "score": (_add_score, "score a file of predictions as the contest's devkit does"),
    "table": (_add_table, "print a table of the paper beside what runs have measured, or list all tables and figures"),
    "figure": (_add_figure, "draw the paper's Figure 6 or 7, the gates of the blocks, from a run"),
    "weights": (add_actions, "use weights that others trained, and ours elsewhere; needs torch"),
    "tune": (add_tune, "measure, for two minutes at most, which way to train is fastest on this machine"),
    "keys": (_add_keys, "list the keys of a recipe: value, default, meaning, whether results change"),
    "networks": (_add_networks, "list the networks: parameters, multiply-adds, the paper's figures, a recipe"),
}
