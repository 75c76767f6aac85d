//! Metrics of the Postgres door's connections. Labels are resources and states.

use doorward_core::ResourceName;
use doorward_door_postgres::WirePoolStats;
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

/// Registers the gauges of these resources.
pub(super) fn register(registry: &mut Registry, pools: &[(ResourceName, WirePoolStats)]) {
    if pools.is_empty() {
        return;
    }
    let connections = Family::<StateLabels, Gauge>::default();
    let size = Family::<ResourceLabels, Gauge>::default();
    let sessions = Family::<StateLabels, Gauge>::default();
    let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    for (resource, stats) in pools {
        let resource = || Name(Some(resource.clone()));
        size.get_or_create(&ResourceLabels { resource: resource() }).set(count(stats.size));
        for (state, number) in [("idle", stats.idle), ("in_use", stats.in_use)] {
            connections.get_or_create(&StateLabels { resource: resource(), state }).set(count(number));
        }
        for (state, number) in
            [("open", stats.sessions), ("waiting", stats.waiting), ("pinned", stats.pinned)]
        {
            sessions.get_or_create(&StateLabels { resource: resource(), state }).set(count(number));
        }
    }
    registry.register("pool_connections", "Connections of the Postgres door to the database", connections);
    registry.register("pool_connections_max", "The most that there may be", size);
    registry.register(
        "pool_sessions",
        "Sessions of the Postgres door: open ones, and of those the ones that wait for a connection or keep one",
        sessions,
    );
}
