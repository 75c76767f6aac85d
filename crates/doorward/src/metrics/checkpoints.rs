//! Metrics of the transparency log: how far checkpoints, places outside the store and witnesses are. Labels are
//! places and witnesses of the configuration.

use doorward_audit::log::publish::Published;
use doorward_core::{Clock, SystemClock};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PlaceLabels {
    place: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct WitnessLabels {
    witness: String,
}

/// How old the newest checkpoint of this start is, in seconds; `None` when none was signed yet.
pub(crate) fn age_seconds(published: &Published) -> Option<i64> {
    let age = SystemClock.now().micros().saturating_sub(published.signed_us).max(0);
    (published.signed_us != 0).then_some(age / 1_000_000)
}

fn count(leaves: u64) -> i64 {
    i64::try_from(leaves).unwrap_or(i64::MAX)
}

pub(super) fn register(registry: &mut Registry, published: &Published) {
    let mut gauge =
        |name: &str, help: &str, value: i64| registry.register(name, help, ConstGauge::new(value));
    gauge("log_leaves", "Leaves in the transparency log of this start", count(published.leaves));
    let unsigned = published.leaves.saturating_sub(published.signed);
    gauge("checkpoint_unsigned_leaves", "Leaves that no checkpoint counts yet", count(unsigned));
    if let Some(age) = age_seconds(published) {
        gauge("checkpoint_age_seconds", "Since the newest checkpoint was signed", age);
    }
    if !published.places.is_empty() {
        let up = Family::<PlaceLabels, Gauge>::default();
        let unpublished = Family::<PlaceLabels, Gauge>::default();
        let owed = Family::<PlaceLabels, Gauge>::default();
        let given_up = Family::<PlaceLabels, Gauge>::default();
        for place in &published.places {
            let labels = PlaceLabels { place: place.name.clone() };
            up.get_or_create(&labels).set(i64::from(place.error.is_none()));
            unpublished.get_or_create(&labels).set(count(place.behind));
            owed.get_or_create(&labels).set(count(place.owed));
            given_up.get_or_create(&labels).set(count(place.given_up));
        }
        registry.register("checkpoint_place_up", "1 while the place takes checkpoints", up);
        let help = "Leaves under a checkpoint that the place does not have yet";
        registry.register("checkpoint_unpublished_leaves", help, unpublished);
        let help = "Logs of earlier starts that the place does not have yet";
        registry.register("checkpoint_owed_starts", help, owed);
        let help =
            "Logs of earlier starts that were given up, and that the place never gets, since the start";
        registry.register("checkpoint_given_up_starts", help, given_up);
    }
    if !published.witnesses.is_empty() {
        let up = Family::<WitnessLabels, Gauge>::default();
        let lag = Family::<WitnessLabels, Gauge>::default();
        for witness in &published.witnesses {
            let labels = WitnessLabels { witness: witness.name.clone() };
            up.get_or_create(&labels).set(i64::from(witness.error.is_none()));
            lag.get_or_create(&labels).set(count(witness.behind));
        }
        registry.register("witness_up", "1 while the witness cosigns", up);
        let help = "Leaves under a checkpoint that the witness has not cosigned";
        registry.register("witness_lag_leaves", help, lag);
        let lag = published.signed.saturating_sub(published.witnessed);
        let help = "Leaves under a checkpoint that too few witnesses have cosigned";
        registry.register("checkpoint_unwitnessed_leaves", help, ConstGauge::new(count(lag)));
    }
}
