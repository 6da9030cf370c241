# The study as a graph: songs -> trained model -> executed notebooks -> report.
# `make reproduce PROFILE=demo` runs it on this machine's cores; a second run does only what changed.

from pathlib import Path

from bsm.config import NO_EFFECT, ModelConfig, TrainConfig
from bsm.study import variants
from bsm.versions import RECIPE, SCORING

PROFILE = config.get("profile", "demo")
configfile: f"notebooks/profiles/{PROFILE}.yaml"

DATA = f"data/{config['data']}"
MADE = "train_songs" in config  # songs are synthesised; others must be there
SONGS = f"{DATA}/complete" if MADE else f"runs/{PROFILE}/songs.checked"
BACKBONES = config.get("backbones", ["bsmamba2"])
if isinstance(config.get("seeds"), int):  # how many, of `make reproduce SEEDS=3`; a profile lists them
    config["seeds"] = [config["seed"] + number for number in range(config["seeds"])]
SEEDS = config.setdefault("seeds", [config["seed"]])
SEED_OPTION = f"-p seeds '{SEEDS}'"
RUNS = f"runs/{PROFILE}/{{name}}-{config['model']}-seed{{seed}}"
RUN = RUNS.format(name="bsmamba2", seed=config["seed"])
WEIGHTS = f"{RUNS}/model.safetensors"
MODELS = expand(WEIGHTS, name=BACKBONES, seed=SEEDS)  # of every backbone and seed
# The ablations: all variants of the table, or those that the profile names; none where it gives them no steps.
ABLATIONS = [name for name in config.get("variants") or variants.VARIANTS if "ablation_steps" in config]
REPORTS = f"reports/{PROFILE}"
# As many as there are: --cores bounds it on one machine, max-threads on a cluster. Memory (MB), time (minutes) and GPUs
# are what a job asks a cluster for; one machine takes no notice. Synthesised songs are small enough to train on CPUs.
THREADS = 1024
GPU = 0 if MADE else 1

if not MADE and not Path(DATA).is_dir():
    from bsm.errors import InputError
    from bsm.study.profiles import Profile

    try:
        Profile.load(PROFILE).find_data()
    except InputError as error:  # one line that says what to fetch, before anything starts
        raise SystemExit(f"error: {error}")


def values(*names):
    """The profile's values that a rule depends on: a change of one of them runs the rule again."""
    return {name: config[name] for name in names if name in config}


def changes(wildcards):
    """What a variant makes of model and training: a change of its line trains it again."""
    changed = variants.changed(wildcards.name, ModelConfig.preset(config["model"]), TrainConfig())
    return [part.to_dict() for part in changed]


def package(*modules):
    """The source files of some of the package's modules."""
    found = [p for name in modules for p in [Path(f"bsm/{name}.py"), *Path(f"bsm/{name}").glob("*.py")]]
    return sorted(str(p) for p in found if p.is_file())


def made_by_hand():
    """What the report shows of `bsm repeat` and of longer passes, which no rule makes: the files that are there."""
    found = [Path(f"{REPORTS}/results/repeat.json"), Path(f"{REPORTS}/tables/repeat.md")]
    found += sorted(Path("reports/speed").glob("*/model_*")) if "bench_seconds" in config else []
    return [str(path) for path in found if path.is_file()]


# A change of results is announced by a recipe version (bsm/versions.py); source files are listed only where no version
# stands for them: what synthesises songs, what is timed, and the study itself.
STUDY = sorted(str(path) for path in Path("bsm/study").rglob("*.py"))
TIMED = package("conv", "fast", "loss", "mamba2", "model", "scan", "stft", "time_blocks", "train")
# Values of the profile that a trained model depends on. The seed is in the run's name, the loss follows from the model.
TRAINING = sorted({"model", "skip_bad", *TrainConfig.__dataclass_fields__} - {"seed", "loss", *NO_EFFECT})


rule all:
    input: f"{REPORTS}/report.md"


rule songs:
    input: package("data/demo") if MADE else []
    output: touch(SONGS)
    params: values("train_songs", "valid_songs", "test_songs", "song_seconds", "skip_bad")
    threads: THREADS
    resources: mem_mb=8000, runtime=120
    benchmark: f"{REPORTS}/benchmarks/songs.tsv"
    shell: "bsm data prepare {PROFILE}"


rule model:
    input: SONGS
    output: WEIGHTS
    wildcard_constraints: name="|".join(BACKBONES), seed=r"\d+"
    params: values(*TRAINING), recipe=RECIPE
    threads: 1 if MADE else THREADS  # small models: two trainings on a core each beat two in turn on both
    resources: mem_mb=32000, runtime=1440, gpu=GPU  # out of time, it goes on from its checkpoint in the next attempt
    benchmark: f"{REPORTS}/benchmarks/model-{{name}}-seed{{seed}}.tsv"
    shell: "bsm train {PROFILE} --backbone {wildcards.name} --seed {wildcards.seed}"


rule variant:
    input: SONGS
    output: WEIGHTS
    wildcard_constraints: name="|".join(variants.VARIANTS), seed=r"\d+"
    params:
        values(*TRAINING, *(name for name in config if name.startswith("ablation_"))), changed=changes, recipe=RECIPE,
    threads: 1  # as many at a time as there are cores
    resources: mem_mb=8000, runtime=480, gpu=GPU
    benchmark: f"{REPORTS}/benchmarks/variant-{{name}}-seed{{seed}}.tsv"
    shell: "bsm train {PROFILE} --variant {wildcards.name} --seed {wildcards.seed}"


rule data_notebook:
    input: SONGS, "notebooks/00_data.ipynb", STUDY
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
    input: expand(WEIGHTS, name=BACKBONES, seed=config["seed"]), "notebooks/01_train.ipynb", STUDY
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
    input: f"{RUN}/model.safetensors", "notebooks/02_scan_backends.ipynb", STUDY, TIMED
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
        )
    threads: THREADS  # nothing beside it while it measures
    resources: mem_mb=32000, runtime=240
    benchmark: f"{REPORTS}/benchmarks/scan_notebook.tsv"
    shell: "bsm study 02_scan_backends --profile {PROFILE}"


rule published_notebook:
    input: f"{RUN}/model.safetensors", "notebooks/04_published_model.ipynb", STUDY, TIMED
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
    threads: THREADS  # nothing beside it while it measures
    resources: mem_mb=32000, runtime=480, gpu=GPU
    benchmark: f"{REPORTS}/benchmarks/published_notebook.tsv"
    shell: "bsm study 04_published_model --profile {PROFILE}"


rule step_notebook:
    input: SONGS, "notebooks/07_step_profile.ipynb", STUDY, TIMED
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
        )
    threads: THREADS  # nothing beside it while it measures
    resources: mem_mb=32000, runtime=480
    benchmark: f"{REPORTS}/benchmarks/step_notebook.tsv"
    shell: "bsm study 07_step_profile --profile {PROFILE}"


rule stft_ablation_notebook:
    input:
        expand(WEIGHTS, name=variants.of_notebook(variants.STFT, ABLATIONS), seed=SEEDS),
        "notebooks/05_ablation_stft.ipynb", STUDY, TIMED,
    output:
        f"{REPORTS}/notebooks/05_ablation_stft.ipynb",
        f"{REPORTS}/results/ablation_stft.json",
        multiext(f"{REPORTS}/tables/ablation_stft_", "cost.md", "blindness.md", "scores.md", "mono.md"),
        multiext(f"{REPORTS}/figures/ablation_stft_", "blindness.png", "scores.png"),
    params: values("window", "variants", "seeds", "loss_repeats", "blind_seconds"), scoring=SCORING
    threads: THREADS  # nothing beside it while it measures
    resources: mem_mb=16000, runtime=480, gpu=GPU
    benchmark: f"{REPORTS}/benchmarks/stft_ablation_notebook.tsv"
    shell: "bsm study 05_ablation_stft --profile {PROFILE} {SEED_OPTION}"


rule size_ablation_notebook:
    input:
        expand(WEIGHTS, name=variants.of_notebook(variants.SIZE, ABLATIONS), seed=SEEDS),
        "notebooks/06_ablation_size.ipynb", STUDY, TIMED,
    output:
        f"{REPORTS}/notebooks/06_ablation_size.ipynb",
        f"{REPORTS}/results/ablation_size.json",
        multiext(f"{REPORTS}/tables/ablation_size_", "published.md", "cost.md", "scores.md", "deviations.md"),
        multiext(f"{REPORTS}/figures/ablation_size_", "bands.png", "scores.png", "deviations.png"),
    params: values("window", "variants", "seeds", "size_seconds", "size_repeats"), scoring=SCORING
    threads: THREADS  # nothing beside it while it measures
    resources: mem_mb=16000, runtime=480, gpu=GPU
    benchmark: f"{REPORTS}/benchmarks/size_ablation_notebook.tsv"
    shell: "bsm study 06_ablation_size --profile {PROFILE} {SEED_OPTION}"


rule input_length_notebook:
    input: MODELS, "notebooks/08_input_length.ipynb", STUDY
    output:
        f"{REPORTS}/notebooks/08_input_length.ipynb",
        f"{REPORTS}/results/input_length.json",
        multiext(f"{REPORTS}/tables/", "input_length.md", "input_length_answer.md", "input_length_cost.md"),
        multiext(f"{REPORTS}/figures/", "input_length.png", "input_length_differences.png"),
    params:
        values("windows", "overlap_windows", "most_songs", "cost_repeats", "seeds", "device", "weights", "dataset"),
        scoring=SCORING,
    threads: THREADS  # nothing beside it while it measures
    resources: mem_mb=32000, runtime=720, gpu=GPU
    benchmark: f"{REPORTS}/benchmarks/input_length_notebook.tsv"
    shell: "bsm study 08_input_length --profile {PROFILE} {SEED_OPTION}"


rule occurrence_notebook:
    input: MODELS, "notebooks/09_vocal_occurrence.ipynb", STUDY
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
    input: "tests/compare_seed.py", "tests/seed_model.py", TIMED
    output: f"{REPORTS}/results/structure.json"
    resources: mem_mb=8000, runtime=30
    shell: "python tests/compare_seed.py {output}"


rule data_loading:
    input: SONGS, package("audio", "data", "study/bench/data")
    output: f"{REPORTS}/results/data_loading.json"
    threads: THREADS  # nothing beside it while it measures
    resources: mem_mb=8000, runtime=60
    benchmark: f"{REPORTS}/benchmarks/data_loading.tsv"
    shell: "bsm bench data --data {DATA} --json {output}"


rule report:
    input:
        rules.data_loading.output if MADE else [],
        rules.structure.output,
        rules.data_notebook.output, rules.train_notebook.output,
        # What depends on no data set is measured by the profiles that say at which lengths.
        rules.scan_notebook.output if "scan_seconds" in config else [],
        rules.published_notebook.output if "bench_seconds" in config else [],
        rules.step_notebook.output if "step_seconds" in config else [],
        [rules.stft_ablation_notebook.output, rules.size_ablation_notebook.output] if ABLATIONS else [],
        rules.input_length_notebook.output, rules.occurrence_notebook.output,
        [path for name in config.get("beside", []) for path in sorted(Path(f"reports/{name}/results").glob("*.json"))],
        made_by_hand(),
        "notebooks/03_report.ipynb", "reports/claims.yaml",
        STUDY,
    output: f"{REPORTS}/report.md", f"{REPORTS}/tables/cost.md", f"{REPORTS}/notebooks/03_report.ipynb"
    resources: mem_mb=8000, runtime=30
    shell: "bsm study 03_report --profile {PROFILE}"
