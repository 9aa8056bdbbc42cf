//! Subject transforms: from a source filter to a destination that may use what the source's wildcards stood for.
//!
//! A destination token is literal, `$n`, or a function between double braces: `wildcard(n)`, `partition(buckets[,n…])`,
//! `splitFromLeft(n,at)`, `splitFromRight(n,at)`, `sliceFromLeft(n,size)`, `sliceFromRight(n,size)`, `split(n,separator)`,
//! `left(n,len)`, `right(n,len)`, `random(ceiling)`. Source: ADR-30; nats-server, `subject_transform.go`.

use thiserror::Error;

/// Tokens of a source or destination, at most.
const TOKENS_MAX: usize = 256;

/// Why a pair of source and destination is no transform. Texts are nats-server's.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TransformError {
    /// Not subjects, or their wildcards do not go together.
    #[error("invalid subject")]
    BadSubject,
    /// The destination is not a subject.
    #[error("invalid mapping destination: invalid transform{}", in_token(.token))]
    BadDestination {
        /// Where.
        token: String,
    },
    /// A function that does not exist.
    #[error("invalid mapping destination: unknown function in {token}")]
    UnknownFunction {
        /// Where.
        token: String,
    },
    /// A wildcard that the source does not have.
    #[error("invalid mapping destination: wildcard index out of range in {token}")]
    IndexOutOfRange {
        /// Where.
        token: String,
    },
    /// Too few arguments.
    #[error("invalid mapping destination: not enough arguments passed to the function in {token}")]
    NotEnoughArgs {
        /// Where.
        token: String,
    },
    /// Too many arguments.
    #[error("invalid mapping destination: too many arguments passed to the function in {token}")]
    TooManyArgs {
        /// Where.
        token: String,
    },
    /// An argument that is not what it has to be.
    #[error("invalid mapping destination: function argument is invalid or in the wrong format in {token}")]
    InvalidArg {
        /// Where.
        token: String,
    },
    /// An import's destination must be reversible.
    #[error(
        "invalid mapping destination: the only mapping function allowed for import transforms is {{{{Wildcard()}}}} in {token}"
    )]
    NotReversible {
        /// Where.
        token: String,
    },
    /// An import's destination must use every wildcard of its source.
    #[error("invalid mapping destination: not using all of the token wildcard(s) in {token}")]
    NotAllWildcards {
        /// Where.
        token: String,
    },
}

fn in_token(token: &str) -> String {
    if token.is_empty() {
        String::new()
    } else {
        format!(" in {token}")
    }
}

/// A function of a destination token; wildcards are numbered from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Function {
    Wildcard(i64),
    Partition { buckets: i32, wildcards: Vec<i64> },
    SplitFromLeft(i64, i32),
    SplitFromRight(i64, i32),
    SliceFromLeft(i64, i32),
    SliceFromRight(i64, i32),
    Split(i64, String),
    Left(i64, i32),
    Right(i64, i32),
    Random(i32),
}

/// One piece of a destination, with positions of source tokens in place of wildcard numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(Box<str>),
    Function(Function),
    /// What the source's `>` stood for.
    Rest,
}

/// A checked pair of source and destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectTransform {
    source: Box<str>,
    destination: Box<str>,
    source_tokens: usize,
    pieces: Vec<Piece>,
}

impl SubjectTransform {
    /// A transform from `source` (empty: `>`) to `destination`.
    ///
    /// # Errors
    /// If they are not valid or do not go together.
    pub fn new(source: &str, destination: &str) -> Result<Self, TransformError> {
        Self::build(source, destination, false)
    }

    /// A transform that can be [reversed](Self::reverse), as imports need it.
    ///
    /// # Errors
    /// As [`Self::new`], and if it uses other functions than `wildcard` or leaves a wildcard out.
    pub fn strict(source: &str, destination: &str) -> Result<Self, TransformError> {
        Self::build(source, destination, true)
    }

    /// Checks a transform as nats-server checks those of streams. An empty destination changes nothing and is fine.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn validate(source: &str, destination: &str) -> Result<(), TransformError> {
        if destination.is_empty() {
            return Ok(());
        }
        let mut is_ended = false;
        for token in destination.split('.') {
            if token.is_empty() || is_ended {
                return Err(TransformError::BadDestination {
                    token: token.to_owned(),
                });
            }
            if is_function(token) {
                if let Err(err @ TransformError::UnknownFunction { .. }) = parse_function(token) {
                    return Err(err);
                }
            } else if token == ">" {
                is_ended = true;
            } else if token.contains(['\t', '\n', '\x0c', '\r', ' ']) {
                return Err(TransformError::BadDestination { token: String::new() });
            }
        }
        Self::new(source, destination).map(|_| ())
    }

    fn build(source: &str, destination: &str, strict: bool) -> Result<Self, TransformError> {
        let source = if source.is_empty() { ">" } else { source };
        let from = Shape::of(source).ok_or(TransformError::BadSubject)?;
        let to = Shape::of(destination).ok_or(TransformError::BadSubject)?;
        if !to.stars.is_empty() || from.has_rest != to.has_rest {
            return Err(TransformError::BadSubject);
        }
        let mut pieces = Vec::with_capacity(to.tokens.len());
        let mut used = 0;
        for token in &to.tokens {
            let Some(function) = parse_function(token)? else {
                pieces.push(if *token == ">" {
                    Piece::Rest
                } else {
                    Piece::Literal((*token).into())
                });
                continue;
            };
            if strict && !matches!(function, Function::Wildcard(_)) {
                return Err(TransformError::NotReversible {
                    token: (*token).to_owned(),
                });
            }
            used += function.wildcards().len();
            pieces.push(Piece::Function(function.located(token, &from)?));
        }
        if strict && used < from.stars.len() {
            return Err(TransformError::NotAllWildcards {
                token: destination.to_owned(),
            });
        }
        Ok(Self {
            source: source.into(),
            destination: destination.into(),
            source_tokens: from.tokens.len(),
            pieces,
        })
    }

    /// What is transformed: a filter.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The destination as it was written.
    #[must_use]
    pub fn destination(&self) -> &str {
        &self.destination
    }

    /// `subject` transformed; `None` if the source does not cover it or cutting it would break a character apart. `random`
    /// is what `random()` draws from.
    #[must_use]
    pub fn apply(&self, subject: &str, random: u32) -> Option<String> {
        if &*self.source == ">" && &*self.destination == ">" {
            return Some(subject.to_owned());
        }
        if !super::is_valid_literal(subject) {
            return None;
        }
        self.apply_to_request(subject, random)
    }

    /// As [`Self::apply`], but a wildcard in `subject` is a token like others: requests for consumers end with their filter.
    #[must_use]
    pub fn apply_to_request(&self, subject: &str, random: u32) -> Option<String> {
        if !super::is_valid_filter(subject) || !super::matches(&self.source, subject) {
            return None;
        }
        let tokens: Vec<&str> = subject.split('.').collect();
        let mut out = Vec::with_capacity(subject.len() + self.destination.len());
        for (index, piece) in self.pieces.iter().enumerate() {
            if index > 0 {
                out.push(b'.');
            }
            match piece {
                Piece::Literal(text) => out.extend_from_slice(text.as_bytes()),
                Piece::Rest => {
                    let rest = tokens.get(self.source_tokens - 1..).unwrap_or_default();
                    out.extend_from_slice(rest.join(".").as_bytes());
                }
                Piece::Function(function) => function.write(&tokens, random, &mut out),
            }
        }
        String::from_utf8(out).ok()
    }

    /// The transform back, of one that is [`Self::strict`].
    ///
    /// # Errors
    /// If the transform cannot be reversed.
    pub fn reverse(&self) -> Result<Self, TransformError> {
        let mut holders = Vec::new();
        let source: Vec<&str> = self
            .destination
            .split('.')
            .map(|token| match parse_function(token) {
                Ok(Some(Function::Wildcard(_))) => {
                    holders.push(token);
                    "*"
                }
                _ => token,
            })
            .collect();
        // The nth wildcard of the destination stood for this wildcard of the source.
        let numbers: Vec<i64> = holders
            .iter()
            .filter_map(|token| match parse_function(token) {
                Ok(Some(Function::Wildcard(number))) => Some(number),
                _ => None,
            })
            .collect();
        let mut star = 0;
        let destination: Result<Vec<String>, TransformError> = self
            .source
            .split('.')
            .map(|token| {
                if token != "*" {
                    return Ok(token.to_owned());
                }
                star += 1;
                let position = numbers.iter().position(|number| *number == star);
                let position = position.ok_or(TransformError::NotAllWildcards {
                    token: self.destination.to_string(),
                })?;
                Ok(format!("${}", position + 1))
            })
            .collect();
        Self::strict(&source.join("."), &destination?.join("."))
    }
}

/// A subject's tokens and where its wildcards are.
struct Shape<'a> {
    tokens: Vec<&'a str>,
    stars: Vec<usize>,
    has_rest: bool,
}

impl<'a> Shape<'a> {
    fn of(subject: &'a str) -> Option<Self> {
        let tokens: Vec<&str> = subject.split('.').take(TOKENS_MAX + 1).collect();
        let last = tokens.len() - 1;
        let is_wrong = |(index, token): (usize, &&str)| token.is_empty() || (*token == ">" && index != last);
        if tokens.len() > TOKENS_MAX || tokens.iter().enumerate().any(is_wrong) {
            return None;
        }
        let stars = tokens.iter().enumerate().filter(|(_, token)| **token == "*");
        Some(Self {
            stars: stars.map(|(index, _)| index).collect(),
            has_rest: tokens[last] == ">",
            tokens,
        })
    }
}

fn is_function(token: &str) -> bool {
    token.len() > 4 && token.starts_with("{{") && token.ends_with("}}")
}

/// `None`: the token is literal.
fn parse_function(token: &str) -> Result<Option<Function>, TransformError> {
    let owned = || token.to_owned();
    if let Some(number) = token.strip_prefix('$') {
        return Ok(number.parse().ok().map(Function::Wildcard));
    }
    if !is_function(token) {
        return Ok(None);
    }
    let unknown = || TransformError::UnknownFunction { token: owned() };
    let call = token[2..token.len() - 2].trim();
    let (name, rest) = call.split_once('(').ok_or_else(unknown)?;
    let inner = rest.strip_suffix(')').ok_or_else(unknown)?;
    let args: Vec<&str> = inner
        .split(',')
        .enumerate()
        .map(|(index, arg)| if index == 0 { arg } else { arg.trim_start() })
        .collect();
    let number = |text: &str| {
        let parsed = text.trim_matches(' ').parse::<i64>();
        parsed.map_err(|_| TransformError::InvalidArg { token: owned() })
    };
    let number32 =
        |text: &str| i32::try_from(number(text)?).map_err(|_| TransformError::InvalidArg { token: owned() });
    let two = || match args.as_slice() {
        [_] => Err(TransformError::NotEnoughArgs { token: owned() }),
        [one, other] => Ok((*one, *other)),
        _ => Err(TransformError::TooManyArgs { token: owned() }),
    };
    let indexed = || {
        let (index, value) = two()?;
        Ok((number(index)?, number32(value)?))
    };
    let function = match canonical_name(name.trim()).as_str() {
        "wildcard" => match args.as_slice() {
            [""] => return Err(TransformError::NotEnoughArgs { token: owned() }),
            [index] => Function::Wildcard(number(index)?),
            _ => return Err(TransformError::TooManyArgs { token: owned() }),
        },
        "partition" => Function::Partition {
            buckets: number32(args.first().copied().unwrap_or_default())?,
            wildcards: args
                .iter()
                .skip(1)
                .map(|arg| number(arg))
                .collect::<Result<_, _>>()?,
        },
        "splitFromLeft" => indexed().map(|(index, at)| Function::SplitFromLeft(index, at))?,
        "splitFromRight" => indexed().map(|(index, at)| Function::SplitFromRight(index, at))?,
        "sliceFromLeft" => indexed().map(|(index, size)| Function::SliceFromLeft(index, size))?,
        "sliceFromRight" => indexed().map(|(index, size)| Function::SliceFromRight(index, size))?,
        "left" => indexed().map(|(index, len)| Function::Left(index, len))?,
        "right" => indexed().map(|(index, len)| Function::Right(index, len))?,
        "split" => {
            let (index, separator) = two()?;
            let index = number(index)?;
            if separator.is_empty() || separator.contains([' ', '.']) {
                return Err(TransformError::InvalidArg { token: owned() });
            }
            Function::Split(index, separator.to_owned())
        }
        "random" => match args.as_slice() {
            [ceiling] => Function::Random(number32(ceiling)?),
            _ => return Err(TransformError::NotEnoughArgs { token: owned() }),
        },
        _ => return Err(unknown()),
    };
    Ok(Some(function))
}

/// Function names may begin each of their words with a capital or not.
fn canonical_name(name: &str) -> String {
    const NAMES: [&str; 10] = [
        "wildcard",
        "partition",
        "splitFromLeft",
        "splitFromRight",
        "sliceFromLeft",
        "sliceFromRight",
        "split",
        "left",
        "right",
        "random",
    ];
    let is_same = |known: &&&str| {
        known.len() == name.len()
            && known
                .bytes()
                .zip(name.bytes())
                .enumerate()
                .all(|(index, (known, given))| {
                    known == given
                        || ((index == 0 || known.is_ascii_uppercase()) && known.eq_ignore_ascii_case(&given))
                })
    };
    NAMES
        .iter()
        .find(is_same)
        .map_or_else(String::new, |known| (*known).to_owned())
}

impl Function {
    fn wildcards(&self) -> &[i64] {
        match self {
            Self::Wildcard(index)
            | Self::SplitFromLeft(index, _)
            | Self::SplitFromRight(index, _)
            | Self::SliceFromLeft(index, _)
            | Self::SliceFromRight(index, _)
            | Self::Split(index, _)
            | Self::Left(index, _)
            | Self::Right(index, _) => std::slice::from_ref(index),
            Self::Partition { wildcards, .. } => wildcards,
            Self::Random(_) => &[],
        }
    }

    fn wildcards_mut(&mut self) -> &mut [i64] {
        match self {
            Self::Wildcard(index)
            | Self::SplitFromLeft(index, _)
            | Self::SplitFromRight(index, _)
            | Self::SliceFromLeft(index, _)
            | Self::SliceFromRight(index, _)
            | Self::Split(index, _)
            | Self::Left(index, _)
            | Self::Right(index, _) => std::slice::from_mut(index),
            Self::Partition { wildcards, .. } => wildcards,
            Self::Random(_) => &mut [],
        }
    }

    /// The function with positions of source tokens in place of wildcard numbers.
    fn located(mut self, token: &str, from: &Shape<'_>) -> Result<Self, TransformError> {
        let has_wildcards = from.has_rest || !from.stars.is_empty();
        let works_without = matches!(self, Self::Partition { .. } | Self::Random(_));
        if !has_wildcards {
            if !works_without {
                return Err(TransformError::IndexOutOfRange {
                    token: token.to_owned(),
                });
            }
            if let Self::Partition { wildcards, .. } = &mut self {
                wildcards.clear();
            }
            return Ok(self);
        }
        for index in self.wildcards_mut() {
            if usize::try_from(*index).is_ok_and(|index| index > from.stars.len()) {
                return Err(TransformError::IndexOutOfRange {
                    token: format!("{token}: [{index}]"),
                });
            }
            let star = usize::try_from(*index - 1)
                .ok()
                .and_then(|index| from.stars.get(index));
            *index = star.map_or(0, |position| *position as i64);
        }
        Ok(self)
    }

    fn write(&self, tokens: &[&str], random: u32, out: &mut Vec<u8>) {
        let token = |position: &i64| -> &[u8] {
            let position = usize::try_from(*position).unwrap_or(0);
            tokens.get(position).copied().unwrap_or_default().as_bytes()
        };
        match self {
            Self::Wildcard(at) => out.extend_from_slice(token(at)),
            Self::Partition { buckets, wildcards } => {
                let key = if wildcards.is_empty() {
                    tokens.join(".").into_bytes()
                } else {
                    wildcards.iter().flat_map(token).copied().collect()
                };
                let bucket = fnv1a(&key).checked_rem(*buckets as u32).unwrap_or(0);
                out.extend_from_slice(bucket.to_string().as_bytes());
            }
            Self::SplitFromLeft(at, position) => {
                let token = token(at);
                let cut = inner_length(*position, token).unwrap_or(token.len());
                write_parts(&[&token[..cut], &token[cut..]], out);
            }
            Self::SplitFromRight(at, position) => {
                let token = token(at);
                let cut =
                    inner_length(*position, token).map_or(token.len(), |position| token.len() - position);
                write_parts(&[&token[..cut], &token[cut..]], out);
            }
            Self::SliceFromLeft(at, size) => {
                let token = token(at);
                match inner_length(*size, token) {
                    Some(size) => write_parts(&token.chunks(size).collect::<Vec<_>>(), out),
                    None => out.extend_from_slice(token),
                }
            }
            Self::SliceFromRight(at, size) => {
                let token = token(at);
                match inner_length(*size, token) {
                    Some(size) => {
                        let mut parts: Vec<&[u8]> = token.rchunks(size).collect();
                        parts.reverse();
                        write_parts(&parts, out);
                    }
                    None => out.extend_from_slice(token),
                }
            }
            Self::Split(at, separator) => {
                let token = std::str::from_utf8(token(at)).unwrap_or_default();
                let parts: Vec<&[u8]> = token.split(separator.as_str()).map(str::as_bytes).collect();
                write_parts(&parts, out);
            }
            Self::Left(at, len) => {
                let token = token(at);
                out.extend_from_slice(&token[..inner_length(*len, token).unwrap_or(token.len())]);
            }
            Self::Right(at, len) => {
                let token = token(at);
                let len = inner_length(*len, token).unwrap_or(token.len());
                out.extend_from_slice(&token[token.len() - len..]);
            }
            Self::Random(ceiling) => {
                let drawn = i64::from(random >> 1)
                    .checked_rem(i64::from(*ceiling))
                    .unwrap_or(0);
                out.extend_from_slice(drawn.to_string().as_bytes());
            }
        }
    }
}

/// A length between nothing and the whole token, both excluded.
fn inner_length(length: i32, token: &[u8]) -> Option<usize> {
    usize::try_from(length)
        .ok()
        .filter(|length| *length > 0 && *length < token.len())
}

/// The parts that are not empty, with dots between them.
fn write_parts(parts: &[&[u8]], out: &mut Vec<u8>) {
    let parts = parts.iter().filter(|part| !part.is_empty());
    for (index, part) in parts.enumerate() {
        if index > 0 {
            out.push(b'.');
        }
        out.extend_from_slice(part);
    }
}

/// FNV-1a with 32 bits: the partition of a key is the same on every server.
fn fnv1a(key: &[u8]) -> u32 {
    let step = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    key.iter().fold(0x811c_9dc5, step)
}

#[cfg(test)]
mod tests;
