//! The issuer and the agents of its nodes, in virtual time.
#![allow(clippy::unwrap_used, missing_docs)]

mod credentials;
mod hostile;
mod links;
mod records;
mod restricted;
mod rotated;
mod world;

use identity::VerifiedRecord;
use peering::member::MemberEvent;
use world::{World, domain};

fn own_records(world: &World) -> Vec<VerifiedRecord> {
    let east = world.bundles.bundle(&domain("east")).unwrap();
    world
        .issuer
        .own_records(0)
        .map(|(_, record)| record.verify(east, world.now().unix).unwrap())
        .collect()
}

fn problems(world: &World, node: &str) -> Vec<String> {
    let events = &world.agents[node].events;
    let words = |event: &MemberEvent| match event {
        MemberEvent::Problem(words) => Some(words.clone()),
        _ => None,
    };
    events.iter().filter_map(words).collect()
}
