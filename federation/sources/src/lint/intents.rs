//! Team and Zones: services that no pod is of, members of zones that nobody defines, and rows that can never decide.

use std::collections::BTreeMap;

use policy::{
    Shadowed,
    model::{ClusterMatch, PolicyKind, PolicySet},
};
use serde_json::Value;

use super::{
    Linter, Warning, Warnings, manifests::Manifest, names::check_lists, shadows::can_never_decide,
};
use crate::{fault::FieldPath, read::Object};

impl Linter<'_> {
    pub(super) fn intents(self, manifest: &Manifest<'_>, found: &mut Warnings) {
        match &manifest.object {
            // A service that has no pods yet is one that nobody calls by its name.
            Object::Team(team) => {
                let path = FieldPath::of(&["spec", "services"]);
                for (index, tree) in manifest.list("services").enumerate() {
                    let name = tree.get("name").and_then(Value::as_str);
                    let Some(selector) = name.and_then(|name| team.services.get(name)) else {
                        continue;
                    };
                    if self.pods(selector).is_some_and(|pods| pods.is_empty()) {
                        self.nothing(selector, path.index(index), found);
                    }
                }
            }
            // Nobody in quarantine is as it should be: only names are looked at.
            Object::Zones(_) => {
                let zones = FieldPath::of(&["spec", "zones"]);
                for (index, zone) in manifest.list("zones").enumerate() {
                    let members = zone.get("members").and_then(Value::as_array);
                    let path = zones.index(index).key("members");
                    for (index, member) in members.into_iter().flatten().enumerate() {
                        let path = path.index(index);
                        let clusters = self.looked_at(&self.clusters(member));
                        check_lists(member, &path, &clusters, &path, found);
                    }
                }
            }
            _ => {}
        }
    }

    /// The clusters that a member names; any when it names none.
    fn clusters(self, member: &Value) -> ClusterMatch {
        let named = member.get("clusters").and_then(Value::as_array);
        let named = named.into_iter().flatten().filter_map(Value::as_str);
        let domains = named.filter_map(|name| {
            let cluster = self.federation.cluster(name)?;
            Some(cluster.trust_domain.clone())
        });
        let domains: Vec<_> = domains.collect();
        match domains.is_empty() {
            true => ClusterMatch::Any,
            false => ClusterMatch::Listed(domains),
        }
    }
}

/// How many policies a row of a zone matrix became, and by what those are decided that never decide.
#[derive(Default)]
pub(super) struct Rows<'s>(BTreeMap<(&'s str, &'s str), Vec<&'s Shadowed>>);

impl<'s> Rows<'s> {
    pub(super) fn add(&mut self, shadowed: &'s Shadowed) {
        let row = (shadowed.rule.policy.as_str(), shadowed.rule.rule.as_str());
        self.0.entry(row).or_default().push(shadowed);
    }

    /// The rows of which nothing is left.
    pub(super) fn warnings(
        &self,
        set: &PolicySet,
        manifest: &Manifest<'_>,
    ) -> impl Iterator<Item = Warning> {
        let rows = match &manifest.object {
            Object::Zones(zones) => zones.rows.as_slice(),
            _ => &[],
        };
        rows.iter().enumerate().filter_map(|(index, name)| {
            let shadowed = self.0.get(&(manifest.key.name.as_str(), name.as_str()))?;
            let policies = set.policies.iter();
            let own = policies
                .filter(|p| p.kind == PolicyKind::Zones && p.name == manifest.key.name)
                .filter(|p| p.rules.iter().any(|rule| rule.name == *name));
            let by = &shadowed.first()?.by;
            let path = FieldPath::of(&["spec", "rows"]).index(index);
            (shadowed.len() >= own.count()).then(|| can_never_decide(path, name, by))
        })
    }
}
