//! The key that signs checkpoints.

use doorward_core::Secret;
use doorward_tlog::note::{Kind, Signer, Vkey};

use super::config::CheckpointsConfig;
use crate::AuditError;
use crate::spool::SmallFile;
use crate::spool::files::{Files, is_unwritable};

/// The file of the key that the gateway makes for itself.
const KEY_FILE: &str = "checkpoint-key";
/// The most bytes of that file.
const KEY_BYTES_MAX: usize = 4_096;

/// The name of a gateway's log: what keys are called, and what the origin of its checkpoints begins with.
pub fn log_name(gateway_id: &str) -> String {
    format!("doorward/{gateway_id}")
}

/// The key that the configuration names, or the gateway's own, which is made when there is none.
pub(crate) fn signer(
    files: &dyn Files,
    config: &CheckpointsConfig,
    gateway_id: &str,
    owed: &mut Vec<SmallFile>,
) -> Result<Signer, AuditError> {
    let failed = |text: String| AuditError::Config { key: "checkpoints.key", text };
    let kept = match &config.key {
        Some(reference) => Some(reference.read().map_err(|problem| failed(problem.message))?),
        None => own_key(files).map_err(|error| failed(error.to_string()))?,
    };
    if let Some(text) = kept {
        let signer = Signer::parse(text.expose()).map_err(|error| failed(error.to_string()))?;
        if signer.vkey().kind() != Kind::Ed25519 {
            return Err(failed("it is the key of a witness, not of a log".to_owned()));
        }
        return Ok(signer);
    }
    let made = Signer::generate(&log_name(gateway_id), Kind::Ed25519);
    let (signer, text) = made.map_err(|error| failed(error.to_string()))?;
    match files.put(KEY_FILE, text.as_bytes()) {
        // A gateway comes up on a full disk; the file is written before the first segment is.
        Err(error) if is_unwritable(&error) => owed.push((KEY_FILE, text)),
        done => done.map_err(|error| failed(error.to_string()))?,
    }
    Ok(signer)
}

fn own_key(files: &dyn Files) -> std::io::Result<Option<Secret>> {
    match files.read(KEY_FILE, 0, KEY_BYTES_MAX) {
        Ok(bytes) => {
            let text =
                String::from_utf8(bytes).map_err(|_| std::io::Error::other("the key's file is not text"))?;
            Ok(Some(Secret::from(text)))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The public keys of a gateway's logs, for `doorward audit key`: its own, and that of the processes that administer
/// the timeline, which write through a spool of their own. Makes the keys that are missing, so that those kept
/// elsewhere before anything happened are the ones that are used.
pub fn public_keys(config: &crate::AuditConfig) -> Result<Vec<Vkey>, AuditError> {
    let mut keys = vec![public_key(config)?];
    let administration = public_key(&crate::admin::spool_of_its_own(config))?;
    if !keys.contains(&administration) {
        keys.push(administration);
    }
    Ok(keys)
}

fn public_key(config: &crate::AuditConfig) -> Result<Vkey, AuditError> {
    let dir = &config.spool.dir;
    let failed = |error: std::io::Error| AuditError::Spool {
        dir: dir.display().to_string(),
        cause: error.to_string(),
    };
    let files = crate::spool::files::Directory::open(dir).map_err(failed)?;
    let gateway_id = crate::spool::gateway_id(&files, config.spool.gateway_id.as_deref()).map_err(failed)?;
    let mut owed = Vec::new();
    let signer = signer(&files, &config.checkpoints, &gateway_id, &mut owed)?;
    if owed.is_empty() { Ok(signer.vkey()) } else { Err(failed(std::io::ErrorKind::StorageFull.into())) }
}
