"""The probe's analysis on made-up results, whose answers are known."""

import numpy as np
import pytest
from matplotlib import pyplot as plt

from bsm.errors import InputError
from bsm.study import figures
from bsm.study.long import probe_tables
from bsm.study.records import mark, write_result


def answered(rng, name, gap, sdr, right, change=None, examples=40):
    """An answer in which a share of the choices is right."""
    target = np.where(np.arange(examples) < right * examples, 0.9, 0.3)
    own = {"name": name, "gap": gap, "lead": 0.5, "deleted": False, "swapped": False, "change": change, "frames": 60}
    return own | {"sdr": sdr + rng.normal(0, 0.1, examples), "target": target, "other": 1.2 - target}


@pytest.fixture
def folder(tmp_path):
    """Mamba2 remembers over 4 s, attention does not; ``none`` guesses; one LSTM never learned."""
    rng = np.random.default_rng(0)
    for arm, far in (("mamba2", 12), ("attention", 4), ("lstm", 8), ("none", 3)):
        for seed in range(2, 12):
            guesses = arm == "none" or (arm, seed) == ("lstm", 2)
            asked = [answered(rng, "gap 0.5", 0.5, 14, 0.5 if guesses else 1), answered(rng, "gap 4", 4, far, 0.5)]
            asked += [] if arm == "none" else [answered(rng, "cut 0.5", 0.5, 3, 0.5, "cut")]
            asked += [answered(rng, "lead 4", 0.5, 10 if arm == "attention" else 13, 1) | {"lead": 4.0}]
            parameters = {"arm": arm, "train": {"lr": 0.004}, "probe": {"longest_gap": 0.5}}
            path = tmp_path / f"gap-{arm}-seed{seed}.json"
            write_result(path, measured="", parameters=parameters, values={"answers": asked}, seed=seed, started=mark(),
                         data="", inputs=[])  # fmt: skip
    return tmp_path


def test_what_arms_learned_and_remember(folder):
    found = probe_tables.answers(folder, ["gap"])
    assert len(found) == 3 * 10 * 4 + 10 * 3 and probe_tables.endpoint(found) == "gap 4"
    learned = probe_tables.learned(found)
    assert learned["mamba2"].all() and not learned["none"].any()
    assert learned["lstm"].to_dict() == {2: False} | dict.fromkeys(range(3, 12), True)
    able = probe_tables.able(found)
    assert set(able["arm"].cat.categories) == {"mamba2", "attention", "lstm"} and len(able) == 3 * 10 * 4 - 4
    assert probe_tables.difference(able, ("mamba2", "gap 4"), ("lstm", "gap 4")).n == 9
    assert set(probe_tables.comparisons(able)["arm"]) == {"attention", "LSTM"}
    gain = probe_tables.difference(found, ("mamba2", "gap 4"), ("attention", "gap 4"))
    assert 7.8 < gain.low < gain.estimate < gain.high < 8.2 and gain.n == 10
    assert np.isnan(probe_tables.difference(found[found["seed"] == 2], ("mamba2", "gap 4"), ("attention", "gap 4")).low)


def test_what_a_gap_costs_is_divided_into_length_and_distance(folder):
    """Attention loses 4 dB by the length of 4 s, and 6 dB by the distance of the cue; Mamba2 1 dB by either."""
    able = probe_tables.able(probe_tables.answers(folder, ["gap"]))
    costs = probe_tables.length_and_distance(able).set_index("arm")
    for arm, length, distance in (("attention", -4, -6), ("mamba2", -1, -1)):
        assert costs.loc[arm, "seconds"] == 4
        assert costs.loc[arm, "length"].estimate == pytest.approx(length, abs=0.1)
        assert costs.loc[arm, "distance"].estimate == pytest.approx(distance, abs=0.1)
    shown = probe_tables.length_table(probe_tables.length_and_distance(able)).set_index("arm")
    assert shown.loc["attention", "length, 4 s"].startswith(("-4.0", "-3.9"))


def test_tables_and_figure(folder):
    found = probe_tables.answers(folder, ["gap"])
    table = probe_tables.table(found).set_index("arm")
    assert table.loc["LSTM", "learned"] == "9 of 10" and table.loc["BSMamba2", "0.5 s"] == "14.0 / 100%"
    assert set(probe_tables.interventions(found)["cut 0.5"].dropna()) == {"3.0 / 50%"}
    figure, ax = plt.subplots()
    probe_tables.draw(ax, found)
    lines = [line for line in ax.lines if not line.get_label().startswith("_")]
    assert [line.get_label() for line in lines] == ["BSMamba2", "attention", "LSTM", "no time block"]
    assert lines[0].get_ydata() == pytest.approx([14, 12], abs=0.1)
    titles = [ax.get_title().replace("\n", ": ") for ax in probe_tables.figure_of_arms(found).axes]
    assert titles[:4] == [f"{name} of 10 seeds learned" for name in (
        "BSMamba2: 10", "attention: 10", "LSTM: 9", "no time block: 0"
    )] and titles[4].startswith("right choices")  # fmt: skip
    plt.close(figure)


def test_experiments_stand_together(folder):
    found = probe_tables.answers(folder, ["gap"])
    longer = found.assign(longest_gap=2.0, gap=found["gap"] * 4)
    table = probe_tables.together({"0.5 s": found, "2 s": longer}, "training gaps")
    assert [*table.columns] == ["arm", "training gaps", "rate", "learned", "0.5 s", "2 s", "4 s", "16 s"]
    own = table[table["arm"] == "BSMamba2"].set_index("training gaps")
    assert own.loc["0.5 s", "0.5 s"] == own.loc["2 s", "2 s"] == "14.0 / 100%"
    assert own.loc["0.5 s", "16 s"] == own.loc["2 s", "0.5 s"] == ""
    drawn = probe_tables.figure({"short": found, "long": longer})
    assert [ax.get_title() for ax in drawn.axes] == ["short\n10 seeds an arm", "long\n10 seeds an arm"]
    plt.close(drawn)


@pytest.mark.parametrize("entries", [1, 3, 6, 11])
def test_a_legend_fits_into_its_figure(entries):
    with figures.style():
        figure, ax = plt.subplots(figsize=(7, 3))
        for entry in range(entries):
            ax.plot([0, 1], label=f"a network called {entry}")
        figures.legend_above(figure, ax)
    (legend,) = figure.legends
    assert len(legend.get_texts()) == entries
    assert legend.get_window_extent().width <= figure.bbox.width
    plt.close(figure)


def test_another_experiment_whose_name_begins_alike_is_not_read(folder):
    for path in list(folder.glob("gap-lstm-*")):
        path.rename(path.with_name(path.name.replace("gap-", "gap-long-")))
    assert "lstm" not in set(probe_tables.answers(folder, ["gap"])["arm"])
    assert set(probe_tables.answers(folder, ["gap-long"])["arm"]) == {"lstm"}
    assert [*probe_tables.of_each(folder, ["gap-long", "other"])] == ["gap-long"]


def test_no_results(tmp_path):
    with pytest.raises(InputError, match="no finished run of gap, other"):
        probe_tables.answers(tmp_path, ["gap", "other"])
