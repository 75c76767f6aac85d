//! Which URLs the gateway is willing to fetch from (server-side request forgery).

use std::net::IpAddr;

use http::Uri;

/// What matters of a URL that was found acceptable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vetted {
    /// Whether its host is this machine.
    pub(crate) loopback: bool,
}

/// Accepts `https`, and `http` on this machine or where plaintext is allowed.
pub(crate) fn vet(text: &str, plaintext: bool) -> Result<Vetted, &'static str> {
    if text.contains(['#', '\\']) || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err("is not a plain URL without a fragment");
    }
    let uri: Uri = text.parse().map_err(|_| "is not a URL")?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err("is not an absolute URL");
    };
    if authority.as_str().contains('@') {
        return Err("has a user name in it");
    }
    if authority.host().is_empty() {
        return Err("has no host");
    }
    let loopback = loopback(authority.host());
    match scheme {
        "https" => Ok(Vetted { loopback }),
        "http" if loopback || plaintext => Ok(Vetted { loopback }),
        "http" => {
            Err("is http, and only https is safe on another machine (or set dangerous_plaintext: true)")
        }
        _ => Err("is neither https nor http"),
    }
}

/// Accepts a URL that an issuer's metadata names. Metadata from elsewhere must not turn the gateway
/// against its own machine, or against the address at which clouds serve credentials.
pub(crate) fn vet_from_metadata(text: &str, plaintext: bool, issuer: Vetted) -> Result<(), &'static str> {
    let named = vet(text, plaintext)?;
    if issuer.loopback {
        return Ok(());
    }
    let host = text.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned)).unwrap_or_default();
    if named.loopback || ip(&host).is_some_and(|ip| local(&ip)) {
        return Err("is an address of this machine or link, and the issuer is not");
    }
    Ok(())
}

fn loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || ip(host).is_some_and(|ip| ip.is_loopback())
}

fn local(ip: &IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local() || ip.is_unspecified(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unspecified(),
    }
}

fn ip(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_vetted() {
        for (url, accepted) in [
            ("https://idp.example/realms/a", true),
            ("https://idp.example:8443", true),
            ("http://127.0.0.1:9000", true),
            ("http://[::1]:9000/x", true),
            ("http://localhost:9000", true),
            ("http://idp.example", false),
            ("http://127.0.0.1.evil.example", false),
            ("http://user@127.0.0.1", false),
            ("https://good.example@evil.example/", false),
            ("ftp://idp.example", false),
            ("file:///etc/passwd", false),
            ("https://idp.example/#x", false),
            ("https://idp.example/ x", false),
            ("idp.example", false),
            ("/jwks", false),
            ("", false),
        ] {
            assert_eq!(vet(url, false).is_ok(), accepted, "{url}");
        }
        assert!(vet("http://idp.example", true).is_ok());
    }

    #[test]
    fn metadata_cannot_point_home() {
        let remote = vet("https://idp.example", false).unwrap();
        let home = vet("http://127.0.0.1:9000", false).unwrap();
        for (url, from_remote, from_home) in [
            ("https://keys.example/jwks", true, true),
            ("http://127.0.0.1:9090/jwks", false, true),
            ("https://localhost/jwks", false, true),
            ("https://169.254.169.254/latest", false, true),
            ("https://[::ffff:169.254.169.254]/latest", false, true),
            ("https://0.0.0.0/", false, true),
            ("http://keys.example/jwks", false, false),
        ] {
            assert_eq!(vet_from_metadata(url, false, remote).is_ok(), from_remote, "{url}");
            assert_eq!(vet_from_metadata(url, false, home).is_ok(), from_home, "{url}");
        }
    }
}
