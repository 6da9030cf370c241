"""Cue and gap: a probe of how long a separator remembers the voice that it is to follow.

An example is background noise with sounds in four stretches::

    lead-in      cue               gap          play
    background   the target alone  background   target and another voice at once

Both voices draw their notes from one range of pitch; only their timbres differ. The timbre of the target changes from
example to example, and only the cue tells it. So the output in ``play`` measures memory over the gap, and nothing else.
The lead-in has a random length. Without it, networks would learn to follow the voice that sounds first.

The generator has a :data:`VERSION`. The same version, seed and index give the same example on any machine, bit for bit.
"""

from bsm.cue_gap.examples import TEST, VERSION, Condition, Example, Probe, example, mixtures_and_targets
from bsm.cue_gap.scoring import ENDPOINT, Question, answer, questions, receptive_field, score, summary
from bsm.cue_gap.training import TRAINING, curriculum, train, training_batch
from bsm.cue_gap.voices import LEVEL, RATE, tone

__all__ = [
    "ENDPOINT",
    "LEVEL",
    "RATE",
    "TEST",
    "TRAINING",
    "VERSION",
    "Condition",
    "Example",
    "Probe",
    "Question",
    "answer",
    "curriculum",
    "example",
    "mixtures_and_targets",
    "questions",
    "receptive_field",
    "score",
    "summary",
    "tone",
    "train",
    "training_batch",
]
