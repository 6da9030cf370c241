"""Paired comparisons: by the seeds that both have, whatever their order, and beside what was not trained."""

import pytest

from bsm.study.compare import covers, differences, paired, table_of, tidy
from made import scored


def scores(**means):
    """A frame of ten songs."""
    return tidy(scored(means, songs=10))


def test_only_common_seeds_are_compared():
    """A training with a lucky seed does not stand beside another's ordinary one."""
    frame = scores(ours={2: 9.0, 0: 1.0, 1: 2.0}, theirs={0: 0.5, 1: 0.5})
    found = differences(table_of(frame, "ours"), table_of(frame, "theirs"))
    assert found.mean().to_dict() == {"0": pytest.approx(0.5), "1": pytest.approx(1.5)}
    assert paired(table_of(frame, "ours"), table_of(frame, "theirs"))["seeds"] == 2
    alone = scores(ours={2: 9.0, 0: 1.0}, theirs={0: 0.5})
    assert paired(table_of(alone, "ours"), table_of(alone, "theirs"))["estimate"] == pytest.approx(0.5)


def test_what_was_not_trained_stands_beside_every_seed():
    frame = scores(ours={0: 1.0, 1: 3.0}, equaliser={None: 0.0})
    ours, equaliser = (table_of(frame, name) for name in ("ours", "equaliser"))
    assert differences(ours, equaliser).mean().to_list() == pytest.approx([1.0, 3.0])
    assert differences(equaliser, ours).mean().to_list() == pytest.approx([-1.0, -3.0])


def test_trainings_without_a_common_seed_are_not_compared():
    frame = scores(ours={0: 1.0}, theirs={1: 1.0})
    with pytest.raises(ValueError, match="trained under other seeds: 0 and 1"):
        differences(table_of(frame, "ours"), table_of(frame, "theirs"))


def test_a_song_that_one_lacks_drops_out():
    frame = scores(ours={0: 1.0}, theirs={0: 0.0})
    found = paired(table_of(frame, "ours"), table_of(frame, "theirs").iloc[1:])
    assert found["tracks"] == 9 and found["dropped"] == 1


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((1,), "over songs alone: with one training seed, a difference may be the luck of a training"),
        ((3,), "over songs and 3 training seeds, the wider of bootstrap and t"),
        ((1, "singers", 4), "over singers and the 4 trainings (folds) of one seed, the wider of both"),
        ((2, "singers", 4), "over singers and 2 training seeds of 4 trainings (folds) each, "),
    ],
)
def test_a_caption_names_no_seeds_that_were_not_trained(given, expected):
    assert covers(*given).startswith(f"95 % intervals {expected}")
