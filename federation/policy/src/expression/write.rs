//! A selector as text that reads as the same selector.

use std::fmt;

use crate::model::{LabelSelector, Operator, Part, Requirement, Term};

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("all()");
        }
        for (place, term) in self.0.iter().enumerate() {
            if place > 0 {
                f.write_str(" && ")?;
            }
            write!(f, "{term}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Label(requirement) => write!(f, "{requirement}"),
            Self::AnyOf(choices) if choices.is_empty() => f.write_str("!all()"),
            Self::AnyOf(choices) => write!(f, "({})", Choices(choices)),
        }
    }
}

/// Parts of which one must hold.
struct Choices<'a>(&'a [LabelSelector]);

impl fmt::Display for Choices<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, choice) in self.0.iter().enumerate() {
            if place > 0 {
                f.write_str(" || ")?;
            }
            write!(f, "{choice}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        match &self.operator {
            Operator::Exists => write!(f, "has({key})"),
            Operator::DoesNotExist => write!(f, "!has({key})"),
            Operator::In(values) => match values.as_slice() {
                [one] => write!(f, "{key} == {}", Quoted(one)),
                many => write!(f, "{key} in {}", Set(many)),
            },
            Operator::NotIn(values) => match values.as_slice() {
                [one] => write!(f, "{key} != {}", Quoted(one)),
                many => write!(f, "{key} not in {}", Set(many)),
            },
            Operator::Like(part) => write!(f, "{key} {part}"),
            Operator::NotLike(part) => write!(f, "!({key} {part})"),
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Contains(text) => write!(f, "contains {}", Quoted(text)),
            Self::StartsWith(text) => write!(f, "starts with {}", Quoted(text)),
            Self::EndsWith(text) => write!(f, "ends with {}", Quoted(text)),
        }
    }
}

struct Set<'a>(&'a [String]);

impl fmt::Display for Set<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (place, value) in self.0.iter().enumerate() {
            let separator = if place == 0 { "" } else { ", " };
            write!(f, "{separator}{}", Quoted(value))?;
        }
        f.write_str("}")
    }
}

/// Between quotes that the text does not hold. No label value has any; a text with both is only ever shown.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0;
        match (text.contains('"'), text.chars().any(char::is_control)) {
            (_, true) => write!(f, "{text:?}"),
            (true, false) => write!(f, "'{text}'"),
            (false, false) => write!(f, "\"{text}\""),
        }
    }
}
