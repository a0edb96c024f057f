//! What ends the process: a task that ends early, and the patience of a stop.

use std::time::Duration;

use lb_userspace::model::Phase;
use lb_userspace::supervisor::Supervisor;
use tokio::time::Instant;

#[tokio::test]
async fn a_task_that_fails_is_named_and_ends_the_others() {
    let mut supervisor = Supervisor::new();
    let token = supervisor.token();
    supervisor.spawn("patient", {
        let token = token.clone();
        async move {
            token.cancelled().await;
            Ok(())
        }
    });
    supervisor.spawn("health", async { Err("no descriptor left".into()) });
    let end = supervisor.early_end().await;
    assert_eq!(end.to_string(), "task \"health\" failed: no descriptor left");
    assert!(token.is_cancelled());
    assert!(supervisor.stop(Duration::from_secs(5)).await.is_empty());
}

#[tokio::test]
async fn an_early_end_without_an_error_is_one_too() {
    let mut supervisor = Supervisor::new();
    supervisor.spawn("controller", async { Ok(()) });
    let end = supervisor.early_end().await;
    assert_eq!(end.to_string(), "task \"controller\" ended although nothing told it to");
}

#[tokio::test]
async fn a_panic_is_named() {
    let mut supervisor = Supervisor::new();
    supervisor.spawn("controller", async { panic!("slot 7 is gone") });
    let end = supervisor.early_end().await;
    assert_eq!(end.task, "controller");
    assert!(end.how.contains("slot 7 is gone"), "{end}");
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_the_tasks_but_not_for_ever() {
    let mut supervisor = Supervisor::new();
    let token = supervisor.token();
    supervisor.spawn("slow", async move {
        token.cancelled().await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ok(())
    });
    supervisor.spawn("deaf", std::future::pending());
    let start = Instant::now();
    let failed = supervisor.stop(Duration::from_secs(10)).await;
    assert_eq!(start.elapsed(), Duration::from_secs(10));
    let failed = failed.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(failed, ["task \"deaf\" did not end within 10s and was aborted"]);
}

#[tokio::test]
async fn without_a_task_nothing_ends_early() {
    let mut supervisor = Supervisor::new();
    tokio::select! {
        biased;
        end = supervisor.early_end() => panic!("{end}"),
        () = tokio::task::yield_now() => {}
    }
    assert!(!supervisor.token().is_cancelled());
}

#[test]
fn phases_are_those_of_the_status_document_in_order() {
    let phases = [Phase::Starting, Phase::Ready, Phase::Draining, Phase::Stopping];
    assert!(phases.is_sorted());
    let words = phases.map(|phase| phase.to_string());
    assert_eq!(words, ["starting", "ready", "draining", "stopping"]);
}
