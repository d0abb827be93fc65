"""Some hosts on one machine: each has a network, processes, files of /etc and a name of its own, and an sshd.

Nothing is left of them, however the tests end: a host is gone with its first process, which is gone with the tests;
names and cables are gone with the host.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
DIE_WITH_US = ["setpriv", "--pdeathsig", "KILL"]
BOOT = """
set -e
hostname "$1"
mount --bind "$2/hosts" /etc/hosts
mount --bind "$2/ssh" /etc/ssh
mount -t tmpfs run /run
mkdir /run/sshd
exec /usr/sbin/sshd -D -e
"""
SSH = """
IdentityFile /etc/ssh/id
GlobalKnownHostsFile /etc/ssh/known_hosts
UserKnownHostsFile /dev/null
"""
SSHD = """
HostKey /etc/ssh/hostkey
AuthorizedKeysFile /etc/ssh/id.pub
StrictModes no
UsePAM no
"""


def environment(**changes: str) -> dict[str, str]:
    """A plain machine without a graphics card, whatever this one is, on which our Python is found."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin", "/sbin"])
    return {"PATH": path, "HOME": os.environ.get("HOME", "/root"), "CUDA_VISIBLE_DEVICES": ""} | changes


def call(*command: str | Path) -> None:
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{command}: {done.stderr}"


def until(reached: Callable[[], bool], what: str, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, f"waited {seconds} s in vain: {what}"
        time.sleep(0.05)


@dataclass
class Running:
    """A command on a host, and what it has said so far."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def tell(self, number: int) -> None:
        """A signal to the command itself: it runs below nsenter, which passes none on."""
        [pid] = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        os.kill(int(pid), number)

    def ended(self, seconds: float = 240) -> int:
        """The exit code; fails the test where the command takes longer."""
        until(lambda: self.process.poll() is not None, f"the end of what says\n{self.said}", seconds)
        return self.process.wait()


@dataclass
class Host:
    name: str
    address: str
    starter: subprocess.Popen[bytes]
    pid: int  # of its first process, as seen from outside
    port: str  # of the switch, where its cable ends
    started: list[Running] = field(default_factory=list)

    def run(self, log: Path, *command: str | Path, **env: str) -> Running:
        """Start a command in the project's folder. Its output goes on in `log`."""
        spaces = ["--net", "--mount", "--uts", "--pid"]
        inside = ["nsenter", f"--target={self.pid}", *spaces, "env", f"--chdir={ROOT}", *map(str, command)]
        with log.open("ab") as out:
            process = subprocess.Popen(
                inside, env=environment(**env), stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
            )
        self.started.append(Running(process, log))
        return self.started[-1]

    def ranks(self) -> list[int]:
        """The process ids, as seen from outside, of what runs fer_scale itself and no launcher of it."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                words = (folder / "cmdline").read_bytes().split(b"\0")
                if os.readlink(folder / "ns/pid") == os.readlink(f"/proc/{self.pid}/ns/pid") and (
                    words[1:4] in ([b"-u", b"-m", b"fer_scale"], [b"-m", b"fer_scale", b"pretrain"])
                ):
                    found.append(int(folder.name))
        return found

    def kill(self) -> None:
        """Every process of the host is gone at once; the kernel still closes their connections."""
        self.starter.kill()  # unshare --kill-child
        self.starter.wait()
        for running in self.started:
            running.process.wait()


class Hosts:
    """So many hosts on one switch, which know one another by name. Index them from 0."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        self.folder, self.names, self.ports = folder, names, 0
        self.addresses = [f"10.77.0.{number}" for number in range(1, len(names) + 1)]
        self._write_etc()
        self.hosts: list[Host] = []
        self.switch = subprocess.Popen([*DIE_WITH_US, "unshare", "--net", "sleep", "infinity"])
        until(lambda: os.readlink(f"/proc/{self.switch.pid}/ns/net") != os.readlink("/proc/self/ns/net"), "the switch")
        self._network(self.switch.pid, "link add switch type bridge", "link set switch up")
        self.hosts = [self._start(number) for number in range(len(names))]

    def __getitem__(self, number: int) -> Host:
        return self.hosts[number]

    def unplug(self, number: int) -> None:
        """Cut a host off: nothing that is sent arrives, and nobody is told."""
        self._network(self.switch.pid, f"link set {self.hosts[number].port} down")

    def power_off(self, number: int) -> None:
        """End a host at once: its peers hear nothing any more, not even that connections have ended."""
        self.unplug(number)
        self.hosts[number].kill()

    def restart(self, number: int) -> None:
        """The host again, under its name and address, after `kill` or `power_off`."""
        self.hosts[number] = self._start(number)

    def end(self) -> None:
        for host in self.hosts:
            host.kill()
        self.switch.kill()
        self.switch.wait()

    def _write_etc(self) -> None:
        """What every host has in /etc: who is who, one key that opens all, and how to use it without a question."""
        ssh = self.folder / "ssh"
        ssh.mkdir()
        for key in ("id", "hostkey"):
            call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", ssh / key)
        # A Kubernetes name such as job-0.service is told apart by its first part, as the pod's own hostname.
        lines = [f"{a} {name} {name.partition('.')[0]}\n" for a, name in zip(self.addresses, self.names, strict=True)]
        (self.folder / "hosts").write_text("127.0.0.1 localhost\n" + "".join(lines))
        (ssh / "known_hosts").write_text("* " + (ssh / "hostkey.pub").read_text())
        (ssh / "ssh_config").write_text(SSH)
        (ssh / "sshd_config").write_text(SSHD)

    def _start(self, number: int) -> Host:
        name = self.names[number].partition(".")[0]
        spaces = ["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"]
        with (self.folder / f"{name}.log").open("ab") as log:
            starter = subprocess.Popen(
                [*DIE_WITH_US, *spaces, "sh", "-c", BOOT, "sh", name, self.folder],
                env=environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        children = Path(f"/proc/{starter.pid}/task/{starter.pid}/children")
        until(lambda: bool(children.read_text().strip()), f"the first process of {name}")
        self.ports += 1
        host = Host(name, self.addresses[number], starter, int(children.read_text()), f"port{self.ports}")
        listening = Path(f"/proc/{host.pid}/net/tcp")
        until(lambda: " 00000000:0016 " in listening.read_text(), f"the sshd of {name}; see {self.folder}/{name}.log")
        mac = f"02:00:00:00:00:{number:02x}"  # the same again after a restart: peers remember it
        cable = f"name {host.port} netns {self.switch.pid} type veth peer name eth0 address {mac} netns {host.pid}"
        self._network(host.pid, f"link add {cable}", f"addr add {host.address}/24 dev eth0")
        self._network(host.pid, "link set eth0 up", "link set lo up")
        self._network(self.switch.pid, f"link set {host.port} master switch up")
        return host

    def _network(self, pid: int, *orders: str) -> None:
        for order in orders:
            call("nsenter", f"--target={pid}", "--net", "ip", *order.split())
