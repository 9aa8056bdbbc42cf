//! What a subject says about the readings on it.

use std::borrow::Cow;

/// What a subject gives for readings whose payload doesn't say it itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubjectFields<'a> {
    /// The level at `<device>`.
    pub device: Option<Cow<'a, str>>,
    /// The level at `<sensor>`.
    pub sensor: Option<Cow<'a, str>>,
    /// The level at `<location>`.
    pub location: Option<Cow<'a, str>>,
    /// The level at `<metric>`: the metric of `value`.
    pub metric: Option<Cow<'a, str>>,
}

/// Why a pattern can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// A level between two dots is empty, or the pattern is.
    #[error("pattern \"{pattern}\" has an empty level")]
    EmptyLevel {
        /// As given.
        pattern: String,
    },
    /// `<…>` with a name that isn't known.
    #[error(
        "pattern \"{pattern}\": unknown placeholder \"{level}\", known are <sensor>, <device>, <location>, <metric>"
    )]
    UnknownPlaceholder {
        /// As given.
        pattern: String,
        /// The level in question.
        level: String,
    },
    /// The same placeholder twice.
    #[error("pattern \"{pattern}\" has {level} twice")]
    RepeatedPlaceholder {
        /// As given.
        pattern: String,
        /// The level in question.
        level: String,
    },
    /// `>` that isn't the last level.
    #[error("pattern \"{pattern}\": \">\" is only allowed as the last level")]
    TailNotLast {
        /// As given.
        pattern: String,
    },
    /// White space or control characters.
    #[error("pattern \"{pattern}\" has white space or control characters")]
    BadCharacter {
        /// As given.
        pattern: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Device,
    Sensor,
    Location,
    Metric,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Level {
    Literal(Box<str>),
    Field(Field),
    /// `*`: any one level.
    Any,
    /// `>`: one level or more, to the end.
    Tail,
}

/// Subject patterns in order of preference: the first that fits a subject is used.
///
/// A pattern is a subject whose levels may be `<sensor>`, `<device>`, `<location>` or `<metric>` (each takes one level and
/// at most once), `*` (any one level) and, at the end, `>` (one level or more).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectPatterns {
    patterns: Vec<Vec<Level>>,
}

/// `sensors.<sensor>.<device>` and `iot.sensors.<sensor>.<device>`.
impl Default for SubjectPatterns {
    fn default() -> Self {
        Self::parse(Self::DEFAULT).expect("the default patterns are valid")
    }
}

impl SubjectPatterns {
    /// The patterns that are used where the configuration names none.
    pub const DEFAULT: [&str; 2] = ["sensors.<sensor>.<device>", "iot.sensors.<sensor>.<device>"];

    /// Takes patterns in order of preference. No pattern at all is allowed: payloads then have to say everything.
    /// Errors on the first one that isn't valid.
    pub fn parse<S: AsRef<str>>(patterns: impl IntoIterator<Item = S>) -> Result<Self, PatternError> {
        let patterns = patterns
            .into_iter()
            .map(|p| parse_pattern(p.as_ref()))
            .collect::<Result<_, _>>()?;
        Ok(Self { patterns })
    }

    /// What the first fitting pattern makes of `subject`; nothing where none fits.
    ///
    /// A level is read as the MQTT level that it stands for: `//` is a dot (`dev//1` is the device `dev.1`).
    pub fn fields<'a>(&self, subject: &'a str) -> SubjectFields<'a> {
        self.patterns
            .iter()
            .find_map(|pattern| fit(pattern, subject))
            .unwrap_or_default()
    }
}

fn parse_pattern(text: &str) -> Result<Vec<Level>, PatternError> {
    let pattern = || text.to_owned();
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(PatternError::BadCharacter { pattern: pattern() });
    }
    let mut levels = Vec::new();
    for level in text.split('.') {
        if levels.last() == Some(&Level::Tail) {
            return Err(PatternError::TailNotLast { pattern: pattern() });
        }
        let parsed = match level {
            "" => return Err(PatternError::EmptyLevel { pattern: pattern() }),
            "*" => Level::Any,
            ">" => Level::Tail,
            "<device>" => Level::Field(Field::Device),
            "<sensor>" => Level::Field(Field::Sensor),
            "<location>" => Level::Field(Field::Location),
            "<metric>" => Level::Field(Field::Metric),
            _ if level.contains(['<', '>', '*']) => {
                return Err(PatternError::UnknownPlaceholder {
                    pattern: pattern(),
                    level: level.to_owned(),
                });
            }
            _ => Level::Literal(level.into()),
        };
        if matches!(parsed, Level::Field(_)) && levels.contains(&parsed) {
            return Err(PatternError::RepeatedPlaceholder {
                pattern: pattern(),
                level: level.to_owned(),
            });
        }
        levels.push(parsed);
    }
    Ok(levels)
}

fn fit<'a>(pattern: &[Level], subject: &'a str) -> Option<SubjectFields<'a>> {
    let mut fields = SubjectFields::default();
    let mut levels = subject.split('.');
    for expected in pattern {
        let level = levels.next().filter(|level| !level.is_empty())?;
        match expected {
            Level::Literal(literal) if **literal == *level => {}
            Level::Literal(_) => return None,
            Level::Any => {}
            Level::Tail => return Some(fields),
            Level::Field(field) => {
                let slot = match field {
                    Field::Device => &mut fields.device,
                    Field::Sensor => &mut fields.sensor,
                    Field::Location => &mut fields.location,
                    Field::Metric => &mut fields.metric,
                };
                *slot = Some(unescape(level));
            }
        }
    }
    levels.next().is_none().then_some(fields)
}

/// nats-server's MQTT layer writes a dot inside of a topic level as `//`.
fn unescape(level: &str) -> Cow<'_, str> {
    if level.contains("//") {
        Cow::Owned(level.replace("//", "."))
    } else {
        Cow::Borrowed(level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sensor_and_device(patterns: &SubjectPatterns, subject: &str) -> Option<(String, String)> {
        let fields = patterns.fields(subject);
        Some((fields.sensor?.into_owned(), fields.device?.into_owned()))
    }

    #[test]
    fn default_patterns() {
        let patterns = SubjectPatterns::default();
        let pair = |s: &str, d: &str| Some((s.to_owned(), d.to_owned()));
        assert_eq!(
            sensor_and_device(&patterns, "sensors.temperature.d1"),
            pair("temperature", "d1")
        );
        assert_eq!(
            sensor_and_device(&patterns, "iot.sensors.motion.hall"),
            pair("motion", "hall")
        );
        assert_eq!(
            sensor_and_device(&patterns, "sensors.temperature.dev//1"),
            pair("temperature", "dev.1")
        );
        for subject in [
            "",
            "sensors",
            "sensors.temperature",
            "sensors.a.b.c",
            "sensors..b",
            "sensors.a.",
            "iot.a.b",
            "x.a.b",
        ] {
            assert_eq!(patterns.fields(subject), SubjectFields::default(), "{subject}");
        }
    }

    #[test]
    fn wildcards_and_order() {
        let patterns = SubjectPatterns::parse(["home.<location>.*.<metric>.>", "home.<device>.>"]).unwrap();
        let fields = patterns.fields("home.kitchen.x.power.a.b");
        assert_eq!(fields.location.as_deref(), Some("kitchen"));
        assert_eq!(fields.metric.as_deref(), Some("power"));
        assert_eq!(fields.device, None);
        assert_eq!(
            patterns.fields("home.kitchen.x.power").device.as_deref(),
            Some("kitchen")
        );
        assert_eq!(patterns.fields("home.kitchen"), SubjectFields::default());
    }

    #[test]
    fn bad_patterns_say_what_is_wrong() {
        for (pattern, message) in [
            ("", "pattern \"\" has an empty level"),
            ("a..b", "pattern \"a..b\" has an empty level"),
            (
                "a.>.b",
                "pattern \"a.>.b\": \">\" is only allowed as the last level",
            ),
            ("a b", "pattern \"a b\" has white space or control characters"),
            (
                "<device>.<device>",
                "pattern \"<device>.<device>\" has <device> twice",
            ),
            (
                "a.<room>",
                "pattern \"a.<room>\": unknown placeholder \"<room>\", known are <sensor>, <device>, <location>, <metric>",
            ),
        ] {
            assert_eq!(
                SubjectPatterns::parse([pattern]).unwrap_err().to_string(),
                message
            );
        }
    }
}
