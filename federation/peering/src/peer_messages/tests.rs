#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_bytes::ByteBuf;

use super::*;

fn samples() -> Vec<PeerMessage> {
    vec![
        PeerMessage::Hello(Hello {
            version: 1,
            trust_domain: TrustDomain::new(&"a".repeat(255)).unwrap(),
            instance: Instance([255; 16]),
            clock: UnixMillis(u64::MAX),
            tunnel_port: u16::MAX,
            queues: 64,
            seen_bundle: u64::MAX,
            seen_revocations: 4,
            seen_digest: u64::MAX,
            records_of: Instance([255; 16]),
            records_position: u64::MAX,
        }),
        PeerMessage::Bundle("{}".into()),
        PeerMessage::Ranges(
            (0..256u16)
                .map(|range_id| AnnouncedRange {
                    range_id,
                    prefix: "fd00:1111:2222:3333:4444:5555:6666:7777/128"
                        .parse()
                        .unwrap(),
                })
                .collect(),
        ),
        PeerMessage::Digest(vec![1; 100]),
        PeerMessage::Enforcing(Enforcing {
            sequence: u64::MAX,
            hash: [255; 32],
        }),
        PeerMessage::Associations(Associations {
            generation: u64::MAX,
            keys: (0..64)
                .map(|i| TunnelKey {
                    spi: u32::MAX - i,
                    secret: TunnelSecret::from_bytes(vec![0xab; 32]),
                })
                .collect(),
        }),
        PeerMessage::InUse(u64::MAX),
        PeerMessage::Rekey(u64::MAX),
        PeerMessage::Records(RecordBatch {
            position: u64::MAX,
            records: vec![ByteBuf::from(vec![0xd2; MAX_RECORD]); MAX_BATCH],
        }),
        PeerMessage::RecordsSeen(u64::MAX),
        PeerMessage::Ping(u64::MAX),
        PeerMessage::Pong(Pong {
            number: u64::MAX,
            clock: UnixMillis(u64::MAX),
        }),
        PeerMessage::DigestChange(Box::new(DigestChange {
            base: [255; 32],
            before: vec![1; 40],
            after: vec![2; 66],
            sequence: u64::MAX,
            hash: [255; 32],
            removed: vec![0, u32::MAX],
            added: Vec::new(),
        })),
        PeerMessage::DigestWanted(u64::MAX),
        PeerMessage::DigestPiece(DigestPiece {
            sequence: u64::MAX,
            length: u64::MAX,
            offset: u64::MAX,
            bytes: vec![255; MAX_PIECE],
        }),
        PeerMessage::PieceWanted(PieceWanted {
            sequence: u64::MAX,
            offset: u64::MAX,
        }),
    ]
}

#[test]
fn the_largest_message_of_each_kind_survives_the_wire() {
    for (index, message) in samples().into_iter().enumerate() {
        let bytes = message.encode();
        assert_eq!(usize::from(bytes[0]), index + 1);
        assert!(bytes.len() <= MAX_MESSAGE);
        assert_eq!(PeerMessage::decode(&bytes), Ok(Some(message)));
    }
}

#[test]
fn limits_hold_before_and_after_decoding() {
    for kind in 0..=255 {
        let mut long = vec![0; limit(kind) + 2];
        long[0] = kind;
        assert_eq!(
            PeerMessage::decode(&long),
            Err(MessageError::TooLarge {
                kind,
                length: limit(kind) + 1,
                limit: limit(kind)
            })
        );
    }
    assert_eq!(PeerMessage::decode(&[]), Err(MessageError::Empty));
    assert_eq!(
        PeerMessage::decode(&[99, 1, 2]),
        Ok(None),
        "from the future"
    );
    let key = |spi, length| TunnelKey {
        spi,
        secret: TunnelSecret::from_bytes(vec![1; length]),
    };
    for (keys, error) in [
        (vec![], MessageError::Malformed(6)),
        (vec![key(0, 16)], MessageError::Malformed(6)),
        (vec![key(1, 16), key(2, 24)], MessageError::Malformed(6)),
        (vec![key(1, 16); 65], MessageError::TooMany(6)),
    ] {
        let generation = 1;
        let message = PeerMessage::Associations(Associations { generation, keys });
        assert_eq!(PeerMessage::decode(&message.encode()), Err(error));
    }
    let mut trailing = PeerMessage::Ping(1).encode();
    trailing.push(0);
    assert_eq!(
        PeerMessage::decode(&trailing),
        Err(MessageError::Malformed(11))
    );
    assert_eq!(
        PeerMessage::decode(&[2, 0xff]),
        Err(MessageError::Malformed(2))
    );
}

/// Threat row 39.
#[test]
fn no_formatting_shows_a_key() {
    let shown = format!("{:?}", samples()[5]);
    assert!(shown.contains("TunnelSecret(32 bytes)"));
    // 0xab as `Vec<u8>` and as hexadecimal digits would show it.
    let lower = shown.to_lowercase();
    assert!(
        !lower.contains("171") && !lower.contains("ab, ab") && !lower.contains("abab"),
        "{shown}"
    );
}

proptest! {
    #[test]
    fn any_bytes_never_panic(kind in 0u8..18, mut bytes: Vec<u8>) {
        let _ = PeerMessage::decode(&bytes);
        bytes.insert(0, kind);
        let _ = PeerMessage::decode(&bytes);
    }

    #[test]
    fn changed_messages_never_panic(which: prop::sample::Index, at: prop::sample::Index, byte: u8) {
        let mut bytes = samples()[which.index(16)].encode();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(Some(message)) = PeerMessage::decode(&bytes) {
            prop_assert_eq!(PeerMessage::decode(&message.encode()), Ok(Some(message)));
        }
    }
}
