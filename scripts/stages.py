"""Where the processor time of some processes goes, by perf: samples of their stacks, each put to one stage."""
import re, signal, subprocess
from collections import Counter

from measuring import fail, run

# In this order: the first whose pattern is found wins. `kernel` looks at all the kernel's functions in a sample, `user` at the one
# that ran, if that was none of the kernel's.
STAGES = [
    ("in its name: the far side of a link, with switch, node, rules and pod", "kernel", r"netif_receive_skb|process_backlog|br_handle_frame|ip_rcv|napi_gro"),
    ("in its name: the next gateway's XDP and AF_XDP receive", "kernel", r"xdp_do_redirect|xsk_rcv|xsk_generic_rcv|__xsk_map|veth_xdp|veth_poll|bpf_prog"),
    ("AF_XDP send: the packet is copied", "kernel", r"xsk_build_skb|sock_alloc_send_pskb|skb_store_bits"),
    ("AF_XDP send: the link takes it", "kernel", r"direct_xmit|veth_xmit"),
    ("AF_XDP send: the rest", "kernel", r"xsk_(sendmsg|generic_xmit)|__xsk|xsk_"),
    ("sleeping, waking, waiting for packets", "kernel", r"sys_poll|sys_epoll|sys_ppoll|futex|schedule|sys_write.*eventfd|eventfd"),
    ("packets from and to NFQUEUE, netlink", "kernel", r"netlink|nfnetlink|nfqnl|sys_recvfrom|sys_recvm|sys_sendto|sys_sendm"),
    ("the rest of the kernel", "kernel", r"entry_SYSCALL_64|asm_\w+|do_syscall_64"),
    ("AES-GCM", "user", r"gcm|aes|ghash|AES|GCM"),
    ("SHA-256, HMAC", "user", r"sha2|sha256|hmac|compress256"),
    ("curves", "user", r"25519|curve|Scalar|fiat"),
    ("copies and zeroing", "user", r"mem(cpy|move|set|cmp)"),
    ("allocation", "user", r"malloc|free|realloc|calloc|_int_|alloc"),
    ("clock", "user", r"clock_gettime|vdso|\[vdso\]|Clock"),
    ("parse, flow, judge, seal, rewrite (gateway core)", "user", r"gateway_core"),
    ("handshake and policy", "user", r"handshake|landbridge_policy|^policy|identity"),
    ("packet formats", "user", r"landbridge_wire|^wire|<wire"),
    ("rings and queue loop", "user", r"gateway_xdp|landbridge_gateway|queue"),
]
REST = "other"
# The most common functions of user space that are named, and the smallest share of one, in per cent.
NAMED, SMALLEST = 12, 1.0


def table(processes, work, data):
    """Runs `work` while `processes` are sampled; the text to print."""
    pids = ",".join(process.name for process in processes)
    recorder = subprocess.Popen(["perf", "record", "-q", "-e", "cpu-clock", "-F", "1999", "-g", "-p", pids, "-o", str(data)],
                                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        work()
    finally:
        recorder.send_signal(signal.SIGINT)
        complaint = recorder.communicate()[1]
    samples = read(run("perf", "script", "--no-inline", "-F", "comm,ip,sym", "-i", data))
    if not samples:
        fail(f"perf has no samples: {complaint}")
    by_stage, by_leaf = Counter(), Counter()
    for stack in samples:
        stage = stage_of(stack)
        by_stage[stage] += 1
        by_leaf[stack[0][1]] += 1
    share = lambda count: 100 * count / len(samples)
    lines = [f"{share(count):6.1f} %  {stage}" for stage, count in by_stage.most_common()]
    lines.append(f"  the functions that ran most, of {len(samples)} samples:")
    lines += [f"{share(count):8.1f} %  {leaf[:100]}" for leaf, count in by_leaf.most_common(NAMED) if share(count) >= SMALLEST]
    return "\n".join(lines)


def stage_of(stack):
    kernel = " ".join(name for address, name in stack if address.startswith("ffff"))
    for stage, where, pattern in STAGES:
        text = kernel if where == "kernel" else "" if kernel else stack[0][1]
        if re.search(pattern, text):
            return stage
    return REST


def read(text):
    """Stacks of addresses and names, the function that ran first."""
    samples, stack = [], []
    for line in text.splitlines() + [""]:
        if not line.strip():
            if stack:
                samples.append(stack)
            stack = []
        elif line[0].isspace():
            # ADDRESS FUNCTION
            address, _, name = line.strip().partition(" ")
            stack.append((address, name))
    return samples
