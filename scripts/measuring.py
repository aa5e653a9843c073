"""What the measurements of a whole demo share: programs and their processes, processor time, memory, a host that drops."""
import os, shutil, signal, subprocess, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = Path(ROOT, os.environ.get("CARGO_TARGET_DIR") or "target")
TICKS = os.sysconf("SC_CLK_TCK")


def fail(message):
    sys.exit(f"{Path(sys.argv[0]).name}: {message}")


def require(*programs):
    """Root, and these programs."""
    if os.geteuid() != 0:
        fail("needs root, because it makes network namespaces")
    if missing := [p for p in programs if not shutil.which(p)]:
        fail(f"needs {', '.join(missing)}")


def end_cleanly():
    """A signal ends this program as an error does: what was made is removed."""
    # In the background a shell lets SIGINT be ignored.
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, lambda *_: fail("interrupted"))


def undisturbed():
    """From now on signals are ignored: what was made is being removed."""
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.SIG_IGN)


def run(*command, **more):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **more)
    if done.returncode:
        fail(f"{' '.join(map(str, command))} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def process_of(state):
    """The gateway or agent of a state directory, found by its configuration file."""
    wanted = f"{state}/config.yaml".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if wanted in words:
            return entry
    fail(f"no process runs with {wanted.decode()}")


def memory(process, which="VmRSS"):
    """Resident memory in KiB; with VmHWM the most that it ever was."""
    for line in (process / "status").read_text().splitlines():
        if line.startswith(f"{which}:"):
            return int(line.split()[1])
    fail(f"{process} says nothing of its memory")


def seconds_of(process):
    """Processor time that a process has used."""
    words = (process / "stat").read_text().rsplit(")", 1)[1].split()
    return (int(words[11]) + int(words[12])) / TICKS


def busy_seconds():
    """Processor time that the whole machine has used: all but idle, waiting for disks, and stolen."""
    user, nice, system, _, _, irq, softirq = map(int, Path("/proc/stat").read_text().split(None, 8)[1:8])
    return (user + nice + system + irq + softirq) / TICKS


def kernel_threads():
    """Those that take packets off interfaces when nobody else does."""
    names = ((entry, entry / "comm") for entry in Path("/proc").glob("[0-9]*"))
    return [entry for entry, name in names if name.exists() and name.read_text().startswith("ksoftirqd/")]


def compile_xdp(folder, source):
    """An XDP program from the text of its C function `xdp_md -> action`."""
    text, program = folder / "drop.c", folder / "drop.o"
    text.write_text(source)
    run("clang", "-O2", "-target", "bpf", "-c", text, "-o", program)
    return program


def attach_xdp(netns, interface, program):
    # `ip netns exec` would hide the file systems below /sys.
    run("nsenter", f"--net=/run/netns/{netns}", "ip", "link", "set", "dev", interface, "xdp", "obj", program, "sec", "xdp")


def detach_xdp(netns, interface):
    run("ip", "-n", netns, "link", "set", "dev", interface, "xdp", "off")


def median(values):
    return sorted(values)[len(values) // 2]
