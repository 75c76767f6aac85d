//! How far each replica of a database is behind its primary, and which of them may be read from.
//!
//! Each server is asked on a connection of the gateway's own, a few times in the span that a replica may lag. The primary
//! tells how far its log has come: a mark, with the time before it was asked. A replica that has replayed as far as a mark
//! shows all that was committed before that time. So nobody's clock is compared, and a primary that is idle makes no
//! replica seem late.
//!
//! Invariants: a replica that does not answer, or was never seen to have replayed a mark, is not read from; while there is
//! no primary, what was known of the replicas last holds; each question has a time limit, and a server that is away is asked
//! ever less often, and holds up nobody.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use doorward_core::OwnLogin;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::conn::Conn;
use crate::error::Failure;
use crate::frames::Malformed;
use crate::handshake;
use crate::hosts::{Part, Wanted};
use crate::login::ask_json;
use crate::relay::Connector;
use crate::stream::Dialer;

/// What each server is asked: whether it is a replica, and how far its log has come.
const PLACE: &str = "
SELECT json_build_object('replica', pg_is_in_recovery(), 'lsn', (CASE WHEN pg_is_in_recovery()
  THEN coalesce(pg_last_wal_replay_lsn(), '0/0') ELSE pg_current_wal_insert_lsn() END - '0/0'::pg_lsn)::text)::text";
/// How long one question, connecting included, may take.
const ASKING_SPAN_MAX: Duration = Duration::from_secs(2);
/// The shortest and the longest pause between two questions to a server that answers.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// Questions in the span that a replica may lag.
const QUESTIONS: u32 = 4;
/// The longest pause between two questions to one that does not answer.
const AWAY_PAUSE_MAX: Duration = Duration::from_secs(5);
/// How long the primary is looked for before a replica is read from without one.
const LOOKING_SPAN: Duration = Duration::from_secs(5);
/// How many marks are remembered.
const MARKS_MAX: usize = 1_024;
/// Where a record ends at the end of a page, the primary tells where the next one will begin: behind the page's header.
const PAGE: u64 = 8_192;
const PAGE_HEADERS: [u64; 2] = [24, 40];

/// Watches the replicas of a database. Dropped, it stops.
pub struct Replicas {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

/// A server, for metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its host and port.
    pub name: Box<str>,
    /// Whether it is the primary.
    pub primary: bool,
    /// How far it is behind, if it is a replica that may be compared.
    pub lag: Option<Duration>,
}

struct Shared {
    dialer: Dialer,
    login: OwnLogin,
    lag_max: Duration,
    turn: AtomicUsize,
    known: Mutex<Known>,
}

/// The primary's log had come so far, some time after `at`.
#[derive(Clone, Copy, Debug)]
struct Mark {
    at: Instant,
    lsn: u64,
}

#[derive(Debug)]
struct Known {
    /// When the primary has been looked for long enough.
    looked_at: Instant,
    /// The server that the marks are of; the newest stands last.
    primary: Option<usize>,
    marks: VecDeque<Mark>,
    replicas: Vec<Option<Replica>>,
}

/// A replica that has answered.
#[derive(Clone, Copy, Debug, Default)]
struct Replica {
    /// It shows all that was committed before.
    as_of: Option<Instant>,
}

impl Replicas {
    /// Begins to watch, through the gateway's own login. One that is more than `lag_max` behind is not read from. Must be
    /// called on a runtime.
    pub fn watch(connector: &Connector, login: OwnLogin, lag_max: Duration) -> Self {
        let dialer = connector.dialer().clone();
        let count = dialer.target().endpoints().count();
        let known = Known::new(count, Instant::now() + LOOKING_SPAN);
        let turn = AtomicUsize::new(0);
        let shared = Arc::new(Shared { dialer, login, lag_max, turn, known: Mutex::new(known) });
        let tasks = (0..count).map(|at| tokio::spawn(shared.clone().watch(at))).collect();
        Self { shared, tasks }
    }

    /// A replica to read from: one that shows all that was committed before `since`.
    pub fn choose(&self, since: Option<Instant>) -> Option<usize> {
        let known = self.shared.known.lock();
        let count = known.replicas.len();
        let turn = self.shared.turn.load(Ordering::Relaxed);
        let mut places = (0..count).map(|step| (turn.wrapping_add(step)) % count.max(1));
        places.find(|at| known.is_usable(*at, since, self.shared.lag_max))
    }

    /// The next one in turn.
    pub fn next(&self, since: Option<Instant>) -> Option<usize> {
        self.shared.turn.fetch_add(1, Ordering::Relaxed);
        self.choose(since)
    }

    /// Whether this one may be read from.
    pub fn is_usable(&self, at: usize, since: Option<Instant>) -> bool {
        self.shared.known.lock().is_usable(at, since, self.shared.lag_max)
    }

    /// This one could not be connected to: it is not chosen until it has answered again.
    pub fn failed(&self, at: usize) {
        self.shared.known.lock().lose(at);
    }

    /// All servers.
    pub fn standings(&self) -> Vec<Standing> {
        let known = self.shared.known.lock();
        let hosts = self.shared.dialer.hosts();
        let standing = |at: usize| Standing {
            name: hosts.name(at).into(),
            primary: known.primary == Some(at),
            lag: known.lag(at),
        };
        (0..known.replicas.len()).map(standing).collect()
    }
}

impl Drop for Replicas {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl fmt::Debug for Replicas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.standings()).finish()
    }
}

impl Shared {
    async fn watch(self: Arc<Self>, at: usize) {
        let often = (self.lag_max / QUESTIONS).clamp(PAUSE_MIN, PAUSE_MAX);
        let mut pause = often;
        let mut conn = None;
        loop {
            let asked = timeout(ASKING_SPAN_MAX, self.ask(at, &mut conn)).await;
            pause = match asked.unwrap_or_else(|_| Err(Failure::late())) {
                Ok(()) => often,
                Err(failure) => {
                    conn = None;
                    if self.known.lock().lose(at) {
                        let server = self.dialer.hosts().name(at);
                        tracing::warn!(server, cause = %failure, "a server does not answer");
                    }
                    (pause * 2).min(AWAY_PAUSE_MAX)
                }
            };
            sleep(pause).await;
        }
    }

    async fn ask(&self, at: usize, conn: &mut Option<Conn>) -> Result<(), Failure> {
        if conn.as_ref().is_some_and(Conn::has_old_login) {
            *conn = None;
        }
        let conn = match conn {
            Some(conn) => conn,
            none => {
                let login = self.login.current().await.map_err(|_| Failure::Login("there is no login"))?;
                let wanted = Wanted::Host(at);
                let made = handshake::connect(&self.dialer, wanted, &login, 1, ASKING_SPAN_MAX).await?;
                none.insert(made)
            }
        };
        let asked = Instant::now();
        let said = ask_json(conn, PLACE, &[]).await?;
        let (replica, lsn) = read(&said).ok_or(Malformed("no place in the log"))?;
        self.dialer.hosts().heard(at, if replica { Part::Replica } else { Part::Primary });
        self.known.lock().hear(at, replica, Mark { at: asked, lsn });
        Ok(())
    }
}

fn read(said: &str) -> Option<(bool, u64)> {
    let said: Value = serde_json::from_str(said).ok()?;
    Some((said.get("replica")?.as_bool()?, said.get("lsn")?.as_str()?.parse().ok()?))
}

impl Known {
    fn new(count: usize, looked_at: Instant) -> Self {
        Self { looked_at, primary: None, marks: VecDeque::new(), replicas: vec![None; count] }
    }

    fn hear(&mut self, at: usize, replica: bool, Mark { at: asked, lsn }: Mark) {
        if !replica {
            self.lose(at);
            if self.primary != Some(at) {
                // Another log, from where the two have parted.
                self.primary = Some(at);
                self.marks.clear();
                self.replicas.iter_mut().flatten().for_each(|replica| replica.as_of = None);
            }
            if self.marks.len() >= MARKS_MAX {
                self.marks.pop_front();
            }
            self.marks.push_back(Mark { at: asked, lsn: end_of_record(lsn) });
            return;
        }
        let replayed = self.marks.iter().rev().find(|mark| mark.lsn <= lsn).map(|mark| mark.at);
        if let Some(known) = self.replicas.get_mut(at) {
            let known = known.get_or_insert_default();
            known.as_of = known.as_of.max(replayed);
        }
    }

    /// It is not known as a replica any more; whether it was.
    fn lose(&mut self, at: usize) -> bool {
        self.replicas.get_mut(at).and_then(Option::take).is_some()
    }

    fn lag(&self, at: usize) -> Option<Duration> {
        let replica = (*self.replicas.get(at)?)?;
        match (self.marks.back(), replica.as_of) {
            // There is no primary to be behind.
            (None, _) => (self.looked_at <= Instant::now()).then_some(Duration::ZERO),
            (Some(_), None) => None,
            (Some(newest), Some(as_of)) => Some(newest.at.saturating_duration_since(as_of)),
        }
    }

    fn is_usable(&self, at: usize, since: Option<Instant>, lag_max: Duration) -> bool {
        let as_of = self.replicas.get(at).copied().flatten().and_then(|replica| replica.as_of);
        let fresh = since.is_none_or(|since| as_of.is_some_and(|as_of| as_of > since));
        fresh && self.lag(at).is_some_and(|lag| lag <= lag_max)
    }
}

/// The end of the last record, where the primary tells the beginning of the next one.
fn end_of_record(lsn: u64) -> u64 {
    let beyond = lsn % PAGE;
    if PAGE_HEADERS.contains(&beyond) { lsn - beyond } else { lsn }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn known() -> Known {
        Known::new(3, Instant::now())
    }

    #[test]
    fn a_replica_is_as_new_as_the_mark_that_it_has_replayed() {
        let (mut known, start) = (known(), Instant::now());
        let mark = |after: u32, lsn: u64| Mark { at: start + SECOND * after, lsn };
        known.hear(0, false, mark(0, 100));
        known.hear(1, true, mark(0, 99));
        assert_eq!(known.lag(1), None, "it has replayed no mark yet");
        assert!(!known.is_usable(1, None, SECOND) && !known.is_usable(0, None, SECOND));
        known.hear(1, true, mark(1, 150));
        known.hear(0, false, mark(4, 200));
        assert_eq!(known.lag(1), Some(SECOND * 4));
        assert!(!known.is_usable(1, None, SECOND * 3) && known.is_usable(1, None, SECOND * 4));
        // What was committed after the mark may be missing, what was before is there.
        known.hear(1, true, mark(5, 200));
        assert_eq!(known.lag(1), Some(Duration::ZERO));
        assert!(known.is_usable(1, Some(start + SECOND * 3), SECOND));
        assert!(!known.is_usable(1, Some(start + SECOND * 4), SECOND));
        // An idle primary writes nothing, and is not ahead.
        known.hear(0, false, mark(60, 200));
        known.hear(1, true, mark(61, 200));
        assert_eq!(known.lag(1), Some(Duration::ZERO));
    }

    #[test]
    fn who_is_away_or_promoted_is_not_read_from() {
        let now = Instant::now();
        let mut early = Known::new(3, now + SECOND * 60);
        early.hear(1, true, Mark { at: now, lsn: 5 });
        assert!(!early.is_usable(1, None, SECOND), "the primary may be about to answer");
        let mut known = known();
        known.hear(1, true, Mark { at: now, lsn: 5 });
        assert!(known.is_usable(1, None, SECOND), "there is no primary");
        assert!(!known.is_usable(1, Some(now), SECOND), "and nobody knows what it has");
        assert!(known.lose(1) && !known.lose(1) && !known.is_usable(1, None, SECOND));
        known.hear(0, false, Mark { at: now, lsn: 7 });
        known.hear(1, true, Mark { at: now, lsn: 7 });
        known.hear(2, true, Mark { at: now, lsn: 7 });
        known.hear(1, false, Mark { at: now, lsn: 9 });
        assert!(!known.is_usable(1, None, SECOND) && known.primary == Some(1));
        assert!(!known.is_usable(2, None, SECOND), "it has to show that it follows the new one");
        known.hear(2, true, Mark { at: now, lsn: 9 });
        assert!(known.is_usable(2, None, SECOND) && !known.is_usable(7, None, SECOND));
    }

    #[test]
    fn the_end_of_a_page_is_the_end_of_its_last_record() {
        assert_eq!(
            [PAGE, PAGE + 24, PAGE + 40, PAGE + 48, 24].map(end_of_record),
            [PAGE, PAGE, PAGE, PAGE + 48, 0]
        );
    }

    #[test]
    fn what_a_server_says_is_read_strictly() {
        assert_eq!(read(r#"{"replica":true,"lsn":"50331648"}"#), Some((true, 50_331_648)));
        for said in ["", "{}", r#"{"replica":1,"lsn":"1"}"#, r#"{"replica":true,"lsn":"-1"}"#] {
            assert_eq!(read(said), None, "{said}");
        }
    }
}
