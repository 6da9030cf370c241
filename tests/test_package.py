"""What `import bsm` gives, and what it does without."""

import subprocess
import sys

import pytest

from bsm.files import sha256
from bsm.study.records import ROOT, read_result
from bsm.weights import registry


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


ORDERS = """
import sys
for order in (
    "from bsm import separate; import bsm.inference",
    "import bsm.inference; from bsm import separate",
    "from bsm.inference import separate; import bsm",
):
    for name in [name for name in sys.modules if name.partition(".")[0] == "bsm"]:
        del sys.modules[name]
    exec(order)
    import bsm
    assert bsm.separate is separate and callable(separate), order
"""


def test_separate_is_the_function_whatever_was_imported_first():
    done = python(ORDERS)
    assert done.returncode == 0, done.stderr


def test_importing_the_whole_package_prints_nothing():
    code = "import pkgutil, importlib, bsm\nfor module in pkgutil.walk_packages(bsm.__path__, 'bsm.'):\n    "
    done = python(code + "importlib.import_module(module.name)")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_names_and_unknown_names():
    import bsm

    assert bsm.BSMamba2.__name__ == "BSMamba2" and bsm.ModelConfig.preset("paper").dim == 256
    assert all(callable(getattr(bsm, name)) for name in bsm.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        bsm.nothing  # noqa: B018


def test_benchmarks_import_with_little_more_than_pytorch():
    """As on a GPU machine that has PyTorch, Triton, NumPy, einops and tqdm, but none of the study's other packages."""
    done = python(
        "import sys\n"
        "missing = 'soundfile soxr safetensors musdb museval scipy pandas lightning_fabric papermill matplotlib yaml "
        "requests platformdirs stempeg snakemake tensorboard'.split()\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in missing: raise ImportError(name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "from bsm.study.speed import blocks, scan\n"
        "from bsm.study.records import write_result\n"
        "import bsm.cli\n"
    )
    assert done.returncode == 0, done.stderr


def test_the_command_line_answers_without_pytorch():
    done = python("import sys, bsm.cli; assert 'torch' not in sys.modules")
    assert done.returncode == 0, done.stderr


def test_the_model_in_the_package_is_the_one_whose_scores_are_committed():
    results = ROOT / "reports/long/results"
    assert sha256(registry.locate("demo")) == sha256(results / "songs-1s-mamba2-seed0.safetensors")
    assert read_result(results / "songs-1s-mamba2-seed0.json")["values"]["scores"]
