//! Our own files of tests: they name pods of all clusters, and may name the rule that decides.

use std::path::PathBuf;

use anyhow::{Result, bail};
use policy::DropReason;
use serde::Deserialize;

use super::{Case, Expected, What};

/// A file of tests.
#[derive(Debug, Deserialize)]
pub struct File {
    /// The configuration folder, seen from the file; the file's own when it is left out.
    #[serde(default)]
    pub config: PathBuf,
    tests: Vec<Test>,
}

/// Connections of which the same is expected.
#[derive(Debug, Deserialize)]
struct Test {
    name: Option<String>,
    from: Names,
    to: Names,
    port: String,
    /// `allowed`, `denied`, or the reason for which it must be denied.
    expect: String,
    /// Must stand in the name of the rule that decides, at the end that denies or at either that allows.
    rule: Option<String>,
}

/// One pod, address or name of the DNS, or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Names {
    One(String),
    Many(Vec<String>),
}

impl Names {
    fn list(&self) -> &[String] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Many(names) => names,
        }
    }
}

/// Reads a file.
///
/// # Errors
/// When it is none, or holds no tests.
pub fn read(text: &str) -> Result<File> {
    let mut unknown = Vec::new();
    let yaml = serde_norway::Deserializer::from_str(text);
    let file: File = serde_ignored::deserialize(yaml, |field| unknown.push(field.to_string()))?;
    if !unknown.is_empty() {
        bail!("unknown field {}", unknown.join(", "));
    }
    if file.tests.is_empty() {
        bail!("tests: there are none");
    }
    Ok(file)
}

impl File {
    /// One case for each pair.
    pub fn cases(&self) -> Vec<Case> {
        self.tests.iter().flat_map(Test::cases).collect()
    }
}

impl Test {
    fn cases(&self) -> Vec<Case> {
        let pairs = self.from.list().iter();
        let pairs = pairs.flat_map(|from| self.to.list().iter().map(move |to| (from, to)));
        let case = |(from, to): (&String, &String)| Case {
            title: self.title(from, to),
            what: self.what(from, to).unwrap_or_else(What::Fails),
        };
        pairs.map(case).collect()
    }

    fn title(&self, from: &str, to: &str) -> String {
        let connection = format!("{from} -> {to} {}: {}", self.port, self.expect);
        match &self.name {
            Some(name) => format!("{name} ({connection})"),
            None => connection,
        }
    }

    fn what(&self, from: &str, to: &str) -> Result<What, String> {
        Ok(What::Connection {
            from: from.to_owned(),
            to: to.to_owned(),
            port: self.port.parse().map_err(|e| format!("port: {e}"))?,
            expected: self.expected()?,
            rule: self.rule.clone(),
        })
    }

    fn expected(&self) -> Result<Expected, String> {
        let reason = |word: &str| DropReason::ALL.iter().find(|known| known.as_str() == word);
        match self.expect.as_str() {
            "allowed" => Ok(Expected::Allowed),
            "denied" => Ok(Expected::Denied),
            word => reason(word).map(|r| Expected::For(*r)).ok_or_else(|| {
                format!("expect: {word:?} is none of allowed, denied, or a reason such as denied-by-rule")
            }),
        }
    }
}
