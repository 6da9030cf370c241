# The study as a graph: songs -> trained models -> executed notebooks -> report.
# `make reproduce PROFILE=demo` runs it on this machine's cores. A second run makes only what has changed: songs, models
# and scores follow the versions in bsm/versions.py. Every notebook has the same rule: it says itself which parameters it
# has, what it needs and what it saves (bsm/study/notebook.py), and it follows the modules of bsm/study that it imports.

from pathlib import Path

from bsm.config import NO_EFFECT, ModelConfig, TrainConfig
from bsm.study import variants
from bsm.study.notebook import study_notebooks
from bsm.study.profiles import Profile
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
RUNS = f"runs/{PROFILE}/{{name}}-{config['model']}-seed{{seed}}"
WEIGHTS = f"{RUNS}/model.safetensors"
# The ablations: the variants that the profile names, or else all of them. Without `ablation_steps` there are none.
ABLATIONS = [name for name in config.get("variants") or variants.VARIANTS if "ablation_steps" in config]
REPORTS = f"reports/{PROFILE}"
# A job with this many threads runs alone: --cores lowers the number on one machine, max-threads on a cluster. A cluster
# also reads memory (MB), time (minutes) and GPUs. Models of synthesised songs are small enough to train on a CPU.
THREADS = 1024
DRAWING = ("study/figures", "stats")  # of every notebook
GPU = 0 if MADE else 1

if not MADE and not Path(DATA).is_dir():
    from bsm.errors import InputError

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


def needed(notebook):
    """Return the files that a notebook needs, apart from its source."""
    results = [path for other in NOTEBOOKS if other.about["needs"] != "results" for path in other.files(REPORTS)]
    return {
        "nothing": [],
        "songs": [SONGS],
        "network": expand(WEIGHTS, name=BACKBONES[0], seed=config["seed"]),
        "backbones": expand(WEIGHTS, name=BACKBONES, seed=config["seed"]),
        "networks": expand(WEIGHTS, name=BACKBONES, seed=SEEDS),
        "variants": expand(WEIGHTS, name=variants.of_notebook(notebook.name, ABLATIONS), seed=SEEDS),
        "results": [*results, *rules.structure.output, *(rules.data_loading.output if MADE else []), *made_by_hand()],
    }[notebook.about["needs"]]


def made_by_hand():
    """Return the report's files that no rule makes, as far as they exist: `bsm repeat`, longer passes."""
    found = [Path(f"{REPORTS}/results/repeat.json"), Path(f"{REPORTS}/tables/repeat.md")]
    found += sorted(Path("reports/speed").glob("*/model_*")) if "bench_seconds" in config else []
    return [str(path) for path in found if path.is_file()]


# What a trained model depends on, beside its size, the songs and the recipe's version: the whole configuration that can
# change weights, with what a profile does not name, such as the loss at the model's rate. The seed is in the run's name.
TRAINING = {
    name: value for name, value in Profile(config).train_config().to_dict().items() if name not in {"seed", *NO_EFFECT}
}
# A profile leaves out the notebooks whose own value it does not give.
NOTEBOOKS = [notebook for notebook in study_notebooks() if notebook.about.get("only_with", "profile") in config]
# Parameters that change nothing in a notebook's results, and those that follow from the command.
PASSED = {"profile", "out", "run", "seeds", *NO_EFFECT}


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
    params: values("model", "skip_bad"), training=TRAINING, recipe=RECIPE
    priority: 1  # before the variants, which are short and fill what is left of the cores' time
    threads: 1 if MADE else THREADS  # two small models train faster on a core each than one after the other on both
    resources: mem_mb=32000, runtime=1440, gpu=GPU  # a job that runs out of time resumes in the next attempt
    benchmark: f"{REPORTS}/benchmarks/model-{{name}}-seed{{seed}}.tsv"
    shell: "bsm train {PROFILE} --backbone {wildcards.name} --seed {wildcards.seed}"


rule variant:
    input: SONGS
    output: WEIGHTS
    wildcard_constraints: name="|".join(variants.VARIANTS), seed=r"\d+"
    params:
        values("model", "skip_bad", *(name for name in config if name.startswith("ablation_"))),
        changed=changes, training=TRAINING, recipe=RECIPE,
    threads: 1  # one variant per core
    resources: mem_mb=8000, runtime=480, gpu=GPU
    benchmark: f"{REPORTS}/benchmarks/variant-{{name}}-seed{{seed}}.tsv"
    shell: "bsm train {PROFILE} --variant {wildcards.name} --seed {wildcards.seed}"


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


for notebook in NOTEBOOKS:
    about = notebook.about

    rule:
        name: f"notebook_{notebook.name}"
        input: needed(notebook), f"notebooks/{notebook.name}.ipynb", sources(*notebook.modules(), *DRAWING)
        output: notebook.files(REPORTS), [f"{REPORTS}/report.md"] if about["needs"] == "results" else []
        params:
            values(*sorted(set(notebook.parameters) - PASSED)),
            # Read when the job runs, and the loop has ended: the command takes nothing from the loop's variables.
            name=notebook.name,
            seeds=f" -p seeds '{SEEDS}'" if "seeds" in notebook.parameters else "",
            recipe=RECIPE, scoring=SCORING,
        # Alone where it measures time, or where a network of real songs needs the whole machine.
        threads: THREADS if about.get("gpu") and not MADE else about.get("threads", THREADS)
        resources: mem_mb=1000 * about.get("memory_gb", 8), runtime=about.get("minutes", 30), gpu=GPU * about.get("gpu", 0)
        benchmark: f"{REPORTS}/benchmarks/{notebook.name}.tsv"
        shell: "bsm study {params.name} --profile {PROFILE}{params.seeds}"
