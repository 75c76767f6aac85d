//! Doorward's vocabulary and its main road. Read this crate first, and `road.rs` before the rest.
//!
//! Constraints: no I/O, no async runtime, nothing serialized on the road. The organs (identity, policy,
//! lease, audit) implement the traits of [`organs`]; the doors implement [`Call`]; the binary joins
//! them. What must not happen is kept from happening by types:
//!
//! - no backend without a [`Permit`]: a [`Lease`] is made of one, backend pools ask for a [`Pass`], and
//!   only the road makes a pass;
//! - no answer without a record: an [`Answered`] is made only of an [`Access`] that has been completed,
//!   or that lives on in the answer; an access that is dropped is recorded.

mod access;
mod action;
pub mod blind;
pub mod calendar;
pub mod codes;
mod fault;
pub mod hash;
mod hex;
mod import;
mod login;
mod minted;
mod name;
pub mod organs;
mod permit;
mod principal;
mod record;
pub mod rfc3339;
mod road;
mod secret;
mod session;
mod snapshot;
mod time;

pub use access::{Access, Answered, Completion, Pass};
pub use action::{Action, Actions, Object, SESSION_OBJECTS, Verb, encode_segment};
pub use fault::{Code, Fault, Kind, Side};
pub use hex::{hex, unhex};
pub use import::{
    Claimed, ClaimedCaller, ClaimedFault, ClaimedText, IMPORT_ISSUER_PREFIX, Import, ImportTally,
    ImportedRecord, Importer, RECORDS,
};
pub use login::{ClientIdentity, Login, LoginSource, Membership, OwnLogin, Proof};
pub use minted::{LoginWish, MintedLogin, MintedProof, NewLogin};
pub use name::{AccessId, ConfigDigest, GrantName, IssuerName, LeaseId, ResourceName, RoleName};
pub use organs::{
    AuditMode, Authenticator, BoundValues, BoxFuture, Deadlines, Durable, Form, Lessor, NotDurable, Observer,
    Policy, Recorder, Redactor, Slot, no_logins,
};
pub use permit::{Allowance, Case, Decision, Lease, Obligations, Permit, SessionGrant};
pub use principal::{Actor, Arrival, AuthMethod, ClientCertificate, Credentials, Principal, PrincipalKind};
pub use record::{
    AccessRecord, FaultRecord, OBJECT_BYTES_MAX, OPERATION_BYTES_MAX, Origin, Outcome, Stage, TEXT_BYTES_MAX,
    TaskRef, Timings, TraceContext, TraceParent, USER_AGENT_BYTES_MAX,
};
pub use road::{Call, Caller, Gateway, Refusal, Shaped, unknown_resource};
pub use secret::{Personal, Secret};
pub use session::{Session, Standing};
pub use snapshot::{Resource, Snapshot};
pub use time::{Clock, SystemClock, Timestamp};
