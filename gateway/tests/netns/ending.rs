//! The end of a gateway: quick, whoever is away or asking, and at once when it is told twice.

use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    os::{
        fd::AsRawFd,
        unix::{fs::OpenOptionsExt, net::UnixStream},
    },
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::signal::Signal,
};

use crate::{
    namespaces::root_or_skip,
    world::{Gateway, PATIENCE, World},
};

/// Ends it and says how long that took.
fn terminate(gateway: Gateway<'_>) -> Duration {
    let begin = Instant::now();
    gateway.terminate();
    begin.elapsed()
}

#[test]
fn it_ends_within_a_second_although_its_peer_is_gone_and_somebody_asks() {
    if !root_or_skip() {
        return;
    }
    let world = World::new("end");
    let mut quickest = Duration::MAX;
    // The machine may be busy: what counts is how quick it can be.
    for _ in 0..3 {
        let (east, west) = (world.start("east"), world.start("west"));
        east.until_connected();
        west.kill();
        // Two who asked and do not go away.
        let mut admin = UnixStream::connect(world.path("east/admin.sock")).unwrap();
        admin.write_all(b"{\"op\":\"status\"}\n").unwrap();
        let mut answer = BufReader::new(&admin);
        answer.read_line(&mut String::new()).unwrap();
        let http = world
            .namespaces
            .within("east", || TcpStream::connect("127.0.0.1:9464").unwrap());
        quickest = quickest.min(terminate(east));
        drop((admin, http));
        let link = world.namespaces.ip("east", "link show");
        assert!(!link.contains("xdp"), "{link}");
    }
    assert!(quickest <= Duration::from_secs(1), "{quickest:?}");
}

#[test]
fn a_second_signal_ends_it_at_once_and_closed() {
    if !root_or_skip() {
        return;
    }
    let world = World::new("twice");
    // Its log goes into a pipe of one page that will be full, so that it cannot come to a clean end.
    let (reader, writer) = std::io::pipe().unwrap();
    fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    // Opened anew, because the gateway's own end must block.
    let mut filler = File::options()
        .write(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(format!("/proc/self/fd/{}", writer.as_raw_fd()))
        .unwrap();
    let mut east = world.start_with("east", Stdio::from(writer));
    let mut log = BufReader::with_capacity(1, reader);
    let mut line = String::new();
    while !line.contains("running") {
        line.clear();
        log.read_line(&mut line).unwrap();
    }
    while filler.write(b"\n").is_ok() {}

    let begin = Instant::now();
    let status = loop {
        east.signal(Signal::SIGTERM);
        if let Some(status) = east.child.try_wait().unwrap() {
            break status;
        }
        assert!(begin.elapsed() < PATIENCE, "it goes on");
        thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(status.code(), Some(128 + Signal::SIGTERM as i32));
    let link = world.namespaces.ip("east", "link show");
    assert!(link.contains("xdp"), "closed, as after a crash: {link}");

    let again = world.start("east");
    let status = again.until("ready", |status| status["ready"] == true);
    assert_eq!(status["interfaces"]["wan0"]["adopted"], true);
    again.terminate();
}
