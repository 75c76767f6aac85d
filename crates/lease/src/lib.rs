//! Leases: the backend credential for a permitted call.
//!
//! This organ is the only holder of backend secrets. A caller never sees one; a door sees a [`Lease`],
//! which takes a permit to make. In this version each resource has one login, whose secret is read from
//! its reference when the configuration is loaded; the REST door narrows it to the permitted role inside
//! each transaction.
//!
//! Invariants: a secret is read at load, never on the road; a resource without a login lends nothing;
//! nothing here prints a secret.

use std::collections::HashMap;
use std::sync::Arc;

use doorward_core::{BoxFuture, Fault, Lease, LeaseId, Lessor, Login, Permit, ResourceName, Secret};

doorward_core::codes! {
    /// The resource has no backend login.
    NO_LOGIN = "lease.no-login", Lease, Unavailable, Gateway, retry false, "No backend credential";
}

/// The backend logins of one configuration.
#[derive(Debug, Default)]
pub struct Logins(HashMap<ResourceName, Held>);

/// One login, and the id under which records name it. A new configuration lends under new ids, so that
/// a rotated secret shows in the timeline.
#[derive(Debug)]
struct Held {
    id: LeaseId,
    login: Arc<Login>,
}

impl Logins {
    /// Takes in a resource's login. The returned handle is for the resource's connection pool.
    pub fn hold(&mut self, resource: ResourceName, user: &str, password: Secret) -> Arc<Login> {
        let login = Arc::new(Login { user: user.into(), password });
        self.0.insert(resource, Held { id: LeaseId::fresh(), login: login.clone() });
        login
    }
}

impl Lessor for Logins {
    fn lend<'a>(&'a self, permit: &'a Permit) -> BoxFuture<'a, Result<Lease, Fault>> {
        let lease = self.lease(permit);
        Box::pin(std::future::ready(lease))
    }
}

impl Logins {
    fn lease(&self, permit: &Permit) -> Result<Lease, Fault> {
        let held = permit.actions().resource().and_then(|resource| self.0.get(resource));
        let held = held.ok_or_else(|| {
            Fault::new(NO_LOGIN, "the gateway holds no credential for this resource's backend")
                .hint("The gateway's operator adds `login:` to the resource.")
        })?;
        Ok(Lease::new(permit, held.id, Some(held.login.clone())))
    }
}
