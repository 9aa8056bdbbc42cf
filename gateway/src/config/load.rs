//! Reading settings from file, environment and command line, and saying exactly what is wrong with them.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};

use config::{Config, ConfigError, Environment, File, FileFormat, Value, ValueKind};

use super::{Settings, keys};

/// Name of the environment as a source, as the `config` crate gives it.
const ENVIRONMENT: &str = "the environment";
/// Sections of the environment that belong to other commands than `serve`.
const COMMAND_SECTIONS: [&str; 8] = [
    "config",
    "only",
    "demo",
    "simulate",
    "verify",
    "table",
    "dead_letters",
    "broker",
];

/// Where settings come from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The configuration file, if any.
    pub file: Option<PathBuf>,
    /// The environment; only names with `TARN_` are looked at.
    pub environment: BTreeMap<String, String>,
    /// What the command line sets.
    pub flags: Vec<Flag>,
}

/// A setting from the command line.
#[derive(Clone, Debug)]
pub struct Flag {
    /// The flag as typed, for messages: `--mqtt-listen`.
    pub name: &'static str,
    /// The key it sets.
    pub key: &'static str,
    /// The value, as typed.
    pub value: String,
}

/// Settings that passed every check.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The effective settings.
    pub settings: Settings,
    /// The file they came from, if any.
    pub file: Option<PathBuf>,
}

/// One thing that is wrong: where, which key, why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// File, environment variable or flag; none for a default.
    pub source: Option<String>,
    /// The key; none where the whole source is meant.
    pub key: Option<String>,
    /// What is wrong and what to do.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in [&self.source, &self.key].into_iter().flatten() {
            write!(f, "{part}: ")?;
        }
        f.write_str(&self.reason)
    }
}

/// All that is wrong with a configuration; at least one problem.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", lines(.problems))]
pub struct ConfigErrors {
    /// In the order found.
    pub problems: Vec<Problem>,
}

fn lines(problems: &[Problem]) -> String {
    problems
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

impl From<Problem> for ConfigErrors {
    fn from(problem: Problem) -> Self {
        ConfigErrors {
            problems: vec![problem],
        }
    }
}

pub(super) fn load(sources: Sources) -> Result<Loaded, ConfigErrors> {
    let mut builder = Config::builder();
    if let Some(path) = &sources.file {
        let text = std::fs::read_to_string(path).map_err(|err| Problem {
            source: Some(path.display().to_string()),
            key: None,
            reason: format!("can't be read: {err}; give the right file with --config"),
        })?;
        builder = builder.add_source(File::from_str(&text, FileFormat::Toml));
    }
    builder = builder.add_source(environment(&sources.environment));
    for flag in &sources.flags {
        let value = Value::new(Some(&flag.name.to_owned()), flag.value.clone());
        builder = builder
            .set_override(flag.key, value)
            .map_err(|err| problem_of(err, sources.file.as_deref(), None))?;
    }
    let merged = builder
        .build()
        .map_err(|err| problem_of(err, sources.file.as_deref(), None))?;

    let mut unknown = Vec::new();
    find_unknown(&merged.cache, "", "", sources.file.as_deref(), &mut unknown);
    if !unknown.is_empty() {
        return Err(ConfigErrors { problems: unknown });
    }

    let tree = merged.cache.clone();
    let settings: Settings = merged
        .try_deserialize()
        .map_err(|err| problem_of(err, sources.file.as_deref(), Some(&tree)))?;
    let mut problems = settings.problems(sources.file.as_deref());
    if !problems.is_empty() {
        for problem in &mut problems {
            if let Some(key) = &problem.key {
                problem.source = source_of(&tree, key, sources.file.as_deref());
            }
        }
        return Err(ConfigErrors { problems });
    }
    Ok(Loaded {
        settings,
        file: sources.file,
    })
}

/// The environment as a source: without what other commands read and what Kubernetes adds for a service
/// that is called `tarn`.
fn environment(variables: &BTreeMap<String, String>) -> Environment {
    let mine: HashMap<String, String> = variables
        .iter()
        .filter(|(name, _)| name.strip_prefix("TARN_").is_some_and(is_setting))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    Environment::with_prefix("TARN")
        .prefix_separator("_")
        .separator("__")
        .source(Some(mine))
}

/// Whether a variable, its prefix taken off, is meant as a setting. One with `__` is, and so is one that is or looks
/// like a key without a section; anything else that starts with `TARN_` may be somebody else's.
fn is_setting(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let section = lower.split("__").next().unwrap_or(&lower);
    if COMMAND_SECTIONS.contains(&section) {
        return false;
    }
    if !name.contains("__") && !keys::is_known(&lower) && keys::nearest(&lower).is_none() {
        return false;
    }
    let from_kubernetes = name == "PORT"
        || name.starts_with("PORT_")
        || name.ends_with("_PORT")
        || name.ends_with("SERVICE_HOST")
        || name.contains("SERVICE_PORT")
        || name.contains("_PORT_");
    !from_kubernetes
}

/// Collects every key in `value` that the table of keys does not have. `path` uses `[]` for list elements,
/// `shown` their numbers.
fn find_unknown(value: &Value, path: &str, shown: &str, file: Option<&Path>, out: &mut Vec<Problem>) {
    let join = |left: &str, right: &str| {
        if left.is_empty() {
            right.to_owned()
        } else {
            format!("{left}.{right}")
        }
    };
    match &value.kind {
        ValueKind::Table(table) => {
            let mut names: Vec<_> = table.iter().collect();
            names.sort_by_key(|(name, _)| *name);
            for (name, inner) in names {
                let (path, shown) = (join(path, name), join(shown, name));
                if keys::is_known(&path) {
                    find_unknown(inner, &path, &shown, file, out);
                    continue;
                }
                let reason = match keys::nearest(&path) {
                    Some(near) => format!("unknown key; did you mean `{near}`?"),
                    None => "unknown key; docs/src/configuration.md lists the known ones".to_owned(),
                };
                out.push(Problem {
                    source: source_of_first(inner, &shown, file),
                    key: Some(shown),
                    reason,
                });
            }
        }
        ValueKind::Array(elements) => {
            for (index, inner) in elements.iter().enumerate() {
                find_unknown(
                    inner,
                    &format!("{path}[]"),
                    &format!("{shown}[{index}]"),
                    file,
                    out,
                );
            }
        }
        _ => {}
    }
}

/// Turns the `config` crate's error into a problem with its source.
fn problem_of(err: ConfigError, file: Option<&Path>, tree: Option<&Value>) -> Problem {
    let file_name = file.map(|path| path.display().to_string());
    let dotted = |key: Option<String>| key.map(|key| with_dots(&key));
    match err {
        ConfigError::FileParse { cause, .. } => Problem {
            source: file_name,
            key: None,
            reason: format!("not TOML: {}", cause.to_string().trim_end()),
        },
        ConfigError::At { error, key, .. } => {
            let key = dotted(key);
            let source = tree
                .zip(key.as_deref())
                .and_then(|(tree, key)| source_of(tree, key, file));
            let inner = problem_of(*error, file, None);
            Problem {
                source: source.or(file_name),
                key,
                reason: inner.reason,
            }
        }
        ConfigError::Type {
            unexpected,
            expected,
            key,
            ..
        } => {
            let key = dotted(key);
            let source = tree
                .zip(key.as_deref())
                .and_then(|(tree, key)| source_of(tree, key, file));
            Problem {
                source: source.or(file_name),
                key,
                reason: format!("expected {expected}, found {unexpected}"),
            }
        }
        ConfigError::NotFound(key) => Problem {
            source: file_name,
            key: dotted(Some(key)),
            reason: "is missing; add it".to_owned(),
        },
        other => Problem {
            source: None,
            key: None,
            reason: other.to_string(),
        },
    }
}

/// The `config` crate leaves out the dot behind a list's index: `stream[0]name`.
fn with_dots(key: &str) -> String {
    key.replace(']', "].")
        .replace("]..", "].")
        .trim_end_matches('.')
        .to_owned()
}

/// Which source gave the value at `key` (`section.name`, `list[0].name`), if it isn't a default.
fn source_of(tree: &Value, key: &str, file: Option<&Path>) -> Option<String> {
    let mut value = tree;
    for part in key.split(['.', '[']) {
        value = match (&value.kind, part.strip_suffix(']')) {
            (ValueKind::Array(elements), Some(index)) => elements.get(index.parse::<usize>().ok()?)?,
            (ValueKind::Table(table), None) => table.get(part)?,
            _ => return None,
        };
    }
    source_name(value, key, file)
}

/// A table has no origin of its own: the first value in it tells.
fn source_of_first(value: &Value, key: &str, file: Option<&Path>) -> Option<String> {
    if let ValueKind::Table(table) = &value.kind
        && let Some((name, inner)) = table.iter().min_by_key(|(name, _)| *name)
    {
        return source_of_first(inner, &format!("{key}.{name}"), file);
    }
    source_name(value, key, file)
}

fn source_name(value: &Value, key: &str, file: Option<&Path>) -> Option<String> {
    match value.origin() {
        Some(ENVIRONMENT) => Some(format!("TARN_{}", key.to_ascii_uppercase().replace('.', "__"))),
        Some(flag) if flag.starts_with("--") => Some(flag.to_owned()),
        // Tables that several sources share have no origin of their own.
        _ => file.map(|path| path.display().to_string()),
    }
}
