//! Metrics of the doors' connections to databases. Labels are resources and states, and the servers that are configured.

use std::sync::atomic::AtomicU64;

use doorward_core::ResourceName;
use doorward_door_postgres::WirePoolStats;
use doorward_pgclient::{PoolStats, Standing};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{Name, ResourceLabels};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    resource: Name,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DoorLabels {
    resource: Name,
    door: &'static str,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServerLabels {
    resource: Name,
    server: String,
}

/// What a resource's connections are doing, and its servers, where replicas serve anybody.
pub(crate) struct PoolState {
    pub(crate) resource: ResourceName,
    pub(crate) rest: PoolStats,
    /// Of the Postgres door, where the resource has one.
    pub(crate) wire: Option<WirePoolStats>,
    pub(crate) servers: Vec<Standing>,
}

/// Registers the gauges of these resources.
pub(super) fn register(registry: &mut Registry, pools: &[PoolState]) {
    if pools.is_empty() {
        return;
    }
    register_servers(registry, pools);
    let connections = Family::<DoorLabels, Gauge>::default();
    let size = Family::<ResourceLabels, Gauge>::default();
    let sessions = Family::<StateLabels, Gauge>::default();
    let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    for PoolState { resource, rest, wire, .. } in pools {
        let resource = || Name(Some(resource.clone()));
        size.get_or_create(&ResourceLabels { resource: resource() }).set(count(rest.size));
        let of_rest = [(doorward_door_rest::DOOR, rest.idle, rest.in_use)];
        let of_wire = wire.iter().map(|wire| (doorward_door_postgres::DOOR, wire.idle, wire.in_use));
        for (door, idle, in_use) in of_rest.into_iter().chain(of_wire) {
            for (state, number) in [("idle", idle), ("in_use", in_use)] {
                let labels = DoorLabels { resource: resource(), door, state };
                connections.get_or_create(&labels).set(count(number));
            }
        }
        let Some(stats) = wire else { continue };
        for (state, number) in
            [("open", stats.sessions), ("waiting", stats.waiting), ("pinned", stats.pinned)]
        {
            sessions.get_or_create(&StateLabels { resource: resource(), state }).set(count(number));
        }
    }
    registry.register("pool_connections", "Connections to the database, of each door", connections);
    registry.register("pool_connections_max", "The most that there may be, of all doors together", size);
    registry.register(
        "pool_sessions",
        "Sessions of the Postgres door: open ones, and of those the ones that wait for a connection or keep one",
        sessions,
    );
}

/// Which server is the primary, and how far each replica is behind. One that is neither is away, or not to be compared.
fn register_servers(registry: &mut Registry, pools: &[PoolState]) {
    let primaries = Family::<ServerLabels, Gauge>::default();
    let lags = Family::<ServerLabels, Gauge<f64, AtomicU64>>::default();
    let all = pools.iter().flat_map(|pool| pool.servers.iter().map(|server| (&pool.resource, server)));
    for (resource, server) in all {
        let labels = ServerLabels { resource: Name(Some(resource.clone())), server: server.name.to_string() };
        primaries.get_or_create(&labels).set(i64::from(server.primary));
        if let Some(lag) = server.lag {
            lags.get_or_create(&labels).set(lag.as_secs_f64());
        }
    }
    registry.register("database_primary", "1 for the server that takes changes", primaries);
    registry.register("database_replica_lag_seconds", "How far a replica is behind the primary", lags);
}
