//! Policy and quotas.

use doorbell::Tier;
use doorbell::broker::{Policy, Rights, Rule, Subject};
use doorbell::client::{Client, ClientError, QueueSpec};
use doorbell::wire::{Limit, Refusal, RevokeTarget};

use crate::support::{Answer, Command, Loop, OK, Op, TestBroker, claim, claim_with, run};

fn with_rights(rights: Rights) -> TestBroker {
    with_rule(Rule { subject: Subject::Any, device: "soft:*".to_owned(), rights })
}

fn with_rule(rule: Rule) -> TestBroker {
    TestBroker::with("soft:loop", |builder| builder.policy(Policy::from_rules(vec![rule])))
}

fn refusal(error: ClientError) -> Refusal {
    match error {
        ClientError::Refused { refusal, .. } => refusal,
        other => panic!("{other}"),
    }
}

#[test]
fn quotas_of_queues_bytes_and_mappings() {
    let rights = Rights { queues: 2, bytes: 3 << 20, mappings: 2, ..Rights::default() };
    let broker = with_rights(rights);
    let client = broker.connect();
    pollster::block_on(async {
        let quota = |limit, asked, held, allowed| Refusal::Quota { limit, asked, held, allowed };
        let refused = refusal(client.grow(3 << 20).await.unwrap_err());
        assert_eq!(refused, quota(Limit::Bytes, 3 << 20, 1 << 20, 3 << 20));
        client.grow(1 << 20).await.unwrap();
        let refused = refusal(client.grow(4096).await.unwrap_err());
        assert_eq!(refused, quota(Limit::Mappings, 1, 2, 2));
        let (one, two) = (claim(&client, 4).await, claim(&client, 4).await);
        let refused = client.claim::<Loop>(QueueSpec::depth(4)).await.unwrap_err();
        assert!(refused.to_string().contains("quota of queues exceeded: 1 asked for, 2 held"));
        // The connections of one process share a quota.
        let second = Client::builder().arena_bytes(0).connect(&broker.socket).await.unwrap();
        let refused = refusal(second.grow(4096).await.unwrap_err());
        assert_eq!(refused, quota(Limit::Mappings, 1, 2, 2));
        one.release().await.unwrap();
        let three = claim(&client, 4).await;
        assert_eq!(run(&three, Command::Nop).await, OK);
        drop(two);
    });
}

#[test]
fn a_user_without_a_rule_is_refused_in_words() {
    let me = rustix::process::getuid().as_raw();
    let broker = with_rule(Rule {
        subject: Subject::Uid(me + 1),
        device: "*".to_owned(),
        rights: Rights::default(),
    });
    let error = pollster::block_on(Client::connect(&broker.socket)).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "broker {}: connect: the policy gives uid {me} no access to device soft:loop; \
             the operator can add a rule for it to the policy file",
            broker.socket.display()
        )
    );
}

#[test]
fn tiers_are_bounded_on_both_sides() {
    let rights = Rights { max_tier: Tier::Cooperative, ..Rights::default() };
    let broker = with_rights(rights);
    let client = broker.connect();
    let spec = QueueSpec::depth(4).at_least(Tier::Paged);
    let error = pollster::block_on(client.claim::<Loop>(spec)).unwrap_err();
    assert!(error.to_string().contains("allows this user at most cooperative"), "{error}");

    let rights = Rights { required_tier: Tier::Mediated, ..Rights::default() };
    let broker = with_rights(rights);
    let client = broker.connect();
    let error = pollster::block_on(client.claim::<Loop>(QueueSpec::depth(4))).unwrap_err();
    // More than a page of one's own takes a virtual function, which this device does not have.
    assert!(error.to_string().contains("no virtual functions"), "{error}");
    assert!(matches!(refusal(error), Refusal::Tier { asked: Tier::Isolated, .. }));
    // Nothing of the refused queue stays.
    let status = pollster::block_on(client.status()).unwrap();
    assert!(status.sessions[0].queues.is_empty());
}

#[test]
fn a_page_of_ones_own_is_a_better_tier() {
    let broker = TestBroker::start("soft:loop,stride=4096");
    let client = broker.connect();
    pollster::block_on(async {
        let spec = QueueSpec::depth(4).at_least(Tier::Paged);
        for _ in 0..3 {
            let (one, two) = (claim_with(&client, spec).await, claim_with(&client, spec).await);
            assert_eq!((one.tier(), two.tier()), (Tier::Paged, Tier::Paged));
            assert_eq!(run(&one, Command::Nop).await, OK);
            assert_eq!(run(&two, Command::Nop).await, OK);
            // The pages come round again with the ids.
            one.release().await.unwrap();
            assert_eq!(run(&two, Command::Nop).await, OK);
        }
    });
}

#[test]
fn only_operators_revoke() {
    let broker = with_rights(Rights::default());
    let client = broker.connect();
    pollster::block_on(async {
        let queue = claim(&client, 4).await;
        let target = RevokeTarget::Queue(queue.id());
        let error = refusal(client.revoke(target).await.unwrap_err());
        assert!(matches!(error, Refusal::NotOperator { .. }), "{error}");
        let Answer::You { operator, .. } = client.admin(&Op::WhoAmI).await.unwrap() else {
            panic!("not who");
        };
        assert!(!operator);
        assert_eq!(run(&queue, Command::Nop).await, OK);
    });
}

#[test]
fn a_revoked_queue_ends_with_a_typed_error_and_its_buffers() {
    let broker = TestBroker::start("soft:loop");
    let (operator, client) = (broker.connect(), broker.connect());
    pollster::block_on(async {
        let (queue, other) = (claim(&client, 4).await, claim(&client, 4).await);
        let flying = queue.submit((), |_, ()| Command::Hold.entry()).unwrap();
        queue.flush();
        let revoked = operator.revoke(RevokeTarget::Queue(queue.id())).await.unwrap();
        assert_eq!(revoked, (1, 1));
        let lost = flying.await.unwrap_err();
        assert!(lost.error.to_string().contains("the broker revoked it"), "{}", lost.error);
        assert!(lost.buffer.is_some());
        assert_eq!(run(&other, Command::Nop).await, OK);
        // The id is the client's until it lets go.
        let status = operator.status().await.unwrap();
        let held: usize = status.sessions.iter().map(|session| session.queues.len()).sum();
        assert_eq!(held, 2);
        queue.release().await.unwrap();
        let again = claim(&client, 4).await;
        assert_eq!(run(&again, Command::Nop).await, OK);
    });
}

#[test]
fn a_revoked_session_loses_everything() {
    let broker = TestBroker::start("soft:loop");
    let (operator, client) = (broker.connect(), broker.connect());
    pollster::block_on(async {
        let queue = claim(&client, 4).await;
        let flying = queue.submit((), |_, ()| Command::Hold.entry()).unwrap();
        queue.flush();
        let target = RevokeTarget::Session(client.session());
        assert_eq!(operator.revoke(target).await.unwrap(), (1, 1));
        let lost = flying.await.unwrap_err();
        assert!(lost.error.to_string().contains("the broker revoked it"), "{}", lost.error);
        let error = client.status().await.unwrap_err();
        assert!(matches!(error, ClientError::BrokerGone { .. }), "{error}");
        let status = operator.status().await.unwrap();
        assert_eq!(status.sessions.len(), 1);
        let last = status.reclaims.last().unwrap();
        assert_eq!((last.queues, last.mappings), (1, 1));
        let error = refusal(operator.revoke(target).await.unwrap_err());
        assert!(error.to_string().contains("there is no session"), "{error}");
    });
}
