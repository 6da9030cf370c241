"""Versions of the code that results depend on, raised by hand.

Runs, scores and the workflow record these numbers instead of checksums of source files. Raise a number in the change
that alters its results, and add a line of history: earlier results are then set aside or computed again.
"""

RECIPE = 1
"""Version of the training: network, initial weights, loss, sampling and optimisation.

1: the first that is recorded; before it, a checksum of source files identified a run.
"""

SCORING = 1
"""Version of the scores: separation with a trained network, and the metrics.

1: the first that is recorded; before it, a checksum of source files identified a score.
"""
