//! The keeper around a source that does what the test says, under a clock that stands still.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use doorward_core::{
    BoxFuture, Fault, IssuerName, Login, LoginSource, Personal, Principal, ResourceName, RoleName, Secret,
};
use parking_lot::Mutex;
use tokio::time::{advance, sleep};

use crate::{CredentialSource, Handle, Issued, Keeper, Keepers, Renewed, SourceError, Wanted};

const HOUR: Duration = Duration::from_secs(3600);

/// What a source was asked for, in words.
#[derive(Default)]
struct Script {
    log: Mutex<Vec<String>>,
    issues: Mutex<VecDeque<Result<Option<Duration>, SourceError>>>,
    renewals: Mutex<VecDeque<Result<Renewed, SourceError>>>,
    slow: Mutex<Duration>,
    per_principal: bool,
    /// Gives out the same login again and again, without a handle.
    steady: bool,
}

impl Script {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.log.lock())
    }

    fn issue_next(&self, next: Result<Option<Duration>, SourceError>) {
        self.issues.lock().push_back(next);
    }

    fn renew_next(&self, next: Result<Renewed, SourceError>) {
        self.renewals.lock().push_back(next);
    }

    fn say(&self, text: String) -> usize {
        let mut log = self.log.lock();
        log.push(text);
        log.len()
    }
}

/// Counts what it has issued over the whole test.
struct Scripted(Arc<Script>, Mutex<usize>);

impl CredentialSource for Scripted {
    fn name(&self) -> &str {
        "scripted"
    }

    fn is_per_principal(&self) -> bool {
        self.0.per_principal
    }

    fn issue<'a>(&'a self, wanted: &'a Wanted) -> BoxFuture<'a, Result<Issued, SourceError>> {
        Box::pin(async move {
            let slow = *self.0.slow.lock();
            sleep(slow).await;
            let role = wanted.role.as_ref().map_or("own", RoleName::as_str);
            let whose = wanted.principal.as_ref().map(|who| format!(" for {}", who.subject.reveal()));
            self.0.say(format!("issue {role}{}", whose.unwrap_or_default()));
            let good_for = self.0.issues.lock().pop_front().unwrap_or(Ok(Some(HOUR)))?;
            let number = {
                let mut count = self.1.lock();
                *count += 1;
                *count
            };
            let number = if self.0.steady { 1 } else { number };
            let login = Login::new(format!("login-{number}"), Secret::from("word"));
            let handle = (!self.0.steady).then(|| Handle::new(number.to_string()));
            Ok(Issued { login, good_for, refresh: None, handle })
        })
    }

    fn refused(&self, _: &Wanted) {
        self.0.say("refused".to_owned());
    }

    fn renew<'a>(&'a self, handle: &'a Handle) -> BoxFuture<'a, Result<Renewed, SourceError>> {
        self.0.say(format!("renew {}", handle.as_str()));
        let next = self.0.renewals.lock().pop_front().unwrap_or(Ok(Renewed::For(HOUR)));
        Box::pin(std::future::ready(next))
    }

    fn revoke<'a>(&'a self, handle: &'a Handle) -> BoxFuture<'a, Result<(), SourceError>> {
        self.0.say(format!("revoke {}", handle.as_str()));
        Box::pin(std::future::ready(Ok(())))
    }
}

struct Bed {
    script: Arc<Script>,
    keepers: Keepers,
    keeper: Option<Arc<Keeper>>,
}

impl Bed {
    fn new(per_principal: bool) -> Self {
        Self::of(Script { per_principal, ..Script::default() })
    }

    fn of(script: Script) -> Self {
        let script = Arc::new(script);
        let keepers = Keepers::default();
        let source = Arc::new(Scripted(script.clone(), Mutex::default()));
        let keeper = Some(keepers.keeper("scripted", &ResourceName::new("shop"), || source));
        Self { script, keepers, keeper }
    }

    async fn lend(&self, role: &str, who: &str) -> Result<Arc<Login>, Fault> {
        let principal = Arc::new(Principal {
            issuer: IssuerName::new("idp"),
            subject: Personal::from(who),
            ..Principal::public()
        });
        Ok(self.keeper.as_ref().unwrap().lend(Some(&RoleName::new(role)), &principal).await?.1)
    }

    /// Lets time pass in steps, so that tasks do what is due.
    async fn pass(&self, span: Duration) {
        for _ in 0..20 {
            sleep(span / 20).await;
        }
    }
}

fn away() -> SourceError {
    SourceError::Away("sealed".to_owned())
}

#[tokio::test(start_paused = true)]
async fn one_credential_serves_all_who_ask_for_its_role() {
    let bed = Arc::new(Bed::new(false));
    *bed.script.slow.lock() = Duration::from_secs(2);
    let asks: Vec<_> = (0..20)
        .map(|n| {
            let bed = bed.clone();
            tokio::spawn(async move { bed.lend("analyst", &n.to_string()).await.unwrap().user.clone() })
        })
        .collect();
    for ask in asks {
        assert_eq!(&*ask.await.unwrap(), "login-1");
    }
    // One that hangs up stops nothing.
    let hasty = tokio::time::timeout(Duration::from_millis(10), bed.lend("loader", "ann")).await;
    assert!(hasty.is_err());
    assert_eq!(&*bed.lend("loader", "bob").await.unwrap().user, "login-2");
    assert_eq!(bed.script.take(), ["issue analyst", "issue loader"]);
}

#[tokio::test(start_paused = true)]
async fn principals_share_nothing_when_the_source_says_so() {
    let bed = Bed::new(true);
    let (ann, bob) = (bed.lend("analyst", "ann").await.unwrap(), bed.lend("analyst", "bob").await.unwrap());
    assert_ne!(ann.user, bob.user);
    assert_eq!(bed.lend("analyst", "ann").await.unwrap().user, ann.user);
    assert_eq!(bed.script.take(), ["issue analyst for ann", "issue analyst for bob"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_used_is_renewed_at_four_fifths_of_its_life() {
    let bed = Bed::new(false);
    let login = bed.lend("analyst", "ann").await.unwrap();
    let first_end = login.expires_at().unwrap();
    bed.pass(HOUR * 79 / 100).await;
    assert_eq!(bed.script.take(), ["issue analyst"]);
    bed.pass(HOUR / 50).await;
    assert_eq!(bed.script.take(), ["renew 1"]);
    assert!(!login.is_superseded() && login.expires_at().unwrap() >= first_end);
    // Its longest life is near: what a renewal gives is too little, so another one takes its place.
    bed.script.renew_next(Ok(Renewed::For(HOUR / 4)));
    bed.pass(HOUR * 81 / 100).await;
    assert_eq!(bed.script.take(), ["renew 1", "issue analyst"]);
    assert!(login.is_superseded());
    let second = bed.lend("analyst", "ann").await.unwrap();
    assert_eq!(&*second.user, "login-2");
    // Nobody stands on the first one any more: it is not left to its end.
    drop(login);
    bed.pass(Duration::from_secs(30)).await;
    assert_eq!(bed.script.take(), ["revoke 1"]);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_needs_is_revoked() {
    let bed = Bed::new(false);
    let login = bed.lend("analyst", "ann").await.unwrap();
    // A session stands on it, though nobody asks.
    bed.pass(HOUR * 2).await;
    assert_eq!(bed.script.take(), ["issue analyst", "renew 1", "renew 1"]);
    drop(login);
    bed.pass(HOUR).await;
    assert_eq!(bed.script.take(), ["revoke 1"]);
    assert_eq!(&*bed.lend("analyst", "ann").await.unwrap().user, "login-2");
}

#[tokio::test(start_paused = true)]
async fn what_is_good_is_lent_while_the_source_is_away_and_then_nothing_is() {
    let bed = Bed::new(false);
    let login = bed.lend("analyst", "ann").await.unwrap();
    for _ in 0..500 {
        bed.script.renew_next(Err(away()));
        bed.script.issue_next(Err(away()));
    }
    bed.pass(HOUR * 99 / 100).await;
    assert_eq!(bed.lend("analyst", "ann").await.unwrap().user, login.user);
    bed.pass(HOUR / 50).await;
    let fault = bed.lend("analyst", "ann").await.unwrap_err();
    assert_eq!(fault.code().name, "lease.source-away");
    assert!(fault.code().retry && fault.retry_after_span().is_some());
    assert_eq!(fault.cause_text(), Some("scripted: sealed"));
    assert!(bed.keeper.as_ref().unwrap().trouble().is_some_and(|text| text.contains("sealed")));
    assert!(login.is_superseded());
    let asked = bed.script.take().len();
    assert!(asked < 60, "the source was asked {asked} times in twelve minutes");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_refuses_is_asked_at_growing_intervals_and_only_if_somebody_wants_it() {
    let bed = Bed::new(false);
    let refused = || Err(SourceError::Refused("403 permission denied".to_owned()));
    for _ in 0..1_000 {
        bed.script.issue_next(refused());
    }
    let mut faults = 0;
    for _ in 0..3_000 {
        let fault = bed.lend("analyst", "ann").await.unwrap_err();
        assert_eq!(fault.code().name, "lease.source-refused");
        faults += 1;
        advance(Duration::from_millis(100)).await;
    }
    let asked = bed.script.take().len();
    assert!((5..30).contains(&asked), "{faults} calls asked the source {asked} times in five minutes");
    bed.pass(HOUR).await;
    assert!(bed.script.take().len() <= 1);
    // It is back.
    bed.script.issues.lock().clear();
    assert_eq!(&*bed.lend("analyst", "ann").await.unwrap().user, "login-1");
    assert_eq!(bed.keeper.as_ref().unwrap().trouble(), None);
}

#[tokio::test(start_paused = true)]
async fn what_the_backend_does_not_accept_is_asked_for_anew() {
    let bed = Bed::new(false);
    bed.script.issue_next(Ok(None));
    let login = bed.lend("analyst", "ann").await.unwrap();
    assert_eq!(login.expires_at(), None);
    login.refuse();
    // Not at once: it may have been issued a moment ago.
    assert_eq!(bed.lend("analyst", "ann").await.unwrap().user, login.user);
    bed.pass(Duration::from_secs(6)).await;
    assert_eq!(&*bed.lend("analyst", "ann").await.unwrap().user, "login-2");
    assert_eq!(bed.script.take(), ["issue analyst", "refused", "issue analyst"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_the_same_again_is_not_replaced() {
    let bed = Bed::of(Script { steady: true, ..Script::default() });
    let login = bed.lend("analyst", "ann").await.unwrap();
    let first_end = login.expires_at().unwrap();
    // The source keeps it itself, and gives what is left of it.
    bed.script.issue_next(Ok(Some(HOUR)));
    bed.script.issue_next(Ok(Some(HOUR / 5)));
    bed.pass(HOUR * 81 / 100).await;
    assert_eq!(bed.script.take(), ["issue analyst", "issue analyst"]);
    assert!(!login.is_superseded() && Arc::ptr_eq(&login, &bed.lend("analyst", "ann").await.unwrap()));
    bed.pass(HOUR).await;
    assert!(login.expires_at().unwrap() >= first_end && !login.is_superseded());
    // Unless the backend does not accept it.
    login.refuse();
    bed.pass(Duration::from_secs(6)).await;
    assert!(!Arc::ptr_eq(&login, &bed.lend("analyst", "ann").await.unwrap()) && login.is_superseded());
}

#[tokio::test(start_paused = true)]
async fn all_is_revoked_at_the_end_and_when_no_configuration_needs_it() {
    let mut bed = Bed::new(false);
    let held = bed.lend("analyst", "ann").await.unwrap();
    bed.keeper.as_ref().unwrap().login().await.unwrap();
    // The same source under the next configuration is the same keeper.
    let again = bed.keepers.keeper("scripted", &ResourceName::new("shop"), || panic!("it is there"));
    assert!(Arc::ptr_eq(&again, bed.keeper.as_ref().unwrap()));
    drop(again);
    bed.keeper = None;
    bed.pass(Duration::from_secs(1)).await;
    let mut log = bed.script.take();
    log.sort();
    assert_eq!(log, ["issue analyst", "issue own", "revoke 1", "revoke 2"]);
    drop(held);

    let bed = Bed::new(false);
    bed.lend("analyst", "ann").await.unwrap();
    assert!(bed.keepers.shutdown(Duration::from_secs(5)).await);
    assert_eq!(bed.script.take(), ["issue analyst", "revoke 1"]);
}
