//! A tree -> a typed object, strictly: every field must be known where it stands, and no value is
//! bent to fit. Kubernetes' own types ignore unknown fields when read, so this does not leave the
//! check to them.

use std::{cell::RefCell, fmt};

use serde::{
    Deserializer,
    de::{
        self, DeserializeOwned, DeserializeSeed, Expected, Unexpected, Visitor,
        value::StrDeserializer,
    },
    forward_to_deserialize_any,
};
use serde_json::Value;

use crate::fault::{Fault, Faults, FieldPath};
use crate::{elsewhere, suggest::nearest};

/// So many fields are listed beside a hint.
const MAX_LISTED: usize = 8;

/// The object that `tree` describes. Unknown fields are all told, and then the first value of a
/// wrong type, which ends it.
pub(crate) fn decode<T: DeserializeOwned>(tree: &Value, faults: &mut Faults) -> Option<T> {
    let unknown = RefCell::default();
    let node = Node {
        value: tree,
        path: FieldPath::default(),
        unknown: &unknown,
    };
    let decoded = T::deserialize(node);
    let unknown = unknown.into_inner();
    let is_known = unknown.is_empty();
    unknown.into_iter().for_each(|f| faults.push(f));
    match decoded {
        // What else is wrong may only follow from the field that was not understood.
        Ok(object) => is_known.then_some(object),
        Err(error) => {
            faults.add(
                error.path.unwrap_or_default(),
                error.message,
                error.expected,
            );
            None
        }
    }
}

/// A value and where it stands.
struct Node<'a> {
    value: &'a Value,
    path: FieldPath,
    unknown: &'a RefCell<Vec<Fault>>,
}

impl<'a> Node<'a> {
    fn unexpected(&self) -> Unexpected<'a> {
        match self.value {
            Value::Null => Unexpected::Unit,
            Value::Bool(b) => Unexpected::Bool(*b),
            Value::Number(n) => match (n.as_u64(), n.as_i64(), n.as_f64()) {
                (Some(n), _, _) => Unexpected::Unsigned(n),
                (_, Some(n), _) => Unexpected::Signed(n),
                (_, _, n) => Unexpected::Float(n.unwrap_or_default()),
            },
            Value::String(s) => Unexpected::Str(s),
            Value::Array(_) => Unexpected::Seq,
            Value::Object(_) => Unexpected::Map,
        }
    }

    fn mismatch(&self, expected: &dyn Expected) -> DecodeError {
        <DecodeError as de::Error>::invalid_type(self.unexpected(), expected)
    }

    /// Notes every key that is none of `fields`.
    fn note_unknown(&self, fields: &[&str]) {
        let Value::Object(map) = self.value else {
            return;
        };
        for key in map.keys().filter(|k| !fields.contains(&k.as_str())) {
            let near = nearest(key, fields);
            if let Some(reason) = elsewhere::reason(key) {
                self.unknown.borrow_mut().push(Fault {
                    path: self.path.key(key),
                    in_key: true,
                    message: format!("{key} {reason}"),
                    expected: String::new(),
                    warning: false,
                });
                continue;
            }
            let hint = near.map_or_else(String::new, |near| format!(", did you mean {near}?"));
            let expected = match near {
                // A long list would only hide the hint.
                Some(_) if fields.len() > MAX_LISTED => String::new(),
                _ => one_of(fields),
            };
            self.unknown.borrow_mut().push(Fault {
                path: self.path.key(key),
                in_key: true,
                message: format!("unknown field{hint}"),
                expected,
                warning: false,
            });
        }
    }
}

impl<'de> Deserializer<'de> for Node<'_> {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(b) => visitor.visit_bool(*b),
            Value::Number(n) => match (n.as_u64(), n.as_i64()) {
                (Some(n), _) => visitor.visit_u64(n),
                (_, Some(n)) => visitor.visit_i64(n),
                _ => visitor.visit_f64(n.as_f64().unwrap_or_default()),
            },
            Value::String(s) => visitor.visit_str(s),
            Value::Array(list) => visitor.visit_seq(Items {
                items: list.iter().enumerate(),
                parent: &self,
            }),
            Value::Object(map) => visitor.visit_map(Fields {
                fields: map.iter(),
                value: None,
                parent: &self,
            }),
        }
        .map_err(|e| e.at(&self.path))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        if !self.value.is_object() {
            // A struct would also be read from a list, by position.
            return Err(self.mismatch(&visitor).at(&self.path));
        }
        self.note_unknown(fields);
        self.deserialize_any(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let Value::String(word) = self.value else {
            return Err(self.mismatch(&"a word").at(&self.path));
        };
        visitor
            .visit_enum(StrDeserializer::<DecodeError>::new(word))
            .map_err(|e| e.at(&self.path))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map identifier ignored_any
    }
}

struct Items<'a> {
    items: std::iter::Enumerate<std::slice::Iter<'a, Value>>,
    parent: &'a Node<'a>,
}

impl<'de> de::SeqAccess<'de> for Items<'_> {
    type Error = DecodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, DecodeError> {
        let Some((index, value)) = self.items.next() else {
            return Ok(None);
        };
        let node = Node {
            value,
            path: self.parent.path.index(index),
            unknown: self.parent.unknown,
        };
        seed.deserialize(node).map(Some)
    }
}

struct Fields<'a> {
    fields: serde_json::map::Iter<'a>,
    value: Option<(&'a str, &'a Value)>,
    parent: &'a Node<'a>,
}

impl<'de> de::MapAccess<'de> for Fields<'_> {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, DecodeError> {
        let Some((key, value)) = self.fields.next() else {
            return Ok(None);
        };
        self.value = Some((key, value));
        seed.deserialize(StrDeserializer::new(key)).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<T::Value, DecodeError> {
        let Some((key, value)) = self.value.take() else {
            return Err(de::Error::custom("a value without its key"));
        };
        let path = self.parent.path.key(key);
        let node = Node {
            value,
            path: path.clone(),
            unknown: self.parent.unknown,
        };
        seed.deserialize(node).map_err(|e| e.at(&path))
    }
}

/// Why a value does not fit.
#[derive(Debug)]
struct DecodeError {
    path: Option<FieldPath>,
    message: String,
    expected: String,
}

impl DecodeError {
    /// The innermost place wins.
    fn at(mut self, path: &FieldPath) -> Self {
        self.path.get_or_insert_with(|| path.clone());
        self
    }

    fn new(message: String, expected: String) -> Self {
        Self {
            path: None,
            message,
            expected,
        }
    }
}

impl de::Error for DecodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string(), String::new())
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let wanted = expectation(&expected.to_string());
        let scalar = matches!(
            found,
            Unexpected::Bool(_)
                | Unexpected::Unsigned(_)
                | Unexpected::Signed(_)
                | Unexpected::Float(_)
        );
        let hint = if scalar && wanted == "a string" {
            " (put it in quotes)"
        } else {
            ""
        };
        Self::new(finding(found), format!("{wanted}{hint}"))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(finding(found), expectation(&expected.to_string()))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::new(format!("{variant:?} is not known here"), one_of(expected))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(format!("field {field} is missing"), String::new())
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for DecodeError {}

fn finding(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Bool(b) => format!("found the boolean {b}"),
        Unexpected::Unsigned(n) => format!("found the number {n}"),
        Unexpected::Signed(n) => format!("found the number {n}"),
        Unexpected::Float(n) => format!("found the number {n}"),
        Unexpected::Str(s) => format!("found the string {s:?}"),
        Unexpected::Unit | Unexpected::Option => "found nothing".into(),
        Unexpected::Seq => "found a list".into(),
        Unexpected::Map => "found a mapping".into(),
        other => format!("found {other}"),
    }
}

/// Serde's word for what it wants, in the words of a manifest.
fn expectation(serde: &str) -> String {
    match serde {
        "i32" | "i64" | "u64" => "a whole number".into(),
        "u32" => "a whole number from 0 to 4294967295".into(),
        "u16" => "a whole number from 0 to 65535".into(),
        "a sequence" => "a list".into(),
        "a map" => "a mapping of names to values".into(),
        "IntOrString" | "a string or i32" => "a number or a name".into(),
        other => {
            let name = other.strip_prefix("struct ").unwrap_or(other);
            if name.starts_with(|c: char| c.is_ascii_uppercase()) {
                format!("a mapping with the fields of {name}")
            } else {
                name.into()
            }
        }
    }
}

/// `a`, `a or b`, `one of a, b, c`.
pub(crate) fn one_of<S: AsRef<str>>(words: &[S]) -> String {
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    match words.as_slice() {
        [] => "nothing".into(),
        [one] => (*one).into(),
        [one, other] => format!("{one} or {other}"),
        many => format!("one of {}", many.join(", ")),
    }
}
