"""A real Slurm over hosts of namespaces: the controller on the first of them, a node on each."""

import os
from dataclasses import replace
from pathlib import Path
from stat import S_IFCHR

from hosts import Host, Hosts, Running, until

CPUS, GPUS = 32, 8  # what a node says of itself
NULL = os.makedev(1, 3)

# `sbatch --wait` looks every half minute only.
SUBMIT = """
id=$(sbatch --parsable "$@") || exit
until [[ ${state:-} =~ COMPLETED|FAILED|CANCELLED|TIMEOUT ]]; do
    sleep 0.5
    state=$(scontrol --oneliner show job "$id" | grep -o 'JobState=[A-Z_]*')
done
[[ $state == JobState=COMPLETED ]]
"""


class Slurm:
    """sbatch and its like run on the first host."""

    def __init__(self, folder: Path, hosts: Hosts) -> None:
        self.folder, self.hosts, self.asked = folder, hosts, 0
        self.conf = folder / "slurm.conf"
        for name in ("state", *(f"spool.{name}" for name in hosts.names)):
            (folder / name).mkdir()
        for number in range(GPUS):
            os.mknod(folder / f"gpu{number}", S_IFCHR | 0o600, NULL)
        (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-{GPUS - 1}]\n")
        self.conf.write_text("\n".join(self._settings()) + "\n")
        self._daemon(hosts[0], "slurmctld", "-D", "-i")
        for host in hosts.hosts:
            self.join(host)
        until(lambda: self.ask("sinfo", "-h", "-o", "%T").split() == ["idle"], f"idle nodes; see {folder}")

    def join(self, host: Host) -> None:
        """Start the node's daemon, at first or after the host was lost."""
        self._daemon(host, "slurmd", "-D")

    def run(self, log: Path, *command: str | Path, **env: str) -> Running:
        return self.hosts[0].run(log, *command, SLURM_CONF=str(self.conf), **env)

    def submit(self, said: Path, *words: str) -> Running:
        """What follows `sbatch`; it lasts as long as the job, also through its queueing again."""
        command = ["bash", "-c", SUBMIT, "bash", f"--output={said}", *words]
        job = self.run(self.folder / "submitted", *command, DS_ACCELERATOR="cpu")
        said.touch()
        return replace(job, log=said)

    def ask(self, *command: str) -> str:
        """What a command of Slurm says, in a moment."""
        self.asked += 1
        asked = self.run(self.folder / f"asked{self.asked}", *command)
        asked.ended(30)
        return asked.said

    def _daemon(self, host: Host, *command: str) -> None:
        host.run(self.folder / f"{command[0]}-{host.name}.out", *command, SLURM_CONF=str(self.conf))

    def _settings(self) -> list[str]:
        nodes = [
            f"NodeName={name} NodeAddr={address} CPUs={CPUS} Gres=gpu:{GPUS}"
            for name, address in zip(self.hosts.names, self.hosts.addresses, strict=True)
        ]
        return [
            "ClusterName=test", f"SlurmctldHost={self.hosts.names[0]}({self.hosts.addresses[0]})",
            "SlurmUser=root", "SlurmdUser=root", "AuthType=auth/none", "CredType=cred/none",
            "AuthInfo=cred_expire=11", "SchedulerParameters=sched_interval=2,bf_interval=2",  # back in 13 s, not 121
            "SlurmdTimeout=10", "ReturnToService=2", "KillWait=5", "MailProg=/bin/true",
            "ProctrackType=proctrack/linuxproc", "TaskPlugin=task/none", "JobAcctGatherType=jobacct_gather/none",
            "GresTypes=gpu", "SelectType=select/cons_tres", "SelectTypeParameters=CR_Core",
            "SlurmdParameters=config_overrides",  # more CPUs than there are
            f"StateSaveLocation={self.folder}/state", f"SlurmdSpoolDir={self.folder}/spool.%n",
            f"SlurmctldPidFile={self.folder}/slurmctld.pid", f"SlurmdPidFile={self.folder}/%n.pid",
            f"SlurmctldLogFile={self.folder}/slurmctld.log", f"SlurmdLogFile={self.folder}/%n.log",
            *nodes, f"PartitionName=test Nodes={','.join(self.hosts.names)} Default=YES State=UP",
        ]  # fmt: skip
