//! Texts -> a world, with memory: an object that cannot be read any more stays as it was accepted
//! last, while every other object goes on.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
};

use crate::{
    ClusterConfig, Effect, FederationConfig, Problem, World, assemble,
    documents::{Parsed, parse},
    files::{FEDERATION_FILE, Files, Text},
    placed::{Addresses, Places},
    read::{Kind, Object, ObjectKey, closed},
};

/// What was accepted of one cluster.
#[derive(Debug)]
pub(crate) struct Store {
    cluster: String,
    federation: Option<FederationConfig>,
    /// Clusters that were joined, which the Federation need not list.
    joined: Vec<ClusterConfig>,
    objects: BTreeMap<Arc<ObjectKey>, Accepted>,
    /// The text of each file and what it says, so that saving one file parses one file.
    parsed: BTreeMap<String, (String, Vec<Parsed>)>,
    parsed_for: Option<FederationConfig>,
    /// A pod that is added does not take an address away.
    pub(crate) addresses: Addresses,
    is_first: bool,
}

/// An object in force.
#[derive(Clone, Debug)]
pub(crate) struct Accepted {
    pub object: Object,
    pub file: String,
    /// The line its document begins with, counted from 1.
    pub line: u32,
}

/// Why there is no world at all.
#[derive(Debug)]
pub(crate) enum NoWorld {
    /// There is no Federation, and these are the reasons.
    Refused(Vec<Problem>),
    /// The Federation has no such cluster.
    NoSuchCluster(FederationConfig),
}

impl Store {
    pub fn new(cluster: &str) -> Self {
        Self {
            cluster: cluster.to_owned(),
            federation: None,
            joined: Vec::new(),
            objects: BTreeMap::new(),
            parsed: BTreeMap::new(),
            parsed_for: None,
            addresses: Addresses::new(),
            is_first: true,
        }
    }

    /// From the next load on these are known too; whether they are others than before.
    pub fn set_joined(&mut self, joined: Vec<ClusterConfig>) -> bool {
        let differs = self.joined != joined;
        self.joined = joined;
        differs
    }

    /// The world that `files` describe.
    pub fn load(&mut self, files: &Files) -> Result<World, NoWorld> {
        let mut problems = Vec::new();
        self.load_federation(files.federation.as_ref(), &mut problems);
        let federation = self.members(FEDERATION_FILE, &mut problems)?;
        match &files.manifests {
            Ok(manifests) => {
                self.parse(manifests, &federation);
                let mut round = Round::new(self);
                for (file, text) in manifests {
                    match (text, self.parsed.get(file)) {
                        (Ok(_), Some((_, parsed))) => {
                            parsed.iter().for_each(|p| round.document(file, p));
                        }
                        (Err(error), _) => round.unreadable(file, error),
                        // Every text was parsed above.
                        (Ok(_), None) => {}
                    }
                }
                let (objects, found) = round.finish();
                self.objects = objects;
                problems.extend(found);
                self.is_first = false;
            }
            Err(error) => problems.push(Problem {
                file: self.cluster.clone(),
                line: None,
                object: "the cluster's folder".into(),
                field_path: String::new(),
                message: format!("cannot be read: {error}"),
                expected: String::new(),
                effect: if self.is_first {
                    Effect::NotInForce
                } else {
                    Effect::KeptPrevious
                },
            }),
        }
        self.world(federation, problems, Places::Allotted)
    }

    /// The Federation with the clusters that were joined, as this cluster sees it. What is wrong with those
    /// stands at `place`.
    pub fn members(
        &self,
        place: &str,
        problems: &mut Vec<Problem>,
    ) -> Result<FederationConfig, NoWorld> {
        let Some(mut federation) = self.federation.clone() else {
            return Err(NoWorld::Refused(mem::take(problems)));
        };
        federation.seen_from(&self.cluster);
        for cluster in &self.joined {
            problems.extend(federation.join(cluster).err().map(|message| Problem {
                file: place.into(),
                line: None,
                object: format!("the cluster {} that was joined", cluster.name),
                field_path: String::new(),
                message,
                expected: "a name, a trust domain and pod ranges that nobody else has".into(),
                effect: Effect::NotInForce,
            }));
        }
        match federation.cluster(&self.cluster) {
            Some(_) => Ok(federation),
            None => Err(NoWorld::NoSuchCluster(federation)),
        }
    }

    /// The world of all that is accepted.
    pub fn world(
        &mut self,
        federation: FederationConfig,
        problems: Vec<Problem>,
        places: Places,
    ) -> Result<World, NoWorld> {
        let cluster = self.cluster.clone();
        let world = assemble::world(federation, &cluster, self, problems, places);
        world.ok_or_else(|| NoWorld::Refused(Vec::new()))
    }

    /// Takes `federation` in place of the one before.
    pub fn set_federation(&mut self, federation: FederationConfig) {
        self.federation = Some(federation);
    }

    /// Takes one object, which is called `place` in problems, and leaves all others as they are; says what became
    /// of it, and whether anything is in force now that was not.
    pub fn put(&mut self, place: &str, parsed: &Parsed) -> (Effect, bool) {
        let Some(key) = &parsed.key else {
            return (Effect::NotInForce, false);
        };
        let before = self.objects.get(key);
        let Some(object) = &parsed.object else {
            let effect = match before {
                Some(before) if before.object.is_closed() => Effect::Closed,
                Some(_) => Effect::KeptPrevious,
                None => {
                    let closed = closed(key).filter(|_| self.is_first);
                    let Some(object) = closed else {
                        return (Effect::NotInForce, false);
                    };
                    self.objects
                        .insert(key.clone().into(), accepted(place, parsed, object));
                    return (Effect::Closed, true);
                }
            };
            return (effect, false);
        };
        if before.is_some_and(|before| before.object == *object) {
            return (Effect::Warning, false);
        }
        let object = accepted(place, parsed, object.clone());
        self.objects.insert(key.clone().into(), object);
        (Effect::Warning, true)
    }

    /// Forgets one object; whether it was in force.
    pub fn take_out(&mut self, key: &ObjectKey) -> bool {
        self.objects.remove(key).is_some()
    }

    /// From now on an object that cannot be read is a new one, and closes nothing.
    pub fn has_begun(&mut self) {
        self.is_first = false;
    }

    /// The world that `documents` describe, each with what it is called in problems. Nothing was accepted
    /// before.
    pub fn of_objects(
        mut federation: FederationConfig,
        cluster: &str,
        documents: &[(String, Parsed)],
    ) -> Option<World> {
        let mut store = Self::new(cluster);
        let mut round = Round::new(&store);
        for (file, parsed) in documents {
            round.document(file, parsed);
        }
        let (objects, problems) = round.finish();
        store.objects = objects;
        federation.seen_from(cluster);
        assemble::world(federation, cluster, &mut store, problems, Places::Declared)
    }

    pub fn objects(&self) -> &BTreeMap<Arc<ObjectKey>, Accepted> {
        &self.objects
    }

    /// The objects of these kinds.
    pub fn of(
        &self,
        kinds: impl IntoIterator<Item = Kind>,
    ) -> impl Iterator<Item = (&Arc<ObjectKey>, &Accepted)> {
        kinds.into_iter().flat_map(|kind| {
            let first = ObjectKey {
                kind,
                namespace: String::new(),
                name: String::new(),
            };
            let from = self.objects.range(first..);
            from.take_while(move |(key, _)| key.kind == kind)
        })
    }

    /// All objects but the pods, of which there may be many.
    pub fn but_pods(&self) -> impl Iterator<Item = (&Arc<ObjectKey>, &Accepted)> {
        let are_others = |kind: &Kind| !matches!(kind, Kind::Pod | Kind::ServiceAccount);
        self.of(Kind::ALL.into_iter().filter(are_others))
    }

    /// Parses what changed: files, or all of them when the Federation did.
    fn parse(&mut self, manifests: &BTreeMap<String, Text>, federation: &FederationConfig) {
        if self.parsed_for.as_ref() != Some(federation) {
            self.parsed.clear();
            self.parsed_for = Some(federation.clone());
        }
        self.parsed.retain(|file, _| manifests.contains_key(file));
        for (file, text) in manifests {
            let Ok(text) = text else { continue };
            if self.parsed.get(file).is_some_and(|(old, _)| old == text) {
                continue;
            }
            let parsed = parse(text, Some(federation), &self.cluster);
            self.parsed.insert(file.clone(), (text.clone(), parsed));
        }
    }

    /// The last accepted Federation stays when there is no better one.
    fn load_federation(&mut self, text: Option<&Text>, problems: &mut Vec<Problem>) {
        let effect = match self.federation {
            Some(_) => Effect::KeptPrevious,
            None => Effect::NotInForce,
        };
        match read_federation(text, effect) {
            (Some(federation), found) => {
                self.federation = Some(federation);
                problems.extend(found);
            }
            (None, found) => problems.extend(found),
        }
    }
}

/// The Federation in `text`.
pub(crate) fn federation(text: Option<&Text>) -> Result<FederationConfig, Vec<Problem>> {
    let (federation, problems) = read_federation(text, Effect::NotInForce);
    federation.ok_or(problems)
}

/// The one Federation of `federation.yaml`, and what is wrong with it. Problems that refuse it have
/// `effect`.
fn read_federation(
    text: Option<&Text>,
    effect: Effect,
) -> (Option<FederationConfig>, Vec<Problem>) {
    let whole = |message: String, expected: &str| {
        let problem = Problem {
            file: FEDERATION_FILE.into(),
            line: None,
            object: "the file".into(),
            field_path: String::new(),
            message,
            expected: expected.into(),
            effect,
        };
        (None, vec![problem])
    };
    let text = match text {
        Some(Ok(text)) => text,
        Some(Err(error)) => return whole(error.clone(), ""),
        None => return whole("is missing".into(), "an object of kind Federation"),
    };
    let parsed = parse(text, None, "");
    let [parsed] = parsed.as_slice() else {
        let message = format!("holds {} objects", parsed.len());
        return whole(message, "one object, of kind Federation");
    };
    if let Some(key) = &parsed.key
        && key.kind != Kind::Federation
    {
        let message = format!("holds a {}", key.kind.word());
        return whole(message, "an object of kind Federation");
    }
    let problems = parsed.problems(FEDERATION_FILE, effect).collect();
    match &parsed.object {
        Some(Object::Federation(federation)) => (Some(federation.clone()), problems),
        _ => (None, problems),
    }
}

/// One reading of all files.
struct Round<'a> {
    store: &'a Store,
    objects: BTreeMap<Arc<ObjectKey>, Accepted>,
    /// Files of which nobody can say what they hold.
    unclear: BTreeSet<String>,
    problems: Vec<Problem>,
}

impl<'a> Round<'a> {
    fn new(store: &'a Store) -> Self {
        Self {
            store,
            objects: BTreeMap::new(),
            unclear: BTreeSet::new(),
            problems: Vec::new(),
        }
    }

    fn unreadable(&mut self, file: &str, error: &str) {
        self.unclear.insert(file.to_owned());
        self.problems.push(Problem {
            file: file.to_owned(),
            line: None,
            object: "the file".into(),
            field_path: String::new(),
            message: error.to_owned(),
            expected: String::new(),
            effect: self.effect_on_file(file),
        });
    }

    fn document(&mut self, file: &str, parsed: &Parsed) {
        let key = parsed.key.as_ref();
        if let Some(key) = key
            && !parsed.is_guess
            && self.is_misplaced(key, file, parsed)
        {
            return;
        }
        let effect = match (key, &parsed.object) {
            (Some(key), Some(object)) => {
                let accepted = accepted(file, parsed, object.clone());
                self.objects.insert(key.clone().into(), accepted);
                Effect::Warning
            }
            _ => self.refuse(file, parsed),
        };
        self.problems.extend(parsed.problems(file, effect));
    }

    /// A Federation outside its file, or an object that another document defines.
    fn is_misplaced(&mut self, key: &ObjectKey, file: &str, parsed: &Parsed) -> bool {
        let (message, expected) = match self.objects.get(key) {
            _ if key.kind == Kind::Federation => {
                let message = "stands in a cluster's folder".to_owned();
                (message, FEDERATION_FILE.to_owned())
            }
            Some(first) => {
                let message = format!("is also defined in {} line {}", first.file, first.line);
                (message, "each object once; the first counts".to_owned())
            }
            None => return false,
        };
        self.problems.push(Problem {
            file: file.to_owned(),
            line: (parsed.line > 0).then_some(parsed.line),
            object: key.to_string(),
            field_path: String::new(),
            message,
            expected,
            effect: Effect::NotInForce,
        });
        true
    }

    /// What becomes of an object that cannot be read.
    fn refuse(&mut self, file: &str, parsed: &Parsed) -> Effect {
        let known = parsed.key.as_ref();
        let known = known.filter(|k| !parsed.is_guess || self.store.objects.contains_key(*k));
        if known.is_none() && !parsed.is_foreign {
            self.unclear.insert(file.to_owned());
        }
        let Some(key) = &parsed.key else {
            return self.effect_on_file(file);
        };
        if self.objects.contains_key(key) {
            return Effect::NotInForce;
        }
        if let Some(accepted) = self.store.objects.get(key) {
            self.objects.insert(key.clone().into(), accepted.clone());
            return match accepted.object.is_closed() {
                true => Effect::Closed,
                false => Effect::KeptPrevious,
            };
        }
        if !self.store.is_first {
            return self.effect_on_file(file);
        }
        match closed(key) {
            Some(object) => {
                self.objects
                    .insert(key.clone().into(), accepted(file, parsed, object));
                Effect::Closed
            }
            None => Effect::NotInForce,
        }
    }

    /// What becomes of the objects of a file of which nobody can say what it holds.
    fn effect_on_file(&self, file: &str) -> Effect {
        let is_unclear = self.unclear.contains(file);
        match is_unclear && self.store.objects.values().any(|a| a.file == file) {
            true => Effect::KeptPrevious,
            false => Effect::NotInForce,
        }
    }

    /// Nobody knows what an unclear file wanted to say of the objects that it used to hold.
    fn finish(mut self) -> (BTreeMap<Arc<ObjectKey>, Accepted>, Vec<Problem>) {
        for (key, accepted) in &self.store.objects {
            if self.unclear.contains(&accepted.file) && !self.objects.contains_key(key) {
                self.objects.insert(key.clone(), accepted.clone());
            }
        }
        (self.objects, self.problems)
    }
}

fn accepted(file: &str, parsed: &Parsed, object: Object) -> Accepted {
    Accepted {
        object,
        file: file.to_owned(),
        line: parsed.line,
    }
}
