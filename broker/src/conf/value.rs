//! What a configuration says, before it means anything.

use std::collections::HashMap;

use super::Position;

/// A value and where it stands: the value of a key stands where the key does.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where.
    pub at: Position,
    /// What.
    pub value: Value,
    /// A variable reference has used it: as a key it need not be a known one.
    pub is_referenced: bool,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Text, quoted or not.
    String(String),
    /// `true`, `yes`, `on` and their opposites.
    Bool(bool),
    /// A number, its suffix multiplied in.
    Int(i64),
    /// A number with a fraction.
    Float(f64),
    /// A point in time as it stands there: `2006-01-02T15:04:05Z`.
    Date(String),
    /// `[ … ]`
    Array(Vec<Node>),
    /// `{ … }`
    Map(Table),
}

impl Value {
    /// What kind of value it is, in the words of nats-server's messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::String(_) => "string",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int64",
            Self::Float(_) => "float64",
            Self::Date(_) => "time.Time",
            Self::Array(_) => "[]interface {}",
            Self::Map(_) => "map[string]interface {}",
        }
    }
}

/// Keys and values, in the order of the file. A key given twice has its last value, in its first place.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    entries: Vec<(String, Node)>,
    index: HashMap<String, usize>,
}

impl Table {
    /// Gives `key` a value.
    pub fn set(&mut self, key: String, node: Node) {
        if let Some(held) = self
            .index
            .get(&key)
            .and_then(|index| self.entries.get_mut(*index))
        {
            held.1 = node;
        } else {
            self.index.insert(key.clone(), self.entries.len());
            self.entries.push((key, node));
        }
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Node> {
        let index = self.index.get(key)?;
        self.entries.get(*index).map(|(_, node)| node)
    }

    pub(super) fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        let index = self.index.get(key)?;
        self.entries.get_mut(*index).map(|(_, node)| node)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.entries.iter().map(|(key, node)| (key.as_str(), node))
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl IntoIterator for Table {
    type Item = (String, Node);
    type IntoIter = std::vec::IntoIter<(String, Node)>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter()
    }
}
