//! Can a token that nobody made open anything, or cost a signature check?

use policy::DropReason;
use rand_chacha::{
    ChaCha20Rng,
    rand_core::{Rng, SeedableRng},
};

use super::*;

#[test]
fn row_1_forged_tokens_open_nothing_and_cost_no_signature() {
    let (mut a, mut b, conn) = in_cluster();
    let valid = out(&mut a, &conn.syn(), at(0));
    let token = tcp_payload(&valid).to_vec();
    let mut rng = ChaCha20Rng::seed_from_u64(7);
    let mut noise = vec![0; token.len()];
    for _ in 0..20_000 {
        rng.fill_bytes(&mut noise);
        noise[..8].copy_from_slice(&token[..8]);
        assert!(matches!(
            to_pod(&mut b, &with_payload(&valid, &noise), 1),
            Handled::Drop(_)
        ));
    }
    // Another key id makes the proof unknown, not wrong: the HELLO is genuine all the same, and is
    // let in by the bucket for those without proof.
    let key_id = HEADER * 8..(HEADER + 8) * 8;
    for bit in (0..token.len() * 8).filter(|bit| !key_id.contains(bit)) {
        let mut flipped = token.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let handled = to_pod(&mut b, &with_payload(&valid, &flipped), 1);
        assert!(
            matches!(handled, Handled::Drop(_)),
            "bit {bit} of the token: {handled:?}"
        );
    }
    assert_eq!((b.half_open().1, b.signature_checks()), (0, 0));
    into(&mut b, &valid, at(2));
}

/// Whoever sees a SYN can copy its credential into a newer HELLO. Without a proof that holds it may
/// not take the place of one that has it, or the connection would never open.
#[test]
fn row_1_an_unproven_hello_does_not_displace_a_proven_one() {
    let (mut a, mut b, conn) = in_cluster();
    let syn = out(&mut a, &conn.syn(), at(0));
    into(&mut b, &syn, at(1));
    let mut forged = tcp_payload(&syn).to_vec();
    // Another nonce and a later time.
    forged[8] ^= 1;
    forged[24..32].copy_from_slice(&(START + 29_000).to_be_bytes());
    let unknown_key = HEADER..HEADER + 8;
    forged[unknown_key].fill(0);
    let refused = dropped(to_pod(&mut b, &with_payload(&syn, &forged), 2));
    assert_eq!(refused, DropReason::BadProof);
    let syn_ack = out(&mut b, &conn.syn_ack(), at(3));
    into(&mut a, &syn_ack, at(4));
    let ack = out(&mut a, &conn.ack(), at(5));
    into(&mut b, &ack, at(6));
}
