//! Scalars to tables: maps, arrays, variables and includes. Nesting is a stack, not recursion; its depth has a bound, and so
//! has what includes and variables make of a file.

use std::cell::Cell;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use super::lex::{Cursor, Scalar, is_newline};
use super::value::{Node, Table, Value};
use super::{ConfigError, DEPTH_MAX, FILE_BYTES_MAX, INCLUDE_DEPTH_MAX, Position, Sources};

/// Bytes that included files and the values of variables may come to.
const EXPANSION_BYTES_MAX: usize = 64 << 20;
/// What a value counts for besides its text.
const VALUE_BYTES: usize = 64;

/// Reads `text`, which is that of `file`; includes are relative to that file's folder.
pub fn parse(file: &Path, text: &str, sources: &dyn Sources) -> Result<Table, ConfigError> {
    Parser::new(file, text, sources, Within::default()).document()
}

/// What a text is part of.
#[derive(Clone, Debug, Default)]
struct Within {
    /// Files that include it.
    includes: usize,
    /// Variables of the environment whose value it is.
    variables: Vec<String>,
    /// Bytes that have been included or repeated.
    expanded_bytes: Rc<Cell<usize>>,
}

/// A map or an array that has not ended.
#[derive(Debug)]
enum Frame {
    Map {
        table: Table,
        /// The key that the map will be the value of, in the frame below.
        at: Position,
    },
    Array {
        items: Vec<Node>,
        at: Position,
    },
}

struct Parser<'a> {
    cursor: Cursor<'a>,
    folder: PathBuf,
    sources: &'a dyn Sources,
    within: Within,
    /// What is open, outermost first. The first is the file.
    frames: Vec<Frame>,
    /// Keys whose values are in progress, outermost first.
    keys: Vec<(String, Position)>,
    /// Braces around the whole file that have not ended.
    braces: usize,
}

impl<'a> Parser<'a> {
    fn new(file: &Path, text: &'a str, sources: &'a dyn Sources, within: Within) -> Self {
        let name: Arc<str> = file.to_string_lossy().into();
        Self {
            cursor: Cursor::new(name, text),
            folder: file.parent().map(Path::to_path_buf).unwrap_or_default(),
            sources,
            within,
            frames: Vec::new(),
            keys: Vec::new(),
            braces: 0,
        }
    }

    fn document(mut self) -> Result<Table, ConfigError> {
        self.open_map()?;
        loop {
            let goes_on = match self.frames.last() {
                Some(Frame::Map { .. }) if self.frames.len() == 1 => self.root_entry()?,
                Some(Frame::Map { .. }) => self.map_entry()?,
                Some(Frame::Array { .. }) => self.array_item()?,
                None => false,
            };
            if !goes_on {
                break;
            }
        }
        match self.frames.pop() {
            Some(Frame::Map { table, .. }) => Ok(table),
            _ => Ok(Table::default()),
        }
    }

    /// One entry of the file, up to its value or the start of it. False at the end of the file.
    fn root_entry(&mut self) -> Result<bool, ConfigError> {
        self.cursor.skip_space(|c| matches!(c, ',' | ';'));
        match self.cursor.peek() {
            None if self.braces > 0 => Err(self.cursor.unexpected("a '}'")),
            None => Ok(false),
            Some('{') => {
                self.cursor.next();
                self.braces += 1;
                if self.braces > DEPTH_MAX {
                    return Err(self.too_deep());
                }
                Ok(true)
            }
            Some('}') => {
                let at = self.cursor.at();
                self.cursor.next();
                if self.braces > 0 {
                    self.braces -= 1;
                    return Ok(true);
                }
                // nats-server lets a file end with a bracket too many.
                self.cursor.skip_space(|_| false);
                match self.cursor.peek() {
                    None => Ok(false),
                    Some(_) => Err(ConfigError::new(&at, "Parse error: this '}' ends nothing")),
                }
            }
            Some(_) => self.entry().map(|()| true),
        }
    }

    fn map_entry(&mut self) -> Result<bool, ConfigError> {
        self.cursor.skip_space(|c| matches!(c, ',' | ';'));
        match self.cursor.peek() {
            None => return Err(self.unended("map")),
            Some('}') => {
                self.cursor.next();
                self.close()?;
            }
            Some(']') => return Err(self.cursor.unexpected("a key or a '}'")),
            Some(_) => self.entry()?,
        }
        Ok(true)
    }

    fn array_item(&mut self) -> Result<bool, ConfigError> {
        self.cursor.skip_space(|_| false);
        match self.cursor.peek() {
            None => return Err(self.unended("array")),
            Some(']') => {
                self.cursor.next();
                self.close()?;
            }
            Some(',') => return Err(self.cursor.unexpected("a value or a ']'")),
            Some(_) => self.value()?,
        }
        Ok(true)
    }

    /// A key and its value, or an include.
    fn entry(&mut self) -> Result<(), ConfigError> {
        let at = self.cursor.at();
        let (key, is_include) = self.cursor.key()?;
        if is_include {
            let name = self.cursor.include()?;
            self.include(&name, &at)?;
            return self.end_of_value();
        }
        self.cursor.separator();
        if self.frames.len() == 1 {
            self.cursor.skip_blanks();
        } else {
            self.cursor.skip_space(|_| false);
        }
        if self.cursor.peek().is_none() {
            return Err(ConfigError::new(
                &at,
                format!("Parse error: config is invalid: {key:?} has no value"),
            ));
        }
        self.keys.push((key, at));
        self.value()
    }

    /// A value or the start of one.
    fn value(&mut self) -> Result<(), ConfigError> {
        match self.cursor.peek() {
            Some('{') => {
                self.open_map()?;
                self.cursor.next();
                Ok(())
            }
            Some('[') => {
                let at = self.cursor.at();
                self.open(Frame::Array {
                    items: Vec::new(),
                    at,
                })?;
                self.cursor.next();
                Ok(())
            }
            _ => {
                let at = self.cursor.at();
                let node = match self.cursor.scalar()? {
                    Scalar::Variable(name) => self.variable(&name, at)?,
                    scalar => node(at, scalar_value(scalar)),
                };
                self.put(node);
                self.end_of_value()
            }
        }
    }

    fn open_map(&mut self) -> Result<(), ConfigError> {
        let at = self.cursor.at();
        self.open(Frame::Map {
            table: Table::default(),
            at,
        })
    }

    fn open(&mut self, frame: Frame) -> Result<(), ConfigError> {
        if self.frames.len() > DEPTH_MAX {
            return Err(self.too_deep());
        }
        self.frames.push(frame);
        Ok(())
    }

    fn too_deep(&self) -> ConfigError {
        self.cursor
            .error(format!("maps and arrays are nested more than {DEPTH_MAX} deep"))
    }

    /// Ends the innermost map or array.
    fn close(&mut self) -> Result<(), ConfigError> {
        match self.frames.pop() {
            Some(Frame::Map { table, at }) => self.put(node(at, Value::Map(table))),
            Some(Frame::Array { items, at }) => self.put(node(at, Value::Array(items))),
            None => {}
        }
        self.end_of_value()
    }

    /// Gives a value to whom it belongs.
    fn put(&mut self, mut node: Node) {
        match self.frames.last_mut() {
            Some(Frame::Map { table, .. }) => {
                if let Some((key, at)) = self.keys.pop() {
                    node.at = at;
                    table.set(key, node);
                }
            }
            Some(Frame::Array { items, .. }) => items.push(node),
            None => {}
        }
    }

    /// What may stand behind a value.
    fn end_of_value(&mut self) -> Result<(), ConfigError> {
        self.cursor.skip_blanks();
        if self.cursor.skip_comment() {
            return Ok(());
        }
        let (ends, expected): (&[char], _) = match self.frames.last() {
            Some(Frame::Array { .. }) => (&[',', ']'], "',', a new line or ']' behind an array's value"),
            _ => (&[',', ';', '}'], "',', a new line or '}' behind a value"),
        };
        match self.cursor.peek() {
            Some(',') => {
                self.cursor.next();
                Ok(())
            }
            Some(c) if is_newline(c) || ends.contains(&c) => Ok(()),
            None => Ok(()),
            Some(_) => Err(self.cursor.unexpected(expected)),
        }
    }

    fn unended(&self, what: &str) -> ConfigError {
        let at = match self.frames.last() {
            Some(Frame::Map { at, .. } | Frame::Array { at, .. }) => at.clone(),
            None => self.cursor.at(),
        };
        ConfigError::new(
            &at,
            format!("Parse error: the file ends within the {what} that starts here"),
        )
    }

    /// The value of a variable: of the innermost map that has such a key, or of the environment.
    fn variable(&mut self, name: &str, at: Position) -> Result<Node, ConfigError> {
        let held = self.frames.iter_mut().rev().find_map(|frame| match frame {
            Frame::Map { table, .. } => table.get_mut(name),
            Frame::Array { .. } => None,
        });
        if let Some(held) = held {
            held.is_referenced = true;
            let value = held.value.clone();
            return self.expanded(node(at, value));
        }
        let unusable = |why: String| {
            let line = at.line;
            ConfigError::new(
                &at,
                format!("variable reference for '{name}' on line {line} {why}"),
            )
        };
        if self.within.variables.iter().any(|held| held == name) {
            return Err(unusable(format!(
                "could not be parsed: variable reference cycle for '{name}'"
            )));
        }
        let Some(text) = self.sources.variable(name) else {
            return Err(unusable("can not be found".to_owned()));
        };
        // A value of the environment is read as one of a file would be.
        let text = format!("value={text}");
        let mut within = self.within.clone();
        within.variables.push(name.to_owned());
        let parsed = Parser::new(Path::new(""), &text, self.sources, within).document();
        let table = parsed.map_err(|err| unusable(format!("could not be parsed: {}", err.reason)))?;
        match table.get("value") {
            Some(held) => self.expanded(node(at.clone(), held.value.clone())),
            None => Err(unusable("can not be found".to_owned())),
        }
    }

    /// A value that a variable stands for, unless it makes too much of the file.
    fn expanded(&self, node: Node) -> Result<Node, ConfigError> {
        let (bytes, depth) = measure(&node.value);
        self.charge(bytes, &node.at)?;
        if self.frames.len() + depth > DEPTH_MAX + 1 {
            return Err(self.too_deep());
        }
        Ok(node)
    }

    fn charge(&self, bytes: usize, at: &Position) -> Result<(), ConfigError> {
        let spent = &self.within.expanded_bytes;
        spent.set(spent.get().saturating_add(bytes));
        if spent.get() > EXPANSION_BYTES_MAX {
            let reason = format!("includes and variables come to more than {EXPANSION_BYTES_MAX} bytes");
            return Err(ConfigError::new(at, reason));
        }
        Ok(())
    }

    /// Takes in the keys of another file.
    fn include(&mut self, name: &str, at: &Position) -> Result<(), ConfigError> {
        let failed =
            |why: String| ConfigError::new(at, format!("error parsing include file '{name}', {why}"));
        if self.within.includes >= INCLUDE_DEPTH_MAX {
            return Err(failed(format!(
                "files include each other more than {INCLUDE_DEPTH_MAX} deep"
            )));
        }
        // As in nats-server, a leading `/` does not leave the folder.
        let relative: PathBuf = Path::new(name)
            .components()
            .filter(|part| {
                !matches!(
                    part,
                    Component::RootDir | Component::Prefix(_) | Component::CurDir
                )
            })
            .collect();
        let path = self.folder.join(relative);
        let text = self
            .sources
            .file(&path)
            .map_err(|err| failed(unreadable(&path, &err)))?;
        self.charge(text.len() + VALUE_BYTES, at)?;
        let mut within = self.within.clone();
        within.includes += 1;
        let table = Parser::new(&path, &text, self.sources, within)
            .document()
            .map_err(|err| match err.at {
                Some(_) => err,
                None => failed(err.reason),
            })?;
        if let Some(Frame::Map { table: own, .. }) = self.frames.last_mut() {
            for (key, held) in table {
                own.set(key, held);
            }
        }
        Ok(())
    }
}

/// Why a file could not be read, as nats-server says it.
pub(super) fn unreadable(path: &Path, err: &io::Error) -> String {
    let why = match err.kind() {
        io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::IsADirectory => "is a directory".to_owned(),
        io::ErrorKind::FileTooLarge => format!("is larger than {FILE_BYTES_MAX} bytes"),
        _ => err.to_string(),
    };
    format!("open {}: {why}", path.display())
}

/// How many bytes a value counts for, and how deep it is; 0 for a scalar.
fn measure(value: &Value) -> (usize, usize) {
    let (mut bytes, mut depth_max) = (0_usize, 0);
    let mut left = vec![(value, 0)];
    while let Some((value, depth)) = left.pop() {
        bytes = bytes.saturating_add(VALUE_BYTES);
        depth_max = depth_max.max(depth);
        match value {
            Value::String(text) | Value::Date(text) => bytes = bytes.saturating_add(text.len()),
            Value::Array(items) => {
                depth_max = depth_max.max(depth + 1);
                left.extend(items.iter().map(|item| (&item.value, depth + 1)));
            }
            Value::Map(table) => {
                depth_max = depth_max.max(depth + 1);
                for (key, item) in table.iter() {
                    bytes = bytes.saturating_add(key.len());
                    left.push((&item.value, depth + 1));
                }
            }
            Value::Bool(_) | Value::Int(_) | Value::Float(_) => {}
        }
    }
    (bytes, depth_max)
}

fn node(at: Position, value: Value) -> Node {
    Node {
        at,
        value,
        is_referenced: false,
    }
}

fn scalar_value(scalar: Scalar) -> Value {
    match scalar {
        Scalar::Text(text) => Value::String(text),
        Scalar::Bool(truth) => Value::Bool(truth),
        Scalar::Int(number) => Value::Int(number),
        Scalar::Float(number) => Value::Float(number),
        Scalar::Date(date) => Value::Date(date),
        // The caller has looked variables up.
        Scalar::Variable(name) => Value::String(name),
    }
}
