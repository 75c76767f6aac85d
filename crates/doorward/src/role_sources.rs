//! The sources of logins for roles that the gateway is itself: what `managed` and its like under `roles` say.

use std::sync::Arc;

use doorward_lease::{Certificates, Keeper, ManagedLogins};
use doorward_pgclient::{RolesSource, Target};
use doorward_settings::{Problem, Problems, Spanned};

use crate::clouds;
use crate::config::ResourceEntry;
use crate::wiring::{Makers, blocking};

/// The keeper of what this source issues; the one that there is, when nothing of the source has changed.
pub(crate) async fn keeper(
    makers: Makers<'_>,
    entry: &ResourceEntry,
    target: &Target,
    dangerous_superuser: bool,
    source: Spanned<RolesSource>,
) -> Result<Arc<Keeper>, Problems> {
    match source.into_inner() {
        RolesSource::Managed(config) => {
            let reference = config.admin.password.clone();
            let password = blocking(move || reference.read()).await??;
            let password_id = ManagedLogins::password_id(&password);
            let identity = format!("managed {target} {} {password_id}", entry.node.fingerprint());
            Ok(makers.keepers.keeper(&identity, &entry.name, || {
                Arc::new(ManagedLogins::start(target.clone(), config, password, dangerous_superuser))
            }))
        }
        RolesSource::Certificates(config) => {
            let references = (config.ca.clone(), config.key.clone());
            let (ca, key) =
                blocking(move || Ok::<_, Problem>((references.0.read()?, references.1.read()?))).await??;
            let certificates = Certificates::new(ca.expose(), &key, &config)
                .map_err(|error| config.ca.problem(error.to_string()))?;
            let (ca, key) = (ManagedLogins::password_id(&ca), ManagedLogins::password_id(&key));
            let identity = format!("certificates {target} {} {ca} {key}", entry.node.fingerprint());
            Ok(makers.keepers.keeper(&identity, &entry.name, || Arc::new(certificates)))
        }
        RolesSource::Cloud(config) => clouds::keeper(makers, entry, target, config, None).await,
    }
}
