//! What may stand around and before the transport header: VLAN tags, IPv6 extension headers, and addresses
//! that no client can have.

use std::net::SocketAddr;

use lb_common::Counter;

use super::{Case, chosen, client, client6};
use crate::segment::{ACK, AUTHENTICATION, DESTINATION_OPTIONS, FRAGMENT, HOP_BY_HOP, ROUTING, SYN, Tcp};
use crate::world::Web;

/// Bytes of an Ethernet header.
const L3: usize = 14;
/// Where the first IPv6 extension header begins.
const EXTENSIONS: usize = L3 + 40;
/// Where an IPv6 header names what follows.
const NEXT_HEADER: usize = L3 + 6;

pub(super) fn cases() -> Vec<Case> {
    [tags(), extensions(), sources()].concat()
}

fn tags() -> Vec<Case> {
    let (web, web6) = (Web::V4, Web::V6);
    let to_web = Tcp::new(client(), web.vip(), ACK);
    let id = chosen(web, client());
    let from_backend = Tcp::new(web.endpoint(id), client(), ACK);
    let to_web6 = Tcp::new(client6(), web6.vip(), ACK);
    // Another tag around all that is there.
    let tagged =
        |frame: &[u8], kind: u16| [&frame[..12], &kind.to_be_bytes(), &[0, 1], &frame[12..]].concat();
    let mut nested = Case::forwarded("802.1Q in 802.1Q", &to_web.clone().vlan(2), web, id);
    nested.frame = tagged(&nested.frame, 0x8100);
    nested.out = nested.out.map(|out| tagged(&out, 0x8100));
    vec![
        Case::forwarded("802.1Q in 802.1ad", &to_web.clone().vlan(2).provider_vlan(300), web, id),
        Case::forwarded("802.1ad alone", &to_web.clone().provider_vlan(300), web, id),
        nested,
        Case::forwarded(
            "IPv6 in two tags",
            &to_web6.vlan(2).provider_vlan(300),
            web6,
            chosen(web6, client6()),
        ),
        Case::replied("a reply keeps both its tags", &from_backend.vlan(2).provider_vlan(300), web),
        Case::passed("three tags", tagged(&to_web.clone().vlan(2).provider_vlan(300).frame(), 0x88a8)),
        Case::passed(
            "a frame cut in its second tag",
            to_web.vlan(2).provider_vlan(300).frame()[..20].to_vec(),
        ),
    ]
}

fn extensions() -> Vec<Case> {
    let web = Web::V6;
    let to_web = Tcp::new(client6(), web.vip(), ACK).payload(b"data");
    let id = chosen(web, client6());
    let with = |kinds: &[u8]| to_web.clone().extensions(kinds);
    let deepest = [HOP_BY_HOP, DESTINATION_OPTIONS, ROUTING, DESTINATION_OPTIONS];
    let dropped = |name, kinds: &[u8], reason| Case::new(name, with(kinds).frame(), reason);
    let elsewhere =
        Tcp::new(client6(), "[2001:db8::150]:80".parse().expect("an address"), ACK).extensions(&[ROUTING; 5]);
    let from_backend = Tcp::new(web.endpoint(id), client6(), ACK).extensions(&[DESTINATION_OPTIONS]);
    let edited = |name, kinds: &[u8], at: usize, byte| {
        let mut case = dropped(name, kinds, Counter::Options);
        case.frame[at] = byte;
        case
    };
    let mut beyond = edited("an extension header beyond the packet", &[HOP_BY_HOP], EXTENSIONS + 1, 200);
    beyond.verdict = Counter::Malformed;
    let mut cut = dropped("a frame cut in an extension header", &[HOP_BY_HOP], Counter::Options);
    cut.frame.truncate(EXTENSIONS + 3);
    let with_next = |next| {
        let mut frame = with(&[]).frame();
        frame[NEXT_HEADER] = next;
        frame
    };
    vec![
        Case::forwarded("an IPv6 hop-by-hop header", &with(&[HOP_BY_HOP]), web, id),
        Case::forwarded("an IPv6 routing header that has arrived", &with(&[ROUTING]), web, id),
        Case::forwarded("IPv6 destination options", &with(&[DESTINATION_OPTIONS]), web, id),
        Case::forwarded("all IPv6 extension headers that there are", &with(&deepest), web, id),
        Case::forwarded("IPv6 extension headers behind a tag", &with(&deepest).vlan(7), web, id),
        Case::replied("a reply with IPv6 destination options", &from_backend, web),
        dropped("five IPv6 extension headers", &[DESTINATION_OPTIONS; 5], Counter::Options),
        dropped("an IPv6 authentication header", &[AUTHENTICATION], Counter::Options),
        dropped("an IPv6 fragment header", &[FRAGMENT], Counter::Fragment),
        dropped("an IPv6 fragment header behind another", &[HOP_BY_HOP, FRAGMENT], Counter::Fragment),
        Case::passed("an IPv6 packet whose contents are encrypted", with_next(50)),
        Case::passed("an IPv6 packet with nothing in it", with_next(59)),
        edited("an IPv6 routing header on its way", &[ROUTING], EXTENSIONS + 3, 1),
        beyond,
        cut,
        Case::passed("IPv6 extension headers for somebody else", elsewhere.frame()),
        Case::passed("an IPv6 fragment for somebody else", {
            let other = SocketAddr::new("2001:db8::150".parse().expect("an address"), 80);
            Tcp::new(client6(), other, ACK).extensions(&[FRAGMENT]).frame()
        }),
    ]
}

fn sources() -> Vec<Case> {
    let (web, web6) = (Web::V4, Web::V6);
    let from = |name, text: &str, web: Web| {
        let source = SocketAddr::new(text.parse().expect("an address"), 40000);
        let frame = Tcp::new(source, web.vip(), SYN).frame();
        Case::new(name, frame, Counter::ImpossibleSource)
    };
    let host = |name, text: &str, web: Web| {
        let source = SocketAddr::new(text.parse().expect("an address"), 40000);
        Case::forwarded(name, &Tcp::new(source, web.vip(), SYN), web, chosen(web, source))
    };
    vec![
        from("from the VIP itself", &web.vip().ip().to_string(), web),
        from("from the IPv6 VIP itself", &web6.vip().ip().to_string(), web6),
        from("from loopback", "127.0.0.1", web),
        from("from IPv6 loopback", "::1", web6),
        from("from a multicast group", "224.0.0.1", web),
        from("from an IPv6 multicast group", "ff02::1", web6),
        from("from the broadcast address", "255.255.255.255", web),
        from("from nowhere", "0.0.0.0", web),
        from("from an IPv6 nowhere", "::", web6),
        Case::passed("from loopback to somebody else", {
            let other = SocketAddr::from(([192, 0, 2, 150], 80));
            Tcp::new(SocketAddr::from(([127, 0, 0, 1], 40000)), other, SYN).frame()
        }),
        host("from an IPv6 host that begins with two equal words", "0:1:0:1::1", web6),
        host("from an IPv6 host with two equal words in the middle", "0:0:0:1:0:1:0:1", web6),
        host("from an IPv6 host with zeroes before its number", "::2", web6),
        {
            let source = SocketAddr::from(([240, 0, 0, 1], 40000));
            Case::forwarded(
                "from an address reserved for the future",
                &Tcp::new(source, web.vip(), SYN),
                web,
                chosen(web, source),
            )
        },
    ]
}
