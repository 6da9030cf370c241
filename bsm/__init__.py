"""A reproduction study of BSMamba2, vocal separation with Mamba2 on band-split spectra (arXiv 2508.14556)."""

from bsm.checkpoint import load_model
from bsm.config import ModelConfig
from bsm.model import BSMamba2
from bsm.separate import separate

__version__ = "0.1.0"
__all__ = ["BSMamba2", "ModelConfig", "load_model", "separate"]
