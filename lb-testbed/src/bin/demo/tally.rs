//! From what became of the requests to figures. Pure.

use std::time::Duration;

use crate::figures::{Share, Span, milliseconds};
use crate::load::{End, Event, Record};

/// A request that takes longer has stalled: the kernel sends a lost SYN again after a second.
const STALL: Duration = Duration::from_secs(1);

/// What the death of a backend accounts for.
#[derive(Clone, Copy, Debug)]
pub struct Excuse {
    /// The backend's place.
    pub backend: usize,
    /// From then on no new flow may meet it.
    pub until: Duration,
}

impl Excuse {
    fn covers(&self, event: &Event) -> bool {
        match event.backend {
            Some(backend) => backend == self.backend,
            // Nobody had answered on this connection: refused, which only a host without a server does.
            None => event.end == End::Broken && event.began < self.until,
        }
    }
}

/// What ended since then.
pub fn span(record: &Record, since: Duration, excuse: Option<Excuse>) -> Span {
    let within = || record.events.iter().filter(|event| event.ended >= since);
    let pauses = record.pauses.iter().filter(|pause| pause.ended >= since);
    let count = |kind: fn(&Event) -> bool| within().filter(|event| kind(event)).count() as u64;
    let unexplained = within()
        .filter(|event| event.end != End::Answered)
        .filter(|event| !excuse.is_some_and(|excuse| excuse.covers(event)))
        .count() as u64;
    let mut times: Vec<f64> =
        within().filter(|event| event.end == End::Answered).map(|event| milliseconds(took(event))).collect();
    times.sort_by(f64::total_cmp);
    let requests = count(|event| event.end != End::Cut);
    let seconds = record.end.saturating_sub(since).as_secs_f64();
    Span {
        seconds,
        requests,
        requests_per_s: requests as f64 / seconds,
        lost: count(is_lost),
        stalled: count(|event| event.end == End::Answered && took(event) > STALL),
        cut: count(|event| event.end == End::Cut),
        unexplained,
        median_ms: quantile(&times, 0.5),
        p99_ms: quantile(&times, 0.99),
        slowest_ms: quantile(&times, 1.0),
        paused_ms: pauses.map(|pause| milliseconds(pause.took)).fold(0.0, f64::max),
    }
}

/// Who answered how much of all that was answered.
pub fn shares(record: &Record, backends: &[String]) -> Vec<Share> {
    let answered = |by: Option<usize>| {
        let answers = record.events.iter().filter(|event| event.end == End::Answered);
        answers.filter(|event| by.is_none() || event.backend == by).count() as u64
    };
    let all = answered(None).max(1) as f64;
    let share = |(place, backend): (usize, &String)| {
        let requests = answered(Some(place));
        Share { backend: backend.clone(), requests, percent: requests as f64 / all * 100.0 }
    };
    backends.iter().enumerate().map(share).collect()
}

/// When the last request was lost since then.
pub fn last_lost(record: &Record, since: Duration) -> Option<Duration> {
    let lost = record.events.iter().filter(|event| event.ended >= since && is_lost(event));
    lost.map(|event| event.ended).max()
}

/// When this backend first answered, of the requests begun since then.
pub fn first_answer(record: &Record, backend: usize, since: Duration) -> Option<Duration> {
    let answers = record.events.iter().filter(|event| event.end == End::Answered && event.began >= since);
    answers.filter(|event| event.backend == Some(backend)).map(|event| event.ended).min()
}

fn is_lost(event: &Event) -> bool {
    matches!(event.end, End::Broken | End::TimedOut | End::WrongAnswer)
}

fn took(event: &Event) -> Duration {
    event.ended.saturating_sub(event.began)
}

/// Of sorted values; 0 where there are none.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(place.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Pause;

    const fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn event(began: u64, ended: u64, backend: Option<usize>, end: End) -> Event {
        Event { began: at(began), ended: at(ended), backend, end }
    }

    fn record(events: impl Into<Vec<Event>>) -> Record {
        let pauses = vec![Pause { ended: at(2000), took: at(300) }];
        Record { events: events.into(), pauses, end: at(2100) }
    }

    /// Backend 1 is killed at 100 ms and out of the tables at 900 ms.
    const DEATH: Option<Excuse> = Some(Excuse { backend: 1, until: at(900) });

    fn unexplained(event: Event) -> u64 {
        span(&record([event]), at(100), DEATH).unexplained
    }

    #[test]
    fn a_death_accounts_for_its_own_flows_and_for_new_ones_until_it_is_seen() {
        assert_eq!(unexplained(event(50, 120, Some(1), End::Broken)), 0);
        assert_eq!(unexplained(event(150, 150, Some(1), End::Cut)), 0);
        assert_eq!(unexplained(event(800, 801, None, End::Broken)), 0);
        assert_eq!(unexplained(event(950, 951, Some(0), End::Answered)), 0);
    }

    #[test]
    fn nothing_else_is_excused() {
        assert_eq!(unexplained(event(150, 151, Some(0), End::Broken)), 1);
        assert_eq!(unexplained(event(150, 151, Some(2), End::Cut)), 1);
        assert_eq!(unexplained(event(901, 902, None, End::Broken)), 1);
        assert_eq!(unexplained(event(150, 5150, None, End::TimedOut)), 1);
        assert_eq!(unexplained(event(150, 160, None, End::WrongAnswer)), 1);
        let cut = record([event(150, 151, Some(1), End::Cut)]);
        assert_eq!(span(&cut, at(100), None).unexplained, 1);
    }

    #[test]
    fn figures_of_a_span() {
        let record = record([
            event(0, 99, Some(0), End::Answered),
            event(90, 110, Some(0), End::Answered),
            event(100, 1200, Some(2), End::Answered),
            event(150, 160, None, End::Broken),
            event(200, 200, Some(1), End::Cut),
        ]);
        let span = span(&record, at(100), None);
        assert_eq!((span.requests, span.lost, span.stalled, span.cut), (3, 1, 1, 1));
        assert_eq!((span.requests_per_s, span.median_ms, span.slowest_ms), (1.5, 20.0, 1100.0));
        assert_eq!(span.paused_ms, 300.0);
        assert_eq!(last_lost(&record, at(100)), Some(at(160)));
        assert_eq!(first_answer(&record, 2, at(50)), Some(at(1200)));
        assert_eq!(first_answer(&record, 0, at(95)), None);
        let shares = shares(&record, &["a".into(), "b".into(), "c".into()]);
        assert_eq!(shares.iter().map(|share| share.requests).collect::<Vec<_>>(), [2, 0, 1]);
    }
}
