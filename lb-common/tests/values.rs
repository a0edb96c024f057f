//! What the types say of themselves.

#![expect(clippy::expect_used, reason = "a test whose input is wrong should stop")]

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use lb_common::address::{TCP, UDP};
use lb_common::route::{HOP, Host, LOCAL, Route};
use lb_common::service::{TRACK_ALWAYS, VIP_TCP, VIP_UDP, vip_of};
use lb_common::ticks::{self, SECOND};
use lb_common::{Address, BackendId, Counter, NextHop, Service};

#[test]
fn only_mapped_addresses_are_ipv4() {
    let is_v4 = |ip: &str| Address::from(ip.parse::<IpAddr>().expect("an address")).is_v4();
    assert!(is_v4("192.0.2.1") && is_v4("::ffff:192.0.2.1") && is_v4("0.0.0.0"));
    // Each differs from a mapped address in one word of four.
    for other in ["2001:db8::ffff:c000:201", "0:0:1::ffff:c000:201", "::c000:201", "::fffe:c000:201", "::"] {
        assert!(!is_v4(other), "{other}");
    }
}

#[test]
fn no_backend_is_none_whatever_its_generation() {
    assert!(!BackendId::NONE.is_some());
    assert!(BackendId::new(1, 0).is_some() && BackendId::new(1, 1).is_some());
}

#[test]
fn each_counter_is_of_one_kind() {
    let verdicts = Counter::ALL.iter().filter(|counter| counter.is_verdict()).map(|counter| counter.name());
    let expected = ["received", "passed", "forwarded", "replied", "echoed", "arp_answered", "nd_answered"];
    assert_eq!(verdicts.collect::<Vec<_>>(), expected);
    let events = Counter::ALL.iter().filter(|counter| counter.is_event()).map(|counter| counter.name());
    assert_eq!(events.collect::<Vec<_>>(), ["guard", "missed"]);
    for counter in Counter::ALL {
        let kinds = [counter.is_verdict(), counter.is_event(), counter.is_drop()];
        assert_eq!(kinds.iter().filter(|is_of_it| **is_of_it).count(), 1, "{counter:?}");
    }
}

#[test]
fn a_host_is_local_or_has_a_hop_or_both() {
    let host = |flags| Host { hop: NextHop::default(), flags };
    assert_eq!(Host::own(), host(LOCAL));
    for (flags, is_local, has_hop) in
        [(0, false, false), (LOCAL, true, false), (HOP, false, true), (LOCAL | HOP, true, true)]
    {
        assert_eq!((host(flags).is_local(), host(flags).has_hop()), (is_local, has_hop), "{flags}");
    }
}

fn route(network: &str, length: u32) -> Route {
    let network: IpAddr = network.parse().expect("an address");
    let ones = if network.is_ipv4() { length + 96 } else { length };
    let mask = u128::MAX.checked_shl(128 - ones).unwrap_or(0);
    let mask = IpAddr::V6(Ipv6Addr::from(mask));
    Route { network: network.into(), mask: mask.into(), hop: NextHop::default() }
}

#[test]
fn a_route_covers_its_network_and_nothing_else() {
    let covers = |route: &Route, ip: &str| route.covers(&ip.parse::<IpAddr>().expect("an address").into());
    let v4 = route("198.51.100.0", 24);
    assert!(covers(&v4, "198.51.100.0") && covers(&v4, "198.51.100.255"));
    assert!(!covers(&v4, "198.51.101.0") && !covers(&v4, "10.51.100.7"));
    assert!(covers(&route("0.0.0.0", 0), "203.0.113.7"));
    let v6 = route("2001:db8:1:2:3:4:5:0", 112);
    assert!(covers(&v6, "2001:db8:1:2:3:4:5:0") && covers(&v6, "2001:db8:1:2:3:4:5:ffff"));
    // A difference in each of the four words alone, and in two at the same bit.
    for other in [
        "2001:db9:1:2:3:4:5:1",
        "2001:db8:1:3:3:4:5:1",
        "2001:db8:1:2:3:5:5:1",
        "2001:db8:1:2:3:4:6:1",
        "2001:db9:1:3:3:4:5:1",
        "2001:db8:1:3:3:5:5:1",
        "2001:db8:1:2:2:4:4:1",
    ] {
        assert!(!covers(&v6, other), "{other}");
    }
    assert!(covers(&route("::", 0), "2001:db8::1"));
}

#[test]
fn a_service_tracks_always_by_its_flag_alone() {
    let service = |flags| Service { flags, ..Service::default() };
    assert!(service(TRACK_ALWAYS).tracks_always() && service(u32::MAX).tracks_always());
    assert!(!service(0).tracks_always() && !service(!TRACK_ALWAYS).tracks_always());
    assert_eq!([vip_of(TCP), vip_of(UDP), vip_of(1)], [VIP_TCP, VIP_UDP, 0]);
}

#[test]
fn ticks_are_the_clock_in_units_of_sixteen_milliseconds() {
    assert_eq!(SECOND, 59);
    assert_eq!([0, (1 << 24) - 1, 1 << 24, 5 << 24].map(ticks::from_nanos), [0, 0, 1, 5]);
    assert_eq!(ticks::from_nanos(7 << 56 | 3 << 24), 3, "it wraps");
    let tick = Duration::from_nanos(1 << 24);
    let durations =
        [Duration::ZERO, Duration::from_nanos(1), tick, tick + Duration::from_nanos(1), 10 * tick];
    assert_eq!(durations.map(ticks::from_duration), [0, 1, 1, 2, 10]);
    let year = Duration::from_secs(365 * 24 * 3600);
    assert_eq!(ticks::from_duration(year), 1_879_692_078);
    assert!(ticks::from_duration(year - tick) < ticks::from_duration(year));
    assert_eq!(ticks::from_duration(2 * year), ticks::from_duration(year));
}

#[test]
fn what_is_past_is_before_now_also_where_the_clock_wraps() {
    for now in [0, 1, 1000, u32::MAX, u32::MAX / 2, 1 << 31] {
        assert!(!ticks::is_past(now, now));
        for span in [1, 1000, i32::MAX as u32] {
            assert!(ticks::is_past(now.wrapping_sub(span), now), "{span} before {now}");
            assert!(!ticks::is_past(now.wrapping_add(span), now), "{span} after {now}");
        }
    }
}
