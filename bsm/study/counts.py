"""Count parameters, operations and memory at the real sizes, from tensors without values (PyTorch's meta device).

The counts are exact and take seconds. Memory is that of the tensors that PyTorch is asked for: a GPU's allocator rounds
and fragments, and libraries take workspaces that no code names.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from bsm.baseline import RoformerConfig
from bsm.config import ModelConfig
from bsm.loss import bsmamba2_loss
from bsm.mamba2 import BiMamba2Block
from bsm.model import BSMamba2
from bsm.networks import build, count_parameters
from bsm.scan import chunked
from bsm.scan.triton import CHUNK
from bsm.study.speed.yardsticks import indexed_loop, replace_scans
from bsm.train.trainer import recompute_blocks

KEPT = 16
"""Bytes that a parameter takes between steps: the weight, its average, and two moments of AdamW, in float32."""
GIB = 2**30
STEPS = (("paper", 8.0, 1, False), ("paper", 8.0, 1, True), ("paper", 8.0, 5, True), ("vram", 4.0, 2, False))
"""Steps: preset, seconds of a segment, segments, whether blocks are recomputed. The author's batch has five."""
FRAMES, BANDS = 801, 62  # of 8 s at the paper's sizes
BLOCK_FRAMES, BLOCK_ROWS = 401, (1, BANDS)  # of the 4 s that the integration reports time


class Allocations(TorchDispatchMode):
    """Count the bytes of storages while they live: ``now``, and the most so far, ``peak``."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count what it allocates."""
        if func is torch.ops.aten.equal.default:  # istft asks whether its windows leave gaps; there are no values
            return False
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and id(storage := tensor.untyped_storage()) not in self._sizes:
                self._sizes[id(storage)] = storage.nbytes()
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._free, id(storage))
        return result

    def _free(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


class KernelScan(torch.autograd.Function):
    """Allocate what mamba-ssm's Triton kernels allocate, ``mamba_chunk_scan_combined`` of version 2.3, without z."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
        """Keep the output, the inputs and the running sums of the decays; make states and products for a while."""
        out, (decays, *_) = torch.empty_like(x), _workspace(x, B)
        ctx.save_for_backward(out, x, dt, decays, A, B, C, D)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        """Make the workspace again, the gradients of states and products, and those of the inputs in float32."""
        _, x, dt, _, A, B, C, D = ctx.saved_tensors
        first, second = _workspace(x, B), _workspace(x, B)
        wide = [torch.empty_like(v, dtype=torch.float32) for v in (B, C, dt)]
        del first, second, wide
        return tuple(torch.empty_like(v) for v in (x, dt, A, B, C, D))


def _workspace(x: Tensor, B: Tensor) -> list[Tensor]:
    """Make running sums and steps, ``C B^T`` of each chunk, and the chunks' states twice: as found, and passed on."""
    batch, length, heads, headdim = x.shape
    chunk = min(CHUNK, 1 << (length - 1).bit_length())
    chunks = math.ceil(length / chunk)
    states = (batch, chunks, heads, headdim, B.shape[-1])
    shapes = [*[(batch, heads, chunks, chunk)] * 2, (batch, chunks, chunk, chunk), states, states]
    return [x.new_empty(shape, dtype=torch.float32) for shape in shapes]


class _OneSlab(chunked.Plan):
    """All rows at once: without values no slab has to fit a cache."""

    def slabs(self, batch: int, channels: int, elements: int = 0) -> Iterator[slice]:
        """Return all rows."""
        return iter([slice(0, batch)])


def _chunked(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """Return the chunked scan's output. It cannot look for heads that decay strongly."""
    chunk = x.shape[1] if x.shape[1] <= chunked.WHOLE else chunked.CHUNK
    plan = _OneSlab(chunk, reverse=False, final_state=False, dtype=torch.float32)
    factored = chunked._Way(None, by_head=False, wary=torch.empty(0, dtype=torch.int64))
    return chunked._ChunkedScan.apply(x, dt, A, B.squeeze(2), C.squeeze(2), D, None, [factored], plan)[0]


def _network(
    config: ModelConfig | RoformerConfig, seconds: float, scan: Callable[..., Tensor], batch: int = 1
) -> tuple[torch.nn.Module, Tensor]:
    """Return a network with another scan, and a mixture for it, both without values."""
    with torch.device("meta"):
        network = build(config)
        mixture = torch.empty(batch, config.channels, round(seconds * config.sample_rate))
    replace_scans(network, scan, flip=False)
    return network, mixture


def parameter_count(config: ModelConfig) -> int:
    """Return the number of parameters of a network."""
    with torch.device("meta"):
        return BSMamba2(config).parameter_counts()["total"]


@cache
def operations(config: ModelConfig | RoformerConfig, seconds: float) -> int:
    """Count multiplications and additions of the matrix products in a forward pass of one segment.

    The scans are the chunked ones. Where heads decay strongly, these make ``C B^T`` once more than is counted here.
    """
    network, mixture = _network(config, seconds, _chunked)
    with Allocations(), FlopCounterMode(display=False) as counter:
        network(mixture)
    return counter.get_total_flops()


def kept_bytes(config: ModelConfig, seconds: float) -> int:
    """Count the bytes, parameters apart, that a forward pass of one segment keeps for its backward pass."""
    network, mixture = _network(config, seconds, _chunked)
    with Allocations():
        return saved_bytes(network, mixture, apart=network.parameters())


def step_memory(preset: str, seconds: float, batch: int, recompute: bool) -> dict[str, Any]:
    """Count the memory of a training step in float32: weights, averages, moments, and the peak of its passes.

    Returns:
        The arguments, ``kept_bytes`` between steps, and ``bytes`` at the peak, those included.
    """
    network, mixture = _network(ModelConfig.preset(preset), seconds, KernelScan.apply, batch)
    if recompute:
        recompute_blocks(network)
    with Allocations() as allocated:
        bsmamba2_loss(network(mixture), torch.empty_like(mixture)).backward()
    kept = KEPT * count_parameters(network)
    given = {"preset": preset, "audio_seconds": seconds, "batch": batch, "checkpointing": recompute}
    return given | {"kept_bytes": kept, "bytes": kept + mixture.nbytes + allocated.peak}


def saved_bytes(function: Callable[..., Tensor], *inputs: Tensor, apart: Iterable[Tensor] = ()) -> int:
    """Count the bytes that a function keeps for its backward pass; not those of the tensors ``apart``.

    Its inputs are included where it keeps them.
    """
    kept: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[id(storage)] = storage  # once, however many views of it are kept
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        result = function(*inputs)
    own = {id(tensor.untyped_storage()) for tensor in apart}
    total = sum(storage.nbytes() for key, storage in kept.items() if key not in own)
    del result
    return total


def scan_memory() -> dict[str, int]:
    """Count what each scan keeps for its backward pass, one mixer of the paper's model on 8 s, all bands as rows.

    Returns:
        Bytes by scan: the ``loop`` of the optimisation report; mamba-ssm's ``triton`` kernels; and Mamba-1's
        ``selective`` kernel. That kernel (``SelectiveScanFn``) keeps its inputs, and two numbers per state for every
        2048 steps.
    """
    config = ModelConfig.preset("paper")
    heads, headdim, state = config.d_inner // config.headdim, config.headdim, config.d_state
    x, dt, B = (BANDS, FRAMES, heads, headdim), (BANDS, FRAMES, heads), (BANDS, FRAMES, 1, state)
    sizes = [x, dt, (heads,), B, B, (heads,)]  # of x, dt, A, B, C, D
    inputs = [torch.empty(size, device="meta", requires_grad=True) for size in sizes]
    channels, rows = heads * headdim, BANDS * FRAMES
    chunks = math.ceil(FRAMES / 2048)
    numbers = [2 * channels * rows, 2 * state * rows, channels * (state + 2), 2 * BANDS * channels * chunks * state]
    return {
        "loop": saved_bytes(indexed_loop, *inputs),
        "triton": saved_bytes(KernelScan.apply, *inputs),
        "selective": 4 * sum(numbers),
    }


def block_operations(rows: int) -> int:
    """Count multiplications and additions of the matrix products in a forward pass of one block of the paper's model.

    Those of the scan are not counted: the result is a lower bound.
    """
    config = ModelConfig.preset("paper")
    with torch.device("meta"):
        block, values = BiMamba2Block(config), torch.empty(rows, BLOCK_FRAMES, config.dim)
    replace_scans(block, KernelScan.apply, flip=False)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        block(values)
    return counter.get_total_flops()


def measure() -> dict[str, Any]:
    """Return ``steps`` (:func:`step_memory`), ``scans`` (:func:`scan_memory`), and ``block``: operations by rows."""
    steps = [step_memory(*step) for step in tqdm(STEPS, desc="memory of a step", unit="step")]
    return {"steps": steps, "scans": scan_memory(), "block": {str(rows): block_operations(rows) for rows in BLOCK_ROWS}}
