//! The text of a selector -> words with their columns.

use super::{ExpressionError, MAX_WORD};

/// One word of a selector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// A key or a word such as `in`.
    Word(&'a str),
    /// What stands between quotes.
    Text(&'a str),
    /// `==`, `&&`, `(` and the like.
    Sign(&'static str),
    End,
}

/// Longer signs first, so that `!=` is not `!`.
const SIGNS: [&str; 11] = ["==", "!=", "&&", "||", "!", "(", ")", "{", "}", ",", "="];

/// The words of `text` with their columns, counted from 1 in characters; the last is [`Token::End`].
pub(super) fn tokens(text: &str) -> Result<Vec<(Token<'_>, usize)>, ExpressionError> {
    let mut out = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        let at = column(text, rest);
        let Some(first) = rest.chars().next() else {
            out.push((Token::End, at));
            return Ok(out);
        };
        let (token, after) = if let Some(sign) = SIGNS.iter().find(|s| rest.starts_with(**s)) {
            (Token::Sign(sign), rest.get(sign.len()..))
        } else if matches!(first, '\'' | '"') {
            let inside = rest.get(1..).unwrap_or_default();
            let Some((value, after)) = inside.split_once(first) else {
                return Err(error(at, "the quote is not closed"));
            };
            (Token::Text(value), Some(after))
        } else {
            let length = rest.bytes().take_while(|b| is_word(*b)).count();
            if length == 0 {
                let message = format!("{first:?} stands where nothing like it is understood");
                return Err(error(at, &message));
            }
            let (word, after) = rest.split_at(length);
            (Token::Word(word), Some(after))
        };
        if let Token::Word(word) | Token::Text(word) = token
            && word.len() > MAX_WORD
        {
            let message = format!(
                "{} bytes are more than the {MAX_WORD} of a label",
                word.len()
            );
            return Err(error(at, &message));
        }
        out.push((token, at));
        rest = after.unwrap_or_default();
    }
}

/// What a key may hold; every byte of it is a character.
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'/')
}

/// Where `rest`, the end of `text`, begins.
fn column(text: &str, rest: &str) -> usize {
    let before = text.get(..text.len() - rest.len()).unwrap_or_default();
    before.chars().count() + 1
}

fn error(column: usize, message: &str) -> ExpressionError {
    ExpressionError {
        column,
        message: message.to_owned(),
    }
}
