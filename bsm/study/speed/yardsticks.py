"""Baselines for the speed of scan, loss and transform. Nothing here serves any other purpose.

The scans take ``x, dt, A, B, C, D`` as :func:`bsm.scan.scan` does, with one group, and return ``y``. Those of other
packages run in plain PyTorch, for machines without a GPU; these packages are optional. Their chunks have the packages'
default length, or that of a shorter sequence, so that none computes on padding alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bsm.config import LossConfig
from bsm.mamba2 import Mamba2
from bsm.stft import STFT

CHUNK = 256  # steps: the default of niverel-mamba and of transformers


def indexed_loop(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """Loop over steps as the optimisation report of the unofficial implementation does, indexing ``x[:, t]``.

    The backward pass of each index fills a gradient as long as the sequence, so the time is quadratic in the length.
    """
    state = x.new_zeros(x.shape[0], x.shape[2], x.shape[3], B.shape[3])
    decay = torch.exp(dt * A)
    outputs = []
    for t in range(x.shape[1]):
        inputs = (x[:, t] * dt[:, t, :, None])[..., None]  # (batch, heads, headdim, 1)
        state = state * decay[:, t, :, None, None] + inputs * B[:, t, :, None]
        outputs.append((state @ C[:, t, :, :, None]).squeeze(-1))
    return torch.stack(outputs, dim=1) + x * D[:, None]


class OtherScan(nn.Module):
    """Run a function of ``x, dt, A, B, C, D`` in place of a mixer's :class:`bsm.mamba2.Scan`; backwards if told to."""

    def __init__(self, function: Callable[..., Tensor], reverse: bool = False) -> None:
        super().__init__()
        self.function, self.reverse = function, reverse

    def forward(self, **inputs: Tensor) -> Tensor:
        """Return ``y``, ``(batch, length, heads, headdim)``."""
        values = [inputs[name] for name in ("x", "dt", "A", "B", "C", "D")]
        if not self.reverse:
            return self.function(*values)
        return self.function(*(v.flip(1) if v.ndim > 1 else v for v in values)).flip(1)


def replace_scans(network: nn.Module, function: Callable[..., Tensor], *, flip: bool = True) -> None:
    """Put a function in place of every mixer's scan. Without ``flip``, backward mixers run forwards, without copies."""
    for module in network.modules():
        if isinstance(module, Mamba2):
            module.ssm = OtherScan(function, flip and module.ssm.reverse)


def textbook(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, chunk: int = 64) -> Tensor:
    """Scan by chunks as the Mamba-2 paper lists it (Dao & Gu 2024, listing 1): segment sums and einsum, autograd."""
    length, heads = x.shape[1], x.shape[2]
    pad = (-length) % chunk
    inputs, log_decay, B, C = (
        F.pad(v, (0, 0) * (v.ndim - 2) + (0, pad)).unflatten(1, (-1, chunk))
        for v in (x * dt[..., None], dt * A, B.repeat_interleave(heads, 2), C.repeat_interleave(heads, 2))
    )
    log_decay = log_decay.permute(0, 3, 1, 2)  # (b, h, c, l)
    total = log_decay.cumsum(-1)
    y = torch.einsum("bclhn,bcshn,bhcls,bcshp->bclhp", C, B, _segment_sums(log_decay).exp(), inputs)
    states = torch.einsum("bclhn,bhcl,bclhp->bchpn", B, (total[..., -1:] - total).exp(), inputs)
    states = torch.cat([torch.zeros_like(states[:, :1]), states], dim=1)
    between = _segment_sums(F.pad(total[..., -1], (1, 0))).exp()
    states = torch.einsum("bhzc,bchpn->bzhpn", between, states)[:, :-1]
    y = y + torch.einsum("bclhn,bchpn,bhcl->bclhp", C, states, total.exp())
    return y.flatten(1, 2)[:, :length] + x * D[:, None]


def _segment_sums(a: Tensor) -> Tensor:
    """Sum ``a`` from after step ``j`` to step ``i``, for every pair; minus infinity above the diagonal."""
    size = a.shape[-1]
    mask = torch.ones(size, size, dtype=torch.bool, device=a.device)
    repeated = a[..., None].expand(*a.shape, size).masked_fill(~mask.tril(-1), 0)
    return repeated.cumsum(-2).masked_fill(~mask.tril(), -torch.inf)


def niverel(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """Run ``ssd_chunked`` of niverel-mamba."""
    from niverel_mamba.torch_ops.ssd_chunked import ssd_chunked

    return ssd_chunked(x, dt, A, B, C, D=D, dt_softplus=False, chunk_size=min(CHUNK, x.shape[1]))[0]


def transformers(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """Run the scan of Hugging Face transformers' Mamba2, as its PyTorch path does; version 5.24 has this function."""
    from transformers.models.mamba2.modeling_mamba2 import mamba2_chunk_scan

    return mamba2_chunk_scan(x, dt, A, B, C, min(CHUNK, x.shape[1]), D=D)


def scan_lite(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """Run ``chunked_scan`` of mamba-scan-lite."""
    from mamba_scan_lite.patch import chunked_scan

    heads = x.shape[2]
    B, C = (v.repeat_interleave(heads, 2) for v in (B, C))
    state = x.new_zeros(x.shape[0], heads, x.shape[3], B.shape[3])
    return chunked_scan(state, dt, A, x, B, C, D[:, None])[0]


PEERS = {
    "niverel-mamba": ("niverel_mamba", niverel),
    "transformers": ("transformers", transformers),
    "mamba-scan-lite": ("mamba_scan_lite", scan_lite),
}
"""By the package's name on PyPI: the module that it installs, and its scan."""


def scans() -> dict[str, Callable[..., Tensor]]:
    """Return the scans here by name, as far as their packages are installed."""
    own = {"loop, indexed": indexed_loop, "textbook": textbook}
    return own | {name: scan for name, (module, scan) in PEERS.items() if find_spec(module)}


def plain_loss(
    estimate: Tensor, target: Tensor, config: LossConfig, kinds: Sequence[Callable[[Tensor], Tensor]] = ()
) -> Tensor:
    """Compute a loss of :mod:`bsm.loss` as the author's code and the unofficial implementation do.

    Both signals, ``(batch, channels, samples)``, are transformed, each call makes its windows anew, and autograd finds
    the gradient. The distances of all ``kinds`` are added, functions of a spectrum such as ``torch.real``; by default
    the configuration says what is compared.
    """
    kinds = kinds or (torch.abs if config.magnitude else lambda spectrum: spectrum,)
    loss = config.waveform_weight * F.l1_loss(estimate, target)
    for window in config.windows:
        sizes, options = (max(window, config.min_fft), config.hop_length, window), {"center": config.center}
        first, second = (
            torch.stft(
                v.flatten(0, -2), *sizes, torch.hann_window(window, device=v.device), **options, return_complex=True
            )
            for v in (estimate, target)
        )
        distance = sum(F.l1_loss(kind(first), kind(second)) for kind in kinds)
        loss = loss + distance / (len(config.windows) if config.mean else 1)
    return loss


class MonoSTFT(nn.Module):
    """Transform the average of the channels and use it for each channel, as the optimisation report does."""

    def __init__(self, stft: STFT) -> None:
        super().__init__()
        self.stft = stft

    def forward(self, wave: Tensor) -> Tensor:
        """Transform ``(batch, channels, samples)`` to ``(batch, channels, bins, frames)``."""
        spec = self.stft(wave.mean(1, keepdim=True))
        return spec.expand(-1, wave.shape[1], -1, -1)

    def inverse(self, spec: Tensor, samples: int) -> Tensor:
        """As :meth:`bsm.stft.STFT.inverse`."""
        return self.stft.inverse(spec, samples)
