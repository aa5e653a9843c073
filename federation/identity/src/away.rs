//! What becomes of a peer that stays away: as its operator's opposite number chose.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

/// The longest limit.
const MAX_LIMIT: Duration = Duration::from_hours(24 * 365);

/// How long a peer may be away, and what holds of it then. Without a rule its bundle ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AwayRule {
    /// For how long what it said last is simply in force.
    pub limit: AwayLimit,
    /// What holds after that.
    #[serde(default)]
    pub then: AwayThen,
}

impl AwayRule {
    /// Of a cluster that nobody here chose by itself.
    pub const OF_INTRODUCED: Self = Self {
        limit: AwayLimit(Duration::from_hours(24)),
        then: AwayThen::Closed,
    };
}

/// A time of 1 s to 365 days, such as `90s`, `15m`, `2h` or `7d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AwayLimit(Duration);

/// What holds of a peer that is away for too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AwayThen {
    /// Nothing of it is admitted, and its live connections are cut.
    #[default]
    Closed,
    /// What it said last stays in force, its bundle beyond its end too.
    Keep,
}

/// Text that is no rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not {expected}", expected = self.1)]
pub struct AwayError(String, &'static str);

impl AwayLimit {
    /// As a duration.
    #[must_use]
    pub fn duration(self) -> Duration {
        self.0
    }
}

impl FromStr for AwayLimit {
    type Err = AwayError;

    fn from_str(text: &str) -> Result<Self, AwayError> {
        let expected = "a time of 1 s to 365 days, such as 90s, 15m, 2h or 7d";
        let wrong = || AwayError(text.chars().take(40).collect(), expected);
        let units = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400)];
        let mut units = units.into_iter();
        let found = units.find_map(|(unit, secs)| Some((text.strip_suffix(unit)?, secs)));
        let (number, secs) = found.ok_or_else(wrong)?;
        // A sign is no digit, though numbers may have one.
        if !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong());
        }
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let limit = Duration::from_secs(number.checked_mul(secs).ok_or_else(wrong)?);
        match limit.is_zero() || limit > MAX_LIMIT {
            true => Err(wrong()),
            false => Ok(Self(limit)),
        }
    }
}

impl TryFrom<String> for AwayLimit {
    type Error = AwayError;
    fn try_from(text: String) -> Result<Self, AwayError> {
        text.parse()
    }
}

impl From<AwayLimit> for String {
    fn from(limit: AwayLimit) -> Self {
        limit.to_string()
    }
}

/// In the largest unit that says it exactly.
impl fmt::Display for AwayLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secs = self.0.as_secs();
        let units = [('d', 86_400), ('h', 3600), ('m', 60)];
        let whole = units
            .into_iter()
            .find(|(_, unit)| secs.is_multiple_of(*unit));
        let (unit, length) = whole.unwrap_or(('s', 1));
        write!(f, "{}{unit}", secs / length)
    }
}

/// `1h`, `1h:closed` or `1h:keep`.
impl FromStr for AwayRule {
    type Err = AwayError;

    fn from_str(text: &str) -> Result<Self, AwayError> {
        let (limit, then) = text.split_once(':').unwrap_or((text, "closed"));
        Ok(Self {
            limit: limit.parse()?,
            then: then.parse()?,
        })
    }
}

impl FromStr for AwayThen {
    type Err = AwayError;

    fn from_str(text: &str) -> Result<Self, AwayError> {
        match text {
            "closed" => Ok(Self::Closed),
            "keep" => Ok(Self::Keep),
            _ => Err(AwayError(text.chars().take(40).collect(), "closed or keep")),
        }
    }
}

impl fmt::Display for AwayRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let then = match self.then {
            AwayThen::Closed => "closed",
            AwayThen::Keep => "keep",
        };
        write!(f, "{}:{then}", self.limit)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rules_are_read_as_people_write_them_and_said_the_same() {
        for (text, secs, said) in [
            ("1h", 3600, "1h:closed"),
            ("90s", 90, "90s:closed"),
            ("120s:closed", 120, "2m:closed"),
            ("7d:keep", 7 * 86_400, "7d:keep"),
        ] {
            let rule: AwayRule = text.parse().unwrap();
            assert_eq!(rule.limit.duration().as_secs(), secs);
            assert_eq!(rule.to_string(), said);
            assert_eq!(said.parse(), Ok(rule));
            let json = serde_json::to_string(&rule).unwrap();
            assert_eq!(serde_json::from_str::<AwayRule>(&json).unwrap(), rule);
        }
        for wrong in [
            "",
            "h",
            "1",
            "0s",
            "-1h",
            "+1h",
            "1.5h",
            "366d",
            "1h:",
            "1h:open",
            "99999999999999999999d",
        ] {
            assert!(wrong.parse::<AwayRule>().is_err(), "{wrong}");
        }
    }
}
