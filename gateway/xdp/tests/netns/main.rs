//! The steering program, its loader and the AF_XDP sockets on a real kernel.

#![allow(clippy::unwrap_used)]

mod frame;
mod world;

use std::{
    fs,
    io::{BufRead, BufReader},
    net::UdpSocket,
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use landbridge_gateway_xdp::{
    AttachMode, Attachment, CopyMode, Frame, Nic, Plan, Port, QueueSet, RingSizes, SteerConfig,
    Steering, Vxlan, Waker, preflight, unmount,
};
use world::{PATIENCE, World, enter};

/// What the gateway of these tests takes from the kernel.
fn config() -> SteerConfig {
    SteerConfig {
        lan: true,
        wan: true,
        own: vec!["192.0.2.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        redirect: vec![
            "10.2.0.0/16".parse().unwrap(),
            "fd00:2::/48".parse().unwrap(),
        ],
        psp_port: 1000,
        vxlan: None,
    }
}

/// A gateway that sends every packet back to where it came from.
struct Echo {
    queues: QueueSet,
    batch: Vec<Frame>,
    seen: usize,
}

impl Echo {
    fn new(attachment: &mut Attachment) -> Self {
        let sizes = RingSizes {
            receive: 1024,
            transmit: 1024,
        };
        let mut queues = QueueSet::open(&[attachment.nic()], 0, sizes).unwrap();
        queues.ports[0]
            .service(&mut queues.pool, QueueSet::RESERVE)
            .unwrap();
        attachment.insert(&queues.ports[0]).unwrap();
        Self {
            queues,
            batch: Vec::with_capacity(64),
            seen: 0,
        }
    }

    fn round(&mut self) {
        let QueueSet { pool, ports } = &mut self.queues;
        self.seen += ports[0].receive(pool, &mut self.batch);
        for frame in &mut self.batch {
            let range = frame.range();
            frame::reverse(&mut pool.buffer(frame)[range]);
        }
        ports[0].transmit(pool, &mut self.batch);
        ports[0].service(pool, QueueSet::RESERVE).unwrap();
        assert_eq!(self.queues.unaccounted(), self.batch.len());
    }

    /// Echoes until `stop` is true.
    fn run(&mut self, waker: &Waker, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            self.round();
            waker
                .wait(&self.queues.ports, Duration::from_millis(100))
                .unwrap();
        }
    }
}

/// Runs `f` while the echo of `attachment` is served, and returns the echo.
fn served<T>(world: &World, attachment: &mut Attachment, f: impl FnOnce() -> T) -> (Echo, T) {
    let mut echo = world.within(&world.gateway, || Echo::new(attachment));
    let (waker, stop) = (Waker::new().unwrap(), AtomicBool::new(false));
    let result = thread::scope(|scope| {
        let server = scope.spawn(|| echo.run(&waker, &stop));
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f));
        stop.store(true, Ordering::Relaxed);
        waker.wake();
        server.join().unwrap();
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    (echo, result)
}

/// Sends `count` datagrams into the redirected prefix in bursts, and checks that all come back whole.
fn ping(client: &UdpSocket, count: u32) {
    // More than the 32 that one kick sends, less than the client's receive buffer.
    const BURST: u32 = 50;
    let mut buffer = [0; 2048];
    for burst in 0..count.div_ceil(BURST) {
        let range = burst * BURST..count.min((burst + 1) * BURST);
        for i in range.clone() {
            let mut payload = vec![i as u8; 4 + (i as usize * 7) % 1400];
            payload[..4].copy_from_slice(&i.to_be_bytes());
            client.send_to(&payload, "10.2.0.5:7777").unwrap();
        }
        for i in range {
            let (len, from) = client.recv_from(&mut buffer).unwrap();
            assert_eq!(from.to_string(), "10.2.0.5:7777");
            assert_eq!(len, 4 + (i as usize * 7) % 1400);
            assert_eq!(buffer[..4], i.to_be_bytes(), "in order");
            assert!(buffer[4..len].iter().all(|b| *b == i as u8));
        }
    }
}

/// The kernel of the gateway answers as if the gateway was not there. As the veth keeps the order,
/// everything sent before has been steered when this returns.
fn kernel_is_reached(world: &World) {
    let server = world.udp(&world.gateway, "192.0.2.1:0");
    let client = world.udp(&world.peer, "192.0.2.2:0");
    client
        .send_to(b"to the kernel", server.local_addr().unwrap())
        .unwrap();
    let mut buffer = [0; 64];
    let (len, _) = server.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..len], b"to the kernel");
}

fn send_into_prefix(world: &World, count: u32) {
    let client = world.udp(&world.peer, "192.0.2.2:0");
    for _ in 0..count {
        client.send_to(b"for a pod", "10.2.0.5:7777").unwrap();
    }
}

fn attach(world: &World, steering: &Steering) -> Attachment {
    world.within(&world.gateway, || {
        steering
            .attach("x0", &config(), AttachMode::Driver)
            .unwrap()
    })
}

fn open(world: &World) -> Steering {
    Steering::open(&world.state()).unwrap()
}

/// A clean end, after which nothing is mounted in the state directory.
fn close(steering: Steering, state: &Path) {
    let _closed = steering.close().unwrap();
    unmount(state).unwrap();
    assert_eq!(fs::read_dir(state.join("bpf")).unwrap().count(), 0);
}

fn program_of_x0(world: &World) -> Option<u32> {
    world.within(&world.gateway, || {
        Nic::query("x0").unwrap().program.map(|p| p.id)
    })
}

#[test]
fn packets_for_us_come_and_go_by_af_xdp_and_all_others_reach_the_kernel() {
    let Some(world) = World::new() else { return };
    let steering = open(&world);
    let mut attachment = attach(&world, &steering);
    assert_eq!(attachment.mode(), Some(AttachMode::Driver));
    assert!(!attachment.adopted());

    let client = world.udp(&world.peer, "192.0.2.2:0");
    let (echo, ()) = served(&world, &mut attachment, || {
        ping(&client, 5000);
        kernel_is_reached(&world);
    });

    assert_eq!(echo.queues.mode(), CopyMode::Copy, "veth has no zero-copy");
    assert_eq!(echo.seen, 5000);
    let counters = attachment.counters().unwrap();
    assert_eq!((counters.redirected, counters.missed), (5000, 0));
    assert!(counters.passed > 0, "{counters:?}");
    let statistics = echo.queues.ports[0].statistics().unwrap();
    assert_eq!((statistics.rx_dropped, statistics.rx_ring_full), (0, 0));
    assert_eq!(statistics.tx_invalid, 0);
    assert_eq!(world.forwarded_in_clear(), 0);

    close(steering, &world.state());
    drop(attachment);
    assert_eq!(program_of_x0(&world), None);
}

#[test]
fn a_queue_without_a_socket_drops_what_is_ours() {
    let Some(world) = World::new() else { return };
    // That the kernel would forward it shows that the test can fail.
    send_into_prefix(&world, 10);
    world.until_forwarded(10);

    let steering = open(&world);
    let attachment = attach(&world, &steering);
    send_into_prefix(&world, 100);
    kernel_is_reached(&world);
    let counters = attachment.counters().unwrap();
    assert_eq!((counters.redirected, counters.missed), (0, 100));
    assert_eq!(world.forwarded_in_clear(), 10);

    close(steering, &world.state());
    drop(attachment);
    send_into_prefix(&world, 10);
    world.until_forwarded(20);
}

/// What `a_killed_gateway_stays_closed_and_its_successor_adopts` kills. It serves until then.
#[test]
#[ignore = "a helper process of another test"]
fn holder() {
    let Ok(namespace) = std::env::var("LBT_XDP_NAMESPACE") else {
        return;
    };
    let state = std::env::var_os("LBT_XDP_STATE").unwrap();
    enter(&namespace);
    let steering = Steering::open(state.as_ref()).unwrap();
    let mut attachment = steering
        .attach("x0", &config(), AttachMode::Driver)
        .unwrap();
    let mut echo = Echo::new(&mut attachment);
    println!("\nholding {}", attachment.program().unwrap());
    echo.run(&Waker::new().unwrap(), &AtomicBool::new(false));
}

/// A running `holder`, killed at the latest when dropped.
struct Holder(Child);

impl Holder {
    fn kill(&mut self) {
        // SIGKILL; an error says that it is dead already.
        let _ = self.0.kill();
        self.0.wait().unwrap();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts `holder` and waits until it serves. Returns it and the number of its program.
fn start_holder(world: &World) -> (Holder, u32) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "holder", "--ignored", "--nocapture"])
        .env("LBT_XDP_NAMESPACE", &world.gateway)
        .env("LBT_XDP_STATE", world.state())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let child = Holder(child);
    let program = lines
        .find_map(|line| Some(line.unwrap().strip_prefix("holding ")?.to_owned()))
        .expect("the holder did not come up");
    (child, program.parse().unwrap())
}

#[test]
fn a_killed_gateway_stays_closed_and_its_successor_adopts() {
    let Some(world) = World::new() else { return };
    let client = world.udp(&world.peer, "192.0.2.2:0");
    let (mut holder, first) = start_holder(&world);
    ping(&client, 200);

    holder.kill();
    send_into_prefix(&world, 100);
    kernel_is_reached(&world);
    assert_eq!(
        world.forwarded_in_clear(),
        0,
        "routed in clear after a crash"
    );
    assert_eq!(program_of_x0(&world), Some(first), "the link is gone");

    let steering = open(&world);
    let mut attachment = attach(&world, &steering);
    assert!(attachment.adopted());
    assert_ne!(
        attachment.program().unwrap(),
        first,
        "the program is the new one"
    );
    assert_eq!(program_of_x0(&world), attachment.program().ok());
    let counters = attachment.counters().unwrap();
    assert_eq!(counters.redirected, 200, "counters go on");
    assert_eq!(counters.missed, 100);
    let (_, ()) = served(&world, &mut attachment, || ping(&client, 200));
    assert_eq!(world.forwarded_in_clear(), 0);

    let pins = attachment.pins().to_owned();
    assert!(pins.join("link").exists());
    close(steering, &world.state());
    drop(attachment);
    assert_eq!(program_of_x0(&world), None);
    assert!(!pins.exists());
    let left = world.within(&world.gateway, || preflight(&plan(&world)));
    assert_eq!(left, []);
}

fn plan(world: &World) -> Plan {
    Plan {
        state: world.state(),
        interfaces: vec!["x0".into()],
        mode: AttachMode::Driver,
        memory: QueueSet::memory(1, 1, 1500, RingSizes::default()),
    }
}

#[test]
fn a_second_gateway_is_refused_in_words() {
    let Some(world) = World::new() else { return };
    let (mut holder, _) = start_holder(&world);

    let same = Steering::open(&world.state()).unwrap_err().to_string();
    assert!(
        same.contains("another gateway uses the state directory"),
        "{same}"
    );

    let other = world.state.path().join("other");
    let steering = Steering::open(&other).unwrap();
    let refused = world.within(&world.gateway, || {
        steering
            .attach("x0", &config(), AttachMode::Driver)
            .err()
            .unwrap()
            .to_string()
    });
    assert!(
        refused.contains("another XDP program is attached to x0"),
        "{refused}"
    );
    close(steering, &other);

    let problems = world.within(&world.gateway, || preflight(&plan(&world)));
    assert!(
        problems.iter().any(|p| p.what.contains("another gateway")),
        "{problems:#?}"
    );
    holder.kill();
}

#[test]
fn a_nic_that_refuses_is_explained_before_and_at_the_attachment() {
    let Some(world) = World::new() else { return };
    // A peer that transmits on two queues, and on the gateway's side one receive queue.
    for (namespace, line) in [
        (
            &world.gateway,
            "ip link add y0 numrxqueues 1 type veth peer name y1 numtxqueues 2",
        ),
        (&world.gateway, "ethtool -L y1 tx 2"),
        (&world.gateway, "ip link set y0 up"),
        (&world.gateway, "ip link set y1 up"),
        (&world.gateway, "ip link set x0 mtu 9000"),
        (&world.peer, "ip link set p0 mtu 9000"),
    ] {
        world.run(namespace, line);
    }
    let plan = Plan {
        interfaces: vec!["x0".into(), "y0".into()],
        ..plan(&world)
    };
    let problems = world.within(&world.gateway, || preflight(&plan));
    let has = |what: &str| problems.iter().any(|p| p.to_string().contains(what));
    assert!(has("the MTU of x0 is 9000"), "{problems:#?}");
    assert!(has("its veth peer y1 transmits on 2"), "{problems:#?}");

    let steering = open(&world);
    for (interface, words) in [("x0", "the MTU of x0"), ("y0", "y0 has 1 receive queues")] {
        let refused = world.within(&world.gateway, || {
            steering
                .attach(interface, &config(), AttachMode::Driver)
                .err()
                .unwrap()
                .to_string()
        });
        assert!(refused.contains(words), "{refused}");
    }
    close(steering, &world.state());
}

#[test]
fn a_live_change_of_prefixes_moves_packets_between_socket_and_kernel() {
    let Some(world) = World::new() else { return };
    let steering = open(&world);
    let mut attachment = attach(&world, &steering);
    let narrower = SteerConfig {
        redirect: vec!["10.3.0.0/16".parse().unwrap()],
        ..config()
    };
    world
        .within(&world.gateway, || attachment.configure(&narrower))
        .unwrap();
    send_into_prefix(&world, 5);
    kernel_is_reached(&world);
    assert_eq!(attachment.counters().unwrap().missed, 0);
    world
        .within(&world.gateway, || attachment.configure(&config()))
        .unwrap();
    send_into_prefix(&world, 5);
    kernel_is_reached(&world);
    assert_eq!(attachment.counters().unwrap().missed, 5);
    close(steering, &world.state());
    drop(attachment);
}

#[test]
fn an_interface_that_is_removed_ends_the_wait_and_its_pins_are_not_adopted() {
    let Some(world) = World::new() else { return };
    let steering = open(&world);
    let mut attachment = attach(&world, &steering);
    let echo = world.within(&world.gateway, || Echo::new(&mut attachment));
    let waker = Waker::new().unwrap();
    waker.wait(&echo.queues.ports, Duration::ZERO).unwrap();
    world.run(&world.peer, "ip link del p0");
    let gone = waker
        .wait(&echo.queues.ports, Duration::from_millis(1))
        .unwrap_err();
    assert_eq!(gone.kind(), std::io::ErrorKind::NotConnected);
    drop((echo, attachment));

    world.run(&world.gateway, "ip link add x0 type veth peer name x1");
    world.run(&world.gateway, "ip link set x0 up");
    let attachment = attach(&world, &steering);
    assert!(!attachment.adopted(), "another interface of the same name");
    close(steering, &world.state());
    drop(attachment);
}

#[test]
fn every_kind_of_packet_goes_where_it_belongs() {
    let Some(world) = World::new() else { return };
    let steering = open(&world);
    let with_vxlan = SteerConfig {
        vxlan: Some(Vxlan {
            vni: 77,
            port: 4789,
        }),
        ..config()
    };
    let attachment = world.within(&world.gateway, || {
        steering
            .attach("x0", &with_vxlan, AttachMode::Driver)
            .unwrap()
    });
    let sender = world.within(&world.peer, || frame::Sender::new("p0"));
    // No socket serves the queue, so what is ours shows as a miss.
    for case in frame::cases(attachment.nic().mac) {
        let before = attachment.counters().unwrap();
        sender.send(&case.bytes);
        let deadline = Instant::now() + PATIENCE;
        let after = loop {
            let now = attachment.counters().unwrap();
            if now != before {
                break now;
            }
            assert!(Instant::now() < deadline, "{}: not seen at all", case.name);
            thread::yield_now();
        };
        let ours = after.missed - before.missed;
        let passed = after.passed - before.passed;
        assert_eq!(
            (ours, passed),
            (u64::from(case.ours), u64::from(!case.ours)),
            "{}",
            case.name
        );
    }
    close(steering, &world.state());
    drop(attachment);
}
