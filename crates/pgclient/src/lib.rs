//! A PostgreSQL client for the gateway: one request is one write, one Sync and one transaction.
//!
//! The rest and mcp doors and the store run statements of the gateway's own making through a [`Pool`]:
//! role, claims and settings travel with the statement, end with it, and nothing of one call is seen by
//! the next. The rule:
//!
//! - every request begins with `RESET ALL` and releases session-level advisory locks, then sets role,
//!   claims and limits for its transaction alone;
//! - a request that may change something, or calls a function that the caller named, is followed by
//!   `DISCARD ALL` before the connection is lent again.
//!
//! What is trusted: the owners of views, policies and their functions. Code that runs inside a plain
//! read can leave a temporary table or a prepared statement behind until the connection is discarded.
//!
//! Invariants: no connection is lent without a [`doorward_core::Pass`]; the role is the lease's; each
//! buffer, wait and cache has a bound; a statement whose caller is gone is cancelled.
//!
//! Threads that may block have a client of their own, [`blocking::Client`]: the store, key stores and the
//! command line, whose statements and login are the gateway's.
//!
//! Absences: no SQL is written here but for settings, signed claims, the login check and the catalogue; no value is
//! ever put into SQL text; COPY and the simple protocol are not spoken for callers of a door.

mod ask;
pub mod blocking;
pub mod catalog;
pub mod claims;
mod cloud;
pub mod codes;
mod config;
mod conn;
mod encoded;
mod error;
mod frames;
mod handshake;
mod hosts;
mod login;
mod logins;
mod membership;
mod pool;
mod relay;
mod replicas;
mod request;
mod room;
mod share;
mod sources;
mod statements;
mod stream;
mod target;

pub use catalog::{Catalog, CatalogStatus, CatalogWatch, Watch};
pub use claims::{Badge, ClaimsConfig, SessionClaims};
pub use cloud::{
    AwsRdsConfig, AzureCloud, AzureEntraConfig, CloudConfig, CloudProblem, GcpCloudSqlConfig, Impersonate,
    is_account,
};
pub use config::{CatalogConfig, PoolClean, PoolConfig, PoolMode, ReplicasConfig, Serve};
pub use error::{RunError, ServerError};
pub use frames::{Field, HEADER, Head, Malformed, affected, head, parameter, read_all, ready, server_error};
pub use hosts::Server;
pub use login::LoginFacts;
pub use logins::{LoginConfig, RoleConfig, RolesConfig, VaultRole};
pub use pool::{Pool, PoolSettings, PoolStats};
pub use relay::{Canceller, Connector, Relayed, lost};
pub use replicas::{Replicas, Standing};
pub use request::{Reply, Request, Row, SETTINGS_MAX};
pub use room::{Claimed, Counts, Grant, Idle, InLine, Room, Seat, Seated, Tenant};
pub use sources::{AdminConfig, CertificatesConfig, ManagedConfig, Per, RolesSource};
pub use stream::Stream;
pub use target::{Endpoint, HOSTS_MAX, SslMode, Target, TargetError};
