"""A real Triton Inference Server: the binaries of a wheel, with our model repository, on the CPU.

The server of this wheel predates numpy 2: under it every tensor that the Python backend hands out is corrupt. So the
models' interpreter finds a folder with an older numpy (and the pyarrow built for it) before this environment's
packages. A production image with a newer server needs neither that folder nor any path set here.
"""

import http.client
import json
import re
import shutil
import sys
import sysconfig
import zlib
from pathlib import Path

import msgspec

from infra.local.install import LOCKS, InstallError, install_wheels, once
from infra.local.launch import Launch, NotReady

SERVER_LOCK = LOCKS / "triton.lock"
PYTHON_LOCK = LOCKS / "triton-python.lock"
REPOSITORY = Path(__file__).parents[2] / "serving" / "model_repository"

# The stubs import torch, numba and Feast before they answer: half a minute on two busy cores.
_STUB_TIMEOUT_S = 180
# SIGTERM waits this long for requests and open connections.
_EXIT_TIMEOUT_S = 3
# Beyond the backend's default of 1 MB the regions grow by themselves.
_SHM_BYTES = 4 * 1024 * 1024


class Installed(msgspec.Struct, frozen=True):
    """Where the server's parts are: `server` is the unpacked wheel, `packages` comes first on the models' path."""

    server: Path
    packages: Path


def install(cache: Path) -> Installed:
    """Fetches the wheels of both locks once. Raises InstallError."""
    server = once(cache, "triton", SERVER_LOCK, _install_server)
    packages = once(cache, "triton-python", PYTHON_LOCK, lambda building: install_wheels(PYTHON_LOCK, building))
    return Installed(server=server, packages=packages)


def launch(
    installed: Installed,
    state: Path,
    grpc_port: int,
    http_port: int,
    metrics_port: int,
    settings_file: Path,
    instances: int = 1,
) -> Launch:
    """Writes the model repository under `state`, with `instances` of every model.

    `settings_file` is the resolved settings in JSON, which the models read when they are loaded.
    """
    repository = _write_repository(state / "models", instances)
    triton = installed.server / "pytriton" / "tritonserver"
    prefix = shm_prefix(state)
    argv = (
        str(triton / "bin" / "tritonserver"),
        f"--model-repository={repository}",
        f"--backend-directory={triton / 'backends'}",
        f"--cache-directory={triton / 'caches'}",
        "--model-control-mode=explicit",
        *(f"--load-model={model.name}" for model in sorted(repository.iterdir())),
        "--disable-auto-complete-config",
        "--http-address=127.0.0.1",
        f"--http-port={http_port}",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={grpc_port}",
        "--metrics-address=127.0.0.1",
        f"--metrics-port={metrics_port}",
        "--allow-gpu-metrics=false",
        "--allow-cpu-metrics=false",
        f"--exit-timeout-secs={_EXIT_TIMEOUT_S}",
        f"--backend-config=python,shm-region-prefix-name={prefix}",
        f"--backend-config=python,stub-timeout-seconds={_STUB_TIMEOUT_S}",
        f"--backend-config=python,shm-default-byte-size={_SHM_BYTES}",
    )
    env = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "HOME": str(state),
        "LANG": "C.UTF-8",
        "LD_LIBRARY_PATH": f"{installed.server / 'nvidia_pytriton.libs'}:{_libpython_dir()}",
        # Read by the models. This environment's own packages the stub finds by itself, by the Python on PATH.
        "FRESHET_PYTHON_PATH": str(installed.packages),
        "FRESHET_SETTINGS": str(settings_file),
        # Not the folder of the other processes: what is compiled there has seen another numpy.
        "NUMBA_CACHE_DIR": str(installed.packages.with_name("triton-numba")),
        # One request is one thread's work: more threads would take the other processes' cores.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "NUMBA_NUM_THREADS": "1",
    }
    return Launch(
        name="triton",
        argv=argv,
        env=env,
        cwd=state,
        stop_grace_s=_EXIT_TIMEOUT_S + 10.0,
        shm_prefix=prefix,
    )


def shm_prefix(state: Path) -> str:
    """How the names of shared memory begin that belongs to the server of this state folder."""
    return f"freshet_triton_{zlib.crc32(str(state.resolve()).encode()):08x}_"


def probe(address: str, timeout_s: float) -> str:
    """Gets a recommendation from the server at the HTTP `address` (host:port), without a trace, and its version.

    The server's own readiness does not see a model whose process died: only an answer does. Raises NotReady.
    """
    host, port = address.rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=timeout_s)
    try:
        _post(connection, "/v2/models/recommend/infer", _dry_run())
        return str(_get(connection, "/v2")["version"])
    except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
        raise NotReady(f"{address}: {error or type(error).__name__}") from error
    finally:
        connection.close()


def _dry_run() -> dict[str, object]:
    context = json.dumps({"dry_run": True})
    return {
        "inputs": [
            {"name": "user", "datatype": "BYTES", "shape": [1], "data": ["probe"]},
            {"name": "n", "datatype": "INT32", "shape": [1], "data": [1]},
            {"name": "context", "datatype": "BYTES", "shape": [1], "data": [context]},
        ]
    }


def _post(connection: http.client.HTTPConnection, path: str, body: dict[str, object]) -> None:
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    _answer(connection)


def _get(connection: http.client.HTTPConnection, path: str) -> dict[str, object]:
    connection.request("GET", path)
    return _answer(connection)


def _answer(connection: http.client.HTTPConnection) -> dict[str, object]:
    response = connection.getresponse()
    text = response.read().decode(errors="replace")
    if response.status != http.client.OK:
        raise ValueError(f"HTTP {response.status}: {text[:500]}")
    answer = json.loads(text)
    if not isinstance(answer, dict):
        raise ValueError(f"not an object: {text[:500]}")
    return answer


def _install_server(building: Path) -> None:
    install_wheels(SERVER_LOCK, building)
    triton = building / "pytriton" / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = triton / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.exists():
        raise InstallError(f"{SERVER_LOCK.name} holds no Python backend for Python {version}")
    # The backend starts the stub that lies beside it.
    backend = triton / "backends" / "python" / stub.name
    shutil.copy2(stub, backend)
    for program in (backend, triton / "bin" / "tritonserver"):
        program.chmod(0o755)


def _libpython_dir() -> Path:
    folder = Path(sysconfig.get_config_var("LIBDIR"))
    name = sysconfig.get_config_var("INSTSONAME")
    if not (folder / name).exists():
        raise InstallError(
            f"Triton's Python backend needs the shared library of this Python, and {folder} lacks {name}"
        )
    return folder


def _write_repository(target: Path, instances: int) -> Path:
    """A copy of the model repository in which every instance group has `instances` members."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(REPOSITORY, target, ignore=shutil.ignore_patterns("__pycache__"))
    for config in target.glob("*/config.pbtxt"):
        config.write_text(re.sub(r"\bcount: \d+", f"count: {instances}", config.read_text()))
    return target
