"""Run as a script, isolated: start the clean process where only what the image will have can be read.

Argument: a JSON file with ``links`` ({path: target}), ``binds`` (paths that are there, in this order), ``covered``
({folder: names in it that are there}), ``folders`` and ``files`` ({path: text}) to make, ``writable`` (a folder that
can be written to),
``root`` (an empty folder), ``cwd``, ``argv``, ``env``, ``user`` (a uid), ``release`` (what is said of the kernel) and
``network`` (whether this machine's is
reached, else there is a loopback of its own). Builds a root of them in namespaces of its own and runs ``argv`` there as
that user; ends as that ends, or with 71 and one line where the kernel allows no namespaces. Calls: unshare(2),
mount(2), pivot_root(2), user_namespaces(7), netdevice(7). Imports nothing of kbuild.
"""

# ruff: noqa: S108, PTH102, PTH103, PTH112, PTH120, PTH211

import contextlib
import ctypes
import fcntl
import json
import os
import re
import socket
import struct
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID = 0x20000, 0x10000000, 0x20000000
CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWCGROUP = 0x4000000, 0x8000000, 0x40000000, 0x2000000
SIOCSIFFLAGS, IFF_UP, IFF_RUNNING = 0x8914, 1, 0x40
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = (
    1, 2, 4, 8, 0x20, 0x1000, 0x4000, 0x40000,
)  # fmt: skip
MS_NOATIME, MS_NODIRATIME, MS_RELATIME, MNT_DETACH = 0x400, 0x800, 0x200000, 2
# What an unprivileged remount must keep of a mount: statvfs(3)'s flag and mount(2)'s.
LOCKED = ((2, MS_NOSUID), (4, MS_NODEV), (8, MS_NOEXEC), (1024, MS_NOATIME), (2048, MS_NODIRATIME), (4096, MS_RELATIME))
PR_SET_PDEATHSIG, SIGKILL = 1, 9
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
DEVICES = ("null", "zero", "full", "random", "urandom")
HOSTNAME = "image"
NOT_HERE = 71  # EX_OSERR of sysexits.h

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    """Raise OSError with what the kernel said."""
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """See mount(2)."""
    check(libc.mount(os.fsencode(source), os.fsencode(target), kind.encode(), flags, data.encode()), f"mount {target}")


def separate(more: int) -> None:
    """Enter new namespaces, a user namespace too where the others take one."""
    wanted = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | more
    if os.geteuid() == 0 and libc.unshare(wanted) == 0:
        return
    become(os.geteuid(), wanted)


def become(user: int, more: int = 0) -> None:
    """Enter a new user namespace in which this process's user has that uid, and ``more`` namespaces."""
    uid, gid = os.geteuid(), os.getegid()
    check(libc.unshare(CLONE_NEWUSER | more), "unshare")
    group = user if user != uid else gid
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {uid} 1"), ("gid_map", f"{group} {gid} 1")):
        Path(f"/proc/self/{name}").write_text(text, encoding="utf-8")


def start_loopback() -> None:
    """A new network namespace has one, which is down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", IFF_UP | IFF_RUNNING))


def show(path: str, root: str, how: int = MS_BIND | MS_REC | MS_RDONLY) -> None:
    """Let ``path`` be there below ``root``, as a bind mount of these flags."""
    target = root + path
    if os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
    elif not os.path.lexists(target):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        Path(target).touch()
    mount(path, target, "", how & ~MS_RDONLY)
    if not how & MS_RDONLY:
        return
    held = os.statvfs(target).f_flag
    kept = sum(flag for bit, flag in LOCKED if held & bit)
    mount("none", target, "", MS_REMOUNT | MS_BIND | MS_RDONLY | kept)


def build(order: dict[str, object], root: str) -> None:
    """Make the root of what the order names, with its own /proc, /dev and /tmp, and enter it."""
    mount("none", "/", "", MS_REC | MS_PRIVATE)
    mount("tmpfs", root, "tmpfs", MS_NOSUID, "mode=755")
    os.mkdir(f"{root}/tmp")
    mount("tmpfs", f"{root}/tmp", "tmpfs", MS_NOSUID, "mode=1777")
    for link, aim in dict(order["links"]).items():  # type: ignore[call-overload]
        os.makedirs(os.path.dirname(root + link), exist_ok=True)
        os.symlink(aim, root + link)
    # Before what is shown: a folder for temporary files may lie in it.
    os.makedirs(f"{root}/dev/shm", exist_ok=True)
    mount("tmpfs", f"{root}/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
    for path in list(order["binds"]):  # type: ignore[call-overload]
        show(path, root)
    for folder, names in dict(order["covered"]).items():  # type: ignore[call-overload]
        # It may lie in what is not shown, as Debian's dist-packages below /usr.
        os.makedirs(root + folder, exist_ok=True)
        if not os.path.realpath(root + folder).startswith(f"{os.path.realpath(root)}/"):
            raise OSError(0, f"{folder} is a link to another place")
        mount("tmpfs", root + folder, "tmpfs", MS_NOSUID, "mode=755")
        for name in names:
            path = Path(folder, name)
            if path.is_symlink() and not path.readlink().is_absolute():
                os.symlink(path.readlink(), f"{root}{path}")
            else:
                show(str(path), root)
        mount("none", root + folder, "", MS_REMOUNT | MS_RDONLY | MS_NOSUID, "mode=755")
    for path in list(order["folders"]):  # type: ignore[call-overload]
        os.makedirs(root + path, exist_ok=True)
    for path, text in dict(order["files"]).items():  # type: ignore[call-overload]
        os.makedirs(os.path.dirname(root + path), exist_ok=True)
        Path(root + path).write_text(text, encoding="utf-8")
    show(str(order["writable"]), root, MS_BIND)
    for name in DEVICES:
        Path(f"{root}/dev/{name}").touch()
        mount(f"/dev/{name}", f"{root}/dev/{name}", "", MS_BIND)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.symlink(f"/proc/self/fd/{number}", f"{root}/dev/{name}")
    os.symlink("/proc/self/fd", f"{root}/dev/fd")
    os.mkdir(f"{root}/proc")
    try:
        mount("proc", f"{root}/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    except OSError:  # a container whose own /proc is partly hidden may not mount a new one
        mount("/proc", f"{root}/proc", "", MS_BIND | MS_REC)
    os.mkdir(f"{root}/mnt")
    tell_of_another_machine(f"{root}/proc", f"{root}/mnt", str(order["release"]))
    os.chdir(root)
    check(libc.syscall(PIVOT_ROOT[os.uname().machine], b".", b"."), "pivot_root")
    check(libc.umount2(b".", MNT_DETACH), "umount")
    # Nothing is to be written but below /tmp.
    mount("none", "/", "", MS_REMOUNT | MS_RDONLY | MS_NOSUID, "mode=755")


def tell_of_another_machine(proc: str, spare: str, release: str) -> None:
    """Put other texts before those files of proc(5) that tell of the machine, and not of the process.

    As many processors, and as much memory, as no model of this machine can count on.
    """
    mount("tmpfs", spare, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    texts = {**dict.fromkeys(EMPTY, "\n"), "version": f"Linux version {release}\n"}
    texts["sys/kernel/osrelease"] = f"{release}\n"
    for number, name in enumerate([*ANOTHER, *texts]):
        file, made = Path(proc, name), Path(spare, str(number))
        with contextlib.suppress(OSError):  # some kernels have it, some containers hide it
            text = texts[name] if name in texts else ANOTHER[name](file.read_text(encoding="utf-8"))
            made.write_text(text, encoding="utf-8")
            mount(str(made), str(file), "", MS_BIND)
    check(libc.umount2(os.fsencode(spare), MNT_DETACH), "umount")  # the files stay where they are mounted


def keep_processors(text: str) -> str:
    """The first processor's paragraph of /proc/cpuinfo, by another name."""
    first = text.split("\n\n", 1)[0] + "\n\n"
    renamed = re.sub(r"(?m)^((?:model name|Hardware|Serial|microcode|cpu MHz)\s*:).*$", r"\1 0", first)
    return re.sub(r"(?m)^((?:siblings|cpu cores)\s*:).*$", r"\1 1", renamed)


def halve(text: str) -> str:
    """Half of every amount of /proc/meminfo."""
    return re.sub(r"(\d+) kB", lambda found: f"{int(found[1]) // 2} kB", text)


def lower(text: str) -> str:
    """Three quarters of every number of a text."""
    return re.sub(r"\d+", lambda found: str(int(found[0]) * 3 // 4), text)


ANOTHER: dict[str, Callable[[str], str]] = {
    "cpuinfo": keep_processors,
    "stat": lambda text: "".join(re.findall(r"(?m)^(?!cpu[1-9]).*\n", text)),
    "meminfo": halve,
    "loadavg": lambda _: "0.00 0.00 0.00 1/1 1\n",
    "uptime": lambda _: "1.00 1.00\n",
    "sys/kernel/version": lambda _: "#1 SMP\n",
    **dict.fromkeys(("sys/kernel/pid_max", "sys/kernel/threads-max", "sys/fs/file-max", "sys/fs/file-nr"), lower),
    "sys/kernel/random/boot_id": lambda _: f"{uuid.uuid4()}\n",
}
EMPTY = (
    "cmdline", "partitions", "modules", "diskstats", "swaps", "devices", "interrupts", "iomem", "ioports", "softirqs",
    "zoneinfo", "vmstat", "buddyinfo", "kallsyms", "mdstat", "misc", "bootconfig",
)  # fmt: skip


def main() -> int:
    """Build the root, run the program in it, and end as it ends."""
    order = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    check(libc.prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0), "prctl")
    with contextlib.suppress(OSError):  # only root may
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    reader, writer = os.pipe()
    separate(0 if order["network"] else CLONE_NEWNET)
    socket.sethostname(HOSTNAME)
    if not order["network"]:
        start_loopback()
    libc.unshare(CLONE_NEWCGROUP)  # kernels before 4.6 have none
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            check(libc.prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0), "prctl")
            build(order, order["root"])
            os.chdir(order["cwd"])
            with contextlib.suppress(PermissionError):  # another user namespace has none to leave
                os.setgroups([])
            # Where user namespaces are not allowed, root may still have come so far.
            with contextlib.suppress(PermissionError):
                become(order["user"])
            # Closed by execve: what is written after that is the program's own affair.
            os.set_inheritable(writer, False)
            os.execve(order["argv"][0], order["argv"], order["env"])  # noqa: S606
        except (OSError, KeyError) as error:
            os.write(writer, str(error).encode())
            os._exit(NOT_HERE)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        refused = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if refused:
        raise OSError(0, refused.decode(errors="replace"))
    return status


if __name__ == "__main__":
    try:
        code = main()
    except (OSError, AttributeError) as error:
        print(f"no namespaces: {error}", file=sys.stderr, flush=True)
        os._exit(NOT_HERE)
    os._exit(code if code >= 0 else 128 - code)
