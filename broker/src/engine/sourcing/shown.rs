//! What is told of a stream's origins.

use crate::api::types::SourceInfo;
use crate::engine::Engine;
use crate::engine::time::Now;
use crate::stream::Stream;

impl Engine {
    /// How a stream stands with its origins: its mirror's or its sources'.
    pub(in crate::engine) fn source_infos(&self, now: Now, stream: &Stream) -> Vec<SourceInfo> {
        let config = stream.config.mirror.iter().chain(&stream.config.sources);
        config
            .zip(&stream.origins.list)
            .map(|(source, origin)| SourceInfo {
                name: source.name.clone(),
                external: source.external.clone(),
                lag: origin.lag,
                seq: if stream.origins.is_mirror {
                    0
                } else {
                    origin.copied_seq
                },
                active: origin
                    .active()
                    .map_or(-1, |at| i64::try_from(now.mono.since(at)).unwrap_or(i64::MAX)),
                error: origin.error.clone(),
                filter_subject: source.filter_subject.clone(),
                subject_transforms: source.subject_transforms.clone(),
            })
            .collect()
    }
}
