# The study as a graph: songs -> trained model -> executed notebooks -> report.
# `make reproduce PROFILE=demo` runs it on this machine's cores; a second run does only what changed.

from pathlib import Path

PROFILE = config.get("profile", "demo")
configfile: f"notebooks/profiles/{PROFILE}.yaml"

DATA = f"data/{config['data']}"
RUN = f"runs/{PROFILE}/bsmamba2-{config['model']}-seed{config['seed']}"
REPORTS = f"reports/{PROFILE}"
THREADS = workflow.cores or 1


def values(*names):
    """The profile's values that a rule depends on: a change of one of them runs the rule again."""
    return {name: config[name] for name in names if name in config}


def package(*modules):
    """The source files of some of the package's modules."""
    found = [p for name in modules for p in [Path(f"bsm/{name}.py"), *Path(f"bsm/{name}").glob("*.py")]]
    return sorted(str(p) for p in found if p.is_file())


DATA_CODE = package("data/demo", "data/demo_render", "data/demo_score", "data/demo_voice")
MODEL_CODE = package("bands", "config", "conv", "mamba2", "model", "scan", "stft")
TRAIN_CODE = MODEL_CODE + package("activity", "audio", "data/mixing", "data/tracks", "loss", "train")
SCORE_CODE = package("evaluate", "metrics", "separate", "data/musdb18", "study/figures", "study/stats")


rule all:
    input: f"{REPORTS}/report.md"


rule songs:
    input: DATA_CODE
    output: touch(f"{DATA}/complete")
    params: values("train_songs", "valid_songs", "test_songs", "song_seconds")
    threads: THREADS
    benchmark: f"{REPORTS}/benchmarks/songs.tsv"
    shell: "bsm data {PROFILE}"


rule model:
    input: f"{DATA}/complete", TRAIN_CODE
    output: f"{RUN}/model.safetensors"
    params:
        values(
            "model", "steps", "batch_size", "accumulate", "segment_seconds", "lr", "ema_decay", "validate_every",
            "precision",
        )
    threads: THREADS
    benchmark: f"{REPORTS}/benchmarks/model.tsv"
    shell: "bsm train {PROFILE}"


rule data_notebook:
    input:
        f"{DATA}/complete", "notebooks/00_data.ipynb",
        package("activity", "data/describe", "data/musdb18", "study/figures"),
    output:
        f"{REPORTS}/notebooks/00_data.ipynb",
        f"{REPORTS}/results/data.json",
        f"{REPORTS}/tables/data.md",
        multiext(f"{REPORTS}/figures/", "data_vocal_regions.png", "data_example.png"),
    benchmark: f"{REPORTS}/benchmarks/data_notebook.tsv"
    shell: "bsm study 00_data --profile {PROFILE}"


rule train_notebook:
    input: f"{RUN}/model.safetensors", "notebooks/01_train.ipynb", SCORE_CODE
    output:
        f"{REPORTS}/notebooks/01_train.ipynb",
        multiext(
            f"{REPORTS}/results/", "training.json", "scores.json", "real_clip.json", "separation_speed.json"
        ),
        multiext(f"{REPORTS}/tables/", "scores.md", "real_clip.md"),
        multiext(f"{REPORTS}/figures/", "training.png", "scores.png", "separation_example.png"),
    threads: THREADS
    benchmark: f"{REPORTS}/benchmarks/train_notebook.tsv"
    shell: "bsm study 01_train --profile {PROFILE}"


rule scan_notebook:
    input:
        f"{RUN}/model.safetensors", "notebooks/02_scan_backends.ipynb",
        package("conv", "scan", "study/bench", "study/figures", "study/stats"),
    output:
        f"{REPORTS}/notebooks/02_scan_backends.ipynb",
        multiext(f"{REPORTS}/results/", "scan_backends.json", "direct_term.json"),
        multiext(
            f"{REPORTS}/tables/", "scan_backends.md", "scan_memory.md", "scan_facts.md", "direct_term.md",
            "feedthrough.md",
        ),
        f"{REPORTS}/figures/scan_backends.png",
    params: values("scan_seconds", "scan_repeats", "memory_seconds", "scaling_frames", "block_seconds", "compile_block")
    threads: THREADS  # nothing beside it while it measures
    benchmark: f"{REPORTS}/benchmarks/scan_notebook.tsv"
    shell: "bsm study 02_scan_backends --profile {PROFILE}"


rule published_notebook:
    input:
        f"{RUN}/model.safetensors", "notebooks/04_published_model.ipynb", SCORE_CODE, MODEL_CODE,
        package("baseline", "weights", "study/bench", "study/published"),
    output:
        f"{REPORTS}/notebooks/04_published_model.ipynb",
        multiext(f"{REPORTS}/results/", "published_model.json", "model_speed.json"),
        multiext(f"{REPORTS}/tables/", "published_model.md", "published_clip.md", "model_speed.md", "model_costs.md"),
        multiext(f"{REPORTS}/figures/", "published_model.png", "model_speed.png"),
    params: values("bench_preset", "bench_seconds", "bench_repeats", "profile_seconds")
    threads: THREADS  # nothing beside it while it measures
    benchmark: f"{REPORTS}/benchmarks/published_notebook.tsv"
    shell: "bsm study 04_published_model --profile {PROFILE}"


rule report:
    input:
        rules.data_notebook.output, rules.train_notebook.output, rules.scan_notebook.output,
        rules.published_notebook.output,
        "notebooks/03_report.ipynb", package("study/report"),
    output: f"{REPORTS}/report.md", f"{REPORTS}/notebooks/03_report.ipynb"
    shell: "bsm study 03_report --profile {PROFILE}"
