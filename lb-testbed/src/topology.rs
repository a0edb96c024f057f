//! Client - balancer - backends, each a namespace, joined by veth pairs.
//!
//! The balancer is the router between all of them: link 0 leads to the client, link `i` to backend `i`, with
//! 10.201.i.0/24 and fd00:201:i::/64 on it, the balancer at .1 and the host at .2. VIPs (10.200.0.10,
//! fd00:200::10) are nobody's address: the client's default route brings them to the balancer, as an upstream
//! router would. The balancer's own default route leads to the client.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use aya::programs::links::FdLink;
use aya::programs::{Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use lb_common::names;

use crate::eventually::eventually;
use crate::namespace::Namespace;
use crate::object;

/// The VIP of tests, IPv4.
pub const VIP4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 200, 0, 10));
/// The VIP of tests, IPv6.
pub const VIP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x200, 0, 0, 0, 0, 0, 0x10));

/// The interface of every host.
pub const HOST_INTERFACE: &str = "eth0";

/// A new link answers within this.
const REACH: Duration = Duration::from_secs(5);

/// What is not the same in every test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Backends, 1 to 200.
    pub backends: u8,
    /// Of every link.
    pub mtu: u32,
    /// Whether hosts leave checksums and segmentation to the device; `false` as on a wire, and what native XDP
    /// on the balancer needs.
    pub offloads: bool,
    /// Attaches an XDP program that passes everything to the hosts' ends: what native XDP on the balancer
    /// needs to send frames there. Takes the kernel object.
    pub pass: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { backends: 3, mtu: 1500, offloads: true, pass: false }
    }
}

impl Options {
    /// As native XDP on the balancer's veth ends needs it.
    pub fn xdp() -> Self {
        Self { offloads: false, pass: true, ..Self::default() }
    }
}

/// A client or a backend.
#[derive(Debug)]
pub struct Host {
    /// Where it lives.
    pub namespace: Arc<Namespace>,
    /// The balancer's interface to it.
    pub link: String,
    number: u8,
}

impl Host {
    /// Its IPv4 address.
    pub fn ipv4(&self) -> IpAddr {
        Ipv4Addr::new(10, 201, self.number, 2).into()
    }

    /// Its IPv6 address.
    pub fn ipv6(&self) -> IpAddr {
        Ipv6Addr::new(0xfd00, 0x201, self.number.into(), 0, 0, 0, 0, 2).into()
    }

    /// Its address of the family of `like`, with a port.
    pub fn socket(&self, like: IpAddr, port: u16) -> SocketAddr {
        SocketAddr::new(if like.is_ipv6() { self.ipv6() } else { self.ipv4() }, port)
    }

    /// Takes its link down, as if it had lost power: the balancer loses the carrier, the host all routes.
    ///
    /// # Errors
    /// `ip` fails.
    pub fn cut(&self) -> anyhow::Result<()> {
        self.namespace.ip(&format!("link set {HOST_INTERFACE} down")).map(drop)
    }

    /// Brings its link up again, with addresses and routes.
    ///
    /// # Errors
    /// `ip` fails.
    pub fn mend(&self) -> anyhow::Result<()> {
        let number = self.number;
        self.namespace.ip_batch(&[
            format!("link set {HOST_INTERFACE} up"),
            format!("address replace 10.201.{number}.2/24 dev {HOST_INTERFACE}"),
            format!("address replace fd00:201:{number:x}::2/64 dev {HOST_INTERFACE} nodad"),
            format!("route replace default via 10.201.{number}.1"),
            format!("route replace default via fd00:201:{number:x}::1"),
        ])
    }
}

/// All of it; gone on drop.
#[derive(Debug)]
pub struct Topology {
    /// The one client.
    pub client: Host,
    /// The balancer.
    pub lb: Arc<Namespace>,
    /// In order.
    pub backends: Vec<Host>,
    /// Their programs live as long as these.
    pass: Vec<FdLink>,
}

impl Topology {
    /// Makes it; every host can reach every other when this returns.
    ///
    /// # Errors
    /// No rights, no `ip` or `ethtool`, or (with `pass`) no kernel object.
    pub fn new(options: Options) -> anyhow::Result<Self> {
        let lb = Arc::new(Namespace::new("lb")?);
        lb.sysctl("net/ipv4/ip_forward", "1")?;
        lb.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        let client = join(&lb, "client", 0, options)?;
        // Thousands of short connections must not run out of ports; a proxy opens as many as all clients together.
        for opener in [&client.namespace, &lb] {
            opener.sysctl("net/ipv4/ip_local_port_range", "1024 65535")?;
            opener.sysctl("net/ipv4/tcp_tw_reuse", "1")?;
        }
        lb.ip_batch(&[
            "route add default via 10.201.0.2".to_owned(),
            "route add default via fd00:201:0::2".to_owned(),
        ])?;
        let backends = (1..=options.backends)
            .map(|number| join(&lb, &format!("backend{number}"), number, options))
            .collect::<anyhow::Result<Vec<_>>>()?;
        for host in std::iter::once(&client).chain(&backends) {
            reach(host)?;
        }
        let pass =
            if options.pass { attach_pass(std::iter::once(&client).chain(&backends))? } else { Vec::new() };
        Ok(Self { client, lb, backends, pass })
    }

    /// Leaves all of it as it is, also after the end of this process. Its programs are pinned in `directory`,
    /// which is in a bpffs.
    ///
    /// # Errors
    /// A program cannot be pinned; then all of it is gone.
    pub fn leave(mut self, directory: &Path) -> anyhow::Result<()> {
        for (number, link) in self.pass.drain(..).enumerate() {
            link.pin(directory.join(format!("pass{number}"))).context("pinning the passing program")?;
        }
        std::mem::forget(self);
        Ok(())
    }
}

/// Makes a host and the link to it.
fn join(lb: &Namespace, name: &str, number: u8, options: Options) -> anyhow::Result<Host> {
    let namespace = Arc::new(Namespace::new(name)?);
    let mtu = options.mtu;
    lb.ip_batch(&[
        format!(
            "link add {name} mtu {mtu} type veth peer name {HOST_INTERFACE} mtu {mtu} netns {}",
            namespace.name()
        ),
        format!("address add 10.201.{number}.1/24 dev {name}"),
        format!("address add fd00:201:{number:x}::1/64 dev {name} nodad"),
        format!("link set {name} up"),
    ])?;
    if !options.offloads {
        // Turning off checksums turns off segmentation, which needs them.
        namespace.output(Command::new("ethtool").args(["-K", HOST_INTERFACE, "tx", "off"]))?;
    }
    let host = Host { namespace, link: name.to_owned(), number };
    host.mend()?;
    Ok(host)
}

/// Waits until the balancer answers the host; then both know each other's MAC address.
fn reach(host: &Host) -> anyhow::Result<()> {
    let number = host.number;
    let balancer: [IpAddr; 2] = [
        Ipv4Addr::new(10, 201, number, 1).into(),
        Ipv6Addr::new(0xfd00, 0x201, number.into(), 0, 0, 0, 0, 1).into(),
    ];
    for ip in balancer {
        eventually(&format!("{ip} answers"), REACH, || {
            // Nobody listens there: that it is refused is the answer.
            let socket = SocketAddr::new(ip, 1);
            let refused = host.namespace.run(|| TcpStream::connect_timeout(&socket, REACH))?;
            Ok(refused.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused).then_some(()))
        })?;
    }
    Ok(())
}

fn attach_pass<'a>(hosts: impl Iterator<Item = &'a Host>) -> anyhow::Result<Vec<FdLink>> {
    let object = object::bytes()?;
    let mut loader = EbpfLoader::new();
    // The program uses no map: the object's need not have their real size.
    for map in names::MAPS {
        loader.map_max_entries(map, 1);
    }
    let mut ebpf = loader.load(&object).context("loading the kernel object")?;
    let program = pass_program(&mut ebpf)?;
    program.load()?;
    hosts
        .map(|host| {
            let link = host.namespace.run(|| program.attach(HOST_INTERFACE, XdpMode::Driver))?;
            let link = program.take_link(link.context("attaching the passing program")?)?;
            Ok(FdLink::try_from(link)?)
        })
        .collect()
}

fn pass_program(ebpf: &mut Ebpf) -> anyhow::Result<&mut Xdp> {
    let program =
        ebpf.program_mut(names::PROGRAM_PASS).context("the kernel object has no passing program")?;
    Ok(program.try_into()?)
}
