use std::collections::VecDeque;

use doorward_core::{Action, IssuerName, Object, Personal, PrincipalKind, ResourceName, Verb};
use proptest::prelude::*;

use super::*;

fn limit(text: &str) -> Limit {
    Limit::new(&LimitConfig::parse(text).unwrap())
}

fn call(resource: &str) -> Actions {
    let object = Object::from_segments(["x"]);
    Actions::one(Action { verb: Verb::Read, resource: ResourceName::new(resource), object })
}

fn person(subject: &str) -> Principal {
    let mut principal = Principal::public();
    principal.kind = PrincipalKind::User;
    principal.issuer = IssuerName::new("corp");
    principal.subject = Personal::from(subject);
    principal
}

#[test]
fn allowances_and_refusals_carry_the_state() {
    let limiter = Limiter::new();
    let (grant, limit) = (GrantName::new("g"), limit("2/s burst 3"));
    let (alice, bob, read) = (person("alice"), person("bob"), call("shop"));
    let at = |millis: i64| Timestamp::from_micros(1_000_000_000 + millis * 1_000);
    let admit = |who, millis| limiter.admit(&grant, limit, (who, &read), at(millis));

    let first = admit(&alice, 0).unwrap();
    assert_eq!((first.quota, first.window), (3, Duration::from_millis(1_500)));
    assert_eq!((first.remaining, first.reset), (2, Duration::from_millis(500)));
    assert_eq!(admit(&alice, 0).unwrap().remaining, 1);
    assert_eq!(admit(&alice, 0).unwrap().remaining, 0);
    for _ in 0..5 {
        let fault = admit(&alice, 100).unwrap_err();
        assert_eq!(fault.code().name, "limit.exceeded");
        assert_eq!(fault.retry_after_span(), Some(Duration::from_millis(400)));
        assert_eq!(fault.limit_state().unwrap().remaining, 0);
        assert_eq!(fault.limit_state().unwrap().reset, Duration::from_millis(1_400));
        assert_eq!(fault.rule_name(), Some(&grant));
    }
    // Refused calls have cost nothing; another caller has a count of their own.
    assert_eq!(admit(&alice, 500).unwrap().remaining, 0);
    assert_eq!(admit(&bob, 500).unwrap().remaining, 2);
    assert_eq!(limiter.keys(), 2);
}

#[test]
fn what_is_counted_by_itself() {
    let admitted = |text: &str, second: (&Principal, &Actions), grant: &str| {
        let limiter = Limiter::new();
        let mut config = LimitConfig::parse("1/h").unwrap();
        config.per = match text {
            "grant" => Per::Grant,
            "resource" => Per::Resource,
            _ => Per::Principal,
        };
        let limit = Limit::new(&config);
        let now = Timestamp::from_seconds(1_000);
        limiter.admit(&GrantName::new("g"), limit, (&person("alice"), &call("shop")), now).unwrap();
        limiter.admit(&GrantName::new(grant), limit, second, now).is_ok()
    };
    let (alice, bob) = (person("alice"), person("bob"));
    let mut other_alice = person("alice");
    other_alice.issuer = IssuerName::new("partner");
    let (shop, reports) = (call("shop"), call("reports"));
    assert!(!admitted("principal", (&alice, &reports), "g"));
    assert!(admitted("principal", (&bob, &shop), "g"));
    assert!(admitted("principal", (&other_alice, &shop), "g"));
    assert!(!admitted("grant", (&bob, &reports), "g"));
    assert!(!admitted("resource", (&bob, &shop), "g"));
    assert!(admitted("resource", (&alice, &reports), "g"));
    assert!(admitted("grant", (&alice, &shop), "h"));
}

#[test]
fn counters_survive_a_reload_while_name_and_limit_stay() {
    let limiter = Limiter::new();
    let now = Timestamp::from_seconds(1_000);
    let (alice, read) = (person("alice"), call("shop"));
    let admit = |name: &str, text: &str| {
        limiter.admit(&GrantName::new(name), limit(text), (&alice, &read), now).is_ok()
    };
    assert!(admit("g", "1/h"));
    assert!(!admit("g", "1/h"));
    assert!(admit("g", "2/h"));
    assert!(admit("h", "1/h"));
}

#[test]
fn a_clock_that_is_set_back_locks_nobody_out() {
    let limiter = Limiter::new();
    let limit = limit("1/s");
    assert!(matches!(limiter.count(1, limit, 3_600_000_000_000), Count::Admitted { .. }));
    assert_eq!(
        limiter.count(1, limit, 5),
        Count::Refused { wait_nanos: 1_000_000_000, reset_nanos: 1_000_000_000 }
    );
    assert!(matches!(limiter.count(1, limit, 3_601_000_000_000), Count::Admitted { .. }));
}

#[test]
fn a_full_map_drops_what_is_whole_again_and_refuses_new_keys_otherwise() {
    let limiter = Limiter::with_room(4);
    let limit = limit("1/s");
    // All in one shard.
    for key in 0..4 {
        assert!(matches!(limiter.count(key, limit, 100), Count::Admitted { .. }));
    }
    assert_eq!(limiter.count(9, limit, 100), Count::NoRoom { wait_nanos: 1_000_000_000 });
    assert_eq!(limiter.count(9, limit, 200), Count::NoRoom { wait_nanos: 999_999_900 });
    // A key that is known is counted as before.
    assert!(matches!(limiter.count(3, limit, 200), Count::Refused { .. }));
    assert!(matches!(limiter.count(9, limit, 1_000_000_100), Count::Admitted { .. }));
    assert_eq!(limiter.keys(), 1);
}

proptest! {
    /// The model keeps each admitted call, as a leaky bucket does: it holds at most `burst` calls and
    /// loses one each interval.
    #[test]
    fn gcra_is_a_leaky_bucket(count in 1_u64..20, burst in 1_u64..20, gaps in prop::collection::vec(0_u64..400_000_000, 1..200)) {
        let limit = limit(&format!("{count}/s burst {burst}"));
        let interval = limit.interval_nanos;
        let limiter = Limiter::new();
        let mut now = 1_000_000_000_000;
        // When each admitted call has leaked out.
        let mut bucket: VecDeque<u64> = VecDeque::new();
        for gap in gaps {
            now += gap;
            while bucket.front().is_some_and(|end| *end <= now) {
                bucket.pop_front();
            }
            let end = bucket.back().copied().unwrap_or(0).max(now) + interval;
            let fits = end - now <= interval * burst;
            match limiter.count(7, limit, now) {
                Count::Admitted { reset_nanos } => {
                    prop_assert!(fits);
                    bucket.push_back(end);
                    prop_assert_eq!(reset_nanos, end - now);
                    prop_assert!(u64::try_from(bucket.len()).unwrap() <= burst);
                }
                Count::Refused { wait_nanos, .. } => {
                    prop_assert!(!fits);
                    let early = limiter.count(7, limit, now + wait_nanos - 1);
                    prop_assert!(matches!(early, Count::Refused { .. }), "{early:?}");
                }
                Count::NoRoom { .. } => prop_assert!(false),
            }
        }
    }
}
