//! The settings that a client may bring in its start-up packet.
//!
//! Invariant: what is not on the list never reaches the backend (CVE-2025-12819 was a start-up parameter that
//! did); encoding and string syntax are those that statements are read in here.

use doorward_core::{Fault, Principal};

use crate::codes;
use crate::pool::Place;
use crate::startup::Startup;

/// Names that are passed on, in lower case.
const PASSED: [&str; 17] = [
    "bytea_output",
    "client_min_messages",
    "datestyle",
    "default_transaction_deferrable",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "extra_float_digits",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "intervalstyle",
    "jit",
    "lock_timeout",
    "search_path",
    "statement_timeout",
    "timezone",
    "transaction_timeout",
    "xmloption",
];
/// Names the resource, where the database cannot.
const RESOURCE: &str = "doorward.resource";
/// How the client wants to prove who it is; the gateway's own setting.
const AUTH: &str = "doorward.auth";
/// Where the client wants to read; the gateway's own setting.
const READS: &str = "doorward.reads";
/// A session that asks for a replica changes nothing, wherever it is.
const READ_ONLY: (&str, &str) = ("default_transaction_read_only", "on");
/// The longest name that PostgreSQL shows.
const NAME_BYTES_MAX: usize = 63;

/// The settings for the backend, without `application_name`.
pub(crate) fn passed(startup: &Startup) -> Result<Vec<(String, String)>, Fault> {
    let mut settings: Vec<(String, String)> = Vec::new();
    let own = startup.parameters.iter().filter(|(name, _)| !is_of_the_connection(name)).cloned();
    let options = startup.parameter("options").map_or(Ok(Vec::new()), options)?;
    for (name, value) in own.chain(options) {
        let name = name.to_ascii_lowercase();
        match name.as_str() {
            // What these say is read elsewhere.
            "application_name" | "replication" | RESOURCE | AUTH | READS => {}
            "client_encoding" if is_utf8(&value) => {}
            "standard_conforming_strings" if value.eq_ignore_ascii_case("on") => {}
            "client_encoding" | "standard_conforming_strings" => {
                return Err(
                    refused(&name).hint("Use client_encoding=UTF8 and standard_conforming_strings=on.")
                );
            }
            name if PASSED.contains(&name) => settings.push((name.to_owned(), value)),
            name => {
                return Err(refused(name).hint(
                    "Leave it out of the connection's parameters, and set it with SET where you may.",
                ));
            }
        }
    }
    Ok(settings)
}

/// Where a client wants to read: `None` when it does not say.
pub(crate) fn reads(startup: &Startup) -> Result<Option<Place>, Fault> {
    match of_gateway(startup, "reads").as_deref() {
        None => Ok(None),
        Some("primary") => Ok(Some(Place::Primary)),
        Some("replicas") => Ok(Some(Place::Replica)),
        Some(_) => Err(refused(READS).hint("It is `primary` or `replicas`.")),
    }
}

/// The settings of a session that reads there.
pub(crate) fn at(place: Place, mut settings: Vec<(String, String)>) -> Vec<(String, String)> {
    if place == Place::Replica {
        let (name, value) = READ_ONLY;
        settings.retain(|(given, _)| given != name);
        settings.push((name.to_owned(), value.to_owned()));
    }
    settings
}

/// The resource that a client asks for: its database, unless `options=-c doorward.resource=…` names another one.
/// Tools of physical replication have no database to name.
pub(crate) fn resource(startup: &Startup) -> Option<String> {
    let options = startup.parameter("options").and_then(|text| options(text).ok()).unwrap_or_default();
    let named = options.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(RESOURCE));
    let database = || startup.parameter("database").or_else(|| startup.parameter("user"));
    named.map(|(_, value)| value).or_else(|| database().map(str::to_owned))
}

/// A setting that the client has for the gateway itself: `doorward.NAME`, as a parameter or among the options.
pub(crate) fn of_gateway(startup: &Startup, name: &str) -> Option<String> {
    let of_options = startup.parameter("options").and_then(|text| options(text).ok()).unwrap_or_default();
    let all = startup.parameters.iter().cloned().chain(of_options);
    let is_it = |given: &str| {
        given.split_once('.').is_some_and(|(prefix, rest)| {
            prefix.eq_ignore_ascii_case("doorward") && rest.eq_ignore_ascii_case(name)
        })
    };
    all.filter(|(given, _)| is_it(given)).map(|(_, value)| value).next_back()
}

fn refused(name: &str) -> Fault {
    let name: String = name.chars().take(NAME_BYTES_MAX).collect();
    Fault::new(codes::UNSUPPORTED, format!("the start-up parameter \"{name}\" is not taken with this value"))
}

fn is_of_the_connection(name: &str) -> bool {
    matches!(name, "user" | "database" | "options")
}

fn is_utf8(value: &str) -> bool {
    ["utf8", "utf-8", "unicode"].iter().any(|known| value.trim_matches('\'').eq_ignore_ascii_case(known))
}

/// `-c name=value` and `--name=value`, separated by spaces; a backslash makes the next character plain.
fn options(text: &str) -> Result<Vec<(String, String)>, Fault> {
    let mut words: Vec<String> = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(next) = chars.next() {
        match next {
            '\\' => word.get_or_insert_default().extend(chars.next()),
            space if space.is_ascii_whitespace() => words.extend(word.take()),
            plain => word.get_or_insert_default().push(plain),
        }
    }
    words.extend(word);
    let mut settings = Vec::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let setting = match word.strip_prefix("--").or_else(|| word.strip_prefix("-c")) {
            Some("") => words.next(),
            Some(setting) => Some(setting.to_owned()),
            None => None,
        };
        let setting = setting.as_deref().and_then(|setting| setting.split_once('='));
        let (name, value) = setting.ok_or_else(|| {
            Fault::new(codes::UNSUPPORTED, "the start-up parameter \"options\" is taken with settings only")
                .hint("Write it as: -c name=value")
        })?;
        settings.push((name.replace('-', "_"), value.to_owned()));
    }
    Ok(settings)
}

/// The name under which the backend's own logs and views show the session: who it belongs to, and what the client
/// calls itself: `doorward: ann@corp.example (psql)`.
pub(crate) fn application_name(principal: &Principal, client: Option<&str>) -> String {
    let who = principal.email.as_ref().unwrap_or(&principal.subject).reveal();
    let plain = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    let mut name: String = format!("doorward: {who}").chars().map(plain).take(NAME_BYTES_MAX).collect();
    let room = NAME_BYTES_MAX.saturating_sub(name.len() + " ()".len());
    if let Some(client) = client.filter(|client| !client.is_empty() && room > 0) {
        // Parentheses are the gateway's.
        let client = client.chars().map(plain).map(|c| if matches!(c, '(' | ')') { '?' } else { c });
        name.push_str(" (");
        name.extend(client.take(room));
        name.push(')');
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn startup(parameters: &[(&str, &str)]) -> Startup {
        let parameters = parameters.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        Startup { parameters, ..Startup::default() }
    }

    #[test]
    fn what_drivers_send_is_passed_on() {
        let jdbc = startup(&[
            ("user", "ann"),
            ("database", "shop"),
            ("client_encoding", "UTF8"),
            ("DateStyle", "ISO"),
            ("TimeZone", "Europe/Berlin"),
            ("extra_float_digits", "2"),
            ("application_name", "x"),
            ("options", "-c search_path=a\\ b --statement-timeout=5s -cjit=off"),
        ]);
        let passed = passed(&jdbc).unwrap();
        let passed: Vec<_> = passed.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(
            passed,
            [
                ("datestyle", "ISO"),
                ("timezone", "Europe/Berlin"),
                ("extra_float_digits", "2"),
                ("search_path", "a b"),
                ("statement_timeout", "5s"),
                ("jit", "off"),
            ]
        );
    }

    #[test]
    fn what_is_not_on_the_list_is_refused() {
        let refused = [
            ("role", "admin"),
            ("session_authorization", "admin"),
            ("client_encoding", "SJIS"),
            ("standard_conforming_strings", "off"),
            ("session_preload_libraries", "x"),
            ("options", "-c role=admin"),
            ("options", "-F"),
            ("options", "-c"),
        ];
        for (name, value) in refused {
            assert!(passed(&startup(&[(name, value)])).is_err(), "{name}={value}");
        }
    }

    #[test]
    fn the_caller_stands_before_what_the_client_calls_itself() {
        let named = |subject: &str, client: Option<&str>| {
            let principal = Principal { subject: subject.into(), ..Principal::public() };
            application_name(&principal, client)
        };
        assert_eq!(named("ann", None), "doorward: ann");
        assert_eq!(named("ann", Some("")), "doorward: ann");
        assert_eq!(named("ann", Some("psql) doorward: bob (")), "doorward: ann (psql? doorward: bob ?)");
        let long = named("ann", Some(&"x".repeat(100)));
        assert!(long.len() == NAME_BYTES_MAX && long.ends_with("x)"), "{long}");
        assert_eq!(named(&"a".repeat(100), Some("psql")).len(), NAME_BYTES_MAX);
    }
}
