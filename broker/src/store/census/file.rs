//! The file: a header, the members, then the subjects in blocks. It is read and written from the beginning to the end.

use std::io::{Error, ErrorKind};
use std::path::Path;

use super::Member;
use crate::env::{Fs, FsFile};
use crate::leb128::put;
use crate::store::StoreError;
use crate::store::format::{PREFIX_BYTES, SUBJECTS_MAGIC, VERSION, check_prefix, prefix};
use crate::store::record::{u32_at, u64_at};
use crate::store::sealed::{CRC_BYTES, Cursor, close_block, open_block};

pub(super) const HEADER_BYTES: usize = 64;
const CRC_AT: usize = HEADER_BYTES - 4;
/// Bytes of one member.
const MEMBER_BYTES: usize = 32;
/// A block ends behind the subject that brings it to this length.
const BLOCK_BYTES: usize = 64 * 1024;
/// No block is longer: the longest subject may come last.
const BLOCK_BYTES_MAX: usize = BLOCK_BYTES + (u16::MAX as usize) + 64;
/// Members that a file may have.
const MEMBERS_MAX: u32 = 1 << 20;

/// Records of one subject.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Subject {
    pub(super) name: String,
    pub(super) records: u64,
    /// None of them is below.
    pub(super) first: u64,
    /// Position of the last of them.
    pub(super) last: u64,
}

/// What the file begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) incarnation: u64,
    pub(super) subjects: u64,
    pub(super) records: u64,
    /// Of the whole file.
    pub(super) bytes: u64,
    pub(super) members: u32,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[..PREFIX_BYTES].copy_from_slice(&prefix(SUBJECTS_MAGIC, VERSION));
        let longs = [self.incarnation, self.subjects, self.records, self.bytes];
        for (number, value) in longs.into_iter().enumerate() {
            let at = PREFIX_BYTES + 8 * number;
            out[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        out[48..52].copy_from_slice(&self.members.to_le_bytes());
        let crc = crc32fast::hash(&out[..CRC_AT]);
        out[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8], path: &Path) -> Result<Option<Self>, StoreError> {
        Ok(check_prefix(bytes, SUBJECTS_MAGIC, path)?.and_then(|_| Self::decode_fields(bytes)))
    }

    fn decode_fields(bytes: &[u8]) -> Option<Self> {
        if crc32fast::hash(bytes.get(..CRC_AT)?) != u32_at(bytes, CRC_AT)? {
            return None;
        }
        Some(Self {
            incarnation: u64_at(bytes, 16)?,
            subjects: u64_at(bytes, 24)?,
            records: u64_at(bytes, 32)?,
            bytes: u64_at(bytes, 40)?,
            members: u32_at(bytes, 48)?,
        })
    }
}

fn encode_members(members: &[Member]) -> Vec<u8> {
    let mut out = Vec::with_capacity(members.len() * MEMBER_BYTES + CRC_BYTES);
    for member in members {
        out.extend_from_slice(&member.id.to_le_bytes());
        out.extend_from_slice(&member.base.to_le_bytes());
        for short in [member.salt, member.fingerprint, member.records, member.subjects] {
            out.extend_from_slice(&short.to_le_bytes());
        }
    }
    out
}

fn decode_members(bytes: &[u8]) -> Option<Vec<Member>> {
    let members = bytes.chunks_exact(MEMBER_BYTES).map(|member| {
        Some(Member {
            id: u64_at(member, 0)?,
            base: u64_at(member, 8)?,
            salt: u32_at(member, 16)?,
            fingerprint: u32_at(member, 20)?,
            records: u32_at(member, 24)?,
            subjects: u32_at(member, 28)?,
        })
    });
    let members: Vec<Member> = members.collect::<Option<_>>()?;
    members.is_sorted_by(|a, b| a.id < b.id).then_some(members)
}

/// Writes the subjects of a new file in order.
pub(super) struct Writer<File> {
    file: File,
    header: Header,
    /// Goes into the checksums of the blocks: a block of another census is none of this one's.
    salt: u32,
    /// Where `block` goes.
    at: u64,
    /// The length, which is filled in later, and the content.
    block: Vec<u8>,
    before: String,
}

impl<File: FsFile> Writer<File> {
    pub(super) fn new(file: File, incarnation: u64, members: &[Member]) -> std::io::Result<Self> {
        let mut encoded = encode_members(members);
        let salt = crc32fast::hash(&encoded);
        // As if it lay at the beginning: the header says where it ends.
        close_block(&mut encoded, 0, 0);
        file.write_at(&encoded, HEADER_BYTES as u64)?;
        let header = Header {
            incarnation,
            subjects: 0,
            records: 0,
            bytes: 0,
            members: members.len() as u32,
        };
        Ok(Self {
            file,
            header,
            salt,
            at: (HEADER_BYTES + encoded.len()) as u64,
            block: vec![0; 4],
            before: String::new(),
        })
    }

    /// Adds a subject above all before.
    pub(super) fn push(&mut self, subject: &Subject) -> std::io::Result<()> {
        let (name, before) = (subject.name.as_bytes(), self.before.as_bytes());
        let shared = name.iter().zip(before).take_while(|(a, b)| a == b).count();
        put(&mut self.block, shared as u64);
        put(&mut self.block, (name.len() - shared) as u64);
        self.block.extend_from_slice(&name[shared..]);
        put(&mut self.block, subject.records);
        put(&mut self.block, subject.first);
        put(&mut self.block, subject.last - subject.first);
        self.before.clear();
        self.before.push_str(&subject.name);
        self.header.subjects += 1;
        self.header.records += subject.records;
        if self.block.len() >= BLOCK_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let len = (self.block.len() - 4 + CRC_BYTES) as u32;
        self.block[..4].copy_from_slice(&len.to_le_bytes());
        let crc = block_crc(&self.block[4..], self.at, self.salt);
        self.block.extend_from_slice(&crc);
        self.file.write_at(&self.block, self.at)?;
        self.at += self.block.len() as u64;
        self.block.truncate(4);
        self.before.clear();
        Ok(())
    }

    /// Makes the file whole and durable. Returns the number of subjects.
    pub(super) fn finish(mut self) -> std::io::Result<u64> {
        if self.block.len() > 4 {
            self.flush()?;
        }
        self.header.bytes = self.at;
        self.file.write_at(&self.header.encode(), 0)?;
        self.file.sync_data()?;
        Ok(self.header.subjects)
    }
}

/// The checksum of a block's content, whose length stands at `at`.
fn block_crc(content: &[u8], at: u64, salt: u32) -> [u8; CRC_BYTES] {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(&at.to_le_bytes());
    hasher.update(&(content.len() as u32).to_le_bytes());
    hasher.update(content);
    hasher.finalize().to_le_bytes()
}

/// Reads a file from the beginning to the end.
pub(super) struct Reader<File> {
    file: File,
    pub(super) header: Header,
    salt: u32,
    /// Where the next block begins.
    at: u64,
    content: Vec<u8>,
    /// How much of it was read.
    used: usize,
    subjects: u64,
    records: u64,
}

impl<File: FsFile> Reader<File> {
    /// The file and its members. `Ok(None)`: it is not there, not of this stream, or damaged.
    ///
    /// # Errors
    /// `NewerVersion`.
    pub(super) fn open<F: Fs<File = File>>(
        fs: &F,
        path: &Path,
        incarnation: u64,
    ) -> Result<Option<(Self, Vec<Member>)>, StoreError> {
        let Ok(file) = fs.open(path) else {
            return Ok(None);
        };
        let mut head = [0; HEADER_BYTES];
        let Ok(count) = file.read_at(&mut head, 0) else {
            return Ok(None);
        };
        let Some(header) = Header::decode(&head[..count], path)? else {
            return Ok(None);
        };
        let is_whole = file.len().is_ok_and(|len| len == header.bytes);
        if header.incarnation != incarnation || header.members > MEMBERS_MAX || !is_whole {
            return Ok(None);
        }
        let mut members = vec![0; header.members as usize * MEMBER_BYTES + CRC_BYTES];
        let read = file.read_at(&mut members, HEADER_BYTES as u64);
        let at = (HEADER_BYTES + members.len()) as u64;
        let opened = read.ok().filter(|count| *count == members.len());
        let opened = opened
            .and_then(|_| open_block(&members, 0, 0))
            .and_then(|encoded| Some((crc32fast::hash(encoded), decode_members(encoded)?)));
        Ok(opened.map(|(salt, members)| {
            let reader = Self {
                file,
                header,
                salt,
                at,
                content: Vec::new(),
                used: 0,
                subjects: 0,
                records: 0,
            };
            (reader, members)
        }))
    }

    /// Puts the next subject into `subject`. `Ok(false)`: there is none, and the file was whole.
    pub(super) fn next(&mut self, subject: &mut Subject) -> std::io::Result<bool> {
        if self.used == self.content.len() {
            if self.at == self.header.bytes {
                let is_all = (self.subjects, self.records) == (self.header.subjects, self.header.records);
                return if is_all { Ok(false) } else { Err(damaged()) };
            }
            self.next_block()?;
            subject.name.clear();
        }
        let mut cursor = Cursor::new(&self.content[self.used..]);
        self.records += decode(&mut cursor, subject).ok_or_else(damaged)?;
        self.subjects += 1;
        self.used = self.content.len() - cursor.left();
        Ok(true)
    }

    fn next_block(&mut self) -> std::io::Result<()> {
        let mut len = [0; 4];
        let count = self.file.read_at(&mut len, self.at)?;
        let len = u32::from_le_bytes(len) as usize;
        if count < 4 || len <= CRC_BYTES || len > BLOCK_BYTES_MAX {
            return Err(damaged());
        }
        self.content.resize(len, 0);
        let count = self.file.read_at(&mut self.content, self.at + 4)?;
        let Some((content, crc)) = self.content.split_last_chunk::<CRC_BYTES>() else {
            return Err(damaged());
        };
        if count < len || block_crc(content, self.at, self.salt) != *crc {
            return Err(damaged());
        }
        self.content.truncate(len - CRC_BYTES);
        self.used = 0;
        self.at += 4 + len as u64;
        Ok(())
    }
}

/// The next subject of a block; its number of records.
fn decode(cursor: &mut Cursor<'_>, subject: &mut Subject) -> Option<u64> {
    let (shared, fresh) = (cursor.small()? as usize, cursor.small()? as usize);
    let mut name = std::mem::take(&mut subject.name).into_bytes();
    if shared > name.len() {
        return None;
    }
    name.truncate(shared);
    name.extend_from_slice(cursor.take(fresh)?);
    subject.name = String::from_utf8(name).ok()?;
    subject.records = cursor.number()?;
    subject.first = cursor.number()?;
    subject.last = subject.first.checked_add(cursor.number()?)?;
    Some(subject.records)
}

pub(super) fn damaged() -> Error {
    Error::from(ErrorKind::InvalidData)
}
