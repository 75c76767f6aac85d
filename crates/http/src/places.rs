//! The caps on a listener's connections: all together, and by the network that they come from. Whoever listens
//! takes a place before it reads a byte.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::config::Limits;

/// The places of one listener.
#[derive(Debug, Default)]
pub(crate) struct Places {
    open: AtomicU32,
    turned_away: AtomicU64,
    by_address: Mutex<HashMap<IpAddr, u32>>,
}

/// A connection's place under the caps. Dropped, it is free again.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    counted: Option<IpAddr>,
}

impl Places {
    /// Counts of the connections, which outlive the listener.
    pub(crate) fn connections(self: &Arc<Self>) -> Connections {
        Connections(self.clone())
    }
}

impl Place {
    /// Takes a place; `None`, and counted as turned away, when a cap is reached.
    pub(crate) fn take(places: &Arc<Places>, address: IpAddr, limits: &Limits) -> Option<Self> {
        let place = Self::find(places, address, limits);
        if place.is_none() {
            places.turned_away.fetch_add(1, Ordering::Relaxed);
        }
        place
    }

    fn find(places: &Arc<Places>, address: IpAddr, limits: &Limits) -> Option<Self> {
        let counted = (!limits.trusts(address)).then(|| network_of(address));
        if places.open.load(Ordering::Relaxed) >= limits.connections_max {
            return None;
        }
        if let Some(key) = counted {
            let mut by_address = places.by_address.lock();
            let count = by_address.entry(key).or_insert(0);
            if *count >= limits.connections_per_ip_max {
                return None;
            }
            *count += 1;
        }
        places.open.fetch_add(1, Ordering::Relaxed);
        Some(Self { places: places.clone(), counted })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.open.fetch_sub(1, Ordering::Relaxed);
        let Some(key) = self.counted else { return };
        let mut by_address = self.places.by_address.lock();
        match by_address.get_mut(&key) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                by_address.remove(&key);
            }
        }
    }
}

/// Counts of a listener's connections.
#[derive(Clone, Debug)]
pub struct Connections(Arc<Places>);

impl Connections {
    /// Open ones.
    pub fn open(&self) -> u32 {
        self.0.open.load(Ordering::Relaxed)
    }

    /// Those that were closed because a cap was reached.
    pub fn turned_away(&self) -> u64 {
        self.0.turned_away.load(Ordering::Relaxed)
    }
}

/// Who counts as one: an IPv4 address, or the /64 that an IPv6 site has at its disposal.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()),
    }
}
