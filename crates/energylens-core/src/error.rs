//! The one error type: what is wrong, where in the plan, and what would mend it.

use std::fmt;

use serde::Serialize;

/// One step of a path into the plan's JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Step {
    /// A field name.
    Key(String),
    /// A list position.
    Index(usize),
}

impl From<&str> for Step {
    fn from(key: &str) -> Self {
        Self::Key(key.to_owned())
    }
}

impl From<usize> for Step {
    fn from(index: usize) -> Self {
        Self::Index(index)
    }
}

/// One fault in a plan: a stable code, a sentence, a path and, inside a string, a byte span.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Stable short name of the kind of fault, such as `unknown-rank`.
    pub code: &'static str,
    /// One sentence for the user, the offending value included.
    pub message: String,
    /// Where in the plan's JSON.
    pub path: Vec<Step>,
    /// Byte offsets within the string at `path`.
    pub span: Option<(usize, usize)>,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Problem {
    /// A fault without a place yet; the place is added as it rises.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), path: Vec::new(), span: None, hint: None }
    }

    /// Marks the bytes of the string that are at fault.
    #[must_use]
    pub fn at(mut self, start: usize, end: usize) -> Self {
        self.span = Some((start, end));
        self
    }

    /// Adds advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Puts an outer location in front of the path.
    #[must_use]
    pub fn inside(mut self, outer: &[Step]) -> Self {
        self.path.splice(0..0, outer.iter().cloned());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)
    }
}

/// All faults found, never only the first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct Problems(pub Vec<Problem>);

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

impl Problems {
    /// `Ok(value)` if nothing was found, else all that was.
    pub fn or<T>(self, value: T) -> Result<T, Self> {
        if self.0.is_empty() { Ok(value) } else { Err(self) }
    }

    /// Takes over the faults of a failed part and gives back the value of a good one.
    pub fn gather<T>(&mut self, outer: &[Step], result: Result<T, Self>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(inner) => {
                self.0.extend(inner.0.into_iter().map(|p| p.inside(outer)));
                None
            }
        }
    }

    /// Adds one fault.
    pub fn push(&mut self, problem: Problem) {
        self.0.push(problem);
    }
}

/// The nearest of `candidates` to `word`, for "did you mean".
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (edit_distance(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= (1 + candidate.len() / 4).min(word.len().max(candidate.len()) / 2))
        .min()
        .map(|(_, candidate)| candidate)
}

fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.to_lowercase().chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_finds_a_slip_of_the_finger() {
        assert_eq!(nearest("sofmax", ["norm", "softmax", "silu"]), Some("softmax"));
        assert_eq!(nearest("zzz", ["norm", "softmax"]), None);
    }
}
