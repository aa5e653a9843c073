//! How two clusters that never met become peers: one makes an invitation, a person carries its token
//! to the other, and each proves to the other who it is. docs/spec/join.md.
//!
//! Pure: what is sent and stored is bytes, and whoever has the connection says what binds to it.

mod invitations;
mod mapping;
mod offer;
mod token;

pub use invitations::{
    Admitted, DEFAULT_LIFE, Here, Invitations, Invite, InviteError, JoinRefusal, MAX_INVITATIONS,
    MAX_LIFE, Stored,
};
pub use mapping::Mapped;
pub(crate) use offer::is_label;
pub use offer::{Asked, MAX_JOIN, Member, Offer, OfferError, accepted, answered, refused, request};
pub use token::{InvitationId, MAX_ENDPOINTS, MAX_TOKEN, Side, Token, TokenError, TokenKey};
