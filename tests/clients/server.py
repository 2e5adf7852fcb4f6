"""Starts and stops the real onnxd the way users do. Used by conftest.py."""

import itertools
import json
import os
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import requests

READY_MAX = 60.0
STOP_MAX = 40.0
START_ATTEMPTS = 5
ADMIN_TOKEN = "a-token-of-the-clients-tests-0123456789"

WORKSPACE = Path(__file__).resolve().parents[2]
MADE = WORKSPACE / "target/onnxd"
FIELD = WORKSPACE / "tests/models"
MODELS = Path(os.environ.get("ONNXD_TEST_MODELS") or MADE / "models")
EXECUTABLES = Path(os.environ.get("ONNXD_TEST_EXECUTABLES") or WORKSPACE / "target/debug")

# Below the kernel's ephemeral ports, so that clients do not take them.
_PORTS = itertools.count(20_000 + os.getpid() * 131 % 10_000)


def library():
    given = os.environ.get("ONNXD_TEST_ONNXRUNTIME")
    return given or next((MADE / "onnxruntime").glob("libonnxruntime.so.*"))


def free_port():
    """Returns a free port, a different one for each call."""
    for number in itertools.islice(_PORTS, 1000):
        port = 20_000 + number % 12_000
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port")


class Server:
    """A running onnxd that serves the given models (name to directory). The first one is the default model."""

    def __init__(self, models, more=()):
        self.directory = tempfile.TemporaryDirectory(prefix="clients-")
        root = Path(self.directory.name)
        for name in ("home", "tmp", "run"):
            (root / name).mkdir()
        self.root = root
        self.log_path = root / "stderr"
        self.http, self.grpc, self.admin = (f"127.0.0.1:{free_port()}" for _ in range(3))
        self.url = f"http://{self.http}"
        token = root / "token"
        token.write_text(ADMIN_TOKEN + "\n")
        token.chmod(0o600)
        arguments = [EXECUTABLES / "onnxd", "serve"]
        for name, directory in models.items():
            arguments += ["--model", f"{name}={directory}"]
        arguments += ["--listen", self.http, "--grpc-listen", self.grpc]
        arguments += ["--admin-listen", self.admin, "--admin-token-file", token]
        arguments += ["--admin-socket", root / "run/admin.sock", "--state-dir", root / "state"]
        arguments += ["--onnxruntime", library(), "--worker-binary", EXECUTABLES / "onnxd-worker"]
        arguments += ["--workers", "2", *more]
        kept = ("PATH", "LD_LIBRARY_PATH", "RUST_BACKTRACE")
        environment = {name: os.environ[name] for name in kept if name in os.environ}
        environment |= {"HOME": str(root / "home"), "TMPDIR": str(root / "tmp")}
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                [str(argument) for argument in arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    @classmethod
    def started(cls, models, more=()):
        """Starts a server and waits until it is ready. Retries on other ports if the chosen ones are taken."""
        for attempt in range(START_ATTEMPTS):
            server = cls(models, more)
            if server._wait_until_ready():
                return server
            log = server.log()
            server.stop()
            if "address already in use" not in log.lower() or attempt + 1 == START_ATTEMPTS:
                raise AssertionError(f"onnxd did not become ready:\n{log}")

    def _wait_until_ready(self):
        end = time.monotonic() + READY_MAX
        while time.monotonic() < end and self.process.poll() is None:
            try:
                # Another server may have taken the port, so check our own process as well.
                if requests.get(f"{self.url}/v2/health/ready", timeout=2).status_code == 200:
                    return self.process.poll() is None
            except requests.RequestException:
                pass
            time.sleep(0.05)
        return False

    def update(self, model, directory):
        """Runs `onnxd update` and returns what it prints."""
        arguments = [EXECUTABLES / "onnxd", "update", model, "--from", directory, "--json"]
        arguments += ["--admin-socket", self.root / "run/admin.sock"]
        environment = {"HOME": str(self.root / "home"), "PATH": os.environ["PATH"]}
        done = subprocess.run(
            [str(argument) for argument in arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=READY_MAX,
        )
        assert done.returncode == 0, f"{done.stdout}{done.stderr}"
        return json.loads(done.stdout)

    def embed(self, model, texts, **options):
        """Returns embeddings as rows."""
        body = {"model": model, "input": texts, **options}
        answer = requests.post(f"{self.url}/v1/embeddings", json=body, timeout=60)
        answer.raise_for_status()
        return np.array([item["embedding"] for item in answer.json()["data"]], dtype=np.float32)

    def log(self):
        return self.log_path.read_text(errors="replace")

    def runs(self):
        return self.process.poll() is None

    def stop(self):
        """Stops it as systemd does and returns its exit code."""
        if self.runs():
            self.process.terminate()
        try:
            code = self.process.wait(STOP_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self.final_log = self.log()
        self.directory.cleanup()
        return code
