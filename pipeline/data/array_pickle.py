"""Pickles of dictionaries, lists, text, numbers and uint8 arrays, read without running anything that a pickle names.

A pickle is a program: it may name any callable of Python. Here the few names that NumPy writes stand for functions of
this module, and every other one is refused.
"""

from __future__ import annotations

import io
import math
import pickle
from typing import Any

import numpy as np
import numpy.typing as npt

_NOT_WHOLE = "an array in it is not a whole one of uint8"
_UINT8 = ("u1", "|u1", "uint8")


class RefusedPickle(Exception):
    """The pickle is damaged, or has something else in it."""


class PickledArray:
    """A uint8 array, as NumPy's own pickles build it: empty first, then given its state."""

    pixels: npt.NDArray[np.uint8] | None = None
    """None if the pickle has not given it a state."""

    def __setstate__(self, state: Any) -> None:
        try:
            _, shape, dtype, is_fortran, content = state
            content = content.encode("latin-1") if isinstance(content, str) else content
            is_whole = isinstance(dtype, _DType) and not is_fortran and math.prod(shape) == len(content)
            self.pixels = np.frombuffer(content, dtype=np.uint8).reshape(shape)
        except (TypeError, ValueError) as error:
            raise RefusedPickle(_NOT_WHOLE) from error
        if not is_whole:
            raise RefusedPickle(_NOT_WHOLE)


class _DType:
    def __init__(self, name: Any = None, *rest: Any) -> None:
        if name not in _UINT8:
            raise RefusedPickle(f"an array in it is of {name!r}, not uint8")

    def __setstate__(self, state: Any) -> None:
        """Byte order and the like, which bytes do not have."""


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        allowed = _ALLOWED.get((module.replace("numpy._core.", "numpy.core."), name))
        if allowed is None:
            raise RefusedPickle(f"it names {module}.{name}, which could run code; nothing of it was run")
        return allowed


def _encode(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise RefusedPickle("bytes in it are not as Python writes them")
    return text.encode("latin-1")


def _reconstruct(*_: Any) -> PickledArray:
    return PickledArray()


def _ndarray(*_: Any) -> Any:
    raise RefusedPickle("an array in it is not as NumPy writes it")


_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _ndarray,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _encode,
}
"""The names in NumPy's pickles up to protocol 4."""


def read_arrays(content: bytes) -> dict[str, Any]:
    """Return the dictionary in a pickle, arrays as `PickledArray`. Raises RefusedPickle for any other content."""
    try:
        found = _Reader(io.BytesIO(content), encoding="latin-1").load()
    except RefusedPickle:
        raise
    except Exception as error:  # whatever damaged opcodes lead to
        raise RefusedPickle(f"{type(error).__name__}: {error}") from error
    if not isinstance(found, dict):
        raise RefusedPickle(f"a {type(found).__name__} in the place of a dictionary")
    return {key.decode("latin-1") if isinstance(key, bytes) else key: value for key, value in found.items()}
