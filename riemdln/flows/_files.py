"""Flows in files: one .npz of plain arrays, whatever their points are."""

from __future__ import annotations

import json
from dataclasses import fields
from os import PathLike
from typing import Any
from zipfile import BadZipFile

import numpy as np

from riemdln.flows._results import (
    BalancingFlow,
    Flow,
    LangevinFlow,
    NetworkFlow,
    NetworkLangevinFlow,
)
from riemdln.manifolds import FixedRankPoint

__all__ = ["load_flow"]

_KINDS = {
    kind.__name__: kind
    for kind in (BalancingFlow, Flow, LangevinFlow, NetworkFlow, NetworkLangevinFlow)
}
_FORMAT = "riemdln flow 1"


def save_flow(path: str | PathLike[str], flow: Flow) -> None:
    """Write a flow to a file: see `Flow.save`."""
    arrays: dict[str, np.ndarray] = {}
    layout = {f.name: _put(arrays, getattr(flow, f.name)) for f in fields(flow)}
    header = {"format": _FORMAT, "kind": type(flow).__name__, "layout": layout}
    with open(path, "wb") as file:  # np.savez would change a name without .npz
        np.savez(file, allow_pickle=False, header=np.array(json.dumps(header)), **arrays)


def load_flow(path: str | PathLike[str]) -> Flow:
    """Read a flow that `Flow.save` has written.

    Parameters
    ----------
    path : str or path
        The file.

    Returns
    -------
    BalancingFlow, Flow, LangevinFlow, NetworkFlow or NetworkLangevinFlow
        Equal to what was saved, to the last bit.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it has no flow.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> import pymanopt
    >>> import riemdln
    >>> line = pymanopt.manifolds.Euclidean(1)
    >>> problem = pymanopt.Problem(line, pymanopt.function.autograd(line)(lambda x: x[0] ** 2))
    >>> flow = riemdln.gradient_flow(problem, [1.0], [0.0, 1.0])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     flow.save(Path(folder) / "flow.npz")
    ...     again = riemdln.load_flow(Path(folder) / "flow.npz")
    >>> np.array_equal(again.points, flow.points), again.message
    (True, 'reached the last time')
    """
    try:
        # np.load leaves a file open that it has opened itself and cannot read.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            header = json.loads(str(arrays["header"]))
            if header["format"] != _FORMAT:
                raise KeyError(header["format"])
            values = {name: _get(arrays, part) for name, part in header["layout"].items()}
        return _KINDS[header["kind"]](**values)
    except (AttributeError, BadZipFile, EOFError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"path must be a file that Flow.save has written, got {path}") from error


def _put(arrays: dict[str, np.ndarray], value: Any) -> Any:
    """How a value is laid out, with its arrays put beside.

    A list of as many points as there are times has the same parts each time, so that each part is
    one array, stacked over the times.
    """
    if isinstance(value, list) and value and isinstance(value[0], (list, tuple)):
        return {"times": len(value), "parts": _put_parts(arrays, value)}
    if isinstance(value, np.ndarray):
        return {"array": _name(arrays, value)}
    return {"value": value.item() if isinstance(value, np.generic) else value}


def _put_parts(arrays: dict[str, np.ndarray], values: list[Any]) -> Any:
    """The parts of values that are alike, each an array stacked over them."""
    first = values[0]
    if isinstance(first, (list, tuple)):
        parts = [_put_parts(arrays, list(column)) for column in zip(*values, strict=True)]
        return {"point": isinstance(first, FixedRankPoint), "parts": parts}
    return {"array": _name(arrays, np.array(values))}


def _name(arrays: dict[str, np.ndarray], array: np.ndarray) -> str:
    name = f"array_{len(arrays)}"
    arrays[name] = array
    return name


def _get(arrays: Any, layout: dict[str, Any]) -> Any:
    if "times" in layout:
        return _get_parts(arrays, layout["parts"], layout["times"])
    return arrays[layout["array"]] if "array" in layout else layout["value"]


def _get_parts(arrays: Any, layout: dict[str, Any], times: int) -> list[Any]:
    if "array" in layout:
        return list(arrays[layout["array"]])
    columns = [_get_parts(arrays, part, times) for part in layout["parts"]]
    rows = zip(*columns, strict=True) if columns else [()] * times
    return [FixedRankPoint(*row) if layout["point"] else list(row) for row in rows]
