//! Subjects that are published under other names, by weight. Source: nats-server, `AddWeightedMappings`.

use crate::options::{MapDestination, SubjectMapping};
use crate::subject;
use crate::subject::transform::{SubjectTransform, TransformError};

use super::numbered;

/// Why a mapping can't be had. Texts are nats-server's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MappingError {
    #[error("duplicate entry for {0:?}")]
    Duplicate(String),
    #[error("total weight needs to be <= 100")]
    TotalWeight,
    #[error("{0}")]
    Transform(#[from] TransformError),
}

/// The mappings of an account, in the order in which they are tried.
#[derive(Debug, Default)]
pub(crate) struct Mappings(Vec<Mapping>);

/// One subject that is published under other names.
#[derive(Debug)]
struct Mapping {
    source: Box<str>,
    /// With the share in a hundred at which the next one begins.
    destinations: Vec<(u8, SubjectTransform)>,
}

impl Mapping {
    fn new(source: &str, destinations: &[MapDestination]) -> Result<Self, MappingError> {
        // There is no cluster: what is meant for one is not asked.
        let own = destinations.iter().filter(|one| one.cluster.is_none());
        let mut parts: Vec<(u8, SubjectTransform)> = Vec::new();
        let (mut total, mut names) = (0_u8, Vec::new());
        for MapDestination { subject, weight, .. } in own {
            if names.contains(&subject.as_str()) {
                return Err(MappingError::Duplicate(subject.clone()));
            }
            names.push(subject);
            total = total
                .checked_add(*weight)
                .filter(|total| *total <= 100)
                .ok_or(MappingError::TotalWeight)?;
            SubjectTransform::validate(source, subject)?;
            parts.push((*weight, SubjectTransform::new(source, subject)?));
        }
        // What is missing stays as it is, unless that is weighed too: then it is lost, on purpose.
        if total != 100 && !names.contains(&source) {
            let same = SubjectTransform::new(source, &numbered(source))?;
            parts.push((100 - total, same));
        }
        parts.sort_by_key(|(weight, _)| *weight);
        let mut end = 0;
        for (weight, _) in &mut parts {
            end += *weight;
            *weight = end;
        }
        Ok(Self {
            source: source.into(),
            destinations: parts,
        })
    }

    fn pick(&self, subject: &str, random: u32) -> Option<String> {
        let turn = u8::try_from(random % 100).unwrap_or(0);
        let (_, transform) = self.destinations.iter().find(|(end, _)| turn < *end)?;
        transform.apply(subject, random / 100)
    }
}

impl Mappings {
    /// The mappings of these options; a later one of the same subject takes the place of an earlier one.
    pub(crate) fn new(options: &[SubjectMapping]) -> Result<Self, MappingError> {
        let mut held: Vec<Mapping> = Vec::new();
        for SubjectMapping { source, destinations } in options {
            let mapping = Mapping::new(source, destinations)?;
            match held.iter_mut().find(|known| known.source == mapping.source) {
                Some(known) => *known = mapping,
                None => held.push(mapping),
            }
        }
        Ok(Self(held))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What `subject` is published as; `None`: as it is. Empty: it is to be lost.
    pub(crate) fn apply(&self, subject: &str, random: u32) -> Option<String> {
        let covers = |mapping: &&Mapping| subject::matches(&mapping.source, subject);
        let mapping = self.0.iter().find(covers)?;
        Some(mapping.pick(subject, random).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(subject: &str, weight: u8) -> MapDestination {
        MapDestination {
            subject: subject.to_owned(),
            weight,
            cluster: None,
        }
    }

    fn mappings(source: &str, destinations: Vec<MapDestination>) -> Result<Mappings, MappingError> {
        Mappings::new(&[SubjectMapping {
            source: source.to_owned(),
            destinations,
        }])
    }

    #[test]
    fn shares_are_kept() {
        let some = mappings("a.*", vec![to("b.$1", 30), to("c.{{wildcard(1)}}", 20)]).unwrap();
        let count = |wanted: &str| {
            (0..100)
                .filter(|random| some.apply("a.x", *random).as_deref() == Some(wanted))
                .count()
        };
        assert_eq!((count("b.x"), count("c.x"), count("a.x")), (30, 20, 50));
        assert_eq!(some.apply("b.x", 0), None);
        let lossy = mappings("a", vec![to("a", 40)]).unwrap();
        let lost = (0..100).filter(|random| lossy.apply("a", *random).as_deref() == Some(""));
        assert_eq!(lost.count(), 60);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert_eq!(
            mappings("a", vec![to("b", 10), to("b", 10)])
                .unwrap_err()
                .to_string(),
            "duplicate entry for \"b\""
        );
        assert_eq!(
            mappings("a", vec![to("b", 60), to("c", 60)]).unwrap_err(),
            MappingError::TotalWeight
        );
        assert!(mappings("a.*", vec![to("b.$2", 100)]).is_err());
    }
}
