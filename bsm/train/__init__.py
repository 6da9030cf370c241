"""Training: one run, one folder, resumed where it stopped, in one process or many.

A run folder holds ``run.json`` (what is trained, on what, by which code), ``state.ckpt`` (to resume), ``log.jsonl``,
``tensorboard/``, ``best/`` (weights by validation score) and, at the end, ``model.safetensors`` with its card.
"""

from bsm.train.interrupt import Stopped
from bsm.train.journal import read_log
from bsm.train.loop import train

__all__ = ["Stopped", "read_log", "train"]
