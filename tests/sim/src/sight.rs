//! A segment as the checker and the attacker see it: by etherparse and by the specification
//! (docs/spec/handshake.md), sharing no reader with the code under test.

use etherparse::{Ipv4Header, TcpHeader, TcpOptionElement};
use wire::flow::FlowKey;

/// Bytes of HELLO before the segment proof, and before the credential.
const PROOF: usize = 104;
const HELLO: usize = 128;
/// Bytes of REPLY before the credential, and after it.
const REPLY: (usize, usize) = (24, 16);
/// Bytes of a pod's name.
const NAME: usize = 14;

/// A TCP segment.
#[derive(Clone, Debug)]
pub struct Sight<'a> {
    /// From its sender to its receiver.
    pub key: FlowKey,
    /// The IP header.
    pub ip: Ipv4Header,
    /// The TCP header.
    pub tcp: TcpHeader,
    /// Its payload.
    pub payload: &'a [u8],
}

/// What a HELLO says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelloSight {
    /// Its nonce.
    pub nonce: [u8; 16],
    /// Its fixed header, which holds the nonce.
    pub header: Vec<u8>,
    /// The segment key that is said to prove that its cluster made it.
    pub key: [u8; 8],
    /// The name of the pod whose credential it carries.
    pub pod: String,
}

impl<'a> Sight<'a> {
    /// Reads an IPv4 packet; `None` when it is no whole TCP segment.
    #[must_use]
    pub fn of(packet: &'a [u8]) -> Option<Self> {
        let (ip, rest) = Ipv4Header::from_slice(packet).ok()?;
        let (tcp, payload) = TcpHeader::from_slice(rest).ok()?;
        let length = usize::from(ip.payload_len().ok()?).checked_sub(tcp.header_len())?;
        let key = FlowKey {
            protocol: wire::ip::TCP,
            src: ip.source.into(),
            dst: ip.destination.into(),
            sport: tcp.source_port,
            dport: tcp.destination_port,
        };
        Some(Self {
            key,
            ip,
            tcp,
            payload: payload.get(..length)?,
        })
    }

    /// SYN without ACK.
    #[must_use]
    pub fn is_syn(&self) -> bool {
        self.tcp.syn && !self.tcp.ack
    }

    /// SYN with ACK.
    #[must_use]
    pub fn is_syn_ack(&self) -> bool {
        self.tcp.syn && self.tcp.ack
    }

    /// The HELLO of a SYN.
    #[must_use]
    pub fn hello(&self) -> Option<HelloSight> {
        let payload = self.payload.strip_prefix(b"LBHE").map(|_| self.payload)?;
        Some(HelloSight {
            nonce: *payload.get(8..)?.first_chunk()?,
            header: payload.get(..PROOF)?.to_vec(),
            key: *payload.get(PROOF..)?.first_chunk()?,
            pod: name_in(payload.get(HELLO..)?)?,
        })
    }

    /// The name of the pod whose credential the REPLY of a SYN-ACK carries.
    #[must_use]
    pub fn reply(&self) -> Option<String> {
        self.payload.strip_prefix(b"LBRE")?;
        let end = self.payload.len().checked_sub(REPLY.1)?;
        name_in(self.payload.get(REPLY.0..end)?)
    }

    /// The option of ours: a marker, or a CONFIRM.
    #[must_use]
    pub fn option(&self) -> Option<&[u8]> {
        let mut options = self.tcp.options.as_slice();
        while let [kind, rest @ ..] = options {
            match (*kind, rest) {
                (0, _) => return None,
                (1, _) => options = rest,
                (253, [length, ..]) => return options.get(..usize::from(*length)),
                (_, [length, ..]) => options = options.get(usize::from(*length).max(2)..)?,
                (_, []) => return None,
            }
        }
        None
    }

    /// The option that a CONFIRM is.
    #[must_use]
    pub fn confirm(&self) -> Option<Vec<u8>> {
        let option = self.option().filter(|option| option.len() == 20);
        option.map(<[u8]>::to_vec)
    }
}

/// The name of a pod in a credential: `p0-1-234567890`, as no other pod is called.
fn name_in(credential: &[u8]) -> Option<String> {
    let is_name = |bytes: &&[u8]| {
        bytes.iter().enumerate().all(|(place, byte)| match place {
            0 => *byte == b'p',
            2 | 4 => *byte == b'-',
            _ => byte.is_ascii_digit(),
        })
    };
    let found = credential.windows(NAME).find(is_name)?;
    String::from_utf8(found.to_vec()).ok()
}

/// A packet with these headers, checksums made anew.
#[must_use]
pub fn write(mut ip: Ipv4Header, mut tcp: TcpHeader, payload: &[u8]) -> Vec<u8> {
    let length = tcp.header_len() + payload.len();
    ip.set_payload_len(length).expect("a short segment");
    ip.header_checksum = ip.calc_header_checksum();
    tcp.checksum = tcp
        .calc_checksum_ipv4(&ip, payload)
        .expect("a short segment");
    let mut bytes = Vec::with_capacity(ip.header_len() + length);
    ip.write(&mut bytes).expect("memory");
    tcp.write(&mut bytes).expect("memory");
    bytes.extend_from_slice(payload);
    bytes
}

/// The options of every segment of this world that is no SYN.
#[must_use]
pub fn timestamp() -> TcpOptionElement {
    TcpOptionElement::Timestamp(1, 2)
}
