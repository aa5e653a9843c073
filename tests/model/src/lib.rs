//! The identity handshake as a state machine that is small enough to be searched through: two
//! sessions of honest pods, and an attacker who is the network, owns a node with a valid credential,
//! and may say anything to anybody at any time.
//!
//! docs/spec/handshake-model.md says what is modelled, what is checked and what is left out. It
//! shares no code with the product: it is a second reading of docs/spec/handshake-protocol.md.

mod attacker;
mod handshake;
mod properties;
mod terms;

pub use handshake::{Action, Bounds, Handshake, Opening, Session, Stage, State};
pub use properties::{
    AGREEMENT, FRESH_HELLO, MISBINDING, ONE_RUN, OPENS, OPENS_AFTER_RESTART, OPENS_REMADE,
    OPENS_TWICE,
};
pub use terms::{Mutation, Node, Nonce, Pod};
