//! Label selectors as text: `app == "api" && env in {"prod", "stage"} && !has(legacy)`.
//!
//! ```text
//! expression  = conjunction *( "||" conjunction )
//! conjunction = factor *( "&&" factor )
//! factor      = "!" factor / "(" expression ")" / "all()" / "has(" key ")" / key test
//! test        = "==" text / "!=" text / "in" set / "not in" set
//!             / "contains" text / "starts with" text / "ends with" text
//! set         = "{" [ text *( "," text ) ] "}"
//! text        = one line between ' or between "
//! ```
//!
//! `!=` and `not in` hold of what lacks the label, `==`, `in`, `contains`, `starts with` and `ends with` do not.
//! `global()` means what is in no namespace and stands for itself among namespaces only.

mod lexer;
mod negation;
mod write;

use lexer::{Token, tokens};

use crate::model::{LabelSelector, Operator, Part, Requirement, Term};

/// Longest key and longest text in bytes.
const MAX_WORD: usize = 512;
/// Longest expression in bytes.
const MAX_TEXT: usize = 16_384;
/// Deepest nesting of parentheses and negations, here and in what another cluster sends.
pub(crate) const MAX_DEPTH: usize = 32;

/// Whose labels an expression looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Labels {
    /// Those of workloads.
    OfWorkloads,
    /// Those of namespaces.
    OfNamespaces,
}

/// Where an expression cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {message}")]
pub struct ExpressionError {
    /// Of the text, in characters counted from 1.
    pub column: usize,
    /// What is wrong there, and what would be right.
    pub message: String,
}

/// The selector that `text` describes, as it was written: [`crate::compile`] brings it into one form.
///
/// # Errors
/// The first place that makes no sense.
pub fn parse(text: &str, labels: Labels) -> Result<LabelSelector, ExpressionError> {
    if text.len() > MAX_TEXT {
        return Err(ExpressionError {
            column: 1,
            message: format!("{} bytes are more than {MAX_TEXT}", text.len()),
        });
    }
    let mut parser = Parser {
        tokens: tokens(text)?,
        next: 0,
        depth: 0,
        labels,
    };
    let selector = parser.expression()?;
    match parser.peek() {
        Token::End => Ok(selector),
        _ => Err(parser.wanted("`&&`, `||` or the end")),
    }
}

struct Parser<'a> {
    tokens: Vec<(Token<'a>, usize)>,
    next: usize,
    depth: usize,
    labels: Labels,
}

impl<'a> Parser<'a> {
    fn expression(&mut self) -> Result<LabelSelector, ExpressionError> {
        let mut choices = vec![self.conjunction()?];
        while self.takes("||") {
            choices.push(self.conjunction()?);
        }
        Ok(match choices.pop() {
            Some(only) if choices.is_empty() => only,
            last => {
                choices.extend(last);
                LabelSelector(vec![Term::AnyOf(choices)])
            }
        })
    }

    fn conjunction(&mut self) -> Result<LabelSelector, ExpressionError> {
        let mut all = self.factor()?;
        while self.takes("&&") {
            all.0.extend(self.factor()?.0);
        }
        Ok(all)
    }

    fn factor(&mut self) -> Result<LabelSelector, ExpressionError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.fault(format!("nested more than {MAX_DEPTH} deep")));
        }
        let factor = self.one();
        self.depth -= 1;
        factor
    }

    fn one(&mut self) -> Result<LabelSelector, ExpressionError> {
        if self.takes("!") {
            return Ok(!self.factor()?);
        }
        if self.takes("(") {
            let inside = self.expression()?;
            self.expect(")")?;
            return Ok(inside);
        }
        let Token::Word(word) = self.peek() else {
            return Err(self.wanted("a label, has(LABEL), all(), `!` or `(`"));
        };
        let at = self.next;
        self.next += 1;
        if self.takes("(") {
            return self.call(word, at);
        }
        let requirement = Requirement {
            operator: self.test()?,
            key: word.to_owned(),
        };
        Ok(LabelSelector(vec![requirement.into()]))
    }

    /// What follows `word(`.
    fn call(&mut self, word: &str, at: usize) -> Result<LabelSelector, ExpressionError> {
        let selector = match word {
            "has" => {
                let Token::Word(key) = self.peek() else {
                    return Err(self.wanted("a label"));
                };
                self.next += 1;
                let requirement = Requirement {
                    key: key.to_owned(),
                    operator: Operator::Exists,
                };
                LabelSelector(vec![requirement.into()])
            }
            "all" => LabelSelector::default(),
            "global" if self.labels == Labels::OfNamespaces => nothing(),
            "global" => {
                self.next = at;
                return Err(self
                    .fault("global() is about namespaces, not about labels of workloads".into()));
            }
            _ => {
                self.next = at;
                return Err(self.fault(format!(
                    "{word}() is not known; there are has(), all() and global()"
                )));
            }
        };
        self.expect(")")?;
        Ok(selector)
    }

    /// What follows a key.
    fn test(&mut self) -> Result<Operator, ExpressionError> {
        if self.takes("==") {
            return Ok(Operator::In(vec![self.text()?]));
        }
        if self.takes("!=") {
            return Ok(Operator::NotIn(vec![self.text()?]));
        }
        let Token::Word(word) = self.peek() else {
            return Err(self.wanted(
                "==, !=, `in`, `not in`, `contains`, `starts with` or `ends with`; has(LABEL) asks whether there is one",
            ));
        };
        self.next += 1;
        match word {
            "in" => Ok(Operator::In(self.set()?)),
            "not" => {
                self.expect_word("in")?;
                Ok(Operator::NotIn(self.set()?))
            }
            "contains" => Ok(Operator::Like(Part::Contains(self.text()?))),
            "starts" => {
                self.expect_word("with")?;
                Ok(Operator::Like(Part::StartsWith(self.text()?)))
            }
            "ends" => {
                self.expect_word("with")?;
                Ok(Operator::Like(Part::EndsWith(self.text()?)))
            }
            _ => {
                self.next -= 1;
                Err(self.wanted("==, !=, `in`, `not in`, `contains`, `starts with` or `ends with`"))
            }
        }
    }

    fn set(&mut self) -> Result<Vec<String>, ExpressionError> {
        self.expect("{")?;
        let mut values = Vec::new();
        if self.takes("}") {
            return Ok(values);
        }
        loop {
            values.push(self.text()?);
            if !self.takes(",") {
                self.expect("}")?;
                return Ok(values);
            }
        }
    }

    fn text(&mut self) -> Result<String, ExpressionError> {
        let Token::Text(text) = self.peek() else {
            return Err(self.wanted("a value between quotes"));
        };
        self.next += 1;
        Ok(text.to_owned())
    }

    fn expect_word(&mut self, word: &str) -> Result<(), ExpressionError> {
        match self.peek() {
            Token::Word(found) if found == word => {
                self.next += 1;
                Ok(())
            }
            _ => Err(self.wanted(&format!("`{word}`"))),
        }
    }

    fn expect(&mut self, sign: &'static str) -> Result<(), ExpressionError> {
        match self.takes(sign) {
            true => Ok(()),
            false => Err(self.wanted(&format!("`{sign}`"))),
        }
    }

    fn takes(&mut self, sign: &'static str) -> bool {
        let takes = self.peek() == Token::Sign(sign);
        self.next += usize::from(takes);
        takes
    }

    fn peek(&self) -> Token<'a> {
        self.tokens
            .get(self.next)
            .map_or(Token::End, |(token, _)| *token)
    }

    /// The next word is another than is understood here.
    fn wanted(&self, what: &str) -> ExpressionError {
        let found = match self.peek() {
            Token::Word(word) => format!("`{word}`"),
            Token::Text(text) => format!("the value {text:?}"),
            Token::Sign("=") => "`=` (it is written `==`)".to_owned(),
            Token::Sign(sign) => format!("`{sign}`"),
            Token::End => "the end".to_owned(),
        };
        self.fault(format!("found {found}, wanted {what}"))
    }

    fn fault(&self, message: String) -> ExpressionError {
        // The last word is the end, which no rule takes.
        let column = self.tokens.get(self.next).map_or(1, |(_, column)| *column);
        ExpressionError { column, message }
    }
}

/// Selects nothing.
fn nothing() -> LabelSelector {
    LabelSelector(vec![Term::AnyOf(Vec::new())])
}
