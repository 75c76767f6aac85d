//! Who gets an importer, and what stands in the records that it makes.

use std::sync::Arc;

use doorward_core::{
    Access, Action, Actions, Arrival, AuditMode, Call, Caller, Claimed, ClaimedCaller, ClaimedText,
    Completion, Credentials, Fault, Import, Object, Origin, Outcome, Pass, Personal, Principal,
    PrincipalKind, Refusal, ResourceName, Secret, Shaped, SystemClock, Timestamp, Verb,
};
use doorward_testkit::organs::{MemoryRecorder, Rules, Tokens, gateway, resource, snapshot};

/// Asks for an importer under some permit, and brings one record.
struct Probe {
    credentials: Credentials,
    actions: Vec<(Verb, &'static str, &'static str)>,
}

impl Call for Probe {
    type Answer = Option<String>;
    type Reply = Option<String>;

    fn caller(&self) -> Caller<'_> {
        Caller::Credentials(&self.credentials)
    }

    async fn decode(&mut self, _: &mut Access, _: &Arc<Principal>) -> Result<Actions, Fault> {
        let action = |(verb, resource, object): &(Verb, &str, &str)| Action {
            verb: *verb,
            resource: ResourceName::new(*resource),
            object: Object::from_segments([*object]),
        };
        Ok(Actions::new(self.actions.iter().map(action).collect()).unwrap())
    }

    async fn forward(&mut self, pass: &mut Pass) -> Result<Option<String>, Fault> {
        let Some(importer) = pass.importer() else { return Ok(None) };
        let caller = ClaimedCaller {
            subject: Personal::from("root"),
            kind: PrincipalKind::User,
            email: None,
            groups: vec!["admins".into()],
            client_id: None,
        };
        let claimed = Claimed {
            caller: Some(caller),
            operation: Some(ClaimedText::Template("GET /x".to_owned())),
            ..Claimed::new(Timestamp::from_seconds(5), Outcome::Allowed)
        };
        match importer.import(claimed) {
            Import::Taken(durable) | Import::Repeated(durable) => durable.await.unwrap(),
            Import::NoRoom => panic!("there is room"),
        }
        Ok(Some(importer.source().to_string()))
    }

    fn shape(&mut self, reply: Option<String>, _: &mut Pass) -> Result<Shaped<Option<String>>, Fault> {
        Ok(Shaped::Whole(reply, Completion::default()))
    }

    fn refuse(&mut self, refusal: &Refusal<'_>) -> (Option<String>, Completion) {
        panic!("{}", refusal.fault)
    }
}

#[tokio::test]
async fn only_a_permit_for_records_imports_and_only_for_its_own_resource() {
    let tokens = Tokens::new();
    tokens.know("t", "shipper", None);
    let named = |name| resource(name, "ingest", AuditMode::Required, Arc::new(()));
    let recorder = MemoryRecorder::new();
    let snapshot = snapshot(&tokens, &Rules::allow_all(), vec![named("edge"), named("shop")]);
    let gateway = gateway(snapshot, &recorder, Arc::new(SystemClock));
    for (actions, source) in [
        (vec![(Verb::Write, "edge", "records")], Some("edge")),
        (vec![(Verb::Read, "shop", "orders"), (Verb::Write, "edge", "records")], Some("edge")),
        (vec![(Verb::Read, "edge", "records")], None),
        (vec![(Verb::Write, "edge", "orders")], None),
        (vec![(Verb::Manage, "edge", "records")], None),
    ] {
        let access = gateway.open(Arrival { door: "ingest", source_ip: None, confidential: true });
        let call = Probe { credentials: Credentials::Bearer(Secret::from("t")), actions: actions.clone() };
        let imported = gateway.walk(access, call).await.into_inner();
        assert_eq!(imported.as_deref(), source, "{actions:?}");
    }
    let records = recorder.records();
    let imported: Vec<_> = records.iter().filter(|record| record.origin != Origin::Gateway).collect();
    assert_eq!((records.len(), imported.len()), (7, 2));
    for record in imported {
        assert_eq!(record.origin.as_str(), "edge");
        let own = records.iter().find(|own| Some(own.access_id) == record.parent_access_id).unwrap();
        assert_eq!(own.origin, Origin::Gateway, "it stands below the request that brought it");
        let principal = record.principal.as_deref().unwrap();
        assert_eq!((principal.issuer.as_str(), principal.auth_method.as_str()), ("import:edge", "claimed"));
        let ours = (&record.rule, &record.backend_role, &record.config_digest, record.session_id);
        assert_eq!(ours, (&None, &None, &None, None), "nothing of it is this gateway's decision");
        assert!(record.lease_id.is_none() && record.limit_remaining.is_none());
    }
}
