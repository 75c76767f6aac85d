//! Personal data from a record to its erasure, on real files.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use doorward_core::{AccessId, AccessRecord, Actor, Clock, Personal, Principal, SystemClock};
use doorward_settings::{Document, HumanDuration};
use doorward_testkit::postgres::{Cluster, Database};
use uuid::Uuid;

use super::keys::{Lookup, MasterKey, Root};
use super::open::{ALTERED, ERASED, Opener, Reader, SEALED, Whom};
use super::pending::{Entry, Pending};
use super::seal::{Kind, Parsed, Place, Sealing};
use super::service::{DAY_US, Expiry, KeyError, OpenKeys, Opened, Who};
use super::start::{Started, start_with};
use super::store::postgres::PostgresKeys;
use super::store::sqlite::SqliteKeys;
use super::store::{Imported, KeyStore, KeyStoreError, Known, NewSubject};
use super::testing::{masters, never};
use super::{Fields, xaes};
use crate::columns::COLUMNS;
use crate::config::{AuditConfig, Retention, StoreUrl};
use crate::query::{Cell, Filter, Row, Timeline};
use crate::row::Value;
use crate::spool::files::{Directory, Files};
use crate::spool::model::{FakeDisk, record};
use crate::{Audit, AuditError, Status, waiting};

const SOON: Duration = Duration::from_secs(90);

fn config(dir: &Path) -> AuditConfig {
    let mut config = AuditConfig::default().relative_to(dir);
    // The records of these tests have a fixed time.
    config.retention = Retention { age: None, size: None, ..Retention::default() };
    config
}

/// A call of somebody, with one value in each personal column.
fn call_of(subject: &str) -> Box<AccessRecord> {
    let mut record = record();
    record.access_id = AccessId::fresh();
    let mut principal = (**record.principal.as_ref().unwrap()).clone();
    principal.subject = subject.into();
    principal.email = Some(format!("{subject}@corp.example").as_str().into());
    principal.claims_json = format!(r#"{{"sub":"{subject}","name":"The Name of {subject}"}}"#).into();
    principal.actors = vec![Actor { issuer: None, subject: format!("agent-of-{subject}").as_str().into() }];
    record.principal = Some(Arc::new(principal));
    record.source_ip = Some(Personal::new("203.0.113.77".parse().unwrap()));
    record.operation = Some(format!("select of {subject}").as_str().into());
    record
}

fn nobodys_call() -> Box<AccessRecord> {
    let mut record = call_of("nobody");
    record.principal = Some(Arc::new(Principal::public()));
    record
}

fn keep(audit: &Audit, record: Box<AccessRecord>) {
    let durable = audit.recorder().reserve().expect("there is room").complete(record);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(durable).unwrap();
}

fn until(audit: &Audit, ready: impl Fn(&Status) -> bool) -> Status {
    let started = Instant::now();
    loop {
        let status = audit.status();
        if ready(&status) {
            return status;
        }
        assert!(started.elapsed() < SOON, "{status:?}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

fn rows(config: &AuditConfig) -> Vec<Row> {
    let all = Filter { limit: Some(usize::MAX), ..Filter::default() };
    Timeline::open(config.store.path().unwrap()).unwrap().query(&all).unwrap()
}

fn stop(audit: Audit) {
    assert!(audit.shutdown(SOON));
}

/// Keeps these calls with a gateway that then stops.
fn kept(config: &AuditConfig, calls: impl IntoIterator<Item = Box<AccessRecord>>) -> Vec<Row> {
    let audit = loop {
        match Audit::open(config) {
            // A process that another test is starting holds the lock until it has become another program.
            Err(AuditError::InUse(_)) => std::thread::park_timeout(Duration::from_millis(10)),
            other => break other.unwrap(),
        }
    };
    for call in calls {
        keep(&audit, call);
    }
    stop(audit);
    rows(config)
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

#[track_caller]
fn nowhere(folder: &Path, wanted: &[&[u8]]) {
    let mut searched = 0;
    for file in files(folder) {
        // A running gateway renames and removes files of its own.
        let bytes = std::fs::read(&file).unwrap_or_default();
        searched += bytes.len();
        for wanted in wanted {
            assert!(
                !contains(&bytes, wanted),
                "{:?} stands in {}",
                wanted.escape_ascii().to_string(),
                file.display()
            );
        }
    }
    assert!(searched > 4_000, "there was nothing to search");
}

fn subject(name: &str) -> Whom {
    Whom::Subject { subject: name.to_owned(), issuer: None }
}

#[test]
fn what_is_kept_of_a_person_tells_nothing_without_the_keys() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let audit = Audit::open(&config).unwrap();
    keep(&audit, call_of("ann"));
    keep(&audit, nobodys_call());
    // The spool too: its segments are still there.
    nowhere(dir.path(), &[b"corp.example", b"agent-of", b"203.0.113.77", b"select of", b"The Name of"]);
    let id = Opener::open(&config).unwrap().find(&subject("ann")).unwrap()[0].id;
    let (wrapped, key) = key_of(&config, id);
    nowhere(dir.path(), &[&key]);
    assert!(
        files(dir.path()).iter().any(|file| contains(&std::fs::read(file).unwrap_or_default(), &wrapped))
    );
    stop(audit);
    nowhere(dir.path(), &[b"corp.example", b"agent-of", b"203.0.113.77", b"select of", b"The Name of"]);

    let shown = |rows: &[Row], column: &str| -> Vec<String> {
        rows.iter().map(|row| row.text(column).unwrap_or("-").to_owned()).collect()
    };
    let rows = rows(&config);
    let opened = Reader::new(&config).rows(&rows);
    assert_eq!(shown(&opened, "principal_email"), ["ann@corp.example", "-"]);
    assert_eq!(shown(&opened, "source_ip"), ["203.0.113.77", "203.0.113.77"]);
    assert_eq!(shown(&opened, "on_behalf_of"), [r#"[{"sub":"agent-of-ann"}]"#, "-"]);
    // Without the keys a value is told to be sealed, and JSON stays JSON.
    std::fs::rename(dir.path().join("data/master.key"), dir.path().join("elsewhere")).unwrap();
    let mut reader = Reader::new(&config);
    let closed = reader.rows(&rows);
    assert!(reader.trouble().unwrap().to_string().contains("master.key"));
    assert_eq!(shown(&closed, "principal_email"), [SEALED, "-"]);
    assert_eq!(shown(&closed, "claims"), [format!("\"{SEALED}\""), "-".to_owned()]);
    assert_eq!(shown(&closed, "verb"), ["read", "read"]);
}

#[test]
fn an_erased_person_is_gone_and_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let audit = Audit::open(&config).unwrap();
    for name in ["ann", "bob"] {
        keep(&audit, call_of(name));
    }
    until(&audit, |status| status.shipped_total == 2);
    let before = rows(&config);
    let mut opener = Opener::open(&config).unwrap();
    let ann = opener.find(&Whom::Email("ANN@corp.example".to_owned())).unwrap();
    assert_eq!(ann.len(), 1);
    let person = ann[0].person.as_ref().unwrap();
    assert_eq!((person.issuer.as_str(), person.subject.as_str()), ("corp", "ann"));
    let (wrapped, key) = key_of(&config, ann[0].id);
    assert!(contains(&std::fs::read(dir.path().join("data/subjects.db-wal")).unwrap(), &wrapped));

    opener.erase(&[ann[0].id], 7_000_000).unwrap();
    let erased = Instant::now();
    assert_eq!(opener.erased_at(ann[0].id).unwrap(), Some(7_000_000));
    assert!(opener.find(&subject("ann")).unwrap().is_empty());
    nowhere(dir.path(), &[&wrapped, &key[..], b"ann@corp", b"The Name of ann"]);

    // The stored values, and so the leaves, are what they were; the readers say what became of them.
    assert_eq!(rows(&config), before);
    let opened = Reader::new(&config).rows(&before);
    for (name, expected) in [("principal_subject", [ERASED, "bob"]), ("operation", [ERASED, "select of bob"])]
    {
        let shown: Vec<_> = opened.iter().map(|row| row.text(name).unwrap()).collect();
        assert_eq!(shown, expected);
    }
    // The running gateway forgets the key soon: the same person is somebody else from then on.
    let id = |row: &Row| row.text("subject_id").unwrap().to_owned();
    let mut count = 2;
    loop {
        keep(&audit, call_of("ann"));
        count += 1;
        until(&audit, |status| status.shipped_total == count);
        if rows(&config).last().map(id) != Some(ann[0].id.to_string()) {
            break;
        }
        assert!(erased.elapsed() < SOON, "the key is still in use");
        std::thread::park_timeout(Duration::from_millis(200));
    }
    let again = Opener::open(&config).unwrap().find(&subject("ann")).unwrap();
    assert_eq!(again.len(), 1);
    assert_eq!(rows(&config).last().map(id), Some(again[0].id.to_string()));
    stop(audit);
}

/// A call of somebody that begins now.
fn call_now(subject: &str) -> Box<AccessRecord> {
    let mut call = call_of(subject);
    call.ts = SystemClock.now();
    call
}

#[test]
fn a_call_that_ends_after_its_caller_was_erased_does_not_bring_them_back() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let audit = Audit::open(&config).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    // Calls in flight: each has written that it begins.
    let mut flying = Vec::new();
    for _ in 0..40 {
        let call = call_now("ann");
        let mut slot = audit.recorder().reserve().unwrap();
        let durable = slot.intent(&call);
        runtime.block_on(durable).unwrap();
        flying.push((slot, call));
    }
    keep(&audit, call_now("bob"));
    let mut opener = Opener::open(&config).unwrap();
    let ann = opener.find(&subject("ann")).unwrap().remove(0).id;
    // The erasure races the ends of half of them.
    let late = flying.split_off(20);
    let racing = std::thread::scope(|scope| {
        let ends =
            scope.spawn(|| flying.into_iter().map(|(slot, call)| slot.complete(call)).collect::<Vec<_>>());
        opener.erase(&[ann], SystemClock.now().micros()).unwrap();
        ends.join().unwrap()
    });
    racing.into_iter().for_each(|durable| runtime.block_on(durable).unwrap());
    // Once the gateway has forgotten the key, the others end, beside a call that has begun since.
    let of = |id: Uuid| {
        let id = id.to_string();
        rows(&config).iter().filter(|row| row.text("subject_id") == Some(&id)).count()
    };
    eventually(|| {
        keep(&audit, call_now("ann"));
        opener.find(&subject("ann")).unwrap().len() == 1
    });
    let again = opener.find(&subject("ann")).unwrap()[0].id;
    assert_ne!(again, ann);
    for (slot, call) in late {
        runtime.block_on(slot.complete(call)).unwrap();
    }
    keep(&audit, call_now("ann"));
    stop(audit);

    // All that began before is under the id that was erased, and nobody can read it.
    assert!(of(ann) >= 40, "{}", of(ann));
    assert!(of(again) >= 2);
    let shown = Reader::new(&config).rows(&rows(&config));
    let id = ann.to_string();
    let of_ann = shown.iter().filter(|row| row.text("subject_id") == Some(&id));
    assert!(of_ann.clone().all(|row| row.text("principal_subject") == Some(ERASED)));
    assert!(of_ann.clone().all(|row| row.text("operation") == Some(ERASED)));

    // The next start, too, knows when a call began that an earlier one has left open.
    let before = of(ann);
    let audit = Audit::open(&config).unwrap();
    let mut old = call_of("ann");
    old.ts = doorward_core::Timestamp::from_micros(SystemClock.now().micros() - DAY_US);
    keep(&audit, old);
    stop(audit);
    assert_eq!(opener.find(&subject("ann")).unwrap().len(), 1);
    assert_eq!(of(ann), before + 1);
}

/// A person's key, wrapped and in clear.
fn key_of(config: &AuditConfig, id: Uuid) -> (Vec<u8>, [u8; 32]) {
    let masters = super::start::masters(config, false).unwrap();
    let mut opened = Opened::new(super::start::opener(config)().unwrap(), &masters).unwrap();
    let Known::Kept(row) = opened.store.known(id).unwrap() else { panic!("no such id") };
    let key = opened.root.unwrap(id, &row.key).unwrap();
    (row.key, *key)
}

#[test]
fn a_value_that_was_moved_or_changed_does_not_open() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let rows = kept(&config, [call_of("ann"), call_of("ann"), call_of("bob")]);
    let mut reader = Reader::new(&config);
    let place = |name: &str| COLUMNS.iter().position(|column| column.name == name).unwrap();
    let mut swapped = |name: &str, row: usize, from: (usize, &str)| {
        let mut cells = rows[row].cells().to_vec();
        cells[place(name)] = rows[from.0].cells()[place(from.1)].clone();
        reader.rows(&[Row::new(cells)]).remove(0).text(name).unwrap().to_owned()
    };
    assert_eq!(swapped("principal_email", 0, (0, "principal_email")), "ann@corp.example");
    // From another column, another record of the same person, another person.
    assert_eq!(swapped("principal_email", 0, (0, "principal_subject")), ALTERED);
    assert_eq!(swapped("principal_email", 0, (1, "principal_email")), ALTERED);
    assert_eq!(swapped("principal_email", 0, (2, "principal_email")), ALTERED);
    // A row that is given to somebody else.
    let mut cells = rows[0].cells().to_vec();
    cells[place("subject_id")] = rows[2].cells()[place("subject_id")].clone();
    let moved = reader.rows(&[Row::new(cells)]).remove(0);
    assert_eq!(moved.text("principal_subject"), Some(ALTERED));
    // What was never sealed is shown as it is: records of the first version, and texts of callers elsewhere.
    let mut cells = rows[0].cells().to_vec();
    cells[place("principal_subject")] = Cell::Text("of before".to_owned());
    cells[place("user_agent")] = rows[2].cells()[place("principal_email")].clone();
    let Cell::Text(pretended) = cells[place("user_agent")].clone() else { panic!() };
    let shown = reader.rows(&[Row::new(cells)]).remove(0);
    assert_eq!(shown.text("principal_subject"), Some("of before"));
    assert_eq!(shown.text("user_agent"), Some(pretended.as_str()));
}

#[test]
fn an_operator_may_have_more_columns_sealed() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.personal.fields = ["object", "user_agent", "groups"].map(str::to_owned).into();
    let mut call = call_of("ann");
    call.user_agent = Some("agent-of-ann/1".into());
    let rows = kept(&config, [call]);
    nowhere(dir.path(), &[b"agent-of-ann/1", b"public/orders", b"analysts"]);
    let opened = Reader::new(&config).rows(&rows);
    assert_eq!(opened[0].text("object"), Some("public/orders"));
    assert_eq!(opened[0].text("user_agent"), Some("agent-of-ann/1"));
    assert_eq!(opened[0].text("groups"), Some(r#"["analysts"]"#));
    for (fields, expected) in [
        ("[user_agnt]", "there is no column `user_agnt`; did you mean \"user_agent\"?"),
        ("[subject_id]", "`subject_id` cannot be sealed: records are found, grouped or kept by it"),
    ] {
        let text = format!("personal: {{ fields: {fields} }}");
        let document = Document::parse("doorward.yaml", &text).unwrap();
        let config: AuditConfig = document.root().deserialize().unwrap();
        assert_eq!(config.problem(), Some(("personal.fields", expected.to_owned())));
    }
    let text = "personal: { store: 'postgres://keys@127.0.0.1/keys' }";
    let document = Document::parse("doorward.yaml", text).unwrap();
    let config: AuditConfig = document.root().deserialize().unwrap();
    assert_eq!(config.problem().unwrap().0, "personal.master_key");
}

#[test]
fn nonces_do_not_repeat() {
    let mut seen = std::collections::HashSet::new();
    let key = xaes::fresh_key().unwrap();
    // Three starts of gateways that share a key.
    for _ in 0..3 {
        let mut sealing = Sealing::new(Fields::with(&[])).unwrap();
        let ready = sealing.ready(Uuid::from_u128(1), Kind::Person, &key).unwrap();
        for number in 0..500_u128 {
            let mut call = sealing.call(&ready, Uuid::from_u128(number).as_bytes());
            let field = call.fields().flatten().next().unwrap();
            let mut sealed = Vec::new();
            call.value(field, &Value::Text("x".into())).unwrap().put(&mut sealed);
            let sealed = String::from_utf8(sealed).unwrap();
            assert!(seen.insert(sealed[..27].to_owned()), "a nonce came twice");
            let column = field.name;
            let (subject_id, access_id) = (Uuid::from_u128(1), Uuid::from_u128(number));
            let place = Place { subject_id, access_id, column, action: 0 };
            let parsed = Parsed::read(&sealed).unwrap();
            let derived = xaes::derive(&key, &parsed.first).unwrap();
            assert_eq!(parsed.open(&derived, &place).unwrap(), "x");
        }
        assert!(!sealing.take_failure());
    }
}

#[test]
fn two_gateways_agree_on_whose_id_is_whose() {
    let dir = tempfile::tempdir().unwrap();
    let shared = dir.path().join("shared/keys.db");
    let gateways: Vec<AuditConfig> = (0..2)
        .map(|number| {
            let mut config = config(&dir.path().join(number.to_string()));
            config.personal.store = Some(StoreUrl::sqlite(&shared));
            config
        })
        .collect();
    let names: Vec<String> = (0..40).map(|number| format!("person-{number}")).collect();
    std::thread::scope(|scope| {
        for config in &gateways {
            scope.spawn(|| kept(config, names.iter().map(|name| call_of(name))));
        }
    });
    let ids = |config: &AuditConfig| -> Vec<String> {
        let rows = Reader::new(config).rows(&rows(config));
        let mut ids: Vec<_> = rows
            .iter()
            .map(|row| {
                format!("{} {}", row.text("principal_subject").unwrap(), row.text("subject_id").unwrap())
            })
            .collect();
        ids.sort();
        ids
    };
    assert_eq!(ids(&gateways[0]), ids(&gateways[1]));
    assert_eq!(ids(&gateways[0]).len(), 40);
}

#[test]
fn the_wrong_master_key_is_no_master_key() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    kept(&config, [call_of("ann")]);
    let file = dir.path().join("data/master.key");
    let right = std::fs::read_to_string(&file).unwrap();
    let refused = |expected: &str| {
        let error = Audit::open(&config).unwrap_err();
        assert!(matches!(error, AuditError::Keys(_)), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
        assert!(Reader::new(&config).trouble().unwrap().to_string().contains(expected));
        assert!(!error.to_string().contains(right.trim()));
    };
    std::fs::write(&file, MasterKey::generate().unwrap().as_bytes()).unwrap();
    refused("restore that key, or name it in `personal.old_master_keys`");
    std::fs::write(&file, "hunter2").unwrap();
    refused("32 random bytes are expected");
    std::fs::remove_file(&file).unwrap();
    assert!(Audit::open(&config).unwrap_err().to_string().contains("restore it from its backup"));
    assert!(!file.exists(), "another key was made in its place");
    std::fs::write(&file, &right).unwrap();
    assert_eq!(kept(&config, [call_of("ann")]).len(), 2);
}

#[test]
fn a_master_key_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    kept(&config, [call_of("ann")]);
    let (old, new) = (dir.path().join("old"), dir.path().join("new"));
    std::fs::rename(dir.path().join("data/master.key"), &old).unwrap();
    std::fs::write(&new, MasterKey::generate().unwrap().as_bytes()).unwrap();
    let text = format!(
        "personal: {{ master_key: 'file:{}', old_master_keys: ['file:{}'] }}",
        new.display(),
        old.display()
    );
    let document = Document::parse("doorward.yaml", &text).unwrap();
    config.personal = document.root().deserialize::<AuditConfig>().unwrap().personal;
    // Both gateways that have the old one and those that have the new one work, until the end.
    kept(&config, [call_of("bob")]);
    Opener::open(&config).unwrap().rewrap(true).unwrap();
    kept(&config, [call_of("ann")]);
    let id = Opener::open(&config).unwrap().rewrap(false).unwrap();
    config.personal.old_master_keys.clear();
    let rows = kept(&config, [call_of("ann")]);
    let opened = Reader::new(&config).rows(&rows);
    let names: Vec<_> = opened.iter().map(|row| row.text("principal_subject").unwrap()).collect();
    assert_eq!(names, ["ann", "bob", "ann", "ann"]);
    assert_eq!(opened[0].text("subject_id"), opened[3].text("subject_id"));
    config.personal.master_key = None;
    std::fs::rename(&old, dir.path().join("data/master.key")).unwrap();
    let error = Audit::open(&config).unwrap_err().to_string();
    assert!(error.contains(id.as_str()), "{error}");
}

#[test]
fn the_mapping_of_the_first_version_is_sealed_in_place() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    std::fs::create_dir(dir.path().join("data")).unwrap();
    let file = rusqlite::Connection::open(dir.path().join("data/subjects.db")).unwrap();
    file.execute_batch(
        "PRAGMA journal_mode = WAL;
         CREATE TABLE subject (issuer TEXT NOT NULL, subject TEXT NOT NULL, subject_id TEXT NOT NULL,
                               PRIMARY KEY (issuer, subject)) WITHOUT ROWID",
    )
    .unwrap();
    let id = Uuid::new_v4();
    for (name, id) in [("ann", id), ("person-of-before", Uuid::new_v4())] {
        file.execute("INSERT INTO subject VALUES ('corp', ?1, ?2)", [name, &id.to_string()]).unwrap();
    }
    drop(file);
    let rows = kept(&config, [call_of("ann")]);
    assert_eq!(rows[0].text("subject_id"), Some(id.to_string().as_str()));
    nowhere(&dir.path().join("data"), &[b"person-of-before"]);
    let mut opener = Opener::open(&config).unwrap();
    assert_eq!(opener.find(&subject("person-of-before")).unwrap().len(), 1);
    // An address that is learned later leads to the person too.
    assert_eq!(opener.ids("ann@corp.example").unwrap(), [id]);
}

/// A key store that can be away.
struct Flaky {
    inner: SqliteKeys,
    away: Arc<AtomicBool>,
}

impl Flaky {
    fn check(&self) -> Result<(), KeyStoreError> {
        match self.away.load(Ordering::Relaxed) {
            true => Err(KeyStoreError::Away("unplugged".to_owned())),
            false => Ok(()),
        }
    }
}

impl KeyStore for Flaky {
    fn roots(&mut self) -> Result<Vec<(super::KeyId, Vec<u8>)>, KeyStoreError> {
        self.check().and_then(|()| self.inner.roots())
    }
    fn found(
        &mut self,
        id: &super::KeyId,
        wrapped: &[u8],
    ) -> Result<Vec<(super::KeyId, Vec<u8>)>, KeyStoreError> {
        self.check().and_then(|()| self.inner.found(id, wrapped))
    }
    fn rewrap(
        &mut self,
        id: &super::KeyId,
        wrapped: &[u8],
        keep: &[super::KeyId],
    ) -> Result<(), KeyStoreError> {
        self.check().and_then(|()| self.inner.rewrap(id, wrapped, keep))
    }
    fn find(
        &mut self,
        identities: &[Lookup],
    ) -> Result<Vec<Option<super::store::SubjectRow>>, KeyStoreError> {
        self.check().and_then(|()| self.inner.find(identities))
    }
    fn erasures(
        &mut self,
        identities: &[Lookup],
    ) -> Result<Vec<Option<super::store::Erasure>>, KeyStoreError> {
        self.check().and_then(|()| self.inner.erasures(identities))
    }
    fn agree(&mut self, rows: &[NewSubject]) -> Result<Vec<super::store::SubjectRow>, KeyStoreError> {
        self.check().and_then(|()| self.inner.agree(rows))
    }
    fn import(&mut self, rows: &[NewSubject]) -> Result<Vec<Imported>, KeyStoreError> {
        self.check().and_then(|()| self.inner.import(rows))
    }
    fn rename(&mut self, id: Uuid, names: &[Lookup], person: &[u8]) -> Result<(), KeyStoreError> {
        self.check().and_then(|()| self.inner.rename(id, names, person))
    }
    fn named(&mut self, name: &Lookup) -> Result<Vec<Uuid>, KeyStoreError> {
        self.check().and_then(|()| self.inner.named(name))
    }
    fn all_of(&mut self, identity: &Lookup) -> Result<Vec<super::store::SubjectRow>, KeyStoreError> {
        self.check().and_then(|()| self.inner.all_of(identity))
    }
    fn known(&mut self, id: Uuid) -> Result<Known, KeyStoreError> {
        self.check().and_then(|()| self.inner.known(id))
    }
    fn erase(&mut self, ids: &[Uuid], at_us: i64) -> Result<(), KeyStoreError> {
        self.check().and_then(|()| self.inner.erase(ids, at_us))
    }
    fn erased_since(&mut self, number: i64) -> Result<(i64, Vec<Uuid>), KeyStoreError> {
        self.check().and_then(|()| self.inner.erased_since(number))
    }
    fn expire(&mut self, day: Option<i64>, before: i64) -> Result<usize, KeyStoreError> {
        self.check().and_then(|()| self.inner.expire(day, before))
    }
}

/// A writer's keys over a file that can be away, and a spool's disk.
struct World {
    folder: tempfile::TempDir,
    away: Arc<AtomicBool>,
    disk: FakeDisk,
    masters: Arc<super::keys::Masters>,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder, away: Arc::default(), disk: FakeDisk::default(), masters: masters() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("keys.db")
    }

    fn start(&self) -> Result<Started, KeyError> {
        let (path, away) = (self.path(), self.away.clone());
        let open: OpenKeys = Box::new(move || {
            let store = Flaky { inner: SqliteKeys::open(&path)?, away: away.clone() };
            store.check()?;
            Ok(Box::new(store) as Box<dyn KeyStore>)
        });
        let files: Arc<dyn Files> = Arc::new(self.disk.clone());
        let pending = Arc::new(Pending::open(files, 1, self.masters.clone())?);
        start_with(open, self.masters.clone(), pending, Sealing::new(Fields::with(&[]))?, never())
    }

    fn opened(&self) -> Opened {
        Opened::new(Box::new(SqliteKeys::open(&self.path()).unwrap()), &self.masters).unwrap()
    }

    fn ids_in_store(&self, name: &str) -> Vec<Uuid> {
        let mut opened = self.opened();
        let identity = opened.root.identity("corp", name);
        let mut rows = opened.store.all_of(&identity).unwrap();
        rows.sort_by_key(|row| row.created_us);
        rows.iter().map(|row| row.id).collect()
    }
}

fn id_of(started: &mut Started, name: &str) -> Uuid {
    let call = call_of(name);
    started.keyring.keys(std::iter::once(&*call)).unwrap()[0].id
}

fn eventually(mut ready: impl FnMut() -> bool) {
    let began = Instant::now();
    while !ready() {
        assert!(began.elapsed() < SOON, "it did not come to be");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

#[test]
fn a_key_store_that_is_away_in_mid_run_stops_nothing() {
    let world = World::new();
    let mut gateway = world.start().unwrap();
    let ann = id_of(&mut gateway, "ann");
    world.away.store(true, Ordering::Relaxed);
    // Who is known goes on as before; who is new gets a key that waits in the spool, wrapped.
    assert_eq!(id_of(&mut gateway, "ann"), ann);
    let bob = id_of(&mut gateway, "bob");
    assert_eq!(id_of(&mut gateway, "bob"), bob);
    assert_eq!(gateway.pending.len(), 1);
    eventually(|| gateway.told.error().is_some());
    let waiting = world.disk.content(".pending");
    assert!(!contains(&waiting, b"bob") && waiting.len() > 100);
    // Meanwhile another gateway, which reaches the store, meets bob too.
    let other = {
        let mut opened = world.opened();
        let who = Who::Person { issuer: "corp".into(), subject: "bob".into(), email: None };
        opened.resolve(&[who]).unwrap()[0].id
    };
    world.away.store(false, Ordering::Relaxed);
    eventually(|| gateway.pending.len() == 0);
    assert_eq!(gateway.told.error(), None);
    assert!(world.disk.content(".pending").is_empty());
    // Both ids are bob's, and from now on there is one.
    let mut ids = world.ids_in_store("bob");
    ids.sort();
    let mut both = [bob, other];
    both.sort();
    assert_eq!(ids, both);
    eventually(|| id_of(&mut gateway, "bob") == other);
}

#[test]
fn a_key_store_that_is_away_at_the_start_stops_nothing() {
    let world = World::new();
    // The store has keys of an earlier run.
    let ann = id_of(&mut world.start().unwrap(), "ann");
    world.away.store(true, Ordering::Relaxed);
    let mut gateway = world.start().unwrap();
    let local = id_of(&mut gateway, "ann");
    assert_ne!(local, ann);
    drop(gateway);
    // A start later, still away: the key that waits is used on.
    let mut gateway = world.start().unwrap();
    assert_eq!(id_of(&mut gateway, "ann"), local);
    world.away.store(false, Ordering::Relaxed);
    eventually(|| gateway.pending.len() == 0);
    eventually(|| id_of(&mut gateway, "ann") == ann);
    assert_eq!(world.ids_in_store("ann").len(), 2);
}

#[test]
fn keys_that_wait_under_a_lost_master_key_are_not_passed_over() {
    let mut world = World::new();
    world.away.store(true, Ordering::Relaxed);
    id_of(&mut world.start().unwrap(), "ann");
    world.masters = masters();
    let error = world.start().err().unwrap().to_string();
    assert!(error.contains("keys in the spool lie under the master key"), "{error}");
}

#[test]
fn who_was_erased_is_not_brought_back_by_a_gateway_that_was_cut_off() {
    let world = World::new();
    id_of(&mut world.start().unwrap(), "ann");
    world.away.store(true, Ordering::Relaxed);
    let mut gateway = world.start().unwrap();
    let local = id_of(&mut gateway, "ann");
    let mut opened = world.opened();
    let ids = world.ids_in_store("ann");
    let now = doorward_core::Clock::now(&doorward_core::SystemClock).micros();
    opened.store.erase(&ids, now + 1).unwrap();
    world.away.store(false, Ordering::Relaxed);
    eventually(|| gateway.pending.len() == 0);
    assert!(world.ids_in_store("ann").is_empty());
    assert!(matches!(opened.store.known(local).unwrap(), Known::Erased(_)));
    // And the person who comes again is a new one, also for this gateway.
    eventually(|| id_of(&mut gateway, "ann") != local);
}

#[test]
fn who_is_erased_while_records_and_keys_wait_in_the_spool_stays_erased() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    kept(&config, [call_of("bob")]);
    // Nothing comes to the store; ann's call was made while the key store was away too.
    let mut stopped = config.clone();
    stopped.drain_disabled = true;
    let audit = Audit::open(&stopped).unwrap();
    keep(&audit, call_of("cat"));
    audit.shutdown(Duration::ZERO);
    drop(audit);
    let masters = Arc::new(super::start::masters(&config, false).unwrap());
    let files: Arc<dyn Files> = Arc::new(Directory::existing(&config.spool.dir));
    let who = Who::Person { issuer: "corp".into(), subject: "ann".into(), email: None };
    let ann = Pending::open(files.clone(), 9, masters).unwrap().mint(&[who]).unwrap()[0].id;
    assert_eq!(waiting::waiting(&config, Duration::ZERO).unwrap().as_ref(), Some(&config.spool.dir));

    let mut opener = Opener::open(&config).unwrap();
    assert!(opener.find(&subject("ann")).unwrap().is_empty());
    assert_eq!(opener.take_in_waiting(&config).unwrap(), 1);
    let found = |opener: &mut Opener, name: &str| -> Vec<Uuid> {
        opener.find(&subject(name)).unwrap().iter().map(|found| found.id).collect()
    };
    assert_eq!(found(&mut opener, "ann"), [ann]);
    let cat = found(&mut opener, "cat");
    let now = doorward_core::Clock::now(&doorward_core::SystemClock).micros();
    opener.erase(&[ann, cat[0]], now).unwrap();
    // The wrapped key is gone from the spool with the mapping, and does not come back by a copy of its file.
    assert!(files.list().unwrap().iter().all(|(name, _)| !name.ends_with(".pending")));

    let rows = kept(&config, [call_of("bob")]);
    assert_eq!(waiting::waiting(&config, Duration::ZERO).unwrap(), None);
    let of_cat = rows.iter().find(|row| row.text("subject_id") == Some(&cat[0].to_string())).unwrap().clone();
    let opened = Reader::new(&config).rows(&[of_cat]);
    for column in ["principal_subject", "source_ip", "operation"] {
        assert_eq!(opened[0].text(column), Some(ERASED), "{column}");
    }
    assert!(found(&mut opener, "cat").is_empty() && found(&mut opener, "ann").is_empty());
    assert!(opener.erased_at(ann).unwrap().is_some());
}

#[test]
fn a_mapping_whose_frame_was_lost_is_used_by_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    kept(&config, [call_of("bob")]);
    // The power fails between the two commits: the mapping is there, and no frame uses it.
    let masters = super::start::masters(&config, false).unwrap();
    let mut opened = Opened::new(super::start::opener(&config)().unwrap(), &masters).unwrap();
    let who = Who::Person { issuer: "corp".into(), subject: "ann".into(), email: None };
    let id = opened.resolve(&[who]).unwrap()[0].id;
    drop(opened);
    let rows = kept(&config, [call_of("ann")]);
    assert_eq!(rows[1].text("subject_id"), Some(id.to_string().as_str()));
    assert_eq!(Opener::open(&config).unwrap().find(&subject("ann")).unwrap().len(), 1);
}

#[test]
fn keys_of_past_days_are_destroyed_unless_a_hold_covers_them() {
    let world = World::new();
    let day = |day| Who::Day { environment: "test".into(), day };
    let mut opened = world.opened();
    opened.resolve(&[day(10), day(11)]).unwrap();
    let today = doorward_core::Clock::now(&doorward_core::SystemClock).micros() / DAY_US;
    let kept = opened.resolve(&[day(today)]).unwrap()[0].id;
    let days = |opened: &mut Opened| -> usize {
        [10, 11, today]
            .iter()
            .map(|n| opened.store.all_of(&day(*n).identity(&opened.root)).unwrap().len())
            .sum()
    };
    let run = |held: bool, world: &World| {
        let expiry = Expiry { days: Some(30), held: Box::new(move || Ok(held)) };
        let path = world.path();
        let open: OpenKeys = Box::new(move || Ok(Box::new(SqliteKeys::open(&path)?) as Box<dyn KeyStore>));
        let files: Arc<dyn Files> = Arc::new(world.disk.clone());
        let pending = Arc::new(Pending::open(files, 1, world.masters.clone()).unwrap());
        let sealing = Sealing::new(Fields::with(&[])).unwrap();
        start_with(open, world.masters.clone(), pending, sealing, expiry).unwrap()
    };
    let gateway = run(true, &world);
    std::thread::park_timeout(Duration::from_millis(500));
    assert_eq!(days(&mut opened), 3);
    drop(gateway);
    let _gateway = run(false, &world);
    eventually(|| days(&mut opened) == 1);
    assert!(matches!(opened.store.known(kept).unwrap(), Known::Kept(_)));
}

#[test]
fn callers_who_are_not_known_are_sealed_by_the_day() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    let rows = kept(&config, [nobodys_call()]);
    assert_eq!(rows[0].text("subject_id"), None);
    assert!(rows[0].text("source_ip").unwrap().starts_with("d1."));
    assert_eq!(Reader::new(&config).rows(&rows)[0].text("source_ip"), Some("203.0.113.77"));
    config.personal.unknown_callers = Some(HumanDuration::new(Duration::from_secs(1)));
    let masters = super::start::masters(&config, false).unwrap();
    let mut opened = Opened::new(super::start::opener(&config)().unwrap(), &masters).unwrap();
    assert_eq!(opened.store.expire(Some(i64::MAX), 0).unwrap(), 1);
    assert_eq!(Reader::new(&config).rows(&rows)[0].text("source_ip"), Some(ERASED));
}

/// What every kind of key store promises.
fn promises(open: &dyn Fn() -> Box<dyn KeyStore>) {
    let masters = masters();
    let mut one = Opened::new(open(), &masters).unwrap();
    let mut two = Opened::new(open(), &masters).unwrap();
    assert!(matches!(Opened::new(open(), &super::testing::masters()), Err(KeyError::WrongMaster { .. })));
    let who = |name: &str, email: Option<&str>| Who::Person {
        issuer: "corp".into(),
        subject: name.into(),
        email: email.map(Into::into),
    };
    let new = |name: &str, created_us, root: &Root| {
        let who = who(name, Some("a@x"));
        Entry { who, id: Uuid::new_v4(), key: xaes::fresh_key().unwrap(), created_us }.sealed(root).unwrap()
    };
    // One id for all, with the same key.
    let mine = one.resolve(&[who("ann", None), who("bob", None)]).unwrap();
    let theirs = two.resolve(&[who("bob", Some("bob@x")), who("ann", None), who("eve", None)]).unwrap();
    assert_eq!((mine[0].id, mine[1].id), (theirs[1].id, theirs[0].id));
    assert_eq!(mine[0].bytes, theirs[1].bytes);
    let (bob, email) = (mine[1].id, one.root.email("BOB@x"));
    assert_eq!(one.store.named(&email).unwrap(), [bob]);
    // Rows that are offered together with others who were first.
    let rows = [new("ann", 5, &one.root), new("zoe", 5, &one.root)];
    let agreed = one.store.agree(&rows).unwrap();
    assert_eq!((agreed[0].id, agreed[1].id), (mine[0].id, rows[1].row.id));
    assert_eq!(agreed[1], rows[1].row);
    // Rows of a gateway that was cut off.
    let rows = [new("ann", 6, &one.root), new("kim", 6, &one.root)];
    assert_eq!(one.store.import(&rows).unwrap(), [Imported::Further, Imported::First]);
    assert_eq!(one.store.import(&rows).unwrap(), [Imported::Further, Imported::First]);
    let ann = one.root.identity("corp", "ann");
    assert_eq!(two.store.all_of(&ann).unwrap().len(), 2);
    assert_eq!(two.store.find(&[ann]).unwrap()[0].as_ref().unwrap().id, mine[0].id);
    // Erasure.
    assert_eq!(two.store.erased_since(0).unwrap(), (0, Vec::new()));
    one.store.erase(&[mine[0].id, rows[0].row.id], 100).unwrap();
    let (number, ids) = two.store.erased_since(0).unwrap();
    assert_eq!(ids, [mine[0].id, rows[0].row.id]);
    one.store.erase(&[bob], 101).unwrap();
    assert_eq!(two.store.erased_since(number).unwrap().1, [bob]);
    assert_eq!(two.store.known(bob).unwrap(), Known::Erased(101));
    assert!(matches!(two.store.known(rows[1].row.id).unwrap(), Known::Kept(_)));
    assert_eq!(two.store.known(Uuid::from_u128(9)).unwrap(), Known::Unknown);
    assert!(two.store.named(&email).unwrap().is_empty());
    one.store.rename(bob, &[email], b"x").unwrap();
    assert!(two.store.named(&email).unwrap().is_empty(), "a name came back");
    let identities = ["ann", "bob", "kim"].map(|name| one.root.identity("corp", name));
    let found = two.store.erasures(&identities).unwrap();
    assert_eq!(found[0].unwrap().at_us, 100);
    assert_eq!(found[1..], [Some(super::store::Erasure { id: bob, at_us: 101 }), None]);
    let late = [new("ann", 99, &one.root), new("ann", 102, &one.root)];
    assert_eq!(one.store.import(&late).unwrap(), [Imported::Erased, Imported::First]);
    // Expiry.
    let days = [Who::Day { environment: "e".into(), day: 3 }, Who::Day { environment: "e".into(), day: 4 }];
    let keys = one.resolve(&days).unwrap();
    assert!(one.store.expire(Some(4), 0).unwrap() >= 1);
    assert_eq!(one.store.known(keys[0].id).unwrap(), Known::Unknown);
    assert!(matches!(one.store.known(keys[1].id).unwrap(), Known::Kept(_)));
    one.store.expire(None, i64::MAX).unwrap();
    assert_eq!(two.store.erasures(&identities).unwrap(), [None; 3]);
    let forgotten = [new("bob", 50, &one.root)];
    assert_eq!(one.store.import(&forgotten).unwrap(), [Imported::First]);
    // Another master key.
    let other = super::testing::masters();
    let wrapped = other.current.wrap_root(&one.root).unwrap();
    one.store.rewrap(other.current.id(), &wrapped, &[]).unwrap();
    assert!(Opened::new(open(), &masters).is_err());
    let mut opened = Opened::new(open(), &other).unwrap();
    assert_eq!(opened.resolve(&[who("eve", None)]).unwrap()[0].id, theirs[2].id);
}

#[test]
fn a_file_keeps_the_promises_of_a_key_store() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.db");
    promises(&|| Box::new(SqliteKeys::open(&path).unwrap()));
}

/// A database whose `keys_login` may make a schema in it and nothing else.
fn database(cluster: &'static Cluster) -> (Database<'static>, StoreUrl, tempfile::TempDir) {
    const PASSWORD: &str = "of-the-key-stores-login";
    cluster.ensure_role("keys_login", &format!("LOGIN PASSWORD '{PASSWORD}'")).unwrap();
    let database = cluster.database().unwrap();
    database.sql(&format!("GRANT CREATE ON DATABASE \"{}\" TO keys_login", database.name())).unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("password"), PASSWORD).unwrap();
    let url = database.url().replace("postgres://", "postgres://keys_login@");
    let yaml = format!(
        "personal: {{ store: {{ url: '{url}', password: 'file:{}/password' }} }}",
        folder.path().display()
    );
    let document = Document::parse("doorward.yaml", &yaml).unwrap();
    let config = document.root().deserialize::<AuditConfig>().unwrap();
    (database, config.personal.store.unwrap(), folder)
}

#[test]
fn a_database_keeps_the_promises_of_a_key_store() {
    let (_database, store, _folder) = database(Cluster::shared().unwrap());
    let server = store.server().unwrap();
    promises(&|| Box::new(PostgresKeys::open(server).unwrap()));
}

#[test]
fn gateways_share_a_database_of_keys_and_outlive_its_restart() {
    let cluster: &'static Cluster = Box::leak(Box::new(Cluster::debian().unwrap()));
    let (database, store, _folder) = database(cluster);
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    std::fs::write(&key, MasterKey::generate().unwrap().as_bytes()).unwrap();
    let text = format!("personal: {{ master_key: 'file:{}' }}", key.display());
    let document = Document::parse("doorward.yaml", &text).unwrap();
    let reference = document.root().deserialize::<AuditConfig>().unwrap().personal.master_key;
    let gateways: Vec<AuditConfig> = (0..2)
        .map(|number| {
            let mut config = config(&dir.path().join(number.to_string()));
            config.personal.store = Some(store.clone());
            config.personal.master_key = reference.clone();
            config
        })
        .collect();
    let first = kept(&gateways[0], [call_of("ann")]);
    let audit = Audit::open(&gateways[1]).unwrap();
    keep(&audit, call_of("ann"));
    cluster.stop().unwrap();
    // Known or not, everybody's calls are kept.
    for name in ["ann", "bob"] {
        keep(&audit, call_of(name));
    }
    let status = until(&audit, |status| status.keys_error.is_some());
    assert_eq!((status.keys_pending, status.state), (1, crate::State::Ready));
    cluster.start().unwrap();
    until(&audit, |status| status.keys_error.is_none() && status.keys_pending == 0);
    stop(audit);
    let second = rows(&gateways[1]);
    let opened = Reader::new(&gateways[0]).rows(&second);
    let names: Vec<_> = opened.iter().map(|row| row.text("principal_subject").unwrap()).collect();
    assert_eq!(names, ["ann", "ann", "bob"]);
    assert_eq!(first[0].text("subject_id"), second[0].text("subject_id"));
    // The database holds nothing that can be read.
    let dump = database.sql("SELECT string_agg(s::text, '') FROM doorward_keys.subject s").unwrap();
    assert!(!dump.contains("ann") && !dump.contains("corp") && dump.len() > 500);
    let mut opener = Opener::open(&gateways[0]).unwrap();
    let ann = opener.find(&subject("ann")).unwrap();
    opener.erase(&[ann[0].id], 1).unwrap();
    let again = Reader::new(&gateways[1]).rows(&second);
    let names: Vec<_> = again.iter().map(|row| row.text("principal_subject").unwrap()).collect();
    assert_eq!(names, [ERASED, ERASED, "bob"]);
    // A login that is refused, and a database without a schema for it, are told at the start.
    database.sql("ALTER ROLE keys_login NOLOGIN").unwrap();
    let error = Audit::open(&gateways[0]).unwrap_err().to_string();
    assert!(error.contains("does not accept the login"), "{error}");
}
