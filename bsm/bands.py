"""Band tables: how the frequency bins are grouped. A table is a tuple of widths in bins."""

from __future__ import annotations

import math

PAPER: tuple[int, ...] = (2,) * 24 + (4,) * 12 + (12,) * 8 + (24,) * 8 + (48,) * 8 + (128, 129)
"""The paper's 62 bands of a 2048-point transform (author's code; the same table as BS-RoFormer's)."""

PAPER_16K: tuple[int, ...] = (2,) * 24 + (4,) * 12 + (12,) * 8 + (24,) * 7 + (13,)
"""The paper's bands up to 8 kHz, for 16 kHz audio and a transform of 744 points: 52 bands.

2048 points at 44.1 kHz last 46.4 ms, and so do 744 at 16 kHz (743.04 would be exact): their bins are 21.53 and 21.51 Hz
wide. The paper's table then holds bin for bin, every edge within half a bin of the paper's in Hz, and is cut where the
spectrum ends: at bin 373, inside the paper's 52nd band (360 to 384), of which 13 bins are left.
"""


def equal(bins: int, bands: int) -> tuple[int, ...]:
    """Divide ``bins`` into ``bands`` widths that differ by at most one, the wider ones last.

    Raises:
        ValueError: more bands than bins, or none.
    """
    if not 1 <= bands <= bins:
        raise ValueError(f"bands must lie in 1..{bins}, got {bands}")
    edges = [bins * i // bands for i in range(bands + 1)]
    return tuple(b - a for a, b in zip(edges, edges[1:], strict=False))


def mel(bins: int, bands: int, rate: int = 44100) -> tuple[int, ...]:
    """Divide ``bins`` up to half of ``rate`` Hz into bands equally wide in mel, each a bin or more.

    Mel: 2595 log10(1 + f / 700).

    Raises:
        ValueError: more bands than bins, or none.
    """
    if not 1 <= bands <= bins:
        raise ValueError(f"bands must lie in 1..{bins}, got {bands}")
    top = rate / 2
    steps = (math.log10(1 + top / 700) * i / bands for i in range(bands + 1))
    edges = [max(i, round(700 * (10**step - 1) / top * bins)) for i, step in enumerate(steps)]
    return tuple(b - a for a, b in zip(edges, edges[1:], strict=False))
