"""The Mamba-2 mixer (official design: mamba-ssm, ``modules/mamba2.py``) and the paper's bidirectional block."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bsm.conv import causal_conv
from bsm.linear import linear
from bsm.scan import scan

DT_RANGE = (1e-3, 1e-1)  # initial step sizes, log-uniform
A_RANGE = (1.0, 16.0)  # initial decay rates, uniform
EPS = 1e-5


class GatedRMSNorm(nn.Module):
    """RMSNorm of ``y * silu(z)``: the gate comes before the norm (official ``RMSNormGated``, norm_before_gate off)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        """Gate and normalise; ``y``, ``z`` and the result are ``(..., channels)``."""
        return F.rms_norm(y * F.silu(z), y.shape[-1:], self.weight, EPS)


class CausalConv1d(nn.Conv1d):
    """Apply :func:`bsm.conv.causal_conv` to ``(batch, length, channels)``, one filter per channel.

    Args:
        channels: in and out.
        taps: steps that one output sees.
        reverse: look at later steps instead of earlier ones.
    """

    def __init__(self, channels: int, taps: int, *, reverse: bool = False) -> None:
        super().__init__(channels, channels, taps, groups=channels)
        self.reverse = reverse

    def forward(self, x: Tensor) -> Tensor:
        """Convolve and apply SiLU; the shape stays."""
        return causal_conv(x, self.weight, self.bias, reverse=self.reverse)


class Scan(nn.Module):
    """Apply :func:`bsm.scan.scan` with a fixed backend and direction.

    It has no parameters. As a module it can be followed by hooks, and replaced in a benchmark.
    """

    def __init__(self, backend: str = "auto", *, reverse: bool = False) -> None:
        super().__init__()
        self.backend, self.reverse = backend, reverse

    def forward(self, **inputs: Tensor) -> Tensor:
        """Return ``y``, ``(batch, length, heads, headdim)``, from ``x``, ``dt``, ``A``, ``B``, ``C`` and ``D``."""
        return scan(**inputs, backend=self.backend, reverse=self.reverse, final_state=False)[0]


class Mamba2(nn.Module):
    """One Mamba-2 mixer, ``(batch, length, dim)`` to the same, forwards or backwards in time.

    Args:
        dim: features in and out.
        d_state: state size N.
        headdim: channels per head.
        expand: inner channels as a multiple of ``dim``.
        d_conv: taps of the causal convolution.
        reverse: run from the last step to the first.
        backend: see :func:`bsm.scan.scan`.
    """

    def __init__(
        self,
        dim: int,
        *,
        d_state: int,
        headdim: int,
        expand: int,
        d_conv: int,
        reverse: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        inner = expand * dim
        self.sizes = inner, d_state, inner // headdim  # channels, state, heads
        self.headdim = headdim
        heads, conv_channels = inner // headdim, inner + 2 * d_state
        self.in_proj = nn.Linear(dim, inner + conv_channels + heads, bias=False)
        self.conv1d = CausalConv1d(conv_channels, d_conv, reverse=reverse)
        self.ssm = Scan(backend, reverse=reverse)
        self.dt_bias = nn.Parameter(torch.empty(heads))
        self.A_log = nn.Parameter(torch.empty(heads))
        self.D = nn.Parameter(torch.ones(heads))
        self.norm = GatedRMSNorm(inner)
        self.out_proj = nn.Linear(inner, dim, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise as the official code does: dt log-uniform, A uniform.

        Its division of ``out_proj`` by the root of the number of layers is one by 1: the author's model is made of
        blocks of one layer each, every one initialised on its own.
        """
        low, high = (math.log(v) for v in DT_RANGE)
        dt = torch.exp(low + (high - low) * torch.rand_like(self.dt_bias)).clamp_min(1e-4)
        self.dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # the inverse of softplus
        self.A_log.uniform_(*A_RANGE).log_()
        nn.init.kaiming_uniform_(self.out_proj.weight, a=math.sqrt(5))

    def forward(self, u: Tensor, folded: FoldedMixer | None = None) -> Tensor:
        """Mix ``u``, ``(batch, length, dim)``, along its length.

        Where ``folded`` is given, without gradients and in fewer passes: the norm's divisor, one number a step, scales
        the projection's result, which is narrower than what is normalised, and the gate is not made before it is used.
        """
        if folded is None:
            z, inputs = self.in_proj(u).tensor_split([self.sizes[0]], dim=-1)
            return self.out_proj(self.norm(self._scanned(inputs), z))
        y = self._scanned(folded.inputs(u)).mul_(folded.gate(u))
        scale = torch.linalg.vector_norm(y, dim=-1, keepdim=True).square_().div_(y.shape[-1]).add_(EPS).rsqrt_()
        return folded.out(y).mul_(scale)

    def _scanned(self, inputs: Tensor) -> Tensor:
        """Return the scan's result, ``(batch, length, inner)``, of what :meth:`scan_inputs` takes."""
        return self.ssm(**self.scan_inputs(inputs)).flatten(2)

    def scan_inputs(self, projected: Tensor) -> dict[str, Tensor]:
        """Return the scan's inputs by name, of the part of ``in_proj``'s result that follows the gate."""
        inner, state, heads = self.sizes
        xBC, dt = projected.tensor_split([inner + 2 * state], dim=-1)
        x, B, C = self.conv1d(xBC).split([inner, state, state], dim=-1)
        dt = dt.to(torch.promote_types(dt.dtype, torch.float32))  # steps and states stay in full precision
        return {
            "x": x.unflatten(-1, (heads, self.headdim)),
            "dt": F.softplus(dt + self.dt_bias),
            "A": -torch.exp(self.A_log),
            "B": B[:, :, None],
            "C": C[:, :, None],
            "D": self.D,
        }


@dataclass(frozen=True)
class FoldedMixer:
    """A mixer's layers for passes without gradients."""

    gate: Callable[[Tensor], Tensor]  # SiLU included
    inputs: Callable[[Tensor], Tensor]  # the rest of in_proj: what scan_inputs takes
    out: Callable[[Tensor], Tensor]  # proj's part for this direction, out_proj and the weights of the norm, in one


@dataclass(frozen=True)
class Folded:
    """A block's layers for passes without gradients, see :meth:`BiMamba2Block.folded`."""

    skip: Callable[[Tensor], Tensor]
    mixers: tuple[FoldedMixer, FoldedMixer]


class Direction(nn.Module):
    """Pre-norm residual branch around one mixer (the official ``Block``)."""

    def __init__(self, dim: int, **mixer) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(dim, eps=EPS)
        self.mixer = Mamba2(dim, **mixer)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``mixer(norm(x)) + x``, ``(batch, length, dim)``."""
        return self.mixer(self.norm(x)) + x


class BiMamba2Block(nn.Module):
    """Two separate mixers, forwards and backwards, concatenated and projected, plus the block's input.

    Args:
        dim: features in and out.
        directions: ``separate``; or, for the ablations, one mixer ``shared`` by both, or ``forward`` alone.
        merge: ``concat``; or, for the ablations, the ``mean`` of both directions, which is projected likewise.
        mixer: of :class:`Mamba2`.
    """

    def __init__(self, dim: int, *, directions: str = "separate", merge: str = "concat", **mixer) -> None:
        super().__init__()
        self.directions, self.merge = directions, merge
        self.forward_direction = Direction(dim, **mixer)
        if directions == "separate":
            self.backward_direction = Direction(dim, reverse=True, **mixer)
        width = dim if merge == "mean" or directions == "forward" else 2 * dim
        self.proj = nn.Linear(width, dim)  # the author's ConvTranspose1d of kernel 1, with that layer's initial range
        for parameter in self.proj.parameters():
            nn.init.uniform_(parameter, -(dim**-0.5), dim**-0.5)

    def folded(self, rows: int) -> Folded | None:
        """Multiply the layers' weights that follow each other, for :meth:`forward` without gradients.

        With a direction's result ``s (y W^T) + x``, ``s`` one number a step, ``proj(cat(...)) + x`` is the sum of
        ``s (y (P W)^T)`` over the directions, ``P`` being proj's weights for each, plus ``x (I + sum of P)^T + bias``.

        Args:
            rows: steps, of all sequences together, that most calls will bring: see :func:`bsm.linear.linear`.

        Returns:
            The layers; None, for the plain way, in the ablations' designs and below full precision.
        """
        weight = self.proj.weight
        full = weight.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled(weight.device.type)
        if not full or self.directions != "separate" or self.merge != "concat":
            return None
        mixers = self.forward_direction.mixer, self.backward_direction.mixer
        parts = weight.split(len(weight), 1)
        skip = sum(parts) + torch.eye(len(weight), dtype=weight.dtype, device=weight.device)
        folded = []
        for part, mixer in zip(parts, mixers, strict=True):
            gate, inputs = mixer.in_proj.weight.tensor_split([mixer.sizes[0]])
            out = part @ (mixer.out_proj.weight * mixer.norm.weight)
            layers = linear(gate, rows=rows, silu=True), linear(inputs, rows=rows), linear(out, rows=rows)
            folded.append(FoldedMixer(*layers))
        return Folded(linear(skip, self.proj.bias, rows=rows), tuple(folded))

    def forward(self, x: Tensor, folded: Folded | None = None) -> Tensor:
        """Map ``(batch, length, dim)`` to the same shape; without gradients faster where ``folded`` is given."""
        if folded is not None:
            y = folded.skip(x)
            for direction, layers in zip((self.forward_direction, self.backward_direction), folded.mixers, strict=True):
                y += direction.mixer(direction.norm(x), layers)
            return y
        parts = [self.forward_direction(x)]
        if self.directions == "separate":
            parts.append(self.backward_direction(x))
        elif self.directions == "shared":
            parts.append(self.forward_direction(x.flip(1)).flip(1))
        return self.proj(sum(parts) / len(parts) if self.merge == "mean" else torch.cat(parts, dim=-1)) + x
