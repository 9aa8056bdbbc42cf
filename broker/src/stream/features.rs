//! Checks of a stream's newer features: counters, schedules, markers, transforms, republishing, mirrors and sources.
//! Source: nats-server, `checkStreamCfg`.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use super::config::{Compression, Discard, Retention, Storage, StreamConfig, is_valid_name};
use super::source::{ExternalStream, StreamSource, SubjectTransformConfig};
use crate::api::error::ApiError;
use crate::subject;
use crate::subject::transform::SubjectTransform;

const SECOND_NS: i64 = 1_000_000_000;
/// How requests to JetStream begin.
const API_PREFIX: &str = "$JS.API";
/// Sources of one stream, and transforms of one source.
const SOURCES_MAX: usize = 1024;

/// Which kind of origin a check is about: the errors differ.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    Mirror,
    Source,
}

impl StreamConfig {
    /// Whether the stream copies another one.
    pub(crate) fn copies(&self) -> bool {
        self.mirror.is_some() || !self.sources.is_empty()
    }

    /// Whether messages are acknowledged before they are synced.
    pub(crate) fn persists_late(&self) -> bool {
        self.persist_mode.as_deref() == Some("async")
    }

    /// Whether messages are to be compressed on disk.
    pub(crate) fn is_compressed(&self) -> bool {
        self.compression == Compression::S2
    }

    /// The JetStream API level that a server needs for this stream.
    /// Source: nats-server, `setStaticStreamMetadata`.
    pub(super) fn required_level(&self) -> u32 {
        if self.allow_batched {
            4
        } else if self.allow_msg_counter
            || self.allow_atomic
            || self.allow_msg_schedules
            || self.persist_mode.is_some()
        {
            2
        } else {
            u32::from(self.allow_msg_ttl || self.subject_delete_marker_ttl > 0)
        }
    }

    /// Fills in what a feature implies and checks what it excludes.
    pub(super) fn normalize_features(&mut self) -> Result<(), ApiError> {
        let refuse = |text: &str| Err(ApiError::invalid_config(text));
        if self.allow_msg_counter {
            if self.discard == Discard::New {
                return refuse("counter stream cannot use discard new");
            }
            if self.allow_msg_ttl {
                return refuse("counter stream cannot use message TTLs");
            }
            if self.allow_msg_schedules {
                return refuse("counter stream cannot use message schedules");
            }
            if self.retention != Retention::Limits {
                return refuse("counter stream can only use limits retention");
            }
        }
        match self.subject_delete_marker_ttl {
            ..0 => return refuse("subject delete marker TTL must not be negative"),
            0 => {}
            1..SECOND_NS => return refuse("subject delete marker TTL must be at least 1 second"),
            _ => {
                self.allow_msg_ttl = true;
                if !self.allow_rollup_hdrs {
                    (self.allow_rollup_hdrs, self.deny_purge) = (true, false);
                }
            }
        }
        if self.allow_msg_schedules {
            if self.discard == Discard::New {
                return refuse("message scheduling cannot use discard new");
            }
            if !self.allow_rollup_hdrs {
                (self.allow_rollup_hdrs, self.deny_purge) = (true, false);
            }
        }
        match self.persist_mode.as_deref() {
            None => {}
            Some("" | "default") => self.persist_mode = None,
            Some("async") if self.storage != Storage::File => {
                return refuse("async persist mode is only supported on file storage");
            }
            Some("async") if self.allow_atomic => {
                return refuse("async persist mode is not supported with atomic batch publish");
            }
            Some("async") => {}
            Some(mode) => {
                let quoted = format!("\"{mode}\"");
                return Err(ApiError::invalid_json(format!("can not unmarshal {quoted:?}")));
            }
        }
        Ok(())
    }

    /// Checks mirror and sources as far as this configuration alone shows.
    pub(super) fn check_origins(&self) -> Result<(), ApiError> {
        if let Some(mirror) = &self.mirror {
            self.check_mirror(mirror)?;
        }
        if self.sources.len() > SOURCES_MAX {
            return Err(ApiError::invalid_config(format!(
                "more than {SOURCES_MAX} sources"
            )));
        }
        if !self.sources.is_empty() && self.allow_msg_schedules {
            return Err(ApiError::SOURCE_WITH_SCHEDULES);
        }
        let (mut names, mut consumers) = (BTreeSet::new(), BTreeSet::new());
        for source in &self.sources {
            if !is_valid_name(&source.name) {
                return Err(ApiError::SOURCE_INVALID_NAME);
            }
            if !names.insert(source.index_name()) {
                return Err(ApiError::SOURCE_DUPLICATE);
            }
            check_origin(source, Origin::Source)?;
            if let Some(consumer) = &source.consumer
                && !consumers.insert((&source.name, &consumer.name))
            {
                return Err(ApiError::SOURCE_CONSUMER_DUPLICATE);
            }
        }
        Ok(())
    }

    fn check_mirror(&self, mirror: &StreamSource) -> Result<(), ApiError> {
        let refused = [
            (self.first_seq > 0, ApiError::MIRROR_WITH_FIRST_SEQ),
            (!self.subjects.is_empty(), ApiError::MIRROR_WITH_SUBJECTS),
            (!self.sources.is_empty(), ApiError::MIRROR_WITH_SOURCES),
            (self.allow_msg_counter, ApiError::MIRROR_WITH_COUNTERS),
            (self.allow_atomic, ApiError::MIRROR_WITH_ATOMIC),
            (self.allow_batched, ApiError::MIRROR_WITH_BATCH),
            (self.allow_msg_schedules, ApiError::MIRROR_WITH_SCHEDULES),
            (
                self.subject_delete_marker_ttl > 0,
                ApiError::invalid_config("subject delete markers forbidden on mirrors"),
            ),
        ];
        if let Some((_, error)) = refused.into_iter().find(|(found, _)| *found) {
            return Err(error);
        }
        check_origin(mirror, Origin::Mirror)?;
        if mirror.external.is_none() && !is_valid_name(&mirror.name) {
            return Err(ApiError::MIRROR_INVALID_NAME);
        }
        Ok(())
    }

    /// Checks the transform of what comes in and of what is published once more.
    pub(super) fn check_transforms(&mut self) -> Result<(), ApiError> {
        if let Some(SubjectTransformConfig { src, dest }) = &self.subject_transform {
            if !src.is_empty() && !subject::is_valid_filter(src) {
                return Err(ApiError::transform_source(format_args!("invalid subject {src}")));
            }
            SubjectTransform::validate(src, dest).map_err(ApiError::transform_destination)?;
        }
        let Some(republish) = &mut self.republish else {
            return Ok(());
        };
        if republish.src.is_empty() {
            ">".clone_into(&mut republish.src);
        }
        if republish.src == ">"
            && republish.dest == ">"
            && let Some(transform) = &self.subject_transform
            && let [only] = self.subjects.as_slice()
            && transform.src == *only
        {
            republish.src.clone_from(&transform.dest);
            republish.dest.clone_from(&transform.dest);
        }
        if self
            .subjects
            .iter()
            .any(|own| subject::overlaps(own, &republish.dest))
        {
            return Err(ApiError::invalid_config(
                "stream configuration for republish destination forms a cycle",
            ));
        }
        if !republish.dest.is_empty() && SubjectTransform::new(&republish.src, &republish.dest).is_err() {
            return Err(ApiError::invalid_config(format!(
                "stream configuration for republish with transform from '{}' to '{}' not valid",
                republish.src, republish.dest
            )));
        }
        Ok(())
    }

    /// Checks mirror and sources against the streams that are there, and takes over what a mirror has from its origin.
    ///
    /// # Errors
    /// nats-server's error for the first check that fails.
    pub(crate) fn adopt_origins(
        &mut self,
        find: impl Fn(&str) -> Option<Arc<StreamConfig>>,
    ) -> Result<(), ApiError> {
        let allowed = self.max_msg_size;
        let mut subjects = Vec::new();
        let is_too_small = |origin: &StreamConfig| allowed > 0 && origin.max_msg_size > allowed;
        if let Some(mirror) = &self.mirror
            && mirror.external.is_none()
            && let Some(origin) = find(&mirror.name)
        {
            if is_too_small(&origin) {
                return Err(ApiError::MIRROR_MAX_SIZE);
            }
            self.mirror_direct = origin.allow_direct;
            subjects.extend(origin.subjects.iter().cloned());
        }
        for source in self.sources.iter().filter(|source| source.external.is_none()) {
            let Some(origin) = find(&source.name) else {
                continue;
            };
            if is_too_small(&origin) {
                return Err(ApiError::SOURCE_MAX_SIZE);
            }
            subjects.extend(origin.subjects.iter().cloned());
        }
        self.check_external(&subjects)?;
        self.check_cycles(find)
    }

    /// Checks the prefixes of origins in other accounts; `subjects` are those of the others.
    fn check_external(&self, subjects: &[String]) -> Result<(), ApiError> {
        let all = self.mirror.iter().chain(&self.sources);
        let all: Vec<&ExternalStream> = all.filter_map(|source| source.external.as_ref()).collect();
        for prefix in all
            .iter()
            .map(|external| &external.deliver)
            .filter(|prefix| !prefix.is_empty())
        {
            if !subject::is_valid_literal(prefix) {
                return Err(ApiError::external_deliver(prefix));
            }
            let overlaps = |own: &&String| subject::overlaps(own, &format!("{prefix}.{own}"));
            if let Some(own) = subjects.iter().find(overlaps) {
                return Err(ApiError::external_deliver_overlaps(prefix, own));
            }
        }
        for prefix in all
            .iter()
            .map(|external| &external.api)
            .filter(|prefix| !prefix.is_empty())
        {
            if !subject::is_valid_literal(prefix) {
                return Err(ApiError::invalid_config(format!(
                    "stream external api prefix {prefix:?} must be a valid subject without wildcards"
                )));
            }
            if subject::overlaps(prefix, API_PREFIX) {
                return Err(ApiError::external_api_overlaps(prefix, API_PREFIX));
            }
        }
        Ok(())
    }

    fn check_cycles(&self, find: impl Fn(&str) -> Option<Arc<StreamConfig>>) -> Result<(), ApiError> {
        let cycle = || Err(ApiError::invalid_config("detected cycle"));
        let mut visited = BTreeSet::new();
        let mut to_visit = VecDeque::from([Arc::new(self.clone())]);
        while let Some(config) = to_visit.pop_front() {
            visited.insert(config.name.clone());
            let own = config.sources.iter().filter(|source| source.external.is_none());
            for source in own {
                let filter = &source.filter_subject;
                if visited.contains(&source.name) {
                    let collides = |own: &String| subject::overlaps(own, filter);
                    if filter.is_empty() || config.subjects.iter().any(collides) {
                        return cycle();
                    }
                } else {
                    to_visit.extend(find(&source.name));
                }
            }
            if let Some(mirror) = config.mirror.as_ref().filter(|mirror| mirror.external.is_none()) {
                if visited.contains(&mirror.name) {
                    return cycle();
                }
                to_visit.extend(find(&mirror.name));
            }
        }
        Ok(())
    }
}

fn check_origin(source: &StreamSource, origin: Origin) -> Result<(), ApiError> {
    let is_mirror = origin == Origin::Mirror;
    if source
        .consumer
        .as_ref()
        .is_some_and(|consumer| !consumer.fits(source))
    {
        return Err(if is_mirror {
            ApiError::MIRROR_CONSUMER_INVALID
        } else {
            ApiError::SOURCE_CONSUMER_INVALID
        });
    }
    let transforms = &source.subject_transforms;
    if transforms.len() > SOURCES_MAX {
        return Err(ApiError::invalid_config(format!(
            "more than {SOURCES_MAX} transforms"
        )));
    }
    if !source.filter_subject.is_empty() && !transforms.is_empty() {
        return Err(if is_mirror {
            ApiError::MIRROR_MULTIPLE_FILTERS
        } else {
            ApiError::SOURCE_MULTIPLE_FILTERS
        });
    }
    for SubjectTransformConfig { src, dest } in transforms {
        if !src.is_empty() && !subject::is_valid_filter(src) {
            let text = format_args!("invalid subject {src}");
            return Err(if is_mirror {
                ApiError::mirror_invalid_filter(text)
            } else {
                ApiError::source_invalid_filter(text)
            });
        }
        SubjectTransform::validate(src, dest).map_err(|err| {
            if is_mirror {
                ApiError::mirror_transform(err)
            } else {
                ApiError::source_transform(err)
            }
        })?;
    }
    let or_all = |src: &str| {
        if src.is_empty() {
            ">".to_owned()
        } else {
            src.to_owned()
        }
    };
    for (index, one) in transforms.iter().enumerate() {
        for other in transforms.iter().skip(index + 1) {
            let (one, other) = (or_all(&one.src), or_all(&other.src));
            if is_mirror && subject::overlaps(&one, &other) {
                return Err(ApiError::MIRROR_OVERLAPPING);
            }
            if !is_mirror && (subject::is_subset(&one, &other) || subject::is_subset(&other, &one)) {
                return Err(ApiError::SOURCE_OVERLAPPING);
            }
        }
    }
    if !source.filter_subject.is_empty() && !subject::is_valid_filter(&source.filter_subject) {
        return Err(ApiError::invalid_config("invalid subject"));
    }
    Ok(())
}
