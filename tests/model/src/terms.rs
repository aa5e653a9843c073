//! Who there is, and what a MAC stands for: an equal term is an equal MAC, and nothing else is.

/// A pod. Its credential is public, and names its node's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pod {
    /// In east, on the same node as [`Pod::EastTwo`].
    EastOne,
    /// In east, on the same node as [`Pod::EastOne`]: one agent key, two credentials.
    EastTwo,
    /// In west, on a node of its own.
    WestOne,
    /// In west, on a node of its own.
    WestTwo,
    /// In west, on the attacker's node, with a credential that is as good as any.
    Thief,
}

/// A node, and the key of its agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Node {
    /// Of both pods of east.
    East,
    /// Of the first pod of west.
    WestOne,
    /// Of the second pod of west.
    WestTwo,
    /// The attacker's.
    Thief,
}

impl Pod {
    /// All.
    pub const ALL: [Self; 5] = [
        Self::EastOne,
        Self::EastTwo,
        Self::WestOne,
        Self::WestTwo,
        Self::Thief,
    ];

    /// Where it runs.
    #[must_use]
    pub fn node(self) -> Node {
        match self {
            Self::EastOne | Self::EastTwo => Node::East,
            Self::WestOne => Node::WestOne,
            Self::WestTwo => Node::WestTwo,
            Self::Thief => Node::Thief,
        }
    }

    /// Whether its node does what the protocol says.
    #[must_use]
    pub fn is_honest(self) -> bool {
        self != Self::Thief
    }

    /// Whether one issuer speaks for both.
    #[must_use]
    pub fn shares_domain(self, other: Self) -> bool {
        let in_east = |pod: Self| pod.node() == Node::East;
        in_east(self) == in_east(other)
    }
}

/// A nonce: each is made once, by the one who is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Nonce {
    /// By the initiator of a session, for its first HELLO or the one that took its place.
    Hello {
        /// The number of the session.
        session: u8,
        /// 1, or 2 when it was remade.
        attempt: u8,
    },
    /// By a responder, for the opening of this number.
    Reply(u8),
    /// By the attacker.
    Thief,
}

/// HELLO's fixed header. Nothing protects it on its way: the segment proof is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hello {
    pub nonce: Nonce,
    pub destination: Pod,
    pub credential: Pod,
}

/// Whose MAC it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// In CONFIRM.
    Initiator,
    /// In REPLY.
    Responder,
}

/// A MAC, as what it covers and by which key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac {
    /// The nodes that can make it: the initiator's first, unless roles are left out.
    pub key: [Node; 2],
    role: Option<Role>,
    hello_nonce: Option<Nonce>,
    destination: Option<Pod>,
    credentials: Option<[Pod; 2]>,
    reply_nonce: Option<Nonce>,
}

/// What the protocol is without: each must give a counterexample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mutation {
    /// The protocol as it is.
    Intact,
    /// The transcript has no destination.
    NoDestination,
    /// Neither the transcript nor the keys tell the roles apart.
    NoRole,
    /// The transcript has no hashes of credentials.
    NoCredentials,
    /// The transcript has no nonce of the initiator.
    NoHelloNonce,
    /// The transcript has no nonce of the responder: nothing of it is echoed.
    NoReplyNonce,
    /// A responder remembers no nonces.
    NoReplayCache,
}

impl Mutation {
    /// The MAC of `role` over the transcript of `hello` and what answers it.
    pub fn mac(self, role: Role, hello: &Hello, responder: Pod, answer: Nonce) -> Mac {
        let unless = |mutation| self != mutation;
        let mut key = [hello.credential.node(), responder.node()];
        if self == Self::NoRole {
            key.sort();
        }
        Mac {
            key,
            role: unless(Self::NoRole).then_some(role),
            hello_nonce: unless(Self::NoHelloNonce).then_some(hello.nonce),
            destination: unless(Self::NoDestination).then_some(hello.destination),
            credentials: unless(Self::NoCredentials).then_some([hello.credential, responder]),
            reply_nonce: unless(Self::NoReplyNonce).then_some(answer),
        }
    }
}
