"""The inside of `sandbox`: shuts itself in, becomes a bare interpreter, runs the program of its standard input.

Started as a script of its own with FOLDER ISOLATED SECONDS MEMORY FILE_BYTES FILES PROCESSES; imports only the
standard library. Needs Linux 5.12 for `mount_setattr`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import signal
import struct
import sys

NEW_MOUNTS, NEW_IPC, NEW_USER, NEW_PIDS, NEW_NET = 0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
NO_SUID_DEV, RECURSIVE_PRIVATE = 0x2 | 0x4, 0x4000 | 0x40000
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, READ_ONLY = 442, -100, 0x8000, 0x1
DEATH_SIGNAL, NO_NEW_PRIVILEGES, SECCOMP, FILTER = 1, 38, 22, 2
ARCHITECTURES = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
"""Of each machine its number for audits and that of the system call `socket`."""
IO_URING_SETUP = 425
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050001, 0x80000000

# The word is said only after the program's last line; sys.exit and os._exit come before it.
RUNNER = """
import os, sys
word, source = sys.stdin.buffer.read().split(b"\\n", 1)
answer = os.dup(1)
for number in (0, 1, 2):
    os.dup2(os.open(os.devnull, os.O_RDWR), number)
os.closerange(answer + 1, 64)
def run(say=os.write, leave=os._exit, word=word):
    exec(compile(source, "program", "exec"), {"__name__": "program"})
    say(answer, word)
    leave(0)
del word
run()
"""

libc = ctypes.CDLL(None, use_errno=True)


def main(folder: str, isolated: bool, seconds: float, numbers: list[int]) -> None:
    # It stays with this process: the first one of a namespace would not be ended by its alarm.
    signal.setitimer(signal.ITIMER_REAL, seconds)
    if isolated:
        enter_namespaces()
        if child := os.fork():
            leave_with(child)
        check(libc.prctl(DEATH_SIGNAL, signal.SIGKILL))
        limit_processes()
        shut_files(folder)
        refuse_sockets()
    set_limits(seconds, *numbers)
    os.chdir(folder)
    # A new program image has none of the capabilities that the namespaces gave: its user there is not root.
    os.execve(sys.executable, [sys.executable, "-I", "-S", "-B", "-c", RUNNER], {})


def check(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def enter_namespaces() -> None:
    """Own users, mounts, processes, network (without even a loopback) and shared memory."""
    user, group = os.geteuid(), os.getegid()
    check(libc.unshare(NEW_USER | NEW_MOUNTS | NEW_PIDS | NEW_NET | NEW_IPC))
    write("/proc/self/setgroups", "deny")
    write("/proc/self/uid_map", f"1000 {user} 1")
    write("/proc/self/gid_map", f"1000 {group} 1")


def leave_with(child: int) -> None:
    """Wait for the first process inside and end as it did; without it the kernel ends all others."""
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os._exit(code if code >= 0 else 128 - code)


def limit_processes() -> None:
    """No further namespaces inside; root's processes can be limited from Linux 6.14, and 301 is the least."""
    write("/proc/sys/user/max_user_namespaces", "0")
    with contextlib.suppress(OSError):  # The time limit ends them all.
        write("/proc/sys/kernel/pid_max", "301")


def shut_files(folder: str) -> None:
    """Everything is read-only but the folder, which is in memory; /proc, with its view of others, is empty."""
    check(libc.mount(None, b"/", None, RECURSIVE_PRIVATE, None))
    attributes = struct.pack("4Q", READ_ONLY, 0, 0, 0)
    arguments = ctypes.c_long(MOUNT_SETATTR), AT_FDCWD, b"/", AT_RECURSIVE, attributes, ctypes.c_size_t(32)
    check(libc.syscall(*arguments))
    for place, size in ((folder, b"size=32m,nr_inodes=1000"), ("/proc", b"size=4k,nr_inodes=2")):
        check(libc.mount(b"tmpfs", place.encode(), b"tmpfs", NO_SUID_DEV, size))


def refuse_sockets() -> None:
    """A filter of system calls: `socket` and io_uring, which opens sockets too, fail; other call tables kill."""
    audit, socket = ARCHITECTURES[platform.machine()]
    load, equal, at_least, answer = 0x20, 0x15, 0x35, 0x06
    steps = [
        (load, 0, 0, 4),
        (equal, 1, 0, audit),
        (answer, 0, 0, KILL),
        (load, 0, 0, 0),
        (at_least, 2, 0, 0x40000000),
        (equal, 1, 0, socket),
        (equal, 0, 1, IO_URING_SETUP),
        (answer, 0, 0, REFUSE),
        (answer, 0, 0, ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("HP", len(steps), ctypes.addressof(code)))
    check(libc.prctl(NO_NEW_PRIVILEGES, ctypes.c_ulong(1), 0, 0, 0))
    check(libc.prctl(SECCOMP, ctypes.c_ulong(FILTER), program, 0, 0))


def set_limits(seconds: float, memory: int, file_bytes: int, files: int, processes: int) -> None:
    cpu = int(seconds) + 1
    for name, value in (
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NOFILE, files),
        (resource.RLIMIT_NPROC, processes),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(name, (value, value))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] == "1", float(sys.argv[3]), [int(text) for text in sys.argv[4:]])
