//! Files and locks on the virtual disk.

use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::MutexGuard;

use super::SimFs;
use super::disk::Disk;
use super::node::{Pending, SECTOR_BYTES};
use crate::env::FsFile;

/// A lock on the simulated disk; free once dropped.
pub struct SimLock {
    pub(super) fs: SimFs,
    pub(super) path: PathBuf,
    pub(super) life: u64,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut disk = self.fs.disk();
        if disk.life == self.life {
            disk.locks.remove(&self.path);
        }
    }
}

/// A file on the simulated disk.
pub struct SimFile {
    pub(super) fs: SimFs,
    pub(super) node: u64,
    pub(super) life: u64,
}

impl SimFile {
    fn disk(&self) -> io::Result<MutexGuard<'_, Disk>> {
        let disk = self.fs.disk();
        if disk.life == self.life {
            Ok(disk)
        } else {
            Err(io::Error::other("simulated crash"))
        }
    }
}

impl FsFile for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut disk = self.disk()?;
        disk.reads += u64::from(!disk.spares_reads);
        if (!disk.spares_reads && disk.fail_read_at == Some(disk.reads))
            || disk.is_bad(self.node, offset, buf.len() as u64)
        {
            disk.troubles += 1;
            disk.tell_of(self.node, format_args!("read of {} at {offset} fails", buf.len()));
            return Err(io::Error::other("simulated read failure"));
        }
        let live = &disk.node(self.node)?.live;
        let from = live.get(offset as usize..).unwrap_or_default();
        let count = from.len().min(buf.len());
        buf[..count].copy_from_slice(&from[..count]);
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut disk = self.disk()?;
        disk.use_power()?;
        disk.writes += 1;
        let full = disk.fill_write_at == Some(disk.writes);
        let failing = full || disk.fail_write_at == Some(disk.writes);
        let kept = if failing {
            disk.rng.below(bytes.len() as u64 + 1) as usize
        } else {
            bytes.len()
        };
        let len = disk.node(self.node)?.live.len() as u64;
        disk.take_room((offset + bytes.len() as u64).saturating_sub(len))?;
        disk.troubles += u64::from(failing);
        let change = if disk.misdirect_write_at == Some(disk.writes) {
            let sectors = len.max(1).div_ceil(SECTOR_BYTES as u64);
            let sector = disk.rng.below(sectors) * SECTOR_BYTES as u64;
            Pending::Misdirected {
                offset,
                landing: sector + offset % SECTOR_BYTES as u64,
                bytes: bytes[..kept].to_vec(),
            }
        } else {
            Pending::Write(offset, bytes[..kept].to_vec())
        };
        let outcome = match (failing, &change) {
            (true, _) => "fails",
            (false, Pending::Misdirected { .. }) => "lands elsewhere",
            (false, _) => "",
        };
        disk.tell_of(
            self.node,
            format_args!("write {} at {offset} {outcome}", bytes.len()),
        );
        disk.node(self.node)?.change(change);
        match failing {
            true if full => Err(ErrorKind::StorageFull.into()),
            true => Err(io::Error::other("simulated write failure")),
            false => Ok(()),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut disk = self.disk()?;
        disk.use_power()?;
        disk.tell_of(self.node, format_args!("sync"));
        if let Err(err) = disk.count_sync() {
            let mut rng = disk.rng.clone();
            disk.node(self.node)?.settle_by_chance(50, &mut rng);
            disk.rng = rng;
            return Err(err);
        }
        disk.node(self.node)?.sync();
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut disk = self.disk()?;
        disk.use_power()?;
        let before = disk.node(self.node)?.live.len() as u64;
        if len > before {
            disk.take_room(len - before)?;
        } else {
            disk.used -= before - len;
        }
        disk.tell_of(self.node, format_args!("set length {len}, was {before}"));
        disk.node(self.node)?.change(Pending::SetLen(len));
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let before = self.len()?;
        if len > before { self.set_len(len) } else { Ok(()) }
    }

    fn len(&self) -> io::Result<u64> {
        let mut disk = self.disk()?;
        Ok(disk.node(self.node)?.live.len() as u64)
    }
}
