//! A simulator that finds nothing proves nothing: each check of the product is switched off once, and
//! the simulator must catch it within 1,000 seeds. `cargo test -p landbridge-sim --features faults
//! --test faults -- --nocapture` prints which seed and which check did.

use std::time::Instant;

use identity::fault::{self, Fault};
use landbridge_sim::{seeds, trial};

/// The seeds that a fault may take.
const SEEDS: u64 = 1000;

fn is_caught(fault: Fault) {
    let begun = Instant::now();
    fault::set(Some(fault));
    let caught = (0..SEEDS).find_map(|seed| {
        let outcome = trial::quietly(|| seeds::run(seed));
        Some((seed, outcome.err()?))
    });
    fault::set(None);
    let Some((seed, failure)) = caught else {
        panic!("{fault:?} is not seen in {SEEDS} seeds");
    };
    let seconds = begun.elapsed().as_secs_f32();
    println!("{fault:?}: seed {seed}, {seconds:.1} s: {failure}");
    // The same seed is fine without it.
    seeds::run(seed);
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
}
