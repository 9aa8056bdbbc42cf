//! The tar files that nats-server 2.14 and older put into backups: regular files only, with extended headers.
//!
//! Names are handed on as text and compared with those that are expected; nothing becomes a path.
//! Source: POSIX.1-2001, `pax`; Go, `archive/tar`.

use super::ArchiveError;
use super::feed::Feed;

const BLOCK: usize = 512;
/// What extended headers may have to say.
const EXTENDED_BYTES_MAX: u64 = 64 << 10;

/// What comes next in a tar file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// A file begins.
    File { name: String, bytes: u64 },
    /// Some of its content.
    Content(&'a [u8]),
    /// The file is complete.
    FileEnd,
    /// There are no more files.
    End,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    Header,
    /// In an extended header of this length.
    Extended(u64),
    /// In a file, with so many bytes to come.
    Content(u64),
    /// Behind a file or header, with so many bytes of padding to come.
    Padding(usize),
    End,
}

/// Reads a tar file that comes in pieces. Holds a header at most, besides what came last.
#[derive(Debug, Default)]
pub(crate) struct TarReader {
    feed: Feed,
    state: At,
    padding: usize,
    path: Option<String>,
    size: Option<u64>,
}

impl TarReader {
    /// One that begins with these bytes.
    pub(crate) fn starting_with(bytes: Vec<u8>) -> Self {
        Self {
            feed: Feed::starting_with(bytes),
            ..Self::default()
        }
    }

    /// Where the next bytes are to be appended.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        self.feed.buffer()
    }

    /// What comes next. `None`: more bytes are needed.
    ///
    /// # Errors
    /// If it is no tar file, or one with anything but regular files.
    pub(crate) fn read(&mut self) -> Result<Option<Piece<'_>>, ArchiveError> {
        loop {
            let rest = self.feed.rest().len();
            match self.state {
                At::Header if rest < BLOCK => return Ok(None),
                At::Header => {
                    if let Some(piece) = self.header()? {
                        return Ok(Some(piece));
                    }
                }
                At::Extended(len) => {
                    let len = usize::try_from(len).unwrap_or(usize::MAX);
                    if rest < len {
                        return Ok(None);
                    }
                    let (path, size) = extended(self.feed.take(len))?;
                    self.path = path.or(self.path.take());
                    self.size = size.or(self.size.take());
                    self.state = At::Padding(self.padding);
                }
                At::Content(0) => {
                    self.state = At::Padding(self.padding);
                    return Ok(Some(Piece::FileEnd));
                }
                At::Content(_) if rest == 0 => return Ok(None),
                At::Content(left) => {
                    let take = rest.min(usize::try_from(left).unwrap_or(usize::MAX));
                    self.state = At::Content(left - take as u64);
                    return Ok(Some(Piece::Content(self.feed.take(take))));
                }
                At::Padding(left) if rest < left => return Ok(None),
                At::Padding(left) => {
                    self.feed.take(left);
                    self.state = At::Header;
                }
                At::End => return Ok(Some(Piece::End)),
            }
        }
    }

    /// Reads a header. `None`: it was an extended one.
    fn header(&mut self) -> Result<Option<Piece<'static>>, ArchiveError> {
        let header = self.feed.take(BLOCK);
        if header.iter().all(|byte| *byte == 0) {
            self.state = At::End;
            return Ok(Some(Piece::End));
        }
        let sum: u64 = header
            .iter()
            .enumerate()
            .map(|(index, byte)| {
                if (148..156).contains(&index) {
                    32
                } else {
                    u64::from(*byte)
                }
            })
            .sum();
        if &header[257..262] != b"ustar" || octal(&header[148..156]) != Some(sum) {
            return Err(ArchiveError::Format);
        }
        let kind = header[156];
        let said = octal(&header[124..136]).ok_or(ArchiveError::Number)?;
        let name = text(&header[..100])?;
        let prefix = text(&header[345..500])?;
        let bytes = match kind {
            b'x' => said,
            _ => self.size.take().unwrap_or(said),
        };
        self.padding = usize::try_from(bytes.next_multiple_of(BLOCK as u64) - bytes).unwrap_or(0);
        match kind {
            b'x' if bytes > EXTENDED_BYTES_MAX => Err(ArchiveError::EntryTooLarge {
                len: bytes,
                max: EXTENDED_BYTES_MAX,
            }),
            b'x' => {
                self.state = At::Extended(bytes);
                Ok(None)
            }
            b'0' | 0 => {
                self.state = At::Content(bytes);
                let long = if prefix.is_empty() {
                    name
                } else {
                    format!("{prefix}/{name}")
                };
                let name = self.path.take().unwrap_or(long);
                Ok(Some(Piece::File { name, bytes }))
            }
            _ => Err(ArchiveError::Format),
        }
    }
}

/// Octal digits, with blanks before and blanks or zeros behind.
fn octal(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(field).ok()?;
    let digits = text.trim_matches(|c| c == ' ' || c == '\0');
    if digits.is_empty() {
        return Some(0);
    }
    u64::from_str_radix(digits, 8)
        .ok()
        .filter(|number| *number < 1 << 40)
}

fn text(field: &[u8]) -> Result<String, ArchiveError> {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    String::from_utf8(field[..end].to_vec()).map_err(|_| ArchiveError::Name)
}

/// Path and size, if an extended header names them: records of `<length> <key>=<value>\n`.
fn extended(mut records: &[u8]) -> Result<(Option<String>, Option<u64>), ArchiveError> {
    let (mut path, mut size) = (None, None);
    while !records.is_empty() {
        let blank = records
            .iter()
            .position(|byte| *byte == b' ')
            .ok_or(ArchiveError::Number)?;
        let len: usize = std::str::from_utf8(&records[..blank])
            .ok()
            .and_then(|len| len.parse().ok())
            .ok_or(ArchiveError::Number)?;
        let record = records.get(blank + 1..len).ok_or(ArchiveError::Number)?;
        records = &records[len..];
        let record = std::str::from_utf8(record).map_err(|_| ArchiveError::Name)?;
        match record.trim_end_matches('\n').split_once('=') {
            Some(("path", value)) => path = Some(value.to_owned()),
            Some(("size", value)) => size = Some(value.parse().map_err(|_| ArchiveError::Number)?),
            _ => {}
        }
    }
    Ok((path, size.filter(|size| *size < 1 << 40)))
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(name: &str, kind: u8, bytes: usize) -> Vec<u8> {
        let mut header = vec![0; BLOCK];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[124..136].copy_from_slice(format!("{bytes:011o}\0").as_bytes());
        header[148..156].copy_from_slice(b"        ");
        header[156] = kind;
        header[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        header
    }

    /// A file with an extended header that names it.
    pub(crate) fn file(name: &str, content: &[u8]) -> Vec<u8> {
        let record = |len: usize| format!("{len} path={name}\n");
        let mut len = record(0).len();
        while record(len).len() != len {
            len = record(len).len();
        }
        let mut out = Vec::new();
        for (kind, name, body) in [(b'x', "pax", record(len).as_bytes()), (b'0', "short", content)] {
            out.extend(header(name, kind, body.len()));
            out.extend_from_slice(body);
            out.resize(out.len().next_multiple_of(BLOCK), 0);
        }
        out
    }

    fn read_all(bytes: &[u8], step: usize) -> Result<Vec<(String, Vec<u8>)>, ArchiveError> {
        let mut reader = TarReader::default();
        let mut files: Vec<(String, Vec<u8>)> = Vec::new();
        for piece in bytes.chunks(step) {
            reader.buffer().extend_from_slice(piece);
            while let Some(piece) = reader.read()? {
                match piece {
                    Piece::File { name, .. } => files.push((name, Vec::new())),
                    Piece::Content(content) => files.last_mut().unwrap().1.extend_from_slice(content),
                    Piece::FileEnd => {}
                    Piece::End => return Ok(files),
                }
            }
        }
        Err(ArchiveError::Truncated)
    }

    proptest! {
        #[test]
        fn files_come_out_as_they_went_in(
            files in proptest::collection::vec(("[a-z/.]{1,300}", proptest::collection::vec(any::<u8>(), 0..1500)), 0..5),
            step in 1_usize..2000,
        ) {
            let mut bytes: Vec<u8> = files.iter().flat_map(|(name, content)| file(name, content)).collect();
            bytes.extend([0; 2 * BLOCK]);
            prop_assert_eq!(read_all(&bytes, step), Ok(files));
        }

        #[test]
        fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..2000), flips in any::<u8>()) {
            read_all(&bytes, 100).ok();
            let mut whole = file("a", &bytes);
            bytes.truncate(BLOCK);
            for (index, byte) in bytes.iter().enumerate().take(usize::from(flips)) {
                whole[index] ^= byte;
            }
            read_all(&whole, 100).ok();
        }
    }

    #[test]
    fn anything_but_files_is_refused() {
        for kind in [b'1', b'2', b'5', b'L', b'g', b'S'] {
            let link = header("link", kind, 0);
            assert_eq!(read_all(&link, BLOCK), Err(ArchiveError::Format));
        }
        let mut huge = header("pax", b'x', 1 << 20);
        huge.extend([0; BLOCK]);
        assert!(matches!(
            read_all(&huge, BLOCK),
            Err(ArchiveError::EntryTooLarge { .. })
        ));
    }
}
