//! Text -> documents -> trees of plain values, and the line where a field stands.
//!
//! Scalars follow YAML 1.2: `y`, `on` and `yes` are strings. Refused are duplicate keys, keys that
//! are not strings, tags, merge keys and numbers that are not finite: an API server would refuse
//! them, or they would mean another thing to another reader.

use std::{cell::RefCell, fmt};

use serde::de::{self, DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::{
    fault::{Fault, FieldPath},
    locate::Locate,
};

/// Most values of one document, after aliases are resolved.
pub(crate) const MAX_NODES: usize = 200_000;
/// Most brackets that are open at one time. The parser refuses less, but only after a time that grows with the
/// square of it.
const MAX_OPEN: usize = 1_000;

/// One document of a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Document<'a> {
    pub text: &'a str,
    /// The line of the file that `text` begins with, counted from 0.
    pub line: u32,
}

/// A fault and its line in the file, counted from 1.
#[derive(Clone, Debug)]
pub(crate) struct SyntaxError {
    pub fault: Fault,
    pub line: Option<u32>,
}

/// The documents of `text` that hold anything. They are told apart before they are parsed, so that a
/// broken one does not take its neighbours along; `---` at the start of a line is a document marker
/// wherever it stands (YAML 1.2.2 section 9.1.2).
pub(crate) fn documents(text: &str) -> Vec<Document<'_>> {
    let mut documents = Vec::new();
    let (mut start, mut start_line, mut position) = (0, 0, 0);
    let mut has_content = false;
    let mut end = |from: usize, to: usize, line: u32, content: bool| {
        if content && let Some(text) = text.get(from..to) {
            documents.push(Document { text, line });
        }
    };
    for (line, number) in text.split_inclusive('\n').zip(0_u32..) {
        let marker = line.strip_prefix("---");
        let marker = marker.filter(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace));
        if marker.is_some() && has_content {
            end(start, position, start_line, true);
            (start, start_line, has_content) = (position, number, false);
        }
        has_content |= is_content(marker.unwrap_or(line));
        position += line.len();
    }
    end(start, position, start_line, has_content);
    documents
}

/// Neither blank, nor a comment, nor a directive or end marker.
fn is_content(line: &str) -> bool {
    let line = line.trim_start_matches('\u{feff}').trim();
    !(line.is_empty() || line.starts_with('#') || line.starts_with('%') || line == "...")
}

/// The tree of a document.
pub(crate) fn tree(document: Document<'_>) -> Result<Value, SyntaxError> {
    if let Some(line) = too_deep(document.text) {
        return Err(SyntaxError {
            fault: Fault {
                path: FieldPath::default(),
                in_key: false,
                message: format!("more than {MAX_OPEN} brackets are open"),
                expected: "mappings and lists that are nested less deeply".into(),
                warning: false,
            },
            line: Some(document.line.saturating_add(line)),
        });
    }
    let state = RefCell::new(State {
        nodes: 0,
        fault: None,
    });
    let seed = Tree {
        path: FieldPath::default(),
        state: &state,
    };
    let deserializer = serde_norway::Deserializer::from_str(document.text);
    seed.deserialize(deserializer).map_err(|error| {
        let own = state.borrow_mut().fault.take();
        let message = || Fault {
            path: FieldPath::default(),
            in_key: false,
            message: format!("cannot be read as YAML: {}", without_position(&error)),
            expected: String::new(),
            warning: false,
        };
        SyntaxError {
            fault: own.unwrap_or_else(message),
            line: file_line(document, &error),
        }
    })
}

/// The line of `text`, counted from 1, where more brackets are open than any manifest has. Those in quotes and
/// scripts are counted as well: they mostly close, too.
fn too_deep(text: &str) -> Option<u32> {
    let (mut open, mut line) = (0_usize, 1_u32);
    for byte in text.bytes() {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = open.saturating_sub(1),
            b'\n' => line = line.saturating_add(1),
            _ => {}
        }
        if open > MAX_OPEN {
            return Some(line);
        }
    }
    None
}

/// The line of the file where `path` stands, or the nearest value around it that is there.
pub(crate) fn line(document: Document<'_>, path: &FieldPath, in_key: bool) -> Option<u32> {
    let seed = Locate {
        rest: path.segments(),
        in_key,
    };
    // The seed ends in an error where it stands, and the parser knows where that is.
    let error = seed.deserialize(serde_norway::Deserializer::from_str(document.text));
    file_line(document, &error.err()?)
}

/// The line of the file, counted from 1, where the document's content begins.
pub(crate) fn first_line(document: Document<'_>) -> u32 {
    let is_blank = |line: &&str| !is_content(line.strip_prefix("---").unwrap_or(line));
    let blank = document.text.lines().take_while(is_blank).count();
    let blank = u32::try_from(blank).unwrap_or(u32::MAX);
    document.line.saturating_add(blank).saturating_add(1)
}

fn file_line(document: Document<'_>, error: &serde_norway::Error) -> Option<u32> {
    let line = u32::try_from(error.location()?.line()).ok()?;
    Some(document.line.saturating_add(line.max(1)))
}

/// The parser's message without its own line numbers, which count from the document.
fn without_position(error: &serde_norway::Error) -> String {
    let message = error.to_string();
    match message.find(" at line ") {
        Some(end) => message.get(..end).unwrap_or(&message).into(),
        None => message,
    }
}

struct State {
    nodes: usize,
    /// What this file refused, in better words than the parser can carry.
    fault: Option<Fault>,
}

/// Reads one value.
struct Tree<'a> {
    path: FieldPath,
    state: &'a RefCell<State>,
}

impl Tree<'_> {
    fn refuse<E: de::Error>(
        &self,
        in_key: bool,
        path: FieldPath,
        message: &str,
        expected: &str,
    ) -> E {
        self.state.borrow_mut().fault.get_or_insert(Fault {
            path,
            in_key,
            message: message.into(),
            expected: expected.into(),
            warning: false,
        });
        E::custom(message)
    }
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let full = {
            let mut state = self.state.borrow_mut();
            state.nodes += 1;
            state.nodes > MAX_NODES
        };
        if full {
            let path = self.path.clone();
            return Err(self.refuse(
                false,
                path,
                "the document holds more than 200000 values",
                "",
            ));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        match Number::from_f64(value) {
            Some(number) => Ok(Value::Number(number)),
            None => Err(self.refuse(false, self.path.clone(), "is no finite number", "a number")),
        }
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = items.next_element_seed(Tree {
            path: self.path.index(list.len()),
            state: self.state,
        })? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = fields.next_key_seed(Key {
            tree: &self,
            map: &map,
        })? {
            let value = fields.next_value_seed(Tree {
                path: self.path.key(&key),
                state: self.state,
            })?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<Value, A::Error> {
        Err(self.refuse(
            false,
            self.path.clone(),
            "carries a YAML tag",
            "a value without a tag",
        ))
    }
}

/// Reads one key and refuses what no manifest should hold, at the key's own line.
struct Key<'a> {
    tree: &'a Tree<'a>,
    map: &'a Map<String, Value>,
}

impl Key<'_> {
    fn not_a_string<E: de::Error>(&self, found: &str) -> E {
        self.tree.refuse(
            false,
            self.tree.path.clone(),
            &format!("a key is {found}"),
            "keys that are strings (put it in quotes)",
        )
    }
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Key<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string as key")
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<String, E> {
        let path = || self.tree.path.key(key);
        if self.map.contains_key(key) {
            return Err(self
                .tree
                .refuse(true, path(), "the key appears twice", "each key once"));
        }
        if key == "<<" {
            let (message, expected) = ("merge keys are not read", "the fields themselves");
            return Err(self.tree.refuse(true, path(), message, expected));
        }
        Ok(key.into())
    }

    fn visit_bool<E: de::Error>(self, found: bool) -> Result<String, E> {
        Err(self.not_a_string(&format!("the boolean {found}")))
    }

    fn visit_u64<E: de::Error>(self, found: u64) -> Result<String, E> {
        Err(self.not_a_string(&format!("the number {found}")))
    }

    fn visit_i64<E: de::Error>(self, found: i64) -> Result<String, E> {
        Err(self.not_a_string(&format!("the number {found}")))
    }

    fn visit_f64<E: de::Error>(self, found: f64) -> Result<String, E> {
        Err(self.not_a_string(&format!("the number {found}")))
    }

    fn visit_unit<E: de::Error>(self) -> Result<String, E> {
        Err(self.not_a_string("empty"))
    }

    fn visit_none<E: de::Error>(self) -> Result<String, E> {
        Err(self.not_a_string("empty"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<String, A::Error> {
        Err(self.not_a_string("a list"))
    }

    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<String, A::Error> {
        Err(self.not_a_string("a mapping"))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<String, A::Error> {
        Err(self.not_a_string("tagged"))
    }
}
