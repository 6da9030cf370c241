"""What several test files use: a small model, small songs, a local web server, one thread for PyTorch, log levels."""

import contextlib
import hashlib
import http.server
import json
import logging
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner

from bsm import audio, bands
from bsm.config import StftConfig
from bsm.data import registry
from bsm.model import BSMamba2
from models import small


class _Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.body`, or `server.files[name]` at `/<manner>/<name>`, in the manner that the path names."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        how, _, name = self.path.strip("/").partition("/")
        body, asked = self.server.files.get(name, self.server.body), self.headers.get("Range")
        if how == "breaks-once":
            how = "good" if name in self.server.broken else "truncated"
            self.server.broken.add(name)
        self.server.asked.append(asked)
        self.close_connection = True
        first = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        if how == "missing":
            return self.send_error(404, "Not Found")
        if how == "broken":
            return self.send_error(503, "Busy")
        if how == "moved":
            return self.answer(302, b"", Location="/good")
        if how == "empty":
            return self.answer(200, b"")
        if how == "page":
            return self.answer(200, b"<html>Virus scan warning</html>", **{"Content-Type": "text/html"})
        if how == "altered":
            body = body[:-1] + bytes([body[-1] ^ 1])
        if how == "longer":
            body = body + b"more"
        if how == "shorter":
            body = body[:-5]
        if how == "other%20range" and first:
            return self.answer(206, body, **{"Content-Range": f"bytes 7-{len(body) - 1}/{len(body)}"})
        if how in ("no-ranges", "truncated-no-ranges"):
            first = 0
        if how.startswith("unsized"):
            page = b"<html>Quota exceeded</html>"
            other = {"unsized-empty": b"", "unsized-longer": body + bytes(3 << 20), "unsized-short": body[:500]}
            body = other.get(how, page if "page" in how else body)
            self.send_response(200)
            self.send_header("Connection", "close")
            if how == "unsized-page":
                self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            return self.wfile.write(body)
        if first >= len(body):
            return self.answer(416, b"")
        headers = {"Content-Range": f"bytes {first}-{len(body) - 1}/{len(body)}"} if first else {}
        stop = len(body) // 2 + first // 2 if how.startswith("truncated") else None
        return self.answer(206 if first else 200, body[first:], stop and stop - first, **headers)

    def answer(self, status, body, stop=None, **headers):
        self.send_response(status)
        for name, value in ({"Content-Length": len(body), "Connection": "close"} | headers).items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body[:stop])


@pytest.fixture(autouse=True)
def log_level_left_alone():
    """A command called in the tests' process lowers the level of bsm's log: the next test starts anew."""
    logger = logging.getLogger("bsm")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.fixture(autouse=True)
def figures_closed():
    """What a test drew is closed after it."""
    yield
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")


@pytest.fixture(scope="session")
def invoke():
    """Return the function that calls the command line in this process, and gives click's result."""
    from bsm.cli import cli

    return lambda *words, **options: CliRunner().invoke(cli, [*map(str, words)], **options)


LOCK = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"


@pytest.fixture
def locked():
    """Return a context manager in which another process holds a lock file."""

    @contextlib.contextmanager
    def hold(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        pipe = subprocess.PIPE
        with subprocess.Popen([sys.executable, "-S", "-c", LOCK, path], stdin=pipe, stdout=pipe) as other:
            other.stdout.read(1)
            yield other
            other.communicate(b"\n")

    return hold


@pytest.fixture(scope="session")
def small_config():
    """The paper's design in 26,000 parameters, stereo at 44.1 kHz."""
    return small(stft=StftConfig(256, 64), bands=bands.equal(129, 6))


@pytest.fixture(scope="session")
def small_model(small_config):
    """A model of that size with random weights; tests must not change it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return BSMamba2(small_config).eval()


@pytest.fixture(scope="session")
def committed():
    """The claims as the committed results judge them, which takes seconds."""
    from bsm.study.claims import ledger

    return ledger.lines()


@pytest.fixture(scope="session")
def write_song():
    """Return the function that writes a song: a folder with one file of noise per source."""

    def write(folder, seconds=1.0, *, sources=("vocals", "other"), rate=44100, channels=2, seed=0):
        folder.mkdir(parents=True)
        noise = np.random.default_rng(seed).normal(0, 0.1, (len(sources), channels, round(seconds * rate)))
        for name, sound in zip(sources, noise.clip(-0.4, 0.4), strict=True):
            audio.write(folder / f"{name}.wav", sound.astype(np.float32), rate, subtype="PCM_16")
        return folder

    return write


@pytest.fixture(scope="session")
def stem_file():
    """The excerpt of MUSDB18 in the package stempeg."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not here")
    return Path(pytest.importorskip("stempeg", exc_type=ImportError).example_stem_path())


@pytest.fixture
def stems(stem_file, tmp_path):
    """A folder with that excerpt as the one song of the split `test`."""
    (tmp_path / "test").mkdir()
    shutil.copy(stem_file, tmp_path / "test" / "Somebody - Sings.stem.mp4")
    return tmp_path


@pytest.fixture
def no_proxy(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def http_server(no_proxy):
    """A server whose `body` is set by the test; `asked` lists the ranges asked for."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.body, server.files, server.broken, server.asked = b"", {}, set(), []
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def url(http_server):
    return f"http://127.0.0.1:{http_server.server_port}"


@pytest.fixture
def write_set(tmp_path, monkeypatch):
    """Write the manifest of a data set `set` into a checkout of the test's own; return the checkout."""
    (tmp_path / "data_manifest").mkdir()
    monkeypatch.setattr(registry, "ROOT", tmp_path)
    monkeypatch.setattr(registry, "MANIFESTS", tmp_path / "data_manifest")

    def write(archive, **values):
        about = {"title": "a set", "source": "https://a.org", "licence": "none stated", "citation": "nobody"}
        text = yaml.safe_dump(about | {"layout": "folders", "rate": 8000} | values, allow_unicode=True)
        fields = [f"{key}: {value if isinstance(value, str) else json.dumps(value)}" for key, value in archive.items()]
        text += "files:\n  - " + "\n    ".join(fields) + "\n"
        (tmp_path / "data_manifest" / "set.yaml").write_text(text, encoding="utf-8")
        return tmp_path

    return write


@pytest.fixture
def publish(write_set, http_server, url):
    """Put an archive on the server, and say in the manifest of the data set `set` how it can be had."""

    def put(body, how="good", file="set.zip", **values):
        http_server.body = body
        checksum = f"md5:{hashlib.md5(body).hexdigest()}"
        archive = {"file": file, "url": f"{url}/{how}", "size": len(body), "checksum": checksum, "verified": False}
        splits = {"test": {"songs": 1, "names": ["b"]}}
        write_set(
            archive | values, inside="Set", channels=1, sources=["vocals", "other"], mixture="none", splits=splits
        )
        return http_server

    return put


@pytest.fixture(scope="module")
def one_thread():
    """Small products are faster, and sums always the same, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
