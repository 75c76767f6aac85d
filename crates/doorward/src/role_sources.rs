//! The sources of logins for roles that the gateway is itself: what `managed` and its like under `roles` say.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use doorward_core::Timestamp;
use doorward_lease::{Certificates, Keeper, ManagedLogins, authority_facts};
use doorward_pgclient::{RolesSource, Target};
use doorward_settings::{Problem, Problems, Spanned};

use crate::clouds;
use crate::config::{Config, ResourceEntry};
use crate::wiring::{Makers, blocking};

/// How long before an authority's end its operator is warned of it.
const END_NEAR: Duration = Duration::from_secs(30 * 24 * 3600);

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

/// What is wrong with authorities that sign certificates for roles, or will soon be. One whose certificate cannot be read
/// here may be readable where the gateway runs.
pub(crate) fn advice(config: &Config) -> Vec<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let of_resource = |entry: &ResourceEntry| {
        let source = (entry.door.logins)(&entry.node).ok()?.roles.source?.into_inner();
        let RolesSource::Certificates(config) = source else { return None };
        let certificate = config.ca.read().ok()?;
        let said = of_authority(certificate.expose(), now)?;
        Some(format!("resources.{}.roles.certificates.ca: {said}", entry.name))
    };
    config.resources.iter().filter_map(of_resource).collect()
}

fn of_authority(certificate: &str, now: Duration) -> Option<String> {
    let facts = match authority_facts(certificate) {
        Ok(facts) => facts,
        Err(error) => return Some(error.to_string()),
    };
    let left = Duration::from_secs(u64::try_from(facts.good.1).unwrap_or(0)).saturating_sub(now);
    let when = doorward_audit::time::rfc3339(Timestamp::from_seconds(facts.good.1));
    if left.is_zero() {
        return Some(format!(
            "the authority's certificate has ended ({when}), and roles cannot log in; `doorward ca rotate`"
        ));
    }
    (left < END_NEAR).then(|| format!("the authority's certificate ends soon ({when}); `doorward ca rotate`"))
}

#[cfg(test)]
mod tests {
    use doorward_lease::new_authority;

    use super::*;

    #[test]
    fn an_authority_s_end_is_told_before_it_comes() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        for (days, told) in [(0, Some("has ended")), (29, Some("ends soon")), (31, None)] {
            let said = of_authority(&new_authority("test", days).unwrap().certificate, now);
            assert_eq!(said.is_some(), told.is_some(), "{days}: {said:?}");
            assert!(told.is_none_or(|told| said.is_some_and(|said| said.contains(told))), "{days}");
        }
        assert!(of_authority("no certificate", now).is_some_and(|said| said.contains("cannot be read")));
    }
}
