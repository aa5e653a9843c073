//! The text of a file -> what each of its documents says, before anything is known of other files.

use crate::{
    Effect, FederationConfig, Problem,
    fault::Fault,
    read::{Object, ObjectKey, guess, is_foreign, read},
    yaml::{self, Document},
};

/// What one document says.
#[derive(Clone, Debug)]
pub(crate) struct Parsed {
    /// The line of the file, counted from 1, where it begins.
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
    let parsed = documents.map(|(document, number)| one(document, number, federation, own));
    parsed.collect()
}

fn one(
    document: Document<'_>,
    number: usize,
    federation: Option<&FederationConfig>,
    own: &str,
) -> Parsed {
    let line = yaml::first_line(document);
    let tree = match yaml::tree(document) {
        Ok(tree) => tree,
        Err(error) => {
            return Parsed {
                line,
                number,
                key: guess(document.text),
                is_guess: true,
                is_foreign: false,
                object: None,
                faults: vec![(error.fault, error.line)],
            };
        }
    };
    let reading = read(&tree, federation, own);
    let at = |fault: Fault| {
        let line = yaml::line(document, &fault.path, fault.in_key);
        (fault, line)
    };
    Parsed {
        line,
        number,
        key: reading.key,
        is_guess: false,
        is_foreign: is_foreign(&tree),
        object: reading.object,
        faults: reading.faults.into_list().into_iter().map(at).collect(),
    }
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
            line: Some(line.unwrap_or(self.line)),
            object: object.clone(),
            field_path: fault.path.to_string(),
            message: fault.message.clone(),
            expected: fault.expected.clone(),
            effect: match fault.warning {
                true => Effect::Warning,
                false => effect,
            },
        })
    }
}
