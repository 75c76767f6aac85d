//! What the road asks of the organs. Each organ is a crate of its own and implements one of these;
//! the binary puts them together in a [`crate::Snapshot`].

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::codes;
use crate::fault::Fault;
use crate::import::{Import, ImportTally, ImportedRecord};
use crate::minted::{LoginWish, MintedLogin, NewLogin};
use crate::name::{ResourceName, RoleName};
use crate::permit::{Allowance, Case, Decision, Lease, Permit, SessionGrant};
use crate::principal::{Arrival, Credentials, Principal};
use crate::record::AccessRecord;
use crate::time::Timestamp;

/// A boxed future, for the borders between crates.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Identity: credentials → principal.
pub trait Authenticator: Send + Sync {
    /// Says who is calling. [`Credentials::None`] is [`Principal::public`]; whether that is enough is
    /// policy's affair. Anything shown but not proven is a fault.
    fn authenticate<'a>(
        &'a self,
        credentials: &'a Credentials,
        arrival: &'a Arrival,
        now: Timestamp,
    ) -> BoxFuture<'a, Result<Arc<Principal>, Fault>>;

    /// Whether a principal proven earlier still stands under this configuration: its issuer is still
    /// there, its key is not revoked. Expiry is the road's affair. Asked for each statement of a session.
    fn stands(&self, principal: &Principal, now: Timestamp) -> Result<(), Fault>;

    /// The login behind a user name of the form that this gateway mints; `None` for names of other forms.
    fn minted(&self, _user: &str) -> Option<MintedLogin> {
        None
    }

    /// Mints a login that is as good as the principal's own proof, for a while.
    fn mint(&self, _principal: &Principal, _wish: &LoginWish, _now: Timestamp) -> Result<NewLogin, Fault> {
        Err(no_logins())
    }
}

/// The fault for a gateway that mints no logins.
pub fn no_logins() -> Fault {
    Fault::new(codes::NO_LOGINS, "this gateway mints no logins").hint(
        "They are for its Postgres door; ask the gateway's operator whether it has one (`listen.postgres`).",
    )
}

/// Policy: principal and actions → decision. Pure but for the limits' counters.
pub trait Policy: Send + Sync {
    /// Decides. The same case under the same configuration gives the same decision.
    fn decide(&self, case: &Case<'_>) -> Decision;

    /// The backend roles of the grants that allow the case, in file order, each once.
    fn session_roles(&self, _case: &Case<'_>) -> Vec<RoleName> {
        Vec::new()
    }

    /// The grants that hold for a session's caller and role, in file order: what the caller may be told of them.
    fn session_grants(&self, _case: &Case<'_>) -> Vec<SessionGrant> {
        Vec::new()
    }

    /// Counts the call against the limits of the permit's grant; a refused call costs nothing.
    /// `None` when the grant has no limit.
    fn admit(&self, permit: &Permit, now: Timestamp) -> Result<Option<Allowance>, Fault>;
}

/// Lease: permit → short-lived backend credential.
pub trait Lessor: Send + Sync {
    /// Lends the credential that the permit's resource and role call for.
    fn lend<'a>(&'a self, permit: &'a Permit) -> BoxFuture<'a, Result<Lease, Fault>>;
}

/// What kind of text a record is about to take in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Free text: a user agent, a fault's text, a log line, a header's value.
    Text,
    /// An operation from which the door has taken the values already: `GET /shop/orders?id=eq.?`.
    Template,
    /// A path, each segment percent-encoded by itself: an object, an endpoint.
    Path,
    /// A URL, or the path and query of a request.
    Url,
    /// PostgreSQL statements.
    Sql,
}

/// What a record keeps of the values that a statement is bound to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BoundValues {
    /// Nothing.
    Off,
    /// The values, redacted as literals in their places would be.
    #[default]
    Redacted,
    /// A keyed hash of each: equal values can be found, and none can be read.
    Hashed,
}

/// Redaction: what came in → what a record may keep of it. Pure, and linear in its input.
pub trait Redactor: Send + Sync {
    /// The text without what is secret in it, and at most `bytes_max` long. What is cut off is cut after the
    /// redaction, so that no half of a secret is left.
    fn redact<'a>(&self, form: Form, text: &'a str, bytes_max: usize) -> Cow<'a, str>;

    /// Does the same to all texts of a JSON value, which `key` names.
    fn redact_json(&self, key: &str, value: &mut Value);

    /// The same for a text that hardly ever comes twice: nothing is remembered of it.
    fn redact_once<'a>(&self, form: Form, text: &'a str, bytes_max: usize) -> Cow<'a, str> {
        self.redact(form, text, bytes_max)
    }

    /// What becomes of the values that a statement is bound to.
    fn bound_values(&self) -> BoundValues {
        BoundValues::default()
    }

    /// A keyed hash of a value; `None` without a key.
    fn hash(&self, _value: &[u8]) -> Option<[u8; 16]> {
        None
    }
}

/// The record could not be made durable: the disk is full or broken, or the spool is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotDurable;

/// Resolves when the frame is on disk.
pub type Durable = BoxFuture<'static, Result<(), NotDurable>>;

/// Audit: where records go.
pub trait Recorder: Send + Sync {
    /// Reserves room for one record, so that writing it later cannot fail for want of room.
    /// `None` when the spool is full or broken: the road then refuses, or goes on and counts.
    fn reserve(&self) -> Option<Box<dyn Slot>>;

    /// Takes a record that another gateway made. One that can be repeated, and was taken before, is not
    /// written again.
    fn import(&self, imported: ImportedRecord) -> Import {
        match self.reserve() {
            Some(slot) => Import::Taken(slot.complete(imported.into_record())),
            None => Import::NoRoom,
        }
    }

    /// Whether the spool fills faster than it empties: who can wait with what they bring is asked to.
    fn is_crowded(&self) -> bool {
        false
    }

    /// Takes a record for which there was no room: counts it, so that a gap can be recorded.
    fn lost(&self, record: &AccessRecord);
}

/// A reserved place. Dropped unused, it frees its room.
pub trait Slot: Send {
    /// Writes the intent: what will be done, before it is.
    fn intent(&mut self, record: &AccessRecord) -> Durable;

    /// Hands over the finished record. Does not block and does not compute.
    fn complete(self: Box<Self>, record: Box<AccessRecord>) -> Durable;

    /// The same where nobody waits: it may take a little longer to become durable. A `Drop` calls it.
    fn leave(self: Box<Self>, record: Box<AccessRecord>) {
        drop(self.complete(record));
    }
}

/// Sees each finished record; metrics. Cannot fail, cannot steer.
pub trait Observer: Send + Sync {
    /// A call has ended.
    fn completed(&self, record: &AccessRecord);

    /// Another gateway's records were taken in.
    fn imported(&self, _source: &ResourceName, _tally: &ImportTally) {}
}

/// How a resource wants its calls recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum AuditMode {
    /// No durable record, no answer.
    #[default]
    Required,
    /// Without room for a record the call goes on, and the gap is counted and recorded.
    BestEffort,
}

/// What the road's timeouts are; the wire doors use the grace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// How long a session may go on inside its open transaction after it has expired.
    pub session_grace: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { session_grace: Duration::from_secs(30) }
    }
}
