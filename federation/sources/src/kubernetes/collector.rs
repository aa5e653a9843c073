//! What the watches tell -> a world: an object that cannot be read stays as it was accepted last, a server
//! that says nothing leaves all as it was.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{
    PLACE,
    kinds::Asked,
    report::{About, Report, Reports},
    watch::{Told, Trouble},
};
use crate::{
    ClusterConfig, Effect, FederationConfig, Problem, World, documents,
    placed::Places,
    read::{Kind, Object, ObjectKey, key},
    store::{NoWorld, Store},
};

/// All that is known of the objects.
pub(super) struct Collector {
    cluster: String,
    store: Store,
    listings: BTreeMap<Kind, Listing>,
    /// The Federations by name, and what is wrong with them.
    federations: BTreeMap<String, (Option<FederationConfig>, Vec<Problem>)>,
    /// The name of the one in force.
    in_force: Option<String>,
    /// The texts of objects that may mean something else when there are other clusters.
    texts: BTreeMap<ObjectKey, Box<str>>,
    problems: BTreeMap<ObjectKey, Vec<Problem>>,
    /// What there is to know of objects beside what they say, but of pods and accounts.
    about: BTreeMap<ObjectKey, About>,
    /// A policy speaks of nodes, and nobody asked for them yet.
    lacks_nodes: bool,
    /// What objects are read for.
    members: Option<FederationConfig>,
    has_begun: bool,
    is_changed: bool,
}

/// What is known of all objects of a kind.
#[derive(Default)]
struct Listing {
    /// They were all told once.
    is_complete: bool,
    /// What was told of a list that is not complete yet.
    seen: Option<BTreeSet<ObjectKey>>,
    trouble: Option<Trouble>,
}

/// What is to be done after something was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Nothing,
    /// The objects whose texts are not kept are to be listed again.
    ListAgain(Kind),
}

/// Why there is no world yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lack {
    /// Nothing was told yet of these, or what is wrong.
    Kinds(Vec<Kind>),
    /// There is no Federation that this cluster is in.
    Federation(String),
}

impl Collector {
    pub fn new(cluster: &str, asked: &[Asked], joined: Vec<ClusterConfig>) -> Self {
        let mut store = Store::new(cluster);
        store.set_joined(joined);
        let kinds = asked.iter().map(|asked| asked.kind);
        Self {
            cluster: cluster.to_owned(),
            store,
            listings: kinds.map(|kind| (kind, Listing::default())).collect(),
            federations: BTreeMap::new(),
            in_force: None,
            texts: BTreeMap::new(),
            problems: BTreeMap::new(),
            about: BTreeMap::new(),
            lacks_nodes: false,
            members: None,
            has_begun: false,
            is_changed: true,
        }
    }

    /// Whether objects can be read: it is known which clusters there are.
    pub fn knows_members(&self) -> bool {
        self.members.is_some()
    }

    /// Whether a world would be another than the last.
    pub fn is_changed(&self) -> bool {
        self.is_changed
    }

    pub fn take(&mut self, kind: Kind, told: Told) -> Next {
        let listing = self.listings.entry(kind).or_default();
        match told {
            Told::Begins => listing.seen = Some(BTreeSet::new()),
            Told::Is(mut tree) => {
                let about = About::of(&tree);
                kind.trim(&mut tree);
                if let Some(key) = key(&tree) {
                    if !matches!(kind, Kind::Pod | Kind::ServiceAccount) {
                        // Another version of it is to be spoken of, even if it says the same.
                        let before = self.about.insert(key.clone(), about.clone());
                        self.is_changed |= before.is_none_or(|before| !before.is_as(&about));
                    }
                    if let Some(seen) = &mut listing.seen {
                        seen.insert(key.clone());
                    }
                    return self.put(key, &tree);
                }
            }
            Told::Gone(mut tree) => {
                kind.trim(&mut tree);
                if let Some(key) = key(&tree) {
                    return self.forget(&key);
                }
            }
            Told::Complete => {
                self.is_changed |= !listing.is_complete;
                listing.is_complete = true;
                let seen = listing.seen.take().unwrap_or_default();
                return self.forget_all_but(kind, &seen);
            }
            Told::Trouble(trouble) => {
                let trouble = Some(trouble);
                self.is_changed |= listing.trouble != trouble;
                listing.trouble = trouble;
            }
            Told::Well => self.is_changed |= listing.trouble.take().is_some(),
        }
        Next::Nothing
    }

    /// From now on these clusters are known too.
    pub fn set_joined(&mut self, joined: Vec<ClusterConfig>) -> Next {
        match self.store.set_joined(joined) {
            true => self.settle_members(),
            false => Next::Nothing,
        }
    }

    /// The world as it is known.
    pub fn world(&mut self) -> Result<World, Lack> {
        self.is_changed = false;
        let mut problems = Vec::new();
        let members = self.store.members(PLACE, &mut problems);
        let members = members.map_err(|lack| self.lack(lack))?;
        let lacking = self
            .listings
            .iter()
            .filter(|(_, listing)| !listing.is_complete);
        let lacking: Vec<Kind> = lacking.map(|(kind, _)| *kind).collect();
        if !lacking.is_empty() {
            return Err(Lack::Kinds(lacking));
        }
        problems.extend(self.problems.values().flatten().cloned());
        problems.extend(self.federation_problems());
        problems.extend(self.troubles());
        let with_accounts = self.listings.contains_key(&Kind::ServiceAccount);
        let places = Places::Watched { with_accounts };
        let world = self.store.world(members, problems, places);
        let world = world.map_err(|lack| self.lack(lack))?;
        if !self.has_begun {
            self.has_begun = true;
            self.store.has_begun();
        }
        Ok(world)
    }

    /// What stands in the way of hearing of objects.
    pub fn troubles(&self) -> Vec<Problem> {
        let mut kinds: BTreeMap<&Trouble, Vec<&str>> = BTreeMap::new();
        for (kind, listing) in &self.listings {
            if let Some(trouble) = &listing.trouble {
                kinds.entry(trouble).or_default().push(kind.word());
            }
        }
        let problem = |(trouble, kinds): (&Trouble, Vec<&str>)| Problem {
            file: PLACE.into(),
            line: None,
            object: format!("the API server, asked for {}", kinds.join(", ")),
            field_path: String::new(),
            message: match trouble {
                Trouble::Forbidden(words) => words.clone(),
                Trouble::Failed(words) => format!("does not answer: {words}"),
            },
            expected: match trouble {
                Trouble::Forbidden(_) => "a role that allows list and watch".into(),
                Trouble::Failed(_) => String::new(),
            },
            effect: match self.has_begun {
                true => Effect::KeptPrevious,
                false => Effect::NotInForce,
            },
        };
        kinds.into_iter().map(problem).collect()
    }

    fn put(&mut self, key: ObjectKey, tree: &Value) -> Next {
        if key.kind == Kind::Federation {
            let parsed = documents::object(tree, None, &self.cluster);
            let effect = Effect::NotInForce;
            let problems = parsed.problems(PLACE, effect).collect();
            let read = match parsed.object {
                Some(Object::Federation(read)) => Some(read),
                _ => None,
            };
            self.federations.insert(key.name, (read, problems));
            return self.settle_federation();
        }
        if key.kind.speaks_of_clusters() {
            self.texts.insert(key.clone(), tree.to_string().into());
        }
        self.read(key, tree);
        Next::Nothing
    }

    /// Whether a policy speaks of nodes, and they are to be told from now on; said once.
    pub fn begins_nodes(&mut self) -> bool {
        let begins = std::mem::take(&mut self.lacks_nodes);
        if begins {
            self.listings.entry(Kind::Node).or_default();
        }
        begins
    }

    fn read(&mut self, key: ObjectKey, tree: &Value) {
        let Some(members) = &self.members else { return };
        let parsed = documents::object(tree, Some(members), &self.cluster);
        if let Some(Object::Policy(draft)) = &parsed.object {
            self.lacks_nodes |= draft.names_nodes() && !self.listings.contains_key(&Kind::Node);
        }
        let (effect, is_other) = self.store.put(PLACE, &parsed);
        let problems: Vec<Problem> = parsed.problems(PLACE, effect).collect();
        let before = match problems.is_empty() {
            true => self.problems.remove(&key),
            false => self.problems.insert(key.clone(), problems.clone()),
        };
        self.is_changed |= is_other || before.unwrap_or_default() != problems;
    }

    /// What is to be said of the objects that `world` is made of.
    pub fn reports(&self, world: &World) -> Reports {
        let mut problems: BTreeMap<&str, Vec<&Problem>> = BTreeMap::new();
        for problem in &world.problems {
            problems.entry(&problem.object).or_default().push(problem);
        }
        let report = |(key, about): (&ObjectKey, &About)| {
            let of = problems.get(key.to_string().as_str());
            let report = Report::new(about, of.map_or(&[][..], Vec::as_slice));
            (key.clone(), report)
        };
        self.about.iter().map(report).collect()
    }

    fn forget(&mut self, key: &ObjectKey) -> Next {
        self.about.remove(key);
        if key.kind == Kind::Federation {
            self.federations.remove(&key.name);
            return self.settle_federation();
        }
        self.texts.remove(key);
        let had_problems = self.problems.remove(key).is_some();
        self.is_changed |= self.store.take_out(key) | had_problems;
        Next::Nothing
    }

    fn forget_all_but(&mut self, kind: Kind, seen: &BTreeSet<ObjectKey>) -> Next {
        if kind == Kind::Federation {
            let names: BTreeSet<&str> = seen.iter().map(|key| key.name.as_str()).collect();
            self.federations
                .retain(|name, _| names.contains(name.as_str()));
            return self.settle_federation();
        }
        let accepted = self.store.objects().keys().map(|key| &**key);
        let held = accepted.chain(self.problems.keys());
        let gone = held.filter(|key| key.kind == kind && !seen.contains(key));
        let gone: Vec<ObjectKey> = gone.cloned().collect();
        for key in gone {
            self.forget(&key);
        }
        Next::Nothing
    }

    /// Which Federation is in force: the one that is stays so while it can be read, also when it is deleted; else
    /// the first by name that has this cluster.
    fn settle_federation(&mut self) -> Next {
        self.is_changed = true;
        let current = self
            .in_force
            .as_ref()
            .and_then(|name| self.federations.get(name));
        let is_kept = current.is_some_and(|(_, problems)| !problems.is_empty());
        let has_us = |read: &&FederationConfig| read.cluster(&self.cluster).is_some();
        let chosen = match current {
            Some((Some(read), _)) => self.in_force.clone().map(|name| (name, read.clone())),
            _ if is_kept => None,
            _ => (self.federations.iter())
                .filter_map(|(name, (read, _))| Some((name.clone(), read.as_ref()?)))
                .find(|(_, read)| has_us(read))
                .map(|(name, read)| (name, read.clone())),
        };
        let Some((name, federation)) = chosen else {
            return Next::Nothing;
        };
        self.in_force = Some(name);
        self.store.set_federation(federation);
        self.settle_members()
    }

    /// Has all objects read anew when there are other clusters.
    fn settle_members(&mut self) -> Next {
        self.is_changed = true;
        let Ok(members) = self.store.members(PLACE, &mut Vec::new()) else {
            return Next::Nothing;
        };
        if self.members.as_ref() == Some(&members) {
            return Next::Nothing;
        }
        let own = |members: &FederationConfig| members.cluster(&self.cluster).cloned();
        let was = self.members.as_ref().and_then(own);
        let is_other = was.is_some() && was != own(&members);
        self.members = Some(members);
        let texts = std::mem::take(&mut self.texts);
        for (key, text) in &texts {
            // What was written here can be read.
            if let Ok(tree) = serde_json::from_str(text) {
                self.read(key.clone(), &tree);
            }
        }
        self.texts = texts;
        match is_other {
            true => Next::ListAgain(Kind::Pod),
            false => Next::Nothing,
        }
    }

    fn federation_problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (name, (_, found)) in &self.federations {
            let is_ours = self.in_force.as_ref() == Some(name);
            problems.extend(found.iter().cloned().map(|mut problem| {
                if is_ours && problem.effect == Effect::NotInForce {
                    problem.effect = Effect::KeptPrevious;
                }
                problem
            }));
            if let Some(in_force) = self.in_force.as_ref().filter(|_| !is_ours) {
                problems.push(federation_problem(
                    name,
                    &format!("Federation {in_force} is in force already, and a cluster is in one"),
                    "one Federation object: delete the other",
                    Effect::NotInForce,
                ));
            }
        }
        if let Some(in_force) = &self.in_force
            && !self.federations.contains_key(in_force)
        {
            problems.push(federation_problem(
                in_force,
                "was deleted, and no other has this cluster",
                "a Federation object",
                Effect::KeptPrevious,
            ));
        }
        problems
    }

    fn lack(&self, lack: NoWorld) -> Lack {
        let mut words: Vec<String> = match lack {
            NoWorld::Refused(problems) => problems.iter().map(ToString::to_string).collect(),
            NoWorld::NoSuchCluster(federation) => {
                vec![format!(
                    "Federation {} has no cluster {:?}",
                    federation.name, self.cluster
                )]
            }
        };
        for (name, (read, problems)) in &self.federations {
            words.extend(problems.iter().map(ToString::to_string));
            if read.is_some() {
                words.push(format!(
                    "Federation {name} has no cluster {:?}",
                    self.cluster
                ));
            }
        }
        if words.is_empty() {
            let is_told = self
                .listings
                .get(&Kind::Federation)
                .is_some_and(|l| l.is_complete);
            if !is_told {
                return Lack::Kinds(vec![Kind::Federation]);
            }
            words.push("there is no Federation object".into());
        }
        Lack::Federation(words.join("; "))
    }
}

fn federation_problem(name: &str, message: &str, expected: &str, effect: Effect) -> Problem {
    Problem {
        file: PLACE.into(),
        line: None,
        object: format!("Federation {name}"),
        field_path: String::new(),
        message: message.into(),
        expected: expected.into(),
        effect,
    }
}

/// A world that the gateway and agents can use, for a message about why there is none.
pub(super) fn told(lack: &Lack, troubles: &[Problem]) -> String {
    let mut words: Vec<String> = troubles.iter().map(ToString::to_string).collect();
    words.extend(match lack {
        Lack::Federation(words) => Some(words.clone()),
        Lack::Kinds(kinds) if words.is_empty() => {
            let kinds: Vec<&str> = kinds.iter().map(|kind| kind.word()).collect();
            Some(format!(
                "not heard yet of all objects of {}",
                kinds.join(", ")
            ))
        }
        Lack::Kinds(_) => None,
    });
    words.join("; ")
}
