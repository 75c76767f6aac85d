//! A gateway whose checkpoints are cosigned by a witness in a process of its own, and checked by another
//! implementation of the formats.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use doorward_testkit::gateway::{Setup, binary};
use doorward_testkit::postgres::Cluster;
use doorward_testkit::program::{Bounded, Program};
use doorward_testkit::wait_until;
use doorward_tlog::checkpoint::Checkpoint;
use doorward_tlog::note::{Kind, Note, Signer, Vkey};
use serde_json::Value;

use crate::bed::{Bed, GRANTS, SHOP, SOON, block_on, id_of, records};

/// A witness that ends with the test.
struct Witness {
    _program: Program,
    address: String,
    vkey: Vkey,
}

impl Witness {
    fn start(dir: &Path, log: &Vkey) -> Result<Self> {
        let mut program = Command::new(binary()?)
            .args(["witness", "--listen", "127.0.0.1:0", "--name", "witness.example/w1", "--state"])
            .arg(dir.join("seen"))
            .arg("--key")
            .arg(dir.join("witness.key"))
            .args(["--log", &log.to_string()])
            .open()?;
        let said: Value = serde_json::from_str(&program.line()?)?;
        let address = said["listening"].as_str().context("its address")?.to_owned();
        let vkey = Vkey::parse(said["vkey"].as_str().context("its key")?)?;
        Ok(Self { _program: program, address, vkey })
    }
}

#[test]
fn a_witness_cosigns_what_the_gateway_logs() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (log, key) = Signer::generate("doorward/shop-gateway", Kind::Ed25519)?;
    let key_file = dir.path().join("log.key");
    std::fs::write(&key_file, key)?;
    let witness = Witness::start(dir.path(), &log.vkey())?;
    let outside = dir.path().join("outside");
    let more = format!(
        "{GRANTS}\ncheckpoints:\n  interval: 200ms\n  key: 'file:{}'\n  to: ['file:{}']\n  witnesses: [{{ url: 'http://{}', vkey: '{}' }}]\n",
        key_file.display(),
        outside.display(),
        witness.address,
        witness.vkey
    );
    let bed = Bed::start_with(Cluster::shared()?, SHOP, |_, config| Setup::new(&format!("{config}{more}")))?;
    let client = bed.client("ann", &["readers"])?;
    let call =
        || -> Result<String> { block_on(async { id_of(&client.get("/shop/orders?limit=1").await?) })? };
    let first = call()?;
    records(&bed.gateway, std::slice::from_ref(&first))?;
    let mut cosigned = 0;
    for _ in 0..3 {
        call()?;
        let before = cosigned;
        wait_until(SOON, || {
            cosigned =
                newest(&outside).filter(|note| is_cosigned(note, &log.vkey(), &witness.vkey)).map_or(0, size);
            cosigned > before
        });
        ensure!(cosigned > before, "no cosigned checkpoint came: {}", bed.gateway.log());
    }
    agrees(&bed, &outside, &first, &log.vkey(), &witness.vkey)?;
    // A witness that is away stops nothing.
    let witness_key = witness.vkey.clone();
    drop(witness);
    let id = call()?;
    records(&bed.gateway, std::slice::from_ref(&id))?;
    wait_until(SOON, || newest(&outside).is_some_and(|note| size(note) > cosigned));
    let note = newest(&outside).context("a checkpoint")?;
    ensure!(size(note.clone()) > cosigned && log.vkey().verify(&note).is_ok(), "{note}");
    ensure!(witness_key.verify(&note).is_err(), "{note}");
    Ok(())
}

/// An implementation that shares no code with ours finds the same: tiles, proofs, signatures.
fn agrees(bed: &Bed, outside: &Path, id: &str, log: &Vkey, witness: &Vkey) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join("../.cache/tlog/bin/python");
    ensure!(python.is_file(), "no checker: run scripts/setup.sh test");
    let output = bed.gateway.run(&["audit", "prove", id])?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let bundle = outside.with_extension("tlog-proof");
    std::fs::write(&bundle, output.stdout)?;
    let output = Command::new(python)
        .arg(root.join("clients/tlog_check.py"))
        .arg(log_dir(outside).context("the log")?)
        .args([log.to_string(), witness.to_string()])
        .arg(&bundle)
        .run()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    println!("{said}");
    Ok(())
}

fn log_dir(outside: &Path) -> Option<PathBuf> {
    let gateway = std::fs::read_dir(outside).ok()?.flatten().next()?.path();
    Some(std::fs::read_dir(gateway).ok()?.flatten().next()?.path())
}

fn newest(outside: &Path) -> Option<Note> {
    Note::parse(&std::fs::read_to_string(log_dir(outside)?.join("checkpoint")).ok()?).ok()
}

fn size(note: Note) -> u64 {
    Checkpoint::parse(&note.text).map_or(0, |checkpoint| checkpoint.size)
}

fn is_cosigned(note: &Note, log: &Vkey, witness: &Vkey) -> bool {
    log.verify(note).is_ok() && matches!(witness.verify(note), Ok(Some(_)))
}
