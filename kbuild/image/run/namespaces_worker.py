"""Runs a program in Linux namespaces with a read-only root; started by sandbox.py, imports nothing of kbuild.

``namespaces_worker.py ARGS INFO`` reads its order as JSON from file descriptor ARGS and writes ``{"child-pid": N}``,
as bubblewrap does, to INFO; with the one argument ``probe`` it only tries. It ends as its program ends.
Calls: unshare(2), mount(2), pivot_root(2), user_namespaces(7), pid_namespaces(7).
"""

# ruff: noqa: PTH102, PTH113, PTH114, PTH123, PTH211, S108, S606

import sys

sys.path.pop(0)  # this file's own directory, whose modules would hide the standard library's

import ctypes
import json
import os

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID = 0x20000, 0x8000000, 0x10000000, 0x20000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = (
    1, 2, 4, 8, 0x20, 0x1000, 0x4000, 0x40000,
)  # fmt: skip
MS_NOATIME, MS_NODIRATIME, MS_RELATIME, MNT_DETACH = 0x400, 0x800, 0x200000, 2
# What an unprivileged remount must keep of a mount: statvfs(3)'s flag and mount(2)'s.
LOCKED = ((2, MS_NOSUID), (4, MS_NODEV), (8, MS_NOEXEC), (1024, MS_NOATIME), (2048, MS_NODIRATIME), (4096, MS_RELATIME))
PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, SIGKILL = 1, 24, 38, 9
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
FAILED = 71  # EX_OSERR of sysexits.h

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    check(libc.mount(source.encode(), target.encode(), kind.encode(), flags, data.encode()), f"mount {target}")


def separate(uid: int, gid: int) -> bool:
    """Enter new namespaces; True if that took a user namespace, in which ``uid`` stands for the caller."""
    kinds = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC
    if os.geteuid() == 0 and libc.unshare(kinds) == 0:
        return False
    outer_uid, outer_gid = os.geteuid(), os.getegid()
    check(libc.unshare(kinds | CLONE_NEWUSER), "unshare")
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {outer_uid} 1"),
        ("gid_map", f"{gid} {outer_gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w", encoding="utf-8") as file:
            file.write(text)
    return True


def enter(root: str) -> None:
    """Make ``root`` the read-only root of this mount namespace, with its own /proc, /dev and /tmp."""
    mount("none", "/", "", MS_REC | MS_PRIVATE)
    mount(root, root, "", MS_BIND)
    held = os.statvfs(root).f_flag
    kept = sum(flag for bit, flag in LOCKED if held & bit)
    mount("none", root, "", MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | kept)
    try:
        mount("proc", f"{root}/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    except OSError:  # a container whose own /proc is partly hidden may not mount a new one
        mount("/proc", f"{root}/proc", "", MS_BIND | MS_REC)
    mount("tmpfs", f"{root}/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
    dev = f"{root}/dev"
    mount("tmpfs", dev, "tmpfs", MS_NOSUID, "mode=755")
    for name in DEVICES:
        open(f"{dev}/{name}", "wb").close()
        mount(f"/dev/{name}", f"{dev}/{name}", "", MS_BIND)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.symlink(f"/proc/self/fd/{number}", f"{dev}/{name}")
    os.symlink("/proc/self/fd", f"{dev}/fd")
    os.mkdir(f"{dev}/shm")
    mount("tmpfs", f"{dev}/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
    for name in ("etc/resolv.conf", "etc/hosts"):
        if os.path.isfile(f"/{name}") and os.path.isfile(f"{root}/{name}") and not os.path.islink(f"{root}/{name}"):
            mount(f"/{name}", f"{root}/{name}", "", MS_BIND)
    os.chdir(root)
    check(libc.syscall(PIVOT_ROOT[os.uname().machine], b".", b"."), "pivot_root")
    check(libc.umount2(b".", MNT_DETACH), "umount")


def become(uid: int, gid: int, mapped: bool) -> None:
    capability = 0
    while libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0:  # fails after the last one that the kernel has
        capability += 1
    if not mapped:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
    # After the change of user, which clears it: the program must not outlive whoever waits for it.
    check(libc.prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0), "prctl")


def main() -> int:
    if sys.argv[1] == "probe":
        separate(65532, 65532)
        mount("none", "/", "", MS_REC | MS_PRIVATE)
        return 0
    orders, info = int(sys.argv[1]), int(sys.argv[2])
    with open(orders, encoding="utf-8") as file:
        order = json.load(file)
    os.set_inheritable(info, False)
    check(libc.prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0), "prctl")
    os.umask(0o022)
    mapped = separate(order["uid"], order["gid"])
    child = os.fork()
    if child == 0:
        os.close(info)
        enter(order["root"])
        os.chdir(order["cwd"])
        become(order["uid"], order["gid"], mapped)
        try:
            os.execvpe(order["argv"][0], order["argv"], order["env"])
        except OSError as error:
            raise OSError(error.errno, f"{order['argv'][0]}: {error.strerror}") from error
    with open(info, "w", encoding="utf-8") as file:
        json.dump({"child-pid": child}, file)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    try:
        code = main()
    except OSError as error:
        print(f"kbuild: the sandbox cannot be made: {error.strerror or error}", file=sys.stderr, flush=True)
        os._exit(FAILED)
    os._exit(code if code >= 0 else 128 - code)
