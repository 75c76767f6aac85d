//! The ingest door: other gateways' records.

use doorward_door_ingest::{CheckError, IngestConfig, IngestDoor, IngestResource, MappingError};

use super::*;

pub(super) const DOOR: Door = Door {
    name: doorward_door_ingest::DOOR,
    schemes: &["ingest"],
    needs_role: false,
    check: |node| config(node).map(drop),
    // Records come to the gateway; there is no backend to log in to.
    logins: |_| Ok(BackendLogins::default()),
    open: |opening| Box::pin(async move { open(&opening) }),
    http: || Arc::new(IngestDoor),
    schema: |generator| {
        let section = generator.subschema_for::<IngestConfig>();
        schemars::json_schema!({ "anyOf": [{ "type": "string", "pattern": "^ingest:" }, section] })
    },
    codes: doorward_door_ingest::codes::CODES,
};

/// Reads a section, or the one line that stands for it.
pub(super) fn config(node: &Node) -> Result<IngestConfig, Problem> {
    let config = match node.as_str() {
        Some(url) => IngestConfig::of_url(url),
        None => node.deserialize()?,
    };
    IngestResource::check(&config).map_err(|error| problem(node, &error))?;
    Ok(config)
}

fn open(opening: &Opening) -> Result<Opened, Problem> {
    let config = config(&opening.node)?;
    let backend = IngestResource::compile(opening.name.clone(), &config);
    let backend = backend.map_err(|error| problem(&opening.node, &error))?;
    let resource = Resource {
        name: opening.name.clone(),
        door: doorward_door_ingest::DOOR,
        audit: AuditMode::from(config.audit),
        backend: Arc::new(backend),
        beside: None,
    };
    Ok(Opened { resource, trouble: Arc::new(|| None), well: "its mapping is in order", room: None })
}

/// The problem at the key, and the entry in it, that it is about.
fn problem(node: &Node, error: &CheckError) -> Problem {
    match error {
        CheckError::Mapping(MappingError { key: (key, entry), message, hint }) => {
            let at = node.get(key).unwrap_or(node);
            let entry =
                entry.as_deref().and_then(|name| at.entries().iter().find(|entry| &*entry.key == name));
            let problem =
                entry.map_or_else(|| at.problem(message.as_str()), |entry| entry.problem(message.as_str()));
            match hint {
                Some(hint) => problem.hint(hint.as_str()),
                None => problem,
            }
        }
        CheckError::Bound { key, text } => node.get(key).unwrap_or(node).problem(*text),
    }
}
