//! Characters to scalars: strings, numbers, dates, variables, and what stands between them.

use std::sync::Arc;

use super::{ConfigError, Position};

/// A place in the text of one file.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    file: Arc<str>,
    rest: &'a str,
    line: u32,
    column: u32,
}

/// A value that is neither a map nor an array.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Scalar {
    Text(String),
    Bool(bool),
    Int(i64),
    Float(f64),
    Date(String),
    /// `$name`
    Variable(String),
}

/// nats-server's raw bcrypt hashes look like variables.
const BCRYPT_PREFIX: &str = "2a$";

impl<'a> Cursor<'a> {
    pub(super) fn new(file: Arc<str>, text: &'a str) -> Self {
        Self {
            file,
            rest: text.strip_prefix('\u{feff}').unwrap_or(text),
            line: 1,
            column: 1,
        }
    }

    pub(super) fn at(&self) -> Position {
        Position {
            file: Arc::clone(&self.file),
            line: self.line,
            column: self.column,
        }
    }

    pub(super) fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    pub(super) fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.rest = &self.rest[next.len_utf8()..];
        if next == '\n' {
            self.line += 1;
            self.column = 1;
        } else {
            self.column += 1;
        }
        Some(next)
    }

    /// Takes characters while `wanted`, gives them.
    fn take(&mut self, mut wanted: impl FnMut(char) -> bool) -> &'a str {
        let whole = self.rest;
        while self.peek().is_some_and(&mut wanted) {
            self.next();
        }
        &whole[..whole.len() - self.rest.len()]
    }

    /// Skips spaces and tabs.
    pub(super) fn skip_blanks(&mut self) {
        self.take(is_blank);
    }

    /// Skips white space, comments, and whatever else `also` says.
    pub(super) fn skip_space(&mut self, also: impl Fn(char) -> bool) {
        loop {
            self.take(|c| c.is_whitespace() || also(c));
            if !self.skip_comment() {
                return;
            }
        }
    }

    /// Skips a comment up to the end of its line, if there is one.
    pub(super) fn skip_comment(&mut self) -> bool {
        let is_comment = self.rest.starts_with('#') || self.rest.starts_with("//");
        if is_comment {
            self.take(|c| !is_newline(c));
        }
        is_comment
    }

    pub(super) fn error(&self, reason: impl Into<String>) -> ConfigError {
        ConfigError::new(&self.at(), format!("Parse error: {}", reason.into()))
    }

    pub(super) fn unexpected(&self, expected: &str) -> ConfigError {
        match self.peek() {
            Some('\n' | '\r') => self.error(format!("expected {expected}, but found a new line")),
            Some(found) => self.error(format!("expected {expected}, but got '{found}'")),
            None => self.error(format!("expected {expected}, but the file ends")),
        }
    }

    /// A key, and whether it is the bare word `include` in front of a blank.
    pub(super) fn key(&mut self) -> Result<(String, bool), ConfigError> {
        match self.peek() {
            Some(quote @ ('"' | '\'')) => {
                self.next();
                let key = self.take(|c| c != quote).to_owned();
                if self.next().is_none() {
                    return Err(self.error("the file ends within a quoted key"));
                }
                Ok((key, false))
            }
            Some('=' | ':') => Err(self.unexpected("a key")),
            _ => {
                let key = self.take(|c| !c.is_whitespace() && !matches!(c, '=' | ':'));
                let is_include =
                    key.eq_ignore_ascii_case("include") && self.peek().is_some_and(char::is_whitespace);
                Ok((key.to_owned(), is_include))
            }
        }
    }

    /// The separator behind a key, which may be missing, and the space around it.
    pub(super) fn separator(&mut self) {
        self.take(char::is_whitespace);
        if matches!(self.peek(), Some('=' | ':')) {
            self.next();
        }
    }

    /// The name of an included file.
    pub(super) fn include(&mut self) -> Result<String, ConfigError> {
        self.skip_blanks();
        let name = match self.peek() {
            Some('"' | '\'') => self.quoted_raw("an include")?,
            Some('[' | '{' | '(' | '\\' | '-' | '\n' | '\r') | None => {
                return Err(self.unexpected("the name of a file to include"));
            }
            Some(digit) if digit.is_ascii_digit() => {
                return Err(self.unexpected("the name of a file to include"));
            }
            Some(_) => self
                .take(|c| !is_newline(c) && !is_blank(c) && !matches!(c, ';' | '}' | '\''))
                .to_owned(),
        };
        Ok(name)
    }

    /// A scalar. The first character is neither white space nor the start of a map or array.
    pub(super) fn scalar(&mut self) -> Result<Scalar, ConfigError> {
        match self.peek() {
            Some('\'') => self.quoted_raw("a string").map(Scalar::Text),
            Some('"') => self.quoted().map(Scalar::Text),
            Some('(') => self.block().map(Scalar::Text),
            Some('.') => Err(self.error("a number starts with a digit, not with '.'")),
            Some(c) if c == '-' || c.is_ascii_digit() => self.number(),
            Some(c) if !is_newline(c) => self.bare(String::new()),
            _ => Err(self.unexpected("a value")),
        }
    }

    fn quoted_raw(&mut self, what: &str) -> Result<String, ConfigError> {
        let start = self.at();
        let Some(quote) = self.next() else {
            return Err(self.unexpected(what));
        };
        let text = self.take(|c| c != quote).to_owned();
        match self.next() {
            Some(_) => Ok(text),
            None => Err(unended(&start, what)),
        }
    }

    fn quoted(&mut self) -> Result<String, ConfigError> {
        let start = self.at();
        self.next();
        let mut bytes = Vec::new();
        loop {
            bytes.extend_from_slice(self.take(|c| !matches!(c, '"' | '\\')).as_bytes());
            match self.peek() {
                Some('\\') => self.escape(&mut bytes)?,
                Some(_) => {
                    self.next();
                    return utf8(bytes, &start);
                }
                None => return Err(unended(&start, "a string")),
            }
        }
    }

    /// An escape sequence, its backslash included.
    fn escape(&mut self, into: &mut Vec<u8>) -> Result<(), ConfigError> {
        self.next();
        let byte = match self.peek() {
            Some('x') => {
                let digits = self.rest.get(1..3).unwrap_or_default();
                let Ok(byte) = u8::from_str_radix(digits, 16) else {
                    return Err(self.error("\\x is followed by two hexadecimal digits"));
                };
                self.next();
                self.next();
                byte
            }
            Some('t') => b'\t',
            Some('n') => b'\n',
            Some('r') => b'\r',
            Some('"') => b'"',
            Some('\\') => b'\\',
            _ => return Err(self.unexpected("one of the escapes \\xXX, \\t, \\n, \\r, \\\", \\\\")),
        };
        self.next();
        into.push(byte);
        Ok(())
    }

    /// Lines up to one that is a lone `)`.
    fn block(&mut self) -> Result<String, ConfigError> {
        let start = self.at();
        self.next();
        let mut text = String::new();
        loop {
            text.push_str(self.take(|c| c != ')'));
            let Some(bracket) = self.next() else {
                return Err(unended(&start, "a block"));
            };
            let ends_line = self.peek().is_none_or(|c| c == '\n') || self.rest.starts_with("\r\n");
            if text.ends_with('\n') && ends_line {
                return Ok(text);
            }
            text.push(bracket);
        }
    }

    /// What starts like a number: a number, a date, an address, or a word.
    fn number(&mut self) -> Result<Scalar, ConfigError> {
        let mut text = String::new();
        if self.peek() == Some('-') {
            self.next();
            text.push('-');
            if !self.peek().is_some_and(|c| c.is_ascii_digit()) {
                return Err(self.unexpected("a digit"));
            }
        }
        text.push_str(self.take(|c| c.is_ascii_digit()));
        match self.peek() {
            Some('-') if text.len() == 4 => self.date(text),
            Some('-') => Err(self.error("a date is written 2006-01-02T15:04:05Z")),
            Some('.') => self.fraction(text),
            Some(c) if is_suffix(c) => {
                let suffix = self.take(|c| is_suffix(c) || matches!(c, 'b' | 'B' | 'i' | 'I'));
                match multiplier(suffix).filter(|_| self.is_at_end_of_value()) {
                    Some(multiplier) => self.integer(&text, multiplier),
                    None => self.bare(text + suffix),
                }
            }
            _ if self.is_at_end_of_value() => self.integer(&text, 1),
            _ => self.bare(text),
        }
    }

    fn integer(&self, digits: &str, multiplier: i64) -> Result<Scalar, ConfigError> {
        digits
            .parse::<i64>()
            .ok()
            .and_then(|number| number.checked_mul(multiplier))
            .map(Scalar::Int)
            .ok_or_else(|| self.error(format!("integer '{digits}' is out of the range")))
    }

    fn fraction(&mut self, mut text: String) -> Result<Scalar, ConfigError> {
        self.next();
        let digits = self.take(|c| c.is_ascii_digit());
        if digits.is_empty() {
            return Err(self.unexpected("a digit behind the '.'"));
        }
        text.push('.');
        text.push_str(digits);
        if self.peek() == Some('.') {
            text.push_str(self.take(|c| c.is_ascii_digit() || matches!(c, '.' | ':' | '-')));
            return Ok(Scalar::Text(text));
        }
        match text.parse() {
            Ok(number) => Ok(Scalar::Float(number)),
            Err(_) => Err(self.error(format!("float '{text}' is out of the range"))),
        }
    }

    /// A date whose year is taken.
    fn date(&mut self, mut text: String) -> Result<Scalar, ConfigError> {
        for wanted in "-dd-ddTdd:dd:ddZ".chars() {
            match self.peek() {
                Some(c) if c == wanted || (wanted == 'd' && c.is_ascii_digit()) => text.push(c),
                _ => return Err(self.unexpected("a date such as 2006-01-02T15:04:05Z")),
            }
            self.next();
        }
        Ok(Scalar::Date(text))
    }

    /// A word without quotes, of which `start` is taken.
    fn bare(&mut self, start: String) -> Result<Scalar, ConfigError> {
        let at = self.at();
        let mut bytes = start.into_bytes();
        let mut has_escapes = false;
        loop {
            let part = self.take(|c| !is_end_of_value(c) && !matches!(c, '\\' | '\''));
            bytes.extend_from_slice(part.as_bytes());
            match self.peek() {
                Some('\\') => {
                    has_escapes = true;
                    self.escape(&mut bytes)?;
                }
                Some('\'') => {
                    self.next();
                    return utf8(bytes, &at).map(Scalar::Text);
                }
                _ => break,
            }
        }
        let text = utf8(bytes, &at)?;
        if has_escapes {
            return Ok(Scalar::Text(text));
        }
        Ok(match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" => Scalar::Bool(true),
            "false" | "no" | "off" => Scalar::Bool(false),
            _ => match text.strip_prefix('$') {
                Some(name) if !name.starts_with(BCRYPT_PREFIX) => Scalar::Variable(name.to_owned()),
                _ => Scalar::Text(text),
            },
        })
    }

    pub(super) fn is_at_end_of_value(&self) -> bool {
        self.peek().is_none_or(is_end_of_value)
    }
}

fn utf8(bytes: Vec<u8>, at: &Position) -> Result<String, ConfigError> {
    String::from_utf8(bytes).map_err(|_| ConfigError::new(at, "Parse error: a string is not valid UTF-8"))
}

fn unended(start: &Position, what: &str) -> ConfigError {
    ConfigError::new(
        start,
        format!("Parse error: the file ends within {what} that starts here"),
    )
}

pub(super) fn is_newline(c: char) -> bool {
    matches!(c, '\n' | '\r')
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t')
}

fn is_end_of_value(c: char) -> bool {
    is_newline(c) || is_blank(c) || matches!(c, ';' | ',' | ']' | '}')
}

fn is_suffix(c: char) -> bool {
    matches!(c.to_ascii_lowercase(), 'k' | 'm' | 'g' | 't' | 'p' | 'e')
}

fn multiplier(suffix: &str) -> Option<i64> {
    let lower = suffix.to_ascii_lowercase();
    let power = match lower.chars().next()? {
        'k' => 1,
        'm' => 2,
        'g' => 3,
        't' => 4,
        'p' => 5,
        _ => 6,
    };
    match lower.get(1..)? {
        "" => Some(1000_i64.pow(power)),
        "b" | "i" | "ib" => Some(1024_i64.pow(power)),
        _ => None,
    }
}
