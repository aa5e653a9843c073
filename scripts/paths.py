"""A demo of its own, and two more ways between its nodes: routed by the same kernels, and through wireguard-go."""
import json, os, socket, subprocess, time
from dataclasses import dataclass, field
from pathlib import Path

from measuring import ROOT, fail, memory, process_of, run

ECHO, BULK = 8080, 8081
WIREGUARD_PORT = 51820
CLUSTERS = ("east", "west")
OTHER = {"east": "west", "west": "east"}
# Outside every pod range.
ADDRESSES = {"routed": {"east": "198.18.1.10", "west": "198.18.2.10"}, "wireguard": {"east": "198.18.3.10", "west": "198.18.4.10"}}

FEDERATION = """
apiVersion: landbridge.io/v1alpha1
kind: Federation
metadata: {name: beside}
spec: {clusters: [{name: east}, {name: west}]}
"""
POD = """
apiVersion: v1
kind: Pod
metadata: {name: NAME, labels: {app: NAME}, annotations: {landbridge.io/command: sleep infinity}}
spec: {nodeName: node1, containers: [{name: NAME, image: none, ports: [{containerPort: 8080}]}]}
status: {podIP: ADDRESS}
---
"""
PEER = """
---
apiVersion: landbridge.io/v1alpha1
kind: FederationPeer
metadata: {name: OTHER}
spec: {cluster: OTHER, endpoints: ["192.0.2.NUMBER:4433"]}
"""
EAST = POD.replace("NAME", "client").replace("ADDRESS", "10.1.1.10") + """
apiVersion: landbridge.io/v1alpha1
kind: FederationPolicy
metadata: {name: to-server}
spec: {egress: [{action: Allow, to: [{clusters: [west], namespaces: [default], podSelector: {matchLabels: {app: server}}}]}]}
""" + PEER.replace("OTHER", "west").replace("NUMBER", "2")
WEST = POD.replace("NAME", "server").replace("ADDRESS", "10.2.1.10") + """
apiVersion: landbridge.io/v1alpha1
kind: FederationPolicy
metadata: {name: from-client}
spec:
  subject: {podSelector: {matchLabels: {app: server}}}
  ingress: [{action: Allow, from: [{clusters: [east], namespaces: [default], podSelector: {matchLabels: {app: client}}}], ports: [{port: 8080}, {port: 8081}]}]
""" + PEER.replace("OTHER", "east").replace("NUMBER", "1")


@dataclass
class Way:
    """A way from a client in east to a server in west."""
    name: str
    client: str
    server: str
    address: str
    # What does the work of the gateways, and what else works for it, as entries of /proc.
    processes: list = field(default_factory=list)
    helpers: list = field(default_factory=list)
    # Resident memory of the larger of the processes before any load, in KiB.
    rest: int = 0


class Paths:
    """All of it. `up` makes it and `down` removes what there is of it, however far `up` came."""

    def __init__(self, name, programs, wireguard, folder):
        self.name, self.programs, self.wireguard = name, programs, wireguard
        self.folder, self.state = folder, Path("/run", name)
        self.children, self.sockets, self.made = [], [], False

    def up(self):
        write_folder(self.folder / "config")
        self.made = True
        run(self.programs / "landbridge", "demo", "up", "--prefix", self.name, "--state", self.state, "--config", self.folder / "config")
        gateways = [process_of(self.state / "gateways" / f"{c}-gw1") for c in CLUSTERS]
        agents = [process_of(self.state / "agents" / f"{c}-node1") for c in CLUSTERS]
        self.gateways = Way("gateways", f"{self.name}-east-client", f"{self.name}-west-server", "10.2.1.10", gateways, agents)
        self.gateways.rest = max(map(memory, gateways))
        self.merge()
        # First of all: what the others have to be like.
        self.serve(self.gateways)
        told = self.transfer(self.gateways, 1)
        # The number is without the timestamps (12) that every segment carries; 40 are the headers.
        self.segment, self.mtu = told["segment"], told["segment"] + 52
        self.routed = self.add_pair("routed")
        self.tunnel = self.add_pair("wireguard")
        self.tunnel.name = "wireguard-go"
        self.tunnel.processes = self.start_wireguard()
        self.tunnel.rest = max(map(memory, self.tunnel.processes))
        for path in (self.routed, self.tunnel):
            self.serve(path)
            if self.transfer(path, 1)["segment"] != self.segment:
                fail(f"the segments of {path.name} do not have {self.segment} bytes")
        return [self.gateways, self.tunnel, self.routed]

    def merge(self):
        """Lets the kernels of the gateway machines merge segments, as those with a NIC do and those of the demo need not. Both
        other ways live from it; what the gateway takes it takes before."""
        for cluster in CLUSTERS:
            for interface in ("lan0", "wan0"):
                run("nsenter", f"--net=/run/netns/{self.name}-{cluster}-gw1", "ethtool", "-K", interface, "gro", "on")

    def down(self):
        for child in self.children:
            child.terminate()
        for child in self.children:
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        for path in self.sockets:
            path.unlink(missing_ok=True)
        for kind in ADDRESSES:
            for cluster in CLUSTERS:
                subprocess.run(["ip", "netns", "delete", f"{self.name}-{cluster}-{kind}"], stderr=subprocess.DEVNULL)
        if self.made:
            done = subprocess.run([self.programs / "landbridge", "demo", "down", "--state", self.state], capture_output=True, text=True)
            if done.returncode and self.state.exists():
                print(done.stdout, done.stderr)

    def start(self, netns, *command, **more):
        words = ["ip", "netns", "exec", netns, *map(str, command)]
        child = subprocess.Popen(words, stdout=subprocess.DEVNULL, **more)
        self.children.append(child)
        return child

    def serve(self, path):
        """Both servers of a path, until `down`."""
        self.start(path.server, self.programs / "landbridge-loadtest", "server", "--listen", f"0.0.0.0:{ECHO}", stderr=subprocess.DEVNULL)
        self.start(path.server, "iperf3", "-s", "-p", BULK, stderr=subprocess.DEVNULL)
        for port in (ECHO, BULK):
            until(f"port {port} of {path.server} is open",
                  lambda port=port: run("ip", "netns", "exec", path.server, "ss", "-Hltn", f"sport = :{port}").strip())

    def transfer(self, path, seconds):
        """One TCP connection by iperf3."""
        told = json.loads(run("ip", "netns", "exec", path.client, "iperf3", "-J", "-c", path.address, "-p", BULK, "-t", seconds))
        end = told["end"]
        return {"rate": end["sum_received"]["bits_per_second"], "bytes": end["sum_received"]["bytes"],
                "again": end["sum_sent"].get("retransmits", 0), "segment": told["start"].get("tcp_mss_default")}

    def add_pair(self, kind):
        """A namespace behind node1 of each cluster, linked as pods are; no agent knows it."""
        addresses = ADDRESSES[kind]
        for number, cluster in enumerate(CLUSTERS, 1):
            own, far = f"{self.name}-{cluster}-{kind}", addresses[OTHER[cluster]] + "/32"
            node, gateway, address = f"{self.name}-{cluster}-node1", f"{self.name}-{cluster}-gw1", addresses[cluster] + "/32"
            run("ip", "netns", "add", own)
            run("ip", "-n", node, "link", "add", kind, "type", "veth", "peer", "name", "eth0", "netns", own)
            run("ip", "-n", node, "address", "add", "169.254.1.1/32", "dev", kind)
            run("ip", "-n", node, "link", "set", kind, "up")
            run("ip", "-n", node, "route", "add", address, "dev", kind)
            run("ip", "-n", own, "address", "add", address, "dev", "eth0")
            run("ip", "-n", own, "link", "set", "eth0", "up")
            run("ip", "-n", own, "route", "add", "169.254.1.1/32", "dev", "eth0", "scope", "link")
            # Segments as long as those of a pod, whose agent and gateway leave room for the tunnel.
            run("ip", "-n", own, "route", "add", "default", "via", "169.254.1.1", "mtu", self.mtu)
            run("ip", "-n", node, "route", "add", far, "via", f"172.16.{number}.1")
            run("ip", "-n", gateway, "route", "add", address, "via", f"172.16.{number}.11")
            if kind == "routed":
                run("ip", "-n", gateway, "route", "add", far, "via", f"192.0.2.{3 - number}")
        return Way(kind, f"{self.name}-east-{kind}", f"{self.name}-west-{kind}", addresses["west"])

    def start_wireguard(self):
        """wireguard-go beside each gateway's program, in the same namespace and over the same link."""
        # Its control socket is one of the machine, whatever the namespace.
        interfaces = {cluster: f"lb{os.getpid()}{cluster[0]}" for cluster in CLUSTERS}
        secrets = {cluster: os.urandom(32) for cluster in CLUSTERS}
        processes = []
        for number, cluster in enumerate(CLUSTERS, 1):
            gateway, interface, other = f"{self.name}-{cluster}-gw1", interfaces[cluster], OTHER[cluster]
            path = Path("/var/run/wireguard", f"{interface}.sock")
            self.sockets.append(path)
            child = self.start(gateway, self.wireguard, "-f", interface, env={**os.environ, "LOG_LEVEL": "error"}, stderr=subprocess.DEVNULL)
            until(f"wireguard-go serves {interface}", path.exists)
            configure(path, f"private_key={secrets[cluster].hex()}\nlisten_port={WIREGUARD_PORT}\n"
                            f"public_key={x25519(secrets[other]).hex()}\nendpoint=192.0.2.{3 - number}:{WIREGUARD_PORT}\n"
                            f"allowed_ip={ADDRESSES['wireguard'][other]}/32\n")
            run("ip", "-n", gateway, "link", "set", interface, "mtu", self.mtu, "up")
            run("ip", "-n", gateway, "route", "add", f"{ADDRESSES['wireguard'][other]}/32", "dev", interface)
            processes.append(Path("/proc", str(child.pid)))
        self.interfaces = interfaces
        return processes


def configure(path, words):
    """https://www.wireguard.com/xplatform/"""
    with socket.socket(socket.AF_UNIX) as control:
        control.connect(str(path))
        control.sendall(f"set=1\n{words}\n".encode())
        answer = control.recv(4096).decode()
    if "errno=0" not in answer:
        fail(f"wireguard-go says {answer!r}")


def x25519(secret):
    """The public key of a secret one (RFC 7748, section 5)."""
    prime = 2**255 - 19
    scalar = int.from_bytes(secret, "little") & ~7 & ~(1 << 255) | 1 << 254
    (x2, z2), (x3, z3) = (1, 0), (9, 1)
    for bit in reversed(range(255)):
        if swap := scalar >> bit & 1:
            (x2, z2), (x3, z3) = (x3, z3), (x2, z2)
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        aa, bb, da, cb = a * a, b * b, d * a, c * b
        x3, z3 = (da + cb) ** 2 % prime, 9 * (da - cb) ** 2 % prime
        x2, z2 = aa * bb % prime, (aa - bb) * (aa + 121665 * (aa - bb)) % prime
        if swap:
            (x2, z2), (x3, z3) = (x3, z3), (x2, z2)
    return (x2 * pow(z2, -1, prime) % prime).to_bytes(32, "little")


def build_wireguard():
    """wireguard-go in the version of scripts/wireguard-go/go.mod, checked by its go.sum, built once."""
    cache = Path(run(ROOT / "scripts" / "cache").strip()) / "wireguard-go"
    module = ROOT / "scripts" / "wireguard-go"
    pinned, stamp, program = (module / "go.sum").read_text(), cache / "go.sum", cache / "wireguard"
    if not (program.exists() and stamp.exists() and stamp.read_text() == pinned):
        cache.mkdir(parents=True, exist_ok=True)
        run("go", "install", "-mod=readonly", "golang.zx2c4.com/wireguard", cwd=module, env={**os.environ, "GOBIN": str(cache)})
        stamp.write_text(pinned)
    return program


def write_folder(folder):
    folder.mkdir()
    (folder / "federation.yaml").write_text(FEDERATION)
    for cluster, text in (("east", EAST), ("west", WEST)):
        (folder / cluster).mkdir()
        (folder / cluster / "objects.yaml").write_text(text)


def until(what, holds):
    end = time.monotonic() + 20
    while not holds():
        if time.monotonic() > end:
            fail(f"not so after 20 s: {what}")
        time.sleep(0.02)
