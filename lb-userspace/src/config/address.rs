//! Addresses with ports, as services listen on them and backends are reached at them.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::problem::Fault;
use super::scalar::Scalar;

const WHAT: &str = "an address with a port in quotes, such as \"192.0.2.10:80\"";

/// A unicast address and a port: `192.0.2.10:80` or `[2001:db8::10]:80`.
pub(super) fn unicast(scalar: &Scalar<'_>) -> Result<SocketAddr, Fault> {
    parse(&scalar.text(WHAT)?)
}

/// A loopback address and a port.
pub(super) fn loopback(scalar: &Scalar<'_>) -> Result<SocketAddr, Fault> {
    let text = scalar.text(WHAT)?;
    let fault = |port: &str| {
        Fault::new(
            "is not a loopback address: without TLS the API is not served beyond this host, and TLS \
                    is not in this version yet",
        )
        .hint(format!("write \"127.0.0.1:{port}\" and reach it through ssh"))
    };
    match parse(&text) {
        Ok(address) if address.ip().is_loopback() => Ok(address),
        Ok(address) => Err(fault(&address.port().to_string())),
        // An unspecified address would be refused with a hint that is of no use here.
        Err(other) => Err(match text.parse::<SocketAddr>() {
            Ok(address) if address.port() != 0 => fault(&address.port().to_string()),
            _ => other,
        }),
    }
}

/// A unicast address without a port.
pub(super) fn host(scalar: &Scalar<'_>) -> Result<IpAddr, Fault> {
    const HINT: &str = "write it without a port, such as \"192.0.2.10\" or \"2001:db8::10\"";
    let text = scalar.text(HINT)?;
    let ip: IpAddr = text.parse().map_err(|_| Fault::new("is not an IP address").hint(HINT))?;
    // Whatever is wrong with the address is wrong with it at any port.
    parse(&SocketAddr::new(ip, 1).to_string())
        .map(|address| address.ip())
        .map_err(|fault| Fault::new(fault.reason).hint(HINT))
}

/// A port, 1 to 65535.
pub(super) fn port(scalar: &Scalar<'_>) -> Result<u16, Fault> {
    let port = scalar.integer(&(1..=u32::from(u16::MAX)))?;
    Ok(u16::try_from(port).unwrap_or(u16::MAX))
}

fn parse(text: &str) -> Result<SocketAddr, Fault> {
    if text.contains('%') {
        let fault = Fault::new("has a zone, and a zone means something on one host only");
        return Err(fault.hint("write a global or unique local address"));
    }
    judge(text.parse().map_err(|_| explain(text))?)
}

/// The address, where a service could listen on it or a backend be reached at it.
pub(super) fn judge(address: SocketAddr) -> Result<SocketAddr, Fault> {
    if address.port() == 0 {
        return Err(Fault::new("port 0 is not within 1 to 65535").hint("write the port after the colon"));
    }
    let reason = match address.ip() {
        IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => {
            let plain = SocketAddr::new(ip.to_canonical(), address.port());
            return Err(Fault::new("is an IPv4 address in IPv6 form").hint(format!("write \"{plain}\"")));
        }
        ip if ip.is_unspecified() => "is the unspecified address, which is nobody's own",
        ip if ip.is_multicast() => "is a multicast address",
        IpAddr::V4(ip) if ip.is_broadcast() => "is the broadcast address",
        IpAddr::V6(ip) if ip.is_unicast_link_local() => {
            return Err(Fault::new("is link-local, which means nothing without a zone")
                .hint("write a global or unique local address"));
        }
        _ => return Ok(address),
    };
    Err(Fault::new(reason).hint("write a unicast address, such as \"192.0.2.10:80\""))
}

/// Why a text is no address with a port.
fn explain(text: &str) -> Fault {
    let trimmed = text.trim();
    let (_, without_scheme) = trimmed.split_once("://").unwrap_or(("", trimmed));
    let tidy = without_scheme.trim_end_matches('/');
    if tidy != text && tidy.parse::<SocketAddr>().is_ok() {
        return Fault::new("has more than an address and a port").hint(format!("write \"{tidy}\""));
    }
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        let hint = match ip {
            IpAddr::V4(ip) => format!("write \"{ip}:80\" for port 80"),
            IpAddr::V6(ip) => format!("write \"[{ip}]:80\" for port 80"),
        };
        return Fault::new("has no port").hint(hint);
    }
    let Some((host, port)) = text.rsplit_once(':') else { return not_an_address(text) };
    if let Ok(ip) = host.parse::<Ipv6Addr>() {
        return Fault::new("an IPv6 address with a port has to stand in brackets")
            .hint(format!("write \"[{ip}]:{port}\""));
    }
    match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(_) if port.is_empty() => {
            Fault::new("has no port").hint(format!("write \"{host}:80\" for port 80"))
        }
        Ok(IpAddr::V4(ip)) if host.starts_with('[') => {
            Fault::new("only IPv6 addresses stand in brackets").hint(format!("write \"{ip}:{port}\""))
        }
        Ok(_) => Fault::new(format!("port {port:?} is not a number within 1 to 65535"))
            .hint("write the port after the colon"),
        Err(_) => not_an_address(host),
    }
}

fn not_an_address(host: &str) -> Fault {
    Fault::new(format!("{host:?} is not an IP address"))
        .hint("names are not looked up: write \"192.0.2.10:80\" or \"[2001:db8::10]:80\"")
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn addresses_are_taken_or_explained() {
        for good in ["192.0.2.10:80", "[2001:db8::1]:65535", "127.0.0.1:1", "169.254.1.1:80", "[fd00::1]:80"]
        {
            assert_eq!(parse(good).unwrap().to_string(), good);
        }
        for (bad, word) in [
            ("", "is not an IP address"),
            ("web:80", "is not an IP address"),
            ("010.0.0.1:80", "is not an IP address"),
            ("10.0.0.1", "has no port"),
            ("10.0.0.1:", "has no port"),
            ("2001:db8::1", "has no port"),
            ("[2001:db8::1]", "has no port"),
            ("2001:db8:0:0:0:0:0:1:80", "brackets"),
            ("[10.0.0.1]:80", "brackets"),
            ("10.0.0.1:0", "port 0"),
            ("10.0.0.1:65536", "\"65536\""),
            ("10.0.0.1:http", "\"http\""),
            ("http://10.0.0.1:80/", "more than"),
            (" 10.0.0.1:80", "more than"),
            ("0.0.0.0:80", "unspecified"),
            ("[::]:80", "unspecified"),
            ("224.0.0.1:80", "multicast"),
            ("[ff02::1]:80", "multicast"),
            ("255.255.255.255:80", "broadcast"),
            ("[::ffff:10.0.0.1]:80", "IPv6 form"),
            ("[fe80::1]:80", "link-local"),
            ("[fe80::1%2]:80", "zone"),
        ] {
            let fault = parse(bad).unwrap_err();
            assert!(fault.reason.contains(word), "{bad}: {}", fault.reason);
        }
    }
}
