//! A simulator that finds nothing proves nothing: each check of the product is switched off once, and
//! the simulator must catch it within 1,000 seeds. `cargo test -p landbridge-sim --features faults
//! --test faults -- --nocapture` prints which seed and which check did.

use std::time::{Duration, Instant};

use identity::fault::{self, Fault};
use landbridge_sim::seeds;

/// The seeds that a fault may take.
const SEEDS: u64 = 1000;

fn is_caught(fault: Fault) {
    let begun = Instant::now();
    fault::set(Some(fault));
    let caught = (0..SEEDS).find_map(|seed| Some((seed, seeds::run(&seeds::plan(seed)).err()?)));
    fault::set(None);
    let Some((seed, failed)) = caught else {
        panic!("{fault:?} is not seen in {SEEDS} seeds");
    };
    let seconds = begun.elapsed().as_secs_f32();
    println!("{fault:?}: seed {seed}, {seconds:.1} s: {}", failed.failure);
    // The same seed is fine without it.
    assert!(seeds::run(&seeds::plan(seed)).is_ok(), "{fault:?}: {seed}");
}

/// A failure of a hundred transitions is cut down to the few that it needs.
#[test]
fn what_fails_is_cut_down() {
    fault::set(Some(Fault::AgentIgnoresEpoch));
    let failed = (0..SEEDS).find_map(|seed| seeds::run(&seeds::plan(seed)).err());
    let failed = failed.expect("it is caught");
    let before = failed.plan.steps.len();
    let least = failed.shrunk(Duration::from_secs(20));
    println!("{before} transitions become these:\n{least}");
    let after = least.plan.steps.len();
    assert!(before > 50 && (1..=6).contains(&after), "{before} {after}");
    // None of them can be missed, and without the fault they are harmless.
    let numbers = least.plan.numbers();
    for gone in &numbers {
        let others: Vec<_> = numbers.iter().copied().filter(|n| n != gone).collect();
        let outcome = seeds::run(&least.plan.only(&others));
        let place = outcome.err().map(|other| other.failure.place);
        assert_ne!(place.as_ref(), Some(&least.failure.place), "without {gone}");
    }
    fault::set(None);
    assert!(seeds::run(&least.plan).is_ok());
}

macro_rules! faults {
    ($($test:ident: $fault:ident,)*) => {
        $(
            #[test]
            fn $test() {
                is_caught(Fault::$fault);
            }
        )*

        /// None is forgotten.
        const _: fn(Fault) = |fault| match fault {
            $(Fault::$fault => {})*
        };
    };
}

faults! {
    transcript_without_destination: TranscriptWithoutDestination,
    replay_cache_off: ReplayCacheOff,
    gateway_ignores_epoch: GatewayIgnoresEpoch,
    agent_ignores_epoch: AgentIgnoresEpoch,
    gateway_asks_other_port: GatewayAsksOtherPort,
    agent_asks_other_port: AgentAsksOtherPort,
    gateway_skips_policy: GatewaySkipsPolicy,
    agent_skips_policy: AgentSkipsPolicy,
    confirm_skipped: ConfirmSkipped,
    reply_unchecked: ReplyUnchecked,
    proof_unchecked: ProofUnchecked,
    records_ignored: RecordsIgnored,
    restored_unjudged: RestoredUnjudged,
    marker_of_pod_taken: MarkerOfPodTaken,
    inner_source_unchecked: InnerSourceUnchecked,
    tunnel_replayed: TunnelReplayed,
    old_bundle_taken: OldBundleTaken,
    old_digest_taken: OldDigestTaken,
    old_revocations_taken: OldRevocationsTaken,
    revocation_ignored: RevocationIgnored,
    limits_ignored: LimitsIgnored,
    offer_ignored: OfferIgnored,
    whole_digest_told: WholeDigestTold,
    all_records_told: AllRecordsTold,
    offer_told_once: OfferToldOnce,
}
