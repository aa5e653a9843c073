//! Texts -> a world, with memory: an object that cannot be read any more stays as it was accepted
//! last, while every other object goes on.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    Effect, FederationConfig, Problem, World, assemble,
    fault::Fault,
    files::{FEDERATION_FILE, Files, Text},
    read::{Kind, Object, ObjectKey, closed, guess, is_foreign, read},
    yaml::{self, Document},
};

/// What was accepted of one cluster.
#[derive(Debug)]
pub(crate) struct Store {
    cluster: String,
    federation: Option<FederationConfig>,
    objects: BTreeMap<ObjectKey, Accepted>,
    /// Who has which address: a pod that is added does not take it away.
    pub(crate) addresses: BTreeMap<IpAddr, ObjectKey>,
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
            objects: BTreeMap::new(),
            addresses: BTreeMap::new(),
            is_first: true,
        }
    }

    /// The world that `files` describe.
    pub fn load(&mut self, files: &Files) -> Result<World, NoWorld> {
        let mut problems = Vec::new();
        self.load_federation(files.federation.as_ref(), &mut problems);
        let Some(federation) = self.federation.clone() else {
            return Err(NoWorld::Refused(problems));
        };
        if federation.cluster(&self.cluster).is_none() {
            return Err(NoWorld::NoSuchCluster(federation));
        }
        match &files.manifests {
            Ok(manifests) => {
                let mut round = Round::new(self, &federation);
                for (file, text) in manifests {
                    round.file(file, text);
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
        let cluster = self.cluster.clone();
        let world = assemble::world(federation, &cluster, self, problems);
        world.ok_or_else(|| NoWorld::Refused(Vec::new()))
    }

    pub fn objects(&self) -> &BTreeMap<ObjectKey, Accepted> {
        &self.objects
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
    let documents = yaml::documents(text);
    let [document] = documents.as_slice() else {
        let message = format!("holds {} objects", documents.len());
        return whole(message, "one object, of kind Federation");
    };
    let place = Place {
        file: FEDERATION_FILE,
        document: *document,
        number: 1,
    };
    let tree = match yaml::tree(*document) {
        Ok(tree) => tree,
        Err(error) => {
            let key = guess(document.text);
            let problem = place.problem(key.as_ref(), error.fault, error.line, effect);
            return (None, vec![problem]);
        }
    };
    let reading = read(&tree, None, "");
    let key = reading.key;
    if let Some(key) = &key
        && key.kind != Kind::Federation
    {
        return whole(
            format!("holds a {}", key.kind.word()),
            "an object of kind Federation",
        );
    }
    let problem = |fault: Fault| {
        let effect = if fault.warning {
            Effect::Warning
        } else {
            effect
        };
        place.fault(key.as_ref(), fault, effect)
    };
    let problems = reading
        .faults
        .into_list()
        .into_iter()
        .map(problem)
        .collect();
    match reading.object {
        Some(Object::Federation(federation)) => (Some(federation), problems),
        _ => (None, problems),
    }
}

/// One reading of all files.
struct Round<'a> {
    store: &'a Store,
    federation: &'a FederationConfig,
    objects: BTreeMap<ObjectKey, Accepted>,
    /// Files of which nobody can say what they hold.
    unclear: BTreeSet<String>,
    problems: Vec<Problem>,
}

impl<'a> Round<'a> {
    fn new(store: &'a Store, federation: &'a FederationConfig) -> Self {
        Self {
            store,
            federation,
            objects: BTreeMap::new(),
            unclear: BTreeSet::new(),
            problems: Vec::new(),
        }
    }

    fn file(&mut self, file: &str, text: &Text) {
        match text {
            Ok(text) => {
                for (document, number) in yaml::documents(text).into_iter().zip(1..) {
                    self.document(Place {
                        file,
                        document,
                        number,
                    });
                }
            }
            Err(error) => {
                let had = self.store.objects.values().any(|a| a.file == file);
                self.unclear.insert(file.to_owned());
                self.problems.push(Problem {
                    file: file.to_owned(),
                    line: None,
                    object: "the file".into(),
                    field_path: String::new(),
                    message: error.clone(),
                    expected: String::new(),
                    effect: if had {
                        Effect::KeptPrevious
                    } else {
                        Effect::NotInForce
                    },
                });
            }
        }
    }

    fn document(&mut self, place: Place<'_>) {
        let tree = match yaml::tree(place.document) {
            Ok(tree) => tree,
            Err(error) => {
                let key = guess(place.document.text);
                let certain = key.as_ref().filter(|k| self.store.objects.contains_key(*k));
                if certain.is_none() {
                    self.unclear.insert(place.file.to_owned());
                }
                let effect = self.refuse(key.as_ref(), place);
                self.problems
                    .push(place.problem(key.as_ref(), error.fault, error.line, effect));
                return;
            }
        };
        let reading = read(&tree, Some(self.federation), &self.store.cluster);
        let key = reading.key.as_ref();
        if let Some(key) = key
            && self.is_misplaced(key, place)
        {
            return;
        }
        let effect = match (key, reading.object) {
            (Some(key), Some(object)) => {
                self.objects.insert(key.clone(), place.accepted(object));
                Effect::Warning
            }
            _ => {
                if key.is_none() && !is_foreign(&tree) {
                    self.unclear.insert(place.file.to_owned());
                }
                self.refuse(key, place)
            }
        };
        for fault in reading.faults.into_list() {
            let effect = if fault.warning {
                Effect::Warning
            } else {
                effect
            };
            self.problems.push(place.fault(key, fault, effect));
        }
    }

    /// A Federation outside its file, or an object that another document defines.
    fn is_misplaced(&mut self, key: &ObjectKey, place: Place<'_>) -> bool {
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
            file: place.file.to_owned(),
            line: Some(place.first_line()),
            object: key.to_string(),
            field_path: String::new(),
            message,
            expected,
            effect: Effect::NotInForce,
        });
        true
    }

    /// What becomes of an object that cannot be read.
    fn refuse(&mut self, key: Option<&ObjectKey>, place: Place<'_>) -> Effect {
        let Some(key) = key else {
            return self.effect_on_file(place.file);
        };
        if self.objects.contains_key(key) {
            return Effect::NotInForce;
        }
        if let Some(accepted) = self.store.objects.get(key) {
            let effect = match accepted.object.is_closed() {
                true => Effect::Closed,
                false => Effect::KeptPrevious,
            };
            self.objects.insert(key.clone(), accepted.clone());
            return effect;
        }
        if !self.store.is_first {
            return self.effect_on_file(place.file);
        }
        match closed(key) {
            Some(object) => {
                self.objects.insert(key.clone(), place.accepted(object));
                Effect::Closed
            }
            None => Effect::NotInForce,
        }
    }

    fn effect_on_file(&self, file: &str) -> Effect {
        let is_unclear = self.unclear.contains(file);
        match is_unclear && self.store.objects.values().any(|a| a.file == file) {
            true => Effect::KeptPrevious,
            false => Effect::NotInForce,
        }
    }

    /// Nobody knows what an unclear file wanted to say of the objects that it used to hold.
    fn finish(mut self) -> (BTreeMap<ObjectKey, Accepted>, Vec<Problem>) {
        for (key, accepted) in &self.store.objects {
            if self.unclear.contains(&accepted.file) && !self.objects.contains_key(key) {
                self.objects.insert(key.clone(), accepted.clone());
            }
        }
        (self.objects, self.problems)
    }
}

/// Where a document stands.
#[derive(Clone, Copy)]
struct Place<'a> {
    file: &'a str,
    document: Document<'a>,
    /// Counted from 1.
    number: usize,
}

impl Place<'_> {
    fn first_line(self) -> u32 {
        yaml::first_line(self.document)
    }

    fn accepted(self, object: Object) -> Accepted {
        Accepted {
            object,
            file: self.file.to_owned(),
            line: self.first_line(),
        }
    }

    fn fault(self, key: Option<&ObjectKey>, fault: Fault, effect: Effect) -> Problem {
        let line = yaml::line(self.document, &fault.path, fault.in_key);
        self.problem(key, fault, line, effect)
    }

    fn problem(
        self,
        key: Option<&ObjectKey>,
        fault: Fault,
        line: Option<u32>,
        effect: Effect,
    ) -> Problem {
        Problem {
            file: self.file.to_owned(),
            line: line.or_else(|| Some(self.first_line())),
            object: key.map_or_else(|| format!("document {}", self.number), ToString::to_string),
            field_path: fault.path.to_string(),
            message: fault.message,
            expected: fault.expected,
            effect,
        }
    }
}
