//! CBOR in the one encoding that RFC 8949, section 4.2.1, calls deterministic: shortest heads,
//! definite lengths, map keys strictly ascending by their bytes.
//!
//! A reader of our own and not a general library, because of three things that credentials need:
//! nothing is allocated by a length from the wire, one meaning has one encoding (so that a changed
//! byte anywhere is refused), and a key that stands twice is an error. The tests hold it against an
//! independent implementation.

/// What is wrong with the bytes, in words.
pub(crate) type Bad = &'static str;

/// How deep a value may nest that the reader does not know and skips.
const MAX_SKIP_DEPTH: u8 = 8;

const UINT: u8 = 0;
const NEGATIVE: u8 = 1;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
const SIMPLE: u8 = 7;

/// Appends items. The caller keeps map keys in order; the tests prove it by reading back.
#[derive(Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    pub(crate) fn uint(&mut self, value: u64) {
        self.head(UINT, value);
    }

    pub(crate) fn int(&mut self, value: i64) {
        match u64::try_from(value) {
            Ok(value) => self.head(UINT, value),
            // -1 - n is the complement, and the complement of a negative number is not negative.
            Err(_) => self.head(NEGATIVE, (!value).unsigned_abs()),
        }
    }

    pub(crate) fn bytes(&mut self, value: &[u8]) {
        self.head(BYTES, value.len() as u64);
        self.0.extend_from_slice(value);
    }

    pub(crate) fn text(&mut self, value: &str) {
        self.head(TEXT, value.len() as u64);
        self.0.extend_from_slice(value.as_bytes());
    }

    /// `len` items follow.
    pub(crate) fn array(&mut self, len: usize) {
        self.head(ARRAY, len as u64);
    }

    /// `len` pairs follow.
    pub(crate) fn map(&mut self, len: usize) {
        self.head(MAP, len as u64);
    }

    /// Bytes that are CBOR already.
    pub(crate) fn raw(&mut self, encoded: &[u8]) {
        self.0.extend_from_slice(encoded);
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }

    fn head(&mut self, major: u8, value: u64) {
        let major = major << 5;
        let all = value.to_be_bytes();
        let [.., low] = all;
        match value {
            0..=23 => self.0.push(major | low),
            24..=0xff => self.0.extend_from_slice(&[major | 24, low]),
            0x100..=0xffff => {
                self.0.push(major | 25);
                self.0.extend_from_slice(&all[6..]);
            }
            0x1_0000..=0xffff_ffff => {
                self.0.push(major | 26);
                self.0.extend_from_slice(&all[4..]);
            }
            _ => {
                self.0.push(major | 27);
                self.0.extend_from_slice(&all);
            }
        }
    }
}

/// A map's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key<'a> {
    Int(i64),
    Text(&'a str),
}

/// A value that may be either.
pub(crate) enum BytesOrText<'a> {
    Bytes(&'a [u8]),
    Text(&'a str),
}

/// Takes items off the front. After an error the reader is of no further use.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Everything was read.
    pub(crate) fn finish(self) -> Result<(), Bad> {
        match self.rest {
            [] => Ok(()),
            _ => Err("bytes follow the last item"),
        }
    }

    pub(crate) fn uint(&mut self) -> Result<u64, Bad> {
        match self.head()? {
            (UINT, value) => Ok(value),
            _ => Err("an unsigned integer was expected"),
        }
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], Bad> {
        match self.head()? {
            (BYTES, len) => self.take(len),
            _ => Err("a byte string was expected"),
        }
    }

    pub(crate) fn byte_array<const N: usize>(&mut self) -> Result<[u8; N], Bad> {
        let bytes = self.bytes()?;
        bytes
            .try_into()
            .map_err(|_| "a byte string has another length")
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, Bad> {
        match self.bytes_or_text()? {
            BytesOrText::Text(text) => Ok(text),
            BytesOrText::Bytes(_) => Err("text was expected"),
        }
    }

    pub(crate) fn bytes_or_text(&mut self) -> Result<BytesOrText<'a>, Bad> {
        match self.head()? {
            (BYTES, len) => self.take(len).map(BytesOrText::Bytes),
            (TEXT, len) => str::from_utf8(self.take(len)?)
                .map(BytesOrText::Text)
                .map_err(|_| "text is not UTF-8"),
            _ => Err("text or a byte string was expected"),
        }
    }

    /// Takes `expected` off the front.
    pub(crate) fn prefix(&mut self, expected: &[u8]) -> Result<(), Bad> {
        self.rest = self
            .rest
            .strip_prefix(expected)
            .ok_or("other bytes were expected")?;
        Ok(())
    }

    /// Takes `N` bytes off the front that have no head.
    pub(crate) fn raw_array<const N: usize>(&mut self) -> Result<[u8; N], Bad> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or("cut short")?;
        self.rest = rest;
        Ok(*taken)
    }

    /// The number of items that follow. Each has at least one byte, so the number is no larger than
    /// what is left to read.
    pub(crate) fn array(&mut self) -> Result<usize, Bad> {
        match self.head()? {
            (ARRAY, len) => self.count(len),
            _ => Err("an array was expected"),
        }
    }

    /// Calls `entry` for each key; it must take exactly the value.
    pub(crate) fn map(
        &mut self,
        mut entry: impl FnMut(&mut Self, Key<'a>) -> Result<(), Bad>,
    ) -> Result<(), Bad> {
        let (MAP, len) = self.head()? else {
            return Err("a map was expected");
        };
        let mut last: &[u8] = &[];
        for _ in 0..self.count(len)? {
            let before = self.rest;
            let key = self.key()?;
            let encoded = before
                .get(..before.len() - self.rest.len())
                .ok_or("a key has no length")?;
            if encoded <= last {
                return Err("map keys are not in ascending order, or stand twice");
            }
            last = encoded;
            entry(self, key)?;
        }
        Ok(())
    }

    /// Skips one item of any kind that JSON also has.
    pub(crate) fn skip(&mut self) -> Result<(), Bad> {
        self.skip_within(MAX_SKIP_DEPTH)
    }

    fn skip_within(&mut self, depth: u8) -> Result<(), Bad> {
        let deeper = depth.checked_sub(1).ok_or("a value nests too deep")?;
        match self.head()? {
            (UINT | NEGATIVE, _) | (SIMPLE, 20..=22) => Ok(()),
            (BYTES, len) => self.take(len).map(drop),
            (TEXT, len) => str::from_utf8(self.take(len)?)
                .map(drop)
                .map_err(|_| "text is not UTF-8"),
            (ARRAY, len) => (0..self.count(len)?).try_for_each(|_| self.skip_within(deeper)),
            (MAP, len) => (0..self.count(len)?).try_for_each(|_| {
                self.skip_within(deeper)?;
                self.skip_within(deeper)
            }),
            _ => Err("a value of a kind that is not used here"),
        }
    }

    fn key(&mut self) -> Result<Key<'a>, Bad> {
        match self.head()? {
            (UINT, value) => i64::try_from(value)
                .map(Key::Int)
                .map_err(|_| "a key is out of range"),
            (NEGATIVE, value) => i64::try_from(value)
                .map(|value| Key::Int(!value))
                .map_err(|_| "a key is out of range"),
            (TEXT, len) => str::from_utf8(self.take(len)?)
                .map(Key::Text)
                .map_err(|_| "text is not UTF-8"),
            _ => Err("a key is neither integer nor text"),
        }
    }

    /// Major type and argument (RFC 8949, section 3), refused unless in the shortest form.
    fn head(&mut self) -> Result<(u8, u64), Bad> {
        let (&first, rest) = self.rest.split_first().ok_or("cut short")?;
        self.rest = rest;
        let (width, least) = match first & 0x1f {
            direct @ 0..=23 => return Ok((first >> 5, u64::from(direct))),
            24 => (1, 24),
            25 => (2, 0x100),
            26 => (4, 0x1_0000),
            27 => (8, 0x1_0000_0000),
            _ => return Err("an indefinite length or a reserved head"),
        };
        let value = self
            .take(width)?
            .iter()
            .fold(0, |value, byte| (value << 8) | u64::from(*byte));
        if value < least {
            return Err("a head is not in its shortest form");
        }
        Ok((first >> 5, value))
    }

    fn take(&mut self, len: u64) -> Result<&'a [u8], Bad> {
        let len = usize::try_from(len).map_err(|_| "cut short")?;
        let (taken, rest) = self.rest.split_at_checked(len).ok_or("cut short")?;
        self.rest = rest;
        Ok(taken)
    }

    fn count(&self, len: u64) -> Result<usize, Bad> {
        usize::try_from(len)
            .ok()
            .filter(|len| *len <= self.rest.len())
            .ok_or("more items than bytes")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use coset::{CborSerializable, cbor::value::Value};
    use proptest::prelude::*;

    use super::*;

    /// RFC 8949, appendix A, the rows whose kinds are used here.
    #[test]
    fn integers_are_encoded_as_the_rfc_shows() {
        for (value, hex) in [
            (0, "00"),
            (23, "17"),
            (24, "1818"),
            (100, "1864"),
            (1000, "1903e8"),
            (1_000_000, "1a000f4240"),
            (1_000_000_000_000, "1b000000e8d4a51000"),
            (-1, "20"),
            (-10, "29"),
            (-100, "3863"),
            (-1000, "3903e7"),
            (i64::MIN, "3b7fffffffffffffff"),
        ] {
            let mut writer = Writer::default();
            writer.int(value);
            assert_eq!(hex::encode(writer.finish()), hex, "{value}");
        }
    }

    #[test]
    fn what_is_not_deterministic_is_refused() {
        for (hex, why) in [
            ("1817", "a head is not in its shortest form"),
            ("190017", "a head is not in its shortest form"),
            ("1a0000ffff", "a head is not in its shortest form"),
            ("1b00000000ffffffff", "a head is not in its shortest form"),
            ("5f4100ff", "an indefinite length or a reserved head"),
            ("1c", "an indefinite length or a reserved head"),
            ("18", "cut short"),
            ("", "cut short"),
            ("44000000", "cut short"),
            ("9b7fffffffffffffff", "more items than bytes"),
            ("bb7fffffffffffffff", "more items than bytes"),
            ("62fffe", "text is not UTF-8"),
            ("f90000", "a head is not in its shortest form"),
            ("c100", "a value of a kind that is not used here"),
            ("818181818181818180", "a value nests too deep"),
        ] {
            let bytes = hex::decode(hex).unwrap();
            assert_eq!(Reader::new(&bytes).skip(), Err(why), "{hex}");
        }
    }

    #[test]
    fn map_keys_ascend_and_stand_once() {
        let read = |hex: &str| {
            let bytes = hex::decode(hex).unwrap();
            let mut keys = Vec::new();
            Reader::new(&bytes)
                .map(|reader, key| {
                    keys.push(format!("{key:?}"));
                    reader.skip()
                })
                .map(|()| keys)
        };
        // {10: 0, 100: 0, -1: 0, "z": 0, "aa": 0}, the order of RFC 8949, section 4.2.1.
        assert_eq!(
            read("a50a0018640020 00617a00626161 00".replace(' ', "").as_str()),
            Ok([
                "Int(10)",
                "Int(100)",
                "Int(-1)",
                "Text(\"z\")",
                "Text(\"aa\")"
            ]
            .map(String::from)
            .to_vec())
        );
        let twice = Err("map keys are not in ascending order, or stand twice");
        assert_eq!(read("a201000100"), twice);
        assert_eq!(read("a202000100"), twice);
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut reader = Reader::new(&bytes);
            while reader.skip().is_ok() {}
            let _ = Reader::new(&bytes).map(|reader, _| reader.skip());
        }

        /// What we write is what the independent implementation writes, and the reverse.
        #[test]
        fn agrees_with_an_independent_implementation(
            number: i64, bytes: Vec<u8>, text: String,
        ) {
            let mut ours = Writer::default();
            ours.array(3);
            ours.int(number);
            ours.bytes(&bytes);
            ours.text(&text);
            let ours = ours.finish();
            let theirs = Value::Array(vec![
                Value::Integer(number.into()),
                Value::Bytes(bytes.clone()),
                Value::Text(text.clone()),
            ]);
            prop_assert_eq!(&ours, &theirs.to_vec().unwrap());
            let mut reader = Reader::new(&ours);
            prop_assert_eq!(reader.array(), Ok(3));
            prop_assert_eq!(reader.key(), Ok(Key::Int(number)));
            prop_assert_eq!(reader.bytes(), Ok(bytes.as_slice()));
            prop_assert_eq!(reader.text(), Ok(text.as_str()));
            prop_assert_eq!(reader.finish(), Ok(()));
        }
    }
}
