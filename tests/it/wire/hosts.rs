//! A primary and its replica behind one resource: who takes changes is found by asking, at both doors.

use anyhow::{Result, ensure};
use doorward_testkit::http::StrictClient;
use doorward_testkit::postgres::Cluster;
use doorward_testkit::wait_until;

use super::Shop;
use super::client::query;
use crate::bed::{SOON, block_on};

/// A primary, its replica, and a gateway that knows them both.
struct Pair {
    shop: Shop,
    primary: &'static Cluster,
    replica: Cluster,
}

impl Pair {
    /// With this in the resource's `pool`, and this in the resource.
    fn start(pool: &str, more: &str) -> Result<Self> {
        // Beds borrow their cluster for good.
        let primary: &'static Cluster = Box::leak(Box::new(Cluster::debian()?));
        let replica = primary.standby()?;
        // The first database of a cluster. The replica stands first: nobody trusts the order.
        let hosts = format!("127.0.0.1:{},127.0.0.1:{}", replica.port(), primary.port());
        let overlay = format!("resources: {{ shop: {{ url: \"postgres://{hosts}/test_0\"{more} }} }}");
        let shop = Shop::configured(primary, pool, &overlay)?;
        ensure!(shop.database.name() == "test_0", "{}", shop.database.name());
        // The REST door's login becomes the role.
        primary.sql("grant wire_reader to authenticator")?;
        Ok(Self { shop, primary, replica })
    }

    /// The primary dies, and the replica takes its place.
    fn fail_over(&self) -> Result<()> {
        self.replica.catch_up(self.primary)?;
        self.primary.kill9()?;
        self.replica.promote()
    }

    /// Whether the REST door answers this with this status.
    fn answers(&self, path: &str, status: u16) -> bool {
        let asked = || {
            let client = StrictClient::new(self.shop.gateway.url()?).bearer(self.shop.token(&["readers"])?);
            block_on(async { anyhow::Ok(client.get(path).await?.status == status) })?
        };
        asked().unwrap_or(false)
    }
}

#[test]
fn wire_hosts_a_replica_that_is_promoted_is_found() -> Result<()> {
    let pair = Pair::start("mode: transaction, size: 4, wait_max: 60s", "")?;
    let shop = &pair.shop;
    let mut ann = shop.connect(&["writers"])?;
    let insert = query("insert into orders (customer) values ('of the pair')");
    ensure!(ann.ask(&insert)?.0 == "CZI");
    ensure!(ann.value("select pg_is_in_recovery()")? == "f");
    pair.fail_over()?;
    // The session in transaction mode lives on; what is told it meanwhile is an error that can be retried.
    let mut told = Vec::new();
    let again = wait_until(SOON, || match ann.ask(&insert) {
        Ok((tags, _)) if tags == "CZI" => true,
        Ok(other) => {
            told.push(other);
            false
        }
        Err(_) => {
            if let Ok(next) = shop.connect(&["writers"]) {
                ann = next;
            }
            false
        }
    });
    ensure!(again, "{told:?}\n{}", shop.gateway.log());
    let count = "select count(*) from orders where customer = 'of the pair'";
    ensure!(pair.replica.sql_in("test_0", count)? == "2");
    let (printed, errors) = shop.psql(&["writers"], count)?;
    ensure!(printed.trim() == "2", "{printed} {errors}");
    ensure!(wait_until(SOON, || pair.answers("/shop/orders?id=eq.1", 200)), "REST: {}", shop.gateway.log());
    // Both are away: whoever comes is told so, in time.
    pair.replica.stop()?;
    let (_, errors) = shop.psql(&["writers"], count)?;
    ensure!(errors.contains("08") || errors.contains("57P"), "{errors}");
    ensure!(wait_until(SOON, || pair.answers("/shop/orders?id=eq.1", 503)));
    // The one that was the primary is back, as it was.
    pair.primary.start()?;
    let back = wait_until(SOON, || shop.psql(&["writers"], count).is_ok_and(|(said, _)| said.trim() == "1"));
    ensure!(back, "it is not back: {}", shop.gateway.log());
    Ok(())
}
