//! Leases: the backend credential for a permitted call.
//!
//! This organ is the only holder of backend secrets. A caller never sees one; a door sees a [`Lease`],
//! which takes a permit to make. Each resource has one login, which the REST door narrows to the permitted
//! role inside each transaction, and a login for each role that wire sessions may have: those are logged in
//! as the role itself. Secrets are read from their references when the configuration is loaded.
//!
//! Invariants: a secret is read at load, never on the road; a resource without a login lends nothing;
//! nothing here prints a secret.

use std::collections::HashMap;
use std::sync::Arc;

use doorward_core::{
    BoxFuture, Fault, Lease, LeaseId, Lessor, Login, Permit, ResourceName, RoleName, Secret,
};

doorward_core::codes! {
    /// The resource has no backend login.
    NO_LOGIN = "lease.no-login", Lease, Unavailable, Gateway, retry false, "No backend credential";
    /// The resource has no login for the role of a wire session.
    NO_ROLE_LOGIN = "lease.no-role-login", Lease, Unavailable, Gateway, retry false, "No backend credential for the role";
}

/// The backend logins of one configuration.
#[derive(Debug, Default)]
pub struct Logins {
    by_resource: HashMap<ResourceName, Held>,
    by_role: HashMap<(ResourceName, RoleName), Held>,
}

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
        self.by_resource.insert(resource, Held { id: LeaseId::fresh(), login: login.clone() });
        login
    }

    /// Takes in the login of a role, for wire sessions of that role.
    pub fn hold_role(&mut self, resource: ResourceName, role: &str, password: Secret) {
        let login = Arc::new(Login { user: role.into(), password });
        let role = RoleName::new(role);
        self.by_role.insert((resource, role), Held { id: LeaseId::fresh(), login });
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
        let resource = permit.actions().resource();
        if let Some(role) = permit.session_role() {
            let held = resource.and_then(|resource| self.by_role.get(&(resource.clone(), role.clone())));
            let held = held.ok_or_else(|| {
                Fault::new(NO_ROLE_LOGIN, format!("the gateway cannot log in to this resource as {role}"))
                    .hint(format!("The gateway's operator adds `{role}` to the resource's `roles:`."))
            })?;
            return Ok(Lease::new(permit, held.id, Some(held.login.clone())));
        }
        let held = resource.and_then(|resource| self.by_resource.get(resource));
        let held = held.ok_or_else(|| {
            Fault::new(NO_LOGIN, "the gateway holds no credential for this resource's backend")
                .hint("The gateway's operator adds `login:` to the resource.")
        })?;
        Ok(Lease::new(permit, held.id, Some(held.login.clone())))
    }
}
