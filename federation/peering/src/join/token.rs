//! What an operator hands to another: a text that says where to knock, who must answer, and a secret
//! that is good once. docs/spec/join.md, section 1.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use identity::{TrustDomain, UnixMillis};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// What every token begins with.
const PREFIX: &str = "lbj1.";
/// Bytes that tell an altered token from one that nobody knows.
const CHECK: usize = 4;
/// Most endpoints in a token.
pub const MAX_ENDPOINTS: usize = 4;
/// Longest token in characters.
pub const MAX_TOKEN: usize = 1024;

/// Names an invitation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InvitationId(pub [u8; 8]);

/// A token. Never printed but by [`Self::text`], overwritten when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Which invitation it is of.
    pub id: InvitationId,
    secret: Secret,
    /// SHA-256 of the inviter's root certificate in DER.
    pub pin: [u8; 32],
    /// From here on it is good for nothing. In whole seconds.
    pub expires: UnixMillis,
    /// The inviter's cluster.
    pub trust_domain: TrustDomain,
    /// Where its gateways listen; at least one.
    pub endpoints: Vec<SocketAddr>,
}

#[derive(Clone, Zeroize, ZeroizeOnDrop)]
struct Secret([u8; 32]);

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Secret {}

/// What proves that somebody has a token, without showing it. Overwritten when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct TokenKey([u8; 32]);

impl PartialEq for TokenKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for TokenKey {}

/// Text that is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It begins otherwise.
    #[error("this is no join token: one begins with {PREFIX}")]
    Foreign,
    /// It was cut or altered.
    #[error("the token is damaged: a letter was lost or altered on the way; copy it again")]
    Damaged,
    /// It is whole and says what makes no sense.
    #[error("the token was made by another version of Landbridge")]
    Content,
}

impl Token {
    /// A token with the random bytes `secret`.
    #[must_use]
    pub fn new(
        id: InvitationId,
        secret: &[u8; 32],
        pin: [u8; 32],
        expires: UnixMillis,
        trust_domain: TrustDomain,
        endpoints: Vec<SocketAddr>,
    ) -> Self {
        Self {
            id,
            secret: Secret(*secret),
            pin,
            expires: UnixMillis::from_secs(expires.as_secs()),
            trust_domain,
            endpoints,
        }
    }

    /// The text to copy, about 160 characters.
    #[must_use]
    pub fn text(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(512));
        bytes.extend_from_slice(&self.id.0);
        bytes.extend_from_slice(&self.secret.0);
        bytes.extend_from_slice(&self.pin);
        bytes.extend_from_slice(&self.expires.as_secs().to_be_bytes());
        let name = self.trust_domain.as_str().as_bytes();
        bytes.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
        bytes.extend_from_slice(name);
        for endpoint in self.endpoints.iter().take(MAX_ENDPOINTS) {
            match endpoint.ip().to_canonical() {
                IpAddr::V4(v4) => {
                    bytes.push(4);
                    bytes.extend_from_slice(&v4.octets());
                }
                IpAddr::V6(v6) => {
                    bytes.push(6);
                    bytes.extend_from_slice(&v6.octets());
                }
            }
            bytes.extend_from_slice(&endpoint.port().to_be_bytes());
        }
        let check = check(&bytes);
        bytes.extend_from_slice(&check);
        let mut text = Zeroizing::new(String::with_capacity(MAX_TOKEN));
        text.push_str(PREFIX);
        URL_SAFE_NO_PAD.encode_string(&*bytes, &mut text);
        text
    }

    /// Reads a text. Blanks around it and line breaks in it are what copying adds.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn read(text: &str) -> Result<Self, TokenError> {
        let whole: Zeroizing<String> =
            Zeroizing::new(text.chars().filter(|c| !c.is_whitespace()).collect());
        let encoded = whole.strip_prefix(PREFIX).ok_or(TokenError::Foreign)?;
        if whole.len() > MAX_TOKEN {
            return Err(TokenError::Damaged);
        }
        let bytes = URL_SAFE_NO_PAD.decode(encoded);
        let bytes = Zeroizing::new(bytes.map_err(|_| TokenError::Damaged)?);
        let place = bytes.len().checked_sub(CHECK).ok_or(TokenError::Damaged)?;
        let (bytes, sum) = bytes.split_at(place);
        if check(bytes) != sum {
            return Err(TokenError::Damaged);
        }
        Self::content(bytes).ok_or(TokenError::Content)
    }

    fn content(bytes: &[u8]) -> Option<Self> {
        let (id, rest) = bytes.split_first_chunk::<8>()?;
        let (secret, rest) = rest.split_first_chunk::<32>()?;
        let (pin, rest) = rest.split_first_chunk::<32>()?;
        let (expires, rest) = rest.split_first_chunk::<8>()?;
        let (length, rest) = rest.split_first()?;
        let (name, mut rest) = rest.split_at_checked(usize::from(*length))?;
        let mut endpoints = Vec::new();
        while let Some((kind, address)) = rest.split_first() {
            let (ip, after): (IpAddr, _) = match kind {
                4 => {
                    let (octets, after) = address.split_first_chunk::<4>()?;
                    ((*octets).into(), after)
                }
                6 => {
                    let (octets, after) = address.split_first_chunk::<16>()?;
                    ((*octets).into(), after)
                }
                _ => return None,
            };
            let (port, after) = after.split_first_chunk::<2>()?;
            endpoints.push(SocketAddr::new(ip, u16::from_be_bytes(*port)));
            rest = after;
        }
        if endpoints.is_empty() || endpoints.len() > MAX_ENDPOINTS {
            return None;
        }
        let seconds = u64::from_be_bytes(*expires);
        Some(Self {
            id: InvitationId(*id),
            secret: Secret(*secret),
            pin: *pin,
            expires: UnixMillis(seconds.checked_mul(1000)?),
            trust_domain: TrustDomain::new(std::str::from_utf8(name).ok()?).ok()?,
            endpoints,
        })
    }

    /// What both ends prove themselves with.
    #[must_use]
    pub fn key(&self) -> TokenKey {
        let mut key = [0; 32];
        // 32 bytes are far fewer than HKDF can give (RFC 5869, section 2.3).
        let expanded = Hkdf::<Sha256>::new(Some(&self.id.0), &self.secret.0)
            .expand(b"landbridge join", &mut key);
        debug_assert!(expanded.is_ok());
        TokenKey(key)
    }
}

impl TokenKey {
    /// The key whose bytes were stored.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(*bytes)
    }

    /// The bytes, for the one file that keeps them.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// The proof by which `who` vouches for `message` on the connection of `binding`.
    #[must_use]
    pub fn proof(&self, who: Side, binding: &[u8; 32], message: &[u8]) -> [u8; 32] {
        // HMAC takes keys of any length (RFC 2104, section 2).
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.0) else {
            return [0; 32];
        };
        mac.update(match who {
            Side::Joiner => b"landbridge join: the joiner",
            Side::Inviter => b"landbridge join: the inviter",
        });
        mac.update(binding);
        mac.update(message);
        mac.finalize().into_bytes().into()
    }

    /// Whether `proof` is that one, in a time that does not depend on where it differs.
    #[must_use]
    pub fn holds(&self, who: Side, binding: &[u8; 32], message: &[u8], proof: &[u8; 32]) -> bool {
        self.proof(who, binding, message).ct_eq(proof).into()
    }
}

/// Whose proof it is: neither passes for the other's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Who has the token.
    Joiner,
    /// Who made it.
    Inviter,
}

fn check(bytes: &[u8]) -> [u8; CHECK] {
    let [a, b, c, d, ..] = <[u8; 32]>::from(Sha256::digest(bytes));
    [a, b, c, d]
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({:?} of {})", self.id, self.trust_domain)
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token() -> Token {
        Token::new(
            InvitationId([1; 8]),
            &[2; 32],
            [3; 32],
            UnixMillis::from_secs(1_800_000_900),
            TrustDomain::new("east.example").unwrap(),
            vec![
                "192.0.2.1:4433".parse().unwrap(),
                "[2001:db8::1]:4433".parse().unwrap(),
            ],
        )
    }

    #[test]
    fn a_token_is_read_as_it_was_made_however_it_was_copied() {
        let text = token().text();
        assert_eq!(Token::read(&text), Ok(token()));
        let (first, second) = text.split_at(40);
        let broken = format!("  {first}\n    {second}\r\n");
        assert_eq!(Token::read(&broken), Ok(token()));
    }

    #[test]
    fn what_is_wrong_with_it_is_said() {
        assert_eq!(Token::read("hello"), Err(TokenError::Foreign));
        assert_eq!(Token::read(""), Err(TokenError::Foreign));
        assert_eq!(Token::read("lbj1."), Err(TokenError::Damaged));
        assert_eq!(Token::read("lbj1.AAAA!"), Err(TokenError::Damaged));
        let mut nobody = token();
        nobody.endpoints.clear();
        assert_eq!(Token::read(&nobody.text()), Err(TokenError::Content));
        let long = format!("lbj1.{}", "A".repeat(MAX_TOKEN));
        assert_eq!(Token::read(&long), Err(TokenError::Damaged));
    }

    /// Threat row 39.
    #[test]
    fn no_formatting_shows_the_secret() {
        let shown = format!("{:?} {:?}", token(), token().key());
        assert!(
            !shown.contains("2, 2") && !shown.contains("0202"),
            "{shown}"
        );
    }

    #[test]
    fn a_proof_is_of_one_side_one_connection_and_one_message() {
        let key = token().key();
        let proof = key.proof(Side::Joiner, &[1; 32], b"offer");
        assert!(key.holds(Side::Joiner, &[1; 32], b"offer", &proof));
        assert!(!key.holds(Side::Inviter, &[1; 32], b"offer", &proof));
        assert!(!key.holds(Side::Joiner, &[2; 32], b"offer", &proof));
        assert!(!key.holds(Side::Joiner, &[1; 32], b"other", &proof));
        let mut other = token();
        other.secret.0[31] ^= 1;
        assert!(!other.key().holds(Side::Joiner, &[1; 32], b"offer", &proof));
    }

    proptest! {
        /// One letter more, less or other is seen, and so is any other text.
        #[test]
        fn an_altered_token_is_damaged(at in 5_usize..150, letter in "[A-Za-z0-9_-]") {
            let text = token().text();
            let at = at.min(text.len() - 1);
            let mut altered = text.to_string();
            altered.replace_range(at..=at, &letter);
            if altered != *text {
                prop_assert_eq!(Token::read(&altered), Err(TokenError::Damaged));
            }
            let mut longer = text.to_string();
            longer.insert_str(at, &letter);
            prop_assert_eq!(Token::read(&longer), Err(TokenError::Damaged));
            prop_assert_eq!(Token::read(&text[..at]), Err(TokenError::Damaged));
        }

        #[test]
        fn any_text_never_panics(text: String, bytes: Vec<u8>) {
            let _ = Token::read(&text);
            let _ = Token::content(&bytes);
            let sum = check(&bytes);
            let whole = [&bytes[..], &sum].concat();
            let _ = Token::read(&format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(whole)));
        }
    }
}
