//! The text of a file -> what each of its documents says, before anything is known of other files.

use serde_json::Value;

use crate::{
    Effect, FederationConfig, Problem,
    fault::{Fault, Faults, FieldPath},
    read::{Object, ObjectKey, Reading, guess, is_foreign, key, read},
    yaml::{self, Document},
};

/// Most bytes of the texts of an object that comes without a file: what a file may have.
const MAX_BYTES: usize = 4 << 20;

/// What one document says.
#[derive(Clone, Debug)]
pub(crate) struct Parsed {
    /// The line of the file, counted from 1, where it begins; 0 for an object without a text.
    pub line: u32,
    /// Its place in the file, counted from 1.
    pub number: usize,
    /// Kind, namespace and name, as far as they can be told.
    pub key: Option<ObjectKey>,
    /// It is no YAML, and `key` is what it probably meant to be.
    pub is_guess: bool,
    /// It is of a kind that has nothing to do with us.
    pub is_foreign: bool,
    /// `None` when it is refused.
    pub object: Option<Object>,
    /// What is wrong, each with its line of the file.
    pub faults: Vec<(Fault, Option<u32>)>,
}

/// The documents of `text`, read for the cluster `own`. Without a federation only a Federation is
/// read.
pub(crate) fn parse(text: &str, federation: Option<&FederationConfig>, own: &str) -> Vec<Parsed> {
    let documents = yaml::documents(text).into_iter().zip(1..);
    let parsed = documents.flat_map(|(document, number)| one(document, number, federation, own));
    parsed.collect()
}

/// The object `tree`, which came without a text, read for the cluster `own`.
pub(crate) fn object(tree: &Value, federation: Option<&FederationConfig>, own: &str) -> Parsed {
    let reading = read_bounded(tree, federation, own);
    let faults = reading.faults.into_list().into_iter();
    Parsed {
        line: 0,
        number: 1,
        key: reading.key,
        is_guess: false,
        is_foreign: is_foreign(tree),
        object: reading.object,
        faults: faults.map(|fault| (fault, None)).collect(),
    }
}

/// What is read of `tree`, unless it is larger than a text of it could be.
fn read_bounded(tree: &Value, federation: Option<&FederationConfig>, own: &str) -> Reading {
    let mut room = Room {
        values: yaml::MAX_NODES,
        bytes: MAX_BYTES,
    };
    if room.takes(tree) {
        return read(tree, federation, own);
    }
    // What it is called is known all the same, so that it closes what a refused object closes.
    let mut faults = Faults::default();
    let message = format!(
        "the object holds more than {} values or {MAX_BYTES} bytes of text",
        yaml::MAX_NODES
    );
    faults.add(FieldPath::default(), message, "");
    Reading {
        key: key(tree),
        object: None,
        faults,
    }
}

/// How much an object may still hold.
struct Room {
    values: usize,
    bytes: usize,
}

impl Room {
    /// Whether there was room for `tree`.
    fn takes(&mut self, tree: &Value) -> bool {
        let text = match tree {
            Value::String(text) => text.len(),
            _ => 0,
        };
        let (Some(values), Some(bytes)) =
            (self.values.checked_sub(1), self.bytes.checked_sub(text))
        else {
            return false;
        };
        (self.values, self.bytes) = (values, bytes);
        match tree {
            Value::Array(items) => items.iter().all(|item| self.takes(item)),
            Value::Object(fields) => fields.iter().all(|(key, value)| {
                let left = self.bytes.checked_sub(key.len());
                left.map(|left| self.bytes = left).is_some() && self.takes(value)
            }),
            _ => true,
        }
    }
}

/// The object of a document, or the objects of a `List`, which is how `kubectl get -o yaml` writes
/// several.
fn one(
    document: Document<'_>,
    number: usize,
    federation: Option<&FederationConfig>,
    own: &str,
) -> Vec<Parsed> {
    let line = yaml::first_line(document);
    let tree = match yaml::tree(document) {
        Ok(tree) => tree,
        Err(error) => {
            return vec![Parsed {
                line,
                number,
                key: guess(document.text),
                is_guess: true,
                is_foreign: false,
                object: None,
                faults: vec![(error.fault, error.line)],
            }];
        }
    };
    let object = |tree: &Value, place: &FieldPath| {
        let reading = read(tree, federation, own);
        let at = |mut fault: Fault| {
            fault.path = place.join(&fault.path);
            let line = yaml::line(document, &fault.path, fault.in_key);
            (fault, line)
        };
        Parsed {
            // Of a List, too: to look for the line of each item would read the document as often as
            // it has items.
            line,
            number,
            key: reading.key,
            is_guess: false,
            is_foreign: is_foreign(tree),
            object: reading.object,
            faults: reading.faults.into_list().into_iter().map(at).collect(),
        }
    };
    match list_items(&tree) {
        Some(items) => {
            let place = FieldPath::of(&["items"]);
            let items = items.iter().enumerate();
            items
                .map(|(i, item)| object(item, &place.index(i)))
                .collect()
        }
        None => vec![object(&tree, &FieldPath::default())],
    }
}

/// What a `v1` `List` holds; `None` for anything else, a List with a slip in it included, which is
/// then refused as an object.
pub(crate) fn list_items(tree: &Value) -> Option<&[Value]> {
    let map = tree.as_object()?;
    let is = |field: &str, word: &str| map.get(field).and_then(Value::as_str) == Some(word);
    let known = ["apiVersion", "kind", "metadata", "items"];
    let is_list = is("apiVersion", "v1") && is("kind", "List");
    if !is_list || map.keys().any(|key| !known.contains(&key.as_str())) {
        return None;
    }
    map.get("items")?.as_array().map(Vec::as_slice)
}

impl Parsed {
    /// What is wrong, when the object itself has met `effect`.
    pub fn problems<'a>(
        &'a self,
        file: &'a str,
        effect: Effect,
    ) -> impl Iterator<Item = Problem> + 'a {
        let object = self.key.as_ref().map(ToString::to_string);
        let object = object.unwrap_or_else(|| format!("document {}", self.number));
        self.faults.iter().map(move |(fault, line)| Problem {
            file: file.to_owned(),
            line: line.or((self.line > 0).then_some(self.line)),
            object: object.clone(),
            field_path: fault.path.to_string(),
            message: fault.message.clone(),
            expected: fault.expected.clone(),
            effect: match (fault.warning, &self.key) {
                (true, Some(_)) => Effect::Warning,
                (true, None) => Effect::PassedOver,
                (false, _) => effect,
            },
        })
    }
}
