"""Every layout loads back bit for bit, what does not fit is named, and no file runs anything."""

import collections
import io
import json
import os
import pickle
import re
import sys
import tracemalloc
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file

from bsm import bands
from bsm.config import ModelConfig, StftConfig
from bsm.errors import InputError
from bsm.model import BSMamba2
from bsm.weights.author import exported, to_author
from bsm.weights.files import load_model, save_model
from models import same, small

SMALL = small(stft=StftConfig(1024), bands=(2, 3, 12, 496), depth=2, mask_expansion=3)
OWN = SMALL.replace(stft=StftConfig(1024, 20), sample_rate=8000, scan_backend="quadratic")


def make(config=SMALL, seed=0):
    torch.manual_seed(seed)
    return BSMamba2(config)


@pytest.fixture
def model():
    return make()


def author_state(model):
    """The state_dict of the author's checkpoint of a model."""
    return {f"model.{name}": value for name, value in exported(model).items()}


@pytest.fixture
def author(model):
    return author_state(model)


def saved(content, path):
    torch.save(content, path)
    return path


# --- Layouts ---------------------------------------------------------------------------------------------------------


def test_ours_comes_back_with_and_without_its_card(model, tmp_path):
    path = save_model(model, tmp_path / "m.safetensors", {"seed": 0})
    assert same(load_model(path), model)
    path.with_suffix(".json").unlink()
    loaded = load_model(str(path))
    assert same(loaded, model)
    assert loaded.config == model.config
    assert not loaded.training


@pytest.mark.parametrize(("config", "dtype"), [(SMALL, torch.float32), (OWN, torch.float64)])
def test_the_author_layout_comes_back_bit_equal(config, dtype, tmp_path):
    model = make(config).to(dtype)
    loaded = load_model(saved({"state_dict": author_state(model)}, tmp_path / "m.ckpt"), config=config)
    assert same(loaded, model)
    assert loaded.config == config


def test_the_author_layout_has_the_author_names_and_shapes():
    dim, inner, state, heads = 8, 16, 4, 4
    expected = {"model.final_norm.gamma": (dim,)}
    for block in ("model.layers.0.0.", "model.layers.0.1."):
        expected |= {f"{block}linear.weight": (2 * dim, dim, 1), f"{block}linear.bias": (dim,)}
        for way in ("forward", "backward"):
            name = f"{block}{way}_blocks.0."
            expected |= {
                f"{name}norm.weight": (dim,),
                f"{name}mixer.in_proj.weight": (2 * inner + 2 * state + heads, dim),
                f"{name}mixer.conv1d.weight": (inner + 2 * state, 1, 4),
                f"{name}mixer.conv1d.bias": (inner + 2 * state,),
                f"{name}mixer.dt_bias": (heads,),
                f"{name}mixer.A_log": (heads,),
                f"{name}mixer.D": (heads,),
                f"{name}mixer.norm.weight": (inner,),
                f"{name}mixer.out_proj.weight": (dim, inner),
            }
    for band, width in enumerate(SMALL.bands):
        name, mask = f"model.band_split.to_features.{band}.", f"model.mask_estimators.0.to_freqs.{band}.0."
        expected |= {
            f"{name}0.gamma": (4 * width,),
            f"{name}1.weight": (dim, 4 * width),
            f"{name}1.bias": (dim,),
            f"{mask}0.weight": (24, dim),
            f"{mask}0.bias": (24,),
            f"{mask}2.weight": (8 * width, 24),
            f"{mask}2.bias": (8 * width,),
        }
    assert {name: tuple(value.shape) for name, value in author_state(make(SMALL.replace(depth=1))).items()} == expected


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        SMALL.replace(channels=1),
        SMALL.replace(dim=12, depth=1, d_state=7, headdim=36, expand=3, d_conv=2, mask_expansion=1),
        SMALL.replace(stft=StftConfig(2048), bands=bands.PAPER, channels=1),
        SMALL.replace(stft=StftConfig(2048), bands=bands.PAPER),
        SMALL.replace(stft=StftConfig(2048), bands=bands.equal(1025, 48)),
        SMALL.replace(stft=StftConfig(2048), bands=(1024, 1), channels=1),
        ModelConfig(depth=1, bands=(25, 1000), mask_expansion=1),  # the paper's mixers
    ],
)
def test_sizes_follow_from_shapes(config, tmp_path):
    model = make(config)
    save_file(exported(model), tmp_path / "bare.safetensors")
    for path in (saved({"state_dict": author_state(model)}, tmp_path / "m.ckpt"), tmp_path / "bare.safetensors"):
        loaded = load_model(path)
        assert loaded.config == config  # hop 441 and 44.1 kHz are the author's
        assert same(loaded, model)


def test_loading_draws_no_random_numbers(tmp_path):
    path = saved({"state_dict": author_state(make(OWN))}, tmp_path / "m.ckpt")
    before = torch.get_rng_state()
    loaded = load_model(path, config=OWN)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.requires_grad and p.is_leaf and p.device.type == "cpu" for p in loaded.parameters())
    path.unlink()  # nothing of the file is still mapped
    assert loaded(torch.randn(1, 2, 100)).isfinite().all()


def test_the_layout_of_the_first_version_loads(model, tmp_path):
    """bsm 0.1 kept one tensor per band, under names of its own."""
    names = {
        r"^layers\.": "dual_path.layers.",
        r"\.forward_blocks\.0\.": ".forward_direction.",
        r"\.backward_blocks\.0\.": ".backward_direction.",
        r"\.linear\.": ".proj.",
        r"^mask_estimators\.0\.to_freqs\.(\d+)\.0\.": r"mask_estimator.to_mask.\1.",
    }
    tensors = {}
    for name, value in to_author(model.state_dict(), model.config.bands).items():
        if name.endswith(".linear.weight"):
            value = value[..., 0].mT
        for author, ours in names.items():
            name = re.sub(author, ours, name)
        tensors[name] = value.clone(memory_format=torch.contiguous_format)
    config = {"network": "bsmamba2"} | model.config.to_dict()
    del config["time_block"]  # which that version did not know
    save_file(tensors, tmp_path / "first.safetensors", metadata={"model": json.dumps(config)})
    assert same(load_model(tmp_path / "first.safetensors"), model)
    del tensors["mask_estimator.to_mask.1.2.bias"]
    save_file(tensors, tmp_path / "first.safetensors", metadata={"model": json.dumps(config)})
    with pytest.raises(InputError, match="1 missing: mask_estimators"):
        load_model(tmp_path / "first.safetensors")


def test_half_precision_weights_become_float32(author, tmp_path):
    loaded = load_model(saved({k: v.bfloat16() for k, v in author.items()}, tmp_path / "m.ckpt"))
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert torch.equal(loaded.final_norm.gamma, author["model.final_norm.gamma"].bfloat16().float())


def test_old_format_of_torch_loads(author, model, tmp_path):
    torch.save({"state_dict": author}, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    assert same(load_model(tmp_path / "old.ckpt"), model)


def test_lightning_parts_beside_the_model_are_no_fault(author, model, tmp_path):
    windows = {f"{name}.window": torch.hann_window(64) for name in ("featurizer", "inverse_featurizer")}
    author |= windows | {"multi_featurizer.0.window": torch.hann_window(64)}
    assert same(load_model(saved({"state_dict": author}, tmp_path / "m.ckpt")), model)


@pytest.mark.parametrize(
    ("prefix", "entry"),
    [
        ("module.", None),
        ("_orig_mod.", "state_dict"),
        ("model._orig_mod.", "model"),
        ("module.model.", "model_state_dict"),
        ("module._orig_mod.", "ema"),
        ("", None),
    ],
)
def test_checkpoints_as_people_have_them(prefix, entry, author, model, tmp_path):
    tensors = {prefix + name.removeprefix("model."): value for name, value in author.items()}
    content = tensors if entry is None else {entry: tensors, "epoch": 3, "optimizer": {"state": {}}}
    assert same(load_model(saved(content, tmp_path / "m.pt")), model)
    ours = {prefix + name: value.detach().clone() for name, value in model.state_dict().items()}
    save_file(ours, tmp_path / "m.safetensors", metadata={"model": json.dumps(model.config.to_dict())})
    assert same(load_model(tmp_path / "m.safetensors"), model)


def test_which_weights_are_wanted_must_be_clear(author, tmp_path):
    for content, match in (
        ({"model": author, "ema": author}, "holds weights in the entries model, ema; save the wanted one alone"),
        (author | {"module.final_norm.gamma": torch.ones(8)}, "holds two tensors 'final_norm.gamma', under other pre"),
        ({"epoch": 3, "lr": 1.0}, "holds no weights by name, but 'epoch', 'lr'; load a checkpoint"),
    ):
        with pytest.raises(InputError, match=f"m.pt: {match}"):
            load_model(saved(content, tmp_path / "m.pt"))


def test_a_run_stands_for_its_weights(model, tmp_path):
    (tmp_path / "run.json").touch()
    with pytest.raises(InputError, match="a run without model.safetensors, so not finished; give a file of its folder"):
        load_model(tmp_path)
    saved({"step": 1, "ranking": {}, "averaged": {}, "model": {}}, tmp_path / "state.ckpt")
    with pytest.raises(InputError, match="state.ckpt: a training's checkpoint; give the run's model.safetensors"):
        load_model(tmp_path / "state.ckpt")
    save_model(model, tmp_path / "model.safetensors", {})
    assert same(load_model(tmp_path), model)


# --- What does not fit -----------------------------------------------------------------------------------------------

GROUPS = [
    "model.layers.0.1.backward_blocks.0.mixer.dt_bias",
    "model.layers.1.0.linear.weight",
    "model.final_norm.gamma",
    "model.band_split.to_features.0.0.gamma",
    "model.band_split.to_features.3.1.weight",
    "model.mask_estimators.0.to_freqs.3.0.2.bias",
]


def test_missing_tensors_are_listed(author, tmp_path):
    for missing in ([name] for name in GROUPS):
        content = {"state_dict": {k: v for k, v in author.items() if k not in missing}}
        with pytest.raises(InputError, match=f"1 missing: {re.escape(missing[0].removeprefix('model.'))}$"):
            load_model(saved(content, tmp_path / "m.ckpt"))
    content = {"state_dict": {k: v for k, v in author.items() if k not in GROUPS}}
    with pytest.raises(InputError) as caught:
        load_model(saved(content, tmp_path / "m.ckpt"))
    said = str(caught.value)
    assert f"{len(GROUPS)} missing: " in said and "and 2 more" in said and "\n" not in said
    assert sum(name.removeprefix("model.") in said for name in GROUPS) == len(GROUPS) - 2


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"final_norm.gamma": None, "final_norm.beta": torch.ones(8)},
         "1 missing: final_norm.gamma; 1 unexpected: final_norm.beta"),
        ({"layers.1.1.backward_blocks.0.mixer.D": torch.ones(5), "layers.0.0.linear.weight": torch.ones(16, 8, 2)},
         "layers.0.0.linear.weight has (16, 8, 2), wanted (16, 8, 1); layers.1.1.backward_blocks.0.mixer.D has (5,), "),
        ({"final_norm.gamma": [1.0] * 8, "layers.0.0.linear.bias": torch.ones(8, dtype=torch.int64)},
         "final_norm.gamma is no floating-point tensor; layers.0.0.linear.bias is no floating-point tensor"),
    ],
    ids=["other names", "other shapes", "no tensors"],
)  # fmt: skip
def test_what_does_not_fit_is_named_in_one_error(changes, told, author, tmp_path):
    author |= {f"model.{name}": value for name, value in changes.items()}
    content = {name: value for name, value in author.items() if value is not None}
    with pytest.raises(InputError, match=re.escape(told)):
        load_model(saved({"state_dict": content}, tmp_path / "m.ckpt"))


def test_ours_is_as_strict(model, tmp_path):
    path = save_model(model, tmp_path / "m.safetensors", {})
    tensors = load_file(path)
    tensors["stray"] = tensors.pop("final_norm.gamma")
    save_file(tensors, path, metadata={"model": json.dumps(model.config.to_dict())})
    with pytest.raises(InputError, match=r"1 missing: final_norm\.gamma; 1 unexpected: stray"):
        load_model(path)


@pytest.mark.parametrize(
    "config",
    ["{", "3", "[]", '{"dim": "x"}', '{"stft": 3}', '{"headdim": 0}', '{"depth": -1}', '{"dim": 16}', '{"no": 1}'],
)
def test_odd_configurations_are_refused(config, model, tmp_path):
    tensors = {name: value.detach() for name, value in model.state_dict().items()}
    save_file(tensors, tmp_path / "m.safetensors", metadata={"model": config})
    with pytest.raises(InputError, match=r"m\.safetensors"):
        load_model(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"state_dict": {}},
        {"state_dict": 3},
        {"weight": torch.ones(3)},
        {"state_dict": {"model.conv.weight": torch.ones(3, 3)}},
        {"state_dict": {"model.final_norm.gamma": "text"}},
        {1: torch.ones(3)},
        [torch.ones(3)],
        torch.ones(3),
        "text",
    ],
    ids=str,
)
def test_files_of_something_else_are_refused(content, tmp_path):
    with pytest.raises(InputError, match=r"m\.ckpt") as caught:
        load_model(saved(content, tmp_path / "m.ckpt"))
    assert "\n" not in str(caught.value)


# --- Foreign and hostile files ---------------------------------------------------------------------------------------


class DictConfig(dict):
    """Pickles as hyper-parameters of Lightning files do: a class of its own with a state."""

    def __init__(self, **values):
        super().__init__(values)
        self.content = values
        self.flags = {"parent": self}

    def append(self, value):
        self.last = value

    def __reduce__(self):
        return DictConfig, (), self.__dict__, iter([1, 2]), iter(self.items())


class Attacker:
    """Creates a folder when it is unpickled as usual."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def foreign(author, **more):
    return {
        "epoch": 12,
        "pytorch-lightning_version": "2.1.0",
        "state_dict": collections.OrderedDict(author),
        "hyper_parameters": DictConfig(dim=256, tags={"a", "b"}, dtype=torch.float16, size=torch.Size([2])),
        "optimizer_states": [{"ema": torch.nn.Parameter(torch.ones(3)), "complex": torch.ones(2, dtype=torch.cfloat)}],
        "callbacks": {DictConfig: DictConfig()},
    } | more


def test_foreign_objects_are_skipped(author, model, tmp_path):
    author["model.final_norm.gamma"] = torch.nn.Parameter(author["model.final_norm.gamma"])
    author["model.layers.0.0.linear.bias"] = torch.arange(24.0)[1::3]  # a view with offset and stride
    path = saved(foreign(author), tmp_path / "m.ckpt")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    loaded = load_model(path)
    assert torch.equal(loaded.dual_path.layers[0][0].proj.bias, torch.arange(24.0)[1::3])
    with torch.no_grad():
        model.dual_path.layers[0][0].proj.bias.copy_(torch.arange(24.0)[1::3])
    assert same(loaded, model)


def test_foreign_objects_are_never_imported(author, model, tmp_path, monkeypatch):
    marker = tmp_path / "imported"
    (tmp_path / "hostile_module.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Config: pass\n")
    path = saved(foreign(author, hyper_parameters="HERE"), tmp_path / "m.ckpt")
    here = b"X\x04\x00\x00\x00HERE"
    assert here in path.read_bytes()
    rewrite(path, lambda all: {n: data.replace(here, b"chostile_module\nConfig\n)R") for n, data in all.items()})
    monkeypatch.syspath_prepend(tmp_path)
    assert same(load_model(path), model)
    assert "hostile_module" not in sys.modules
    assert not marker.exists()


def rewrite(path, change, **options):
    """Change the members of a torch file, name -> content."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in change(members).items():
            archive.writestr(name, data)


def pickled(members):
    """The name of the member that holds the pickle."""
    return next(name for name in members if name.endswith("data.pkl"))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("form", ["zip", "old", "plain"])
@pytest.mark.parametrize("place", ["hyper_parameters", "state_dict", "weight", "whole"])
def test_malicious_pickle_does_not_run(author, place, form, tmp_path):
    marker = tmp_path / "marker"
    attacker = Attacker(marker)
    content = foreign(author)
    if place == "weight":
        content["state_dict"]["model.final_norm.gamma"] = attacker
    elif place == "whole":
        content = attacker
    else:
        content[place] = attacker
    path = tmp_path / "m.ckpt"
    if form == "plain":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    assert not marker.exists()
    if place == "hyper_parameters" and form == "zip":
        load_model(path)
    else:
        with pytest.raises(InputError) as caught:
            load_model(path)
        assert "\n" not in str(caught.value)
    assert not marker.exists()
    # The test's own check: it would have run.
    pickle.loads(path.read_bytes()) if form == "plain" else torch.load(path, weights_only=False)
    assert marker.exists()


HOSTILE = {
    "changes a class": b"\x80\x02ccollections\nOrderedDict\n}X\x01\x00\x00\x00aK\x01s\x86b.",
    "changes the rebuilder": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x08\x00\x00\x00__code__K\x01sb.",
    "calls a number": b"\x80\x02K\x01)R.",
    "stack underflow": b"\x80\x02R.",
    "unknown opcode": b"\x80\x02\xff.",
    "unknown place in the memo": b"\x80\x02j\xff\xff\xff\x7f.",
    "far place in the memo": b"\x80\x02]r\xff\xff\xff\xff.",
    "huge array": b"\x80\x05\x96\x00\x00\x00\x00\x10\x00\x00\x00.",
    "huge bytes": b"\x80\x05\x8e\x00\x00\x00\x00\x10\x00\x00\x00.",
    "odd storage": b"\x80\x02K\x01Q.",
    "cut": b"\x80\x02}X",
    "empty": b"",
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", HOSTILE)
def test_odd_pickles_are_refused(name, author, tmp_path):
    path = saved(foreign(author), tmp_path / "m.ckpt")
    rewrite(path, lambda members: members | {pickled(members): HOSTILE[name]})
    tracemalloc.start()
    with pytest.raises(InputError) as caught:
        load_model(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert peak < 50e6


@pytest.mark.parametrize("change", ["short storage", "no storage", "compressed", "two pickles", "program"])
def test_odd_archives_are_refused(change, author, tmp_path):
    path = saved(foreign(author), tmp_path / "m.ckpt")
    changes = {
        "short storage": lambda members: {n: data[:-1] if "/data/" in n else data for n, data in members.items()},
        "no storage": lambda members: {n: data for n, data in members.items() if "/data/" not in n},
        "two pickles": lambda members: members | {"other/data.pkl": members[pickled(members)]},
        "program": lambda members: members | {"m/constants.pkl": b""},  # PyTorch would load TorchScript
    }
    compression = zipfile.ZIP_DEFLATED if change == "compressed" else zipfile.ZIP_STORED
    rewrite(path, changes.get(change, dict), compression=compression)
    with pytest.raises(InputError, match=r"m\.ckpt"):
        load_model(path)


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("content", ["empty", "text", "zeros", "zip", "half", "end missing", "page", "JSON", "pickle"])
def test_damaged_files_are_refused(content, suffix, author, model, tmp_path):
    path = tmp_path / f"m{suffix}"
    if suffix == ".ckpt":
        saved(foreign(author), path)
    else:
        save_model(model, path, {})
    whole = path.read_bytes()
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("a.txt", "hello")
    path.write_bytes(
        {
            "empty": b"",
            "text": b"hello",
            "zeros": bytes(4096),
            "zip": other.getvalue(),
            "half": whole[: len(whole) // 2],
            "end missing": whole[:-10],
            "page": b"<!DOCTYPE html><html><body>Virus scan warning</body></html>",
            "JSON": b'{"dim": 8}',
            "pickle": pickle.dumps({"a": 1}),
        }[content]
    )
    with pytest.raises(InputError, match=re.escape(path.name)) as caught:
        load_model(path)
    assert "\n" not in str(caught.value) and "weights_only" not in str(caught.value)


def test_no_such_file(tmp_path):
    for name in (tmp_path / "none.ckpt", tmp_path, "nonesuch"):
        with pytest.raises(InputError, match="no such weights file"):
            load_model(name)
