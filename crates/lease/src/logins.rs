//! Which resource has which login, and each of its roles; the organ as the road sees it.

use std::sync::Arc;

use doorward_core::hash::FixedMap;
use doorward_core::{
    BoxFuture, Fault, Lease, LeaseId, Lessor, Login, OwnLogin, Permit, Principal, ResourceName, RoleName,
    Secret,
};

use crate::keeper::Keeper;
use crate::{NO_LOGIN, NO_ROLE_LOGIN};

/// The backend logins of one configuration.
#[derive(Debug, Default)]
pub struct Logins {
    by_resource: FixedMap<ResourceName, Backend>,
}

#[derive(Debug, Default)]
struct Backend {
    own: Option<Held>,
    roles: FixedMap<RoleName, Held>,
    /// Has a login for each role that is not named.
    other_roles: Option<Arc<Keeper>>,
}

#[derive(Debug)]
enum Held {
    /// There is no backend to log in to; records name the lease all the same.
    Nothing(LeaseId),
    /// One login for as long as the configuration stands, and the id under which records name it. A new
    /// configuration lends under new ids, so that a rotated secret shows in the timeline.
    Fixed(LeaseId, Arc<Login>),
    /// Whatever a source has issued.
    Kept(Arc<Keeper>),
}

impl Logins {
    /// Takes in a resource that has no backend.
    pub fn hold_nothing(&mut self, resource: ResourceName) {
        self.backend(resource).own = Some(Held::Nothing(LeaseId::fresh()));
    }

    /// Takes in a resource's login. The returned handle is for the resource's connection pool.
    pub fn hold(&mut self, resource: ResourceName, user: &str, password: Secret) -> OwnLogin {
        let login = Arc::new(Login::new(user, password));
        self.backend(resource).own = Some(Held::Fixed(LeaseId::fresh(), login.clone()));
        OwnLogin::Fixed(login)
    }

    /// Takes in a source of a resource's login.
    pub fn keep(&mut self, resource: ResourceName, keeper: Arc<Keeper>) -> OwnLogin {
        self.backend(resource).own = Some(Held::Kept(keeper.clone()));
        OwnLogin::Lent(keeper)
    }

    /// Takes in the login of a role, for wire sessions of that role.
    pub fn hold_role(&mut self, resource: ResourceName, role: &str, password: Secret) {
        let login = Arc::new(Login::new(role, password));
        self.backend(resource).roles.insert(RoleName::new(role), Held::Fixed(LeaseId::fresh(), login));
    }

    /// Takes in a source of a role's logins.
    pub fn keep_role(&mut self, resource: ResourceName, role: &str, keeper: Arc<Keeper>) {
        self.backend(resource).roles.insert(RoleName::new(role), Held::Kept(keeper));
    }

    /// Takes in a source of the logins of all roles of a resource that have nothing of their own.
    pub fn keep_roles(&mut self, resource: ResourceName, keeper: Arc<Keeper>) {
        self.backend(resource).other_roles = Some(keeper);
    }

    /// Why a resource's backend cannot be logged in to now, for readiness; `None` when nothing is known to be wrong.
    pub fn trouble(&self, resource: &ResourceName) -> Option<String> {
        let backend = self.by_resource.get(resource)?;
        let held = backend.own.iter().chain(backend.roles.values());
        let kept = held.filter_map(|held| match held {
            Held::Kept(keeper) => Some(keeper),
            Held::Fixed(..) | Held::Nothing(_) => None,
        });
        kept.chain(&backend.other_roles).find_map(|keeper| keeper.trouble())
    }

    /// Asks the source of a role's logins for one, for nobody: whether it would. `None` when the role has no source.
    pub async fn probe(&self, resource: &ResourceName, role: &RoleName) -> Option<Result<(), Fault>> {
        let backend = self.by_resource.get(resource)?;
        let keeper = match backend.roles.get(role) {
            Some(Held::Kept(keeper)) => keeper,
            Some(Held::Fixed(..) | Held::Nothing(_)) => return None,
            None => backend.other_roles.as_ref()?,
        };
        if keeper.is_per_principal() {
            return None;
        }
        Some(keeper.lend(Some(role), &Arc::new(Principal::public())).await.map(drop))
    }

    fn backend(&mut self, resource: ResourceName) -> &mut Backend {
        self.by_resource.entry(resource).or_default()
    }

    async fn lease(&self, permit: &Permit) -> Result<Lease, Fault> {
        let backend = permit.actions().resource().and_then(|resource| self.by_resource.get(resource));
        let Some(role) = permit.session_role() else {
            let own = backend.and_then(|backend| backend.own.as_ref());
            let own = own.ok_or_else(|| {
                Fault::new(NO_LOGIN, "the gateway holds no credential for this resource's backend")
                    .hint("The gateway's operator adds `login:` to the resource.")
            })?;
            return own.lend(permit, None).await;
        };
        let held = backend.and_then(|backend| backend.roles.get(role));
        if let Some(held) = held {
            return held.lend(permit, Some(role)).await;
        }
        let keeper = backend.and_then(|backend| backend.other_roles.as_ref()).ok_or_else(|| {
            Fault::new(NO_ROLE_LOGIN, format!("the gateway cannot log in to this resource as {role}"))
                .hint(format!("The gateway's operator adds `{role}` to the resource's `roles:`."))
        })?;
        kept(keeper, permit, Some(role)).await
    }
}

impl Held {
    async fn lend(&self, permit: &Permit, role: Option<&RoleName>) -> Result<Lease, Fault> {
        match self {
            Self::Nothing(id) => Ok(Lease::new(permit, *id, None)),
            Self::Fixed(id, login) => Ok(Lease::new(permit, *id, Some(login.clone()))),
            Self::Kept(keeper) => kept(keeper, permit, role).await,
        }
    }
}

async fn kept(keeper: &Keeper, permit: &Permit, role: Option<&RoleName>) -> Result<Lease, Fault> {
    let (id, login) = keeper.lend(role, permit.principal()).await?;
    Ok(Lease::new(permit, id, Some(login)))
}

impl Lessor for Logins {
    fn lend<'a>(&'a self, permit: &'a Permit) -> BoxFuture<'a, Result<Lease, Fault>> {
        Box::pin(self.lease(permit))
    }
}
