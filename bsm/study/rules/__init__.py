"""The rules by subject; importing them here registers them."""

from bsm.study.rules import ablation, data, scan, scores, separation, step, structure

__all__ = ["ablation", "data", "scan", "scores", "separation", "step", "structure"]
