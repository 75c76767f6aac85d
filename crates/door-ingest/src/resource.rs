//! A resource of the ingest door, compiled: its mapping and its bounds.

use std::collections::HashSet;

use doorward_core::ResourceName;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::config::{IngestConfig, SyslogConfig};
use crate::mapping::{Mapping, MappingError};

/// The largest record that may be configured.
const LINE_BYTES_MAX: u64 = 1 << 20;
/// The largest batch that may be configured.
const BATCH_BYTES_MAX: u64 = 1 << 30;
/// The longest name of an unknown field that is told.
pub(crate) const FIELD_NAME_BYTES_MAX: usize = 128;
/// OTLP requests of one resource that are held in memory at once.
const REQUESTS_MAX: usize = 4;
/// Unknown fields of which the operator's log tells, each once.
const TOLD_MAX: usize = 256;

/// What is wrong with a resource's section.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// The mapping.
    #[error(transparent)]
    Mapping(#[from] MappingError),
    /// A bound.
    #[error("{key}: {text}")]
    Bound {
        /// The key.
        key: &'static str,
        /// What is wrong.
        text: &'static str,
    },
}

/// A resource of the ingest door.
#[derive(Debug)]
pub struct IngestResource {
    pub(crate) name: ResourceName,
    pub(crate) mapping: Mapping,
    pub(crate) line_bytes_max: usize,
    pub(crate) batch_bytes_max: u64,
    pub(crate) syslog: Option<SyslogConfig>,
    /// OTLP requests that may be held in memory at once.
    pub(crate) requests: Semaphore,
    told: Mutex<HashSet<Box<str>>>,
}

impl IngestResource {
    /// Says what is wrong with a configuration, offline.
    pub fn check(config: &IngestConfig) -> Result<(), CheckError> {
        Self::compile(ResourceName::new("check"), config).map(drop)
    }

    /// Compiles a configuration.
    pub fn compile(name: ResourceName, config: &IngestConfig) -> Result<Self, CheckError> {
        let mapping = Mapping::compile(config)?;
        let (line, batch) = (config.line_size_max.get(), config.batch_size_max.get());
        let bound = |key, text| Err(CheckError::Bound { key, text });
        if !(256..=LINE_BYTES_MAX).contains(&line) {
            return bound("line_size_max", "between 256B and 1MiB are expected");
        }
        if !(line..=BATCH_BYTES_MAX).contains(&batch) {
            return bound("batch_size_max", "at least `line_size_max` and at most 1GiB are expected");
        }
        if let Some(syslog) = &config.syslog
            && syslog.app_name.is_empty()
            && syslog.certificate.is_empty()
        {
            return bound("syslog", "`app_name` or `certificate` says which messages are meant");
        }
        Ok(Self {
            name,
            mapping,
            line_bytes_max: usize::try_from(line).unwrap_or(usize::MAX),
            batch_bytes_max: batch,
            syslog: config.syslog.clone(),
            requests: Semaphore::new(REQUESTS_MAX),
            told: Mutex::default(),
        })
    }

    /// Tells the operator of an unknown field, once.
    pub(crate) fn tell_unknown(&self, field: &str) {
        let mut told = self.told.lock();
        if told.len() < TOLD_MAX && !told.contains(field) {
            told.insert(field.into());
            drop(told);
            // Debug's escapes keep a foreign name on its line.
            tracing::warn!(resource = %self.name, ?field, "imported records have a field that the mapping does not know");
        }
    }
}
