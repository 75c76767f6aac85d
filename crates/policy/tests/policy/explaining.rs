use doorward_core::{Case, Object, ResourceName, Verb};
use doorward_policy::{Compiled, Holder, Verdict};
use expect_test::expect;

use crate::support::{NOW, actions, arrival, policy, who};

const TEXT: &str = r#"
grants:
  night: { to: group:ops, allow: read shop/**, when: request.time.getHours() > 22 }
  clear: { to: group:ops, allow: read shop/**, when: principal.claims.level > 3 }
  own: { to: anyone, allow: "read shop/home/${claims.team}/*" }
  public-part: { to: group:ops, allow: read shop/public/*, as: reader, limit: 5/s burst 9, max_rows: 10 }
  again: { to: anyone, allow: read shop/public/orders }
  others: { to: user:bob, allow: write shop/** }
deny:
  frozen: { to: anyone, what: "read,write shop/ledger/*" }
  late: { to: anyone, what: "read shop/**", when: request.door == "s3" }
"#;

fn explained(policy: &Compiled, principal: &str, wanted: &str) -> String {
    let (principal, wanted, arrival) = (who(principal), actions(wanted), arrival());
    let explanation = policy.explain(&Case {
        principal: &principal,
        actions: &wanted,
        arrival: &arrival,
        now: NOW,
        role: None,
    });
    let mut out = match explanation.verdict {
        Verdict::Allowed { grant, obligations, limit } => format!(
            "allowed by {grant}, role {:?}, rows {:?}, limit {limit:?}\n",
            obligations.role, obligations.rows_max
        ),
        Verdict::Forbidden { rule } => format!("forbidden by {rule}\n"),
        Verdict::NoGrant => "no grant\n".to_owned(),
    };
    for rule in explanation.considered {
        out.push_str(&format!("{:?} {} {}: {}\n", rule.kind, rule.name, rule.position.line, rule.reason));
    }
    out
}

#[test]
fn explain_says_why_each_rule_did_or_did_not_decide() {
    let policy = policy(TEXT);
    expect![[r#"
        allowed by public-part, role Some("reader"), rows Some(10), limit Some("5/s burst 9")
        Deny frozen 10: it does not speak of: read shop/public/orders
        Deny late 11: its condition does not hold: request.door == "s3"
        Grant night 3: its condition does not hold: request.time.getHours() > 22
        Grant clear 4: its condition cannot be evaluated (there is no "level"; ask has(…) first): principal.claims.level > 3
        Grant own 5: it does not speak of: read shop/public/orders
        Grant public-part 6: it decides
        Grant again 7: it holds too, but a rule before it decides
        Grant others 8: it is for others
    "#]].assert_eq(&explained(&policy, "a in:ops", "read shop/public/orders"));
    expect![[r#"
        forbidden by frozen
        Deny frozen 10: it decides
        Deny late 11: its condition does not hold: request.door == "s3"
        Grant night 3: it is for others
        Grant clear 4: it is for others
        Grant own 5: it does not speak of: read shop/ledger/x
        Grant public-part 6: it is for others
        Grant again 7: it does not speak of: read shop/ledger/x
        Grant others 8: it is for others
    "#]]
    .assert_eq(&explained(&policy, "a", "read shop/ledger/x"));
    expect![[r#"
        no grant
        Deny frozen 10: it is for others
        Deny late 11: it is for others
        Grant night 3: it is for others
        Grant clear 4: it is for others
        Grant own 5: it is for others
        Grant public-part 6: it is for others
        Grant again 7: it is for others
        Grant others 8: it is for others
    "#]]
    .assert_eq(&explained(&policy, "public", "read shop/public/orders"));
}

#[test]
fn who_can_lists_rules_whoever_asks() {
    let policy = policy(TEXT);
    let show = |verb, segments: &[&str]| {
        let object = Object::from_segments(segments.iter().copied());
        let found = policy.who_can(verb, &ResourceName::new("shop"), &object);
        let line = |holder: &Holder| {
            format!(
                "{} {:?} {:?} when {:?} as {:?}",
                holder.name, holder.to, holder.actions, holder.when, holder.role
            )
        };
        let grants: Vec<_> = found.grants.iter().map(line).collect();
        let denies: Vec<_> = found.denies.iter().map(line).collect();
        format!("{}\ndenied:\n{}", grants.join("\n"), denies.join("\n"))
    };
    expect![[r#"
        night ["group:ops"] ["read shop/**"] when Some("request.time.getHours() > 22") as None
        clear ["group:ops"] ["read shop/**"] when Some("principal.claims.level > 3") as None
        public-part ["group:ops"] ["read shop/public/*"] when None as Some("reader")
        again ["anyone"] ["read shop/public/orders"] when None as None
        denied:
        late ["anyone"] ["read shop/**"] when Some("request.door == \"s3\"") as None"#]]
    .assert_eq(&show(Verb::Read, &["public", "orders"]));
    expect![[r#"
        night ["group:ops"] ["read shop/**"] when Some("request.time.getHours() > 22") as None
        clear ["group:ops"] ["read shop/**"] when Some("principal.claims.level > 3") as None
        own ["anyone"] ["read shop/home/${claims.team}/*"] when None as None
        denied:
        late ["anyone"] ["read shop/**"] when Some("request.door == \"s3\"") as None"#]]
    .assert_eq(&show(Verb::Read, &["home", "red", "x"]));
    expect![[r#"

        denied:
    "#]]
    .assert_eq(&show(Verb::Delete, &["public", "orders"]));
}
