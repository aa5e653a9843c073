//! What this process may do beyond what its user may (capabilities(7)).
//!
//! Capabilities belong to threads: what is given up before a thread starts, the thread never has.

use std::io;

pub use rustix::thread::CapabilitySet;
use rustix::thread::{
    CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

/// From now on this thread, and what it starts, has at most `wanted`, and no program that it executes
/// gets more.
///
/// # Errors
/// What the kernel answered.
pub fn keep(wanted: CapabilitySet) -> io::Result<()> {
    set_no_new_privs(true)?;
    let had = capabilities(None)?;
    if had.effective.contains(CapabilitySet::SETPCAP) {
        for capability in CapabilitySet::all().difference(wanted).iter() {
            // The kernel may be older than the list.
            if capability_is_in_bounding_set(capability).unwrap_or(false) {
                remove_capability_from_bounding_set(capability)?;
            }
        }
    }
    clear_ambient_capability_set()?;
    let kept = had.permitted.intersection(wanted);
    set_capabilities(
        None,
        CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: CapabilitySet::empty(),
        },
    )?;
    Ok(())
}

/// Whether this thread may do it now.
#[must_use]
pub fn has(wanted: CapabilitySet) -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(wanted))
}
