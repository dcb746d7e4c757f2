from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.evaluation.scores import read_scores
from pipeline.ground.errors import UserError
from tests.evaluation.ensemble_members import rewrite_scores
from tests.reporting.example_run import make_config, make_run, read_record


def test_scores_that_are_no_numbers_are_refused_by_name(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    run = make_run(tmp_path, config)
    (path,) = run.glob("evaluate-*/scores-flipped.npy")
    array = np.array(read_scores(path).array)
    array[5, 2] = np.nan
    rewrite_scores(path, array)
    with pytest.raises(UserError, match=r"scores-flipped\.npy: must hold log-probabilities.*\(row 5 has NaN"):
        read_record(config, run)
