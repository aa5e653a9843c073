//! An agent as a process of its own, so that it can be killed: this test binary, run again inside
//! the node's namespace, with its orders on standard input.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Lines, Write},
    net::IpAddr,
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use landbridge_agent::{
    capture::{
        Losses,
        nfqueue::{NfQueue, QueueNumbers},
    },
    clock::Clock,
    conntrack::Conntrack,
    handled::HandledCount,
    judge::{Judge, Touched},
    packet_loop::PacketLoop,
    records::Records,
    rules::{
        LinkName, PodPort, RateLimits, RuleSet,
        apply::{Firewall, Tools, read_counters},
    },
    sender::Sender,
    tally::{Judged, Tally},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

use super::{Netns, fake::Fake};

/// What the process is told at its start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Setup {
    pub state: PathBuf,
    /// Address, interface, and the bridge the interface is a port of.
    pub pods: Vec<(IpAddr, String, Option<String>)>,
    pub queue_length: u32,
    pub syn_per_source: u32,
    pub bridge_netfilter: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    Report,
    RemovePod(IpAddr),
    /// Flows to these ports may not be.
    Deny(BTreeSet<u16>),
    /// Forgets what the kernel no longer tracks.
    Reconcile,
    Stop,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Packets that reached the process.
    pub judged: u64,
    pub queue_full: u64,
    pub live: usize,
    pub recorded: usize,
    pub orphans: usize,
    /// The rules' counters.
    pub rules: BTreeMap<String, u64>,
    pub received: u64,
    pub forwarded: u64,
    pub originated: u64,
    pub dropped: BTreeMap<String, u64>,
    pub balances: bool,
    pub removed: usize,
}

const SETUP: &str = "LBT_AGENT_SETUP";
const REPLY: &str = "@@";

/// The process, as the test sees it.
pub struct Agent {
    child: Child,
    orders: ChildStdin,
    replies: Lines<BufReader<ChildStdout>>,
}

/// Whether all threads of a process are stopped: the state that follows the name in proc(5)'s stat.
fn threads_stand_still(pid: i32) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks.flatten().all(|task| {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with('T'))
    })
}

impl Agent {
    pub fn start(node: &Netns, setup: &Setup) -> Self {
        let mut child = Command::new("nsenter")
            .arg(format!("--net={}", node.path()))
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "agent_process", "--ignored", "--nocapture"])
            .env(SETUP, serde_json::to_string(setup).unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let orders = child.stdin.take().unwrap();
        let replies = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut agent = Self {
            child,
            orders,
            replies,
        };
        agent.reply();
        agent
    }

    pub fn order(&mut self, order: &Order) -> Report {
        writeln!(self.orders, "{}", serde_json::to_string(order).unwrap()).unwrap();
        self.reply()
    }

    pub fn report(&mut self) -> Report {
        self.order(&Order::Report)
    }

    /// SIGKILL: nothing is tidied up.
    pub fn crash(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
        if signal == Signal::SIGSTOP {
            // A thread on another processor goes on until it hears of it.
            while !threads_stand_still(pid) {
                std::thread::yield_now();
            }
        }
    }

    /// A clean exit.
    pub fn stop(mut self) {
        self.order(&Order::Stop);
        assert!(self.child.wait().unwrap().success());
    }

    fn reply(&mut self) -> Report {
        for line in self.replies.by_ref() {
            // The test harness prints the name of the test in front of the first reply.
            if let Some((_, reply)) = line.unwrap().split_once(REPLY) {
                return serde_json::from_str(reply).unwrap();
            }
        }
        panic!("the agent's process has ended");
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Nothing is left to do when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The body of the process.
pub fn process() {
    let Ok(setup) = std::env::var(SETUP) else {
        return;
    };
    let setup: Setup = serde_json::from_str(&setup).unwrap();
    let mut rules = rules(&setup);
    let before = read_counters(Tools).unwrap();
    let base = before.clone().unwrap_or_default();
    let mut firewall = Firewall::adopt(Tools, rules.clone()).unwrap();
    let queued = before.map(|counters| counters["queued"]);
    let (handled, missed) = HandledCount::open(&setup.state.join("handled"), queued).unwrap();
    let (records, recovered) = Records::open(&setup.state.join("flows"), 1024, "boot").unwrap();
    let conntrack = Conntrack::open().unwrap();
    let sender = Sender::open().unwrap();
    let judge = Judge::new(
        Fake::default(),
        conntrack,
        records,
        sender,
        recovered.records,
    )
    .unwrap();
    let capture = NfQueue::open(rules.queues, setup.queue_length).unwrap();
    let waker = capture.waker();
    let packets = PacketLoop::start(judge, capture, waker, handled, Clock::start()).unwrap();
    packets
        .set_snapshot(BTreeSet::new(), Touched::Nothing)
        .unwrap();

    let report = |firewall: &Firewall, removed| {
        type Seen = (Judged, Losses, usize, usize, usize);
        let (judged, losses, live, recorded, orphans): Seen = packets
            .ask(|judge, capture| {
                let orphans = judge.unknown_to_enforcer().1;
                let live = judge.enforcer().live();
                (
                    judge.judged().clone(),
                    capture.losses().unwrap(),
                    live,
                    judge.recorded(),
                    orphans,
                )
            })
            .unwrap();
        let counters = firewall.counters().unwrap();
        let tally = Tally::new(&judged, &losses, &counters, &base, missed);
        Report {
            judged: judged.received,
            queue_full: losses.queue_full,
            live,
            recorded,
            orphans,
            rules: counters,
            received: tally.received,
            forwarded: tally.forwarded,
            originated: tally.originated,
            dropped: tally
                .dropped
                .iter()
                .map(|(r, n)| (r.to_string(), *n))
                .collect(),
            balances: tally.balances(),
            removed,
        }
    };
    let say = |report: Report| println!("{REPLY}{}", serde_json::to_string(&report).unwrap());
    say(Report::default());
    for line in std::io::stdin().lines() {
        match serde_json::from_str(&line.unwrap()).unwrap() {
            Order::Report => say(report(&firewall, 0)),
            Order::RemovePod(address) => {
                let removed = packets.remove_pod(address).unwrap();
                rules.pods.remove(&address);
                firewall.update(rules.clone()).unwrap();
                say(report(&firewall, removed));
            }
            Order::Deny(ports) => {
                packets.set_snapshot(ports, Touched::All).unwrap();
                say(report(&firewall, 0));
            }
            Order::Reconcile => {
                let age = packets.ask(|judge, _| judge.age()).unwrap();
                let marked = Conntrack::open().unwrap().marked().unwrap();
                let live = marked
                    .iter()
                    .filter(|t| !t.ended)
                    .map(|t| t.flow())
                    .collect();
                packets.reconcile(age, live).unwrap();
                while packets.ask(|judge, _| judge.tidy()).unwrap() {}
                say(report(&firewall, 0));
            }
            Order::Stop => {
                firewall.remove().unwrap();
                packets.stop();
                say(Report::default());
                return;
            }
        }
    }
}

fn rules(setup: &Setup) -> RuleSet {
    let link = |name: &str| LinkName::new(name).unwrap();
    let port = |name: &str, bridge: &Option<String>| match bridge {
        Some(bridge) => PodPort::Bridged {
            bridge: link(bridge),
            port: link(name),
        },
        None => PodPort::Routed { link: link(name) },
    };
    RuleSet {
        name_servers: BTreeSet::new(),
        uplinks: [link("up0")].into(),
        pods: setup
            .pods
            .iter()
            .map(|(a, name, bridge)| (*a, port(name, bridge)))
            .collect(),
        identity: vec!["10.1.0.0/16".parse().unwrap()],
        limits: RateLimits {
            syn_per_source: setup.syn_per_source,
            ..RateLimits::default()
        },
        queues: QueueNumbers::default(),
        bridge_netfilter: setup.bridge_netfilter,
    }
}
