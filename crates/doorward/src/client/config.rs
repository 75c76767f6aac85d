//! What a client's machine knows of its issuer and its gateway. `doorward login` writes it.

use std::path::PathBuf;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

/// What is asked for unless something else is: who somebody is, and a refresh token.
const SCOPE: &str = "openid offline_access";
/// The port of a gateway whose address names none.
const POSTGRES_PORT: u16 = 6432;

/// One issuer and one gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Profile {
    /// The issuer's identifier: its metadata is found under it.
    pub(crate) issuer: String,
    /// The public OAuth client that people log in with.
    pub(crate) client_id: String,
    /// The scope that is asked for.
    pub(crate) scope: String,
    /// The audience that is asked for, where the issuer wants to be told (Auth0, Keycloak).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) audience: Option<String>,
    /// The resource indicator that is asked for (RFC 8707).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) resource_indicator: Option<String>,
    /// Whether the gateway wants ID tokens (`token_type: id` at its issuer).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) id_token: bool,
    /// The gateway's URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gateway: Option<String>,
    /// The gateway's Postgres door: `HOST:PORT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) postgres: Option<String>,
    /// Certificate authorities to believe beside the system's, PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<PathBuf>,
}

/// What the command line says of it.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct ProfileArgs {
    /// The issuer's URL, exactly as its tokens' `iss` spells it.
    #[arg(long, env = "DOORWARD_ISSUER")]
    issuer: Option<String>,
    /// The public OAuth client at the issuer.
    #[arg(long, env = "DOORWARD_CLIENT_ID")]
    client_id: Option<String>,
    /// The scope to ask for.
    #[arg(long)]
    scope: Option<String>,
    /// The audience to ask for, where the issuer wants to be told.
    #[arg(long)]
    audience: Option<String>,
    /// The resource indicator to ask for (RFC 8707).
    #[arg(long)]
    resource_indicator: Option<String>,
    /// Show ID tokens to the gateway, in place of access tokens.
    #[arg(long)]
    id_token: bool,
    /// The gateway's URL: https://gateway.internal:8080.
    #[arg(long, env = "DOORWARD_GATEWAY")]
    gateway: Option<String>,
    /// The gateway's Postgres door: HOST or HOST:PORT. The gateway's host and port 6432 unless told otherwise.
    #[arg(long, env = "DOORWARD_POSTGRES")]
    postgres: Option<String>,
    /// Certificate authorities to believe beside the system's: a PEM file.
    #[arg(long, env = "DOORWARD_CA")]
    ca: Option<PathBuf>,
}

impl ProfileArgs {
    /// The profile that was kept, with what the command line says laid over it.
    pub(crate) fn over(&self, kept: Option<Profile>) -> anyhow::Result<Profile> {
        let kept = kept.as_ref();
        let required = |given: &Option<String>, kept: Option<&String>, option: &str| {
            given.clone().or(kept.cloned()).with_context(|| format!("{option} is needed the first time"))
        };
        let optional = |given: &Option<String>, kept: Option<&String>| given.clone().or(kept.cloned());
        let issuer = required(&self.issuer, kept.map(|kept| &kept.issuer), "--issuer")?;
        let ca = match &self.ca {
            Some(path) => Some(path.canonicalize().with_context(|| path.display().to_string())?),
            None => kept.and_then(|kept| kept.ca.clone()),
        };
        let profile = Profile {
            client_id: required(&self.client_id, kept.map(|kept| &kept.client_id), "--client-id")?,
            scope: optional(&self.scope, kept.map(|kept| &kept.scope)).unwrap_or_else(|| SCOPE.to_owned()),
            audience: optional(&self.audience, kept.and_then(|kept| kept.audience.as_ref())),
            resource_indicator: optional(
                &self.resource_indicator,
                kept.and_then(|kept| kept.resource_indicator.as_ref()),
            ),
            id_token: self.id_token || kept.is_some_and(|kept| kept.id_token),
            gateway: optional(&self.gateway, kept.and_then(|kept| kept.gateway.as_ref())),
            postgres: optional(&self.postgres, kept.and_then(|kept| kept.postgres.as_ref())),
            issuer,
            ca,
        };
        for url in [Some(&profile.issuer), profile.gateway.as_ref()].into_iter().flatten() {
            ensure!(url.starts_with("https://") || url.starts_with("http://"), "{url} is no URL");
        }
        if profile.postgres.is_some() {
            profile.postgres_address()?;
        }
        Ok(profile)
    }
}

impl Profile {
    /// The host and port of the Postgres door.
    pub(crate) fn postgres_address(&self) -> anyhow::Result<(String, u16)> {
        if let Some(address) = &self.postgres {
            return split(address).with_context(|| format!("{address} is not HOST or HOST:PORT"));
        }
        let gateway = self
            .gateway
            .as_deref()
            .context("where the Postgres door is, is not known: log in with --postgres")?;
        let uri: http::Uri = gateway.parse()?;
        let host = uri.host().context("the gateway's URL has no host")?;
        Ok((host.trim_matches(['[', ']']).to_owned(), POSTGRES_PORT))
    }
}

fn split(address: &str) -> Option<(String, u16)> {
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            (host, port.strip_prefix(':'))
        }
        None => address.rsplit_once(':').map_or((address, None), |(host, port)| (host, Some(port))),
    };
    let port = port.map_or(Some(POSTGRES_PORT), |port| port.parse().ok().filter(|port| *port > 0))?;
    let plain = !host.is_empty() && !host.chars().any(|c| c.is_whitespace() || c.is_control() || c == '/');
    plain.then(|| (host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, expected) in [
            ("gw.internal", Some(("gw.internal", 6432))),
            ("gw.internal:5432", Some(("gw.internal", 5432))),
            ("[::1]:5432", Some(("::1", 5432))),
            ("[::1]", Some(("::1", 6432))),
            ("gw:0", None),
            ("gw:x", None),
            (":5432", None),
            ("a b:1", None),
        ] {
            assert_eq!(split(text), expected.map(|(host, port)| (host.to_owned(), port)), "{text}");
        }
    }

    #[test]
    fn what_was_kept_stays_unless_it_is_said_anew() {
        let first = ProfileArgs {
            issuer: Some("https://idp.example".to_owned()),
            client_id: Some("cli".to_owned()),
            gateway: Some("https://[::1]:8443".to_owned()),
            ..ProfileArgs::default()
        };
        assert!(ProfileArgs::default().over(None).unwrap_err().to_string().contains("--issuer"));
        let profile = first.over(None).unwrap();
        assert_eq!(profile.scope, "openid offline_access");
        assert_eq!(profile.postgres_address().unwrap(), ("::1".to_owned(), 6432));
        let again =
            ProfileArgs { postgres: Some("db:1".to_owned()), id_token: true, ..ProfileArgs::default() };
        let changed = again.over(Some(profile.clone())).unwrap();
        assert_eq!(changed, Profile { postgres: Some("db:1".to_owned()), id_token: true, ..profile });
        let wrong = ProfileArgs { gateway: Some("gw.internal".to_owned()), ..first };
        assert!(wrong.over(None).unwrap_err().to_string().contains("is no URL"));
    }
}
