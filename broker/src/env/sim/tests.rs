//! What the virtual disk promises.

use super::super::file::SimFile;
use super::*;
use crate::env::FsFile;

fn write(fs: &SimFs, path: &str, bytes: &[u8]) -> SimFile {
    let file = fs.create(Path::new(path)).unwrap();
    file.write_at(bytes, 0).unwrap();
    file
}

#[test]
fn synced_things_survive_and_others_may_not() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..200 {
        let fs = SimFs::new(0);
        fs.create_dir_all(Path::new("/d")).unwrap();
        fs.sync_dir(Path::new("/")).unwrap();
        let kept = write(&fs, "/d/kept", b"kept");
        kept.sync_data().unwrap();
        fs.sync_dir(Path::new("/d")).unwrap();
        kept.write_at(&[b'x'; 1024], 0).unwrap();
        write(&fs, "/d/loose", b"loose").sync_data().unwrap();
        fs.crash(seed);
        assert!(
            kept.write_at(b"late", 0).is_err(),
            "files from before the crash fail"
        );
        let content = fs.contents(Path::new("/d/kept")).unwrap();
        let first = content.starts_with(b"xxxx");
        assert!(first || content.starts_with(b"kept"));
        outcomes.insert((first, content.len(), fs.contents(Path::new("/d/loose")).is_some()));
    }
    assert!(outcomes.len() >= 6, "{outcomes:?}");
}

#[test]
fn a_directory_that_is_not_durable_takes_its_files_along() {
    let fs = SimFs::new(0);
    fs.create_dir_all(Path::new("/d")).unwrap();
    write(&fs, "/d/f", b"1").sync_data().unwrap();
    fs.sync_dir(Path::new("/d")).unwrap();
    let lost = (0..100).filter(|&seed| {
        let fork = fs.fork();
        fork.crash(seed);
        fork.files().is_empty()
    });
    assert!((10..90).contains(&lost.count()));
}

#[test]
fn what_a_failed_sync_lost_stays_lost() {
    let lost = (0..100).filter(|&seed| {
        let fs = SimFs::new(seed);
        let file = write(&fs, "/f", b"1");
        fs.sync_dir(Path::new("/")).unwrap();
        fs.fail_nth_sync(1);
        assert!(file.sync_data().is_err());
        file.sync_data().unwrap();
        fs.crash(4);
        fs.contents(Path::new("/f")).unwrap().is_empty()
    });
    assert!((20..80).contains(&lost.count()));
}

#[test]
fn capacity_and_locks() {
    let fs = SimFs::new(0);
    fs.set_capacity(Some(10));
    let file = write(&fs, "/f", b"12345678");
    assert_eq!(
        file.write_at(b"123", 8).unwrap_err().kind(),
        ErrorKind::StorageFull
    );
    file.write_at(b"123", 0).unwrap();
    assert_eq!(fs.free_bytes(Path::new("/")).unwrap(), 2);
    fs.remove(Path::new("/f")).unwrap();
    assert_eq!(fs.used_bytes(), 0);
    let lock = fs.lock(Path::new("/l")).unwrap();
    assert!(lock.is_some() && fs.lock(Path::new("/l")).unwrap().is_none());
    drop(lock);
    assert!(fs.lock(Path::new("/l")).unwrap().is_some());
}

#[test]
fn a_misdirected_write_shows_after_the_crash() {
    let misplaced = (0..100).filter(|&seed| {
        let fs = SimFs::new(seed);
        let file = write(&fs, "/f", &[1; 4096]);
        fs.sync_dir(Path::new("/")).unwrap();
        file.sync_data().unwrap();
        fs.misdirect_nth_write(1);
        file.write_at(&[2; 100], 1000).unwrap();
        file.sync_data().unwrap();
        assert_eq!(fs.contents(Path::new("/f")).unwrap()[1000..1100], [2; 100]);
        fs.crash(seed);
        let content = fs.contents(Path::new("/f")).unwrap();
        assert!(content.iter().filter(|byte| **byte == 2).count() <= 100);
        content[1000] == 1
    });
    assert!(misplaced.count() > 50);
}

#[test]
fn a_read_fails_once_and_is_counted() {
    let fs = SimFs::new(0);
    let file = write(&fs, "/f", b"12");
    fs.fail_nth_read(2);
    let mut buf = [0; 2];
    assert!(file.read_at(&mut buf, 0).is_ok());
    assert!(file.read_at(&mut buf, 0).is_err());
    assert_eq!(file.read_at(&mut buf, 0).unwrap(), 2);
    assert_eq!(fs.troubles(), 1);
}

#[test]
fn a_file_is_unfinished_from_a_change_to_the_next_sync_whatever_comes_between() {
    let fs = SimFs::new(0);
    let path = Path::new("/f");
    let file = write(&fs, "/f", b"12");
    fs.sync_dir(Path::new("/")).unwrap();
    assert!(fs.is_unfinished(path));
    file.sync_data().unwrap();
    assert!(!fs.is_unfinished(path));
    fs.fail_nth_write(1);
    assert!(file.write_at(b"34", 0).is_err());
    fs.crash(0);
    fs.flip_bit(path, 3);
    assert!(fs.is_unfinished(path) && !fs.is_unfinished(Path::new("/g")));
    fs.open(path).unwrap().sync_data().unwrap();
    assert!(!fs.is_unfinished(path));
}
