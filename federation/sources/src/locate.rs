//! The line where a field stands: the document is read once more along the field's path, and the
//! reader stops there with an error, because the parser knows the position of an error.

use std::fmt;

use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, IgnoredAny, MapAccess, SeqAccess, Visitor,
};

use crate::fault::Segment;

/// Walks along `rest` and stops at its end, or where it cannot go on.
#[derive(Clone, Copy)]
pub(crate) struct Locate<'a> {
    pub rest: &'a [Segment],
    pub in_key: bool,
}

fn here<T, E: de::Error>() -> Result<T, E> {
    Err(E::custom("here"))
}

impl<'de> DeserializeSeed<'de> for Locate<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Locate<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        here()
    }

    fn visit_none<E: de::Error>(self) -> Result<(), E> {
        here()
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<(), E> {
        here()
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<(), E> {
        here()
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<(), E> {
        here()
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<(), E> {
        here()
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<(), E> {
        here()
    }

    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        here()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Some((Segment::Index(index), rest)) = self.rest.split_first() else {
            return here();
        };
        for _ in 0..*index {
            if items.next_element::<IgnoredAny>()?.is_none() {
                return here();
            }
        }
        let in_key = self.in_key;
        items.next_element_seed(Locate { rest, in_key })?;
        here()
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        let Some((Segment::Key(wanted), rest)) = self.rest.split_first() else {
            return here();
        };
        let in_key = self.in_key;
        let key = WantedKey {
            wanted,
            stop: in_key && rest.is_empty(),
        };
        while let Some(found) = fields.next_key_seed(key)? {
            if found {
                fields.next_value_seed(Locate { rest, in_key })?;
            } else {
                fields.next_value::<IgnoredAny>()?;
            }
        }
        here()
    }
}

/// Whether a key is the wanted one.
#[derive(Clone, Copy)]
struct WantedKey<'a> {
    wanted: &'a str,
    stop: bool,
}

impl<'de> DeserializeSeed<'de> for WantedKey<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for WantedKey<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<bool, E> {
        if key == self.wanted && self.stop {
            return here();
        }
        Ok(key == self.wanted)
    }
}
