//! Entry points for sockets of this host: `BPF_PROG_TYPE_CGROUP_SOCK_ADDR`, one program for each call and family.
//! They see the sockets of every network namespace in their cgroup, and leave those of others alone.
#![expect(unsafe_code, reason = "addresses are reached through the kernel's context")]

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::{bpf_get_netns_cookie, bpf_get_socket_cookie};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use lb_common::{Address, BackendId, Peer, PeerKey, Port, Service, SocketKey, Traffic};
use lb_ebpf::local::{self, Lead, Sockets};

use crate::maps;
use crate::tables::Maps;

/// What the kernel goes on with, and what makes the system call fail with `EPERM`.
const GO_ON: i32 = 1;
const REFUSE: i32 = 0;

/// `TCP_ESTABLISHED`, which a connected UDP socket is in too.
const CONNECTED: u32 = 1;

macro_rules! hooks {
    ($($hook:ident $name:ident $family:ident $lead:ident;)*) => {$(
        #[cgroup_sock_addr($hook)]
        pub fn $name(context: SockAddrContext) -> i32 {
            $lead::<$family>(context.sock_addr)
        }
    )*};
}

hooks! {
    connect4 sluice_connect4 V4 connect;
    connect6 sluice_connect6 V6 connect;
    sendmsg4 sluice_sendmsg4 V4 send;
    sendmsg6 sluice_sendmsg6 V6 send;
    recvmsg4 sluice_recvmsg4 V4 name;
    recvmsg6 sluice_recvmsg6 V6 name;
    getpeername4 sluice_getpeername4 V4 name;
    getpeername6 sluice_getpeername6 V6 name;
}

#[inline(always)]
fn connect<F: Family>(context: *mut bpf_sock_addr) -> i32 {
    let Some(socket) = socket(context) else { return GO_ON };
    let lead = local::connect(&Maps, socket, &read::<F>(context));
    if lead.is_refused {
        return REFUSE;
    }
    follow::<F>(context, lead);
    GO_ON
}

#[inline(always)]
fn send<F: Family>(context: *mut bpf_sock_addr) -> i32 {
    let Some(socket) = socket(context) else { return GO_ON };
    // SAFETY: the kernel passes a valid context, whose socket is a whole one.
    let state = unsafe { (*(*context).__bindgen_anon_1.sk).state };
    let lead = local::send(&Maps, socket, &read::<F>(context), state == CONNECTED);
    if lead.is_refused {
        return REFUSE;
    }
    follow::<F>(context, lead);
    GO_ON
}

#[inline(always)]
fn name<F: Family>(context: *mut bpf_sock_addr) -> i32 {
    if let Some(socket) = socket(context) {
        follow::<F>(context, local::name(&Maps, socket, &read::<F>(context)));
    }
    GO_ON
}

/// The socket's number, if it is of the daemon's network namespace.
#[inline(always)]
fn socket(context: *mut bpf_sock_addr) -> Option<u64> {
    let context = SockAddrContext::new(context);
    // SAFETY: the helpers take the context that the kernel passed.
    unsafe {
        let is_ours = bpf_get_netns_cookie(context.as_ptr()) == maps::NETNS_COOKIE.load();
        is_ours.then(|| bpf_get_socket_cookie(context.as_ptr()))
    }
}

#[inline(always)]
fn read<F: Family>(context: *mut bpf_sock_addr) -> SocketKey {
    // SAFETY: the kernel passes a valid context. It allows accesses of whole fields: volatile ones stay what they are.
    let (port, protocol) = unsafe {
        ((&raw const (*context).user_port).read_volatile(), (&raw const (*context).protocol).read_volatile())
    };
    SocketKey { address: F::read(context), port: Port::from_raw(port as u16), protocol: protocol as u16 }
}

#[inline(always)]
fn follow<F: Family>(context: *mut bpf_sock_addr, lead: Lead) {
    if lead.is_changed {
        F::write(context, &lead.address.address);
        // SAFETY: as in `read`.
        unsafe { (&raw mut (*context).user_port).write_volatile(u32::from(lead.address.port.raw())) }
    }
}

/// Where the address is. An IPv6 socket names IPv4 ones as IPv4-mapped, which is how we write them.
trait Family {
    fn read(context: *const bpf_sock_addr) -> Address;
    fn write(context: *mut bpf_sock_addr, address: &Address);
}

struct V4;

impl Family for V4 {
    #[inline(always)]
    fn read(context: *const bpf_sock_addr) -> Address {
        // SAFETY: as in `read`.
        Address::from_v4_raw(unsafe { (&raw const (*context).user_ip4).read_volatile() })
    }

    #[inline(always)]
    fn write(context: *mut bpf_sock_addr, address: &Address) {
        // SAFETY: as in `read`.
        unsafe { (&raw mut (*context).user_ip4).write_volatile(address.v4_raw()) }
    }
}

struct V6;

impl Family for V6 {
    #[inline(always)]
    fn read(context: *const bpf_sock_addr) -> Address {
        // SAFETY: as in `read`.
        Address::from_v6_raw(unsafe {
            [
                (&raw const (*context).user_ip6[0]).read_volatile(),
                (&raw const (*context).user_ip6[1]).read_volatile(),
                (&raw const (*context).user_ip6[2]).read_volatile(),
                (&raw const (*context).user_ip6[3]).read_volatile(),
            ]
        })
    }

    #[inline(always)]
    fn write(context: *mut bpf_sock_addr, address: &Address) {
        let [a, b, c, d] = address.words;
        // SAFETY: as in `read`.
        unsafe {
            (&raw mut (*context).user_ip6[0]).write_volatile(a);
            (&raw mut (*context).user_ip6[1]).write_volatile(b);
            (&raw mut (*context).user_ip6[2]).write_volatile(c);
            (&raw mut (*context).user_ip6[3]).write_volatile(d);
        }
    }
}

impl Sockets for Maps {
    #[inline(always)]
    fn peer(&self, key: &PeerKey) -> Option<Peer> {
        // SAFETY: plain bytes, copied at once.
        unsafe { maps::PEERS.get(key) }.copied()
    }

    #[inline(always)]
    fn remember_peer(&self, key: &PeerKey, peer: &Peer) {
        // Refused only while other CPUs take all free elements: the socket then sees the backend's address.
        let _ = maps::PEERS.insert(key, peer, 0);
    }

    #[inline(always)]
    fn forget_peer(&self, key: &PeerKey) {
        // Mostly there is none.
        let _ = maps::PEERS.remove(key);
    }

    #[inline(always)]
    fn count_local(&self, service: &Service, backend: BackendId) {
        count(maps::SERVICE_TRAFFIC.get_ptr_mut(service.id.index()));
        count(maps::BACKEND_TRAFFIC.get_ptr_mut(backend.index()));
    }
}

#[inline(always)]
fn count(traffic: Option<*mut Traffic>) {
    if let Some(traffic) = traffic {
        // SAFETY: this CPU's element, alive while the program runs. A packet that is counted between load and store
        // takes one of the two along; such a loss is rare and harmless.
        unsafe { (*traffic).new_flows += 1 }
    }
}
