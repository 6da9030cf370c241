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

from bsm import audio
from bsm.config import ModelConfig
from bsm.model import BSMamba2
from bsm.study.records import ROOT
from bsm.weights.author import to_author

RATE = 44100
SONGS = ("AM Contra - Heart Peripheral", "Al James - Schoolboy Facination", "Arise - Run Run Run")
STREAMS = ("mixture", "drums", "bass", "other", "vocals")  # of a stem file, in order


@pytest.fixture
def checkout(tmp_path):
    """A copy of this checkout with an environment, and what runs `make` in it."""
    copy = tmp_path / "checkout"
    for name in ("bsm", "data_manifest", "notebooks", "reports"):
        ignored = shutil.ignore_patterns("__pycache__", "*.safetensors")
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignored)
    for name in ("Makefile", "Snakefile", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, copy)
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
    sounds = {part: noise.normal(0, 0.05, (2, 7 * RATE)) for part in STREAMS[1:]}
    time = np.arange(7 * RATE) / RATE
    sung = ((time > 0.8) & (time < 2.3)) | ((time > 2.6) & (time < 3.3)) | ((time > 4.5) & (time < 5.9))
    sounds["vocals"] = 0.2 * sung * np.sin(2 * np.pi * 220 * (1 + seed) * time) * np.ones((2, 1))
    sounds["mixture"] = sum(sounds.values())
    inputs = []
    for part in STREAMS:
        audio.write(folder / f"{part}.wav", sounds[part].astype(np.float32), RATE, subtype="PCM_16")
        inputs += ["-i", str(folder / f"{part}.wav")]
    maps = [word for stream in range(len(STREAMS)) for word in ("-map", str(stream))]
    target = folder / f"{name}.stem.mp4"
    subprocess.run(["ffmpeg", "-v", "error", *inputs, *maps, "-c:a", "aac", "-b:a", "256k", target], check=True)
    return target


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
