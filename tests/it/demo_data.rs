//! The demo's data loads, and the database itself narrows what each role sees.

use anyhow::Result;
use doorward_testkit::oidc_provider::node_modules;
use doorward_testkit::postgres::Cluster;
use doorward_testkit::workspace_root;

/// Runs SQL as a role with claims, as the gateway does.
fn acting(cluster: &Cluster, role: &str, email: &str, sql: &str) -> Result<String> {
    let claims = format!(r#"{{"email": "{email}"}}"#);
    let text =
        format!("begin; set local role {role}; set local request.jwt.claims = '{claims}'; {sql}; commit");
    cluster.sql_as("authenticator", "demo", "air", &text)
}

#[test]
fn the_demo_data_loads_and_row_level_security_narrows_it() -> Result<()> {
    for cluster in [Cluster::debian()?, Cluster::newer()?] {
        cluster.sql("create database air")?;
        let data = node_modules()?.join("vega-datasets/data");
        let script = workspace_root().join("demo/load.sql");
        cluster.script("air", &script, &[("authenticator_password", "demo")], &data)?;

        let count = |table: &str| cluster.sql_in("air", &format!("select count(*) from {table}"));
        assert_eq!(count("airports")?, "3376");
        assert_eq!(count("flights")?.parse::<u32>()?, 20_000);
        assert_eq!(count("support_tickets")?, "60");

        let tickets = "select count(*) from support_tickets";
        assert_eq!(acting(&cluster, "support", "sam@example.com", tickets)?, "20");
        assert_eq!(acting(&cluster, "support", "nobody@example.com", tickets)?, "0");
        assert_eq!(acting(&cluster, "admin", "ines@example.com", tickets)?, "60");
        assert!(acting(&cluster, "analyst", "ada@example.com", tickets).is_err());
        let steal =
            "update support_tickets set status = 'closed' where assignee = 'kim@example.com' returning 1";
        assert_eq!(acting(&cluster, "support", "sam@example.com", steal)?, "");
        let insert = "insert into flights (departed_at, delay, distance, origin, destination) \
                      values ('2001-04-01', 0, 337, 'LAX', 'SFO') returning distance";
        assert_eq!(acting(&cluster, "loader", "", insert)?, "337");
        assert!(acting(&cluster, "loader", "", "delete from flights").is_err());
        let routes = "select count(*) from busiest_routes('SFO', 3)";
        assert_eq!(acting(&cluster, "analyst", "ada@example.com", routes)?, "3");
        // The gateway's login owns nothing, and can do nothing by itself.
        assert!(cluster.sql_as("authenticator", "demo", "air", "select from airports").is_err());
    }
    Ok(())
}
