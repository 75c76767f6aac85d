//! The few things that the spool asks of a file system. Tests put a file system here that fails, fills up
//! and forgets what was not synced.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::encryption::Keys;

/// One directory of files.
pub(crate) trait Files: Send + Sync {
    /// Names and lengths.
    fn list(&self) -> io::Result<Vec<(String, u64)>>;
    /// Makes a file that is not there yet, durably so. `room` bytes are set aside for it when the file
    /// system can do that: then the file is that long from the start, and zero where nothing was written.
    fn create(&self, name: &str, room: u64) -> io::Result<Box<dyn Appender>>;
    /// Opens a file that is there, to append to it.
    fn append(&self, name: &str) -> io::Result<Box<dyn Appender>>;
    /// Reads up to `max` bytes from `offset` on; fewer only at the end of the file.
    fn read(&self, name: &str, offset: u64, max: usize) -> io::Result<Vec<u8>>;
    /// Cuts a file, durably.
    fn truncate(&self, name: &str, length: u64) -> io::Result<()>;
    /// Removes a file. After a crash it may be there again.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Gives a file another name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Makes sure that a file of this length is there with nothing in it, and that the disk has given it all its room.
    fn set_aside(&self, name: &str, bytes: u64) -> io::Result<()>;
    /// When a file was changed last, microseconds since 1970, where that can be known.
    fn modified(&self, _name: &str) -> Option<i64> {
        None
    }
    /// Bytes that the disk has left for us, where that can be known.
    fn free(&self) -> io::Result<Option<u64>>;
    /// Puts a small file in place: all of it or nothing, durably.
    fn put(&self, name: &str, content: &[u8]) -> io::Result<()>;
    /// The keys of the segments that are encrypted; whoever reads frames asks here.
    fn keys(&self) -> Keys;
}

/// A file that is written from its start to its end.
pub(crate) trait Appender: Send {
    /// Writes all bytes behind those written before, or fails with some of them written.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Makes what was appended durable.
    fn sync(&mut self) -> io::Result<()>;
}

/// A directory of the operating system.
#[derive(Debug)]
pub(crate) struct Directory(PathBuf, Keys);

impl Directory {
    /// Opens the directory, and makes it when it is not there.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(path)?;
        Ok(Self::existing(path))
    }

    /// A directory that is there.
    pub(crate) fn existing(path: &Path) -> Self {
        Self(path.to_owned(), Keys::default())
    }

    /// The same with keys for its segments.
    pub(crate) fn with_keys(self, keys: Keys) -> Self {
        Self(self.0, keys)
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }
}

/// Whether an error says that nothing can be written for now, for want of room or because the volume is
/// read-only. Such a spool is waited for.
pub(crate) fn is_unwritable(error: &io::Error) -> bool {
    is_full(error) || error.kind() == io::ErrorKind::ReadOnlyFilesystem
}

/// Whether an error says that there is no room.
pub(crate) fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// Records are for the gateway's own eyes.
pub(crate) fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}

/// Makes a file that only the gateway's user may read, unless it is there already; for databases, which
/// would make it readable to all.
pub(crate) fn make_private(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Directory::open(parent)?;
    }
    match private(OpenOptions::new().write(true).create_new(true)).open(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Ok(_) | Err(_) => Ok(()),
    }
}

impl Files for Directory {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().into_string() {
                files.push((name, entry.metadata()?.len()));
            }
        }
        Ok(files)
    }

    fn create(&self, name: &str, room: u64) -> io::Result<Box<dyn Appender>> {
        let path = self.0.join(name);
        let file = private(OpenOptions::new().write(true).create_new(true)).open(&path)?;
        match set_aside(&file, room).and_then(|room| self.sync().map(|()| room)) {
            Ok(room) => Ok(appender(file, room)),
            Err(error) => {
                // The next try takes the same name. When this fails too, there is nothing more to do.
                let _ = fs::remove_file(&path);
                Err(error)
            }
        }
    }

    fn append(&self, name: &str) -> io::Result<Box<dyn Appender>> {
        Ok(Box::new(OpenOptions::new().append(true).open(self.0.join(name))?))
    }

    fn read(&self, name: &str, offset: u64, max: usize) -> io::Result<Vec<u8>> {
        let mut file = File::open(self.0.join(name))?;
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::with_capacity(max);
        file.take(u64::try_from(max).unwrap_or(u64::MAX)).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn truncate(&self, name: &str, length: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(self.0.join(name))?;
        file.set_len(length)?;
        file.sync_all()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.0.join(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.0.join(from), self.0.join(to))?;
        self.sync()
    }

    fn set_aside(&self, name: &str, bytes: u64) -> io::Result<()> {
        let path = self.0.join(name);
        if fs::metadata(&path).is_ok_and(|there| there.len() == bytes) {
            return Ok(());
        }
        let file = private(OpenOptions::new().write(true).create(true).truncate(true)).open(&path)?;
        let done = take_room(&file, bytes).and_then(|()| file.sync_all()).and_then(|()| self.sync());
        if done.is_err() {
            // Half of it is of no use to anybody. When this fails too, its length tells the next try.
            let _ = fs::remove_file(&path);
        }
        done
    }

    fn modified(&self, name: &str) -> Option<i64> {
        let at = fs::metadata(self.0.join(name)).ok()?.modified().ok()?;
        let since = at.duration_since(std::time::UNIX_EPOCH).ok()?;
        i64::try_from(since.as_micros()).ok()
    }

    #[cfg(unix)]
    fn free(&self) -> io::Result<Option<u64>> {
        let disk = rustix::fs::statvfs(&self.0)?;
        Ok(Some(disk.f_bavail.saturating_mul(disk.f_frsize)))
    }

    #[cfg(not(unix))]
    fn free(&self) -> io::Result<Option<u64>> {
        Ok(None)
    }

    fn put(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let new = self.0.join(format!("{name}.new"));
        let mut file = private(OpenOptions::new().write(true).create(true).truncate(true)).open(&new)?;
        file.write_all(content)?;
        file.sync_all()?;
        drop(file);
        fs::rename(&new, self.0.join(name))?;
        self.sync()
    }

    fn keys(&self) -> Keys {
        self.1.clone()
    }
}

/// Gives the file its blocks and its length beforehand: a file that grows costs a commit of the file system's
/// journal each time. How much of it was given; [`super::ahead`] says what makes such room cheap to write.
///
/// A file system that cannot, or has no room, leaves the file to grow: the disk is full when a write says so.
#[cfg(target_os = "linux")]
fn set_aside(file: &File, room: u64) -> io::Result<u64> {
    use rustix::fs::{FallocateFlags, fallocate};
    match fallocate(file, FallocateFlags::empty(), 0, room.max(1)) {
        Ok(()) => Ok(room),
        Err(error) => {
            tracing::debug!(%error, "no room can be set aside for a segment; it grows as it is written");
            // Some of it may have been given.
            file.set_len(0).map(|()| 0)
        }
    }
}

/// A new file with room set aside.
#[cfg(target_os = "linux")]
fn appender(file: File, room: u64) -> Box<dyn Appender> {
    Box::new(super::ahead::Ahead::new(file, room))
}

/// A new file.
#[cfg(not(target_os = "linux"))]
fn appender(file: File, _: u64) -> Box<dyn Appender> {
    Box::new(file)
}

/// Gives a new file its room, or fails.
#[cfg(target_os = "linux")]
fn take_room(file: &File, room: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    match fallocate(file, FallocateFlags::empty(), 0, room.max(1)) {
        Err(rustix::io::Errno::OPNOTSUPP) => fill(file, room),
        done => Ok(done?),
    }
}

/// Gives a new file its room, or fails.
#[cfg(not(target_os = "linux"))]
fn take_room(file: &File, room: u64) -> io::Result<()> {
    fill(file, room)
}

fn fill(mut file: &File, room: u64) -> io::Result<()> {
    io::copy(&mut io::repeat(0).take(room), &mut file).map(drop)
}

/// Files grow as they are written.
#[cfg(not(target_os = "linux"))]
fn set_aside(_: &File, _: u64) -> io::Result<u64> {
    Ok(0)
}

impl Appender for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}
