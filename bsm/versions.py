"""Versions of the code that results depend on, raised by hand.

Songs, runs, scores and the workflow record these numbers instead of checksums of source files. Raise a number in the
change that alters its results, and add a line of history. Earlier results are then set aside or made again.
"""

RECIPE = 1
"""Version of the training: network, initial weights, loss, sampling and optimisation.

``tests/train/test_recipe.py`` compares losses with recorded ones, and fails if they change without a new version.

1: the first that is recorded; before it, a checksum of source files identified a run.
"""

SCORING = 1
"""Version of the scores: separation with a trained network, and the metrics.

1: the first that is recorded; before it, a checksum of source files identified a score.
"""

GENERATOR_VERSION = 2
"""Version of the demo songs: what a seed sounds like. Songs of another version are rendered again."""
