//! The agent check, alone and beside another one.

use std::sync::Arc;

use lb_userspace::health::Role;
use lb_userspace::model::{Agent, Check, Condition, Health, Report};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::*;

fn agent(send: &[u8]) -> Check {
    Check::Agent(Arc::new(Agent { send: send.to_vec() }))
}

#[tokio::test]
async fn an_agent_is_sent_what_it_wants_and_answers_in_one_line() {
    let address = server(|mut stream, _| async move {
        let mut question = [0; 6];
        stream.read_exact(&mut question).await.unwrap();
        assert_eq!(&question, b"state\n");
        stream.write_all(b"75% cpu:").await.unwrap();
        stream.write_all(b"20\r\nwhat follows is not read").await.unwrap();
        // It closes when the checker has.
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let seen = first(address, agent(b"state\n")).await;
    assert_eq!(found(&seen), (true, "75% cpu:20"));
    assert_eq!(seen.role, Role::Check);
    assert_eq!(seen.report, Report { percent: Some(75), load: Some(20), ..Report::default() });
}

#[tokio::test]
async fn the_end_of_the_connection_ends_the_line() {
    let address = server(|mut stream, _| async move { stream.write_all(b"down # disk full").await.unwrap() });
    let seen = first(address.await, agent(b"")).await;
    assert_eq!(found(&seen), (true, "down # disk full"));
    assert_eq!(seen.report.condition, Some(Condition::Down("down: disk full".to_owned())));
}

#[tokio::test]
async fn an_answer_that_is_none_fails_and_says_nothing() {
    let long = "up ".repeat(400);
    for (answer, why) in [
        ("up sideways 300\n", "the agent's answer has unknown words: sideways 300"),
        ("\nup", "the agent's answer is empty"),
        (&long, "the answer's first line is longer than 1024 bytes"),
    ] {
        let answer = answer.to_owned();
        let address = server(move |mut stream, _| {
            let answer = answer.clone();
            async move {
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        let seen = first(address.await, agent(b"")).await;
        assert_eq!((found(&seen), &seen.report), ((false, why), &Report::default()));
    }
    let late = first_within(SHORT, silent().await, agent(b"")).await;
    assert_eq!(found(&late), (false, "no answer within 300 ms"));
}

#[tokio::test]
async fn an_agent_beside_a_check_is_asked_too() {
    let asked = server(|mut stream, _| async move { stream.write_all(b"drain\n").await.unwrap() }).await;
    let alive = silent().await;
    for check in [Check::Tcp, Check::None] {
        let (mut checker, mut observations) = checker();
        let mut target = target(alive, check.clone());
        let health = Health { check: agent(b""), port: Some(asked.port()), ..target.health.clone() };
        target.health.agent = Some(Arc::new(health));
        checker.set_targets(vec![target.clone()].into());
        let mut roles = Vec::new();
        while roles.len() < 6 {
            let seen = next(&mut observations).await;
            assert_eq!(seen.address, alive);
            let detail = if seen.role == Role::Agent { "drain" } else { "connected" };
            assert_eq!(seen.check.detail, detail);
            roles.push(seen.role);
        }
        assert!(roles.contains(&Role::Agent), "{roles:?}");
        assert_eq!(roles.contains(&Role::Check), check == Check::Tcp, "{roles:?}");
        // Without it nobody asks any more.
        target.health.agent = None;
        checker.set_targets(vec![target].into());
        while observations.try_recv().is_ok() {}
        drop(checker);
        while let Some(seen) = observations.recv().await {
            assert_eq!(seen.role, Role::Check);
        }
    }
}
