//! Packets that scapy sealed open here, and what is sealed here is bit for bit what scapy seals.
//! tests/vectors/psp.py makes the vectors.
#![allow(missing_docs, clippy::unwrap_used)]

use landbridge_gateway_core::{
    Frame,
    psp::{AssociationKey, ReceiveAssociation, SendAssociation},
};
use policy::DropReason;
use wire::psp::Header;

struct Vector {
    name: String,
    key: AssociationKey,
    header: Header,
    inner: Vec<u8>,
    packet: Vec<u8>,
}

fn vectors() -> Vec<Vector> {
    let json: serde_json::Value = serde_json::from_str(include_str!("vectors/psp.json")).unwrap();
    let bytes = |v: &serde_json::Value| hex::decode(v.as_str().unwrap()).unwrap();
    json.as_array()
        .unwrap()
        .iter()
        .map(|v| {
            let packet = bytes(&v["packet"]);
            let header = Header::parse(&packet).unwrap();
            assert_eq!(u64::from(header.spi), v["spi"].as_u64().unwrap());
            assert_eq!(header.iv.to_string(), v["iv"].as_str().unwrap());
            assert_eq!(
                u64::from(header.crypt_offset),
                v["crypt_offset"].as_u64().unwrap()
            );
            let key = AssociationKey::from_bytes(&bytes(&v["key"])).unwrap();
            let (name, inner) = (v["name"].to_string(), bytes(&v["inner"]));
            Vector {
                name,
                key,
                header,
                inner,
                packet,
            }
        })
        .collect()
}

#[test]
fn packets_of_scapy_open_once() {
    let vectors = vectors();
    assert_eq!(vectors.len(), 6);
    for v in vectors {
        let association = ReceiveAssociation::new(v.header.spi, &v.key);
        let open = || {
            let mut memory = v.packet.clone();
            let mut frame = Frame::new(&mut memory, 0..v.packet.len()).unwrap();
            association
                .open(&v.header, &mut frame)
                .map(|()| frame.packet().to_vec())
        };
        assert_eq!(open().as_ref(), Ok(&v.inner), "{}", v.name);
        assert_eq!(open(), Err(DropReason::TunnelReplay), "{}", v.name);
    }
}

#[test]
fn what_we_seal_is_what_scapy_seals() {
    // The counter begins at 1, so the first vectors of a key are within reach.
    for v in vectors()
        .iter()
        .filter(|v| v.header.crypt_offset == 0 && v.header.iv <= 2)
    {
        let association = SendAssociation::new(v.header.spi, &v.key);
        let mut sealed = Vec::new();
        for _ in 0..v.header.iv {
            let mut memory = vec![0; 2048];
            memory[128..128 + v.inner.len()].copy_from_slice(&v.inner);
            let mut frame = Frame::new(&mut memory, 128..128 + v.inner.len()).unwrap();
            association.seal(&mut frame).unwrap();
            sealed = frame.packet().to_vec();
        }
        assert_eq!(sealed, v.packet, "{}", v.name);
    }
}
