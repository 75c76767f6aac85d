//! Writing a segment: a little ahead of its records, so that a sync writes data only.
//!
//! Room that was set aside is not yet written, as the file system sees it: the first sync of each block commits a change
//! of the file's map beside the data, which takes as long again, and as much of the kernel's time. So a small batch is
//! followed by zeros, and the ones that come after it write over them: one change of the map for dozens of syncs.
//!
//! Invariants: what is behind the records is zero, as it was before, so readers and recovery see no difference; nothing
//! is written behind the room, and nothing at all where room could not be set aside or where file systems write
//! elsewhere what is written again.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use super::files::Appender;

/// Zeros that are written ahead at once.
const AHEAD: usize = 256 << 10;
/// A batch of so many bytes is worth a change of the map of its own; zeros under it would double what is written.
const LARGE: usize = 128 << 10;
/// What is written ahead.
static ZEROS: [u8; AHEAD] = [0; AHEAD];
/// File systems that write a block again where it is, by the number that statfs gives them: ext2 to ext4, and XFS.
const IN_PLACE: [u32; 2] = [0xef53, 0x5846_5342];

/// A file that is new and empty, with room set aside.
#[derive(Debug)]
pub(super) struct Ahead {
    file: File,
    room: u64,
    /// Bytes that were written.
    end: u64,
    /// Up to where the file system takes the room for written.
    ready: u64,
}

impl Ahead {
    /// A file whose first `room` bytes are set aside.
    pub(super) fn new(file: File, room: u64) -> Self {
        let kind = rustix::fs::fstatfs(&file).map(|disk| u32::try_from(disk.f_type).unwrap_or_default());
        let room = if kind.is_ok_and(|kind| IN_PLACE.contains(&kind)) { room } else { 0 };
        Self { file, room, end: 0, ready: 0 }
    }
}

impl Appender for Ahead {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.end = self.end.saturating_add(length(bytes));
        let left = self.room.saturating_sub(self.end);
        if self.end <= self.ready || left == 0 || bytes.len() >= LARGE {
            return Ok(());
        }
        let zeros = usize::try_from(left).ok().and_then(|left| ZEROS.get(..left)).unwrap_or(&ZEROS);
        self.file.write_all_at(zeros, self.end)?;
        self.ready = self.end.saturating_add(length(zeros));
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: usize = 1 << 20;

    /// Whatever the sizes of the batches, the file holds them one behind the other, and zeros up to its room.
    #[test]
    fn what_is_written_ahead_is_zero_and_within_the_room() {
        let folder = tempfile::tempdir().unwrap();
        for (number, sizes) in
            [&[1, 700, 5_000][..], &[LARGE - 1, 1, LARGE, 9], &[AHEAD + 1, 3], &[60_000; 17], &[ROOM - 1, 2]]
                .into_iter()
                .enumerate()
        {
            let path = folder.path().join(number.to_string());
            let file = File::create(&path).unwrap();
            file.set_len(ROOM as u64).unwrap();
            let mut ahead = Ahead { file, room: ROOM as u64, end: 0, ready: 0 };
            let mut written = Vec::new();
            for (byte, size) in (1_u8..).zip(sizes) {
                let batch = vec![byte; *size];
                ahead.append(&batch).unwrap();
                ahead.sync().unwrap();
                written.extend_from_slice(&batch);
                let mut wanted = written.clone();
                wanted.resize(written.len().max(ROOM), 0);
                assert!(std::fs::read(&path).unwrap() == wanted, "{sizes:?}, batch {byte}");
                assert!(ahead.ready <= ROOM as u64, "{sizes:?}, batch {byte}");
            }
        }
    }

    /// A small batch makes the next ones' blocks ready; a large one pays for its own.
    #[test]
    fn blocks_are_made_ready_for_small_batches_only() {
        let folder = tempfile::tempdir().unwrap();
        let file = File::create(folder.path().join("file")).unwrap();
        let mut ahead = Ahead { file, room: ROOM as u64, end: 0, ready: 0 };
        let mut ready = Vec::new();
        for size in [LARGE, 1_000, 1_000, LARGE, LARGE, 1_000] {
            ahead.append(&vec![1; size]).unwrap();
            ready.push(ahead.ready as usize);
        }
        let (first, last) = (LARGE + 1_000 + AHEAD, 3 * LARGE + 3_000 + AHEAD);
        assert_eq!(ready, [0, first, first, first, first, last]);
    }

    #[test]
    fn without_room_a_file_grows_as_it_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let mut ahead = Ahead::new(File::create(&path).unwrap(), 0);
        for _ in 0..3 {
            ahead.append(b"frame").unwrap();
        }
        assert_eq!(std::fs::read(&path).unwrap(), b"frameframeframe");
    }
}
