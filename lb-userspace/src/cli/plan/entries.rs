//! What pinned entries and slots tell of the config that they were made from. Pure.

use std::net::SocketAddr;
use std::time::Duration;

use lb_common::service::SOURCE_AFFINITY;
use lb_common::{Service, ticks};

use crate::model::Protocol;

/// A table's shares differ from the weights' proportions by at most this part of them (see [`crate::maglev::build`]).
const LATITUDE: f64 = 0.01;

/// What is not the same in two entries of a service, as `reload` says it.
pub(super) fn differences(protocol: Protocol, before: &Service, after: &Service) -> Vec<String> {
    let idle = match protocol {
        Protocol::Tcp => "timeouts.established",
        Protocol::Udp => "timeouts.udp",
    };
    let affinity = |entry: &Service| if entry.flags & SOURCE_AFFINITY == 0 { "none" } else { "source" };
    let tracking = |entry: &Service| if entry.tracks_always() { "always" } else { "auto" };
    let mss = |entry: &Service| if entry.mss == 0 { "none".to_owned() } else { entry.mss.to_string() };
    let both = |of: &dyn Fn(&Service) -> String| (of(before), of(after));
    let settings = [
        ("affinity", both(&|entry| affinity(entry).to_owned())),
        ("mss", both(&mss)),
        (idle, both(&|entry| time(entry.established))),
        ("timeouts.closing", both(&|entry| time(entry.closing))),
        ("timeouts.half_open", both(&|entry| time(entry.half_open))),
        ("tracking", both(&|entry| tracking(entry).to_owned())),
    ];
    let different = settings.into_iter().filter(|(_, (before, after))| before != after);
    different.map(|(key, (before, after))| format!("{key} {before} -> {after}")).collect()
}

/// Ticks as the roundest time that becomes them.
fn time(time: u32) -> String {
    let nanos = |ticks: u32| u64::from(ticks) << ticks::SHIFT;
    let (most, least) = (nanos(time), nanos(time.saturating_sub(1)));
    let units = [3_600_000, 60_000, 1_000, 100, 10, 1].map(|millis: u64| millis * 1_000_000);
    let round = units.into_iter().map(|unit| most - most % unit).find(|nanos| *nanos > least);
    humantime::format_duration(Duration::from_nanos(round.unwrap_or(most))).to_string()
}

/// Those whose part of all these slots is another one afterwards, by more than tables of the same weights may differ.
pub(super) fn uneven(slots: Vec<(SocketAddr, (u64, u64))>) -> Vec<(SocketAddr, (u64, u64))> {
    let sum = |of: fn(&(u64, u64)) -> u64| slots.iter().map(|(_, slots)| of(slots)).sum::<u64>() as f64;
    let (before, after) = (sum(|slots| slots.0), sum(|slots| slots.1));
    let is_uneven = |slots: &(u64, u64)| {
        let (expected, found) = (slots.0 as f64 * after, slots.1 as f64 * before);
        (expected - found).abs() > 2.0 * LATITUDE * expected.max(found) + before + after
    };
    slots.iter().copied().filter(|(_, slots)| is_uneven(slots)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_the_time_that_they_were_made_from() {
        for (millis, text) in
            [(500, "500ms"), (1_000, "1s"), (75_000, "1m 15s"), (3_600_000, "1h"), (0, "0s")]
        {
            assert_eq!(time(ticks::from_duration(Duration::from_millis(millis))), text);
        }
    }

    #[test]
    fn entries_differ_in_the_words_of_a_reload() {
        let service = |established, flags| Service {
            established: ticks::from_duration(Duration::from_secs(established)),
            flags,
            ..Service::default()
        };
        let (before, after) = (service(3600, 0), service(300, SOURCE_AFFINITY));
        assert_eq!(differences(Protocol::Tcp, &before, &before), Vec::<String>::new());
        assert_eq!(
            differences(Protocol::Tcp, &before, &after),
            ["affinity none -> source", "timeouts.established 1h -> 5m"]
        );
        assert_eq!(differences(Protocol::Udp, &before, &service(300, 0)), ["timeouts.udp 1h -> 5m"]);
    }

    #[test]
    fn shares_differ_where_weights_do_and_not_where_somebody_left() {
        let of = |slots: &[(u64, u64)]| {
            let addresses = (1..).map(|port| SocketAddr::from(([10, 0, 0, 1], port)));
            let uneven = uneven(addresses.zip(slots.iter().copied()).collect());
            uneven.iter().map(|(address, _)| address.port()).collect::<Vec<_>>()
        };
        assert!(of(&[(1366, 2050), (1367, 2049)]).is_empty(), "a third has left");
        assert!(of(&[(0, 0), (0, 0)]).is_empty() && of(&[]).is_empty());
        assert_eq!(of(&[(1366, 820), (1366, 1640), (1367, 1639)]), [1, 2, 3]);
        assert_eq!(of(&[(1366, 0), (1366, 2049), (1367, 2050)]), [1, 2, 3], "one is drained");
        assert!(of(&[(3, 4), (4, 3)]).is_empty(), "small tables are not exact");
    }
}
