//! The keys of health checks.

use hyper::Method;
use hyper::header::{HeaderName, HeaderValue};
use rustls::pki_types::ServerName;

use super::*;

#[test]
fn every_key_of_an_http_check_reaches_it() {
    let text = SMALL.to_owned()
        + r#"
        [pool.health]
        check = "http"
        method = "OPTIONS"
        host = "www.example.org:8080"
        path = "/a?b=%20"
        headers = { X-Probe = "1", Authorization = "Basic ${KEY}" }
        status = "200-299, 401"
        body = "fine"
        interval = "300ms"
        fast_interval = "100ms"
        jitter = 0
        timeout = "200ms"
        rise = 1
        fall = 1000
        address = "2001:db8::1"
        port = 8081
        source = "192.0.2.9"
        "#;
    let config = parse_with(&text, &[("KEY", "c2VjcmV0")]).unwrap_or_else(|p| panic!("{}", messages(&p)));
    let headers = [("x-probe", "1"), ("authorization", "Basic c2VjcmV0")];
    let headers =
        headers.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
    let http = Http {
        method: Method::OPTIONS,
        host: Some("www.example.org:8080".to_owned()),
        path: "/a?b=%20".to_owned(),
        headers: headers.into_iter().collect(),
        status: vec![200..=299, 401..=401],
        body: Some("fine".to_owned()),
        tls: None,
    };
    let health = Health {
        check: Check::Http(Arc::new(http)),
        interval: Duration::from_millis(300),
        fast_interval: Duration::from_millis(100),
        jitter: 0,
        timeout: Duration::from_millis(200),
        rise: 1,
        fall: 1000,
        address: Some("2001:db8::1".parse().unwrap()),
        port: Some(8081),
        source: Some("192.0.2.9".parse().unwrap()),
        agent: None,
    };
    assert_eq!(config.pools[0].health, health);
    // What a header says may be secret.
    let printed = format!("{config:?}");
    assert!(!printed.contains("c2VjcmV0"), "{printed}");
    let told = config::changes(&parse(SMALL).unwrap(), &config).join("\n");
    assert!(told.contains("health.port the backend's -> 8081") && !told.contains("c2VjcmV0"), "{told}");
}

#[test]
fn every_kind_of_check_has_its_keys() {
    let check = |keys: &str| {
        let text = format!("{SMALL}[pool.health]\n{keys}");
        let config = parse(&text).unwrap_or_else(|problems| panic!("{keys}\n{}", messages(&problems)));
        config.pools[0].health.check.clone()
    };
    let (send, expect) = (b"ping".to_vec(), Some(vec![0, 0xab]));
    let udp = "check = \"udp\"\nsend = \"ping\"\nexpect = \"hex:00Ab\"";
    assert_eq!(check(udp), Check::Udp(Arc::new(Udp { send, expect })));
    let (program, arguments) = ("/bin/check".into(), vec!["-x".to_owned(), String::new()]);
    let exec = "check = \"exec\"\ncommand = [\"/bin/check\", \"-x\", \"\"]";
    assert_eq!(check(exec), Check::Exec(Arc::new(Exec { program, arguments })));
    let agent = |send: &[u8]| Check::Agent(Arc::new(Agent { send: send.to_vec() }));
    assert_eq!(check("check = \"agent\"\nport = 9777"), agent(b""));
    assert_eq!(check("check = \"agent\"\nport = 9777\nsend = \"hex:0a\""), agent(b"\n"));
    let plain = Grpc { service: String::new(), host: None, tls: None };
    assert_eq!(check("check = \"grpc\""), Check::Grpc(Arc::new(plain)));
    let tls = "check = \"grpcs\"\nservice = \"a.B\"\nhost = \"a.example:443\"\nverify = false";
    let name = ServerName::try_from("a.example").unwrap();
    let encrypted = Grpc {
        service: "a.B".to_owned(),
        host: Some("a.example:443".to_owned()),
        tls: Some(Tls::new(Trust::Anyone, Some(name), &[b"h2"]).unwrap()),
    };
    assert_eq!(check(tls), Check::Grpc(Arc::new(encrypted)));
}

#[test]
fn an_agent_is_asked_beside_a_check() {
    let health = |keys: &str| {
        let text = format!("{SMALL}[pool.health]\ninterval = \"300ms\"\nsource = \"192.0.2.9\"\n{keys}");
        let config = parse(&text).unwrap_or_else(|problems| panic!("{keys}\n{}", messages(&problems)));
        (config::changes(&parse(SMALL).unwrap(), &config).join("\n"), config.pools[0].health.clone())
    };
    let (told, usual) = health("check = \"none\"\n[pool.health.agent]\nport = 9777");
    let of_check = Duration::from_millis(300);
    let expected = Health {
        check: Check::Agent(Arc::default()),
        interval: of_check,
        fast_interval: of_check,
        jitter: 10,
        timeout: of_check,
        rise: 1,
        fall: 1,
        address: None,
        port: Some(9777),
        source: Some("192.0.2.9".parse().unwrap()),
        agent: None,
    };
    assert_eq!((&usual.check, usual.agent.as_deref()), (&Check::None, Some(&expected)));
    assert!(told.contains("health.agent none -> port 9777 of the backend, every 300ms"), "{told}");
    let keys = "port = 1\nsend = \"state\"\ninterval = \"5s\"\ntimeout = \"2s\"\naddress = \"2001:db8::1\"";
    let (_, own) = health(&format!("[pool.health.agent]\n{keys}"));
    let own = own.agent.unwrap();
    assert_eq!(own.check, Check::Agent(Arc::new(Agent { send: b"state".to_vec() })));
    assert_eq!((own.interval, own.timeout), (Duration::from_secs(5), Duration::from_secs(2)));
    assert_eq!(own.address, Some("2001:db8::1".parse().unwrap()));
}

#[test]
fn a_check_with_tls_verifies_the_name_of_its_host() {
    let name = |name: &str| ServerName::try_from(name.to_owned()).unwrap();
    let https = |more: &str| {
        let text = format!("{SMALL}[pool.health]\ncheck = \"https\"\n{more}");
        let config = parse(&text).unwrap_or_else(|problems| panic!("{}", messages(&problems)));
        let Check::Http(http) = &config.pools[0].health.check else { panic!("an HTTP check") };
        let tls = http.tls.as_ref().unwrap();
        (tls.trust().clone(), tls.server_name().cloned())
    };
    let unverified = |more: &str| {
        let (trust, name) = https(&format!("verify = false\n{more}"));
        assert_eq!(trust, Trust::Anyone);
        name
    };
    assert_eq!(unverified(""), None);
    assert_eq!(unverified("host = \"www.example.org:8443\""), Some(name("www.example.org")));
    assert_eq!(unverified("host = \"[2001:db8::1]:8443\""), Some(name("2001:db8::1")));
    assert_eq!(unverified("host = \"a.example\"\nsni = \"b.example\""), Some(name("b.example")));

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.pem");
    let authorities = ["a.example", "b.example"]
        .map(|name| rcgen::generate_simple_self_signed([name.to_owned()]).unwrap().cert);
    fs::write(&file, authorities.each_ref().map(|authority| authority.pem()).concat()).unwrap();
    let (trust, _) = https(&format!("ca_file = {file:?}"));
    let certificates = authorities.map(|authority| authority.der().clone()).to_vec();
    assert_eq!(trust, Trust::Authorities { file, certificates });
}
