"""The scan backends: error, time and memory, on both axes of the model."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from bsm.config import ModelConfig
from bsm.scan import EXACT, available, scan
from bsm.study.speed import peers
from bsm.study.speed.timer import SEED, matmul_rate, peak_memory, repeated
from bsm.study.speed.yardsticks import indexed_loop, textbook

log = logging.getLogger(__name__)

FRAMES_PER_SECOND = 100  # the paper's hop of 441 samples at 44.1 kHz
YARDSTICKS: dict[str, Callable[..., Tensor]] = {"loop, indexed": indexed_loop, "textbook": textbook}
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


def tried(name: str, rows: int, length: int) -> bool:
    """Tell whether a backend or yardstick is measured at this size."""
    longest, most = LARGEST.get(name, (math.inf, math.inf))
    return length <= longest and rows * length <= most


def inputs(batch: int, length: int, config: ModelConfig, *, device: str = "cpu") -> dict[str, Tensor]:
    """Draw random scan inputs of a model's shapes, with the official initial step sizes and decay rates; float32.

    They are drawn on the CPU, so that every device gets the same.
    """
    generator = torch.Generator().manual_seed(SEED)
    heads = config.heads

    def rand(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

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


def run(values: dict[str, Tensor], name: str, train: bool) -> tuple[Tensor, list[Tensor]]:
    """Run one scan; return its output and, for training, the gradient of every input for a fixed output gradient."""
    function = (YARDSTICKS | peers.installed()).get(name) or (lambda *v: scan(*v, backend=name, final_state=False)[0])
    if not train:
        with torch.inference_mode():
            return function(*values.values()), []
    leaves = [v.detach().requires_grad_() for v in values.values()]
    y = function(*leaves)
    weight = torch.linspace(-1, 1, y.numel(), device=y.device, dtype=y.dtype).view(y.shape)
    return y.detach(), list(torch.autograd.grad(y, leaves, weight))


def cases(
    seconds: Sequence[float], batch: int, config: ModelConfig, band_rows: int = BAND_ROWS
) -> list[tuple[str, int, int]]:
    """List (axis, rows, length): ``batch`` rows of each length on the time axis, ``band_rows`` on the band axis."""
    return [("time", batch, max(2, round(s * FRAMES_PER_SECOND) + 1)) for s in seconds] + [
        ("band", band_rows, len(config.bands))
    ]


def measure(seconds: Sequence[float], *, repeats: int, device: str) -> dict[str, Any]:
    """Measure everything about the scan backends; each value is what the function of that name returns.

    ``missing`` says which packages' scans were not measured, because they are not installed, and how to install them.

    Args:
        seconds: lengths on the time axis, s.
        repeats: timed rounds.
        device: ``cpu`` or ``cuda``.
    """
    for name, fix in peers.missing().items():
        log.info("%s is not installed, so its scan is not measured: %s", name, fix)
    return {
        "missing": peers.missing(),
        "speed": speed(seconds, repeats=repeats, device=device),
        "memory": memory(seconds, device=device),
        "scaling": scaling(repeats=repeats, device=device),
        "matmul_share": matmul_share(repeats=repeats, device=device),
        "directions": directions(repeats=repeats, device=device),
    }


def speed(
    seconds: Sequence[float] = (1.0, 4.0, 8.0),
    *,
    batch: int = 4,
    band_rows: int = BAND_ROWS,
    repeats: int = 3,
    config: ModelConfig | None = None,
    backends: Iterable[str] | None = None,
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """Measure error and time of the exact scan backends that can run here, of the yardsticks and of other packages.

    On the time axis the sequence has 100 frames a second and ``batch`` rows; the band axis is as long as the model has
    bands, with ``band_rows``. The reference of the errors is ``sequential`` in float64.

    Args:
        seconds: lengths on the time axis, s.
        batch: rows on the time axis.
        band_rows: rows on the band axis.
        repeats: timed rounds.
        config: gives the shapes; the paper's by default.
        backends: names; by default all exact ones that are available, the yardsticks, and the installed packages of
            :data:`bsm.study.speed.peers.PEERS`.
        device: ``cpu`` or ``cuda``.

    Returns:
        One record per axis, length, pass and backend: times of every round in s, relative errors in float32
        (``||got - want|| / ||want||``; of gradients, each input's own).
    """
    config = config or ModelConfig.preset("paper")
    names = list(backends or [*exact_backends(device), *YARDSTICKS, *peers.installed()])
    records = []
    for axis, rows, length in tqdm(cases(seconds, batch, config, band_rows), desc="scan backends", unit="case"):
        values = inputs(rows, length, config, device=device)
        # One row is enough for an error, and the reference in float64 is slow.
        row = {k: v[:1] if v.ndim > 1 else v for k, v in values.items()}
        want, want_grads = run({k: v.double() for k, v in row.items()}, "sequential", True)
        here = [name for name in names if tried(name, rows, length)]
        for train in (False, True):
            times = repeated({name: partial(run, values, name, train) for name in here}, repeats)
            for name in here:
                got, got_grads = run(row, name, train)
                errors = {k: _error(g, w) for k, g, w in zip(row, got_grads, want_grads, strict=False)}
                records.append(
                    {
                        "axis": axis,
                        "rows": rows,
                        "length": length,
                        "pass": "forward + backward" if train else "forward",
                        "backend": name,
                        "output_error": _error(got, want),
                        "gradient_errors": errors,
                    }
                    | times.of(name)
                )
    return records


def memory(
    seconds: Sequence[float],
    *,
    batch: int = 4,
    band_rows: int = BAND_ROWS,
    config: ModelConfig | None = None,
    backends: Iterable[str] | None = None,
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """Measure the memory that a scan takes above its inputs, forward + backward; on a CPU in a process of its own.

    On a GPU it is the most that PyTorch has allocated, in a second run.

    Returns:
        One record per axis, length and backend: ``input_bytes`` and ``peak_bytes`` (None where it cannot be measured).
    """
    config = config or ModelConfig.preset("paper")
    names = list(backends or exact_backends(device))
    records = []
    for axis, rows, length in tqdm(cases(seconds, batch, config, band_rows), desc="scan memory", unit="case"):
        size = sum(v.nbytes for v in inputs(rows, length, config).values())
        for name in (name for name in names if tried(name, rows, length)):
            case, small = (name, config, rows, length), (name, config, 1, 8)
            peak = peak_memory(_prepare, _run, case, warm_up=small, device=device)
            records.append(
                {"axis": axis, "rows": rows, "length": length, "backend": name, "input_bytes": size, "peak_bytes": peak}
            )
    return records


def _prepare(
    name: str, config: ModelConfig, rows: int, length: int, device: str = "cpu"
) -> tuple[str, dict[str, Tensor]]:
    prepared = name, inputs(rows, length, config, device=device)
    if device != "cpu":
        _run(prepared)  # kernels are tuned at first, in memory of their own
    return prepared


def _run(prepared: tuple[str, dict[str, Tensor]]) -> None:
    name, values = prepared
    run(values, name, True)


def scaling(
    lengths: Sequence[int] = (800, 6400), *, batch: int = 1, repeats: int = 3, device: str = "cpu"
) -> list[dict[str, Any]]:
    """Time ``chunked``, forward + backward, at lengths whose ratio shows whether the cost is linear."""
    config = ModelConfig.preset("paper")
    values = {length: inputs(batch, length, config, device=device) for length in lengths}
    times = repeated({str(n): partial(run, v, "chunked", True) for n, v in values.items()}, repeats)
    return [{"length": n, "rows": batch} | times.of(str(n)) for n in lengths]


def matmul_share(seconds: float = 8.0, *, batch: int = 4, repeats: int = 3, device: str = "cpu") -> dict[str, Any]:
    """Set ``chunked``'s forward beside the time its matrix products would take at the device's full rate."""
    config = ModelConfig.preset("paper")
    (_, rows, length), *_ = cases([seconds], batch, config)
    values = inputs(rows, length, config, device=device)
    times = repeated({"chunked": partial(run, values, "chunked", False)}, repeats).of("chunked")
    with FlopCounterMode(display=False) as counter:
        run(values, "chunked", False)
    count, rate = counter.get_total_flops(), matmul_rate(device=device)
    return {"rows": rows, "length": length, "operations": count, "rate": rate, "floor": count / rate} | times


def directions(seconds: float = 8.0, *, batch: int = 4, repeats: int = 3, device: str = "cpu") -> dict[str, Any]:
    """Time a backward-in-time scan by native reversal and by flipping its inputs and output, forward + backward."""
    config = ModelConfig.preset("paper")
    (_, rows, length), *_ = cases([seconds], batch, config)
    values = inputs(rows, length, config, device=device)

    def flipped() -> None:
        leaves = [v.detach().requires_grad_() for v in values.values()]
        x, dt, A, B, C, D = leaves
        y, _ = scan(x.flip(1), dt.flip(1), A, B.flip(1), C.flip(1), D, backend="chunked", final_state=False)
        y.flip(1).sum().backward()

    def native() -> None:
        leaves = [v.detach().requires_grad_() for v in values.values()]
        y, _ = scan(*leaves, backend="chunked", reverse=True, final_state=False)
        y.sum().backward()

    return {"rows": rows, "length": length} | repeated({"flipped": flipped, "native": native}, repeats).of()


def _error(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want).norm() / want.norm())
