"""The scan backends: error, time and memory, on both axes of the model."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from bsm.config import ModelConfig
from bsm.scan import EXACT, available, scan
from bsm.study.speed import yardsticks
from bsm.study.speed.timer import SEED, fresh, matmul_rate, peak_memory_cuda, repeated, resident

log = logging.getLogger(__name__)

PAPER = ModelConfig.preset("paper")
PASSES = {"forward": False, "forward + backward": True}  # and whether there are gradients
BAND_ROWS = 100  # frames of a second: as many sequences of bands
# The largest cases tried, as (steps, steps times rows). The loops' backward keeps every step's state, gigabytes of
# them, and the indexed one's time grows with the square of the length; the quadratic form holds a matrix per head,
# and Mamba-1's reference and mamba-scan-lite a state per channel and step.
LARGEST = {
    "sequential": (900, 10_000),
    "loop, indexed": (450, 10_000),
    "quadratic": (900, 10_000),
    "selective": (500, 500),
    "mamba-scan-lite": (150, 1000),
}


def exact_backends(device: str = "cpu") -> list[str]:
    """Return the exact backends that run on a device."""
    lacking = available(device)
    return [name for name in EXACT if lacking[name] is None]


def tried(name: str, rows: int, length: int, device: str = "cpu") -> bool:
    """Tell whether a backend or yardstick is measured at this size."""
    if name == "selective" and device == "cuda":  # its kernel, not the plain recurrence
        return True
    longest, most = LARGEST.get(name, (math.inf, math.inf))
    return length <= longest and rows * length <= most


def frames(config: ModelConfig, seconds: float) -> int:
    """Return the number of spectrogram frames in ``seconds`` of audio: the length of a sequence on the time axis."""
    return round(seconds * config.sample_rate) // config.stft.hop_length + 1


def inputs(batch: int, length: int, config: ModelConfig, *, device: str = "cpu") -> dict[str, Tensor]:
    """Draw random scan inputs of a model's shapes, with the official initial step sizes and decay rates; float32.

    They are drawn on the CPU, so that every device gets the same.
    """
    generator, heads = torch.Generator().manual_seed(SEED), config.heads
    rand, randn = partial(torch.rand, generator=generator), partial(torch.randn, generator=generator)
    start = torch.exp(math.log(1e-3) + math.log(100) * rand(heads))
    bias = start + torch.log(-torch.expm1(-start))
    values = {
        "x": randn(batch, length, heads, config.headdim),
        "dt": torch.nn.functional.softplus(randn(batch, length, heads) / 2 + bias),
        "A": -(1 + 15 * rand(heads)),
        "B": randn(batch, length, 1, config.d_state),
        "C": randn(batch, length, 1, config.d_state),
        "D": torch.ones(heads),
    }
    return {name: value.to(device) for name, value in values.items()}


def outputs(**inputs: Any) -> Tensor:
    """Run :func:`bsm.scan.scan`; return its outputs alone, without the final state."""
    return scan(**inputs, final_state=False)[0]


def function_of(name: str) -> Callable[..., Tensor]:
    """Return a scan by the name of its backend, yardstick or package."""
    return yardsticks.scans().get(name) or partial(outputs, backend=name)


def weights_like(x: Tensor) -> Tensor:
    """Return weights of an output that is shaped as ``x``. Every precision holds them exactly."""
    return torch.linspace(-1, 1, x.numel(), device=x.device).bfloat16().to(x.dtype).view(x.shape)


def run(
    function: Callable[..., Tensor], values: Mapping[str, Tensor], weights: Tensor | None = None
) -> dict[str, Tensor]:
    """Run a function; return its output under an empty name, and each input's gradient under the input's name.

    The gradients are those of the sum of the output times ``weights``. Without weights there is a forward pass alone.
    """
    if weights is None:
        with torch.inference_mode():
            return {"": function(**values)}
    leaves = {name: value.detach().requires_grad_() for name, value in values.items()}
    y = function(**leaves)
    gradients = torch.autograd.grad(y, list(leaves.values()), weights.to(y.dtype))
    return {"": y.detach()} | dict(zip(leaves, gradients, strict=True))


def errors(got: dict[str, Tensor], want: dict[str, Tensor]) -> dict[str, Any]:
    """Compare results of :func:`run`: ``||got - want|| / ||want||`` of the output, and of each gradient."""
    found = {name: float((v.double() - want[name]).norm() / want[name].norm()) for name, v in got.items()}
    return {"output_error": found.pop(""), "gradient_errors": found}


def worst_errors(records: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Return the largest error of an output, and of a gradient, in records of :func:`speed`; NaN without any."""
    gradients = [error for r in records for error in r.get("gradient_errors", {}).values()]
    outputs = [r["output_error"] for r in records]
    return max(outputs, default=math.nan), max(gradients, default=math.nan)


def cases(seconds: Sequence[float], batch: int, band_rows: int) -> list[tuple[str, int, int]]:
    """List (axis, rows, length): ``batch`` rows of each length on the time axis, ``band_rows`` on the band axis."""
    return [("time", batch, frames(PAPER, span)) for span in seconds] + [("band", band_rows, len(PAPER.bands))]


def measure(seconds: Sequence[float], *, repeats: int, device: str) -> dict[str, Any]:
    """Measure ``speed`` and ``memory`` of the scan backends, in s, and what :func:`scaling` measures."""
    if missing := yardsticks.PEERS.keys() - yardsticks.scans().keys():
        log.info("not measured, for want of `pip install %s`: their scans", " ".join(sorted(missing)))
    return {
        "speed": speed(seconds, repeats=repeats, device=device),
        "memory": memory(seconds, device=device),
        **scaling(repeats=repeats, device=device),
    }


def speed(
    seconds: Sequence[float],
    *,
    batch: int = 4,
    band_rows: int = BAND_ROWS,
    repeats: int = 3,
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """Measure error and time of the exact scan backends that can run here, of the yardsticks and of other packages.

    The reference of the errors is ``sequential`` in float64. Shapes are those of the paper's network.

    Returns:
        One record per axis, length, pass and backend: times of every round in s, relative errors in float32
        (``||got - want|| / ||want||``; of gradients, each input's own).
    """
    names = [*exact_backends(device), *yardsticks.scans()]
    records = []
    for axis, rows, length in tqdm(cases(seconds, batch, band_rows), desc="scan backends", unit="case"):
        values = inputs(rows, length, PAPER, device=device)
        # One row is enough for an error, and the reference in float64 is slow.
        row = {k: v[:1] if v.ndim > 1 else v for k, v in values.items()}
        definition = partial(outputs, backend="sequential")
        want = run(definition, {k: v.double() for k, v in row.items()}, weights_like(row["x"]))
        functions = {name: function_of(name) for name in names if tried(name, rows, length, device)}
        case = {"axis": axis, "rows": rows, "length": length}
        for record in timed_passes(functions, values, repeats, case):
            weights = weights_like(row["x"]) if PASSES[record["pass"]] else None
            records.append(record | errors(run(functions[record["backend"]], row, weights), want))
    return records


def timed_passes(
    functions: Mapping[str, Callable[..., Tensor]], values: Mapping[str, Tensor], repeats: int, case: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Time functions of the same inputs in turns; yield a record per pass (:data:`PASSES`) and function."""
    for kind, train in PASSES.items():
        weights = weights_like(values["x"]) if train else None
        times = repeated({name: partial(run, f, values, weights) for name, f in functions.items()}, repeats)
        yield from times.records("backend", case | {"pass": kind})


def memory(
    seconds: Sequence[float], *, batch: int = 4, band_rows: int = BAND_ROWS, device: str = "cpu"
) -> list[dict[str, Any]]:
    """Measure the memory that a scan takes above its inputs, forward + backward, at the paper's sizes.

    The inputs include the gradient of the output.

    Returns:
        One record per axis, length and backend: ``input_bytes`` and ``peak_bytes`` (None where it cannot be measured).
    """
    names, records = exact_backends(device), []
    for axis, rows, length in tqdm(cases(seconds, batch, band_rows), desc="scan memory", unit="case"):
        size = sum(v.nbytes for v in inputs(rows, length, PAPER).values())
        for name in (name for name in names if tried(name, rows, length, device)):
            case = name, rows, length, device
            peak = fresh(_peak_bytes, *case) if device == "cpu" else _peak_bytes(*case)
            record = {"axis": axis, "rows": rows, "length": length, "backend": name}
            records.append(record | {"input_bytes": size, "peak_bytes": peak})
    return records


def _peak_bytes(name: str, rows: int, length: int, device: str) -> int | None:
    """Measure by how many bytes one pass raises memory above its inputs; None where the system does not report it.

    On a CPU this is resident memory of the process, which must be fresh: in a used one, the allocator would hand out
    freed memory again without a rise. A first pass loads libraries, with small inputs, or tunes a GPU's kernels.
    """

    def one_pass(rows: int, length: int) -> Callable[[], Any]:
        values = inputs(rows, length, PAPER, device=device)
        return partial(run, function_of(name), values, weights_like(values["x"]))

    if device != "cpu":
        take = one_pass(rows, length)
        take()
        return peak_memory_cuda(take)
    one_pass(1, 8)()
    _, before, peak = resident(one_pass(rows, length))
    return None if peak is None else peak - before


def scaling(
    lengths: Sequence[int] = (800, 6400), *, seconds: float = 8.0, batch: int = 4, repeats: int = 3, device: str = "cpu"
) -> dict[str, Any]:
    """Measure how the cost of the scan ``chunked`` grows, and what its matrix products alone would take.

    Returns:
        ``scaling``: times of one row, forward + backward, at lengths whose ratio shows whether the cost is linear.
        ``matmul_share``: forward times of ``batch`` rows of ``seconds`` of audio. Its ``floor`` is the time that the
        matrix products would take at the device's full rate.
    """
    rows = {length: inputs(1, length, PAPER, device=device) for length in lengths}
    chunked = partial(outputs, backend="chunked")
    scaled = repeated({n: partial(run, chunked, v, weights_like(v["x"])) for n, v in rows.items()}, repeats)
    values = inputs(batch, frames(PAPER, seconds), PAPER, device=device)
    share = repeated({"chunked": partial(run, chunked, values)}, repeats).of("chunked")
    with FlopCounterMode(display=False) as counter:
        run(chunked, values)
    count, rate = counter.get_total_flops(), matmul_rate(device=device)
    return {
        "scaling": scaled.records("length", {"rows": 1}),
        "matmul_share": {"operations": count, "rate": rate, "floor": count / rate} | share,
    }
