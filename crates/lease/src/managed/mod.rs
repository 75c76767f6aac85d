//! Logins that the gateway makes itself, with an administrative login that may create roles and nothing else.
//!
//! For a role: a login with a random name and password, a member of that role and of nothing else, which all of
//! the resource's sessions under the role share; or one for each person, whose name stays the same on every
//! gateway, so that row-level security by `current_user`, and the database's own log, see the person. A person's
//! password is derived from the administrative one and a nonce in the login's comment: gateways that share the
//! administrative login find the same, and none of them changes it while another lends it.
//!
//! A login is good for `ttl` and made good for longer while it is needed; each gateway that needs it stands in its
//! comment. One that nobody needs is dropped; a person's cannot log in any more, and is kept for a while, because
//! things may belong to it. What a gateway that was killed leaves behind ends by itself (`VALID UNTIL`), and any
//! gateway of the resource removes it.
//!
//! Invariants: what stands in the database proves nothing (a SCRAM verifier, a nonce); a login that is there under
//! the name, but was not made for this person, is not lent; there is a bound to how many there are.

mod database;
mod name;
mod wire;

use std::sync::Arc;

use aws_lc_rs::{hmac, rand};
use doorward_core::{BoxFuture, LeaseId, Login, Membership, Principal, RoleName, Secret, hex};
use doorward_pgclient::{ManagedConfig, Per, Target};
use tokio::sync::Semaphore;

use crate::source::{CredentialSource, Handle, Issued, Renewed, SourceError, Wanted};

use database::{Admin, Facts, Over, Place};
use name::{Comment, Person};

/// How many things are done in one database at a time: each takes a connection of the administrative login.
const BUSY_MAX: usize = 4;
/// How often something is tried that was in the way of another transaction.
const TRIES_MAX: u32 = 3;
/// A role's login is replaced by another one after this time, however long it is needed.
const AGE_SECONDS_MAX: i64 = 24 * 3600;
/// What the key of passwords is derived for.
const PURPOSE: &[u8] = b"doorward managed logins 1";
/// The digits of a key that its id shows.
const KEY_ID_DIGITS: usize = 16;
/// The digits that tell gateways of one resource apart.
const GATEWAY_DIGITS: usize = 8;

/// Makes logins for one resource.
pub struct ManagedLogins(Arc<Inner>);

struct Inner {
    place: Place,
    config: ManagedConfig,
    /// This gateway among those of the resource, for as long as it runs.
    gateway: String,
    key: hmac::Key,
    key_id: String,
    busy: Semaphore,
}

impl ManagedLogins {
    /// For the database at `target`. Begins to remove what nobody needs any more; must be called on a runtime.
    pub fn start(target: Target, config: ManagedConfig, password: Secret, dangerous_superuser: bool) -> Self {
        let (key, key_id) = key(&password);
        let admin = Arc::new(Login::new(config.admin.user.clone(), password));
        let place = Place { target, admin, superuser: dangerous_superuser };
        // The end of a lease's id is random, and there are always random bytes for one.
        let id = LeaseId::fresh().to_string();
        let gateway = id.get(id.len().saturating_sub(GATEWAY_DIGITS)..).unwrap_or(&id).to_owned();
        let busy = Semaphore::new(BUSY_MAX);
        let inner = Arc::new(Inner { place, config, gateway, key, key_id, busy });
        let (weak, pause) = (Arc::downgrade(&inner), inner.config.reap_every());
        // Ends with the source: between two looks it holds nothing. A source that only looks around changes nothing.
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(pause).await;
                let Some(inner) = weak.upgrade() else { return };
                if let Err(error) = inner.clone().run(|inner| inner.reap()).await {
                    let admin = &*inner.place.admin.user;
                    tracing::warn!(database = %inner.place.target, admin, cause = %error, "managed logins cannot be looked after");
                }
            }
        });
        Self(inner)
    }

    /// What tells one administrative password from another, and says nothing else of it.
    pub fn password_id(password: &Secret) -> String {
        key(password).1
    }
}

impl CredentialSource for ManagedLogins {
    fn name(&self) -> &str {
        "managed logins"
    }

    fn is_per_principal(&self) -> bool {
        self.0.config.per == Per::Principal
    }

    fn issue<'a>(&'a self, wanted: &'a Wanted) -> BoxFuture<'a, Result<Issued, SourceError>> {
        let wanted = wanted.clone();
        Box::pin(self.0.clone().run(move |inner| inner.issue(&wanted)))
    }

    fn renew<'a>(&'a self, handle: &'a Handle) -> BoxFuture<'a, Result<Renewed, SourceError>> {
        let name = handle.as_str().to_owned();
        Box::pin(self.0.clone().run(move |inner| inner.renew(&name)))
    }

    fn revoke<'a>(&'a self, handle: &'a Handle) -> BoxFuture<'a, Result<(), SourceError>> {
        let name = handle.as_str().to_owned();
        Box::pin(self.0.clone().run(move |inner| inner.revoke(&name)))
    }
}

impl Inner {
    /// Runs what blocks where it may, a few at a time. What is in the way of another transaction is tried again.
    async fn run<T: Send + 'static>(
        self: Arc<Self>,
        work: impl Fn(&Self) -> Result<T, SourceError> + Send + 'static,
    ) -> Result<T, SourceError> {
        let inner = self.clone();
        let _turn =
            inner.busy.acquire().await.map_err(|_| SourceError::Away("the gateway is stopping".into()))?;
        let work = tokio::task::spawn_blocking(move || {
            let mut tries = 1;
            loop {
                match work(&self) {
                    Err(SourceError::Away(_)) if tries < TRIES_MAX => tries += 1,
                    done => return done,
                }
            }
        });
        work.await.unwrap_or_else(|error| Err(SourceError::Away(error.to_string())))
    }

    fn issue(&self, wanted: &Wanted) -> Result<Issued, SourceError> {
        let role = wanted.role.as_ref().ok_or_else(|| {
            SourceError::Refused("managed logins are for roles; the resource's own login is not one".into())
        })?;
        let mut admin = Admin::connect(&self.place)?;
        let (name, password) = admin.transaction(|admin| {
            let facts = admin.facts(&self.place, role.as_str(), self.config.ttl())?;
            match &wanted.principal {
                None => self.make_for_role(admin, &facts, wanted, role),
                Some(who) => self.make_for_person(admin, &facts, wanted, role, who),
            }
        })?;
        let membership = Membership { of: role.clone(), set_role: self.config.set_role };
        Ok(Issued {
            login: Login::new(name.as_str(), password).member(membership),
            good_for: Some(self.config.ttl()),
            refresh: None,
            handle: Some(Handle::new(name)),
        })
    }

    fn make_for_role(
        &self,
        admin: &mut Admin,
        facts: &Facts,
        wanted: &Wanted,
        role: &RoleName,
    ) -> Result<(String, Secret), SourceError> {
        self.check_room(facts)?;
        let name = name::of_role(role, &self.gateway, &random::<4>()?);
        let password = random::<32>()?;
        admin.create(&name)?;
        let mut comment = self.comment(facts, wanted, role, None);
        comment.need(&self.gateway, self.until(facts), facts.now);
        admin.attach(&name, role.as_str(), facts, self.config.set_role)?;
        admin.open(&name, Some(&password), facts)?;
        admin.comment(&name, &comment)?;
        Ok((name, Secret::from(password)))
    }

    fn make_for_person(
        &self,
        admin: &mut Admin,
        facts: &Facts,
        wanted: &Wanted,
        role: &RoleName,
        who: &Principal,
    ) -> Result<(String, Secret), SourceError> {
        let (name, id) = name::of_person(&wanted.resource, role, who);
        admin.lock(&name)?;
        let known = admin.find(&name)?;
        let (mut comment, open) = match known {
            None => {
                self.check_room(facts)?;
                admin.create(&name)?;
                let shown = who.email.as_ref().unwrap_or(&who.subject).reveal();
                let who = format!("{} {shown}", who.issuer);
                let person = Person { id, who, nonce: String::new(), key: String::new() };
                (self.comment(facts, wanted, role, Some(person)), false)
            }
            Some(known) => {
                let open = known.may_log_in && !known.over;
                let ours = known.comment.filter(|comment| {
                    comment.database == facts.database
                        && comment.role == role.as_str()
                        && comment.person.as_ref().is_some_and(|person| person.id == id)
                });
                let text = || {
                    format!(
                        "the role {name} is there, and was not made for this person by this resource's gateways"
                    )
                };
                (ours.ok_or_else(|| SourceError::Refused(text()))?, open)
            }
        };
        let person = comment.person.as_mut().ok_or_else(|| SourceError::Refused("not a person's".into()))?;
        // While somebody may lend the password it stays; afterwards there is another one.
        let kept = open && person.key == self.key_id;
        if !kept {
            (person.nonce, person.key) = (random::<16>()?, self.key_id.clone());
        }
        let password = hex(hmac::sign(&self.key, format!("{name} {}", person.nonce).as_bytes()).as_ref());
        comment.need(&self.gateway, self.until(facts), facts.now);
        admin.attach(&name, role.as_str(), facts, self.config.set_role)?;
        admin.open(&name, (!kept).then_some(password.as_str()), facts)?;
        admin.comment(&name, &comment)?;
        Ok((name, Secret::from(password)))
    }

    fn renew(&self, name: &str) -> Result<Renewed, SourceError> {
        let mut admin = Admin::connect(&self.place)?;
        admin.transaction(|admin| {
            admin.lock(name)?;
            let known = admin.find(name)?.filter(|known| known.may_log_in && !known.over);
            let Some(mut comment) = known.and_then(|known| known.comment) else { return Ok(Renewed::Not) };
            let facts = admin.facts(&self.place, &comment.role, self.config.ttl())?;
            if comment.person.is_none() && facts.now - comment.made >= AGE_SECONDS_MAX {
                return Ok(Renewed::Not);
            }
            comment.need(&self.gateway, self.until(&facts), facts.now);
            admin.open(name, None, &facts)?;
            admin.comment(name, &comment)?;
            Ok(Renewed::For(self.config.ttl()))
        })
    }

    /// This gateway needs the login no more. When no other does, its sessions end and nobody logs in with it.
    fn revoke(&self, name: &str) -> Result<(), SourceError> {
        let mut admin = Admin::connect(&self.place)?;
        let closed = admin.transaction(|admin| {
            admin.lock(name)?;
            let Some(mut comment) = admin.find(name)?.and_then(|known| known.comment) else {
                return Ok(None);
            };
            let facts = admin.facts(&self.place, &comment.role, self.config.ttl())?;
            let alone = comment.forget(&self.gateway, facts.now);
            if alone {
                admin.close(name)?;
            }
            admin.comment(name, &comment)?;
            Ok(alone.then_some(comment))
        })?;
        let Some(comment) = closed else { return Ok(()) };
        let ended = admin.terminate(name)?;
        if ended > 0 {
            tracing::info!(login = name, sessions = ended, "sessions of a revoked login were ended");
        }
        if comment.person.is_none() {
            admin.transaction(|admin| admin.drop_role(name, &comment.role))?;
        }
        Ok(())
    }

    /// Removes logins whose time is over: what killed gateways have left, and persons who have not come for long.
    fn reap(&self) -> Result<(), SourceError> {
        let mut admin = Admin::connect(&self.place)?;
        let database = admin.database()?;
        for over in admin.over(self.config.keep(), &database)? {
            let idle = over.comment.person.is_some() && !over.stale && !over.may_log_in;
            if over.in_use || idle {
                continue;
            }
            match admin.transaction(|admin| remove(admin, &over)) {
                Ok(true) => tracing::info!(login = over.name, "a login whose time was over was removed"),
                Ok(false) => {}
                Err(cause) => {
                    tracing::warn!(login = over.name, %cause, "a login whose time is over cannot be removed");
                }
            }
        }
        Ok(())
    }

    fn check_room(&self, facts: &Facts) -> Result<(), SourceError> {
        let max = self.config.logins_max();
        if facts.logins < i64::from(max) {
            return Ok(());
        }
        Err(SourceError::Refused(format!(
            "there are {} logins that gateways have made, and `logins_max` is {max}",
            facts.logins
        )))
    }

    fn until(&self, facts: &Facts) -> i64 {
        facts.now.saturating_add(i64::try_from(self.config.ttl().as_secs()).unwrap_or(i64::MAX))
    }

    fn comment(&self, facts: &Facts, wanted: &Wanted, role: &RoleName, person: Option<Person>) -> Comment {
        Comment {
            database: facts.database.clone(),
            resource: wanted.resource.as_str().to_owned(),
            role: role.as_str().to_owned(),
            made: facts.now,
            gateways: Default::default(),
            person,
        }
    }
}

/// Drops a login, or closes that of a person; whether it was, because another gateway may need it again by now.
fn remove(admin: &mut Admin, over: &Over) -> Result<bool, SourceError> {
    admin.lock(&over.name)?;
    let still =
        admin.find(&over.name)?.filter(|known| known.over && known.comment.as_ref() == Some(&over.comment));
    if still.is_none() {
        return Ok(false);
    }
    match over.comment.person.is_some() && !over.stale {
        true => admin.close(&over.name)?,
        false => admin.drop_role(&over.name, &over.comment.role)?,
    }
    Ok(true)
}

/// The key that passwords are derived from, and its id.
fn key(password: &Secret) -> (hmac::Key, String) {
    let root = hmac::Key::new(hmac::HMAC_SHA256, password.expose().as_bytes());
    let key = hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&root, PURPOSE).as_ref());
    let mut id = hex(hmac::sign(&key, b"id").as_ref());
    id.truncate(KEY_ID_DIGITS);
    (key, id)
}

/// Random bytes, in hexadecimal digits.
fn random<const N: usize>() -> Result<String, SourceError> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| SourceError::Away("the system has no random bytes".into()))?;
    Ok(hex(&bytes))
}

impl std::fmt::Debug for ManagedLogins {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ManagedLogins").field("database", &self.0.place.target).finish_non_exhaustive()
    }
}
