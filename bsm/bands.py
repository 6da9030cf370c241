"""Band tables: how frequency bins are grouped into bands. A table is a tuple of band widths in bins."""

from __future__ import annotations

import math

PAPER: tuple[int, ...] = (2,) * 24 + (4,) * 12 + (12,) * 8 + (24,) * 8 + (48,) * 8 + (128, 129)
"""The paper's 62 bands of a 2048-point transform, from the author's code. BS-RoFormer has the same table."""

PAPER_16K: tuple[int, ...] = (2,) * 24 + (4,) * 12 + (12,) * 8 + (24,) * 7 + (13,)
"""52 bands for 16 kHz audio and a transform of 744 points: the paper's bands up to 8 kHz.

The bins are as wide as the paper's within 0.03 Hz, so the bands have as many bins. The last band is cut at 8 kHz.
"""

COARSE_16K: tuple[int, ...] = (6,) * 8 + (12,) * 4 + (24,) * 4 + (48,) * 3 + (25,)
"""20 bands for 16 kHz audio and a transform of 720 points: the paper's bands up to 8 kHz, joined.

Three bands are joined below 2 kHz, two above. A transform of 720 points takes half the time of 744 points, the length
for :data:`PAPER_16K`, because 744 has the prime factor 31.
"""

COARSE_8K: tuple[int, ...] = (16,) * 4 + (32,) * 4 + (64, 1)
"""10 bands for 8 kHz audio and a transform of 512 points; the narrowest are below 1 kHz, where most harmonics lie."""


def equal(bins: int, bands: int) -> tuple[int, ...]:
    """Divide ``bins`` into ``bands`` widths that differ by at most one; a number outside 1..bins is a ValueError."""
    if not 1 <= bands <= bins:
        raise ValueError(f"bands must lie in 1..{bins}, got {bands}")
    edges = [bins * i // bands for i in range(bands + 1)]
    return tuple(b - a for a, b in zip(edges, edges[1:], strict=False))


def mel(bins: int, bands: int, rate: int = 44100) -> tuple[int, ...]:
    """Divide ``bins``, up to half of ``rate`` Hz, into bands of equal width in mel, at least one bin each.

    The mel scale is ``2595 log10(1 + f / 700)``.

    Raises:
        ValueError: ``bands`` is below 1 or above ``bins``.
    """
    if not 1 <= bands <= bins:
        raise ValueError(f"bands must lie in 1..{bins}, got {bands}")
    top = rate / 2
    steps = (math.log10(1 + top / 700) * i / bands for i in range(bands + 1))
    edges = [max(i, round(700 * (10**step - 1) / top * bins)) for i, step in enumerate(steps)]
    return tuple(b - a for a, b in zip(edges, edges[1:], strict=False))
