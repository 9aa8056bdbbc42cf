//! Units as devices write them → UCUM codes, by the table in `data/units.toml`.
//!
//! Source: The Unified Code for Units of Measure, case-sensitive codes.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde::Deserialize;

/// What becomes of a value that was sent in some unit.
#[derive(Clone, Debug, PartialEq)]
pub struct Unit {
    /// The UCUM code.
    pub code: String,
    conversion: Option<Conversion>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Conversion {
    add: f64,
    multiply: f64,
    divide: f64,
}

impl Unit {
    /// `value` in the unit of `code`. May be infinite where `value` is near the largest float.
    pub fn convert(&self, value: f64) -> f64 {
        match self.conversion {
            None => value,
            Some(Conversion {
                add,
                multiply,
                divide,
            }) => (value + add) * multiply / divide,
        }
    }
}

/// The unit that `sent` spells; `None` where the table doesn't know it. Blanks around it don't count.
pub fn lookup(sent: &str) -> Option<&'static Unit> {
    let table = &*TABLE;
    let sent = sent.trim();
    let index = match table.symbols.get(sent) {
        Some(index) => index,
        None => table.words.get(&as_word(sent))?,
    };
    table.units.get(*index)
}

struct Table {
    units: Vec<Unit>,
    symbols: HashMap<String, usize>,
    words: HashMap<String, usize>,
}

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    parse(include_str!("../data/units.toml")).expect("the built-in unit table is valid: a test parses it")
});

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TableText {
    unit: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    code: String,
    #[serde(default)]
    symbols: Vec<String>,
    #[serde(default)]
    words: Vec<String>,
    add: Option<f64>,
    multiply: Option<f64>,
    divide: Option<f64>,
}

fn parse(text: &str) -> Result<Table, String> {
    let rows: TableText = toml::from_str(text).map_err(|err| err.to_string())?;
    let mut table = Table {
        units: Vec::new(),
        symbols: HashMap::new(),
        words: HashMap::new(),
    };
    for row in rows.unit {
        let index = table.units.len();
        for symbol in row.symbols {
            if let Some(other) = table.symbols.insert(symbol.clone(), index) {
                return Err(format!("symbol {symbol} stands for row {other} and row {index}"));
            }
        }
        for word in row.words {
            if let Some(other) = table.words.insert(as_word(&word), index) {
                return Err(format!("word {word} stands for row {other} and row {index}"));
            }
        }
        let conversion = match (row.add, row.multiply, row.divide) {
            (None, None, None) => None,
            (add, multiply, divide) => Some(Conversion {
                add: add.unwrap_or(0.0),
                multiply: multiply.unwrap_or(1.0),
                divide: divide.unwrap_or(1.0),
            }),
        };
        table.units.push(Unit {
            code: row.code,
            conversion,
        });
    }
    Ok(table)
}

fn as_word(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c == '_' || c == '-' {
                ' '
            } else {
                c.to_ascii_lowercase()
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(sent: &str) -> &'static str {
        &lookup(sent)
            .unwrap_or_else(|| panic!("{sent} is not in the table"))
            .code
    }

    #[test]
    fn the_table_is_valid() {
        if let Err(message) = parse(include_str!("../data/units.toml")) {
            panic!("{message}");
        }
    }

    #[test]
    fn a_code_is_a_spelling_of_itself_unless_it_converts() {
        let table = &*TABLE;
        for unit in &table.units {
            let itself = lookup(&unit.code).unwrap_or_else(|| panic!("{} is not a spelling", unit.code));
            assert_eq!(itself.code, unit.code);
            assert_eq!(itself.convert(1.5), 1.5, "{}", unit.code);
        }
    }

    #[test]
    fn spellings() {
        for sent in ["C", "°C", "celsius", "Celsius", " degrees_celsius ", "CELSIUS"] {
            assert_eq!(code(sent), "Cel", "{sent}");
        }
        assert_eq!(
            [code("mW"), code("MW"), code("kWh"), code("watts")],
            ["mW", "MW", "kW.h", "W"]
        );
        assert_eq!(
            [code("%"), code("µg/m³"), code("Lux"), code("PPM")],
            ["%", "ug/m3", "lx", "[ppm]"]
        );
        assert_eq!(lookup("furlong"), None);
        assert_eq!(lookup(""), None);
    }

    #[test]
    fn conversions() {
        let fahrenheit = lookup("F").unwrap();
        assert_eq!(fahrenheit.code, "Cel");
        assert_eq!(
            [
                fahrenheit.convert(212.0),
                fahrenheit.convert(32.0),
                fahrenheit.convert(-40.0)
            ],
            [100.0, 0.0, -40.0]
        );
        assert_eq!(lookup("kW").unwrap().convert(1.5), 1.5);
        assert!((lookup("inHg").unwrap().convert(29.92) - 1013.2).abs() < 0.1);
        assert!((lookup("psi").unwrap().convert(14.5038) - 100.0).abs() < 0.01);
    }
}
