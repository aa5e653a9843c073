//! Where in an object something is wrong, before it is known where in a file.

use std::fmt;

/// At most so many faults of one object are told; the rest would only hide the first.
pub(crate) const MAX_FAULTS: usize = 20;

/// A place in an object, from its root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldPath(Vec<Segment>);

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Segment {
    /// Into a mapping.
    Key(String),
    /// Into a list.
    Index(usize),
}

/// Something is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub path: FieldPath,
    /// The fault is in the key that the path ends in, not in its value.
    pub in_key: bool,
    pub message: String,
    pub expected: String,
    /// The object can be taken all the same.
    pub warning: bool,
}

/// Collects faults, so that one look at an object tells all of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    list: Vec<Fault>,
    refused: bool,
}

impl FieldPath {
    /// The path `steps`, for the fixed beginning of a path.
    #[must_use]
    pub fn of(steps: &[&str]) -> Self {
        Self(steps.iter().map(|s| Segment::Key((*s).into())).collect())
    }

    /// The field `key` of what stands here.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        self.with(Segment::Key(key.into()))
    }

    /// The item `index` of the list that stands here.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        self.with(Segment::Index(index))
    }

    /// `rest`, seen from here.
    pub(crate) fn join(&self, rest: &Self) -> Self {
        Self(self.0.iter().chain(&rest.0).cloned().collect())
    }

    pub(crate) fn segments(&self) -> &[Segment] {
        &self.0
    }

    fn with(&self, segment: Segment) -> Self {
        let mut path = self.0.clone();
        path.push(segment);
        Self(path)
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Index(index) => write!(f, "[{index}]")?,
                Segment::Key(key) if !is_word(key) => write!(f, "[{key:?}]")?,
                Segment::Key(key) if place == 0 => f.write_str(key)?,
                Segment::Key(key) => write!(f, ".{key}")?,
            }
        }
        Ok(())
    }
}

fn is_word(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric())
}

impl Faults {
    /// The value at `path` is wrong.
    pub fn add(
        &mut self,
        path: FieldPath,
        message: impl Into<String>,
        expected: impl Into<String>,
    ) {
        self.push(Fault {
            path,
            in_key: false,
            message: message.into(),
            expected: expected.into(),
            warning: false,
        });
    }

    /// The object is taken, but the value at `path` deserves a word.
    pub fn warn(
        &mut self,
        path: FieldPath,
        message: impl Into<String>,
        expected: impl Into<String>,
    ) {
        self.push(Fault {
            path,
            in_key: false,
            message: message.into(),
            expected: expected.into(),
            warning: true,
        });
    }

    pub fn push(&mut self, fault: Fault) {
        self.refused |= !fault.warning;
        if self.list.len() < MAX_FAULTS {
            self.list.push(fault);
        }
    }

    /// Takes the first step `key` from every path that begins with it.
    pub fn strip(&mut self, key: &str) {
        let first = Segment::Key(key.to_owned());
        for fault in &mut self.list {
            if fault.path.0.first() == Some(&first) {
                fault.path.0.remove(0);
            }
        }
    }

    /// Whether the object cannot be taken.
    pub fn refused(&self) -> bool {
        self.refused
    }

    pub fn into_list(self) -> Vec<Fault> {
        self.list
    }
}
