//! What is wrong with a manifest, in words that the person who wrote it understands.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One thing that is wrong with one object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Problem {
    /// Relative to the folder.
    pub file: String,
    /// Counted from 1, where it can be given.
    pub line: Option<u32>,
    /// Kind, namespace and name; or which document of the file, when they cannot be read.
    pub object: String,
    /// Such as `spec.ingress[0].ports[1].port`; empty when it concerns the whole object.
    pub field_path: String,
    /// What is wrong.
    pub message: String,
    /// What should stand there; may be empty.
    pub expected: String,
    /// What became of the object.
    pub effect: Effect,
}

/// What became of an object that has a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// It is in force all the same.
    Warning,
    /// It is of a kind that says nothing here.
    PassedOver,
    /// The version that was accepted before stays in force.
    KeptPrevious,
    /// Nothing of it is in force.
    NotInForce,
    /// It is a policy that could not be read when this process started. Nobody knows what it
    /// forbids, so every connection of the pods it may concern is denied.
    Closed,
}

impl Problem {
    /// What is wrong and what became of it, for who sees which object it is of.
    #[must_use]
    pub fn words(&self) -> String {
        let path = match self.field_path.as_str() {
            "" => String::new(),
            path => format!("{path}: "),
        };
        let expected = match self.expected.as_str() {
            "" => String::new(),
            expected => format!("; expected {expected}"),
        };
        let meaning = self.effect.meaning();
        format!("{path}{}{expected} ({meaning})", self.message)
    }

    /// Whether nothing was refused.
    #[must_use]
    pub fn is_warning(&self) -> bool {
        matches!(self.effect, Effect::Warning | Effect::PassedOver)
    }
}

impl Effect {
    /// What became of the object, in words.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Warning => "a warning: it is in force",
            Self::PassedOver => "a warning: nothing here depends on it",
            Self::KeptPrevious => "the version accepted before stays in force",
            Self::NotInForce => "it is not in force",
            Self::Closed => "until it can be read, the pods it may concern are cut off",
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}: {}", self.object, self.words())
    }
}
