//! The TCP of the pods: enough of it to open, retransmit, ask, answer and be reset.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use etherparse::{PacketBuilder, SlicedPacket, TcpHeader, TcpOptionElement, TransportSlice};
use identity::Mono;
use wire::flow::FlowKey;

/// First retransmission timeout; it doubles.
const RTO: Duration = Duration::from_secs(1);
/// Attempts before a socket gives up.
const ATTEMPTS: u32 = 6;
/// A word in every request and every answer.
pub const WORD: &str = " asks for number ";
/// How often an open connection asks again.
const PING_EVERY: Duration = Duration::from_secs(2);

/// How a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// SYN sent, nothing heard.
    Opening,
    /// Open; some requests may have been answered.
    Open,
    /// A RST came.
    Reset,
    /// Nothing was heard for too long.
    TimedOut,
}

/// A client's connection.
#[derive(Clone, Debug)]
pub struct Client {
    /// From client to server.
    pub key: FlowKey,
    /// How it stands.
    pub state: State,
    /// Requests that were answered.
    pub answered: u32,
    isn: u32,
    sent: u32,
    received: u32,
    waiting: bool,
    tries: u32,
    due: Mono,
}

/// A server's connection.
#[derive(Clone, Debug)]
struct Served {
    isn: u32,
    peer_isn: u32,
    received: u32,
    sent: u32,
    last: Vec<u8>,
    open: bool,
    tries: u32,
    due: Option<Mono>,
}

/// Payload that reached a socket, for the checker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// From initiator to responder of the connection.
    pub key: FlowKey,
    /// What was read.
    pub bytes: Vec<u8>,
    /// True when the server read it.
    pub at_server: bool,
}

/// The sockets of one pod. Every port in `listening` accepts.
#[derive(Clone, Debug)]
pub struct Sockets {
    address: IpAddr,
    listening: Vec<u16>,
    clients: BTreeMap<FlowKey, Client>,
    served: BTreeMap<FlowKey, Served>,
    next_isn: u32,
    out: Vec<Vec<u8>>,
    deliveries: Vec<Delivery>,
}

impl Sockets {
    /// Sockets at `address`; `isn` is where sequence numbers begin.
    #[must_use]
    pub fn new(address: IpAddr, listening: Vec<u16>, isn: u32) -> Self {
        Self {
            address,
            listening,
            clients: BTreeMap::new(),
            served: BTreeMap::new(),
            next_isn: isn,
            out: Vec::new(),
            deliveries: Vec::new(),
        }
    }

    /// Opens a connection.
    pub fn connect(&mut self, sport: u16, to: SocketAddr, now: Mono) -> FlowKey {
        let key = FlowKey {
            protocol: wire::ip::TCP,
            src: self.address,
            dst: to.ip(),
            sport,
            dport: to.port(),
        };
        let isn = self.take_isn();
        let client = Client {
            key,
            state: State::Opening,
            answered: 0,
            isn,
            sent: isn.wrapping_add(1),
            received: 0,
            waiting: false,
            tries: 1,
            due: now.after(RTO),
        };
        self.out.push(segment(&key, isn, None, "S", b""));
        self.clients.insert(key, client);
        key
    }

    /// A client's connection.
    #[must_use]
    pub fn client(&self, key: &FlowKey) -> Option<&Client> {
        self.clients.get(key)
    }

    /// Forgets a client's connection without a word, as a killed process would.
    pub fn forget(&mut self, key: &FlowKey) {
        self.clients.remove(key);
    }

    /// What the pod sends.
    pub fn take_packets(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.out)
    }

    /// What the pod read.
    pub fn take_deliveries(&mut self) -> Vec<Delivery> {
        std::mem::take(&mut self.deliveries)
    }

    /// When [`Sockets::handle_timeout`] is due.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Mono> {
        let clients = self
            .clients
            .values()
            .filter(|client| client.is_live())
            .map(|c| c.due);
        clients
            .chain(self.served.values().filter_map(|served| served.due))
            .min()
    }

    /// Retransmits and asks again.
    pub fn handle_timeout(&mut self, now: Mono) {
        for client in self
            .clients
            .values_mut()
            .filter(|c| c.is_live() && c.due <= now)
        {
            if client.tries > ATTEMPTS {
                client.state = State::TimedOut;
                continue;
            }
            let waited = client.state == State::Opening || client.waiting;
            client.waiting = client.state == State::Open;
            client.tries = if waited { client.tries + 1 } else { 1 };
            client.due = now.after(RTO * 2_u32.pow(client.tries.min(5) - 1));
            self.out.push(client.packet());
        }
        for (key, served) in &mut self.served {
            let Some(due) = served.due else { continue };
            if due > now {
                continue;
            }
            served.tries += 1;
            served.due =
                (served.tries <= ATTEMPTS).then(|| now.after(RTO * 2_u32.pow(served.tries.min(5))));
            let ack = Some(served.received);
            self.out
                .push(segment(&key.reversed(), served.isn, ack, "S", b""));
        }
    }

    /// A packet reaches the pod.
    ///
    /// # Panics
    /// When it is no TCP segment, or carries an option of ours: neither may ever reach a socket.
    pub fn handle_packet(&mut self, packet: &[u8], now: Mono) {
        let sliced = SlicedPacket::from_ip(packet).expect("a socket gets whole packets");
        let Some(TransportSlice::Tcp(tcp)) = sliced.transport else {
            return;
        };
        let parsed = wire::ip::Packet::parse(packet).expect("a socket gets whole packets");
        let view = wire::tcp::Segment::of(&parsed).expect("a socket gets whole segments");
        assert!(view.checksum_holds(parsed.src(), parsed.dst()), "checksum");
        assert_eq!(
            view.our_option(),
            wire::marker::OurOption::Absent,
            "an option at a socket"
        );
        let key = FlowKey::of(&parsed).expect("a TCP segment");
        let payload = tcp.payload();
        if tcp.syn() {
            assert_eq!(payload, b"", "a token at a socket");
        }
        if self.clients.contains_key(&key.reversed()) {
            self.client_gets(&key.reversed(), view, payload, now);
        } else {
            self.server_gets(&key, view, payload, now);
        }
    }

    fn client_gets(
        &mut self,
        key: &FlowKey,
        tcp: wire::tcp::Segment<'_>,
        payload: &[u8],
        now: Mono,
    ) {
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        let flags = tcp.flags();
        if !client.is_live() {
            return;
        }
        if flags.rst() {
            let expected = match client.state {
                State::Opening => flags.ack() && tcp.ack() == client.isn.wrapping_add(1),
                _ => tcp.seq() == client.received,
            };
            if expected {
                client.state = State::Reset;
            }
            return;
        }
        match (client.state, flags.is_syn_ack()) {
            (State::Opening, true) if tcp.ack() == client.isn.wrapping_add(1) => {
                client.state = State::Open;
                client.received = tcp.seq().wrapping_add(1);
                client.waiting = true;
                client.tries = 1;
                client.due = now.after(RTO);
                self.out.push(client.packet());
            }
            (State::Open, true) => {
                // A repeated SYN-ACK: the ACK was lost.
                self.out.push(client.packet());
            }
            (State::Open, false) if !payload.is_empty() && tcp.seq() == client.received => {
                client.received = client.received.wrapping_add(len(payload));
                client.sent = client.sent.wrapping_add(len(&client.request()));
                client.answered += 1;
                client.waiting = false;
                client.tries = 1;
                client.due = now.after(PING_EVERY);
                let bytes = payload.to_vec();
                self.deliveries.push(Delivery {
                    key: *key,
                    bytes,
                    at_server: false,
                });
                self.out
                    .push(segment(key, client.sent, Some(client.received), "", b""));
            }
            _ => {}
        }
    }

    fn server_gets(
        &mut self,
        key: &FlowKey,
        tcp: wire::tcp::Segment<'_>,
        payload: &[u8],
        now: Mono,
    ) {
        let flags = tcp.flags();
        if flags.is_syn() {
            return self.accept(key, tcp.seq(), now);
        }
        let Some(served) = self.served.get_mut(key) else {
            if !flags.rst() {
                let reset = segment(&key.reversed(), tcp.ack(), None, "R", b"");
                self.out.push(reset);
            }
            return;
        };
        if flags.rst() {
            if tcp.seq() == served.received {
                self.served.remove(key);
            }
            return;
        }
        if tcp.ack() == served.isn.wrapping_add(1) {
            served.open = true;
            served.due = None;
        }
        if payload.is_empty() || !served.open {
            return;
        }
        if tcp.seq() == served.received {
            served.received = served.received.wrapping_add(len(payload));
            served.sent = served.sent.wrapping_add(len(&served.last));
            served.last = [b"re:", payload].concat();
            let bytes = payload.to_vec();
            self.deliveries.push(Delivery {
                key: *key,
                bytes,
                at_server: true,
            });
        }
        // New or repeated: the answer to what was read last.
        let (seq, ack, last) = (served.sent, Some(served.received), served.last.clone());
        self.out
            .push(segment(&key.reversed(), seq, ack, "P", &last));
    }

    fn accept(&mut self, key: &FlowKey, peer_isn: u32, now: Mono) {
        if !self.listening.contains(&key.dport) {
            let ack = Some(peer_isn.wrapping_add(1));
            self.out.push(segment(&key.reversed(), 0, ack, "R", b""));
            return;
        }
        let known = self
            .served
            .get(key)
            .filter(|served| served.peer_isn == peer_isn);
        let isn = match known {
            Some(served) => served.isn,
            None => self.take_isn(),
        };
        let received = peer_isn.wrapping_add(1);
        self.out
            .push(segment(&key.reversed(), isn, Some(received), "S", b""));
        if self
            .served
            .get(key)
            .is_some_and(|served| served.peer_isn == peer_isn)
        {
            return;
        }
        let served = Served {
            isn,
            peer_isn,
            received,
            sent: isn.wrapping_add(1),
            last: Vec::new(),
            open: false,
            tries: 0,
            due: Some(now.after(RTO)),
        };
        self.served.insert(*key, served);
    }

    fn take_isn(&mut self) -> u32 {
        self.next_isn = self.next_isn.wrapping_add(0x0101_0101);
        self.next_isn
    }
}

impl Client {
    fn is_live(&self) -> bool {
        matches!(self.state, State::Opening | State::Open)
    }

    fn request(&self) -> Vec<u8> {
        format!("{}{WORD}{}", self.key, self.answered).into_bytes()
    }

    /// The segment that is outstanding.
    fn packet(&self) -> Vec<u8> {
        match self.state {
            State::Opening => segment(&self.key, self.isn, None, "S", b""),
            _ => segment(
                &self.key,
                self.sent,
                Some(self.received),
                "P",
                &self.request(),
            ),
        }
    }
}

fn len(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("short requests")
}

/// A segment by etherparse, so that the sockets share no writer with the code under test.
fn segment(key: &FlowKey, seq: u32, ack: Option<u32>, flags: &str, payload: &[u8]) -> Vec<u8> {
    let mut tcp = TcpHeader::new(key.sport, key.dport, seq, 64_000);
    tcp.syn = flags.contains('S');
    tcp.rst = flags.contains('R');
    tcp.psh = flags.contains('P');
    if let Some(ack) = ack {
        tcp.ack = true;
        tcp.acknowledgment_number = ack;
    }
    let timestamp = TcpOptionElement::Timestamp(1, 2);
    let mss = TcpOptionElement::MaximumSegmentSize(1460);
    let options: &[_] = if tcp.syn {
        &[mss, timestamp]
    } else {
        &[timestamp]
    };
    tcp.set_options(options).expect("they fit");
    let (IpAddr::V4(src), IpAddr::V4(dst)) = (key.src, key.dst) else {
        panic!("the world is IPv4 so far");
    };
    let mut bytes = Vec::new();
    PacketBuilder::ipv4(src.octets(), dst.octets(), 64)
        .tcp_header(tcp)
        .write(&mut bytes, payload)
        .expect("memory");
    bytes
}
