//! `doorward store`: makes and upgrades the store's schema in PostgreSQL, and lets readers in. Run by an
//! administrator; the gateway itself never needs the rights that these commands need.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use doorward_audit::config::{Retention, Server, StoreLogin, StoreUrl};
use doorward_audit::store::postgres::{Grantee, HASH_PARTITIONS_MAX, Migration, Migrator, Scope};
use doorward_core::{Login, Secret};
use doorward_pgclient::Target;

use super::{Source, note, out};
use crate::config::Config;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Creates the store's schema, or brings it up to date. Running it again changes nothing.
    Migrate(Migrate),
    /// Lets a database role read the timeline: all of it, or what a scope says.
    Reader(Reader),
}

/// How the administrator logs in.
#[derive(Debug, clap::Args)]
pub(super) struct Admin {
    /// The administrator's connection: postgres://USER@HOST/DATABASE. The default is the configuration's
    /// store, as the user `postgres`.
    #[arg(long, env = "DOORWARD_ADMIN_URL")]
    url: Option<String>,
    /// The environment variable that holds the administrator's password.
    #[arg(long, default_value = "DOORWARD_ADMIN_PASSWORD", value_name = "NAME")]
    password_env: String,
    /// A file that holds it instead.
    #[arg(long, value_name = "PATH")]
    password_file: Option<std::path::PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Migrate {
    #[command(flatten)]
    admin: Admin,
    /// Prints the SQL and runs nothing.
    #[arg(long)]
    dry_run: bool,
    /// Makes the logins that the configuration's `store` names, with their passwords, if they are missing.
    #[arg(long)]
    create_logins: bool,
    /// Partitions by day even where TimescaleDB is there. Decided once, when the schema is made.
    #[arg(long)]
    plain: bool,
    /// Splits each day of a hypertable by a hash of the endpoint. Decided once, when the schema is made.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(2..=i64::from(HASH_PARTITIONS_MAX)))]
    hash_partitions: Option<u16>,
    /// Stops after this version of the schema.
    #[arg(long, value_name = "VERSION")]
    to: Option<u32>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Reader {
    #[command(flatten)]
    admin: Admin,
    /// The database role; it exists already.
    role: String,
    /// The environment whose records it sees.
    #[arg(long, default_value = "*")]
    environment: String,
    /// It sees only records of principals in this group.
    #[arg(long, default_value = "*")]
    group: String,
}

pub(super) fn run(source: &Source, command: &Command) -> anyhow::Result<ExitCode> {
    let config = Config::read(&source.config, Arc::default())?;
    let StoreUrl::Postgres(server) = &config.root.store else {
        bail!("the configuration's `store` is {}: there is nothing to migrate", config.root.store);
    };
    match command {
        Command::Migrate(args) => migrate(server, &config.root.retention, args),
        Command::Reader(args) => reader(server, args),
    }
}

fn migrate(server: &Server, retention: &Retention, args: &Migrate) -> anyhow::Result<ExitCode> {
    let reader = server.reader.iter().map(|login| Ok((grantee(login, args)?, Scope::default())));
    let migration = Migration {
        to: args.to,
        hash_partitions: args.hash_partitions,
        plain: args.plain,
        retention: Some(retention.clone()),
        writers: vec![grantee(&server.login, args)?],
        readers: reader.collect::<anyhow::Result<_>>()?,
        widen: false,
    };
    let mut migrator = args.admin.connect(server)?;
    if !args.dry_run && !migrator.try_lock()? {
        note("waiting for another migration to end …\n");
        migrator.lock()?;
    }
    apply(&mut migrator, &migration, args.dry_run)?;
    if !args.dry_run {
        let (edition, version) = (migrator.edition()?, migrator.version()?);
        out(&format!("{}: {edition}, schema version {version}\n", server.target))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn reader(server: &Server, args: &Reader) -> anyhow::Result<ExitCode> {
    let mut migrator = args.admin.connect(server)?;
    migrator.lock()?;
    let scope = Scope { environment: args.environment.clone(), group: args.group.clone() };
    let grantee = Grantee { user: args.role.as_str().into(), login: None };
    for step in migrator.admit(&grantee, &scope)? {
        migrator.run(&step).with_context(|| step.title.clone())?;
    }
    out(&format!("{} reads environment {}, group {}\n", args.role, args.environment, args.group))?;
    Ok(ExitCode::SUCCESS)
}

fn apply(migrator: &mut Migrator, migration: &Migration, dry_run: bool) -> anyhow::Result<()> {
    match migrator.extension(migration)? {
        Some(_) if dry_run => {
            note(
                "TimescaleDB's extension is not there yet: with its community edition, the steps after it differ\n",
            );
        }
        Some(step) => migrator.run(&step).with_context(|| step.title.clone())?,
        None => {}
    }
    for step in migrator.plan(migration)? {
        if dry_run {
            out(&format!(
                "-- {}\nBEGIN;\n{};\nCOMMIT;\n",
                step.title,
                step.sql.trim_end().trim_end_matches(';')
            ))?;
            for sql in &step.afterwards {
                out(&format!("{sql};\n"))?;
            }
            continue;
        }
        migrator.run(&step).with_context(|| step.title.clone())?;
        note(&format!("{}\n", step.title));
    }
    Ok(())
}

fn grantee(login: &StoreLogin, args: &Migrate) -> anyhow::Result<Grantee> {
    let with_password = if args.create_logins { Some(login.read()?) } else { None };
    Ok(Grantee { user: login.user.clone(), login: with_password })
}

impl Admin {
    fn connect(&self, server: &Server) -> anyhow::Result<Migrator> {
        let (target, login) = self.login(server)?;
        Migrator::connect(&target, &login).with_context(|| format!("{} at {target}", login.user))
    }

    /// Where to, and as whom.
    pub(super) fn login(&self, server: &Server) -> anyhow::Result<(Target, Arc<Login>)> {
        let (target, user) = match &self.url {
            None => (server.target.clone(), "postgres".into()),
            Some(url) => match StoreUrl::parse(url).map_err(anyhow::Error::msg).context("--url")? {
                StoreUrl::Postgres(admin) => (admin.target, admin.login.user),
                StoreUrl::Sqlite(_) => bail!("--url: a postgres:// URL is expected"),
            },
        };
        Ok((target, Arc::new(Login::new(user, self.password()?))))
    }

    fn password(&self) -> anyhow::Result<Secret> {
        let text = match &self.password_file {
            Some(path) => std::fs::read_to_string(path).with_context(|| path.display().to_string())?,
            // A server may let the administrator in without one, on a socket for example.
            None => std::env::var(&self.password_env).unwrap_or_default(),
        };
        Ok(Secret::from(text.strip_suffix('\n').unwrap_or(&text)))
    }
}
