"""Random numbers as pure functions of the run's seed and their purpose.

Everything random in a run derives from the run's seed and the thing it is drawn for (an epoch, an image, a step and
rank). No generator has a state that a checkpoint would have to carry: a resumed run draws the same numbers as an
uninterrupted one.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt


def derive_seed(*parts: int | str) -> int:
    """Return a 63-bit seed for the purpose named by the parts, e.g. ``derive_seed(run_seed, "dropout", step, rank)``.

    The same on every machine and Python version; different parts give independent seeds.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def uniform(seed: int, keys: npt.NDArray[np.int64], draw: int) -> npt.NDArray[np.float64]:
    """Return one uniform number in [0, 1) for each key: draw number `draw` of that key's own stream.

    Counter-based (two rounds of the splitmix64 finaliser): a number depends on (seed, key, draw) alone, in any batch,
    order or process.
    """
    with np.errstate(over="ignore"):
        state = keys.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)
        state = _mix(state) + np.uint64(draw + 1) * np.uint64(0xD1B54A32D192ED03)
        return (_mix(state) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
