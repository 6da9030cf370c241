"""Data: songs with their sources, songs synthesised from a seed, and the mixing of training segments."""
