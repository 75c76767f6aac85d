//! The table of doors. A new door is one crate and one line in [`DOORS`].

use std::sync::Arc;
use std::time::Duration;

use doorward_core::{AuditMode, BoxFuture, Code, OwnLogin, Resource, ResourceName};
use doorward_http::HttpDoor;
use doorward_pgclient::{LoginConfig, RolesConfig, Room, SessionClaims, Target};
use doorward_settings::{Node, Problem};
use schemars::{JsonSchema, Schema, SchemaGenerator};

/// A door: what the binary needs to know of a protocol.
#[derive(Debug)]
pub struct Door {
    /// Its name, in records and metrics.
    pub name: &'static str,
    /// The schemes of the resources that it serves.
    pub schemes: &'static [&'static str],
    /// Whether each of its calls needs a backend role, and so its grants `as`.
    pub needs_role: bool,
    /// Checks a resource's section offline.
    pub check: fn(&Node) -> Result<(), Problem>,
    /// What the section says of logging in at the backend.
    pub logins: fn(&Node) -> Result<BackendLogins, Problem>,
    /// Opens a resource.
    pub open: fn(Opening) -> BoxFuture<'static, Result<Opened, Problem>>,
    /// What serves its requests.
    pub http: fn() -> Arc<dyn HttpDoor>,
    /// The schema of a resource's section.
    pub schema: fn(&mut SchemaGenerator) -> Schema,
    /// Its fault codes.
    pub codes: &'static [&'static Code],
}

/// How the gateway logs in at a backend.
#[derive(Debug, Default)]
pub struct BackendLogins {
    /// Its own login; `None` for a resource that has no backend.
    pub own: Option<LoginConfig>,
    /// The logins of roles.
    pub roles: RolesConfig,
    /// The database that they are of.
    pub target: Option<Target>,
    /// Whether a login that may do everything is accepted.
    pub dangerous_superuser: bool,
}

/// What a door opens a resource with.
#[derive(Debug)]
pub struct Opening {
    /// The resource's name.
    pub name: ResourceName,
    /// Its section.
    pub node: Node,
    /// The backend login that the lease organ holds for it.
    pub login: OwnLogin,
    /// The room of its connections, where it was open before: what still runs there counts.
    pub room: Option<Room>,
}

/// An open resource.
#[derive(Clone)]
pub struct Opened {
    /// What the snapshot holds.
    pub resource: Resource,
    /// Says why it cannot answer now, for readiness; `None` when it can.
    pub trouble: Arc<dyn Fn() -> Option<String> + Send + Sync>,
    /// What is known of it when nothing troubles it, for `doctor`.
    pub well: &'static str,
    /// The room of its connections to a database, and its places once this configuration serves.
    pub room: Option<(Room, usize)>,
}

/// The doors.
pub static DOORS: &[Door] = &[rest::DOOR, ingest::DOOR];

/// Schemes of doors that later versions bring.
pub const LATER_SCHEMES: &[(&str, &str)] = &[
    ("s3", "the S3 door"),
    ("airflow+https", "the Airflow door"),
    ("airflow+http", "the Airflow door"),
    ("https", "the HTTP door"),
    ("http", "the HTTP door"),
];

/// Any door's resource section, for the configuration's JSON Schema.
#[derive(Debug)]
pub struct ResourceSchema;

impl JsonSchema for ResourceSchema {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Resource".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let any: Vec<Schema> = DOORS.iter().map(|door| (door.schema)(generator)).collect();
        schemars::json_schema!({ "anyOf": any })
    }
}

mod ingest;

mod rest {
    //! The REST door on PostgreSQL.

    use doorward_door_postgres::{WireConfig, WireResource};
    use doorward_door_rest::{RestConfig, RestDoor, RestResource};

    use super::*;

    /// How long opening a resource waits for its catalogue.
    const CATALOGUE_SPAN_MAX: Duration = Duration::from_secs(3);

    pub(super) const DOOR: Door = Door {
        name: doorward_door_rest::DOOR,
        schemes: &["postgres", "postgresql"],
        needs_role: true,
        check: |node| config(node).map(drop),
        logins: |node| {
            let config = config(node)?;
            let target = RestResource::check(&config).map_err(|error| node.problem(error.to_string()))?;
            Ok(BackendLogins {
                own: Some(config.login),
                roles: config.roles,
                target: Some(target),
                dangerous_superuser: config.dangerous_superuser,
            })
        },
        open: |opening| Box::pin(open(opening)),
        http: || Arc::new(RestDoor),
        schema: |generator| generator.subschema_for::<RestConfig>(),
        codes: doorward_door_rest::codes::CODES,
    };

    fn config(node: &Node) -> Result<RestConfig, Problem> {
        if node.as_str().is_some() {
            return Err(node.problem("a PostgreSQL resource needs a login beside its URL").hint(
                "write it as a mapping: { url: postgres://…, login: { user: …, password: \"env:NAME\" } }",
            ));
        }
        let config: RestConfig = node.deserialize()?;
        RestResource::check(&config).map_err(|error| node.problem(error.to_string()))?;
        Ok(config)
    }

    /// What signs who sessions belong to.
    async fn claims(name: &ResourceName, config: &RestConfig) -> Result<Option<SessionClaims>, Problem> {
        let Some(claims) = &config.claims else { return Ok(None) };
        let reference = claims.key.clone();
        let read = tokio::task::spawn_blocking(move || reference.read()).await;
        let key = read.map_err(|error| claims.key.problem(error.to_string()))??;
        let signer = SessionClaims::new(name, claims, &key);
        signer.map(Some).map_err(|error| claims.key.problem(error.to_string()))
    }

    async fn open(opening: Opening) -> Result<Opened, Problem> {
        let Opening { name, node, login, room } = opening;
        let config = config(&node)?;
        let places = config.pool.places();
        let room = room.unwrap_or_else(|| Room::new(places));
        let wire = match config.roles.is_empty() {
            true => None,
            false => {
                let target = RestResource::check(&config).map_err(|error| node.problem(error.to_string()))?;
                let wired = WireConfig {
                    room: &room,
                    target,
                    pool: &config.pool,
                    replicas: &config.replicas,
                    dangerous_superuser: config.dangerous_superuser,
                };
                let opened = WireResource::open(name.clone(), wired, login.clone()).await;
                let opened = opened.map_err(|error| node.problem(error.to_string()))?;
                Some(Arc::new(opened.with_catalog(config.catalog).with_claims(claims(&name, &config).await?)))
            }
        };
        let opened = RestResource::open(name.clone(), &room, &config, login).await;
        let backend = Arc::new(opened.map_err(|error| node.problem(error.to_string()))?);
        // Calls need the catalogue. A database that is away does not hold up the others for long.
        backend.wait_ready(CATALOGUE_SPAN_MAX).await;
        let watched = backend.clone();
        let wire_watched = wire.clone();
        let trouble =
            move || watched.trouble().or_else(|| wire_watched.as_ref().and_then(|wire| wire.trouble()));
        let resource = Resource {
            name,
            door: doorward_door_rest::DOOR,
            audit: AuditMode::from(config.audit),
            backend,
            beside: wire.map(|wire| wire as _),
        };
        Ok(Opened {
            resource,
            trouble: Arc::new(trouble),
            well: "its login is accepted, and safe",
            room: Some((room, places)),
        })
    }
}
