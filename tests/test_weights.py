"""Named weights: fetched from a local server, resumed, verified, refused when they are anything else."""

import hashlib

import pytest
import torch
import yaml

from bsm import download
from bsm.errors import InputError
from bsm.model import BSMamba2
from bsm.weights import registry as weights
from bsm.weights.files import load_model, save_model
from models import small

MODEL = small(depth=3)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A file as it is published."""
    torch.manual_seed(0)
    return save_model(BSMamba2(MODEL), tmp_path_factory.mktemp("published") / "good.safetensors", {})


@pytest.fixture
def server(http_server, good):
    http_server.body = good.read_bytes()
    return http_server


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch, good, no_proxy):
    """A manifest and a cache of the test's own."""
    body = good.read_bytes()
    manifest = {
        "published": {
            "title": "a published model",
            "licence": "none stated",
            "files": [
                {
                    "file": "published.ckpt",
                    "url": "http://127.0.0.1:9/unused",
                    "size": len(body),
                    "checksum": f"sha256:{hashlib.sha256(body).hexdigest()}",
                }
            ],
            "note": "a note",
        },
        "own": {"title": "our model", "licence": "MIT", "path": "runs/own.safetensors", "made_by": "make own"},
    }
    (tmp_path / "weights.yaml").write_text(yaml.safe_dump(manifest))
    monkeypatch.setattr(weights, "MANIFEST", tmp_path / "weights.yaml")
    monkeypatch.setattr(weights, "ROOT", tmp_path)
    monkeypatch.setenv("BSM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache" / "published.ckpt"


def part(place):
    return place.with_name("published.ckpt.part")


def kept(place):
    """Return the names of the files in the cache, but for the lock."""
    return [path.name for path in place.parent.iterdir() if path.suffix != ".lock"]


def refuse(source, match):
    with pytest.raises(InputError, match=match) as caught:
        weights.fetch("published", source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("how", ["good", "no-ranges", "moved", "unsized"])
def test_fetch_verifies_and_caches(how, server, url, place):
    assert weights.fetch("published", f"{url}/{how}") == place
    assert place.read_bytes() == server.body
    assert kept(place) == [place.name]
    requests_before = len(server.asked)
    assert weights.fetch("published", f"{url}/missing") == place  # nothing is asked for again
    assert len(server.asked) == requests_before
    assert load_model("published").config == MODEL


def test_recorded_address_is_used(server, url, place):
    manifest = yaml.safe_load(weights.MANIFEST.read_text())
    manifest["published"]["files"][0]["url"] = f"{url}/good"
    weights.MANIFEST.write_text(yaml.safe_dump(manifest))
    assert weights.fetch("published") == place


def test_broken_download_goes_on_where_it_stopped(server, url, place):
    size = len(server.body)
    refuse(f"{url}/truncated", rf"the connection broke off; [\d,]+ of {size:,} bytes are here and kept")
    have = part(place).stat().st_size
    assert size // 2 - download.PIECE < have <= size // 2
    assert part(place).read_bytes() == server.body[:have]
    assert not place.exists()
    refuse(f"{url}/truncated", "bytes are here and kept")
    assert have < part(place).stat().st_size < size
    weights.fetch("published", f"{url}/good")
    assert place.read_bytes() == server.body
    assert server.asked[0] is None and server.asked[1] == f"bytes={have}-" and len(server.asked) == 3
    assert not part(place).exists()


@pytest.mark.parametrize("how", ["no-ranges", "unsized", "truncated-no-ranges"])
def test_server_without_ranges_sends_what_is_here_again(how, server, url, place):
    place.parent.mkdir()
    part(place).write_bytes(server.body[:1000])
    if how.startswith("truncated"):
        refuse(f"{url}/{how}", "bytes are here and kept")
        have = part(place).stat().st_size
        assert have > 1000 and part(place).read_bytes() == server.body[:have]
    weights.fetch("published", f"{url}/{how.removeprefix('truncated-')}")
    assert place.read_bytes() == server.body
    assert kept(place) == [place.name]


@pytest.mark.parametrize("how", ["unsized-page", "unsized-page-untyped", "unsized-short"])
def test_a_restart_with_something_else_spares_what_was_fetched(how, server, url, place):
    """A page of no stated length in answer to a request to go on: the part is left as it was, and then goes on."""
    place.parent.mkdir()
    part(place).write_bytes(server.body[:1000])
    refuse(f"{url}/{how}", "offers|not the recorded file|1,000 of")
    assert part(place).read_bytes() == server.body[:1000]
    assert kept(place) == [part(place).name]
    weights.fetch("published", f"{url}/good")
    assert server.asked[-1] == "bytes=1000-"
    assert place.read_bytes() == server.body


@pytest.mark.parametrize("have", [b"", b"all", b"all and more"], ids=len)
def test_odd_partial_files(have, server, url, place):
    place.parent.mkdir()
    part(place).write_bytes({b"": b"", b"all": server.body}.get(have, server.body + b"more"))
    weights.fetch("published", f"{url}/good")
    assert place.read_bytes() == server.body


def test_partial_file_of_something_else_is_refused_then_starts_anew(server, url, place):
    place.parent.mkdir()
    part(place).write_bytes(b"x" * 1000)
    refuse(f"{url}/good", "not the recorded file: SHA-256")
    weights.fetch("published", f"{url}/good")
    assert place.read_bytes() == server.body


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ("missing", "404 Not Found"),
        ("broken", "503 Busy"),
        ("empty", "offers 0 bytes"),
        ("page", r"offers 31 bytes of text/html, not the [\d,]+ of weights 'published'"),
        ("shorter", r"offers [\d,]+ bytes"),
        ("longer", r"offers [\d,]+ bytes"),
        ("altered", r"not the recorded file: SHA-256 [0-9a-f]{64} where [0-9a-f]{64} is recorded"),
        ("unsized-empty", "0 of"),
        ("unsized-longer", r"not the recorded file: [\d,]+ bytes where"),
        ("unsized-page", r"offers \? bytes of text/html[^,]*, not the [\d,]+ of weights 'published'"),
        ("truncated-no-ranges", "bytes are here and kept"),
    ],
)
@pytest.mark.parametrize("begun", [False, True])
def test_anything_else_is_refused(how, match, begun, server, url, place):
    place.parent.mkdir()
    if begun:
        part(place).write_bytes(server.body[:1000])
    refuse(f"{url}/{how}", match if not (begun and how == "unsized-empty") else "1,000 of")
    assert not place.exists()
    if how in ("missing", "broken", "empty", "page", "shorter", "longer", "unsized-page"):
        assert part(place).exists() == begun  # what was fetched before is not given up
    with pytest.raises(InputError, match="bsm weights fetch published"):
        load_model("published")


def test_refused_file_is_kept_apart(server, url, place):
    message = refuse(f"{url}/altered", "kept as")
    kept = place.with_name("published.ckpt.refused")
    assert str(kept) in message and len(kept.read_bytes()) == len(server.body)


def test_wrong_range_is_refused(server, url, place):
    place.parent.mkdir()
    part(place).write_bytes(server.body[:1000])
    refuse(f"{url}/other%20range", "offers|recorded")
    assert not place.exists()


def test_no_connection(place):
    refuse("http://127.0.0.1:9/nothing", r"nothing: \[Errno \d+\] [^;]*; 0 of .* bytes are here and kept")
    assert not place.exists()


def test_altered_file_in_the_cache_is_fetched_again(server, url, place):
    place.parent.mkdir()
    place.write_bytes(server.body[:-1])
    with pytest.raises(InputError, match=r"published\.ckpt: [\d,]+ bytes where .* bsm weights fetch published"):
        load_model("published")
    place.write_bytes(server.body[:-1] + b"?")
    with pytest.raises(InputError, match=r"published\.ckpt: SHA-256 .* bsm weights fetch published"):
        load_model("published")  # of the right size, and altered
    refuse(f"{url}/missing", "404")
    assert place.exists()  # nothing better came
    weights.fetch("published", f"{url}/good")
    assert place.read_bytes() == server.body


def test_offline_by_path(good, place, tmp_path):
    refuse(str(tmp_path / "none.ckpt"), "no such file")
    bad = tmp_path / "bad.ckpt"
    bad.write_bytes(good.read_bytes()[:-1])
    refuse(str(bad), "not the recorded weights 'published'.*left as it is")
    assert bad.exists() and not place.exists()
    assert weights.fetch("published", str(good)) == place
    assert good.exists()
    assert load_model("published").config == load_model(good).config == MODEL


def test_two_at_once_are_refused(server, url, place, locked):
    with locked(place.with_name("published.ckpt.lock")):
        refuse(f"{url}/good", "another process is fetching weights 'published' .*; wait for it, or stop it")
    assert weights.fetch("published", f"{url}/good") == place


def test_own_weights_are_made_not_fetched(tmp_path):
    for ask in (lambda: load_model("own"), lambda: weights.fetch("own"), lambda: weights.fetch("own", "x")):
        with pytest.raises(InputError, match="make own"):
            ask()
    path = save_model(BSMamba2(MODEL), tmp_path / "runs" / "own.safetensors", {})
    assert weights.fetch("own") == path
    assert load_model("own").config == MODEL


def test_unknown_name():
    for ask in (weights.fetch, weights.entry):
        with pytest.raises(InputError, match="'nope'; choose one of own, published"):
            ask("nope")
    with pytest.raises(InputError, match="no such weights file; .*`make reproduce`.*own, published"):
        load_model("nope")


def test_command_line(server, place, url, invoke):
    listed = invoke("weights", "list").output
    assert all(text in listed for text in ("published: a published model", "none stated", "not fetched", "a note"))
    assert all(text in listed for text in ("own: our model", "MIT", "not made"))
    assert isinstance(invoke("weights", "path", "published").exception, InputError)
    fetched = invoke("weights", "fetch", "published", "--from", f"{url}/good")
    assert "licence of 'published': none stated" in fetched.output
    assert fetched.output.rstrip().endswith(str(place))
    assert invoke("weights", "path", "published").output.strip() == str(place)
    assert "here" in invoke("weights", "list").output
    assert isinstance(invoke("weights", "fetch", "nope").exception, InputError)


def test_manifest_of_the_checkout(monkeypatch):
    monkeypatch.undo()
    known = weights.entries()
    assert {"author", "msst-v1.0.19", "demo"} <= known.keys()
    (author,), (msst,) = known["author"].files, known["msst-v1.0.19"].files
    assert author.size == 770_628_060 and "1W-IX8I5B2g-8JA5Zaf-HkUul0MpOEBaZ" in author.url
    assert msst.size == 192_610_602
    for entry in known.values():
        assert entry.title and entry.licence
        if entry.path:
            assert entry.made_by
        else:
            assert "none stated" in entry.licence
            assert len(bytes.fromhex(entry.sha256)) == 32 and entry.files[0].url.startswith("https://")


def test_cache_folder(monkeypatch):
    monkeypatch.delenv("BSM_CACHE")
    assert weights.cache_folder().name == "bsm"
