//! What is probably not meant in a folder, though every object of it can be read: rules that can never
//! decide, selectors that match nothing, names that nobody defines. Only warnings; for people, before
//! a change is merged.
//!
//! A folder that declares no pods of a cluster is not asked about that cluster's pods: they live elsewhere.

mod blame;
mod intents;
mod manifests;
mod names;
mod selectors;
mod shadows;

use std::{collections::BTreeSet, path::Path};

use identity::{Claims, TrustDomain};
use policy::model::ClusterMatch;

use crate::{
    Effect, FederationConfig, LoadError, Problem,
    fault::{FieldPath, MAX_FAULTS},
    folder::{Loaded, load_all},
    read::{Kind, Object},
};
use manifests::Manifest;

/// Everything that is wrong with the folder `dir`, and what is probably not meant, sorted.
///
/// # Errors
/// When there is no usable Federation.
pub fn lint(dir: &Path) -> Result<Vec<Problem>, LoadError> {
    let (federation, loaded) = load_all(dir)?;
    let mut problems: Vec<Problem> = Vec::new();
    let declared: Vec<Declared> = loaded.iter().map(Declared::of).collect();
    for (one, own) in loaded.iter().zip(&declared) {
        problems.extend(one.world.problems.iter().cloned());
        let manifests = manifests::policies(one, &federation);
        let linter = Linter {
            federation: &federation,
            own,
            all: &declared,
        };
        for manifest in &manifests {
            linter.policy(manifest, &mut problems);
        }
        shadows::warn(one, &manifests, &mut problems);
    }
    problems.sort();
    problems.dedup();
    Ok(problems)
}

/// What the objects of one cluster define.
struct Declared {
    name: String,
    trust_domain: TrustDomain,
    /// The pods that have an identity.
    pods: Vec<Claims>,
    namespaces: BTreeSet<String>,
    /// Service accounts, of any namespace.
    accounts: BTreeSet<String>,
}

impl Declared {
    fn of(loaded: &Loaded) -> Self {
        let world = &loaded.world;
        let trust_domain = world.cluster.trust_domain.clone();
        let pods = world.workloads.iter();
        let mut namespaces = BTreeSet::new();
        let mut accounts = BTreeSet::new();
        for (key, accepted) in loaded.store.objects() {
            match key.kind {
                Kind::Namespace => namespaces.insert(key.name.clone()),
                Kind::Pod | Kind::ServiceAccount => namespaces.insert(key.namespace.clone()),
                _ => false,
            };
            match &accepted.object {
                Object::ServiceAccount => accounts.insert(key.name.clone()),
                Object::Pod(pod) => accounts.insert(pod.service_account.clone()),
                _ => false,
            };
        }
        Self {
            name: world.cluster.name.clone(),
            pods: pods.filter_map(|w| w.claims(&trust_domain).ok()).collect(),
            trust_domain,
            namespaces,
            accounts,
        }
    }
}

/// Looks at the policies of one cluster.
#[derive(Clone, Copy)]
struct Linter<'a> {
    federation: &'a FederationConfig,
    own: &'a Declared,
    all: &'a [Declared],
}

impl<'a> Linter<'a> {
    fn policy(self, manifest: &Manifest<'_>, problems: &mut Vec<Problem>) {
        let mut found = Warnings::default();
        self.names(manifest, &mut found);
        self.selectors(manifest, &mut found);
        self.intents(manifest, &mut found);
        let told = found.list.into_iter().take(MAX_FAULTS);
        problems.extend(told.map(|warning| manifest.problem(warning)));
    }

    /// The clusters that `clusters` looks at.
    fn looked_at(self, clusters: &ClusterMatch) -> Vec<&'a Declared> {
        let own = &self.own.trust_domain;
        let fits = |one: &&Declared| match clusters {
            ClusterMatch::Own => one.trust_domain == *own,
            ClusterMatch::Any => true,
            ClusterMatch::Remote => one.trust_domain != *own,
            ClusterMatch::Listed(listed) => listed.contains(&one.trust_domain),
        };
        self.all.iter().filter(fits).collect()
    }
}

/// One thing that is probably not meant.
struct Warning {
    path: FieldPath,
    message: String,
    expected: String,
}

/// What was found in one object.
#[derive(Default)]
struct Warnings {
    list: Vec<Warning>,
    /// Where the reason that nothing matches was told already.
    explained: BTreeSet<String>,
}

impl Warnings {
    fn add(&mut self, path: FieldPath, message: String, expected: String) {
        self.list.push(Warning {
            path,
            message,
            expected,
        });
    }

    /// What matches nothing at `path` needs no other reason.
    fn explain(&mut self, path: &FieldPath) {
        self.explained.insert(path.to_string());
    }

    fn is_explained(&self, path: &FieldPath) -> bool {
        self.explained.contains(&path.to_string())
    }
}

/// `a, b or c`, short.
fn some_of<'w>(words: impl IntoIterator<Item = &'w str>) -> String {
    const MOST: usize = 8;
    let words: BTreeSet<&str> = words.into_iter().collect();
    let listed: Vec<&str> = words.iter().copied().take(MOST).collect();
    match (listed.len(), words.len()) {
        (0, _) => String::new(),
        (1, _) => listed.concat(),
        (listed_count, all) if listed_count < all => {
            format!(
                "one of {} and {} more",
                listed.join(", "),
                all - listed_count
            )
        }
        _ => format!("one of {}", listed.join(", ")),
    }
}

/// `, did you mean x?` where one of `words` is near.
fn hint<'w>(word: &str, words: impl IntoIterator<Item = &'w str>) -> String {
    let words: Vec<&str> = words.into_iter().filter(|w| *w != word).collect();
    let near = crate::suggest::nearest(word, &words);
    near.map_or_else(String::new, |near| format!(", did you mean {near}?"))
}

impl Problem {
    fn warning(place: (&str, Option<u32>), object: String, warning: Warning) -> Self {
        Self {
            file: place.0.to_owned(),
            line: place.1,
            object,
            field_path: warning.path.to_string(),
            message: warning.message,
            expected: warning.expected,
            effect: Effect::Warning,
        }
    }
}
