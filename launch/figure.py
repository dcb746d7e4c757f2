"""`python -m launch figure`: draw the paper's Figure 6 or 7 from the gates that a run has measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from launch.console import say, show, table
from pipeline.config.reader import RUN_CONFIG, read_run_config
from pipeline.ground.errors import EXIT_DONE, UserError
from pipeline.ground.interpreter import command_line
from pipeline.reporting.gates import Gates, gate_figure, gate_rows, leaving_out, read_gates
from pipeline.running.stage import place_stages
from pipeline.store.file import write_bytes
from stages import STAGES


def draw_figure(number: int, run: Path, classes: Sequence[str], blocks: Sequence[str], out: Path | None) -> int:
    """Write the figure as SVG and print the figures of each block. Returns the exit code."""
    gates = find_gates(run)
    out = out or run / f"figure{number}.svg"
    if out.suffix != ".svg":
        raise UserError(f"--out: must end in .svg (given {out})")
    if not out.parent.is_dir():
        raise UserError(f"--out: {out.parent} is no folder")
    figure = gate_figure(gates, number, gates.choose_blocks(blocks), gates.choose_classes(number, classes))
    write_bytes(out, figure.encode())
    headings, *rows = gate_rows(gates)
    printed = table(*headings, numbers=range(1, len(headings)))
    for row in rows:
        printed.add_row(*row)
    show(printed)
    say(f"\n{leaving_out(gates)}\nwritten to {out.absolute()}")
    return EXIT_DONE


def find_gates(run: Path) -> Gates:
    """Return the gates of a run. Raises UserError if they are not measured."""
    config = read_run_config(run)
    if config.without_gates is not None:
        raise UserError(f"{run}: has no gates to draw: {config.without_gates}")
    stage = place_stages(config, run, STAGES).get("activations")
    if stage is None or not stage.is_done:
        command = command_line("run", run / RUN_CONFIG, "report.activations=true", "--run", run)
        raise UserError(f"{run}: its gates are not measured; measure them: {command}")
    return read_gates(stage.directory)
