"""Band tables: how the frequency bins are grouped. A table is a tuple of widths in bins."""

from __future__ import annotations

PAPER: tuple[int, ...] = (2,) * 24 + (4,) * 12 + (12,) * 8 + (24,) * 8 + (48,) * 8 + (128, 129)
"""The paper's 62 bands of a 2048-point transform (author's code; the same table as BS-RoFormer's)."""


def equal(bins: int, bands: int) -> tuple[int, ...]:
    """Divide ``bins`` into ``bands`` widths that differ by at most one, the wider ones last.

    Raises:
        ValueError: more bands than bins, or none.
    """
    if not 1 <= bands <= bins:
        raise ValueError(f"bands must lie in 1..{bins}, got {bands}")
    edges = [bins * i // bands for i in range(bands + 1)]
    return tuple(b - a for a, b in zip(edges, edges[1:], strict=False))
