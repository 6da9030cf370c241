"""A reproduction study of BSMamba2, vocal separation with Mamba2 on band-split spectra (arXiv 2508.14556)."""

__version__ = "0.1.0"
