//! What somebody on the path, or beside it, tries.

pub mod altered;
mod drops;
pub mod lost;
pub mod relayed;
pub mod replayed;
pub mod spoofed;
pub mod stripped;

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use socket2::{Domain, Protocol, Socket, Type};

pub use self::drops::Drops;
use super::{
    Demo,
    pairs::{self, Pair},
};
use crate::demo::{
    http::{self, Connected},
    netns,
    onpath::{Held, Kind, Tap, Which},
    plan::{Cluster, Node},
};

/// How long a client waits for a connection that somebody holds up.
pub const HELD_UP: Duration = Duration::from_secs(12);
/// How long a packet may take to where it is expected.
pub const ARRIVES: Duration = Duration::from_secs(4);

/// An allowed pair across clusters, and the switches that its packets cross in clear.
pub struct Scene {
    /// Who connects to whom.
    pub pair: Pair,
    /// The source's address.
    pub client: Ipv4Addr,
    /// The destination's address and port.
    pub server: (Ipv4Addr, u16),
    client_netns: String,
    near: Lan,
    far: Lan,
}

/// A cluster's switch, between a node and the gateway.
struct Lan {
    netns: String,
    node_port: String,
    gateway_port: String,
}

/// A switch, and the direction in which a segment crosses it.
pub struct Hop<'a> {
    /// The namespace of the switch.
    pub netns: &'a str,
    /// Where the segment comes in.
    pub from: &'a str,
    /// Where it goes out.
    pub to: &'a str,
}

/// In which cluster somebody sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client's.
    Near,
    /// The server's.
    Far,
}

/// A client's socket, bound and not connected yet.
pub struct Client {
    socket: Socket,
    /// Its port.
    pub port: u16,
    to: SocketAddr,
}

impl Scene {
    /// The first pair that will do.
    pub fn find(demo: &Demo) -> Result<Option<Self>> {
        let Some(pair) = pairs::allowed_across(demo)? else {
            return Ok(None);
        };
        let lan = |(cluster, node): (&Cluster, &Node)| Lan {
            netns: cluster.lan.clone(),
            node_port: node.lan_port(),
            gateway_port: cluster.gateway.lan_port(),
        };
        let from = demo.place(&pair.from)?.1;
        Ok(Some(Self {
            client: from.address,
            client_netns: from.netns.clone(),
            server: (pair.seen(demo, &pair.to)?, pair.port),
            near: lan(demo.node_of(&pair.from)?),
            far: lan(demo.node_of(&pair.to)?),
            pair,
        }))
    }

    /// A new client of this pair.
    pub fn client(&self) -> Result<Client> {
        self.client_to(self.server)
    }

    /// A new client in the source's pod that will dial somebody else.
    pub fn client_to(&self, (address, port): (Ipv4Addr, u16)) -> Result<Client> {
        netns::inside(&self.client_netns, || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
            socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0).into())?;
            let local = socket.local_addr()?.as_socket().context("no local port")?;
            Ok(Client {
                socket,
                port: local.port(),
                to: SocketAddrV4::new(address, port).into(),
            })
        })
    }

    /// A connection of the pair on which both sides have spoken, and the client's port; `limit` is for
    /// every read.
    pub fn established(&self, limit: Duration) -> Result<(u16, TcpStream)> {
        let client = self.client()?;
        let port = client.port;
        let Connected::Yes(mut stream) = client.connect(ARRIVES) else {
            bail!("{} was not connected", self.pair.name());
        };
        stream.set_read_timeout(Some(limit))?;
        http::echo(&mut stream)?;
        Ok((port, stream))
    }

    /// The segments of `client`'s connection of one kind.
    pub fn segments(&self, client: &Client, kind: Kind) -> Which {
        let (client, server) = ((self.client, client.port), self.server);
        match kind {
            Kind::SynAck => Which {
                from: server,
                to: client,
                kind,
            },
            Kind::Syn | Kind::Later => Which {
                from: client,
                to: server,
                kind,
            },
        }
    }

    /// Does `look` to each segment of the handshake, in each cluster.
    ///
    /// # Errors
    /// The first of `look`, and of which segment it was.
    pub fn each_segment(&self, look: impl Fn(Kind, Side) -> Result<()>) -> Result<()> {
        for (name, kind) in [
            ("SYN", Kind::Syn),
            ("SYN-ACK", Kind::SynAck),
            ("client's first segment", Kind::Later),
        ] {
            for side in [Side::Near, Side::Far] {
                look(kind, side)
                    .with_context(|| format!("the {name}, in the cluster on the {side:?} side"))?;
            }
        }
        Ok(())
    }

    /// Where segments of `kind` cross the switch on `side`.
    pub fn hop(&self, side: Side, kind: Kind) -> Hop<'_> {
        let lan = match side {
            Side::Near => &self.near,
            Side::Far => &self.far,
        };
        // On the near side a client's segment goes from the node to the gateway.
        let outward = (side == Side::Near) == (kind != Kind::SynAck);
        let (from, to) = match outward {
            true => (&lan.node_port, &lan.gateway_port),
            false => (&lan.gateway_port, &lan.node_port),
        };
        Hop {
            netns: &lan.netns,
            from,
            to,
        }
    }
}

impl Hop<'_> {
    /// Listens where segments come in, and holds them back.
    pub fn hold(&self, which: &Which) -> Result<(Tap, Held)> {
        Ok((
            Tap::open(self.netns, self.from)?,
            Held::segments(self.netns, which)?,
        ))
    }

    /// Sends where segments go out.
    pub fn onward(&self) -> Result<Tap> {
        Tap::open(self.netns, self.to)
    }
}

impl Client {
    /// Connects, and does `work` meanwhile.
    pub fn connect_while<T>(
        self,
        limit: Duration,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<(T, Connected)> {
        thread::scope(|scope| {
            let connecting = scope.spawn(|| self.connect(limit));
            let worked = work();
            let connected = connecting
                .join()
                .map_err(|_| anyhow::anyhow!("the client's thread panicked"))?;
            Ok((worked?, connected))
        })
    }

    fn connect(self, limit: Duration) -> Connected {
        match self.socket.connect_timeout(&self.to.into(), limit) {
            Ok(()) => Connected::Yes(self.socket.into()),
            Err(e) => Connected::from(e),
        }
    }
}
