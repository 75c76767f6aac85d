//! The demo's lines: what each shows, what to paste, and what it promises to print.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use doorward_testkit::gateway::Running;
use doorward_testkit::issuer::PEOPLE;
use doorward_testkit::program::Bounded;

use crate::STORE_OVERLAY;

/// The file that the lines read their variables from.
pub(crate) const ENVIRONMENT: &str = "env";

/// One thing that the demo shows.
struct Line {
    /// What it shows.
    title: &'static str,
    /// What to paste.
    command: &'static str,
    /// Texts that its output has.
    promises: &'static [&'static str],
    /// Texts that its output does not have.
    excludes: &'static [&'static str],
}

const LINES: &[Line] = &[
    Line {
        title: "Ada, an analyst, reads flights: her grant allows it",
        command: r#"curl -s "$AIR/flights?origin=eq.SFO&delay=gt.60&select=id,destination,delay&order=delay.desc&limit=3" -H "Authorization: Bearer $ANALYST""#,
        promises: &[r#""destination""#, r#""delay""#],
        excludes: &["code"],
    },
    Line {
        title: "… and calls a function",
        command: r#"curl -s "$AIR/rpc/busiest_routes?airport=SFO&at_most=2" -H "Authorization: Bearer $ANALYST""#,
        promises: &[r#""mean_delay""#],
        excludes: &["message"],
    },
    Line {
        title: "Sam, a support agent, reads tickets: row-level security narrows them to his own",
        command: r#"curl -s "$AIR/support_tickets?select=id,assignee,status&order=id&limit=3" -H "Authorization: Bearer $SUPPORT""#,
        promises: &["sam@example.com"],
        excludes: &["kim@example.com", "lee@example.com"],
    },
    Line {
        title: "Ines, an administrator, sees everybody's",
        command: r#"curl -s "$AIR/support_tickets?select=id,assignee,status&order=id&limit=3" -H "Authorization: Bearer $ADMINISTRATOR""#,
        promises: &["kim@example.com"],
        excludes: &["message"],
    },
    Line {
        title: "The pipeline writes a flight",
        command: r#"curl -s -i "$AIR/flights" -H "Authorization: Bearer $PIPELINE" -H 'Content-Type: application/json' -d '{"departed_at":"2001-03-31 08:00","delay":0,"distance":337,"origin":"SFO","destination":"LAX"}'"#,
        promises: &["201 Created", "doorward-access-id"],
        excludes: &["message"],
    },
    Line {
        title: "Ada may not write: the refusal says why, and what to do",
        command: r#"curl -s "$AIR/flights" -H "Authorization: Bearer $ANALYST" -H 'Content-Type: application/json' -d '{"delay":0}'"#,
        promises: &["authorize.no-grant", "write air/public/flights", "hint"],
        excludes: &["201 Created"],
    },
    Line {
        title: "… and the same, explained offline",
        command: r#"$DOORWARD explain --as ada --groups analysts write air/public/flights || true"#,
        promises: &["denied", "analysts"],
        excludes: &["allowed: "],
    },
    Line {
        title: "Ada again, with psql as it is: her token is the password, and the same grant decides each statement",
        command: r#"PGPASSWORD=$ANALYST psql "$AIR_SQL" -c "select destination, count(*), max(delay) from flights where origin = 'SFO' group by 1 order by 2 desc limit 3""#,
        promises: &["destination", "(3 rows)"],
        excludes: &["ERROR", "FATAL"],
    },
    Line {
        title: "… a statement that she may not run is refused with a reason and a way out, and her session lives on",
        command: r#"PGPASSWORD=$ANALYST psql "$AIR_SQL" <<< "select passenger, email from bookings; select 'the session' as lives, 'on' as still;""#,
        promises: &["ERROR:", "read air/public/bookings", "DETAIL:", "HINT:", "the session | on"],
        excludes: &["@example.net", "FATAL"],
    },
    Line {
        title: "Nobody may delete flights, not even Ines: a deny rule beats every grant",
        command: r#"curl -s -i -X DELETE "$AIR/flights?id=eq.1" -H "Authorization: Bearer $ADMINISTRATOR""#,
        promises: &["403 Forbidden", "authorize.denied-by-rule", "flights-stay"],
        excludes: &["204 No Content"],
    },
    Line {
        title: "A forged token is refused, and the gateway's record says which check failed",
        command: r#"curl -s "$AIR/flights?limit=1" -H "Authorization: Bearer ${ANALYST%?????}AAAAA""#,
        promises: &["authenticate."],
        excludes: &["destination"],
    },
    Line {
        title: "Ada's limit is 5 calls a second, 10 at once: the rest of 20 is told when to come back",
        command: r#"for i in $(seq 20); do curl -s -o /dev/null -w '%{http_code} ' "$AIR/airports?limit=1" -H "Authorization: Bearer $ANALYST"; done; for i in $(seq 60); do answer=$(curl -s -i "$AIR/airports?limit=1" -H "Authorization: Bearer $ANALYST"); [[ $answer == *' 429 '* ]] && break; done; grep -i -E '^(HTTP|retry-after|ratelimit)' <<< "$answer""#,
        promises: &["200 ", "429 ", "retry-after", "ratelimit-policy"],
        excludes: &["500"],
    },
    Line {
        title: "The timeline of all that: who, what, by which grant, how it ended",
        command: r#"sleep 1; $DOORWARD audit tail --no-follow --limit 60"#,
        promises: &[
            "ada",
            "sam",
            "ines",
            "daily-load",
            "allowed",
            "denied",
            "limited",
            "public/flights",
            "list air/session",
            "read air/public/bookings",
        ],
        excludes: &[],
    },
    Line {
        title: "Her statements stand between her REST calls, with their text and rows",
        command: r#"$DOORWARD audit query --principal ada --door postgres --limit 20 --json | grep -o '"operation":"[^"]*"'"#,
        promises: &["select passenger, email from bookings", "from flights where origin"],
        excludes: &["error:"],
    },
    Line {
        title: "One call of it, stage by stage, and in words what went wrong",
        command: r#"$DOORWARD audit trace "$($DOORWARD audit query --outcome denied --principal ada --limit 1 --json | sed -E 's/.*"access_id":"([^"]+)".*/\1/')""#,
        promises: &["authorize", "decode", "authorize.no-grant"],
        excludes: &["no record"],
    },
    Line {
        title: "The same timeline by SQL, as a role that may only read it",
        command: r#"psql "$TIMELINE" -c 'select coalesce("grant", fault_code) as grant_or_fault, outcome, count(*) as calls, sum(rows) as rows from timeline.access_event group by 1, 2 order by 3 desc'"#,
        promises: &["analysts", "daily-load", "denied", "limited"],
        excludes: &["ERROR"],
    },
    Line {
        title: "… its sums by the minute, with latencies, from which dashboards are drawn",
        command: r#"psql "$TIMELINE" -c "select time, endpoint, outcome, sum(calls) as calls, round(timeline.quantile(timeline.sketch_merge(duration_sketch), 0.99)::numeric / 1000, 1) as p99_ms from timeline.traffic_1m group by 1, 2, 3 order by 4 desc limit 5""#,
        promises: &["p99_ms", "GET /air/{table}"],
        excludes: &["ERROR"],
    },
    Line {
        title: "… and on the terminal",
        command: r#"$DOORWARD audit stats --since 1h"#,
        promises: &["calls", "analysts"],
        excludes: &["error:"],
    },
    Line {
        title: "That role changes nothing",
        command: r#"psql "$TIMELINE" -c 'delete from timeline.access_event' || true; psql "$TIMELINE" -c 'truncate doorward.access_event' || true"#,
        promises: &["permission denied for view access_event", "permission denied for table access_event"],
        excludes: &["DELETE ", "TRUNCATE"],
    },
    Line {
        title: "Nor does the superuser, by plain SQL",
        command: r#"psql "$SUPERUSER" -c 'delete from doorward.access_event' || true"#,
        promises: &["records are never changed"],
        excludes: &["DELETE 1"],
    },
    Line {
        title: "Each record is a leaf of a signed Merkle log: nothing is changed or missing",
        command: r#"sleep 3; $DOORWARD audit verify --vkey "$($DOORWARD audit key)""#,
        promises: &["verified: "],
        excludes: &["finding", "not yet under a checkpoint"],
    },
    Line {
        title: "A superuser who switches the triggers off makes a refusal look allowed: it is found, and named",
        command: r#"psql "$SUPERUSER" -c "set session_replication_role = replica; update doorward.access_event set outcome = 'allowed' where access_id = (select min(access_id::text)::uuid from doorward.access_event where outcome = 'denied')"; $DOORWARD audit verify || true"#,
        promises: &["UPDATE 1", "changed"],
        excludes: &["missing"],
    },
    Line {
        title: "… and deletes the pipeline's record: that is found as well",
        command: r#"psql "$SUPERUSER" -c "set session_replication_role = replica; delete from doorward.access_event where \"grant\" = 'daily-load'"; $DOORWARD audit verify || true"#,
        promises: &["DELETE 1", "changed", "missing"],
        excludes: &[],
    },
];

/// The variables that the lines use, as shell text.
pub(crate) fn environment(gateway: &Running, binary: &Path) -> Result<String> {
    let (http, admin, wire) = (gateway.url()?, gateway.admin_url()?, gateway.address("postgres")?);
    let mut text = format!("export AIR={http}/air\nexport ADMIN={admin}\n");
    let _ =
        writeln!(text, "export AIR_SQL='host={} port={} dbname=air user=analyst'", wire.ip(), wire.port());
    let folder = gateway.folder().display();
    for person in &PEOPLE {
        let name = person.name.to_uppercase();
        // The formatter of a String cannot fail.
        let _ = writeln!(text, "export {name}=$(cat '{folder}/{}.token')", person.name);
    }
    let _ = writeln!(text, "export DOORWARD='{}'", binary.display());
    let _ = writeln!(
        text,
        "export DOORWARD_CONFIG='{folder}/doorward.yaml:{folder}/ports.yaml:{folder}/{STORE_OVERLAY}'"
    );
    let _ = writeln!(text, "cd '{folder}'");
    Ok(text)
}

/// Prints the lines, to be pasted into another terminal.
pub(crate) fn print(folder: &Path) {
    println!("\nEverything runs. In another terminal, begin with:\n");
    println!("  source {}/{ENVIRONMENT}", folder.display());
    for line in LINES {
        println!("\n# {}\n{}", line.title, line.command);
    }
    println!(
        "\n# Metrics and readiness\ncurl -s $ADMIN/metrics | grep doorward_calls\ncurl -s $ADMIN/readyz"
    );
    println!("\nCtrl-C ends it all and leaves nothing behind.");
}

/// Runs the lines and says of each whether it came out as promised. Whether all did.
pub(crate) fn check(folder: &Path) -> Result<bool> {
    let mut failed = 0;
    for line in LINES {
        println!("\n# {}\n$ {}", line.title, line.command);
        let script = format!("source '{}/{ENVIRONMENT}'\n{}", folder.display(), line.command);
        let output = Command::new("bash").args(["-c", &script]).run()?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        println!("{}", text.trim_end());
        let lower = text.to_lowercase();
        let missing = line.promises.iter().filter(|promise| !lower.contains(&promise.to_lowercase()));
        let unwanted = line.excludes.iter().filter(|excluded| lower.contains(&excluded.to_lowercase()));
        let complaints: Vec<String> = missing
            .map(|promise| format!("missing: {promise}"))
            .chain(unwanted.map(|excluded| format!("unwanted: {excluded}")))
            .collect();
        for complaint in &complaints {
            println!("  NOT AS PROMISED, {complaint}");
        }
        failed += usize::from(!complaints.is_empty());
    }
    println!("\n{} passed, {failed} failed", LINES.len() - failed);
    Ok(failed == 0)
}
