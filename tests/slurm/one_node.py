"""A real SLURM on this machine alone, with accounting and two GPUs that are only device files.

    python tests/slurm/one_node.py bash       # a shell in which sbatch, squeue and sacct talk to it; it ends with the shell

Needs root and Debian's slurm-wlm, munge, slurmdbd, slurm-wlm-mysql-plugin and mariadb-server. Everything lives in one temporary folder;
every daemon listens on 127.0.0.1 only, on ports of its own, so that two of these can run side by side.
"""

import contextlib
import ctypes
import os
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

DAEMONS = ("munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd")
TOOLS = (*DAEMONS, "mariadb-install-db", "mariadb", "sbatch", "srun", "squeue", "scancel", "scontrol", "sacct", "sinfo")
START_S = 90.0  # seconds that one daemon may take
CPUS, GPUS = 8, 2  # declared, not there: small runs side by side need no more than patience

# No cgroup and no systemd: processes are tracked by their parents, and nothing is bound to a core.
SLURM_CONF = """
ClusterName=one_node
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={slurmctld}
SlurmdPort={slurmd}
SlurmUser=root
SlurmdUser=root
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SlurmctldParameters=preempt_send_user_signal
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=100000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=5
JobAcctGatherType=jobacct_gather/linux
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={slurmdbd}
AccountingStoragePass={folder}/munge.socket
AccountingStorageTRES=gres/gpu
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=4000 Gres=gpu:{gpus} State=UNKNOWN
PartitionName=low Nodes={host} Default=YES MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime=30
PartitionName=high Nodes={host} MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
"""

SLURMDBD_CONF = """
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={slurmdbd}
CommunicationParameters=NoInAddrAny
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
PidFile={folder}/slurmdbd.pid
LogFile={folder}/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={mariadbd}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_accounting
"""


class ClusterError(RuntimeError):
    """The cluster did not come up, or did not do something in time; the message holds the daemons' last words."""


def missing() -> str | None:
    """Why no SLURM can be started here, or None."""
    absent = [tool for tool in TOOLS if shutil.which(tool, path=_path()) is None]
    if absent:
        return f"not installed: {', '.join(absent)}"
    if os.geteuid() != 0:
        return "its daemons need root"
    try:
        address = socket.gethostbyname(socket.gethostname())
    except OSError:
        address = "nothing"
    if not address.startswith("127."):  # the daemons listen at the address of the host's name, whatever their configuration says
        return f"the host name {socket.gethostname()} must resolve to 127.0.0.1 (/etc/hosts), not to {address}"
    return None


def wait_until(what: str, holds: Callable[[], bool], seconds: float = START_S) -> None:
    """Poll until `holds`. ClusterError after `seconds`."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise ClusterError(f"waited {seconds:.0f} s for: {what}")
        time.sleep(0.2)


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"  # Debian's daemons lie where a user's PATH does not look


def _host() -> str:
    return socket.gethostname().split(".")[0]


def _free_ports(count: int) -> list[int]:
    holders = [socket.socket() for _ in range(count)]
    for holder in holders:
        holder.bind(("127.0.0.1", 0))
    ports = [holder.getsockname()[1] for holder in holders]
    for holder in holders:
        holder.close()
    return ports


def _die_with_parent() -> None:
    """In a daemon, before it starts: even if this process is killed outright, no daemon outlives it."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


class Cluster:
    """`with Cluster() as cluster:` starts it and stops all that it started, jobs included, however the block ends."""

    def __init__(self) -> None:
        self.folder = Path()
        self.environment: dict[str, str] = {}
        self._daemons: list[tuple[str, subprocess.Popen[bytes]]] = []

    def __enter__(self) -> "Cluster":
        self.folder = Path(tempfile.mkdtemp(prefix="one-node-"))  # a short path: it holds sockets
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SBATCH_", "SUBMITIT_"))}
        self.environment = inherited | {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": _path()}
        try:
            self._configure()
            self._start()
        except BaseException as error:
            words = self._last_words() if isinstance(error, (ClusterError, subprocess.TimeoutExpired)) else ""
            self._stop()
            if words:
                raise ClusterError(f"{error}\n{words}") from error
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def call(self, *command: str | Path, seconds: float = 60, check: bool = True) -> str:
        """Standard output of a command that talks to this cluster. CalledProcessError, TimeoutExpired."""
        words = list(map(str, command))
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=seconds, check=False)
        if check and done.returncode:
            raise ClusterError(f"{shlex.join(words)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def states(self, job: str) -> dict[str, str]:
        """State and exit code of each task of a job for the accounting: {"12_3": "FAILED 1:0", ...}; a queued array is one entry."""
        lines = self.call("sacct", "--allocations", "--noheader", "--parsable2", f"--jobs={job}", "--format=JobID,State,ExitCode")
        return {name: f"{state.split()[0]} {code}" for name, state, code in (line.split("|") for line in lines.splitlines())}

    def queue(self, job: str) -> dict[str, str]:
        """State of each task that has not left the queue; empty for a job that is over."""
        lines = self.call("squeue", "--noheader", "--array", f"--jobs={job}", "--format=%i %T", check=False)
        return dict(line.split() for line in lines.splitlines())

    def wait_for(self, job: str, seconds: float = 240) -> dict[str, str]:
        """`states`, once every task has ended. ClusterError after `seconds`."""
        wait_until(f"the end of job {job}", lambda: not self.queue(job), seconds)
        unsettled = ("PENDING", "RUNNING", "REQUEUED", "COMPLETING", "RESIZING")

        def settled() -> bool:
            states = self.states(job).values()
            return bool(states) and not any(state.startswith(unsettled) for state in states)

        wait_until(f"the record of job {job}", settled, 30)  # the accounting hears of an end some seconds late
        return self.states(job)

    def release(self, task: str, seconds: float = 240) -> None:
        """Wait until a task is requeued for the first time, and end the two minutes for which SLURM holds it.

        ClusterError, with the task's own output and the daemons' last words, if it does not come back.
        """

        def shown() -> str:
            return self.call("scontrol", "--oneliner", "show", "job", task, check=False)

        def requeued() -> bool:  # pending again, or even running: cleaning up after the first start can outlast the hold
            return "Restarts=1" in shown() and "JobState=COMPLETING" not in shown()

        try:
            wait_until(f"{task} being requeued", requeued, seconds)
        except ClusterError as error:
            job = shown()
            output = job.partition(" StdOut=")[2].split(" ")[0]
            words = Path(output).read_text(errors="replace") if output and Path(output).is_file() else ""
            raise ClusterError(f"{error}\n{job}\n--- {output}\n{words}\n{self._last_words()}") from error
        time.sleep(2)  # slurmd refuses a second start in the second of the first one's end ("job credential revoked")
        self.call("scontrol", "update", f"jobid={task}", "starttime=now", check=False)  # refused if it has started by itself

    # ------------------------------------------------------------------------------------------------------------ starting

    def _configure(self) -> None:
        names = ("slurmctld", "slurmd", "slurmdbd", "mariadbd")
        self._ports = dict(zip(names, _free_ports(len(names)), strict=True))
        values = {"folder": self.folder, "host": _host(), "cpus": CPUS, "gpus": GPUS, **self._ports}
        self.folder.chmod(0o755)  # munged refuses a socket folder that others could write to, or not reach
        for name in ("state", "spool", "database", "devices"):
            (self.folder / name).mkdir()
        for index in range(GPUS):
            device = self.folder / "devices" / f"nvidia{index}"
            try:
                os.mknod(device, stat.S_IFCHR | 0o600, os.makedev(195, index))  # slurmd looks at it and never opens it
            except OSError:
                device.touch()
        for name, text, mode in (
            ("slurm.conf", SLURM_CONF.format(**values), 0o644),
            ("slurmdbd.conf", SLURMDBD_CONF.format(**values), 0o600),  # slurmdbd looks for it beside slurm.conf, and wants it private
            ("gres.conf", f"NodeName={_host()} Name=gpu File={self.folder}/devices/nvidia[0-{GPUS - 1}]\n", 0o644),
            ("cgroup.conf", "CgroupPlugin=cgroup/v1\n", 0o644),
            ("munge.key", os.urandom(512).hex(), 0o400),
        ):
            path = self.folder / name
            path.write_text(text)
            path.chmod(mode)

    def _start(self) -> None:
        folder, ports = self.folder, self._ports
        self._spawn(
            "munged", "--force", "--foreground", f"--key-file={folder}/munge.key", f"--socket={folder}/munge.socket",
            f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log", f"--seed-file={folder}/munged.seed",
        )  # fmt: skip
        self.call(
            "mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={folder}/database",
            "--auth-root-authentication-method=normal", "--skip-test-db", seconds=START_S,
        )  # fmt: skip
        self._spawn(
            "mariadbd", "--no-defaults", "--user=root", f"--datadir={folder}/database", f"--socket={folder}/database.socket",
            f"--pid-file={folder}/mariadbd.pid", "--bind-address=127.0.0.1", f"--port={ports['mariadbd']}", "--skip-name-resolve",
            "--innodb-buffer-pool-size=64M", "--innodb-lock-wait-timeout=900",
        )  # fmt: skip
        wait_until("munged", (folder / "munge.socket").is_socket)
        wait_until("mariadbd", lambda: self._sql("select 1"))
        self._sql("create database slurm_accounting; create user 'slurm'@'127.0.0.1' identified by 'slurm';")
        self._sql("grant all on slurm_accounting.* to 'slurm'@'127.0.0.1';")
        self._spawn("slurmdbd", "-D")
        wait_until("slurmdbd", lambda: self._listens("slurmdbd"))
        self._spawn("slurmctld", "-D")
        wait_until("slurmctld", lambda: "UP" in self.call("scontrol", "ping", check=False))
        self._spawn("slurmd", "-D", "-N", _host())
        wait_until("an idle node", lambda: "idle" in self.call("sinfo", "--noheader", "--format=%T", check=False).split())

    def _spawn(self, name: str, *options: str) -> None:
        command = [shutil.which(name, path=_path()) or name, *options]
        with (self.folder / f"{name}.out").open("wb") as output:  # its own file: a pipe would keep the caller waiting for the daemon's end
            daemon = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=self.environment, cwd=self.folder,
                start_new_session=True, preexec_fn=_die_with_parent,
            )  # fmt: skip
        self._daemons.append((name, daemon))

    def _sql(self, statement: str) -> bool:
        command = ["mariadb", "--no-defaults", f"--socket={self.folder}/database.socket", "--user=root", f"--execute={statement}"]
        return subprocess.run(command, capture_output=True, env=self.environment, timeout=START_S).returncode == 0

    def _listens(self, name: str) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._ports[name])) == 0

    def _last_words(self) -> str:
        files = [path for path in sorted(self.folder.iterdir()) if path.suffix in (".log", ".out")]
        texts = [(path, path.read_text(errors="replace")[-1500:]) for path in files]
        dead = [f"{name} ended with {daemon.returncode}" for name, daemon in self._daemons if daemon.poll() is not None]
        return "\n".join([*dead, *(f"--- {path.name}\n{text}" for path, text in texts if text)])

    # ------------------------------------------------------------------------------------------------------------ stopping

    def _stop(self) -> None:
        running = {name for name, daemon in self._daemons if daemon.poll() is None}
        if {"slurmctld", "slurmd"} <= running:
            self.call("scancel", "--full", "--signal=KILL", "--me", check=False)
            self.call("scancel", "--me", check=False)
            with contextlib.suppress(ClusterError):  # what is left of them is killed below
                wait_until("the jobs' end", lambda: not self.call("squeue", "--noheader", "--me", check=False).strip(), 20)
        for _, daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(15)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        for pid in self.survivors():
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def survivors(self) -> list[int]:
        """Processes of this cluster that are alive: those with its slurm.conf in their environment."""
        mark = f"SLURM_CONF={self.folder}/slurm.conf".encode()
        found = []
        for environ in Path("/proc").glob("[0-9]*/environ"):
            try:
                entries = environ.read_bytes().split(b"\0")
            except OSError:
                continue  # gone, or not ours
            if mark in entries and int(environ.parent.name) != os.getpid():
                found.append(int(environ.parent.name))
        return found


def main(command: Sequence[str]) -> int:
    reason = missing()
    if reason is not None or not command:
        print(reason or __doc__, file=sys.stderr)
        return 2
    with Cluster() as cluster:
        print(f"SLURM_CONF={cluster.folder}/slurm.conf", file=sys.stderr)
        return subprocess.call(list(command), env=cluster.environment)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
