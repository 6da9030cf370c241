# The study as a graph: songs -> trained models -> executed notebooks -> report.
# `make reproduce PROFILE=demo` runs it on this machine's cores. A second run makes only what has changed: songs, models
# and scores follow the versions in bsm/versions.py, and a notebook also follows the modules of bsm/study that it names.

from pathlib import Path

from bsm.config import NO_EFFECT, ModelConfig, TrainConfig
from bsm.study import variants
from bsm.versions import GENERATOR_VERSION, RECIPE, SCORING

PROFILE = config.get("profile", "demo")
configfile: f"notebooks/profiles/{PROFILE}.yaml"

DATA = f"data/{config['data']}"
MADE = "train_songs" in config  # the workflow synthesises the songs; other songs must be there
SONGS = f"{DATA}/complete" if MADE else f"runs/{PROFILE}/songs.checked"
BACKBONES = config.get("backbones", ["bsmamba2"])
if isinstance(config.get("seeds"), int):  # `make reproduce SEEDS=3` gives their number; a profile lists them
    config["seeds"] = [config["seed"] + number for number in range(config["seeds"])]
SEEDS = config.setdefault("seeds", [config["seed"]])
SEED_OPTION = f"-p seeds '{SEEDS}'"
RUNS = f"runs/{PROFILE}/{{name}}-{config['model']}-seed{{seed}}"
RUN = RUNS.format(name="bsmamba2", seed=config["seed"])
WEIGHTS = f"{RUNS}/model.safetensors"
MODELS = expand(WEIGHTS, name=BACKBONES, seed=SEEDS)
# The ablations: the variants that the profile names, or else all of them. Without `ablation_steps` there are none.
ABLATIONS = [name for name in config.get("variants") or variants.VARIANTS if "ablation_steps" in config]
REPORTS = f"reports/{PROFILE}"
# A job with this many threads runs alone: --cores lowers the number on one machine, max-threads on a cluster. A cluster
# also reads memory (MB), time (minutes) and GPUs. Models of synthesised songs are small enough to train on a CPU.
THREADS = 1024
GPU = 0 if MADE else 1

if not MADE and not Path(DATA).is_dir():
    from bsm.errors import InputError
    from bsm.study.profiles import Profile

    try:
        Profile.load(PROFILE).find_data()
    except InputError as error:  # says what to fetch, before anything starts
        raise SystemExit(f"error: {error}")


def values(*names):
    """Return the profile's values that a rule depends on; the rule runs again if one changes."""
    return {name: config[name] for name in names if name in config}


def changes(wildcards):
    """Return a variant's changes to model and training; the variant is trained again if its line changes."""
    changed = variants.changed(wildcards.name, ModelConfig.preset(config["model"]), TrainConfig())
    return [part.to_dict() for part in changed]


def sources(*modules):
    """Return the source files of modules and packages of bsm; a name without a file is a mistake in a rule."""
    found = {name: [*Path("bsm").glob(f"{name}.py"), *Path("bsm", name).glob("*.py")] for name in modules}
    if missing := [name for name, paths in found.items() if not paths]:
        raise WorkflowError(f"the Snakefile names modules that bsm lacks: {', '.join(missing)}")
    return sorted(str(path) for paths in found.values() for path in paths)


def made_by_hand():
    """Return the report's files that no rule makes, as far as they exist: of `bsm repeat` and of longer passes."""
    found = [Path(f"{REPORTS}/results/repeat.json"), Path(f"{REPORTS}/tables/repeat.md")]
    found += sorted(Path("reports/speed").glob("*/model_*")) if "bench_seconds" in config else []
    return [str(path) for path in found if path.is_file()]


# What a trained model depends on: the songs, the recipe's version, and the profile's values that can change weights.
# The seed is in the run's name.
TRAINING = sorted({"model", "skip_bad", *TrainConfig.__dataclass_fields__} - {"seed", *NO_EFFECT})
DRAWING = sources("study/figures", "study/stats")


rule all:
    input: f"{REPORTS}/report.md"


rule songs:
    output: touch(SONGS)
    params:
        values("train_songs", "valid_songs", "test_songs", "song_seconds", "skip_bad"),
        generator=GENERATOR_VERSION if MADE else None,
    threads: THREADS
    resources: mem_mb=8000, runtime=120
    benchmark: f"{REPORTS}/benchmarks/songs.tsv"
    shell: "bsm data prepare {PROFILE}"


rule model:
    input: SONGS
    output: WEIGHTS
    wildcard_constraints: name="|".join(BACKBONES), seed=r"\d+"
    params: values(*TRAINING), recipe=RECIPE
    threads: 1 if MADE else THREADS  # two small models train faster on a core each than one after the other on both
    resources: mem_mb=32000, runtime=1440, gpu=GPU  # a job that runs out of time resumes in the next attempt
    benchmark: f"{REPORTS}/benchmarks/model-{{name}}-seed{{seed}}.tsv"
    shell: "bsm train {PROFILE} --backbone {wildcards.name} --seed {wildcards.seed}"


rule variant:
    input: SONGS
    output: WEIGHTS
    wildcard_constraints: name="|".join(variants.VARIANTS), seed=r"\d+"
    params:
        values(*TRAINING, *(name for name in config if name.startswith("ablation_"))),
        changed=changes, recipe=RECIPE,
    threads: 1  # one variant per core
    resources: mem_mb=8000, runtime=480, gpu=GPU
    benchmark: f"{REPORTS}/benchmarks/variant-{{name}}-seed{{seed}}.tsv"
    shell: "bsm train {PROFILE} --variant {wildcards.name} --seed {wildcards.seed}"


rule data_notebook:
    input: SONGS, "notebooks/00_data.ipynb", sources("data/describe", "study/figures")
    output:
        f"{REPORTS}/notebooks/00_data.ipynb",
        f"{REPORTS}/results/data.json",
        f"{REPORTS}/tables/data.md",
        multiext(f"{REPORTS}/figures/", "data_vocal_regions.png", "data_levels.png", "data_example.png"),
    params: values("threshold_db", "example", "timelines")
    resources: mem_mb=8000, runtime=120
    benchmark: f"{REPORTS}/benchmarks/data_notebook.tsv"
    shell: "bsm study 00_data --profile {PROFILE}"


rule train_notebook:
    input: expand(WEIGHTS, name=BACKBONES, seed=config["seed"]), "notebooks/01_train.ipynb", DRAWING
    output:
        f"{REPORTS}/notebooks/01_train.ipynb",
        multiext(
            f"{REPORTS}/results/", "training.json", "scores.json", "real_clip.json", "separation_speed.json"
        ),
        multiext(f"{REPORTS}/tables/", "scores.md", "differences.md", "real_clip.md"),
        multiext(f"{REPORTS}/figures/", "training.png", "scores.png", "separation_example.png"),
    params: values("window", "example", "device"), scoring=SCORING
    threads: THREADS
    resources: mem_mb=16000, runtime=480, gpu=GPU
    benchmark: f"{REPORTS}/benchmarks/train_notebook.tsv"
    shell: "bsm study 01_train --profile {PROFILE}"


rule scan_notebook:
    input:
        f"{RUN}/model.safetensors", "notebooks/02_scan_backends.ipynb",
        DRAWING, sources("scan", "study/speed", "study/scan_training"),
    output:
        f"{REPORTS}/notebooks/02_scan_backends.ipynb",
        multiext(f"{REPORTS}/results/", "scan_backends.json", "direct_term.json", "scan_training.json"),
        multiext(
            f"{REPORTS}/tables/", "scan_backends.md", "scan_memory.md", "scan_facts.md", "direct_term.md",
            "feedthrough.md", "scan_training.md",
        ),
        f"{REPORTS}/figures/scan_backends.png",
    params:
        values(
            "scan_seconds", "scan_repeats", "scan_band_rows", "memory_seconds", "scaling_frames", "block_seconds",
            "compile_block", "scan_train_steps", "scan_train_seconds", "scan_rows",
        ),
        recipe=RECIPE,
    threads: THREADS  # alone, because it measures time
    resources: mem_mb=32000, runtime=240
    benchmark: f"{REPORTS}/benchmarks/scan_notebook.tsv"
    shell: "bsm study 02_scan_backends --profile {PROFILE}"


rule published_notebook:
    input:
        f"{RUN}/model.safetensors", "notebooks/04_published_model.ipynb",
        DRAWING, sources("study/speed", "study/published"),
    output:
        f"{REPORTS}/notebooks/04_published_model.ipynb",
        multiext(f"{REPORTS}/results/", "published_model.json", "model_speed.json"),
        multiext(f"{REPORTS}/tables/", "published_model.md", "published_clip.md", "model_speed.md", "model_costs.md"),
        multiext(f"{REPORTS}/figures/", "published_model.png", "model_speed.png"),
    params:
        values(
            "bench_preset", "bench_seconds", "bench_repeats", "profile_seconds", "published_weights",
            "published_dataset", "device", "window", "hop", "weights", "dataset", "example",
        ),
        scoring=SCORING,
    threads: THREADS  # alone, because it measures time
    resources: mem_mb=32000, runtime=480, gpu=GPU
    benchmark: f"{REPORTS}/benchmarks/published_notebook.tsv"
    shell: "bsm study 04_published_model --profile {PROFILE}"


rule step_notebook:
    input:
        SONGS, "notebooks/07_step_profile.ipynb",
        DRAWING, sources("study/speed", "study/ledger", "study/rules", "study/step_profile"),
    output:
        f"{REPORTS}/notebooks/07_step_profile.ipynb",
        f"{REPORTS}/results/step_profile.json",
        multiext(
            f"{REPORTS}/tables/", "step_claims.md", "step_breakdown.md", "step_facts.md", "step_memory.md",
            "step_plan.md",
        ),
        f"{REPORTS}/figures/step_profile.png",
    params:
        values(
            "step_preset", "step_seconds", "step_batch", "step_repeats", "step_sizes", "step_memory_presets",
            "step_memory_seconds", "step_compile",
        ),
        recipe=RECIPE,
    threads: THREADS  # alone, because it measures time
    resources: mem_mb=32000, runtime=480
    benchmark: f"{REPORTS}/benchmarks/step_notebook.tsv"
    shell: "bsm study 07_step_profile --profile {PROFILE}"


rule stft_ablation_notebook:
    input:
        expand(WEIGHTS, name=variants.of_notebook(variants.STFT, ABLATIONS), seed=SEEDS),
        "notebooks/05_ablation_stft.ipynb",
        DRAWING, sources("study/ablation", "study/speed", "study/losses", "study/sizes"),
    output:
        f"{REPORTS}/notebooks/05_ablation_stft.ipynb",
        f"{REPORTS}/results/ablation_stft.json",
        multiext(f"{REPORTS}/tables/ablation_stft_", "cost.md", "blindness.md", "scores.md", "mono.md"),
        multiext(f"{REPORTS}/figures/ablation_stft_", "blindness.png", "scores.png"),
    params: values("window", "variants", "seeds", "loss_repeats", "blind_seconds"), scoring=SCORING
    threads: THREADS  # alone, because it measures time
    resources: mem_mb=16000, runtime=480, gpu=GPU
    benchmark: f"{REPORTS}/benchmarks/stft_ablation_notebook.tsv"
    shell: "bsm study 05_ablation_stft --profile {PROFILE} {SEED_OPTION}"


rule size_ablation_notebook:
    input:
        expand(WEIGHTS, name=variants.of_notebook(variants.SIZE, ABLATIONS), seed=SEEDS),
        "notebooks/06_ablation_size.ipynb", DRAWING, sources("study/ablation", "study/speed", "study/sizes"),
    output:
        f"{REPORTS}/notebooks/06_ablation_size.ipynb",
        f"{REPORTS}/results/ablation_size.json",
        multiext(f"{REPORTS}/tables/ablation_size_", "published.md", "cost.md", "scores.md", "deviations.md"),
        multiext(f"{REPORTS}/figures/ablation_size_", "bands.png", "scores.png", "deviations.png"),
    params: values("window", "variants", "seeds", "size_seconds", "size_repeats"), scoring=SCORING
    threads: THREADS  # alone, because it measures time
    resources: mem_mb=16000, runtime=480, gpu=GPU
    benchmark: f"{REPORTS}/benchmarks/size_ablation_notebook.tsv"
    shell: "bsm study 06_ablation_size --profile {PROFILE} {SEED_OPTION}"


rule input_length_notebook:
    input: MODELS, "notebooks/08_input_length.ipynb", DRAWING, sources("study/input_length", "study/subjects")
    output:
        f"{REPORTS}/notebooks/08_input_length.ipynb",
        f"{REPORTS}/results/input_length.json",
        multiext(f"{REPORTS}/tables/", "input_length.md", "input_length_answer.md", "input_length_cost.md"),
        multiext(f"{REPORTS}/figures/", "input_length.png", "input_length_differences.png"),
    params:
        values("windows", "overlap_windows", "most_songs", "cost_repeats", "seeds", "device", "weights", "dataset"),
        scoring=SCORING,
    threads: THREADS  # alone, because it measures time
    resources: mem_mb=32000, runtime=720, gpu=GPU
    benchmark: f"{REPORTS}/benchmarks/input_length_notebook.tsv"
    shell: "bsm study 08_input_length --profile {PROFILE} {SEED_OPTION}"


rule occurrence_notebook:
    input:
        MODELS, "notebooks/09_vocal_occurrence.ipynb",
        DRAWING, sources("study/occurrence", "study/occurrence_figures", "study/subjects"),
    output:
        f"{REPORTS}/notebooks/09_vocal_occurrence.ipynb",
        f"{REPORTS}/results/vocal_occurrence.json",
        multiext(
            f"{REPORTS}/tables/vocal_occurrence_", "duration.md", "onset.md", "share.md", "answer.md"
        ),
        multiext(
            f"{REPORTS}/figures/vocal_occurrence_", "duration.png", "leakage.png", "onset.png", "share.png",
            "timeline.png",
        ),
    params:
        values(
            "window", "threshold_db", "duration_bins", "onset_edges", "responses", "margin", "share_bins", "seeds",
            "device", "weights", "dataset", "example",
        ),
        scoring=SCORING,
    threads: THREADS
    resources: mem_mb=16000, runtime=480, gpu=GPU
    benchmark: f"{REPORTS}/benchmarks/occurrence_notebook.tsv"
    shell: "bsm study 09_vocal_occurrence --profile {PROFILE} {SEED_OPTION}"


rule structure:
    input: sources("study/speed/spectra", "study/structure", "study/unofficial")
    output: f"{REPORTS}/results/structure.json"
    params: recipe=RECIPE
    resources: mem_mb=8000, runtime=30
    shell: "python -m bsm.study.structure {output}"


rule data_loading:
    input: SONGS, sources("study/speed/data")
    output: f"{REPORTS}/results/data_loading.json"
    threads: THREADS  # alone, because it measures time
    resources: mem_mb=8000, runtime=60
    benchmark: f"{REPORTS}/benchmarks/data_loading.tsv"
    shell: "bsm bench data --data {DATA} --json {output}"


rule report:
    input:
        rules.data_loading.output if MADE else [],
        rules.structure.output,
        rules.data_notebook.output, rules.train_notebook.output,
        # These measurements need no data set; only profiles that give their lengths make them.
        rules.scan_notebook.output if "scan_seconds" in config else [],
        rules.published_notebook.output if "bench_seconds" in config else [],
        rules.step_notebook.output if "step_seconds" in config else [],
        [rules.stft_ablation_notebook.output, rules.size_ablation_notebook.output] if ABLATIONS else [],
        rules.input_length_notebook.output, rules.occurrence_notebook.output,
        [path for name in config.get("beside", []) for path in sorted(Path(f"reports/{name}/results").glob("*.json"))],
        made_by_hand(),
        "notebooks/03_report.ipynb", "reports/claims.yaml",
        sources("study/claims", "study/cost", "study/ledger", "study/report", "study/report_results", "study/rules"),
    output: f"{REPORTS}/report.md", f"{REPORTS}/tables/cost.md", f"{REPORTS}/notebooks/03_report.ipynb"
    resources: mem_mb=8000, runtime=30
    shell: "bsm study 03_report --profile {PROFILE}"
