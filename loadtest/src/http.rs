//! Downloads over HTTP/1.1, as far as they can be checked (RFC 9530, section 3: `Repr-Digest`).

use std::{net::SocketAddr, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{outcome::Failure, server::BUFFER};

/// Longest head of an answer in bytes.
const MAX_HEAD: usize = 64 * 1024;

/// An answer that came whole.
#[derive(Debug, PartialEq, Eq)]
pub struct Whole {
    /// Bytes of its body.
    pub length: u64,
    /// Whether they were compared with a digest.
    pub compared: bool,
}

/// A failure, and what it alone does not say.
type Failed = (Failure, Option<&'static str>);

/// `GET path`; `seen` hears of bytes of the body. `limit` holds for the connection, and for each wait.
pub async fn download(
    target: SocketAddr,
    path: &str,
    limit: Duration,
    mut seen: impl FnMut(usize),
) -> Result<Whole, Failed> {
    let plain = |failure| (failure, None);
    let mut stream = timeout(limit, TcpStream::connect(target))
        .await
        .map_err(|_| plain(Failure::Timeout))?
        .map_err(|e| plain(e.into()))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .await
        .map_err(|e| plain(e.into()))?;
    let mut read = async |buffer: &mut [u8]| match timeout(limit, stream.read(buffer)).await {
        Err(_) => Err(plain(Failure::Timeout)),
        Ok(Err(e)) => Err(plain(e.into())),
        Ok(Ok(length)) => Ok(length),
    };
    let mut buffer = vec![0; BUFFER];
    let mut head = Vec::new();
    let body = loop {
        let length = read(&mut buffer).await?;
        head.extend_from_slice(&buffer[..length]);
        if let Some(end) = head.windows(4).position(|w| w == b"\r\n\r\n") {
            break head.split_off(end + 4);
        }
        if length == 0 || head.len() > MAX_HEAD {
            return Err((
                Failure::Closed,
                Some("the far end does not speak HTTP: use --direction"),
            ));
        }
    };
    let head = Head::parse(&String::from_utf8_lossy(&head))?;
    let mut hash = head.digest.map(|_| Sha256::new());
    let mut length = 0;
    let mut piece = body.as_slice();
    loop {
        length += piece.len() as u64;
        seen(piece.len());
        if let Some(hash) = &mut hash {
            hash.update(piece);
        }
        if head.length.is_some_and(|wanted| length >= wanted) {
            break;
        }
        let read = read(&mut buffer).await?;
        if read == 0 {
            break;
        }
        piece = &buffer[..read];
    }
    if head.length.is_some_and(|wanted| length < wanted) {
        return Err(plain(Failure::Closed));
    }
    let wrong_length = head.length.is_some_and(|wanted| length != wanted);
    let actual = hash.map(|hash| <[u8; 32]>::from(hash.finalize()));
    if wrong_length || actual != head.digest {
        return Err(plain(Failure::Corrupted));
    }
    Ok(Whole {
        length,
        compared: head.digest.is_some(),
    })
}

struct Head {
    length: Option<u64>,
    digest: Option<[u8; 32]>,
}

impl Head {
    fn parse(text: &str) -> Result<Self, Failed> {
        let mut lines = text.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1));
        if status != Some("200") {
            return Err((
                Failure::Other,
                Some("the server answers with another status than 200"),
            ));
        }
        let mut head = Self {
            length: None,
            digest: None,
        };
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "content-length" => head.length = value.parse().ok(),
                "repr-digest" => head.digest = sha256_of(value),
                "transfer-encoding" => {
                    return Err((Failure::Other, Some("answers in chunks are not supported")));
                }
                _ => {}
            }
        }
        Ok(head)
    }
}

/// The member `sha-256` of a dictionary of byte sequences (RFC 8941, sections 3.2 and 3.3.5).
fn sha256_of(value: &str) -> Option<[u8; 32]> {
    let mut members = value
        .split(',')
        .filter_map(|member| member.trim().split_once('='));
    let (_, bytes) = members.find(|(name, _)| *name == "sha-256")?;
    let bytes = bytes.strip_prefix(':')?.strip_suffix(':')?;
    STANDARD.decode(bytes).ok()?.try_into().ok()
}
