//! `doorward audit hold`: legal holds, which retention and erasure honour.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{Context, bail};
use doorward_audit::admin::Deed;
use doorward_audit::config::StoreUrl;
use doorward_audit::hold::{Hold, Holds};
use doorward_audit::time;
use doorward_core::{Clock, SystemClock, Timestamp, Verb};
use serde_json::{Map, json};
use uuid::Uuid;

use super::audit_person::{WhomArgs, deeds, keys, operator};
use super::store::Admin;
use super::{moment, note, out};
use crate::config::Config;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Lays a hold: what it covers is neither removed nor erased.
    Add(AddArgs),
    /// Lists the holds in force.
    List {
        /// Released ones too.
        #[arg(long)]
        released: bool,
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Releases a hold.
    Release {
        /// Its name, or its id.
        hold: String,
        /// For a store in a database: a login that is a member of doorward_holder, or the administrator's.
        #[command(flatten)]
        admin: Admin,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct AddArgs {
    /// What it is called: the matter, or the case's number. Not a person's name: it is not sealed.
    #[arg(long)]
    name: String,
    #[command(flatten)]
    whom: WhomArgs,
    /// Records of this resource.
    #[arg(long)]
    resource: Option<String>,
    /// Records not before this: RFC 3339, a date, or a span back from now.
    #[arg(long, value_parser = moment)]
    from: Option<Timestamp>,
    /// Records before this.
    #[arg(long, value_parser = moment)]
    until: Option<Timestamp>,
}

/// The longest name.
const NAME_MAX: usize = 200;

pub(super) fn run(config: &Config, command: &Command) -> anyhow::Result<ExitCode> {
    let mut holds = Holds::open(&config.root.store)?;
    match command {
        Command::Add(args) => add(config, &mut holds, args),
        Command::List { released, json } => list(&mut holds, *released, *json),
        Command::Release { hold, admin } => release(config, &mut holds, hold, admin),
    }
}

fn add(config: &Config, holds: &mut Holds, args: &AddArgs) -> anyhow::Result<ExitCode> {
    if args.name.is_empty() || args.name.len() > NAME_MAX || args.name.chars().any(char::is_control) {
        bail!("a hold's name is one line of at most {NAME_MAX} bytes");
    }
    if let Ok(others) = holds.of(&args.name) {
        let ids: Vec<String> = others.iter().map(|hold| hold.id.to_string()).collect();
        bail!(
            "there is a hold {} in force already ({}); releasing goes by the name, so give this one another, or release that one first",
            args.name,
            ids.join(", ")
        );
    }
    let ids = match args.whom.any() {
        false => vec![None],
        true => {
            let found = args.whom.find(&mut keys(config)?)?;
            // A person who is not known yet has no records either.
            found.iter().filter(|found| found.person.is_some()).map(|found| Some(found.id)).collect()
        }
    };
    if ids.is_empty() {
        bail!("the key store knows nobody by that");
    }
    let new: Vec<Hold> = ids
        .into_iter()
        .map(|subject_id| {
            Ok(Hold {
                id: Uuid::new_v4(),
                name: args.name.clone(),
                subject_id,
                resource: args.resource.clone(),
                from: args.from,
                until: args.until,
                created: SystemClock.now(),
                created_by: operator(),
                released: None,
            })
        })
        .collect::<anyhow::Result<_>>()?;
    if let Some(name) = args
        .resource
        .as_deref()
        .filter(|name| !config.resources.iter().any(|entry| entry.name.as_str() == *name))
    {
        note(&format!(
            "the configuration has no resource {name}; the hold covers records that have this name\n"
        ));
    }
    let deeds = deeds(config)?;
    let begun = deeds.begin(&deed("audit hold add", Verb::Write, &new))?;
    let done: Result<(), _> = new.iter().try_for_each(|hold| holds.add(hold));
    begun.end(done.is_ok(), None)?;
    deeds.finish();
    done?;
    new.iter().try_for_each(|hold| out(&line(hold)))?;
    Ok(ExitCode::SUCCESS)
}

fn release(config: &Config, holds: &mut Holds, which: &str, admin: &Admin) -> anyhow::Result<ExitCode> {
    let found = holds.of(which)?;
    // The gateway's own login lays holds in a database, and releases none.
    let mut other = match &config.root.store {
        StoreUrl::Postgres(server) => {
            let (target, login) = admin.login(server)?;
            let opened = Holds::open_as(&config.root.store, &target, &login);
            Some(opened.with_context(|| format!("{} at {target}", login.user))?)
        }
        StoreUrl::Sqlite(_) => None,
    };
    let holds = other.as_mut().unwrap_or(holds);
    let deeds = deeds(config)?;
    let begun = deeds.begin(&deed("audit hold release", Verb::Delete, &found))?;
    let done: Result<(), _> = found.iter().try_for_each(|hold| holds.release(hold.id, SystemClock.now()));
    begun.end(done.is_ok(), None)?;
    deeds.finish();
    done?;
    found.iter().try_for_each(|hold| out(&format!("released {} ({})\n", hold.name, hold.id)))?;
    Ok(ExitCode::SUCCESS)
}

fn list(holds: &mut Holds, released: bool, as_json: bool) -> anyhow::Result<ExitCode> {
    let holds = holds.list(released)?;
    if holds.is_empty() && !as_json {
        out("no holds\n")?;
    }
    for hold in &holds {
        out(&if as_json { json_line(hold) } else { line(hold) })?;
    }
    Ok(ExitCode::SUCCESS)
}

fn deed(endpoint: &'static str, verb: Verb, holds: &[Hold]) -> Deed {
    let objects = holds.iter().map(|hold| vec!["holds".to_owned(), hold.id.to_string()]).collect();
    Deed { endpoint, verb, objects, ext: Map::new() }
}

fn line(hold: &Hold) -> String {
    let mut covers: Vec<String> = Vec::new();
    covers.extend(hold.subject_id.map(|id| format!("subject {id}")));
    covers.extend(hold.resource.as_ref().map(|resource| format!("resource {resource}")));
    covers.extend(hold.from.map(|from| format!("from {}", time::rfc3339(from))));
    covers.extend(hold.until.map(|until| format!("until {}", time::rfc3339(until))));
    if covers.is_empty() {
        covers.push("everything".to_owned());
    }
    let mut text = format!("{}  {}  {}; laid by {}", hold.id, hold.name, covers.join(", "), hold.created_by);
    let _ = write!(text, " on {}", time::rfc3339(hold.created));
    if let Some(released) = hold.released {
        let _ = write!(text, ", released on {}", time::rfc3339(released));
    }
    text.push('\n');
    text
}

fn json_line(hold: &Hold) -> String {
    let time = |time: Option<Timestamp>| time.map(time::rfc3339);
    let line = json!({
        "hold_id": hold.id.to_string(), "name": hold.name,
        "subject_id": hold.subject_id.map(|id| id.to_string()), "resource": hold.resource,
        "from": time(hold.from), "until": time(hold.until), "created": time::rfc3339(hold.created),
        "created_by": hold.created_by, "released": time(hold.released),
    });
    format!("{line}\n")
}
