//! Metadata that is replaced as a whole: two files that are written in turn, so that one whole copy is always there.
//! Layout: `FORMAT.md`.

use std::path::{Path, PathBuf};

use super::StoreError;
use super::format::{META_MAGIC, PREFIX_BYTES, VERSION, check_prefix, prefix};
use super::record::{u32_at, u64_at};
use crate::env::{Fs, FsFile};

const HEAD_BYTES: usize = PREFIX_BYTES + 20;
/// Longest body that is believed when reading.
const BODY_BYTES_MAX: usize = 256 * 1024 * 1024;

/// What a metadata file is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MetaKind {
    Store = 1,
    Stream = 2,
    Consumer = 3,
    Marks = 4,
}

/// Two files, `<stem>.0` and `<stem>.1`, that hold the newest and the one before.
pub(super) struct Pair<F: Fs> {
    fs: F,
    paths: [PathBuf; 2],
    /// Which of the files are there. They are opened for each use: there can be more of them than open files.
    exists: [bool; 2],
    kind: MetaKind,
    /// Of the newest copy. Generation n is in file n mod 2.
    generation: u64,
}

/// How one of the two files is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CopyState {
    /// It is not there.
    Missing,
    /// It is not what was written.
    Damaged,
    /// Generation and body.
    Whole(u64, Vec<u8>),
}

/// How often a copy that the disk refuses to give is asked for.
const READ_TRIES: usize = 3;

/// What [`Pair::load`] found.
pub(super) struct Loaded<F: Fs> {
    pub(super) pair: Pair<F>,
    pub(super) body: Vec<u8>,
    /// Whether one of the two files is missing or unusable.
    pub(super) degraded: bool,
}

impl<F: Fs> Pair<F> {
    /// A pair that has no files yet.
    pub(super) fn new(fs: &F, dir: &Path, stem: &str, kind: MetaKind) -> Self {
        let paths = [dir.join(format!("{stem}.0")), dir.join(format!("{stem}.1"))];
        Self {
            fs: fs.clone(),
            paths,
            exists: [false, false],
            kind,
            generation: 0,
        }
    }

    /// Reads both files. `None`: neither is usable.
    ///
    /// # Errors
    /// `NewerVersion` if either was written by a newer program; `Io` if the system fails otherwise.
    pub(super) fn load(
        fs: &F,
        dir: &Path,
        stem: &str,
        kind: MetaKind,
    ) -> Result<Option<Loaded<F>>, StoreError> {
        let mut pair = Self::new(fs, dir, stem, kind);
        let mut newest: Option<(u64, Vec<u8>)> = None;
        let mut usable = 0;
        for slot in 0..2 {
            let path = &pair.paths[slot];
            let file = match fs.open(path) {
                Ok(file) => file,
                Err(err) if err.kind() == std::io::ErrorKind::NotFound => continue,
                Err(err) => return Err(StoreError::io("open", path, err)),
            };
            let found = read_copy(&file, path, kind)?;
            pair.exists[slot] = true;
            let Some((generation, body)) = found else { continue };
            if generation % 2 != slot as u64 {
                continue;
            }
            usable += 1;
            if newest.as_ref().is_none_or(|(newest, _)| *newest < generation) {
                newest = Some((generation, body));
            }
        }
        Ok(newest.map(|(generation, body)| {
            pair.generation = generation;
            Loaded {
                pair,
                body,
                degraded: usable < 2,
            }
        }))
    }

    /// How the two files are, without changing anything.
    ///
    /// # Errors
    /// As for [`Pair::load`].
    pub(super) fn inspect(
        fs: &F,
        dir: &Path,
        stem: &str,
        kind: MetaKind,
    ) -> Result<[(PathBuf, CopyState); 2], StoreError> {
        let [first, second] = Self::new(fs, dir, stem, kind).paths;
        let look = |path: PathBuf, slot: u64| {
            let state = match fs.open_read(&path) {
                Err(err) if err.kind() == std::io::ErrorKind::NotFound => CopyState::Missing,
                Err(err) => return Err(StoreError::io("open", &path, err)),
                Ok(file) => match read_copy(&file, &path, kind)? {
                    Some((generation, body)) if generation % 2 == slot => CopyState::Whole(generation, body),
                    _ => CopyState::Damaged,
                },
            };
            Ok((path, state))
        };
        Ok([look(first, 0)?, look(second, 1)?])
    }

    /// Replaces the older copy. Durable on return, once the directory is synced after the first two writes.
    pub(super) fn write(&mut self, body: &[u8]) -> Result<(), StoreError> {
        let (file, slot) = self.write_unsynced(body)?;
        file.sync_data()
            .map_err(|err| StoreError::io("sync", &self.paths[slot], err))?;
        self.generation += 1;
        Ok(())
    }

    fn write_unsynced(&mut self, body: &[u8]) -> Result<(F::File, usize), StoreError> {
        let generation = self.generation + 1;
        let slot = (generation % 2) as usize;
        let path = &self.paths[slot];
        let file = open_or_create(&self.fs, path, self.exists[slot])?;
        self.exists[slot] = true;
        let bytes = encode(self.kind, generation, body);
        file.write_at(&bytes, 0)
            .map_err(|err| StoreError::io("write", path, err))?;
        Ok((file, slot))
    }

    /// Writes the newest copy again in its place, `body` as it was loaded: it may look whole without being on disk. The
    /// bytes are those that are there, so that nothing is torn that was whole.
    pub(super) fn rewrite(&mut self, body: &[u8]) -> Result<(), StoreError> {
        let (file, path) = self.rewrite_unsynced(body)?;
        file.sync_data().map_err(|err| StoreError::io("sync", path, err))
    }

    /// The same, durable once everything is synced.
    pub(super) fn rewrite_for_sync_all(&mut self, body: &[u8]) -> Result<(), StoreError> {
        self.rewrite_unsynced(body).map(drop)
    }

    fn rewrite_unsynced(&self, body: &[u8]) -> Result<(F::File, &Path), StoreError> {
        let path = &self.paths[(self.generation % 2) as usize];
        let file = open_or_create(&self.fs, path, true)?;
        let bytes = encode(self.kind, self.generation, body);
        file.write_at(&bytes, 0)
            .map_err(|err| StoreError::io("write", path, err))?;
        Ok((file, path))
    }

    /// Replaces both copies, one after the other, so that damage to either cannot bring an older body back.
    pub(super) fn write_both(&mut self, body: &[u8]) -> Result<(), StoreError> {
        self.write(body)?;
        self.write(body)
    }

    /// Removes both files. Their content must say that they no longer count: either may come back after a crash.
    pub(super) fn remove(self) -> std::io::Result<()> {
        for (path, exists) in self.paths.iter().zip(self.exists) {
            if exists {
                self.fs.remove(path)?;
            }
        }
        Ok(())
    }
}

fn open_or_create<F: Fs>(fs: &F, path: &Path, exists: bool) -> Result<F::File, StoreError> {
    if exists {
        return fs.open(path).map_err(|err| StoreError::io("open", path, err));
    }
    match fs.create(path) {
        // What a crash left of a pair that was never completed.
        Err(err) if err.kind() == std::io::ErrorKind::AlreadyExists => {
            fs.open(path).map_err(|err| StoreError::io("open", path, err))
        }
        created => created.map_err(|err| StoreError::io("create", path, err)),
    }
}

fn encode(kind: MetaKind, generation: u64, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD_BYTES + body.len());
    out.extend_from_slice(&prefix(META_MAGIC, VERSION));
    out.extend_from_slice(&generation.to_le_bytes());
    out.extend_from_slice(&(kind as u32).to_le_bytes());
    out.extend_from_slice(&(body.len() as u32).to_le_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&out[PREFIX_BYTES..]);
    hasher.update(body);
    out.extend_from_slice(&hasher.finalize().to_le_bytes());
    out.extend_from_slice(body);
    out
}

/// Reads, more than once if the disk refuses: the other copy may be older, and what it does not know was acknowledged.
fn read_patiently(file: &impl FsFile, into: &mut [u8], offset: u64) -> std::io::Result<usize> {
    for _ in 1..READ_TRIES {
        if let Ok(count) = file.read_at(into, offset) {
            return Ok(count);
        }
    }
    file.read_at(into, offset)
}

/// Generation and body of one file; `None` if it is unusable.
fn read_copy(file: &impl FsFile, path: &Path, kind: MetaKind) -> Result<Option<(u64, Vec<u8>)>, StoreError> {
    let mut head = [0u8; HEAD_BYTES];
    let Ok(count) = read_patiently(file, &mut head, 0) else {
        return Ok(None);
    };
    if check_prefix(&head[..count], META_MAGIC, path)?.is_none() || count < HEAD_BYTES {
        return Ok(None);
    }
    let (Some(generation), Some(found), Some(len), Some(crc)) = (
        u64_at(&head, 16),
        u32_at(&head, 24),
        u32_at(&head, 28),
        u32_at(&head, 32),
    ) else {
        return Ok(None);
    };
    let there = file
        .len()
        .map_or(0, |len| usize::try_from(len).unwrap_or(usize::MAX));
    let len = len as usize;
    if found != kind as u32 || len > BODY_BYTES_MAX || HEAD_BYTES + len > there {
        return Ok(None);
    }
    let mut body = vec![0; len];
    if read_patiently(file, &mut body, HEAD_BYTES as u64).ok() != Some(len) {
        return Ok(None);
    }
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&head[PREFIX_BYTES..HEAD_BYTES - 4]);
    hasher.update(&body);
    Ok((hasher.finalize() == crc).then_some((generation, body)))
}

/// A stream's metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StreamBody {
    pub(super) deleted: bool,
    pub(super) incarnation: u64,
    pub(super) created: i64,
    /// Records below do not count.
    pub(super) floor: u64,
    /// At least this position was given.
    pub(super) last_seq: u64,
    pub(super) last_time: i64,
    pub(super) name: String,
    pub(super) config: Vec<u8>,
}

impl StreamBody {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.name.len() + self.config.len());
        out.extend_from_slice(&u32::from(self.deleted).to_le_bytes());
        out.extend_from_slice(&self.incarnation.to_le_bytes());
        out.extend_from_slice(&self.created.to_le_bytes());
        out.extend_from_slice(&self.floor.to_le_bytes());
        out.extend_from_slice(&self.last_seq.to_le_bytes());
        out.extend_from_slice(&self.last_time.to_le_bytes());
        put_bytes(&mut out, self.name.as_bytes());
        put_bytes(&mut out, &self.config);
        out
    }

    pub(super) fn decode(body: &[u8]) -> Option<Self> {
        let (name, rest) = take_bytes(body.get(44..)?)?;
        let (config, _) = take_bytes(rest)?;
        Some(Self {
            deleted: u32_at(body, 0)? != 0,
            incarnation: u64_at(body, 4)?,
            created: u64_at(body, 12)? as i64,
            floor: u64_at(body, 20)?,
            last_seq: u64_at(body, 28)?,
            last_time: u64_at(body, 36)? as i64,
            name: String::from_utf8(name.to_vec()).ok()?,
            config: config.to_vec(),
        })
    }
}

/// A consumer's metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ConsumerBody {
    pub(super) deleted: bool,
    pub(super) name: String,
    pub(super) config: Vec<u8>,
    pub(super) state: Vec<u8>,
}

impl ConsumerBody {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16 + self.name.len() + self.config.len() + self.state.len());
        out.extend_from_slice(&u32::from(self.deleted).to_le_bytes());
        put_bytes(&mut out, self.name.as_bytes());
        put_bytes(&mut out, &self.config);
        put_bytes(&mut out, &self.state);
        out
    }

    pub(super) fn decode(body: &[u8]) -> Option<Self> {
        let (name, rest) = take_bytes(body.get(4..)?)?;
        let (config, rest) = take_bytes(rest)?;
        let (state, _) = take_bytes(rest)?;
        Some(Self {
            deleted: u32_at(body, 0)? != 0,
            name: String::from_utf8(name.to_vec()).ok()?,
            config: config.to_vec(),
            state: state.to_vec(),
        })
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn take_bytes(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let len = u32_at(bytes, 0)? as usize;
    bytes.get(4..)?.split_at_checked(len)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::env::sim::SimFs;

    fn pair_in(fs: &SimFs) -> Pair<SimFs> {
        fs.create_dir_all(Path::new("/d")).unwrap();
        Pair::new(fs, Path::new("/d"), "m", MetaKind::Stream)
    }

    fn load(fs: &SimFs) -> Option<(Vec<u8>, bool)> {
        let loaded = Pair::load(fs, Path::new("/d"), "m", MetaKind::Stream).unwrap()?;
        Some((loaded.body, loaded.degraded))
    }

    #[test]
    fn golden_metadata() {
        let body = StreamBody {
            deleted: false,
            incarnation: 1,
            created: 2,
            floor: 3,
            last_seq: 4,
            last_time: 5,
            name: "S".into(),
            config: b"{}".to_vec(),
        };
        assert_eq!(StreamBody::decode(&body.encode()), Some(body.clone()));
        let hex: Vec<String> = encode(MetaKind::Stream, 6, &body.encode())
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        expect!["54 41 52 4e 4d 45 54 0a 01 00 00 00 14 57 67 39 06 00 00 00 00 00 00 00 02 00 00 00 37 00 00 00 d3 36 46 92 00 00 00 00 01 00 00 00 00 00 00 00 02 00 00 00 00 00 00 00 03 00 00 00 00 00 00 00 04 00 00 00 00 00 00 00 05 00 00 00 00 00 00 00 01 00 00 00 53 02 00 00 00 7b 7d"].assert_eq(&hex.join(" "));
        let body = ConsumerBody {
            deleted: true,
            name: "c".into(),
            config: b"{}".to_vec(),
            state: b"state".to_vec(),
        };
        assert_eq!(ConsumerBody::decode(&body.encode()), Some(body));
    }

    #[test]
    fn a_copy_that_is_not_on_disk_yet_is_written_again_before_the_other() {
        for seed in 0..200 {
            let fs = SimFs::new(seed);
            let mut pair = pair_in(&fs);
            pair.write_both(b"old").unwrap();
            fs.sync_all(Path::new("/")).unwrap();
            fs.fail_nth_sync(1);
            pair.write(b"new").unwrap_err();
            fs.kill();
            let mut loaded = Pair::load(&fs, Path::new("/d"), "m", MetaKind::Stream)
                .unwrap()
                .unwrap();
            fs.fill_at_nth_write(1 + seed % 3);
            let body = loaded.body.clone();
            drop(loaded.pair.rewrite(&body).and_then(|()| loaded.pair.write(&body)));
            fs.crash(seed);
            let (body, _) = load(&fs).unwrap_or_else(|| panic!("seed {seed}: both copies are gone"));
            assert!(body == b"old" || body == b"new");
        }
    }

    #[test]
    fn a_read_that_fails_once_brings_no_older_copy() {
        for nth in 1..=4 {
            let fs = SimFs::new(1);
            let mut pair = pair_in(&fs);
            pair.write(b"old").unwrap();
            pair.write(b"acknowledged").unwrap();
            fs.fail_nth_read(nth);
            assert_eq!(
                load(&fs),
                Some((b"acknowledged".to_vec(), false)),
                "read {nth} fails"
            );
        }
    }

    #[test]
    fn the_newest_whole_copy_wins() {
        let fs = SimFs::new(1);
        let mut pair = pair_in(&fs);
        assert_eq!(load(&fs), None);
        for n in 1..6u8 {
            pair.write(&[n; 3]).unwrap();
            assert_eq!(load(&fs), Some((vec![n; 3], n == 1)));
        }
    }

    #[test]
    fn any_flipped_bit_falls_back_to_the_other_copy() {
        let fs = SimFs::new(1);
        let mut pair = pair_in(&fs);
        pair.write(b"old").unwrap();
        pair.write(b"new").unwrap();
        let newest = Path::new("/d/m.0");
        for bit in 0..fs.contents(newest).unwrap().len() as u64 * 8 {
            fs.flip_bit(newest, bit);
            assert_eq!(load(&fs), Some((b"old".to_vec(), true)), "bit {bit}");
            fs.flip_bit(newest, bit);
        }
        assert_eq!(load(&fs), Some((b"new".to_vec(), false)));
    }

    #[test]
    fn a_crash_while_writing_leaves_the_old_or_the_new() {
        for seed in 0..300 {
            let fs = SimFs::new(seed);
            let mut pair = pair_in(&fs);
            pair.write_both(b"first").unwrap();
            fs.sync_dir(Path::new("/d")).unwrap();
            fs.sync_all(Path::new("/")).unwrap();
            fs.fail_nth_sync(1);
            assert!(pair.write(&[7; 2000]).is_err());
            fs.crash(seed);
            let (body, _) = load(&fs).unwrap();
            assert!(body == b"first" || body == [7; 2000], "seed {seed}");
        }
    }
}
