//! TCP options: all stay as they are, but for the maximum segment size where a service lowers it.

use lb_common::Counter;

use super::{Case, chosen, client};
use crate::segment::{ACK, SYN, Tcp};
use crate::world::{MSS, Web};

/// A maximum segment size of 1460 and of [`MSS`].
const USUAL: [u8; 4] = [2, 4, 0x05, 0xb4];
const LOWERED: [u8; 4] = [2, 4, (MSS >> 8) as u8, MSS as u8];
/// No operation.
const NOP: u8 = 1;
/// SACK permitted, a window scale, time stamps.
const OTHERS: [u8; 16] = [4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, NOP, 3, 3, 7];

pub(super) fn cases() -> Vec<Case> {
    let web = Web::Affinity;
    let id = chosen(web, client());
    let to_web = |flags| Tcp::new(client(), web.vip(), flags);
    let from_backend = |flags| Tcp::new(web.endpoint(id), client(), flags);
    let syn = |name, before: &[u8], after: &[u8]| {
        let packet = to_web(SYN);
        let case = Case::forwarded(name, &packet.clone().tcp_options(after), web, id);
        Case { frame: packet.tcp_options(before).frame(), ..case }
    };
    let kept = |name, options: &[u8]| syn(name, options, options);
    let with_others = |size: &[u8]| [size, &OTHERS].concat();
    // Both at an odd place: behind one byte of nothing, with the last one for balance.
    let odd = |size: [u8; 4]| [&[NOP], &size[..], &[NOP, NOP, NOP]].concat();
    let plain = Tcp::new(client(), Web::V4.vip(), SYN).tcp_options(&with_others(&USUAL));
    vec![
        syn("a maximum segment size", &USUAL, &LOWERED),
        syn("a maximum segment size before other options", &with_others(&USUAL), &with_others(&LOWERED)),
        syn(
            "a maximum segment size behind other options",
            &[&OTHERS[..], &USUAL].concat(),
            &[&OTHERS[..], &LOWERED].concat(),
        ),
        syn("a maximum segment size at an odd place", &odd(USUAL), &odd(LOWERED)),
        kept("a maximum segment size that is small already", &[2, 4, 0x02, 0x18]),
        kept("a maximum segment size as small as asked", &LOWERED),
        kept("a SYN without a maximum segment size", &OTHERS),
        kept("an option behind the end of options", &[0, 4, 0, 0, 2, 4, 0x05, 0xb4]),
        kept("an option of length 0", &[8, 0, 0, 0, 2, 4, 0x05, 0xb4]),
        kept("an option of length 1", &[8, 1, 0, 0, 2, 4, 0x05, 0xb4]),
        kept("an option longer than the header", &[8, 200, 0, 0]),
        kept("a maximum segment size of a wrong length", &[2, 3, 0x05, NOP]),
        {
            let packet = to_web(SYN).tcp_options(&[NOP, NOP, 2, 4]).payload(&USUAL[2..]);
            Case::forwarded("a maximum segment size that ends in the data", &packet, web, id)
        },
        kept("40 bytes of nothing", &[NOP; 40]),
        {
            // What looks like an option is data already.
            let packet = to_web(SYN).payload(&USUAL);
            Case::forwarded("an option in the data of a SYN", &packet, web, id)
        },
        {
            let case = Case::replied(
                "a SYN-ACK's maximum segment size",
                &from_backend(SYN | ACK).tcp_options(&LOWERED),
                web,
            );
            Case { frame: from_backend(SYN | ACK).tcp_options(&USUAL).frame(), ..case }
        },
        Case::forwarded("an option in a segment without SYN", &to_web(ACK).tcp_options(&USUAL), web, id),
        Case::forwarded(
            "a maximum segment size that nobody lowers",
            &plain,
            Web::V4,
            chosen(Web::V4, client()),
        ),
        Case::new(
            "a maximum segment size in an impossible segment",
            to_web(0).tcp_options(&USUAL).frame(),
            Counter::TcpFlags,
        ),
    ]
}
