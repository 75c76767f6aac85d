//! Places outside the store that hold logs in the layout of tlog-tiles: a directory, or a prefix in a bucket.
//!
//! ```text
//! GATEWAY/EPOCH/checkpoint             the newest checkpoint
//! GATEWAY/EPOCH/tile/LEVEL/…           tiles
//! GATEWAY/EPOCH/notes/PLACE            what the log says about itself: the text under the leaf at a place, 20 digits
//! GATEWAY/EPOCH/checkpoints/SIZE       in a bucket: each checkpoint that was put, 20 digits
//! ```
//!
//! Invariant: a tile, a note, and a checkpoint under its size, is never replaced. Nothing is removed from a bucket; in a
//! directory, the partial tiles that a full one has taken the place of are.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use doorward_core::{Clock, SystemClock};
use doorward_settings::Problem;

use super::config::Place;
use crate::s3::{Bucket, BucketError, Object};
use crate::spool::files::private;
use crate::transport::Reach;

/// The folder of checkpoints by their sizes.
const BY_SIZE: &str = "checkpoints";
/// The folder of notes by their places.
const NOTES: &str = "notes";

/// Why a place does not do what it is asked.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {cause}")]
pub struct PlaceError {
    /// The place, as its operator knows it.
    pub place: String,
    /// Why.
    pub cause: String,
}

/// Objects of a place, by keys with `/`. Each call blocks, for as long as the disk or the network takes.
pub trait Objects: Debug + Send + Sync {
    /// The place, as its operator knows it.
    fn name(&self) -> String;

    /// An object of up to `bytes_max`; `None` when there is none.
    fn read(&self, key: &str, bytes_max: usize) -> Result<Option<Vec<u8>>, PlaceError>;

    /// Puts an object; one that is there already is replaced.
    fn put(&self, key: &str, bytes: &[u8]) -> Result<(), PlaceError>;

    /// Puts an object where there is none; one that is there already stays. Whether it was put.
    fn put_new(&self, key: &str, bytes: &[u8]) -> Result<bool, PlaceError>;

    /// The folders right below one, in order.
    fn folders(&self, folder: &str) -> Result<Vec<String>, PlaceError>;

    /// A full tile has come: its partial ones, in `folder`, are not needed any more.
    fn superseded(&self, folder: &str) -> Result<(), PlaceError>;

    /// Whether each checkpoint is kept under its size, beside the newest one.
    fn keeps_sizes(&self) -> bool;

    /// The objects right in `folder` whose names come behind `after`, in order; none when there is no such folder.
    fn newer(&self, folder: &str, after: &str) -> Result<Vec<String>, PlaceError>;
}

/// The object of the checkpoint of one size.
pub(crate) fn by_size(log: &str, size: u64) -> String {
    format!("{log}/{BY_SIZE}/{size:020}")
}

/// Keys of checkpoints of more leaves than `size`, the largest last; none where they are not kept. A directory may be
/// a copy of a bucket.
pub(crate) fn larger(place: &dyn Objects, log: &str, size: u64) -> Result<Vec<String>, PlaceError> {
    let folder = format!("{log}/{BY_SIZE}");
    let names = place.newer(&folder, &format!("{size:020}"))?;
    Ok(names.into_iter().map(|name| format!("{folder}/{name}")).collect())
}

/// Where a log is, below a place.
pub(crate) fn log_folder(gateway_id: &str, epoch: u64) -> String {
    format!("{gateway_id}/{epoch}")
}

/// The object of the note at a place of a log.
pub(crate) fn note_key(log: &str, index: u64) -> String {
    format!("{log}/{NOTES}/{index:020}")
}

/// The places of a log that a place outside has notes of, in order.
pub(crate) fn notes_at(place: &dyn Objects, log: &str) -> Result<Vec<u64>, PlaceError> {
    let names = place.newer(&format!("{log}/{NOTES}"), "")?;
    Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
}

/// Opens a place. Reads the secrets of a bucket: blocks.
pub fn open(place: &Place, reach: Option<&Reach>) -> Result<Arc<dyn Objects>, Problem> {
    match (place, reach) {
        (Place::Directory(path), _) => Ok(Arc::new(Folder(path.clone()))),
        (Place::Bucket(place), Some(reach)) => Ok(Arc::new(BucketFolder {
            name: place.s3.url.clone(),
            bucket: Bucket::open(&place.s3)?,
            reach: reach.clone(),
        })),
        (Place::Bucket(place), None) => Err(place.s3.access_key_id.problem("nobody speaks to buckets here")),
    }
}

/// A directory.
#[derive(Debug)]
struct Folder(PathBuf);

impl Folder {
    fn failed(&self, error: &io::Error) -> PlaceError {
        PlaceError { place: self.name(), cause: error.to_string() }
    }

    fn read_file(&self, key: &str, bytes_max: usize) -> io::Result<Option<Vec<u8>>> {
        let file = match File::open(self.0.join(key)) {
            Ok(file) => file,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.take(u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1)).read_to_end(&mut bytes)?;
        match bytes.len() > bytes_max {
            true => Err(io::Error::other(format!("{key} is too long"))),
            false => Ok(Some(bytes)),
        }
    }
}

impl Objects for Folder {
    fn name(&self) -> String {
        self.0.display().to_string()
    }

    fn read(&self, key: &str, bytes_max: usize) -> Result<Option<Vec<u8>>, PlaceError> {
        self.read_file(key, bytes_max).map_err(|error| self.failed(&error))
    }

    fn put(&self, key: &str, bytes: &[u8]) -> Result<(), PlaceError> {
        put_file(&self.0.join(key), bytes).map_err(|error| self.failed(&error))
    }

    fn put_new(&self, key: &str, bytes: &[u8]) -> Result<bool, PlaceError> {
        let path = self.0.join(key);
        // One gateway writes here; nobody comes between the two steps.
        match path.exists() {
            true => Ok(false),
            false => put_file(&path, bytes).map(|()| true).map_err(|error| self.failed(&error)),
        }
    }

    fn folders(&self, folder: &str) -> Result<Vec<String>, PlaceError> {
        let listed = || -> io::Result<Vec<String>> {
            let mut names = Vec::new();
            for entry in fs::read_dir(self.0.join(folder))? {
                let entry = entry?;
                if entry.path().is_dir() {
                    names.push(entry.file_name().to_string_lossy().into_owned());
                }
            }
            names.sort();
            Ok(names)
        };
        listed().map_err(|error| self.failed(&error))
    }

    fn superseded(&self, folder: &str) -> Result<(), PlaceError> {
        match fs::remove_dir_all(self.0.join(folder)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(self.failed(&error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn keeps_sizes(&self) -> bool {
        false
    }

    fn newer(&self, folder: &str, after: &str) -> Result<Vec<String>, PlaceError> {
        let listed = || -> io::Result<Vec<String>> {
            let entries = match fs::read_dir(self.0.join(folder)) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
                other => other?,
            };
            let mut names = Vec::new();
            for entry in entries {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                if name.as_str() > after && entry.path().is_file() {
                    names.push(name);
                }
            }
            names.sort();
            Ok(names)
        };
        listed().map_err(|error| self.failed(&error))
    }
}

/// A prefix in a bucket.
#[derive(Debug)]
struct BucketFolder {
    name: String,
    bucket: Bucket,
    reach: Reach,
}

impl BucketFolder {
    fn wait<T>(&self, asked: impl Future<Output = Result<T, BucketError>>) -> Result<T, PlaceError> {
        let done = self.reach.runtime.block_on(asked);
        done.map_err(|error| PlaceError { place: self.name.clone(), cause: error.to_string() })
    }

    fn list(&self, folder: &str, after: &str) -> Result<Vec<String>, PlaceError> {
        let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        self.wait(self.bucket.list(&*self.reach.transport, &prefix, after, SystemClock.now()))
    }
}

fn object<'k>(key: &'k str, bytes: &[u8]) -> Object<'k> {
    // tlog-tiles names the types.
    let is_tile = key.split('/').any(|part| part == "tile");
    let content_type = if is_tile { "application/octet-stream" } else { "text/plain; charset=utf-8" };
    Object { key, content_type, bytes: bytes.to_vec() }
}

impl Objects for BucketFolder {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn read(&self, key: &str, bytes_max: usize) -> Result<Option<Vec<u8>>, PlaceError> {
        self.wait(self.bucket.get(&*self.reach.transport, key, bytes_max, SystemClock.now()))
    }

    fn put(&self, key: &str, bytes: &[u8]) -> Result<(), PlaceError> {
        self.wait(self.bucket.put(&*self.reach.transport, object(key, bytes), SystemClock.now()))
    }

    fn put_new(&self, key: &str, bytes: &[u8]) -> Result<bool, PlaceError> {
        self.wait(self.bucket.put_new(&*self.reach.transport, object(key, bytes), SystemClock.now()))
    }

    fn folders(&self, folder: &str) -> Result<Vec<String>, PlaceError> {
        let names = self.list(folder, "")?;
        Ok(names.into_iter().filter_map(|name| Some(name.strip_suffix('/')?.to_owned())).collect())
    }

    fn superseded(&self, _: &str) -> Result<(), PlaceError> {
        Ok(())
    }

    fn keeps_sizes(&self) -> bool {
        true
    }

    fn newer(&self, folder: &str, after: &str) -> Result<Vec<String>, PlaceError> {
        let mut names = self.list(folder, after)?;
        names.retain(|name| !name.ends_with('/') && name.as_str() > after);
        Ok(names)
    }
}

/// Puts a file in place: all of it or nothing, durably.
pub(super) fn put_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let draft = path.with_extension("new");
    let mut file = private(OpenOptions::new().write(true).create(true).truncate(true)).open(&draft)?;
    file.write_all(content)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&draft, path)?;
    File::open(folder)?.sync_all()
}
