//! Texts of YAML that are no manifests, read as strictly as manifests are: no unknown field, no key twice, no
//! tag, and each mistake with its line.

use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    decode::decode,
    fault::{Fault, Faults, FieldPath},
    yaml::{self, Document},
};

/// A text that is one YAML document.
#[derive(Debug)]
pub struct Text<'a> {
    document: Document<'a>,
    tree: Value,
}

/// What is wrong with a text, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Counted from 1, where it can be given.
    pub line: Option<u32>,
    /// Such as `[0].src`; empty when it concerns the whole text.
    pub field_path: String,
    /// What is wrong.
    pub message: String,
    /// What should stand there; may be empty.
    pub expected: String,
}

impl<'a> Text<'a> {
    /// Reads `text`.
    ///
    /// # Errors
    /// When it is no YAML, or not one document.
    pub fn read(text: &'a str) -> Result<Self, Mistake> {
        let documents = yaml::documents(text);
        let [document] = documents[..] else {
            return Err(Mistake {
                line: None,
                field_path: String::new(),
                message: format!("holds {} documents", documents.len()),
                expected: "one".into(),
            });
        };
        match yaml::tree(document) {
            Ok(tree) => Ok(Self { document, tree }),
            Err(error) => Err(mistake(error.fault, error.line)),
        }
    }

    /// What it says.
    #[must_use]
    pub fn tree(&self) -> &Value {
        &self.tree
    }

    /// What it says as a `T`.
    ///
    /// # Errors
    /// All unknown fields, or the first value of another type.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, Vec<Mistake>> {
        let mut faults = Faults::default();
        let decoded = decode(&self.tree, &mut faults);
        let faults = faults.into_list().into_iter();
        decoded.ok_or_else(|| faults.map(|f| self.located(f)).collect())
    }

    /// Something is wrong at `path`.
    #[must_use]
    pub fn mistake(&self, path: &FieldPath, message: String, expected: &str) -> Mistake {
        self.located(Fault {
            path: path.clone(),
            in_key: false,
            message,
            expected: expected.to_owned(),
            warning: false,
        })
    }

    fn located(&self, fault: Fault) -> Mistake {
        let line = yaml::line(self.document, &fault.path, fault.in_key);
        mistake(fault, line)
    }
}

fn mistake(fault: Fault, line: Option<u32>) -> Mistake {
    Mistake {
        line,
        field_path: fault.path.to_string(),
        message: fault.message,
        expected: fault.expected,
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "{line}: ")?;
        }
        if !self.field_path.is_empty() {
            write!(f, "{}: ", self.field_path)?;
        }
        f.write_str(&self.message)?;
        if !self.expected.is_empty() {
            write!(f, "; expected {}", self.expected)?;
        }
        Ok(())
    }
}
