//! The task of one backend: when it is checked, and what is reported.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rand::Rng;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::judge::Judge;
use super::probe::{Outcome, Proof};
use super::{Observation, Role};
use crate::model::Health;
use crate::model::status::{LastCheck, rfc3339};

/// Checks that are refused are this close together, all `fall` of them, while the backend counts as up: clients
/// are refused too.
const REFUSED: Duration = Duration::from_millis(50);
/// The shortest pause between two of them.
const REFUSED_PAUSE: Duration = Duration::from_millis(10);

/// What a task knows.
pub(super) struct Task {
    pub(super) pool: String,
    pub(super) address: SocketAddr,
    pub(super) role: Role,
    pub(super) was_up: bool,
    pub(super) health: watch::Receiver<Health>,
    /// Why there is no way to the backend, each time that it was lost.
    pub(super) lost: watch::Receiver<String>,
    pub(super) running: Arc<Semaphore>,
    pub(super) observations: mpsc::Sender<Observation>,
}

impl Task {
    /// Runs until the backend leaves or nobody listens any more.
    pub(super) async fn run<F>(mut self, probe: impl Fn(SocketAddr, Health) -> F)
    where
        F: Future<Output = io::Result<Outcome>>,
    {
        let mut judge = Judge::new(self.was_up);
        let mut blind = false;
        loop {
            let health = self.health.borrow_and_update().clone();
            let Ok(permit) = self.running.acquire().await else { return };
            let (at, started) = (rfc3339(SystemTime::now()), Instant::now());
            let outcome = tokio::select! {
                biased;
                Ok(()) = self.lost.changed() => Err(self.lost.borrow_and_update().clone()),
                outcome = probe(self.address, health.clone()) => Ok(outcome),
            };
            let took_ms = started.elapsed().as_secs_f64() * 1000.0;
            drop(permit);
            let mut refused = false;
            let seen = match outcome {
                Ok(Ok(outcome)) if outcome.proof == Proof::Unreachable => {
                    judge.lose();
                    Ok((false, outcome))
                }
                Ok(Ok(outcome)) => {
                    refused = outcome.proof == Proof::Refused;
                    Ok((judge.observe(outcome.ok, &health), outcome))
                }
                Ok(Err(error)) => Err(error),
                Err(why) => {
                    judge.lose();
                    Ok((false, Outcome::failed(why)))
                }
            };
            match seen {
                Ok((up, Outcome { ok, detail, report, .. })) => {
                    blind = false;
                    let check = LastCheck { ok, at, took_ms, detail };
                    let (pool, address, role) = (self.pool.clone(), self.address, self.role);
                    let observation = Observation { pool, address, role, up, check, report };
                    if self.observations.send(observation).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    if !blind {
                        tracing::warn!(pool = self.pool, backend = %self.address, %error, "cannot check");
                    }
                    blind = true;
                }
            }
            let interval = match judge.is_changing() {
                true if refused && judge.is_falling() => after_refusal(&health),
                true => health.fast_interval,
                false => health.interval,
            };
            tokio::select! {
                () = sleep_until(started + shortened(interval, health.jitter, &mut rand::rng())) => {}
                changed = self.health.changed() => if changed.is_err() { return },
                Ok(()) = self.lost.changed() => self.lost.mark_changed(),
            }
        }
    }
}

/// How long after a check that was refused the next one begins.
fn after_refusal(health: &Health) -> Duration {
    let pause = REFUSED / health.fall.saturating_sub(1).max(1);
    pause.max(REFUSED_PAUSE).min(health.fast_interval)
}

/// By up to `jitter` percent, so that checks which began together drift apart.
fn shortened(interval: Duration, jitter: u32, rng: &mut impl Rng) -> Duration {
    interval.mul_f64(1.0 - rng.random_range(0.0..=f64::from(jitter) / 100.0))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use tokio_util::task::AbortOnDropHandle;

    use super::*;
    use crate::model::Check;

    const INTERVAL: Duration = Duration::from_secs(1);

    fn health() -> Health {
        Health { interval: INTERVAL, fast_interval: INTERVAL, timeout: INTERVAL, ..Health::default() }
    }

    fn outcome(ok: bool) -> Outcome {
        Outcome { ok, ..Outcome::failed("") }
    }

    /// A task, how to change its config, and how to tell that its backend is lost.
    type Running = (watch::Sender<Health>, AbortOnDropHandle<()>, watch::Sender<String>);

    /// Tasks whose probes are `probe`, and what they observe.
    fn tasks<F>(
        count: u16,
        limit: usize,
        probe: impl Fn(SocketAddr, Health) -> F + Clone + Send + 'static,
    ) -> (Vec<Running>, mpsc::Receiver<Observation>)
    where
        F: Future<Output = io::Result<Outcome>> + Send + 'static,
    {
        let (observations, receiver) = mpsc::channel(1);
        let running = Arc::new(Semaphore::new(limit));
        let probes = (0..count)
            .map(|port| {
                let (sender, health) = watch::channel(health());
                let (loser, lost) = watch::channel(String::new());
                let task = Task {
                    pool: "web".to_owned(),
                    address: SocketAddr::from(([127, 0, 0, 1], port)),
                    role: Role::Check,
                    was_up: false,
                    health,
                    lost,
                    running: running.clone(),
                    observations: observations.clone(),
                };
                (sender, AbortOnDropHandle::new(tokio::spawn(task.run(probe.clone()))), loser)
            })
            .collect();
        (probes, receiver)
    }

    #[test]
    fn intervals_vary_and_are_never_exceeded() {
        let mut rng = StdRng::seed_from_u64(7);
        let drawn: Vec<_> = (0..1000).map(|_| shortened(INTERVAL, 10, &mut rng)).collect();
        let (shortest, longest) = (drawn.iter().min().unwrap(), drawn.iter().max().unwrap());
        assert!((INTERVAL.mul_f64(0.9)..INTERVAL.mul_f64(0.905)).contains(shortest), "{shortest:?}");
        assert!((INTERVAL.mul_f64(0.995)..=INTERVAL).contains(longest), "{longest:?}");
        assert_eq!(shortened(INTERVAL, 0, &mut rng), INTERVAL);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_check_is_at_once_and_others_follow_at_the_interval() {
        let took = Duration::from_millis(300);
        let (_probes, mut observed) = tasks(1, 1, move |_, _| async move {
            tokio::time::sleep(took).await;
            Ok(Outcome::passed("connected"))
        });
        let mut last = Instant::now();
        let first = observed.recv().await.unwrap();
        assert_eq!((last.elapsed(), first.check.took_ms), (took, 300.0));
        for _ in 0..20 {
            last = Instant::now();
            observed.recv().await.unwrap();
            // The paused clock steps in milliseconds.
            let waited = last.elapsed();
            assert!(
                (Duration::from_millis(899)..=Duration::from_millis(1101)).contains(&waited),
                "{waited:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_config_is_tried_at_once_and_keeps_the_judgement() {
        let (probes, mut observed) = tasks(1, 1, |_, health| async move {
            let ok = health.check == Check::Tcp;
            Ok(outcome(ok))
        });
        assert!(observed.recv().await.unwrap().up);
        let started = Instant::now();
        let failing = Check::Http(Arc::default());
        probes[0].0.send_modify(|health| health.check = failing);
        let mut up = Vec::new();
        for _ in 0..3 {
            up.push(observed.recv().await.unwrap().up);
            if up.len() == 1 {
                assert_eq!(started.elapsed(), Duration::ZERO);
            }
        }
        assert_eq!(up, [true, true, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn checks_are_faster_while_they_contradict_the_judgement() {
        let outcomes = [true, true, false, false, false, false, true, true, true];
        let calls = Arc::new(AtomicUsize::new(0));
        let (probes, mut observed) = tasks(1, 1, move |_, _| {
            let ok = outcomes[calls.fetch_add(1, Ordering::Relaxed) % outcomes.len()];
            async move { Ok(outcome(ok)) }
        });
        let fast = INTERVAL / 10;
        probes[0].0.send_modify(|health| health.fast_interval = fast);
        let (mut last, mut waits) = (Instant::now(), Vec::new());
        for _ in outcomes {
            observed.recv().await.unwrap();
            waits.push(last.elapsed() <= fast);
            last = Instant::now();
        }
        // Fast from the first failure to the third, and between the two successes.
        assert_eq!(waits[1..], [false, false, true, true, false, false, true, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_backend_that_refuses_is_down_within_200_ms_of_the_first_refusal() {
        // What a connection over a network takes to be refused.
        let took = Duration::from_millis(5);
        for fall in [1, 2, 3, 5, 10] {
            let calls = Arc::new(AtomicUsize::new(0));
            let counter = calls.clone();
            let (probes, mut observed) = tasks(1, 1, move |_, _| {
                let call = counter.fetch_add(1, Ordering::Relaxed);
                async move {
                    tokio::time::sleep(took).await;
                    let refused = Outcome { proof: Proof::Refused, ..outcome(false) };
                    Ok(if call < 2 { outcome(true) } else { refused })
                }
            });
            probes[0].0.send_modify(|health| {
                (health.fall, health.interval, health.fast_interval) =
                    (fall, 3 * INTERVAL / 10, INTERVAL / 5);
            });
            while observed.recv().await.unwrap().check.ok {}
            let refused = Instant::now() - took;
            for _ in 1..fall {
                observed.recv().await.unwrap();
            }
            assert!(refused.elapsed() <= Duration::from_millis(200), "{fall}: {:?}", refused.elapsed());
            // From then on at the interval, whoever refuses.
            let (down, before) = (Instant::now(), calls.load(Ordering::Relaxed));
            assert!(!observed.recv().await.unwrap().up);
            assert!(down.elapsed() >= INTERVAL / 4, "{fall}: {:?}", down.elapsed());
            assert!(calls.load(Ordering::Relaxed) <= before + 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_unreachable_backend_is_down_at_once_and_rises_as_any_other() {
        let outcomes = [true, false, true, true];
        let calls = Arc::new(AtomicUsize::new(0));
        let (_probes, mut observed) = tasks(1, 1, move |_, _| {
            let ok = outcomes[calls.fetch_add(1, Ordering::Relaxed) % outcomes.len()];
            let proof = if ok { Proof::Usual } else { Proof::Unreachable };
            async move { Ok(Outcome { proof, ..outcome(ok) }) }
        });
        let mut up = Vec::new();
        for _ in outcomes {
            up.push(observed.recv().await.unwrap().up);
        }
        assert_eq!(up, [true, false, false, true]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_backend_is_down_at_once_and_rises_again() {
        let took = Duration::from_millis(300);
        let (probes, mut observed) = tasks(1, 1, move |_, _| async move {
            tokio::time::sleep(took).await;
            Ok(Outcome::passed("connected"))
        });
        // Between two checks, then within one.
        for wait in [100, 800].map(Duration::from_millis) {
            while !observed.recv().await.unwrap().up {}
            tokio::time::sleep(wait).await;
            let started = Instant::now();
            probes[0].2.send_replace("eth1 is down".to_owned());
            let seen = observed.recv().await.unwrap();
            assert_eq!((seen.up, seen.check.detail.as_str()), (false, "eth1 is down"));
            assert_eq!(started.elapsed(), Duration::ZERO);
        }
        assert!(!observed.recv().await.unwrap().up, "one success is not enough");
        assert!(observed.recv().await.unwrap().up);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_checks_than_allowed_run_at_a_time_and_all_get_their_turn() {
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counters = (now.clone(), most.clone());
        let (_probes, mut observed) = tasks(100, 8, move |_, _| {
            let (now, most) = counters.clone();
            async move {
                most.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(50)).await;
                now.fetch_sub(1, Ordering::Relaxed);
                Ok(Outcome::passed("connected"))
            }
        });
        let mut seen = std::collections::HashSet::new();
        for _ in 0..100 {
            seen.insert(observed.recv().await.unwrap().address);
        }
        assert_eq!((seen.len(), most.load(Ordering::Relaxed)), (100, 8));
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_that_this_host_cannot_make_says_nothing_of_the_backend() {
        let calls = Arc::new(AtomicUsize::new(0));
        let (_probes, mut observed) = tasks(1, 1, move |_, _| {
            let call = calls.fetch_add(1, Ordering::Relaxed);
            async move {
                match call {
                    0 | 5 => Ok(Outcome::passed("connected")),
                    _ => Err(io::Error::from_raw_os_error(libc::EMFILE)),
                }
            }
        });
        let (first, started) = (observed.recv().await.unwrap(), Instant::now());
        let second = observed.recv().await.unwrap();
        assert!(first.up && second.up);
        assert!(started.elapsed() > 4 * INTERVAL, "{:?}", started.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn tasks_end_when_nobody_listens() {
        let (mut probes, observed) = tasks(1, 1, |_, _| async { Ok(Outcome::passed("connected")) });
        drop(observed);
        tokio::time::timeout(INTERVAL, probes.remove(0).1).await.unwrap().unwrap();
    }
}
