//! The servers of one database, and what is known of each: which is the primary, and which cannot be reached.
//!
//! What a server is, it says itself when somebody logs in (`in_hot_standby`, or `pg_is_in_recovery()`). So a replica that
//! becomes the primary is found by whoever connects next, and nothing has to be configured or reloaded.
//!
//! Invariants: what is known decides in which order servers are tried, and which connections are used again; it never
//! keeps a server from being tried. A server that does not answer takes a part of the time for connecting once, and comes
//! last from then on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::target::Target;

/// How long a server that could not be reached comes last: the first and the longest time.
const AWAY_MIN: Duration = Duration::from_secs(1);
const AWAY_MAX: Duration = Duration::from_secs(30);
/// The least that one of several servers is given to answer.
const HOST_SPAN_MIN: Duration = Duration::from_secs(1);

/// What a server is, as it says itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// It takes changes.
    Primary,
    /// It is in recovery, and takes none.
    Replica,
}

/// Which server is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The primary, and no other.
    Primary,
    /// The primary; a replica while there is none.
    PrimaryFirst,
    /// The one at this place, whatever it is.
    Host(usize),
}

/// The servers of a database.
#[derive(Debug)]
pub(crate) struct Hosts {
    names: Box<[Box<str>]>,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    /// The one that was the primary when somebody last logged in there.
    primary: Option<usize>,
    hosts: Vec<Host>,
}

#[derive(Clone, Debug, Default)]
struct Host {
    part: Option<Part>,
    failures: u32,
    away_until: Option<Instant>,
}

/// One of the servers of a database.
#[derive(Clone, Debug)]
pub struct Server {
    hosts: Arc<Hosts>,
    at: usize,
}

impl Hosts {
    pub(crate) fn of(target: &Target) -> Self {
        let names: Box<[Box<str>]> = target.endpoints().map(|host| host.to_string().into()).collect();
        let known = Known { primary: None, hosts: vec![Host::default(); names.len()] };
        Self { names, known: Mutex::new(known) }
    }

    /// Whether there is a choice.
    pub(crate) fn are_several(&self) -> bool {
        self.names.len() > 1
    }

    pub(crate) fn name(&self, at: usize) -> &str {
        self.names.get(at).map_or("", |name| name)
    }

    /// Their places, in the order in which to look for the primary.
    pub(crate) fn order(&self) -> Vec<usize> {
        let known = self.known.lock();
        let now = Instant::now();
        let rank = |at: usize| {
            let host = known.hosts.get(at);
            let away = host.is_some_and(|host| host.away_until.is_some_and(|until| until > now));
            let part = match host.and_then(|host| host.part) {
                _ if known.primary == Some(at) => 0,
                Some(Part::Primary) | None => 1,
                Some(Part::Replica) => 2,
            };
            (away, part)
        };
        let mut order: Vec<usize> = (0..self.names.len()).collect();
        order.sort_by_key(|at| rank(*at));
        order
    }

    /// How long one of them may take to answer, when all together may take `span_max`.
    pub(crate) fn share_of(&self, span_max: Duration) -> Duration {
        let count = u32::try_from(self.names.len()).unwrap_or(u32::MAX).max(1);
        (span_max / count).max(HOST_SPAN_MIN).min(span_max)
    }

    /// A server has said what it is.
    pub(crate) fn saw(&self, at: usize, part: Part) {
        let mut known = self.known.lock();
        let Known { primary, hosts } = &mut *known;
        if let Some(host) = hosts.get_mut(at) {
            *host = Host { part: Some(part), ..Host::default() };
        }
        match part {
            Part::Primary if *primary != Some(at) => {
                if let Some(before) = primary.replace(at) {
                    tracing::warn!(
                        before = self.name(before),
                        now = self.name(at),
                        "the primary has changed"
                    );
                }
            }
            Part::Replica if *primary == Some(at) => *primary = None,
            Part::Primary | Part::Replica => {}
        }
    }

    /// The same of a server that is asked all the time. One that goes on to be a primary beside another one, which is for
    /// the operator to end, does not take its place with each word.
    pub(crate) fn heard(&self, at: usize, part: Part) {
        let knew = {
            let known = self.known.lock();
            known.primary.is_some() && known.hosts.get(at).and_then(|host| host.part) == Some(part)
        };
        if !knew {
            self.saw(at, part);
        }
    }

    /// A server could not be reached.
    pub(crate) fn failed(&self, at: usize) {
        let mut known = self.known.lock();
        let Some(host) = known.hosts.get_mut(at) else { return };
        let span = AWAY_MIN.saturating_mul(1 << host.failures.min(8)).min(AWAY_MAX);
        host.failures = host.failures.saturating_add(1);
        host.away_until = Some(Instant::now() + span);
    }

    /// What a server was when somebody last logged in there.
    pub(crate) fn part(&self, at: usize) -> Option<Part> {
        self.known.lock().hosts.get(at)?.part
    }
}

impl Server {
    pub(crate) fn new(hosts: &Arc<Hosts>, at: usize) -> Self {
        Self { hosts: hosts.clone(), at }
    }

    /// Its place among the servers.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Its name: host and port, or the path of its socket.
    pub fn name(&self) -> &str {
        self.hosts.name(self.at)
    }

    /// Whether it is one of several.
    pub fn is_one_of_several(&self) -> bool {
        self.hosts.are_several()
    }

    /// Whether it was a replica when somebody last logged in there.
    pub(crate) fn is_replica(&self) -> bool {
        self.hosts.part(self.at) == Some(Part::Replica)
    }

    /// Whether another server is known to be the primary, or this one not to be.
    pub fn is_no_primary(&self) -> bool {
        if !self.is_one_of_several() {
            return false;
        }
        let known = self.hosts.known.lock();
        let replica = known.hosts.get(self.at).is_some_and(|host| host.part == Some(Part::Replica));
        replica || known.primary.is_some_and(|primary| primary != self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts() -> Arc<Hosts> {
        let target = Target::parse("postgres://a.test,b.test:6000,c.test/shop", false).unwrap();
        Arc::new(Hosts::of(&target))
    }

    #[test]
    fn the_last_known_primary_is_tried_first_and_who_is_away_last() {
        let hosts = hosts();
        assert_eq!(hosts.order(), [0, 1, 2]);
        hosts.saw(0, Part::Replica);
        hosts.saw(2, Part::Primary);
        assert_eq!(hosts.order(), [2, 1, 0]);
        hosts.failed(2);
        assert_eq!(hosts.order(), [1, 0, 2], "it is tried all the same");
        hosts.saw(0, Part::Primary);
        assert_eq!(hosts.order(), [0, 1, 2]);
        assert_eq!((hosts.name(1), hosts.part(2)), ("b.test:6000", Some(Part::Primary)));
    }

    #[test]
    fn a_connection_is_of_no_more_use_once_the_primary_is_elsewhere() {
        let hosts = hosts();
        let [a, b] = [0, 1].map(|at| Server::new(&hosts, at));
        hosts.saw(0, Part::Primary);
        assert!(!a.is_no_primary() && b.is_no_primary());
        hosts.failed(0);
        assert!(!a.is_no_primary(), "what is under way may still come to its end");
        hosts.saw(1, Part::Primary);
        assert!(a.is_no_primary() && !b.is_no_primary());
        hosts.saw(1, Part::Replica);
        assert!(b.is_no_primary());
        let alone = Arc::new(Hosts::of(&Target::parse("postgres://a.test/shop", false).unwrap()));
        let alone = Server::new(&alone, 0);
        alone.hosts.saw(0, Part::Replica);
        assert!(!alone.is_no_primary() && !alone.is_one_of_several());
    }

    #[test]
    fn one_that_is_silent_takes_only_its_share_of_the_time() {
        assert_eq!(hosts().share_of(Duration::from_secs(6)), Duration::from_secs(2));
        assert_eq!(hosts().share_of(Duration::from_millis(500)), Duration::from_millis(500));
    }
}
