//! One file of the virtual disk.

use super::SplitMix;

/// Unsynced writes survive a crash in pieces of this size.
pub const SECTOR_BYTES: usize = 512;

/// What programs see of a file, and what a crash leaves of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Node {
    pub(super) live: Vec<u8>,
    pub(super) durable: Vec<u8>,
    pending: Vec<Pending>,
    /// Changed since it was last synced, also in an earlier life.
    pub(super) is_unfinished: bool,
}

/// A change that is not durable.
#[derive(Clone, Debug)]
pub(super) enum Pending {
    Write(u64, Vec<u8>),
    /// Programs see it at `offset`, the disk puts it at `landing`.
    Misdirected {
        offset: u64,
        landing: u64,
        bytes: Vec<u8>,
    },
    SetLen(u64),
}

impl Node {
    fn apply(image: &mut Vec<u8>, change: &Pending) {
        match change {
            Pending::SetLen(len) => set_len(image, *len as usize),
            Pending::Write(offset, bytes) => write_into(image, *offset, bytes),
            Pending::Misdirected { landing, bytes, .. } => {
                let landing = (*landing as usize).min(image.len());
                let fits = bytes.len().min(image.len() - landing);
                image[landing..landing + fits].copy_from_slice(&bytes[..fits]);
            }
        }
    }

    pub(super) fn change(&mut self, change: Pending) {
        match &change {
            Pending::Misdirected { offset, bytes, .. } => write_into(&mut self.live, *offset, bytes),
            change => Self::apply(&mut self.live, change),
        }
        self.pending.push(change);
        self.is_unfinished = true;
    }

    pub(super) fn sync(&mut self) {
        self.is_unfinished = false;
        for change in self.pending.drain(..) {
            Self::apply(&mut self.durable, &change);
        }
    }

    pub(super) fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// What is not durable, in words.
    pub(super) fn pending_text(&self) -> String {
        let texts = self.pending.iter().map(|change| match change {
            Pending::Write(offset, bytes) => format!("{} at {offset}", bytes.len()),
            Pending::Misdirected {
                offset,
                landing,
                bytes,
            } => format!("{} at {landing} instead of {offset}", bytes.len()),
            Pending::SetLen(len) => format!("length {len}"),
        });
        format!("pending: {}", texts.collect::<Vec<_>>().join(", "))
    }

    /// Lets each pending sector and length reach the disk in `percent` of 100 cases, and forgets the rest.
    pub(super) fn settle_by_chance(&mut self, percent: u64, rng: &mut SplitMix) {
        for change in std::mem::take(&mut self.pending) {
            match change {
                Pending::SetLen(_) | Pending::Misdirected { .. } => {
                    if rng.chance(percent) {
                        Self::apply(&mut self.durable, &change);
                    }
                }
                Pending::Write(offset, bytes) => {
                    let mut at = 0;
                    while at < bytes.len() {
                        let into_sector = (offset as usize + at) % SECTOR_BYTES;
                        let end = (at + SECTOR_BYTES - into_sector).min(bytes.len());
                        if rng.chance(percent) {
                            write_into(&mut self.durable, offset + at as u64, &bytes[at..end]);
                        }
                        at = end;
                    }
                }
            }
        }
    }
}

fn write_into(image: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let offset = offset as usize;
    if image.len() < offset + bytes.len() {
        set_len(image, offset + bytes.len());
    }
    image[offset..offset + bytes.len()].copy_from_slice(bytes);
}

/// `Vec::resize`, but quick without optimisation as well.
fn set_len(image: &mut Vec<u8>, len: usize) {
    const ZEROS: [u8; 4096] = [0; 4096];
    image.truncate(len);
    while image.len() < len {
        let count = (len - image.len()).min(ZEROS.len());
        image.extend_from_slice(&ZEROS[..count]);
    }
}
