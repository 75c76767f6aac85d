use http::{HeaderMap, HeaderName, HeaderValue};

use super::*;
use crate::config::{Limits, Network};

fn headers(fields: &[(&str, &str)]) -> HeaderMap {
    let field = |(name, value): &(&str, &str)| {
        (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap())
    };
    fields.iter().map(field).collect()
}

#[test]
fn nothing_that_passes_for_identity_is_let_in() {
    let names = "X-Forwarded-User X-Forwarded-For Forwarded X-Remote-User Remote-User X-Auth-Request-Email \
                 X-Amzn-Oidc-Identity X-Goog-Authenticated-User-Email Cf-Access-Jwt-Assertion X-User-Id \
                 X-Doorward-Subject X-Authenticated-Groups X_User REMOTE_USER X-Sub X-Groups X-Real-IP \
                 Proxy-Authorization Keep-Alive TE Upgrade";
    for name in names.split_whitespace() {
        let mut fields = headers(&[(name, "root"), ("accept", "*/*")]);
        strip(&mut fields);
        assert_eq!(fields.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["accept"], "{name}");
    }
}

#[test]
fn one_credential_is_read_and_none_is_left() {
    let shown = |fields: &[(&str, &str)], query: Option<&str>| {
        let mut fields = headers(fields);
        let credentials = take_credentials(&mut fields, query, None);
        assert!(fields.is_empty(), "{fields:?}");
        match credentials {
            Credentials::Bearer(secret) => secret.expose().to_string(),
            Credentials::Malformed(_) => "malformed".to_owned(),
            other => format!("{other:?}"),
        }
    };
    type Fields<'a> = &'a [(&'a str, &'a str)];
    let cases: [(Fields<'_>, Option<&str>, &str); 12] = [
        (&[], Some("select=*"), "None"),
        (&[("authorization", "Bearer a.b-c")], None, "a.b-c"),
        (&[("authorization", "bearer  t")], None, "t"),
        (&[("authorization", "Bearer a"), ("apikey", "b")], None, "a"),
        (&[("apikey", "k")], None, "k"),
        (&[("x-api-key", "k"), ("apikey", "k")], None, "k"),
        (&[("x-api-key", "k"), ("apikey", "l")], None, "malformed"),
        (&[("authorization", "Bearer a"), ("authorization", "Bearer a")], None, "malformed"),
        (&[("authorization", "Bearer ")], None, "malformed"),
        (&[("authorization", "Bearer a b")], None, "malformed"),
        (&[("authorization", "Basic YTpi")], None, "malformed"),
        (&[("authorization", "Bearer a")], Some("x=1&ACCESS_TOKEN=t"), "malformed"),
    ];
    for (fields, query, expected) in cases {
        assert_eq!(shown(fields, query), expected, "{fields:?} {query:?}");
    }
}

#[test]
fn trace_context_is_read_strictly() {
    let read = |text: &str| traceparent(&headers(&[("traceparent", text)])).map(|parent| parent.sampled);
    let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    assert_eq!(read(&format!("00-{trace}-{span}-01")), Some(true));
    assert_eq!(read(&format!("00-{trace}-{span}-00")), Some(false));
    assert_eq!(read(&format!("cc-{trace}-{span}-01-later")), Some(true));
    for text in [
        format!("00-{trace}-{span}-01-more"),
        format!("ff-{trace}-{span}-01"),
        format!("00-{}-{span}-01", trace.to_uppercase()),
        format!("00-{}-{span}-01", "0".repeat(32)),
        format!("00-{trace}-{}-01", "0".repeat(16)),
        format!("00-{trace}-{span}"),
        format!("00-{trace}{span}-01"),
        String::new(),
    ] {
        assert_eq!(read(&text), None, "{text}");
    }
    let twice = format!("00-{trace}-{span}-01");
    assert_eq!(traceparent(&headers(&[("traceparent", &twice), ("traceparent", &twice)])), None);
}

#[test]
fn the_client_is_the_nearest_untrusted_hop() {
    let limits = Limits { trusted_proxies: vec![Network::parse("10.0.0.0/8").unwrap()], ..Limits::default() };
    let cases = [
        ("192.0.2.1", "203.0.113.9", "192.0.2.1"),
        ("10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "6.6.6.6, 203.0.113.9, 10.1.1.1", "203.0.113.9"),
        ("10.0.0.1", "6.6.6.6, junk", "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
    ];
    for (peer, forwarded, expected) in cases {
        let fields = headers(&[("x-forwarded-for", forwarded)]);
        let client = source_ip(&fields, peer.parse().ok(), &limits);
        assert_eq!(client, expected.parse().ok(), "{peer} {forwarded}");
    }
}

#[test]
fn networks_are_read_and_compared() {
    for (network, address, inside) in [
        ("10.0.0.0/8", "10.255.0.1", true),
        ("10.0.0.0/8", "11.0.0.1", false),
        ("0.0.0.0/0", "203.0.113.9", true),
        ("192.0.2.7", "192.0.2.7", true),
        ("fd00::/8", "fd12::1", true),
        ("fd00::/8", "fe80::1", false),
        ("::/0", "2001:db8::1", true),
    ] {
        let network = Network::parse(network).unwrap();
        assert_eq!(network.contains(address.parse().unwrap()), inside, "{network:?} {address}");
    }
    for text in ["", "10.0.0.0/33", "10.0.0.0/+8", "10.0.0/8", "host"] {
        assert_eq!(Network::parse(text), None, "{text}");
    }
}
