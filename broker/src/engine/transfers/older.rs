//! Backups that nats-server 2.14 and older made: a tar file of the files of its store.

use std::mem;

use serde::Deserialize;

use super::restore::RestoreError;
use crate::archive::ArchiveError;
use crate::archive::block::{BlockReader, BlockRecord, StoredState};
use crate::archive::tar::{Piece, TarReader};
use crate::consumer::config::ConsumerConfig;

/// What a small file may hold: a configuration, or the state of a consumer.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// What the next part of the backup says.
#[derive(Debug)]
pub(super) enum Part<'a> {
    /// The name of the stream: the first of all.
    Stream(String),
    Record(BlockRecord<'a>),
    Consumer(String, Box<ConsumerConfig>, StoredState),
    /// There is no more.
    End,
}

/// Reads such a backup.
#[derive(Debug)]
pub(super) struct OlderReader {
    tar: TarReader,
    file: File,
    stream: Option<String>,
    consumer: Option<(String, ConsumerConfig)>,
}

/// The file that is being read.
#[derive(Debug)]
enum File {
    None,
    /// One that does not matter.
    Skipped,
    Block(BlockReader),
    Stream(Vec<u8>),
    /// Of the consumer of this name.
    Consumer(String, Vec<u8>),
    ConsumerState(Vec<u8>),
    Errors(Vec<u8>),
}

/// Source: nats-server, `FileStreamInfo`.
#[derive(Deserialize)]
struct FileStreamInfo {
    name: String,
}

impl OlderReader {
    /// A reader of a backup that begins with these bytes.
    pub(super) fn starting_with(bytes: Vec<u8>) -> Self {
        Self {
            tar: TarReader::starting_with(bytes),
            file: File::None,
            stream: None,
            consumer: None,
        }
    }

    /// Where the next bytes are to be appended.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        self.tar.buffer()
    }

    /// The next part. `None`: more bytes are needed.
    ///
    /// # Errors
    /// If it is no such backup.
    pub(super) fn read(&mut self) -> Result<Option<Part<'_>>, RestoreError> {
        loop {
            // Looked at twice, so that what is given borrows only where something is given.
            if let File::Block(block) = &mut self.file
                && block.has_record()?
            {
                break;
            }
            match self.tar.read()? {
                None => return Ok(None),
                Some(Piece::End) => return Ok(Some(Part::End)),
                Some(Piece::File { name, bytes }) => self.file = self.file_of(&name, bytes)?,
                Some(Piece::Content(content)) => match &mut self.file {
                    File::None | File::Skipped => {}
                    File::Block(block) => block.push(content),
                    File::Stream(bytes)
                    | File::Consumer(_, bytes)
                    | File::ConsumerState(bytes)
                    | File::Errors(bytes) => bytes.extend_from_slice(content),
                },
                Some(Piece::FileEnd) => {
                    if let Some(part) = self.file_end()? {
                        return Ok(Some(part));
                    }
                }
            }
        }
        let File::Block(block) = &mut self.file else {
            return Ok(None);
        };
        Ok(block.read()?.map(Part::Record))
    }

    /// What a name stands for. Names that no server writes are refused, whatever they look like.
    fn file_of(&self, name: &str, bytes: u64) -> Result<File, RestoreError> {
        let parts: Vec<&str> = name.split('/').collect();
        let file = match (parts.as_slice(), &self.stream) {
            (["meta.inf"], None) => File::Stream(Vec::new()),
            (["meta.sum"] | ["msgs", "index.db"] | ["obs", _, "meta.sum"], Some(_)) => File::Skipped,
            (["msgs", block], Some(stream)) => {
                let index = block.strip_suffix(".blk");
                let index = index.filter(|index| index.parse::<u32>().is_ok());
                let index = index.ok_or_else(|| RestoreError::Unexpected(name.to_owned()))?;
                return Ok(File::Block(BlockReader::new(stream, index)));
            }
            (["obs", name, "meta.inf"], Some(_)) => File::Consumer((*name).to_owned(), Vec::new()),
            (["obs", _, "o.dat"], Some(_)) => File::ConsumerState(Vec::new()),
            (["errors.txt"], _) => File::Errors(Vec::new()),
            _ => return Err(RestoreError::Unexpected(name.to_owned())),
        };
        if bytes > FILE_BYTES_MAX && !matches!(file, File::Skipped) {
            let max = FILE_BYTES_MAX;
            return Err(ArchiveError::EntryTooLarge { len: bytes, max }.into());
        }
        Ok(file)
    }

    fn file_end(&mut self) -> Result<Option<Part<'static>>, RestoreError> {
        Ok(match mem::replace(&mut self.file, File::None) {
            File::None | File::Skipped => None,
            File::Block(block) if block.is_empty() => None,
            File::Block(_) => return Err(ArchiveError::Truncated.into()),
            File::Stream(bytes) => {
                let info: FileStreamInfo = serde_json::from_slice(&bytes).map_err(RestoreError::State)?;
                self.stream = Some(info.name.clone());
                Some(Part::Stream(info.name))
            }
            File::Consumer(name, bytes) => {
                let config = serde_json::from_slice(&bytes).map_err(RestoreError::State)?;
                self.consumer = Some((name, config));
                None
            }
            File::ConsumerState(bytes) => {
                let (name, config) = self.consumer.take().ok_or(RestoreError::NoState)?;
                Some(Part::Consumer(
                    name,
                    Box::new(config),
                    StoredState::decode(&bytes)?,
                ))
            }
            File::Errors(bytes) => {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                return Err(RestoreError::Incomplete(text));
            }
        })
    }
}
