"""Commands for what is not here, rehearsed on stand-ins: published weights and excerpts from a server, MUSDB18-HQ."""

import hashlib
import json
import os
import shutil
import subprocess
import zipfile

import numpy as np
import pytest
import torch
import yaml

from bsm.config import ModelConfig
from bsm.data.musdb18 import STEMS
from bsm.model import BSMamba2
from bsm.study import rehearse
from bsm.study.records import ROOT, read_result
from bsm.study.rehearse import copy_of_checkout
from bsm.study.stand_ins import write_stems
from bsm.weights.author import to_author

RATE = 44100
SONGS = ("AM Contra - Heart Peripheral", "Al James - Schoolboy Facination", "Arise - Run Run Run")


@pytest.fixture
def checkout(tmp_path):
    """A copy of this checkout with an environment, and what runs `make` in it."""
    names = ("bsm", "data_manifest", "notebooks", "reports", "Makefile", "Snakefile", "README.md", "pyproject.toml")
    copy = copy_of_checkout(tmp_path / "checkout", *names, without=["*.safetensors"])
    (copy / ".venv").symlink_to((ROOT / ".venv").resolve())
    if not (copy / ".venv/bin/bsm").is_file():
        pytest.skip("needs the environment of `make env`")
    environment = os.environ | {"PYTHONPATH": str(copy), "BSM_CACHE": str(tmp_path / "cache")}

    def make(*words):
        command = ["make", "-o", ".venv/.installed", *words]  # installs nothing
        return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)

    return copy, make


def excerpt(folder, name, seed):
    """A stem file of 7 s as MUSDB18's, in which a voice comes and goes."""
    noise = np.random.default_rng(seed)
    sounds = {part: noise.normal(0, 0.05, (2, 7 * RATE)) for part in STEMS}
    time = np.arange(7 * RATE) / RATE
    sung = ((time > 0.8) & (time < 2.3)) | ((time > 2.6) & (time < 3.3)) | ((time > 4.5) & (time < 5.9))
    sounds["vocals"] = 0.2 * sung * np.sin(2 * np.pi * 220 * (1 + seed) * time) * np.ones((2, 1))
    sounds["mixture"] = sum(sounds.values())
    return write_stems(folder / name, {part: sound.astype(np.float32) for part, sound in sounds.items()}, RATE)


def record(path, file, entry, url, content):
    """Enter a stand-in's address, size and checksum into a manifest."""
    listed = yaml.safe_load(path.read_text())
    (archive,) = (listed[entry] if entry else listed)["files"]
    archive |= {"url": f"{url}/breaks-once/{file}", "size": len(content)}
    archive["checksum"] = f"sha256:{hashlib.sha256(content).hexdigest()}"
    path.write_text(yaml.safe_dump(listed, allow_unicode=True))


@pytest.fixture
def publisher(checkout, http_server, url, tmp_path):
    """A server of random weights in the published layout and of three excerpts; each first connection breaks."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not here")
    manifests = checkout[0] / "data_manifest"
    torch.manual_seed(0)
    model = BSMamba2(ModelConfig(dim=8, depth=1, d_state=4, headdim=4, expand=2, mask_expansion=2))
    torch.save(to_author(model.state_dict(), model.config.bands), tmp_path / "weights.ckpt")
    with zipfile.ZipFile(tmp_path / "excerpts.zip", "w") as archive:
        for seed, name in enumerate(SONGS):
            archive.write(excerpt(tmp_path, name, seed), f"test/{name}.stem.mp4")
    for name in ("musdb18-hq", "musdb18-sample"):  # of the 50 songs three
        path = manifests / f"{name}.yaml"
        listed = yaml.safe_load(path.read_text())
        listed["splits"]["test"]["songs"] = len(SONGS)
        if "names" in listed["splits"]["test"]:
            listed["splits"]["test"]["names"] = list(SONGS)
        path.write_text(yaml.safe_dump(listed, allow_unicode=True))
    http_server.files = {name: (tmp_path / name).read_bytes() for name in ("weights.ckpt", "excerpts.zip")}
    record(manifests / "weights.yaml", "weights.ckpt", "msst-v1.0.19", url, http_server.files["weights.ckpt"])
    record(manifests / "musdb18-sample.yaml", "excerpts.zip", "", url, http_server.files["excerpts.zip"])
    return http_server


@pytest.mark.slow
def test_make_published_fetches_goes_on_after_a_broken_connection_scores_and_judges(checkout, publisher):
    copy, make = checkout
    for what in ("weights.ckpt", "excerpts.zip"):
        done = make("published")
        (error,) = (line for line in done.stderr.splitlines() if line.startswith("bsm: "))
        assert done.returncode and what in error and "the connection broke off" in error
        assert error.endswith("Run the same command to continue, or name another source with --from")
    done = make("published")
    assert done.returncode == 0, done.stderr[-3000:]
    assert [asked is None for asked in publisher.asked] == [True, False, True, False]  # the second call of each goes on
    found = {path.stem: json.loads(path.read_text()) for path in (copy / "reports/published/results").glob("*.json")}
    assert set(found) == {"published_model", "vocal_occurrence", "input_length"}
    scores = found["published_model"]["values"]
    assert scores["status"] == "blocked" and {r["track"] for r in scores["scores"]} == set(SONGS)
    assert scores["data"] == "MUSDB18: musdb18-sample" and "Excerpts cannot settle" in " ".join(scores["missing"])
    windows = found["input_length"]["values"]
    assert {(r["window"], r["seconds"]) for r in windows["scores"]} == {(w, 6.0) for w in (1.0, 2.0, 3.0, 6.0)}
    assert windows["against"] == {"BSMamba2": 6.0} and windows["trained"] == {"BSMamba2": 8.0}
    regions = found["vocal_occurrence"]["values"]["regions"]
    assert [round(r["gap"], 1) for r in regions[:3]] == pytest.approx([0.8, 0.3, 1.2], abs=0.11)
    page = (copy / "reports/CLAIMS.md").read_text()
    assert "As context, msst-v1.0.19 on MUSDB18: musdb18-sample: cSDR mean" in page
    assert "From [published/input_length.json](published/results/input_length.json)" in page
    table = (copy / "reports/published/tables/vocal_occurrence_gap.md").read_text()
    assert "under 0.5 s" in table


# ---- a profile on stand-ins for its songs


@pytest.fixture
def study(tmp_path):
    """A folder with a Makefile of the test's own, and what runs `make reproduce` there as a rehearsal does."""

    def run(recipe, **options):
        (tmp_path / "Makefile").write_text(f"reproduce:\n\t@{recipe}\n")
        return rehearse.reproduce(tmp_path, "paper", 1, tmp_path / "run.log", **options)

    return run


def test_a_run_that_fails_names_its_log_and_what_it_said(study, tmp_path):
    with pytest.raises(RuntimeError, match=r"status 2; its log is .*run\.log") as error:
        study("echo begins; echo 'bsm: 04_train.ipynb failed' >&2; exit 1")
    assert "\nbsm: 04_train.ipynb failed\n" in str(error.value) and "begins" not in str(error.value)
    assert (tmp_path / "run.log").read_text().startswith("begins\n")


def test_a_run_is_killed_at_its_first_checkpoint(study, tmp_path):
    child = "sh -c 'echo $$$$ > child; exec sleep 60' & mkdir -p runs/paper/one; touch runs/paper/one/state.ckpt; wait"
    assert study(child, kill=True)["killed"]
    state = ["ps", "-o", "state=", (tmp_path / "child").read_text()]
    assert subprocess.run(state, capture_output=True, text=True).stdout.strip() in ("", "Z")
    shutil.rmtree(tmp_path / "runs")
    with pytest.raises(RuntimeError, match="status 0"):  # it was to be killed, and ended before
        study("true", kill=True)


def test_what_a_run_did_is_read_from_its_log(study):
    found = study("echo '3 of 12 steps (25%) done'; echo resuming at step 4 of 12; echo '12 of 12 steps (100%) done'")
    assert (found["done"], found["planned"], found["resumed"], found["killed"]) == (12, 12, [4], False)


def test_growth_counts_from_the_song_at_which_all_is_settled():
    sizes = [100, *[500] * 9, 600, 550, 700]  # the tenth is the first that counts
    records = [{"resident_bytes": size, "open_files": 7} for size in sizes]
    assert rehearse.grown(records) == {"resident_bytes": 200, "open_files": 0}
    records[-1]["open_files"] = 9
    assert rehearse.grown(records)["open_files"] == 2
    assert rehearse.grown(records[:3]) == {"resident_bytes": 0, "open_files": 0}


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["paper", "sample", "mir1k"])
def test_a_profile_runs_on_stand_ins_is_killed_and_goes_on(profile, tmp_path):
    if not (ROOT / ".venv/bin/snakemake").is_file() or shutil.which("ffmpeg") is None:
        pytest.skip("needs the environment of `make env`, and ffmpeg")
    path = tmp_path / "rehearsal.json"
    found = rehearse.rehearse(path, profile, songs=2, cores=1)
    killed, resumed = found["runs"]
    assert killed["killed"] and killed["done"] < killed["planned"] and resumed["done"] == resumed["planned"]
    assert resumed["resumed"] and len(found["walk"]) == 6
    record = read_result(path)
    assert record["parameters"]["profile"] == profile and not record["comparable_with_paper"]
