//! What a caller wants: verb + resource + object, and the set of them that one call needs.
//!
//! Objects are kept in one canonical text form, so that the pattern in a rule and the object of a
//! request can only be compared in one way: segments joined by `/`, and inside a segment everything
//! but letters, digits and `-_.~@$+=!,;&'()` percent-encoded with upper-case hex digits.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use crate::name::ResourceName;
use crate::organs::{Form, Redactor};

/// What is done to an object (DESIGN: the table of verbs by door).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verb {
    /// Reads content.
    Read,
    /// Lists names.
    List,
    /// Creates or changes content.
    Write,
    /// Removes content.
    Delete,
    /// Runs a function or a tool.
    Execute,
    /// Starts a pipeline.
    Trigger,
    /// Changes structure, settings or rights.
    Manage,
    /// Opens a channel: LISTEN, replication, WebSocket.
    Connect,
    /// Reads or changes tags.
    Tag,
    /// Reads old versions.
    ReadVersions,
}

impl Verb {
    /// All verbs, in the order in which documents list them.
    pub const ALL: [Self; 10] = [
        Self::Read,
        Self::List,
        Self::Write,
        Self::Delete,
        Self::Execute,
        Self::Trigger,
        Self::Manage,
        Self::Connect,
        Self::Tag,
        Self::ReadVersions,
    ];

    /// The verb as rules and records spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::List => "list",
            Self::Write => "write",
            Self::Delete => "delete",
            Self::Execute => "execute",
            Self::Trigger => "trigger",
            Self::Manage => "manage",
            Self::Connect => "connect",
            Self::Tag => "tag",
            Self::ReadVersions => "read-versions",
        }
    }

    /// Reads a verb as rules spell it.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.as_str() == text)
    }

    /// Whether the call changes something, and so needs an intent frame before it is forwarded.
    /// A function may change anything, and so may a channel.
    pub const fn changes(self) -> bool {
        !matches!(self, Self::Read | Self::List | Self::ReadVersions)
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A path inside a resource, in canonical form: `public/orders`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Object(Box<str>);

impl Object {
    /// Builds the canonical form from decoded segments: each is encoded by itself, so a segment that
    /// holds `/` cannot pass for two.
    pub fn from_segments<'a>(segments: impl IntoIterator<Item = &'a str>) -> Self {
        let mut text = String::with_capacity(32);
        for (index, segment) in segments.into_iter().enumerate() {
            if index > 0 {
                text.push('/');
            }
            encode_segment(segment, &mut text);
        }
        Self(text.into())
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The object as a record may keep it.
    pub(crate) fn redacted(&self, redactor: &dyn Redactor, bytes_max: usize) -> Option<Self> {
        match redactor.redact(Form::Path, &self.0, bytes_max) {
            Cow::Borrowed(_) => None,
            Cow::Owned(text) => Some(Self(text.into())),
        }
    }

    /// The segments, still in canonical (encoded) form.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }
}

/// Appends one segment in canonical form.
pub fn encode_segment(segment: &str, out: &mut String) {
    const HEX: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if segment.bytes().all(bare) {
        return out.push_str(segment);
    }
    for &byte in segment.as_bytes() {
        if bare(byte) || b"-.~@$+=!,;&'()".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            let digit = |nibble: u8| HEX.get(usize::from(nibble)).copied().unwrap_or('0');
            out.push(digit(byte >> 4));
            out.push(digit(byte & 15));
        }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// One thing that a call needs to be allowed: `read shop/public/orders`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Action {
    /// What is done.
    pub verb: Verb,
    /// On which backend.
    pub resource: ResourceName,
    /// To what.
    pub object: Object,
}

/// The objects that come with any grant on a resource, to a session that is logged in as the grant's role:
/// the session itself (transaction control, settings, constants), and the system's catalogues.
pub const SESSION_OBJECTS: [&str; 3] = ["session", "pg_catalog", "information_schema"];

impl Action {
    /// `list RESOURCE/session`: what a session needs for itself.
    pub fn of_session(resource: &ResourceName) -> Self {
        Self { verb: Verb::List, resource: resource.clone(), object: Object::from_segments(["session"]) }
    }

    /// Whether it comes with any grant on the resource, as far as the caller is in a session of a role.
    pub fn comes_with_a_session(&self) -> bool {
        self.verb == Verb::List && SESSION_OBJECTS.contains(&self.object.as_str())
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.verb, self.resource, self.object)
    }
}

/// The actions of one call: at least one, at most [`Actions::MAX`]. A clone costs a counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actions(Arc<[Action]>);

impl Actions {
    /// The most actions that one call may need (S3 DeleteObjects takes 1,000 keys).
    pub const MAX: usize = 1_024;

    /// The common case: one action.
    pub fn one(action: Action) -> Self {
        Self(Arc::new([action]))
    }

    /// A set of actions; `None` when it is empty or larger than [`Self::MAX`].
    pub fn new(actions: Vec<Action>) -> Option<Self> {
        (!actions.is_empty() && actions.len() <= Self::MAX).then(|| Self(actions.into()))
    }

    /// The actions, in the order in which the call names them.
    pub fn as_slice(&self) -> &[Action] {
        &self.0
    }

    /// The same actions as a record may keep them.
    pub fn redacted(&self, redactor: &dyn Redactor, bytes_max: usize) -> Self {
        let objects: Vec<_> =
            self.0.iter().map(|action| action.object.redacted(redactor, bytes_max)).collect();
        if objects.iter().all(Option::is_none) {
            return self.clone();
        }
        let kept = self.0.iter().zip(objects).map(|(action, object)| Action {
            object: object.unwrap_or_else(|| action.object.clone()),
            ..action.clone()
        });
        Self(kept.collect())
    }

    /// The resource that the call is for: the first action's.
    pub fn resource(&self) -> Option<&ResourceName> {
        self.0.first().map(|action| &action.resource)
    }

    /// Whether any action changes something.
    pub fn change(&self) -> bool {
        self.0.iter().any(|action| action.verb.changes())
    }
}
