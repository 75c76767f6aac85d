//! Whom a command about personal data means, and who gives it.

use std::os::unix::fs::MetadataExt;

use anyhow::{Context, bail};
use doorward_audit::admin::Deeds;
use doorward_audit::personal::Person;
use doorward_audit::personal::open::{Found, Opener, Whom};
use uuid::Uuid;

use super::places;
use crate::config::Config;

/// The most bytes of `/etc/passwd` that are looked through.
const PASSWD_MAX: u64 = 1 << 20;

#[derive(Clone, Debug, clap::Args)]
pub(super) struct WhomArgs {
    /// The person's subject, as the issuer names it.
    #[arg(long)]
    subject: Option<String>,
    /// The issuer of that subject, if several know one.
    #[arg(long, requires = "subject")]
    issuer: Option<String>,
    /// An e-mail address of the person.
    #[arg(long, conflicts_with = "subject")]
    email: Option<String>,
    /// The id that the person's records carry.
    #[arg(long, conflicts_with_all = ["subject", "email"])]
    subject_id: Option<Uuid>,
    /// Everybody whom that means, when it is more than one account.
    #[arg(long)]
    all: bool,
}

impl WhomArgs {
    /// Whether anybody is named.
    pub(super) fn any(&self) -> bool {
        self.subject.is_some() || self.email.is_some() || self.subject_id.is_some()
    }

    /// All ids of whoever is named; empty when nobody is known by it.
    pub(super) fn find(&self, opener: &mut Opener) -> anyhow::Result<Vec<Found>> {
        let whom = match self {
            Self { subject: Some(subject), issuer, .. } => {
                Whom::Subject { subject: subject.clone(), issuer: issuer.clone() }
            }
            Self { email: Some(email), .. } => Whom::Email(email.clone()),
            Self { subject_id: Some(id), .. } => Whom::Id(*id),
            _ => bail!("say who: --subject, --email or --subject-id"),
        };
        let found = opener.find(&whom)?;
        let mut accounts: Vec<String> =
            found.iter().filter_map(|found| found.person.as_ref()).map(account).collect();
        accounts.sort();
        accounts.dedup();
        if accounts.len() > 1 && !self.all {
            bail!(
                "that means {} accounts: {}; name one with --subject and --issuer, or add --all",
                accounts.len(),
                accounts.join(", ")
            );
        }
        Ok(found)
    }
}

/// One account, for people.
pub(super) fn account(person: &Person) -> String {
    match person.emails.last() {
        Some(email) => format!("{} at {} ({email})", person.subject, person.issuer),
        None => format!("{} at {}", person.subject, person.issuer),
    }
}

/// Opens the keys, for a command that cannot do without.
pub(super) fn keys(config: &Config) -> anyhow::Result<Opener> {
    let audit = config.root.audit();
    let mut opener = Opener::open(&audit).context("personal data cannot be opened")?;
    opener.take_in_waiting(&audit).context("keys that wait in the spool cannot be taken in")?;
    Ok(opener)
}

/// Where the command's deeds are recorded.
pub(super) fn deeds(config: &Config) -> anyhow::Result<Deeds> {
    let deeds = Deeds::open(&config.root.audit(), &operator(), &config.root.environment, &config.digest)?;
    places::reach(config, &deeds)?;
    Ok(deeds)
}

/// Who gives the command, as the operating system tells it: `root@db1`.
pub(super) fn operator() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = if host.trim().is_empty() { "localhost" } else { host.trim() };
    let user = match std::fs::metadata("/proc/self") {
        Ok(process) => user_name(process.uid()).unwrap_or_else(|| format!("uid-{}", process.uid())),
        Err(_) => "unknown".to_owned(),
    };
    format!("{user}@{host}")
}

fn user_name(uid: u32) -> Option<String> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open("/etc/passwd").ok()?.take(PASSWD_MAX).read_to_string(&mut text).ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// The object of a deed: `subjects/ID`.
pub(super) fn subject_object(id: Uuid) -> Vec<String> {
    vec!["subjects".to_owned(), id.to_string()]
}
