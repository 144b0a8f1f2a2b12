//! Text of one equation to its tree: `Z[a,c] = X[a,b] * W[b,c]`.

use super::Function;
use crate::error::{Problem, nearest};

/// A rank's letter.
pub type Rank = char;

/// A tensor with its index, and where it stands in the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorRef {
    /// Tensor name.
    pub name: String,
    /// Index ranks, in order.
    pub ranks: Vec<Rank>,
    /// Bytes of the text.
    pub span: (usize, usize),
}

impl TensorRef {
    /// Whether it is indexed by that rank.
    pub fn has(&self, rank: Rank) -> bool {
        self.ranks.contains(&rank)
    }
}

/// One factor: a tensor, or a function of tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Factor {
    /// Applied function.
    pub function: Option<Function>,
    /// Its arguments (one tensor without a function).
    pub args: Vec<TensorRef>,
    /// Bytes of the text.
    pub span: (usize, usize),
}

impl Factor {
    /// The argument with the most ranks, the first of several.
    pub fn largest(&self) -> Option<&TensorRef> {
        self.args.iter().rev().max_by_key(|arg| arg.ranks.len())
    }
}

/// One equation: a result and one or two factors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Equation {
    /// What is made.
    pub result: TensorRef,
    /// What it is made from.
    pub factors: Vec<Factor>,
}

impl Equation {
    /// All tensors read, in order.
    pub fn reads(&self) -> impl Iterator<Item = &TensorRef> {
        self.factors.iter().flat_map(|factor| factor.args.iter())
    }
}

impl std::fmt::Display for TensorRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ranks: Vec<String> = self.ranks.iter().map(ToString::to_string).collect();
        write!(f, "{}[{}]", self.name, ranks.join(","))
    }
}

impl std::fmt::Display for Equation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} = ", self.result)?;
        for (i, factor) in self.factors.iter().enumerate() {
            let args: Vec<String> = factor.args.iter().map(ToString::to_string).collect();
            let separator = if i == 0 { "" } else { " * " };
            match factor.function {
                Some(function) => write!(f, "{separator}{}({})", function.name(), args.join(", "))?,
                None => write!(f, "{separator}{}", args.join(""))?,
            }
        }
        Ok(())
    }
}

/// Reads one equation.
///
/// # Errors
/// The first fault of syntax, with its byte span in `text`.
pub fn parse(text: &str) -> Result<Equation, Problem> {
    let mut reader = Reader { text, at: 0 };
    let result = reader.tensor()?;
    reader.symbol('=', "an equation reads `Z[...] = X[...] * W[...]` or `Z[...] = f(X[...])`")?;
    let mut factors = vec![reader.factor()?];
    while reader.peek() == Some('*') {
        reader.at += 1;
        factors.push(reader.factor()?);
    }
    if let Some(next) = reader.peek() {
        return Err(reader.fault(format!("unexpected `{next}` after a complete equation")));
    }
    if let Some(third) = factors.get(2) {
        return Err(Problem::new("too-many-factors", "an equation multiplies at most two factors")
            .at(third.span.0, third.span.1)
            .hint("write it as two equations in one kernel; the tensor between them never reaches memory"));
    }
    Ok(Equation { result, factors })
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn peek(&mut self) -> Option<char> {
        let rest = &self.text[self.at..];
        let trimmed = rest.trim_start();
        self.at += rest.len() - trimmed.len();
        trimmed.chars().next()
    }

    fn fault(&self, message: impl Into<String>) -> Problem {
        let width = self.text[self.at..].chars().next().map_or(1, char::len_utf8);
        Problem::new("syntax", message).at(self.at, self.at + width)
    }

    fn symbol(&mut self, wanted: char, hint: &str) -> Result<(), Problem> {
        match self.peek() {
            Some(next) if next == wanted => {
                self.at += wanted.len_utf8();
                Ok(())
            }
            Some(next) => Err(self.fault(format!("expected `{wanted}`, found `{next}`")).hint(hint)),
            None => Err(self.fault(format!("expected `{wanted}`, found the end of the equation")).hint(hint)),
        }
    }

    fn name(&mut self) -> Result<(String, usize), Problem> {
        match self.peek() {
            Some(c) if c.is_ascii_alphabetic() => {}
            Some(c) => return Err(self.fault(format!("expected a name, found `{c}`"))),
            None => return Err(self.fault("expected a name, found the end of the equation")),
        }
        let start = self.at;
        let rest = &self.text[start..];
        let length = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
        self.at += length;
        Ok((rest[..length].to_owned(), start))
    }

    fn tensor(&mut self) -> Result<TensorRef, Problem> {
        let (name, start) = self.name()?;
        self.indices(name, start)
    }

    fn indices(&mut self, name: String, start: usize) -> Result<TensorRef, Problem> {
        let hint = "a tensor is a name and its ranks, as in `X[b,s,d]`";
        self.symbol('[', hint)?;
        let mut ranks: Vec<Rank> = Vec::new();
        loop {
            let (letters, at) = self.name()?;
            let mut chars = letters.chars();
            let (Some(rank), None) = (chars.next(), chars.next()) else {
                return Err(Problem::new("syntax", format!("a rank is one letter, found `{letters}`"))
                    .at(at, at + letters.len())
                    .hint("separate ranks with commas"));
            };
            if ranks.contains(&rank) {
                return Err(Problem::new("repeated-rank", format!("rank `{rank}` stands twice in `{name}`"))
                    .at(at, at + 1)
                    .hint("use another letter with the same extent"));
            }
            ranks.push(rank);
            match self.peek() {
                Some(',') => self.at += 1,
                Some(']') => break,
                Some(c) => return Err(self.fault(format!("expected `,` or `]`, found `{c}`")).hint(hint)),
                None => return Err(self.fault("expected `]`, found the end of the equation").hint(hint)),
            }
        }
        self.at += 1;
        Ok(TensorRef { name, ranks, span: (start, self.at) })
    }

    fn factor(&mut self) -> Result<Factor, Problem> {
        let (name, start) = self.name()?;
        if self.peek() != Some('(') {
            let tensor = self.indices(name, start)?;
            return Ok(Factor { function: None, span: tensor.span, args: vec![tensor] });
        }
        let Some(function) = Function::from_name(&name) else {
            let known: Vec<&str> = Function::ALL.iter().map(|(n, _)| *n).collect();
            let hint = nearest(&name, known.iter().copied())
                .map_or_else(|| format!("known functions: {}", known.join(", ")), |n| format!("did you mean `{n}`?"));
            return Err(Problem::new("unknown-function", format!("unknown function `{name}`"))
                .at(start, start + name.len())
                .hint(hint));
        };
        self.at += 1;
        let mut args = vec![self.tensor()?];
        while self.peek() == Some(',') {
            self.at += 1;
            args.push(self.tensor()?);
        }
        self.symbol(')', "close the function's arguments")?;
        Ok(Factor { function: Some(function), args, span: (start, self.at) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_what_it_read() {
        for text in [
            "Q[b,s,g,r,e] = N[b,s,d] * Wq[d,g,r,e]",
            "A[b,s,f] = silu(G[b,s,f]) * U[b,s,f]",
            "X[b,s,d] = add(X[b,s,d], Y[b,s,d])",
        ] {
            assert_eq!(parse(text).map(|e| e.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn faults_point_at_the_place() {
        let problem = parse("A[b,s] = sofmax(G[b,s])").unwrap_err();
        assert_eq!((problem.span, problem.hint.as_deref()), (Some((9, 15)), Some("did you mean `softmax`?")));
        assert_eq!(parse("A[b,b] = G[b]").unwrap_err().code, "repeated-rank");
        assert_eq!(parse("A[b] = G[b] * H[b] * I[b]").unwrap_err().span, Some((21, 25)));
        assert_eq!(parse("A[b] = ").unwrap_err().span, Some((7, 8)));
        assert_eq!(parse("A[bs] = G[b]").unwrap_err().message, "a rank is one letter, found `bs`");
    }
}
