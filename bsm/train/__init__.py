"""Train one run in one folder, in one process or several, and resume it where it stopped.

A run folder has ``run.json`` (the run's identity), ``state.ckpt`` (the checkpoint), ``log.jsonl``, ``tensorboard/``,
``best/`` (weights of the best validations) and ``lock``. At the end it has ``model.safetensors`` and its card.
"""

from bsm.train.distributed import Stopped
from bsm.train.journal import read_log
from bsm.train.loop import train

__all__ = ["Stopped", "read_log", "train"]
