"""`python -m launch score`: score a file of predictions as the contest's devkit does."""

from __future__ import annotations

from pathlib import Path

from launch.console import complain, say, show, table
from pipeline.data.ilsvrc import read_ilsvrc2012
from pipeline.evaluation.contest import NUM_PREDICTIONS, Form, flat_errors, read_blacklist, read_predictions, read_truth
from pipeline.ground.counting import counted
from pipeline.ground.errors import EXIT_DONE

_FORMS = {
    "2012": "ILSVRC2012_IDs, surest first (the form of 2012)",
    "2014": "ILSVRC2012_IDs, each with a box, which does not count here (the form of 2014 and later)",
}


def score_file(path: Path, truth: Path, blacklist: Path | None, form: Form | None) -> int:
    """Print the flat errors of the file. Returns the exit code."""
    ilsvrc = read_ilsvrc2012()
    ids = read_truth(truth, ilsvrc)
    is_blacklisted = None if blacklist is None else read_blacklist(blacklist, len(ids))
    predictions = read_predictions(path, form)
    errors = flat_errors(predictions, ids, is_blacklisted, ilsvrc)
    say(f"{counted(len(ids), 'image')}; read as {_FORMS[predictions.form]}")
    if predictions.is_ambiguous:
        complain(
            f"warning: {path} can be read in both forms: five ids a line, or one id with a box; say which it is with "
            "--form 2012 or --form 2014"
        )
    if predictions.ragged:
        say(f"{predictions.ragged:,} lines have fewer predictions than the longest: missing ones count as wrong")
    if predictions.ignored:
        say(f"{predictions.ignored:,} lines have more than {NUM_PREDICTIONS} predictions: the others do not count")
    columns = ["predictions", "flat error"]
    if errors.without_blacklisted is not None:
        columns.append(f"without the {errors.num_blacklisted:,} blacklisted (not the contest's figure)")
    rows = table(*columns, numbers=range(len(columns)))
    for number, error in enumerate(errors.all_images):
        cells = [str(number + 1), f"{100 * error:.3f} %"]
        if errors.without_blacklisted is not None:
            cells.append(f"{100 * errors.without_blacklisted[number]:.3f} %")
        rows.add_row(*cells)
    say("")
    show(rows)
    figure = f"{100 * errors.all_images[-1]:.3f} % flat error with {NUM_PREDICTIONS} predictions, all images"
    say(f"\nthe contest's figure: {figure}")
    if errors.mistake is not None:
        complain(f"warning: this file looks wrong: its lines make sense as {errors.mistake}")
    return EXIT_DONE
