//! A snapshot: one compiled configuration. A reload makes a new one and swaps it; a call keeps the
//! one that it began under.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use crate::hash::FixedMap;
use crate::name::{ConfigDigest, ResourceName};
use crate::organs::{AuditMode, Authenticator, Deadlines, Lessor, Policy, Redactor};

/// One configured backend, as its door compiled it.
#[derive(Clone)]
pub struct Resource {
    /// The operator's name for it.
    pub name: ResourceName,
    /// The door that serves it.
    pub door: &'static str,
    /// How its calls are recorded.
    pub audit: AuditMode,
    /// The door's own compiled form.
    pub backend: Arc<dyn Any + Send + Sync>,
    /// The compiled form of a second door to the same backend.
    pub beside: Option<Arc<dyn Any + Send + Sync>>,
}

impl Resource {
    /// A door's own compiled form, if one is of this type.
    pub fn backend<T: 'static>(&self) -> Option<&T> {
        let beside = || self.beside.as_ref().and_then(|beside| beside.downcast_ref());
        self.backend.downcast_ref().or_else(beside)
    }
}

impl Resource {
    /// The same, to be held for longer than the snapshot.
    pub fn shared<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        let beside = || self.beside.clone().and_then(|beside| beside.downcast().ok());
        self.backend.clone().downcast().ok().or_else(beside)
    }
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resource").field("name", &self.name).field("door", &self.door).finish_non_exhaustive()
    }
}

/// One compiled configuration, with the organs that decide under it.
pub struct Snapshot {
    /// Identifies the configuration in every record.
    pub digest: ConfigDigest,
    /// The configured environment.
    pub environment: Arc<str>,
    /// Credentials → principal.
    pub authenticator: Arc<dyn Authenticator>,
    /// Principal and actions → decision.
    pub policy: Arc<dyn Policy>,
    /// Permit → backend credential.
    pub lessor: Arc<dyn Lessor>,
    /// What came in → what a record may keep of it.
    pub redactor: Arc<dyn Redactor>,
    /// The configured backends.
    pub resources: FixedMap<ResourceName, Resource>,
    /// The road's timeouts.
    pub deadlines: Deadlines,
}

impl Snapshot {
    /// The resource of this name.
    pub fn resource(&self, name: &str) -> Option<&Resource> {
        self.resources.get(name)
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").field("digest", &self.digest).finish_non_exhaustive()
    }
}
